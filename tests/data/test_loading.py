"""Order and position of the loader: complete, disjoint over ranks, repeatable, resumable at every batch."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils.data import BatchSampler, SequentialSampler

from vaex.data.loading import ResumableLoader, ResumableSampler, spread_batches
from vaex.types import Batch


class Numbers:
    """A dataset that is its own indices, and notes how it was asked."""

    def __init__(self, length: int) -> None:
        self.length = length
        self.asked: list[list[int]] = []

    def __len__(self) -> int:
        return self.length

    def __getitems__(self, indices: list[int]) -> Batch:
        self.asked.append(indices)
        return Batch(index=torch.tensor(indices))


def loader(length: int = 20, batch_size: int = 3, **options: Any) -> ResumableLoader:
    return ResumableLoader(Numbers(length), batch_size, **options)


def indices(batches: Any) -> list[list[int]]:
    return [batch["index"].tolist() for batch in batches]


# Sampler


@pytest.mark.parametrize("length", [1, 2, 7, 10, 12, 97])
@pytest.mark.parametrize("world", [1, 2, 3, 8])
def test_evaluation_ranks_are_disjoint_and_complete(length: int, world: int) -> None:
    ranks = [ResumableSampler(range(length), False, rank=rank, world_size=world) for rank in range(world)]
    shares = [list(rank) for rank in ranks]
    assert [len(rank) for rank in ranks] == [len(share) for share in shares]
    assert sorted(itertools.chain(*shares)) == list(range(length))  # nothing twice, nothing missing
    assert all(share == sorted(share) for share in shares)
    assert max(map(len, shares)) - min(map(len, shares)) <= 1


@pytest.mark.parametrize("length", [8, 10, 12, 97])
@pytest.mark.parametrize("world", [1, 2, 3, 8])
def test_training_ranks_are_disjoint_and_of_one_length(length: int, world: int) -> None:
    ranks = [ResumableSampler(range(length), True, seed=5, rank=rank, world_size=world) for rank in range(world)]
    shares = [list(rank) for rank in ranks]
    assert {len(share) for share in shares} == {len(rank) for rank in ranks} == {length // world}
    together = list(itertools.chain(*shares))
    assert len(set(together)) == len(together)
    assert set(together) <= set(range(length))


def test_every_rank_sees_other_images_in_the_next_epoch() -> None:
    ranks = [ResumableSampler(range(1000), True, rank=rank, world_size=2) for rank in range(2)]
    first = [set(rank) for rank in ranks]
    for rank in ranks:
        rank.set_epoch(1)
    second = [set(rank) for rank in ranks]
    assert second[0] not in (first[0], first[1])
    assert second[0] | second[1] == first[0] | first[1]


def test_order_is_a_function_of_seed_and_epoch() -> None:
    def order(seed: int, epoch: int, noise: int = 0) -> list[int]:
        torch.manual_seed(noise)
        sampler = ResumableSampler(range(50), True, seed=seed)
        sampler.set_epoch(epoch)
        return list(sampler)

    assert order(1, 2) == order(1, 2, noise=9)
    orders = [order(seed, epoch) for seed in range(4) for epoch in range(25)]
    assert len({tuple(o) for o in orders}) == 100
    assert all(sorted(o) == list(range(50)) for o in orders)
    firsts = Tensor([[o.index(i) for i in range(50)] for o in orders]).mean(0)
    assert bool(((firsts - 24.5).abs() < 5 * 14.43 / 10).all())  # every image comes early as often as late


# Loader


@pytest.mark.parametrize("workers", [0, 2])
def test_whole_batches_are_asked_for_and_handed_on_as_they_are(workers: int) -> None:
    data = Numbers(10)
    assert indices(ResumableLoader(data, 4, num_workers=workers)) == [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9]]
    assert data.asked == ([] if workers else [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9]])


@pytest.mark.parametrize(("drop_last", "sizes"), [(False, [4, 4, 2]), (True, [4, 4])])
def test_the_last_batch_is_kept_or_dropped(drop_last: bool, sizes: list[int]) -> None:
    for shuffle in (False, True):
        batches = loader(10, 4, shuffle=shuffle, drop_last=drop_last)
        assert [len(batch) for batch in indices(batches)] == sizes
        assert len(batches) == len(sizes)


def test_every_epoch_is_shuffled_anew_and_evaluation_never() -> None:
    training, evaluation = loader(shuffle=True, seed=3), loader()
    epochs = [indices(training) for _ in range(3)]
    assert len({str(epoch) for epoch in epochs}) == 3
    assert all(sorted(itertools.chain(*epoch)) == list(range(20)) for epoch in epochs)
    assert indices(evaluation) == indices(evaluation) == indices(loader())
    again = loader(shuffle=True, seed=3)
    assert [indices(again) for _ in range(3)] == epochs
    assert indices(loader(shuffle=True, seed=4)) != epochs[0]


def test_the_epoch_can_be_told() -> None:
    whole = loader(shuffle=True)
    epochs = [indices(whole) for _ in range(4)]
    told = loader(shuffle=True)
    for epoch in (2, 0, 0, 3):
        told.sampler.set_epoch(epoch)  # type: ignore[attr-defined]
        assert indices(told) == epochs[epoch]
    assert indices(told) != epochs[3]  # and without being told the next one follows


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("shuffle", [False, True])
def test_an_iteration_left_early_does_not_shorten_the_next(workers: int, shuffle: bool) -> None:
    """As a sanity check of the validation does, or a limit on the batches."""
    batches = loader(shuffle=shuffle, num_workers=workers)
    first = next(iter(batches))["index"].tolist()
    assert first == (list(range(3)) if not shuffle else indices(loader(shuffle=True))[0])
    again = indices(batches)
    assert sorted(itertools.chain(*again)) == list(range(20))


@pytest.mark.parametrize("workers", [0, 2])
def test_resume_at_every_batch_of_two_epochs(workers: int) -> None:
    whole = loader(length=12, shuffle=True, seed=1)
    expected = [indices(whole) for _ in range(3)]
    for epoch, count in [(0, 0), (0, 1), (0, 3), (0, 4), (1, 2), (1, 4)]:
        running = loader(length=12, shuffle=True, seed=1, num_workers=workers)
        for _ in range(epoch):
            indices(running)
        list(itertools.islice(iter(running), count))
        state = running.state_dict()
        continued = loader(length=12, shuffle=True, seed=1, num_workers=workers)
        continued.load_state_dict(state)
        assert len(continued) == 4  # the length of a whole epoch, which Lightning counts in
        rest = indices(continued)
        if count == 0:  # nothing of the epoch was handed out yet
            assert rest == expected[0]
        else:
            assert expected[epoch] == expected[epoch][:count] + (rest if count < 4 else [])
            assert count < 4 or rest == expected[epoch + 1]
            assert count == 4 or indices(continued) == expected[epoch + 1]


def test_the_state_counts_what_was_handed_out_not_what_workers_read_ahead() -> None:
    batches = loader(length=40, shuffle=True, num_workers=2)
    iterator = iter(batches)
    next(iterator)
    next(iterator)
    assert batches.state_dict() == {"epoch": 0, "handed_out": 2}
    del iterator
    batches.load_state_dict({"epoch": 5, "handed_out": 3})
    assert batches.state_dict() == {"epoch": 5, "handed_out": 3}


def test_a_restored_position_holds_for_its_epoch_only() -> None:
    expected = indices(loader(shuffle=True))
    batches = loader(shuffle=True)
    batches.load_state_dict({"epoch": 1, "handed_out": 4})
    batches.sampler.set_epoch(0)  # type: ignore[attr-defined]
    assert indices(batches) == expected
    batches.sampler.set_epoch(1)  # type: ignore[attr-defined]
    assert len(indices(batches)) == 7


def test_the_order_does_not_depend_on_workers_or_noise() -> None:
    def two_epochs(workers: int, noise: int) -> list[list[list[int]]]:
        torch.manual_seed(noise)
        batches = loader(shuffle=True, num_workers=workers)
        return [indices(batches), indices(batches)]

    assert two_epochs(0, 1) == two_epochs(2, 2)


def test_a_sampler_of_ones_own_is_taken_as_it_is() -> None:
    data = Numbers(6)
    assert indices(ResumableLoader(data, 4, sampler=SequentialSampler(data))) == [[0, 1, 2, 3], [4, 5]]
    pairs = ResumableLoader(data, batch_sampler=BatchSampler([5, 4, 3], 2, drop_last=False))
    assert indices(pairs) == indices(pairs) == [[5, 4], [3]]
    assert pairs.state_dict() == {"epoch": 0, "handed_out": 2}
    pairs.load_state_dict({"epoch": 3, "handed_out": 1})
    assert indices(pairs) == [[5, 4], [3]]


def test_items_are_spread_over_what_may_be_sorted_by_kind() -> None:
    dataset = Numbers(100)
    assert [batch["index"].tolist() for batch in spread_batches(dataset, 5, 2)] == [[0, 25], [50, 74], [99]]
    assert [batch["index"].tolist() for batch in spread_batches(dataset, 1, 2)] == [[0]]
    every = [batch["index"] for batch in spread_batches(dataset, 1000, 7)]
    assert torch.cat(every).tolist() == list(range(100))
    assert list(spread_batches(Numbers(0), 3, 2)) == []
    items: Any = [{"index": torch.tensor(number)} for number in range(3)]  # a plain list of items is collated
    assert [batch["index"].tolist() for batch in spread_batches(items, 3, 2)] == [[0, 1], [2]]
