"""Which latent a map is of, whichever latents were asked for and in whatever order."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from vaex.columns import columns_to_draw, kl_of_maps, latents_of_maps, strongest
from vaex.types import Explanation

KL = torch.tensor([[0.5, 3.0, 1.0, 9.0], [1.5, 3.0, 0.0, 7.0]])  # means 1, 3, 0.5, 8


def explanation(maps: int, kl: Tensor | None = KL) -> Explanation:
    return Explanation(
        torch.zeros(2, maps, 5, 5), torch.zeros(2, 1, 5, 5), torch.zeros(2), torch.zeros(2, 4), None, kl, None
    )


@pytest.mark.parametrize(
    ("count", "target", "latents", "expected"),
    [
        (
            4,
            "mean",
            None,
            ([3, 1, 0, 2], ["z3  KL 8.00 nats", "z1  KL 3.00 nats", "z0  KL 1.00 nats", "z2  KL 0.50 nats"]),
        ),
        (4, "kl", [2, 3], ([1, 0], ["z3  KL 8.00 nats", "z2  KL 0.50 nats"])),
        (1, "mean", [0, 1], ([1], ["z1  KL 3.00 nats"])),
        (4, "mean", [2], ([0], ["z2  KL 0.50 nats"])),
        (4, "sum", [2, 3], ([0], ["total"])),
        (4, "total_kl", None, ([0], ["total"])),
        (4, {"name": "kinds", "names": ["bent", "cut"]}, None, ([0, 1], ["bent", "cut"])),
    ],
)
def test_columns(count: int, target: Any, latents: list[int] | None, expected: Any) -> None:
    maps = (
        2
        if isinstance(target, dict)
        else 1
        if target in ("sum", "total_kl")
        else 4
        if latents is None
        else len(latents)
    )
    assert columns_to_draw(explanation(maps), count, target, latents) == expected


@pytest.mark.parametrize("kl", [None, torch.ones(2, 1)])
def test_without_a_kl_per_latent_the_order_is_that_of_the_maps(kl: Tensor | None) -> None:
    said = explanation(2, kl)
    assert columns_to_draw(said, 2, "mean", [3, 1]) == ([0, 1], ["z3", "z1"])
    assert strongest(said, [3, 1], 1) == [0]
    assert kl_of_maps(said, [3, 1]) is None


def test_a_function_of_the_code_has_no_latents() -> None:
    def first_two(code: Any) -> Tensor:
        values: Tensor = code.mean[:, :2]
        return values

    assert latents_of_maps(explanation(2), first_two, None) is None
    assert columns_to_draw(explanation(2), 1, first_two, None) == ([0], ["target 0"])


def test_the_kl_is_that_of_the_latent() -> None:
    found = kl_of_maps(explanation(2), [3, 1])
    assert found is not None
    torch.testing.assert_close(found, torch.tensor([[9.0, 3.0], [7.0, 3.0]]))


def test_the_table_names_maps_of_no_single_latent() -> None:
    from vaex.commands.drawing import latent_columns

    one = explanation(2, None).image(0)._replace(maps=torch.tensor([1.0, 2.0])[None, :, None, None])
    assert {k: v for k, v in latent_columns(one, None, ["bent", "cut"]).items() if k.startswith("map")} == {
        "map_sum_bent": 1.0,
        "map_sum_cut": 2.0,
    }
