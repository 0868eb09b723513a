"""What the processes of a training agree on: that a loss is finite, also in validations of unequal shares."""

from __future__ import annotations

import lightning.pytorch as pl
import torch
from lightning.pytorch.trainer.states import TrainerFn
from torch import Tensor

from vaex.errors import VaexError


class AgreeingModule(pl.LightningModule):
    """A LightningModule whose processes stop together when a loss is not finite, and wait for each other in vain never.

    Of validation batches processes may have different numbers, so nothing is exchanged batch by batch.
    """

    def __init__(self) -> None:
        super().__init__()
        self._not_finite: tuple[Tensor, int] | None = None  # loss and batch of the validation under way

    def check_finite(self, name: str, total: Tensor | None, batch_idx: int) -> None:
        """Stop in all processes where the loss ``total`` of one of them is not finite; None stands for a finite one.

        One that stopped alone would leave the others waiting for its gradients.

        Raises:
            VaexError: when one is not.
        """
        own = total is None or bool(torch.isfinite(total))
        if not self.trainer.strategy.reduce_boolean_decision(own, all=True):
            found = "not finite in another process" if total is None or own else total.item()
            raise VaexError(
                f"The {name} is {found} at step {self.global_step} (epoch {self.current_epoch}, "
                f"batch {batch_idx}): training stops and the last good checkpoint is kept; lower optim.lr, set "
                "trainer.gradient_clip_val, or check the images for NaN."
            )

    def note_validation_loss(self, total: Tensor, batch_idx: int) -> None:
        """Remember the first validation loss that is not finite; a single process is told at once."""
        if self._not_finite is None and not bool(torch.isfinite(total)):
            self._not_finite = total, batch_idx
            if self.trainer.world_size == 1:
                self.on_validation_epoch_end()

    def on_validation_epoch_end(self) -> None:
        """Stop where a loss was not finite, before a checkpoint of these weights counts as the best."""
        (found, batch_idx), self._not_finite = self._not_finite or (None, 0), None
        if self.trainer.state.fn == TrainerFn.FITTING:
            self.check_finite("validation loss", found, batch_idx)
