"""A look, before the first step, at the test that stands at the end of a training."""

from __future__ import annotations

from typing import Any

import lightning.pytorch as pl

from vaex.data.module import ImageDataModule
from vaex.errors import VaexError


class LoaderCheck(pl.Callback):
    """Make the loader of the test images once before the training, so that a test without any is told then.

    Raises:
        VaexError: there; ``test=false`` is the way without.
    """

    def on_fit_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Look; data modules of one's own, which may be slow to open, are left alone."""
        data: Any = getattr(trainer, "datamodule", None)
        if not isinstance(data, ImageDataModule):
            return
        try:
            data.test_dataloader()
        except VaexError as error:
            raise VaexError(f"{error} Or train without a test: test=false.") from None
