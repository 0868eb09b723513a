"""Finding a layer by its name, and choosing one where none is given."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from vaex.attention import latent_attention
from vaex.attention.layers import default_layer, resolve_layer
from vaex.attention.outputs import code_of
from vaex.errors import VaexError

X = torch.rand(3, 1, 16, 16, generator=torch.Generator().manual_seed(0))


class Net(nn.Module):
    """Two convolutions and a linear code; ``between`` is what happens to the first one's output."""

    def __init__(self, between: Callable[[Tensor], Tensor] = F.relu) -> None:
        super().__init__()
        torch.manual_seed(1)
        self.conv1, self.conv2 = nn.Conv2d(1, 4, 4, 2, 1), nn.Conv2d(4, 4, 4, 2, 1)
        self.act = nn.ReLU()
        self.fc = nn.Linear(64, 3)
        self.between = between

    def forward(self, x: Tensor) -> Tensor:
        code: Tensor = self.fc(self.act(self.conv2(self.between(self.conv1(x)))).flatten(1))
        return code


def with_decoder(encode: bool) -> nn.Module:
    """A VAE of someone else: (recon, mu, logvar), the decoder ending in a transposed convolution."""

    class Foreign(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.encoder, self.decoder = Net(), nn.Sequential(nn.Linear(3, 64), nn.Unflatten(1, (4, 4, 4)))
            self.decoder.append(nn.ConvTranspose2d(4, 1, 4, 4))

        def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
            mu = self.encoder(x)
            return self.decoder(mu), mu, mu * 0.1

    foreign = Foreign()
    if encode:
        object.__setattr__(foreign, "encode", lambda x: foreign(x)[1:])
    return foreign


# --- names


def test_names() -> None:
    model = nn.ModuleDict({"encoder": Net(), "decoder": nn.ModuleDict({"conv2": nn.Linear(1, 1), "out": nn.ELU()})})
    assert resolve_layer(model, "encoder.conv1") == "encoder.conv1"
    assert resolve_layer(model, "conv1") == "encoder.conv1"
    assert resolve_layer(model, "conv2") == "encoder.conv2"  # of two, the encoder's
    assert resolve_layer(model, "decoder.conv2") == "decoder.conv2"
    assert resolve_layer(nn.ModuleDict({"net": model}), "conv2") == "net.encoder.conv2"
    assert resolve_layer(nn.ModuleDict({"net": model}), "out") == "net.decoder.out"


def test_ambiguous_name_lists_the_candidates() -> None:
    model = nn.ModuleDict({"a": Net(), "b": Net()})
    with pytest.raises(VaexError, match=r"ambiguous: write one of a\.conv1, b\.conv1\."):
        resolve_layer(model, "conv1")


@pytest.mark.parametrize(("wrong", "right"), [("cnov1", "conv1"), ("encoder.con2", "encoder.conv2")])
def test_unknown_layer_lists_the_valid_ones(wrong: str, right: str, vae: Any) -> None:
    with pytest.raises(VaexError) as error:
        latent_attention(vae("conv"), torch.rand(1, 1, 32, 32), wrong)
    sentence = str(error.value)
    assert f"Layer '{wrong}' does not exist in VAE: did you mean '{right}'?" in sentence
    assert "encoder.conv1, encoder.relu1, encoder.conv2" in sentence
    assert "decoder.deconv1" in sentence


def test_long_lists_end() -> None:
    with pytest.raises(VaexError, match=r"98, \.\.\.\.$|59, \.\.\.\.$"):
        resolve_layer(nn.Sequential(*(nn.ELU() for _ in range(99))), "x")


# --- the choice without a name


@pytest.mark.parametrize(
    ("network", "layer"), [("mnist", "conv2"), ("factor_vae", "conv4"), ("conv", "conv3"), ("conv_batch", "conv3")]
)
def test_default_is_the_last_convolution_of_the_encoder(network: str, layer: str, vae: Any, images: Any) -> None:
    model, x = vae(network), images(network)
    assert torch.equal(latent_attention(model, x), latent_attention(model, x, f"encoder.{layer}"))


@pytest.mark.parametrize("encode", [True, False])
def test_default_lies_before_the_code_though_the_decoder_runs_later(encode: bool) -> None:
    model = with_decoder(encode)
    found = latent_attention(model, X, rectify="abs")
    assert torch.equal(found, latent_attention(model, X, "encoder.conv2", rectify="abs"))
    assert float(found.amax()) > 0


def test_default_follows_the_order_of_calls_not_of_definition() -> None:
    class Backwards(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.last, self.first = nn.Conv2d(3, 2, 3), nn.Conv2d(1, 3, 3)

        def forward(self, x: Tensor) -> Tensor:
            code: Tensor = self.last(self.first(x).relu()).mean((2, 3))
            return code

    model = Backwards()
    assert default_layer(model, model, lambda out: out, X[:1]) == "last"


class Grid(nn.Module):
    """Latent grids from one head that is split, or from two heads of which the second is the log-variance."""

    def __init__(self, split: bool) -> None:
        super().__init__()
        torch.manual_seed(2)
        self.body = nn.Conv2d(1, 4, 4, 4)
        self.mu, self.logvar, self.both = (nn.Conv2d(4, c, 1) for c in (3, 3, 6))
        self.split = split

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        hidden = self.body(x).tanh()
        return self.both(hidden).chunk(2, 1) if self.split else (self.mu(hidden), self.logvar(hidden))


@pytest.mark.parametrize("split", [True, False])
def test_default_is_not_the_code_itself_nor_the_log_variance(split: bool) -> None:
    model = Grid(split)
    assert default_layer(model, model, lambda out: code_of(out).mean, X[:1]) == "body"


def test_default_skips_what_leads_nowhere_has_one_cell_or_runs_twice() -> None:
    class Odd(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.good, self.twice = nn.Conv2d(1, 2, 4, 4), nn.Conv2d(2, 2, 3, 1, 1)
            self.detached, self.aside, self.one = nn.Conv2d(2, 2, 1), nn.Conv2d(2, 2, 1), nn.Conv2d(2, 3, 4)

        def forward(self, x: Tensor) -> Tensor:
            hidden = self.twice(self.twice(self.good(x)))
            hidden = hidden + self.detached(hidden).detach()
            self.aside(hidden)
            code: Tensor = self.one(hidden).flatten(1)
            return code

    model = Odd()
    assert default_layer(model, model, lambda out: out, X[:1]) == "good"


def test_no_convolution_at_all_is_told() -> None:
    model = nn.Sequential(nn.Flatten(), nn.Linear(256, 2))
    with pytest.raises(VaexError, match="Sequential has no convolution before its code with more than one cell"):
        latent_attention(model, X)
