"""A loader whose order is a pure function of seed and epoch, and whose position can be saved and restored."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch.utils.data import DataLoader, DistributedSampler, default_collate

from vaex.types import Batch


class ResumableSampler(DistributedSampler[int]):
    """Indices of one process: shuffled by (seed, epoch) for training, in order without padding for evaluation.

    Under several processes every rank takes each ``world_size``-th index. Training ranks get equally many
    (the remainder of at most ``world_size - 1`` images is left out of the epoch); evaluation ranks see each
    image exactly once, so their numbers may differ by one image. Lightning leaves a DistributedSampler in place
    and tells it the epoch by ``set_epoch``; without that, every `begin` starts the next epoch. A dataset that
    ``counts_epochs`` is told the epoch in training: index ``i`` comes as ``i + (epoch + 1) * length``.
    """

    def __init__(self, dataset: Any, shuffle: bool, seed: int = 0, rank: int = 0, world_size: int = 1) -> None:
        super().__init__(dataset, num_replicas=world_size, rank=rank, shuffle=shuffle, seed=seed)
        self.length = len(dataset)
        self.counts_epochs = bool(getattr(dataset, "counts_epochs", False))
        self.skip = 0  # images of this epoch to leave out, because they were seen before a resume
        self._begun = False
        self._resumed: tuple[int, int] | None = None

    def set_epoch(self, epoch: int) -> None:
        """Make ``epoch`` the one that `begin` starts."""
        self.epoch, self._begun = epoch, False

    def resume(self, epoch: int, skip: int) -> None:
        """Make ``epoch`` the one that `begin` starts, behind its first ``skip`` images.

        A later ``set_epoch`` of another epoch starts that one from its first image.
        """
        self.set_epoch(epoch)
        self._resumed = (epoch, skip)

    def begin(self) -> int:
        """Start an epoch and return how many of its images are left out."""
        if self._begun:
            self.epoch += 1
        epoch, skip = self._resumed or (self.epoch, 0)
        self._begun, self._resumed = True, None
        self.skip = skip if epoch == self.epoch else 0
        return self.skip

    def _order(self) -> list[int]:
        if not self.shuffle:
            return list(range(self.rank, self.length, self.num_replicas))
        generator = torch.Generator().manual_seed(self.seed * 1_000_003 + self.epoch)
        order: list[int] = torch.randperm(self.length, generator=generator).tolist()
        return order[self.rank : self.length - self.length % self.num_replicas : self.num_replicas]

    def __len__(self) -> int:
        """Images of this rank in a whole epoch, those before a resume included."""
        if self.shuffle:
            return self.length // self.num_replicas
        return len(range(self.rank, self.length, self.num_replicas))

    def __iter__(self) -> Iterator[int]:
        # What a dataset changes anew every epoch must depend on the epoch and not on who loads it, nor how often
        start = (self.epoch + 1) * self.length if self.shuffle and self.counts_epochs else 0
        return (start + index for index in self._order()[self.skip :])


def is_batch(batch: Batch) -> Batch:
    """Pass on what `__getitems__` returned: it is a batch already (a module-level name, so workers can pickle it)."""
    return batch


class ResumableLoader(DataLoader[Any]):
    """A DataLoader that remembers how many batches of which epoch it has handed out.

    Lightning saves and restores ``state_dict`` with the checkpoint, so training resumed in the middle of an
    epoch sees exactly the batches that are left of it. Every other iteration starts at the first batch, also after
    one that was left early. A ``sampler`` or ``batch_sampler`` of one's own (Lightning injects some) takes the
    place of `ResumableSampler` and is iterated as it is.
    """

    def __init__(
        self,
        dataset: Any,
        batch_size: int = 1,
        shuffle: bool = False,
        drop_last: bool = False,
        seed: int = 0,
        rank: int = 0,
        world_size: int = 1,
        sampler: Any = None,
        batch_sampler: Any = None,
        **options: Any,
    ) -> None:
        options = {"collate_fn": is_batch, "persistent_workers": options.get("num_workers", 0) > 0, **options}
        if batch_sampler is not None:
            super().__init__(dataset, batch_sampler=batch_sampler, **options)
        else:
            if sampler is None:
                sampler = ResumableSampler(dataset, shuffle, seed, rank, world_size)
            super().__init__(dataset, batch_size, sampler=sampler, drop_last=drop_last, **options)
        self.handed_out = 0

    def __iter__(self) -> Iterator[Any]:  # type: ignore[override] # a generator does what DataLoader's iterator does
        # The body runs at the first `next`, after Lightning has restored the state and told the epoch
        self.handed_out = 0
        if isinstance(self.sampler, ResumableSampler):
            self.handed_out = self.sampler.begin() // (self.batch_size or 1)
        for batch in super().__iter__():
            self.handed_out += 1
            yield batch

    def state_dict(self) -> dict[str, int]:
        """Epoch and number of batches handed out in it."""
        return {"epoch": getattr(self.sampler, "epoch", 0), "handed_out": self.handed_out}

    def load_state_dict(self, state: dict[str, int]) -> None:
        """Continue behind the batches that ``state`` counts."""
        epoch, self.handed_out = state["epoch"], state["handed_out"]
        if isinstance(self.sampler, ResumableSampler):
            whole = self.handed_out >= len(self)
            self.sampler.resume(epoch + whole, 0 if whole else self.handed_out * (self.batch_size or 1))


def spread_batches(dataset: Any, count: int, batch: int) -> Iterator[Any]:
    """Yield ``count`` items in batches, evenly over the whole dataset, which may come sorted by kind."""
    total = len(dataset)
    positions = sorted({round(place) for place in torch.linspace(0, total - 1, min(count, total)).tolist()})
    for start in range(0, len(positions), batch):
        some = positions[start : start + batch]
        if hasattr(dataset, "__getitems__"):
            items = dataset.__getitems__(some)
        else:
            items = [dataset[position] for position in some]
        yield items if isinstance(items, dict) else default_collate(items)
