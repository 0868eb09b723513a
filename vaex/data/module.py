"""The LightningDataModule that every vaex dataset shares: three splits and loaders that can resume."""

from __future__ import annotations

from typing import Any, Protocol

import lightning.pytorch as pl
from lightning.pytorch.trainer.states import TrainerFn
from torch.utils.data import DataLoader

from vaex.data.loading import ResumableLoader
from vaex.errors import VaexError
from vaex.types import Batch


class BatchedDataset(Protocol):
    """A dataset that gathers a whole batch at once, which is many times faster than item by item."""

    def __len__(self) -> int: ...

    def __getitems__(self, indices: list[int]) -> Batch: ...


class ImageDataModule(pl.LightningDataModule):
    """Three `BatchedDataset` splits behind loaders with a fixed order and a resumable position.

    A subclass sets ``train_set``, ``val_set`` and ``test_set`` in ``setup`` and states its image
    ``shape`` (C, H, W). The order of training batches depends on ``seed`` and the epoch alone, so the
    number of workers never changes a result.

    Raises:
        VaexError: when ``batch_size`` or ``num_workers`` is out of range, or a split is empty.
    """

    train_set: BatchedDataset
    val_set: BatchedDataset
    test_set: BatchedDataset

    held_out = False
    """Whether a test is of the validation images in place of the test images: to choose by, where the test must not."""

    TEST_KEYS: tuple[str, ...] = ()
    """Arguments that say how many images the test has."""

    def __init__(
        self,
        shape: tuple[int, int, int],
        batch_size: int = 64,
        eval_batch_size: int | None = None,
        num_workers: int = 0,
        pin_memory: bool = False,
        drop_last: bool = False,
        seed: int = 0,
    ) -> None:
        super().__init__()
        if batch_size < 1 or (eval_batch_size is not None and eval_batch_size < 1):
            raise VaexError(f"data.batch_size must be at least 1, got {batch_size} (evaluation: {eval_batch_size}).")
        if num_workers < 0:
            raise VaexError(f"data.num_workers must be 0 or more, got {num_workers}.")
        self.shape = tuple(shape)
        self.batch_size = batch_size
        self.eval_batch_size = eval_batch_size or batch_size
        self.num_workers = num_workers
        self.pin_memory = pin_memory
        self.drop_last = drop_last
        self.seed = seed
        self._train_loader: ResumableLoader | None = None
        self._position: dict[str, int] | None = None

    @property
    def checksum(self) -> str:
        """Digest that identifies the data; written to run.json."""
        return "unknown"

    def _loader(self, dataset: BatchedDataset, split: str) -> ResumableLoader:
        if len(dataset) == 0:
            keys = " and ".join(f"data.{key}" for key in self.TEST_KEYS if split == "test")
            check = keys or "its size and filters"
            raise VaexError(f"The {split} split of {type(self).__name__} has no images; check {check}.")
        training = split == "train"
        trainer = self.trainer
        processes = trainer.world_size if trainer else 1
        if not training and len(dataset) < processes:
            raise VaexError(
                f"The {split} split of {type(self).__name__} has {len(dataset)} images for {processes} processes; each "
                "needs one at least: use fewer processes, or a larger split."
            )
        loader = ResumableLoader(
            dataset,
            batch_size=self.batch_size if training else self.eval_batch_size,
            shuffle=training,
            drop_last=training and self.drop_last,
            seed=self.seed,
            rank=trainer.global_rank if trainer else 0,
            world_size=processes,
            num_workers=self.num_workers,
            pin_memory=self.pin_memory,
        )
        if training and len(loader) == 0:
            raise VaexError(
                f"{len(dataset)} training images make no whole batch of {self.batch_size} for each of "
                f"{processes} processes; lower data.batch_size, or set data.drop_last=false."
            )
        return loader

    def train_dataloader(self) -> DataLoader[Any]:
        """Loader of shuffled training batches; after a resume, of those that are left of the epoch."""
        self._train_loader = self._loader(self.train_set, "train")
        if self._position is not None:
            self._train_loader.load_state_dict(self._position)
            self._position = None
        return self._train_loader

    def state_dict(self) -> dict[str, Any]:
        """Position in the training data.

        Lightning keeps the loader's own state too, but loses it when the loader is made before the state of the loops
        is restored, as ``estimated_stepping_batches`` in ``configure_optimizers`` does.
        """
        return {} if self._train_loader is None else {"train": self._train_loader.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Remember where training continues; validation and tests with the same checkpoint leave it alone."""
        if self.trainer is not None and self.trainer.state.fn == TrainerFn.FITTING:
            self._position = state.get("train")

    def val_dataloader(self) -> DataLoader[Any]:
        """Loader of validation batches in dataset order, no image twice."""
        return self._loader(self.val_set, "val")

    @property
    def tested(self) -> BatchedDataset:
        """The images that a test is of, see ``held_out``."""
        return self.val_set if self.held_out else self.test_set

    def test_dataloader(self) -> DataLoader[Any]:
        """Loader of test batches in dataset order, no image twice."""
        return self._loader(self.tested, "val" if self.held_out else "test")

    def predict_dataloader(self) -> DataLoader[Any]:
        """The test loader, so that ``trainer.predict`` sees the same images."""
        return self.test_dataloader()
