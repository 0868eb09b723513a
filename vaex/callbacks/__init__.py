"""Lightning callbacks that work on any LightningModule and a plain Trainer."""

from vaex.callbacks.attention import Attention
from vaex.callbacks.best import BestCheckpoint
from vaex.callbacks.disentanglement import Disentanglement
from vaex.callbacks.last import LastCheckpoint

__all__ = ["Attention", "BestCheckpoint", "Disentanglement", "LastCheckpoint"]
