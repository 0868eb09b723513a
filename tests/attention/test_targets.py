"""What is differentiated: closed forms of the named targets, latent grids, callables."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.distributions import Normal, kl_divergence

from vaex.attention import TARGETS, latent_attention
from vaex.attention.targets import target_named
from vaex.attention.values import target_values
from vaex.errors import VaexError

MU = torch.randn(4, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
LOGVAR = torch.randn(4, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
GRID = torch.arange(4 * 3 * 2 * 5, dtype=torch.float64).view(4, 3, 2, 5).sin()


def test_closed_forms() -> None:
    kl = kl_divergence(Normal(MU, (LOGVAR / 2).exp()), Normal(torch.zeros_like(MU), torch.ones_like(MU)))
    expected = {
        "mean": MU,
        "logvar": LOGVAR,
        "kl": kl,
        "sum": MU.sum(1, keepdim=True),
        "total_kl": kl.sum(1, keepdim=True),
    }
    assert set(TARGETS) == {*expected, "sample", "normal_difference", "mahalanobis", "neg_elbo", "kinds"}
    for name, values in expected.items():
        torch.testing.assert_close(target_values((MU, LOGVAR), name), values)


def test_kinds_share_the_latents_out() -> None:
    """Of three latents two kinds have the first and last, and the middle one."""
    kl = kl_divergence(Normal(MU, (LOGVAR / 2).exp()), Normal(torch.zeros_like(MU), torch.ones_like(MU)))
    expected = torch.stack([kl[:, 0] + kl[:, 2], kl[:, 1]], 1)
    target = {"name": "kinds", "names": ["bent", "cut"]}
    torch.testing.assert_close(target_values((MU, LOGVAR), target), expected)
    assert target_named(target).titles == ("bent", "cut")  # type: ignore[union-attr]
    for trained, message in (
        (["bent", "cut"], None),
        (["cut", "bent"], "trained to tell cut, bent, and not bent, cut"),
        (None, "not trained to tell kinds of defects"),
    ):
        model = SimpleNamespace(config={"objective": {"kinds": trained}})
        if message is None:
            torch.testing.assert_close(target_values((MU, LOGVAR), target, model=model), expected)
            continue
        with pytest.raises(VaexError, match=message):
            target_values((MU, LOGVAR), target, model=model)
    with pytest.raises(VaexError, match="6 groups need as many latents at least, and the model has 3"):
        target_values((MU, LOGVAR), "kinds")
    with pytest.raises(VaexError, match=r"latents=\[0\] has no meaning for KindsKL"):
        target_values((MU, LOGVAR), target, [0])
    for names in ("bent", ["bent"], ["bent", "bent"], [1, 2]):
        with pytest.raises(VaexError, match="must be a list of at least two different names"):
            target_named({"name": "kinds", "names": names})


def test_sample_is_one_draw_of_each_latent_shared_by_all_images() -> None:
    found = target_values((MU, LOGVAR), "sample")
    noise = (found - MU) / (LOGVAR / 2).exp()
    torch.testing.assert_close(noise, noise[:1].expand_as(noise))
    assert len(set(noise[0].tolist())) == 3
    assert bool((noise.abs() < 5).all())
    assert torch.equal(found, target_values((MU, LOGVAR), "sample"))
    many = target_values((torch.zeros(1, 20000), torch.zeros(1, 20000)), "sample")
    assert abs(float(many.mean())) < 0.03
    assert abs(float(many.std()) - 1) < 0.03
    alone = target_values((MU[2:3], LOGVAR[2:3]), "sample")
    assert torch.equal(alone, found[2:3])


def test_sample_leaves_the_random_stream_alone() -> None:
    torch.manual_seed(5)
    expected = torch.rand(1)
    torch.manual_seed(5)
    target_values((MU, LOGVAR), "sample")
    assert torch.equal(torch.rand(1), expected)


def test_latents_choose_before_a_total_adds_up() -> None:
    assert torch.equal(target_values(MU, "mean", [2, 0, 2]), MU[:, [2, 0, 2]])
    torch.testing.assert_close(target_values(MU, "sum", [2, 0]), MU[:, 2:3] + MU[:, :1])
    assert torch.equal(target_values(MU, "mean", torch.tensor([1, 2]).tolist()), MU[:, 1:])


def test_cells_of_a_latent_grid() -> None:
    torch.testing.assert_close(target_values(GRID), GRID.sum((2, 3)))
    torch.testing.assert_close(target_values(GRID, reduce="max"), GRID.flatten(2).amax(2))
    assert torch.equal(target_values(GRID, reduce=(1, 3)), GRID[:, :, 1, 3])
    torch.testing.assert_close(target_values(GRID, "sum", [1]), GRID[:, 1:2].sum((2, 3)))
    torch.testing.assert_close(target_values((GRID, GRID), "kl"), (0.5 * (GRID**2 + GRID.exp() - 1 - GRID)).sum((2, 3)))


def test_the_kl_near_the_prior_is_not_negative() -> None:
    """exp(logvar) - 1 - logvar in single precision is negative for some logvar near 0."""
    logvar = torch.linspace(-2e-3, 2e-3, 100001)[:, None]
    assert float(target_values((torch.zeros_like(logvar), logvar), "kl").min()) >= -1e-12


@pytest.mark.parametrize("reduce", [3, 1.5, (0.5, 1)])
def test_cells_that_are_no_numbers_are_refused(reduce: Any) -> None:
    with pytest.raises(VaexError, match=r"reduce by a cell \(i, j\) must be a list of whole numbers"):
        target_values(GRID, reduce=reduce)


@pytest.mark.parametrize("reduce", [(2, 0), (0, 5), (-1, 0), (0,), (0, 0, 0)])
def test_cells_outside_the_grid_are_refused(reduce: Any) -> None:
    with pytest.raises(VaexError, match=r"lies outside the latent grid of \(2, 5\) cells"):
        target_values(GRID, reduce=reduce)


def test_reduction_by_a_wrong_name_or_of_a_wrong_code_is_refused() -> None:
    with pytest.raises(VaexError, match="did you mean 'max'"):
        target_values(GRID, reduce="amax")
    with pytest.raises(VaexError, match=r"latent grid \(B, D, h, w\), got \(4, 3, 2\)"):
        target_values(GRID[..., 0])


def test_callables_get_the_raw_output() -> None:
    seen: list[Any] = []

    def difference(output: Any) -> Tensor:
        seen.append(output)
        mean: Tensor = output[0]
        return mean[:, :2] - mean[:, 1:]

    output = (MU, LOGVAR)
    torch.testing.assert_close(target_values(output, difference), MU[:, :2] - MU[:, 1:])
    assert seen == [output]


@pytest.mark.parametrize("wrong", [lambda o: o[0].sum(), lambda o: o[0][:, 0], lambda o: 3.0, lambda o: o[0][:, :0]])
def test_callables_of_another_shape_are_refused(wrong: Any) -> None:
    with pytest.raises(VaexError, match=r"must return a tensor \(B, T\) with T of at least 1"):
        target_values((MU, LOGVAR), wrong)


def test_callables_choose_their_own_columns() -> None:
    with pytest.raises(VaexError, match="a callable target returns the columns that it wants"):
        target_values(MU, lambda output: output, [0])


class GridVAE(nn.Module):
    """Latent grids (B, 3, 4, 4) of images (B, 1, 16, 16)."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.body, self.head = nn.Conv2d(1, 4, 4, 2, 1), nn.Conv2d(4, 6, 4, 2, 1)

    def encode(self, x: Tensor) -> tuple[Tensor, ...]:
        mean, logvar = self.head(torch.tanh(self.body(x))).chunk(2, 1)
        return mean, logvar


