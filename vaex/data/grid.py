"""What data sets share whose images are all combinations of known factors: the grid, its splits and their batches."""

from __future__ import annotations

import copy
import hashlib
import json
from typing import Any, Self

import numpy as np
import torch
from numpy.typing import NDArray

from vaex.data.factors import FactorGrid
from vaex.data.module import ImageDataModule
from vaex.errors import VaexError
from vaex.types import Batch


class GridSet:
    """Images at some positions of a grid; an image is the same in every worker, epoch and split."""

    def __init__(self, grid: FactorGrid) -> None:
        self.grid = grid
        self.positions: NDArray[np.int64] = np.arange(len(grid))
        self._varying = grid.varying()

    def __len__(self) -> int:
        return len(self.positions)

    def subset(self, positions: NDArray[np.int64]) -> Self:
        """Return the set of the images at ``positions`` (N,) of the grid; what holds the images is shared."""
        part = copy.copy(self)
        part.positions = positions
        return part

    def gather(self, positions: NDArray[np.int64]) -> Batch:
        """Gather image (B, C, H, W), and mask (B, 1, H, W) where there is one, at ``positions`` (B,) of the grid."""
        raise NotImplementedError

    def __getitems__(self, indices: list[int]) -> Batch:
        """Gather what `gather` gives, factors (B, F) and index (B,), the position in the grid."""
        positions = self.positions[indices]
        batch = self.gather(positions)
        batch["factors"] = torch.from_numpy(self._varying.known_classes(positions))
        batch["index"] = torch.from_numpy(positions)
        return batch


class GridImages(ImageDataModule):
    """A data module over all combinations of factors: ``val`` and ``test`` images at random, ``train`` of the others.

    A subclass sets ``grid_set``, all images in order, in its constructor or in ``setup`` before it calls this one's.
    Constant factors (of one value) are left out of ``factor_grid``, ``factor_names``, ``factor_sizes`` and of the
    ``factors`` of a batch. ``train`` None means all that are not held out.

    Raises:
        VaexError: when a number is out of range, or the splits ask for more images than the grid has.
    """

    train_set: GridSet
    val_set: GridSet
    test_set: GridSet

    TEST_KEYS = ("test",)
    grid_set: GridSet

    def __init__(
        self,
        grid: FactorGrid,
        shape: tuple[int, int, int],
        train: int | None,
        val: int,
        test: int,
        batch_size: int,
        eval_batch_size: int | None,
        num_workers: int,
        pin_memory: bool,
        drop_last: bool,
        seed: int,
    ) -> None:
        _check_counts(seed=seed, val=val, test=test, train=0 if train is None else train)
        super().__init__(shape, batch_size, eval_batch_size, num_workers, pin_memory, drop_last, seed)
        self.full_grid, self.factor_grid = grid, grid.varying()
        self.factor_names, self.factor_sizes = self.factor_grid.names, self.factor_grid.sizes
        self.splits = _split_sizes(len(grid), train, val, test)

    def setup(self, stage: str | None = None) -> None:
        """Take the three disjoint splits from the grid."""
        order = np.random.default_rng((self.seed, 1)).permutation(len(self.full_grid))
        train, val, test = self.splits
        self.test_set = self.grid_set.subset(order[:test])
        self.val_set = self.grid_set.subset(order[test : test + val])
        self.train_set = self.grid_set.subset(order[test + val : test + val + train])

    def _digest(self, **settings: Any) -> str:
        """SHA-256 of ``settings``, the splits and their seed."""
        settings |= {"splits": self.splits, "seed": self.seed}
        return hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()


def _check_counts(**counts: Any) -> None:
    for name, value in counts.items():
        if not isinstance(value, int) or isinstance(value, bool) or value < 0:
            raise VaexError(f"data.{name} must be a whole number of at least 0, got {value!r}.")


def _split_sizes(total: int, train: int | None, val: int, test: int) -> tuple[int, int, int]:
    asked = (train or 0) + val + test
    if asked > total or (train is None and asked == total):
        least = "" if train is not None else ", and training needs at least one more"
        raise VaexError(
            f"data.train, data.val and data.test ask for {asked} images{least}, but the grid has {total}; "
            "lower data.val and data.test, or enlarge data.grid."
        )
    return (total - asked if train is None else train), val, test
