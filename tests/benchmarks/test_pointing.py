"""The pointing benchmark on a network whose answers are known, and its averages over seeds."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from vaex.attention import IMAGE_METHODS, METHODS, TARGETS
from vaex.benchmarks.pointing import (
    CHANCE,
    INTENSITY,
    Findings,
    Latents,
    Subject,
    decoded_changes,
    factor_masks,
    matched_latents,
    measure_run,
    methods_and_targets,
    pairs_of,
    row_name,
    split_targets,
)
from vaex.benchmarks.seeds import over_seeds, pointing_tables
from vaex.build import build_model
from vaex.data import Sprites
from vaex.data.render import draw_sprites
from vaex.errors import VaexError
from vaex.types import Posterior

GRID = {"shape": 1, "scale": 3, "orientation": 1, "x": 8, "y": 8}


@pytest.fixture(scope="module")
def data() -> Sprites:
    found = Sprites(size=32, grid=GRID, val=60, test=40)
    found.setup()
    return found


class Ruler(nn.Module):
    """Latent 0 is the sprite's centre across, 1 a constant, 2 its centre down, 3 noise that follows no factor."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(1, 1, 1, bias=False)
        nn.init.ones_(self.conv.weight)

    def encode(self, images: Tensor) -> Posterior:
        mass = self.conv(images)[:, 0]
        place = torch.linspace(-1, 1, mass.shape[-1])
        area = mass.sum((1, 2))
        across, down = (mass.sum(1) * place).sum(1) / area, (mass.sum(2) * place).sum(1) / area
        noise = torch.sin(1000 * across + 777 * down + 0.37 * area)
        mean = torch.stack([across, 0 * across, down, noise], 1)
        return Posterior(mean, torch.zeros_like(mean))


def test_latents_are_matched_on_the_validation_images(data: Sprites) -> None:
    model: Any = Ruler()
    found = matched_latents(model, data, 0.5)
    assert found.numbers == (0, 2)
    assert found.factors == ("x", "y")
    assert all(strength > 0.99 for strength in found.strengths)
    assert (found.collapsed, found.weak) == (1, 1)
    with pytest.raises(VaexError, match=r"No latent encodes one factor: the best match explains 1\.00"):
        matched_latents(model, data, 1.5)


def test_masks_are_the_pixels_that_a_step_changes(data: Sprites) -> None:
    """Drawn from factor values written out by hand."""
    x, y, scale = np.linspace(0, 1, 8), np.linspace(0, 1, 8), np.array([0.5, 0.75, 1.0])
    classes = [(0, 2, 7), (2, 7, 0), (1, 3, 3)]  # scale, x, y
    index = torch.tensor([s * 64 + a * 8 + b for s, a, b in classes])
    found = factor_masks(data, index, ["x", "scale", "x"])
    assert found.shape == (3, 3, 32, 32)
    for row, (s, a, b) in enumerate(classes):
        neighbour = {"x": (s, a + 1 if a < 7 else 6, b), "scale": (s + 1 if s < 2 else 1, a, b)}
        now = draw_sprites(0, scale[s], 0.0, x[a], y[b], 32)[0]
        for column, name in enumerate(["x", "scale", "x"]):
            s2, a2, b2 = neighbour[name]
            then = draw_sprites(0, scale[s2], 0.0, x[a2], y[b2], 32)[0]
            np.testing.assert_array_equal(found[row, column].numpy() > 0.5, now != then)
            assert (now != then).any()


def test_decoded_changes_are_what_the_decoder_does_without_the_latent() -> None:
    model: Any = build_model({"name": "conv", "shape": [3, 32, 32], "latents": 3, "width": 4, "hidden": 8}).eval()
    images = torch.rand(2, 3, 32, 32)
    found = decoded_changes(model, images, [2, 0])
    for row, image in enumerate(images):
        mean = model.encode(image[None]).mean[0].detach()
        for column, latent in enumerate([2, 0]):
            code = torch.tensor([0.0 if i == latent else float(value) for i, value in enumerate(mean)])
            change = (image - model.decode(code[None]).mean[0]).abs().sum(0)
            torch.testing.assert_close(found[row, column], change, atol=1e-5, rtol=1e-5)


def test_measures_of_a_run_equal_those_of_maps_computed_here(data: Sprites) -> None:
    model: Any = Ruler()
    fresh: Any = Ruler()
    nn.init.constant_(fresh.conv.weight, -2.0)  # the sign of `conv`'s map turns, its place does not
    pairs = [("hires_cam", "mean"), ("hires_cam", "normal_difference")]
    found = measure_run(Subject("seed", model, fresh, data), pairs, images=30, least=0.5, batch=13)
    assert found.images == 30
    assert list(found.skipped) == ["hires_cam, normal_difference"]
    assert "calibrat" in found.skipped["hires_cam, normal_difference"]
    items = data.test_set.__getitems__(list(range(30)))
    images = items["image"].clone().requires_grad_()
    masks = factor_masks(data, items["index"], ["x", "y"])
    gradient = [torch.autograd.grad(model.encode(images).mean[:, i].sum(), images)[0][:, 0] for i in (0, 2)]
    maps = (torch.stack(gradient, 1) * images.detach()).abs()  # A = x for a 1x1 convolution of weight 1
    inside = ((maps * masks).sum((2, 3)) / maps.sum((2, 3))).mean(0)
    for weights in ("trained", "untrained"):
        assert found.rows["hires_cam, mean"][weights]["energy_inside"] == pytest.approx(inside.tolist(), abs=1e-5)
    assert found.rows[CHANCE]["trained"]["energy_inside"] == pytest.approx(masks.mean((0, 2, 3)).tolist(), abs=1e-6)
    ink = images.detach().expand_as(masks)
    share = ((ink * masks).sum((2, 3)) / ink.sum((2, 3))).mean(0)
    assert found.rows[INTENSITY]["trained"]["energy_inside"] == pytest.approx(share.tolist(), abs=1e-5)


