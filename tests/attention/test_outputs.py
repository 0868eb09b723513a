"""What of a model's output is taken for the code."""

from __future__ import annotations

import warnings
from collections import OrderedDict
from types import SimpleNamespace
from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor, nn
from torch.distributions import Independent

from vaex.attention import latent_attention
from vaex.attention.outputs import code_of, reconstruction_of
from vaex.errors import VaexError
from vaex.types import Posterior

B, D = 4, 3
MU, LOGVAR, Z = (torch.randn(B, D, generator=torch.Generator().manual_seed(i)) for i in range(3))
GRID, GRID_LOGVAR = torch.randn(B, D, 2, 2), torch.randn(B, D, 2, 2)
X, RECON = torch.rand(B, 1, 16, 16), torch.rand(B, 1, 16, 16)
LOSS = torch.tensor(1.0)


class Output(NamedTuple):
    """A named tuple whose order would mislead."""

    z: Tensor
    mu: Tensor
    log_var: Tensor


class Dictionary(OrderedDict[str, Any]):
    """Both a mapping and an object, as several libraries return."""

    def __getattr__(self, name: str) -> Any:
        try:
            return self[name]
        except KeyError:
            raise AttributeError(name) from None


BOTH: dict[str, Any] = {
    "(mean, logvar)": (MU, LOGVAR),
    "[mean, logvar]": [MU, LOGVAR],
    "(mean, logvar, z)": (MU, LOGVAR, Z),
    "(recon, mean, logvar)": (RECON, MU, LOGVAR),
    "(recon, x, mean, logvar)": (RECON, X, MU, LOGVAR),
    "flat (recon, x, mean, logvar)": (RECON.flatten(1), X.flatten(1), MU, LOGVAR),
    "(loss, recon, mean, logvar)": (LOSS, RECON, MU, LOGVAR),
    "(recon, mean, logvar, None)": (RECON, MU, LOGVAR, None),
    "(recon, features, features, mean, logvar)": (RECON, GRID, GRID, MU, LOGVAR),
    "named tuple": Output(Z, MU, LOGVAR),
    "Posterior": Posterior(MU, LOGVAR),
    "dict": {"recon": RECON, "mu": MU, "logvar": LOGVAR},
    "dict mean": {"z": Z, "mean": MU, "log_variance": LOGVAR},
    ".embedding": SimpleNamespace(embedding=MU, log_covariance=LOGVAR),
    "mapping and object": Dictionary(recon_x=RECON, embedding=MU, log_covariance=LOGVAR),
    ".latent_dist": SimpleNamespace(latent_dist=SimpleNamespace(mean=MU, logvar=LOGVAR)),
    "dict posterior": {"posterior": Posterior(MU, LOGVAR), "mean": Z},
    ".posterior": SimpleNamespace(posterior=(MU, LOGVAR)),
}

MEAN_ONLY: dict[str, Any] = {
    "tensor": MU,
    "(mean,)": (MU,),
    "(recon, mean)": (RECON, MU),
    "(mean, recon)": (MU, RECON),
    "flat (recon, mean)": (RECON.flatten(1), MU),
    "(mean, loss)": (MU, LOSS),
    ".embedding": SimpleNamespace(embedding=MU),
    "dict": {"mu": MU, "logvar": None},
    "distribution that is not normal": torch.distributions.Laplace(MU, LOGVAR.exp()),
    ".posterior is such a one": SimpleNamespace(
        posterior=Independent(torch.distributions.Laplace(MU, LOGVAR.exp()), 1)
    ),
}

GRIDS: dict[str, Any] = {
    "(mean, logvar)": (GRID, GRID_LOGVAR),
    "(recon, mean, logvar)": (RECON, GRID, GRID_LOGVAR),
    "(recon, x, mean, logvar)": (RECON, X, GRID, GRID_LOGVAR),
    "(recon, x, mean, logvar), as many channels": (X.expand(-1, D, -1, -1), X.expand(-1, D, -1, -1), GRID, GRID_LOGVAR),
    ".latent_dist": SimpleNamespace(latent_dist=SimpleNamespace(mean=GRID, logvar=GRID_LOGVAR)),
}


