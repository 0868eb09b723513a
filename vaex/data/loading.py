"""A loader whose order is a pure function of seed and epoch, and whose position can be saved and restored."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch.utils.data import DataLoader, Sampler

from vaex.types import Batch


class ResumableSampler(Sampler[list[int]]):
    """Batches of indices: shuffled by (seed, epoch) for training, in order without padding for evaluation.

    Under several processes every rank takes each ``world_size``-th index. Training ranks get equally many
    (the remainder of at most ``world_size - 1`` images is left out of the epoch); evaluation ranks see each
    image exactly once, so their numbers may differ by one image.
    """

    def __init__(
        self,
        length: int,
        batch_size: int,
        shuffle: bool,
        drop_last: bool = False,
        seed: int = 0,
        rank: int = 0,
        world_size: int = 1,
    ) -> None:
        self.length, self.batch_size, self.shuffle, self.drop_last = length, batch_size, shuffle, drop_last
        self.seed, self.rank, self.world_size = seed, rank, world_size
        self.epoch = 0
        self.offset = 0  # batches of this epoch to leave out, because they were seen before a resume

    def _indices(self) -> torch.Tensor:
        if not self.shuffle:
            return torch.arange(self.rank, self.length, self.world_size)
        generator = torch.Generator().manual_seed(self.seed * 1_000_003 + self.epoch)
        order = torch.randperm(self.length, generator=generator)
        even = self.length - self.length % self.world_size
        return order[self.rank : even : self.world_size]

    def __len__(self) -> int:
        count = len(range(self.rank, self.length, self.world_size))
        if self.shuffle:
            count = self.length // self.world_size
        return count // self.batch_size if self.drop_last else -(-count // self.batch_size)

    def __iter__(self) -> Iterator[list[int]]:
        batches = self._indices().split(self.batch_size)
        for number in range(self.offset, len(self)):
            yield batches[number].tolist()


def is_batch(batch: Batch) -> Batch:
    """Pass on what `__getitems__` returned: it is a batch already (a module-level name, so workers can pickle it)."""
    return batch


class ResumableLoader(DataLoader[Any]):
    """A DataLoader that remembers how many batches of which epoch it has handed out.

    Lightning saves and restores ``state_dict`` with the checkpoint, so training resumed in the middle of an
    epoch sees exactly the batches that are left of it.
    """

    def __init__(
        self,
        dataset: Any,
        batch_size: int,
        shuffle: bool = False,
        drop_last: bool = False,
        seed: int = 0,
        rank: int = 0,
        world_size: int = 1,
        **options: Any,
    ) -> None:
        sampler = ResumableSampler(len(dataset), batch_size, shuffle, drop_last, seed, rank, world_size)
        workers = options.get("num_workers", 0) > 0
        super().__init__(
            dataset, batch_sampler=sampler, collate_fn=is_batch, persistent_workers=workers, **options
        )
        self.order = sampler
        self.epoch = 0
        self.handed_out = 0

    def __iter__(self) -> Iterator[Any]:
        if self.handed_out >= len(self.order):
            self.epoch, self.handed_out = self.epoch + 1, 0
        self.order.epoch, self.order.offset = self.epoch, self.handed_out
        for batch in super().__iter__():
            self.handed_out += 1
            yield batch

    def state_dict(self) -> dict[str, int]:
        """Epoch and number of batches handed out in it."""
        return {"epoch": self.epoch, "handed_out": self.handed_out}

    def load_state_dict(self, state: dict[str, int]) -> None:
        """Continue behind the batches that ``state`` counts."""
        self.epoch, self.handed_out = state["epoch"], state["handed_out"]
