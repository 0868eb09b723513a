"""Whether a training ends where it stands."""

from __future__ import annotations

import lightning.pytorch as pl


def training_ends(trainer: pl.Trainer) -> bool:
    """Tell whether no step follows: ``max_steps`` or the last epoch is done, or something stops the training.

    ``should_stop`` counts (early stopping, ``max_time``), once ``min_epochs`` and ``min_steps`` are done. A callback
    that comes later, or that Lightning calls last, may still set it: what must not be missed waits for
    ``on_train_end``.
    """
    steps = trainer.max_steps != -1 and trainer.global_step >= trainer.max_steps
    epochs = trainer.is_last_batch and trainer.current_epoch + 1 == trainer.max_epochs
    return steps or epochs or (trainer.should_stop and trainer.fit_loop._can_stop_early)