@pytest.mark.parametrize("name", BOTH)
def test_mean_and_logvar_are_found(name: str) -> None:
    code = code_of(BOTH[name])
    assert code.mean is MU
    assert code.logvar is LOGVAR


NORMAL = torch.distributions.Normal(MU, (LOGVAR / 2).exp())


@pytest.mark.parametrize(
    "output",
    [
        NORMAL,
        Independent(NORMAL, 1),
        SimpleNamespace(posterior=Independent(NORMAL, 1)),
        {"latent_dist": NORMAL},
    ],
)
def test_normal_distributions_state_their_log_variance(output: Any) -> None:
    code = code_of(output)
    assert code.mean is MU
    assert code.logvar is not None
    torch.testing.assert_close(code.logvar, LOGVAR)


@pytest.mark.parametrize("name", GRIDS)
def test_latent_grids_are_found(name: str) -> None:
    code = code_of(GRIDS[name])
    assert code.mean is GRID
    assert code.logvar is GRID_LOGVAR


@pytest.mark.parametrize("name", MEAN_ONLY)
def test_a_mean_alone_is_found(name: str) -> None:
    code = code_of(MEAN_ONLY[name])
    assert code.mean is MU
    assert code.logvar is None
    with pytest.raises(VaexError, match="target 'kl' needs a log-variance, but the model returns only a mean"):
        code.need_logvar("target 'kl'")


@pytest.mark.parametrize("output", [None, 3, {"recon": RECON}, SimpleNamespace(z=MU), (), ("a", LOSS)])
def test_no_code_is_told(output: Any) -> None:
    with pytest.raises(VaexError, match=f"No latent code found in the model's output of type {type(output).__name__}"):
        code_of(output)


def test_logvar_is_clamped_where_it_is_needed() -> None:
    code = code_of((torch.zeros(1, 2), torch.tensor([[-99.0, 99.0]])))
    assert code.need_logvar("it").tolist() == [[-30.0, 20.0]]


class Foreign(nn.Module):
    """A VAE of someone else, whose forward pass returns what ``wrap`` makes of its parts."""

    def __init__(self, wrap: Any) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.conv, self.heads, self.wrap = nn.Conv2d(1, 4, 4, 4), nn.Linear(64, 6), wrap
        self.decoder = nn.Linear(3, 256)

    def forward(self, x: Tensor) -> Any:
        mu, logvar = self.heads(torch.tanh(self.conv(x)).flatten(1)).chunk(2, 1)
        return self.wrap(self.decoder(mu).view_as(x), x, mu, logvar)


WRAPS: dict[str, Any] = {
    "mu": lambda recon, x, mu, logvar: mu,
    "(mu, logvar)": lambda recon, x, mu, logvar: (mu, logvar),
    "(recon, mu, logvar)": lambda recon, x, mu, logvar: (recon, mu, logvar),
    "(recon, x, mu, logvar)": lambda recon, x, mu, logvar: [recon, x, mu, logvar],
    "dict": lambda recon, x, mu, logvar: {"recon": recon, "mu": mu, "logvar": logvar},
    ".embedding": lambda recon, x, mu, logvar: SimpleNamespace(embedding=mu, log_covariance=logvar),
    ".latent_dist": lambda recon, x, mu, logvar: SimpleNamespace(latent_dist=Posterior(mu, logvar)),
    ".posterior": lambda recon, x, mu, logvar: SimpleNamespace(posterior=Posterior(mu, logvar)),
    "normal": lambda recon, x, mu, logvar: Independent(torch.distributions.Normal(mu, (logvar / 2).exp()), 1),
}


