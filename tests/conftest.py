"""Fixtures that every test may use."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")
os.environ.setdefault("WANDB_MODE", "offline")


@pytest.fixture(scope="session")
def vaex_data() -> Path:
    """Folder of the real data sets, named by VAEX_DATA."""
    folder = os.environ.get("VAEX_DATA")
    if not folder:
        pytest.skip("real data needed: set VAEX_DATA to a folder with MNIST/raw, dsprites/ ...")
    path = Path(folder)
    if not path.is_dir():
        pytest.fail(f"VAEX_DATA names {path}, which is not a folder")
    return path
