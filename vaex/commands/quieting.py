"""What Lightning and others say and a user can do nothing about."""

from __future__ import annotations

import logging
import warnings


def quiet() -> None:
    """Silence what a user can do nothing about: Lightning's tips, device lists, worker advice; large images."""
    for name in ("lightning.pytorch.utilities.rank_zero", "lightning.pytorch.accelerators.cuda"):
        logging.getLogger(name).setLevel(logging.WARNING)
    for pattern in (
        ".*does not have many workers.*",
        ".*number of training batches.*smaller than the logging interval.*",
        ".*GPU available but not used.*",
        ".*module\\(s\\) in eval mode at the start of training.*",  # frozen backbones are meant to be
        ".*Checkpoint directory.*exists and is not empty.*",
        ".*isinstance\\(treespec, LeafSpec\\).*",
        ".*litlogger.*",
        ".*could be decompression bomb DOS attack.*",  # they are read; twice as large ones are refused in a sentence
    ):
        warnings.filterwarnings("ignore", message=pattern)
