"""Why a measure is NaN: what compares normal with anomalous images or pixels needs both."""

from __future__ import annotations

import math
from collections.abc import Mapping

from vaex.reporting.scores import MEASURES


def undefined_sentence(values: Mapping[str, float]) -> str:
    """Return in words why measures of a test, by name, are NaN; empty where none that compares is."""
    if not any(math.isnan(value) and name.startswith(MEASURES) for name, value in values.items()):
        return ""
    return (
        "nan stands where only normal or only anomalous images or pixels were seen: AUROC and its like need both, such "
        "as defective images of a test with their masks, or data.synthetic=true for those held out."
    )
