"""Gradients written out: the transposed convolution is autograd's gradient, and constants are computed once."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from vaex.build import build_model
from vaex.exporting.parts import Request
from vaex.exporting.programs import export_model
from vaex.exporting.tracing import traced_program

CONVOLUTIONS: list[dict[str, Any]] = [
    {"stride": 2, "padding": 1},
    {"stride": 3},
    {"stride": (1, 2), "padding": (0, 2), "dilation": (2, 1)},
    {"groups": 2, "padding": 1},
]


SOME = [*CONVOLUTIONS[2:], *(pytest.param(options, marks=pytest.mark.slow) for options in CONVOLUTIONS[:2])]


@pytest.mark.parametrize("transposed", [False, True])
@pytest.mark.parametrize("options", SOME, ids=str)
def test_gradient_of_a_convolution(options: dict[str, Any], transposed: bool) -> None:
    torch.manual_seed(0)
    weight = torch.randn(4, 4 // options.get("groups", 1), 3, 3)
    convolve = F.conv_transpose2d if transposed else F.conv2d

    def gradient(images: Tensor) -> tuple[Tensor]:
        with torch.enable_grad():
            leaf = images.detach().requires_grad_()
            return (torch.autograd.grad(convolve(leaf, weight, **options).square().sum(), leaf)[0],)

    program = traced_program(gradient, torch.rand(3, 4, 11, 14), "image", ("gradient",), dynamic=True)
    operations = {str(node.target) for node in program.graph.nodes}
    assert not [name for name in operations if "backward" in name]
    images = torch.rand(5, 4, 11, 14)
    torch.testing.assert_close(program.module()(images)["gradient"], gradient(images)[0], rtol=1e-4, atol=1e-4)


def test_what_does_not_depend_on_the_input_is_computed_once() -> None:
    covariance = torch.tensor([[2.0, 0.5], [0.5, 1.0]])

    def function(codes: Tensor) -> tuple[Tensor]:
        noise = torch.randn(2, generator=torch.Generator().manual_seed(4))
        scale = float(covariance.diagonal().mean())
        solved = torch.linalg.solve(covariance, codes.T).T
        lower = torch.linalg.solve_triangular(torch.linalg.cholesky(covariance), codes.T, upper=False).T
        return (solved * scale + lower + noise,)

    program = traced_program(function, torch.rand(3, 2), "code", ("sum",), dynamic=True)
    operations = " ".join(str(node.target) for node in program.graph.nodes)
    assert not [name for name in ("rand", "linalg", "solve", "cholesky") if f"aten.{name}" in operations]
    codes = torch.rand(6, 2)
    torch.testing.assert_close(program.module()(codes)["sum"], function(codes)[0])


def test_only_the_batch_stays_open() -> None:
    program = traced_program(lambda x: (x.mean((-2, -1)),), torch.rand(3, 1, 8, 8), "image", ("mean",), dynamic=True)
    assert program.module()(torch.rand(1, 1, 8, 8))["mean"].shape == (1, 1)
    with pytest.raises(Exception, match=r"(?i)guard|expected|shape|size"):
        program.module()(torch.rand(3, 1, 9, 9))


class OneByOne(torch.nn.Module):
    """A layer whose Python code counts the images, which no graph for any batch size can hold."""

    def __init__(self, layer: torch.nn.Module) -> None:
        super().__init__()
        self.layer = layer

    def forward(self, images: Tensor) -> Tensor:
        return torch.cat([self.layer(images[i : i + 1]) for i in range(len(images))])


def test_what_needs_a_fixed_batch_is_exported_for_one_image_and_says_so(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = build_model({"name": "conv", "shape": [1, 32, 32], "latents": 3, "width": 4, "depth": 2, "hidden": 8})
    layers: Any = model.eval().encoder
    layers.conv2 = OneByOne(layers.conv2)
    done = export_model(model, tmp_path / "x.pt2", Request("encoder"), "pt2")
    assert (done.batch, done.metadata["batch_size"]) == (1, "1")
    images = torch.rand(3, 1, 32, 32)
    program = torch.export.load(done.path).module()
    found = torch.cat([program(image[None])["mean"] for image in images])
    torch.testing.assert_close(found, model.encode(images).mean, rtol=0, atol=1e-6)