def test_a_method_with_parameters_has_a_row_of_its_own() -> None:
    blurred = {"name": "integrated_gradients", "baseline": "blurred"}
    assert methods_and_targets([blurred], ["mean"]) == [(blurred, "mean")]
    assert row_name(blurred, "mean") == "integrated_gradients (blurred), mean"
    assert row_name({"name": "gradient"}, "kl") == row_name("gradient", "kl") == "gradient, kl"
    with pytest.raises(VaexError, match="baseline of integrated gradients"):
        methods_and_targets([{"name": "integrated_gradients", "baseline": "blured"}], None)


def test_all_methods_with_all_targets_of_one_map_per_latent() -> None:
    every = methods_and_targets(None, None)
    assert {method for method, _ in every} == {*METHODS, *IMAGE_METHODS}
    targets = {target for _, target in every}
    assert {"mean", "kl", "logvar", "sample"} <= targets <= set(TARGETS)
    assert not targets & {"sum", "total_kl", "mahalanobis", "neg_elbo"}
    assert methods_and_targets(["gradient"], ["kl", "mean"]) == [("gradient", "kl"), ("gradient", "mean")]
    with pytest.raises(VaexError, match="did you mean 'grad_cam'"):
        methods_and_targets(["gradcam"], None)
    with pytest.raises(VaexError, match="did you mean 'mean'"):
        methods_and_targets(None, ["meann"])
    with pytest.raises(VaexError, match="'sum' has no map per latent"):
        methods_and_targets(None, ["sum"])


def test_targets_have_a_map_per_latent_or_one_of_the_whole_code() -> None:
    per_latent, whole = split_targets(None)
    assert set(whole) == {"sum", "total_kl", "mahalanobis", "neg_elbo"}
    assert set(per_latent) == set(TARGETS) - set(whole) - {"kinds"}
    assert split_targets(["total_kl", "kl", "sum"]) == (["kl"], ["total_kl", "sum"])
    assert pairs_of(["gradient", "hires_cam"], whole[:1]) == [("gradient", whole[0]), ("hires_cam", whole[0])]
    assert pairs_of(None, []) == []
    with pytest.raises(VaexError, match="'kinds' has maps of neither latents nor the whole code; choose among mean,"):
        split_targets(["mean", "kinds"])
    with pytest.raises(VaexError, match="did you mean 'total_kl'"):
        split_targets(["totalkl"])


def _findings(name: str, factors: tuple[str, ...], values: tuple[float, ...]) -> Findings:
    count = len(factors)
    latents = Latents(tuple(range(count)), factors, (0.5,) * count, collapsed=1, weak=2)
    return Findings(
        name, latents, 8, {"m, t": {"trained": {"energy_inside": values}}}, {"n, t": "Why not.", "o, t": "Why not."}
    )


def test_averages_count_every_run_once() -> None:
    runs = [_findings("a", ("x", "x", "y"), (0.2, 0.4, 0.9)), _findings("b", ("y",), (0.1,))]
    first, second = (0.2 + 0.4 + 0.9) / 3, 0.1
    mean, spread = (first + second) / 2, abs(first - second) / math.sqrt(2)
    assert over_seeds(runs, "m, t", "trained", "energy_inside") == f"{mean:.3f} +- {spread:.3f}"
    assert over_seeds(runs, "m, t", "trained", "energy_inside", "x") == "0.300"
    assert over_seeds(runs, "m, t", "trained", "energy_inside", "shape") == "-"
    assert over_seeds(runs, "m, t", "untrained", "energy_inside") == "-"


def test_a_latent_without_a_number_stays_out() -> None:
    runs = [_findings("a", ("x", "y"), (0.2, math.nan))]
    assert over_seeds(runs, "m, t", "trained", "energy_inside") == "0.200"


def test_tables() -> None:
    runs = [_findings("a", ("x", "y"), (0.2, 0.4)), _findings("b", ("y",), (0.1,))]
    whole, by_factor = pointing_tables(runs)
    assert whole.rows == (("m, t", "-", "0.200 +- 0.141", "-", "-"),)
    assert "left out: 1 collapsed, 2 weakly matched" in whole.notes[0]
    assert whole.notes[-1] == "Left out: n, t; o, t. Why not."
    assert by_factor.columns == ("map", "x", "y")
    assert by_factor.rows == (("m, t", "0.200", "0.250 +- 0.212"),)
