"""Lightning callbacks that work on any LightningModule and a plain Trainer."""

from vaex.callbacks.attention import Attention
from vaex.callbacks.best import BestCheckpoint
from vaex.callbacks.bound import ImportanceBound
from vaex.callbacks.disentanglement import Disentanglement
from vaex.callbacks.last import LastCheckpoint
from vaex.callbacks.latents import Latents
from vaex.callbacks.progress import ProgressBar
from vaex.callbacks.throughput import Throughput
from vaex.callbacks.traversal import Traversal

__all__ = [
    "Attention",
    "BestCheckpoint",
    "Disentanglement",
    "ImportanceBound",
    "LastCheckpoint",
    "Latents",
    "ProgressBar",
    "Throughput",
    "Traversal",
]
