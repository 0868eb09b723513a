"""Which kind groups of latents name: energies by hand, information by its definition, p-values by all orders."""

from __future__ import annotations

import itertools
import math

import pytest
import torch

from vaex.metrics.kinds import association, counted, named_kinds


def test_the_kind_with_most_energy_inside_the_mask_is_named() -> None:
    energies = torch.zeros(2, 3, 2, 2)
    energies[0, 0] = torch.tensor([[9.0, 9.0], [0.0, 0.0]])  # outside
    energies[0, 1] = torch.tensor([[0.0, 0.0], [1.0, 3.0]])
    energies[0, 2] = torch.tensor([[0.0, 0.0], [6.0, 0.0]])
    energies[1] = energies[0].flip(0)
    masks = torch.zeros(2, 1, 4, 4)
    masks[:, :, 2:, 2:] = 1  # the last cell
    masks[:, :, 2, 0] = 1  # a quarter of the one before: 1/4 + 3 against 6/4
    assert named_kinds(energies, masks).tolist() == [1, 1]
    masks[:, :, 2:, :2] = 1  # all of it: 1 + 3 against 6
    assert named_kinds(energies, masks).tolist() == [2, 0]


@pytest.mark.slow
def test_information_is_that_of_the_table() -> None:
    first, second = torch.tensor([0, 0, 0, 1, 1, 1, 2, 2]), torch.tensor([0, 0, 1, 1, 1, 1, 0, 0])
    table = counted(first, second, (3, 2))
    assert table.tolist() == [[2, 1], [0, 3], [2, 0]]
    share = table / 8
    expected = sum(
        float(p) * math.log(float(p) / float(share[i].sum() * share[:, j].sum()))
        for (i, j), p in ((place, share[place]) for place in itertools.product(range(3), range(2)))
        if p > 0
    )
    found = association(first, second)
    assert found.nats == pytest.approx(expected, rel=1e-5)
    orders = list(itertools.permutations(first.tolist()))
    as_much = 0
    for order in set(orders):
        other = counted(torch.tensor(order), second, (3, 2))
        rows = [sum(v * math.log(v) for v in line if v) for line in other.tolist()]  # the part that an order changes
        reference = sum(v * math.log(v) for line in table.tolist() for v in line if v)
        as_much += sum(rows) >= reference - 1e-9
    assert found.p_value == pytest.approx(as_much / len(set(orders)), abs=0.05)
    assert association(torch.zeros(8, dtype=torch.long), second).p_value == 1


@pytest.mark.slow
def test_the_p_value_does_not_depend_on_the_random_stream() -> None:
    first = torch.randint(0, 3, (40,), generator=torch.Generator().manual_seed(1))
    second = torch.randint(0, 3, (40,), generator=torch.Generator().manual_seed(2))
    assert association(first, second) == association(first, second)
    assert association(first, first).p_value == pytest.approx(1 / 1000)
