"""The data module that every dataset shares."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from lightning.pytorch.trainer.states import TrainerFn

from vaex.data.module import ImageDataModule
from vaex.errors import VaexError
from vaex.types import Batch


class Numbers:
    def __init__(self, start: int, length: int) -> None:
        self.values = torch.arange(start, start + length)

    def __len__(self) -> int:
        return len(self.values)

    def __getitems__(self, indices: list[int]) -> Batch:
        return Batch(index=self.values[indices])


class Three(ImageDataModule):
    """Training images 0 ..., validation images 100 ..., test images 200 ..."""

    def __init__(self, train: int = 10, val: int = 5, test: int = 4, **options: Any) -> None:
        super().__init__((1, 32, 32), **options)
        self.train_set, self.val_set, self.test_set = Numbers(0, train), Numbers(100, val), Numbers(200, test)


def indices(batches: Any) -> list[list[int]]:
    return [batch["index"].tolist() for batch in batches]


def attach(data: ImageDataModule, fn: TrainerFn = TrainerFn.FITTING, rank: int = 0, world: int = 1) -> None:
    data.trainer = SimpleNamespace(global_rank=rank, world_size=world, state=SimpleNamespace(fn=fn))  # type: ignore[assignment]


def test_splits_have_their_own_loaders() -> None:
    data = Three(batch_size=4)
    assert data.shape == (1, 32, 32)
    assert data.checksum == "unknown"
    training = indices(data.train_dataloader())
    assert [len(batch) for batch in training] == [4, 4, 2]
    assert sorted(i for batch in training for i in batch) == list(range(10))
    assert training != [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9]]
    assert indices(data.val_dataloader()) == [[100, 101, 102, 103], [104]]
    assert indices(data.test_dataloader()) == indices(data.predict_dataloader()) == [[200, 201, 202, 203]]


def test_evaluation_has_its_own_batch_size_and_drops_nothing() -> None:
    data = Three(batch_size=4, eval_batch_size=2, drop_last=True)
    assert [len(batch) for batch in indices(data.train_dataloader())] == [4, 4]
    assert indices(data.val_dataloader()) == [[100, 101], [102, 103], [104]]


def test_the_seed_decides_the_order() -> None:
    orders = [str(indices(Three(seed=seed).train_dataloader())) for seed in (1, 1, 2)]
    assert orders[0] == orders[1] != orders[2]


def test_processes_share_the_images_out() -> None:
    shares = []
    for rank in range(3):
        data = Three(batch_size=2)
        attach(data, rank=rank, world=3)
        shares.append((indices(data.train_dataloader()), indices(data.val_dataloader())))
    assert [share[1] for share in shares] == [[[100, 103]], [[101, 104]], [[102]]]
    training = [i for share in shares for batch in share[0] for i in batch]
    assert len(training) == len(set(training)) == 9


@pytest.mark.parametrize("count", [1, 3])
def test_the_position_travels_with_the_data_module(count: int) -> None:
    data = Three(batch_size=4)
    attach(data)
    assert data.state_dict() == {}
    batches = data.train_dataloader()
    expected = [indices(batches), indices(batches)]
    started = Three(batch_size=4)
    attach(started)
    iterator = iter(started.train_dataloader())
    for _ in range(count):
        next(iterator)
    state = started.state_dict()
    resumed = Three(batch_size=4)
    attach(resumed)
    resumed.load_state_dict(state)
    rest = indices(resumed.train_dataloader())
    assert rest == (expected[0][1:] if count == 1 else expected[1])
    assert len(indices(resumed.train_dataloader())) == 3  # the position is used once


@pytest.mark.parametrize("fn", [TrainerFn.VALIDATING, TrainerFn.TESTING, None])
def test_a_test_with_a_checkpoint_leaves_the_position_alone(fn: TrainerFn | None) -> None:
    data = Three(batch_size=4)
    if fn is not None:
        attach(data, fn)
    data.load_state_dict({"train": {"epoch": 0, "handed_out": 2}})
    assert len(indices(data.train_dataloader())) == 3


def test_states_of_others_are_ignored() -> None:
    data = Three(batch_size=4)
    attach(data)
    data.load_state_dict({})
    assert len(indices(data.train_dataloader())) == 3


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"batch_size": 0}, r"data\.batch_size must be at least 1, got 0 \(evaluation: None\)"),
        ({"eval_batch_size": 0}, r"data\.batch_size must be at least 1, got 64 \(evaluation: 0\)"),
        ({"num_workers": -1}, r"data\.num_workers must be 0 or more, got -1"),
    ],
)
def test_settings_out_of_range_are_told(options: dict[str, int], message: str) -> None:
    with pytest.raises(VaexError, match=message):
        Three(**options)


@pytest.mark.parametrize("split", ["train", "val", "test"])
def test_an_empty_split_is_told(split: str) -> None:
    with pytest.raises(VaexError, match=f"The {split} split of Three has no images"):
        getattr(Three(**{split: 0}), f"{split}_dataloader")()


def test_training_images_that_make_no_batch_are_told() -> None:
    with pytest.raises(VaexError, match=r"10 training images make no whole batch of 16 for each of 1 processes"):
        Three(batch_size=16, drop_last=True).train_dataloader()
    data = Three(train=2, batch_size=1)
    attach(data, world=4)
    with pytest.raises(VaexError, match="2 training images make no whole batch of 1 for each of 4 processes"):
        data.train_dataloader()
