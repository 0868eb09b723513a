"""A measure that is NaN is explained where it compares normal with anomalous, and nothing else is."""

from __future__ import annotations

import math

import pytest

from vaex.reporting.undefined import undefined_sentence


@pytest.mark.parametrize(
    "name", ["image_auroc", "image_ap_padim", "aupro_005_attention", "pixel_auroc_kl/synthetic_flat"]
)
def test_what_compares_is_explained(name: str) -> None:
    assert undefined_sentence({"loss": 1.0, name: math.nan}).startswith("nan stands where only normal or only")
    assert not undefined_sentence({"loss": 1.0, name: 0.5})


def test_other_numbers_are_not() -> None:
    assert not undefined_sentence({"loss": math.nan, "iwae_bound": math.nan})