@pytest.mark.parametrize("reduce", ["sum", "max", (0, 3)])
@pytest.mark.parametrize("name", ["mean", "kl", "sum"])
def test_maps_of_latent_grids(name: str, reduce: Any) -> None:
    model, x = GridVAE(), torch.rand(2, 1, 16, 16)
    activation = model.body(x).detach().requires_grad_()
    mu, logvar = model.head(torch.tanh(activation)).chunk(2, 1)
    cells = (0.5 * (mu**2 + logvar.exp() - 1 - logvar) if name == "kl" else mu).flatten(2)
    values = {"sum": cells.sum(2), "max": cells.max(2).values, (0, 3): cells[..., 3]}[reduce]
    values = values.sum(1, keepdim=True) if name == "sum" else values
    expected = torch.zeros(2, values.shape[1], 8, 8)
    for t in range(values.shape[1]):
        for b in range(2):
            gradient = torch.autograd.grad(values[b, t], activation, retain_graph=True)[0][b]
            expected[b, t] = (gradient.mean((1, 2))[:, None, None] * activation[b]).sum(0).clamp(min=0).detach()
    found = latent_attention(model, x, target=name, reduce=reduce, size="layer")
    assert float(expected.amax()) > 0
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-7)


def test_a_callable_target_on_a_vae_gets_its_posterior(vae: Any, images: Any) -> None:
    model, x = vae("conv"), images("conv")
    found = latent_attention(model, x, target=lambda posterior: posterior.mean[:, [0, 2]] * 2, rectify="abs")
    expected = latent_attention(model, x, latents=[0, 2], rectify="abs") * 2
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-5 * float(expected.amax()))
    with pytest.raises(VaexError, match=r"must return \(B, T\) with B = 4, got \(3, 4\)"):
        latent_attention(model, x, target=lambda posterior: posterior.mean.T)
