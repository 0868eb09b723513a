"""Which shapes each network takes, told without building it; that what is taken can be built."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from vaex.build import build_model
from vaex.errors import VaexError
from vaex.shapes import check_shape, in_words


@pytest.mark.parametrize("shape", [(1, 32, 32), [3, 45, 45], (1, 256, 256)])
@pytest.mark.parametrize("depth", ["first", "last"])
def test_what_is_taken_can_be_built_and_the_next_depth_not(shape: Any, depth: str) -> None:
    stages = 1 if depth == "first" else {32: 5, 45: 5, 256: 8}[shape[1]]
    assert check_shape("conv", shape, stages) == tuple(shape)
    options = {"name": "conv", "shape": shape, "depth": stages, "width": 2, "hidden": 2, "latents": 2, "max_width": 4}
    model = build_model(options)
    assert model(torch.rand(1, *shape)).reconstruction.shape == (1, *shape)
    with pytest.raises(VaexError, match=f"got {stages - 1 if depth == 'first' else stages + 1}"):
        check_shape("conv", shape, stages - 1 if depth == "first" else stages + 1)


def test_fixed_shapes_and_unknown_networks() -> None:
    assert check_shape("mnist", [1, 28, 28]) == (1, 28, 28)
    assert check_shape("factor_vae", (7, 64, 64)) == (7, 64, 64)
    assert check_shape("mine", (1, 5, 9)) == (1, 5, 9)  # no rule but three numbers
    assert in_words((None, 64, 64)) == "Cx64x64"


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (("mnist", (1, 32, 32)), "network=mnist takes images of 1x28x28 only, got 1x32x32; choose network=conv"),
        (("mnist", (3, 28, 28)), "takes images of 1x28x28 only, got 3x28x28"),
        (("factor_vae", (1, 64, 32)), "takes images of Cx64x64 only, got 1x64x32"),
        (("conv", (1, 28, 28)), "square images of 32 to 256 pixels, got 1x28x28; choose network=mnist"),
        (("conv", (3, 28, 28)), "got 3x28x28; set data.size in this range"),
        (("conv", (1, 257, 257)), "got 1x257x257"),
        (("conv", (1, 64, 32)), "got 1x64x32"),
        (("conv", (1, 32, 32), 2.0), "network.depth must be a whole number from 1 to 5 for 32 pixels, got 2.0"),
        (("conv", (1, 32, 32), True), "got True"),
        (("conv", (1, 32, 32), "2"), "got '2'"),
        (("mine", (1, 5)), r"network=mine needs network.shape, .* got \(1, 5\)"),
        (("mine", (1, 5, 0)), r"got \(1, 5, 0\)"),
        (("mine", (1, 5, True)), r"got \(1, 5, True\)"),
        (("mine", "155"), "got '155'"),
        (("mine", None), "got None"),
    ],
)
def test_what_is_not_taken_is_told(arguments: Any, sentence: str) -> None:
    with pytest.raises(VaexError, match=sentence):
        check_shape(*arguments)