@pytest.mark.parametrize("name", WRAPS)
def test_foreign_modules_have_the_same_maps_whatever_they_return(name: str) -> None:
    model = Foreign(WRAPS[name]).eval()
    activation = model.conv(X).detach().requires_grad_()
    mu = model.heads(torch.tanh(activation).flatten(1))[:, :3]
    gradient = torch.stack([torch.autograd.grad(mu[:, i].sum(), activation, retain_graph=True)[0] for i in range(3)])
    expected = torch.einsum("tbk,bkhw->bthw", gradient.mean((3, 4)), activation).clamp(min=0).detach()
    torch.testing.assert_close(latent_attention(model, X, "conv", size="layer"), expected)
    assert torch.equal(latent_attention(model, X), latent_attention(model, X, "conv"))
    if name != "mu":
        pair = latent_attention(Foreign(WRAPS["(mu, logvar)"]).eval(), X, target="kl")
        torch.testing.assert_close(latent_attention(model, X, target="kl"), pair)


def test_what_states_its_code_is_taken_out_of_a_tuple() -> None:
    prior, likelihood = torch.distributions.Normal(torch.zeros(1, D), 1.0), torch.distributions.Normal(X, 1.0)
    posterior = SimpleNamespace(mean=MU, logvar=LOGVAR)
    outputs: list[Any] = [
        (RECON, posterior),
        (RECON, X, posterior, LOSS),
        (posterior,),
        (likelihood, prior, posterior, Z),
        (Z, (MU, LOGVAR)),
        (RECON, X, [MU, LOGVAR]),
        (MU, LOGVAR, [RECON, X]),
        (RECON, {"z_mean": MU, "z_log_var": LOGVAR}),
    ]
    for output in outputs:
        code = code_of(output)
        assert code.mean is MU
        assert code.logvar is LOGVAR
    assert code_of((RECON, NORMAL)).mean is MU
    assert code_of((RECON, SimpleNamespace(mean=GRID, logvar=GRID_LOGVAR))).mean is GRID


# --- what a decoder may return


SHAPE = (2, 1, 4, 4)
PICTURES = torch.rand(SHAPE)


class Odd(nn.Module):
    def __init__(self, decoded: Any) -> None:
        super().__init__()
        self.decoded = decoded

    def decode(self, z: Tensor) -> Any:
        return self.decoded


@pytest.mark.parametrize(
    "decoded",
    [
        PICTURES,
        PICTURES.flatten(1),
        (PICTURES,),
        (torch.rand(2, 3), PICTURES),
        {"recon": PICTURES},
        SimpleNamespace(sample=PICTURES),
        SimpleNamespace(sample=lambda: None, mean=PICTURES),
        torch.distributions.Normal(PICTURES, 1.0),
        (torch.distributions.Normal(PICTURES, 1.0), torch.rand(2, 3)),
    ],
)
def test_pictures_are_found_in_what_a_decoder_returns(decoded: Any) -> None:
    found = reconstruction_of(Odd(decoded), torch.zeros(2, 3), SHAPE)
    assert found is not None
    assert torch.equal(found, PICTURES)


@pytest.mark.parametrize("decoded", [None, torch.rand(2, 1, 8, 8), torch.rand(2, 3), {"logits": PICTURES}, ()])
def test_what_is_no_picture_of_the_images_is_not_taken(decoded: Any) -> None:
    assert reconstruction_of(Odd(decoded), torch.zeros(2, 3), SHAPE) is None
    assert reconstruction_of(nn.Identity(), torch.zeros(2, 3), SHAPE) is None


@pytest.mark.parametrize("dims", [2, 4])
def test_three_alike_in_a_row_are_told_of(dims: int) -> None:
    """Nothing in (z, mean, logvar) tells it from (mean, logvar, z)."""
    a, b, c = (part if dims == 2 else part[..., None, None].expand(*part.shape, 2, 3) for part in (MU, LOGVAR, Z))
    images = torch.rand(len(a), 3, 8, 8)
    for output in ((a, b, c), (images, a, b, c), (images, [a, b, c])):
        with pytest.warns(UserWarning, match="3 tensors of one shape side by side, and the first two were taken"):
            code = code_of(output)
        assert code.mean is a
        assert code.logvar is b
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for clear in ((a, b), (images, a, b), (images, images, images, a, b), {"z": a, "mean": b, "logvar": c}):
            code_of(clear)
