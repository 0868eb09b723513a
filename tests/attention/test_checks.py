"""What a call is given by mistake is answered in one sentence, and what is given in another form is understood."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.distributions import Categorical, Cauchy, Independent, Normal
from torch.nn import functional as F

from vaex.attention import (
    IntegratedGradients,
    Mean,
    NormalDifference,
    Sample,
    SmoothGradient,
    attention_maps,
    latent_attention,
)
from vaex.attention.latent import check_options
from vaex.attention.layers import default_layer
from vaex.attention.values import over_cells
from vaex.errors import VaexError
from vaex.exporting.parts import Request

X = torch.rand(3, 1, 16, 16, generator=torch.Generator().manual_seed(0))


def small(latents: int = 5) -> Any:
    torch.manual_seed(1)
    return nn.Sequential(
        nn.Conv2d(1, 8, 4, 2, 1), nn.ReLU(), nn.Conv2d(8, 8, 3, 1, 1), nn.ReLU(), nn.Flatten(), nn.Linear(512, latents)
    )


def sentence_of(model: Any, images: Tensor = X, layer: Any = "1", **options: Any) -> str:
    with pytest.raises(VaexError) as error:
        latent_attention(model, images, layer, **options)
    sentence = str(error.value)
    assert sentence.endswith(".")
    assert ". " not in sentence
    return sentence


# --- options


@pytest.mark.parametrize("chunk", ["auto", 2.5, True, 0, -1])
def test_a_chunk_that_is_no_number_of_targets(chunk: Any) -> None:
    for options in ({}, {"method": "gradient"}, {"method": "score_cam"}, {"layer": ["0", "2"]}):
        sentence = sentence_of(small(), chunk=chunk, **options)
        assert sentence == f"chunk must be at least 1 target per backward pass, a whole number, got {chunk!r}."
    with pytest.raises(VaexError, match="chunk must be at least 1"):
        attention_maps(torch.rand(1, 1, 2, 2), torch.rand(1, 1), chunk=chunk)


@pytest.mark.parametrize(
    ("make", "told"),
    [
        (lambda: IntegratedGradients(2.5), "integrated_gradients needs a whole number of at least 1 step, got 2.5"),  # type: ignore[arg-type]
        (lambda: SmoothGradient(n=2.5), "smooth_gradient needs n >= 1, a whole number, got 2.5"),  # type: ignore[arg-type]
        (lambda: SmoothGradient(seed=0.5), "smooth_gradient needs a seed >= 0, a whole number, got 0.5"),  # type: ignore[arg-type]
        (lambda: SmoothGradient(deviation="x"), "deviation of smooth_gradient must be a number"),  # type: ignore[arg-type]
        (lambda: SmoothGradient(deviation=float("nan")), "deviation of smooth_gradient must be a number"),
        (lambda: Sample(1.5), "target 'sample' needs a whole number n of at least 1 draw, got 1.5"),  # type: ignore[arg-type]
        (lambda: NormalDifference(n=True), "target 'normal_difference' needs a whole number n"),
    ],
)
def test_parameters_that_are_no_numbers(make: Any, told: str) -> None:
    with pytest.raises(VaexError, match=told):
        make()


def test_a_class_in_the_place_of_its_object() -> None:
    assert "got the class Mean; write Mean(...)" in sentence_of(small(), target=Mean)
    assert "got the class Sample; write Sample(...)" in sentence_of(small(), target=Sample)
    told = sentence_of(small(), method=IntegratedGradients)
    assert told.startswith("method must be a name")
    assert "got the class IntegratedGradients; write IntegratedGradients(...)" in told


@pytest.mark.parametrize("images", [X, torch.rand(5, 1, 16, 16)])  # as many images as latents, too
@pytest.mark.parametrize(
    "method",
    [
        lambda a, g: torch.einsum("tbkhw,bkhw->bthw", g, a),
        lambda a, g: g.sum((-2, -1)),
        lambda a, g: g.sum(2)[..., :1],
        lambda a, g: 3.0,
    ],
)
def test_a_method_of_your_own_that_returns_another_shape(method: Any, images: Tensor) -> None:
    assert "A method must return maps (t, B, h, w) = " in sentence_of(small(), images, method=method)


@pytest.mark.parametrize("count", [1, 3, 5])
def test_a_method_of_your_own_in_the_right_shape(count: int) -> None:
    images = torch.rand(count, 1, 16, 16)
    found = latent_attention(small(), images, "1", method=lambda a, g: (g * a).sum(2))
    torch.testing.assert_close(found, latent_attention(small(), images, "1", method="hires_cam"))


@pytest.mark.parametrize("mask", [[True, False], torch.tensor([True, False, True]), 3, [1.0], "01"])
def test_latents_that_are_no_list_of_numbers(mask: Any) -> None:
    """A mask would be read as latents 0 and 1."""
    assert sentence_of(small(), latents=mask).startswith("latents must be a list of whole numbers such as [0, 3], got ")


def test_complex_numbers() -> None:
    """torch would drop the imaginary part."""
    assert "complex64" in sentence_of(small(), X.to(torch.complex64))
    assert "return its real part" in sentence_of(small(), target=lambda out: out.to(torch.complex64))


def test_latents_may_come_once() -> None:
    found = latent_attention(small(), X, "1", latents=iter([0, 3]))  # type: ignore[arg-type]
    torch.testing.assert_close(found, latent_attention(small(), X, "1")[:, [0, 3]])


@pytest.mark.parametrize("method", ["grad_cam", "gradient"])
def test_a_reduction_by_a_wrong_name_is_told_though_there_is_no_grid(method: str) -> None:
    assert "Unknown reduction of a latent grid 'foo'" in sentence_of(small(), reduce="foo", method=method)
    with pytest.raises(VaexError, match="did you mean 'max'"):
        over_cells(torch.rand(2, 3), "amax")
    assert latent_attention(small(), X, "1", reduce=(4, 4)).shape == (
        3,
        5,
        16,
        16,
    )  # a cell of a grid that is not there


def test_options_by_unknown_names() -> None:
    for make in (lambda: check_options({"lyer": "conv1"}), lambda: Request("attention", {"lyer": "conv1"})):
        with pytest.raises(VaexError, match="Unknown attention option 'lyer': did you mean 'layer'"):
            make()
    check_options({"layer": None, "latents": [1], "chunk": 2, "fuse": "mean"})
    with pytest.raises(VaexError, match="Unknown attention option 'images'"):
        check_options({"images": X})


# --- models


@pytest.mark.parametrize("layer", ["0", None])
def test_scripted_traced_and_exported_models(layer: str | None) -> None:
    model = small().eval()
    for other in (torch.jit.script(model), torch.jit.trace(model, X)):
        assert "scripted or traced by torch.jit" in sentence_of(other, layer=layer)
    exported = torch.export.export(model, (X,)).module()
    assert "exported by torch.export" in sentence_of(exported, layer=layer)
    assert "exported by torch.export" in sentence_of(nn.Sequential(nn.Identity(), exported), layer=layer)


def test_a_scripted_part_may_be_there_but_not_be_read() -> None:
    start = nn.Conv2d(1, 1, 3, 1, 1)
    mixed = nn.Sequential(start, torch.jit.script(small()))
    for layer in ("1.0", "1"):
        assert "scripted or traced by torch.jit and cannot be read" in sentence_of(mixed, layer=layer)
    plain = nn.Sequential(start, small())
    torch.testing.assert_close(latent_attention(mixed, X, "0"), latent_attention(plain, X, "0"))


class Patches(nn.Module):
    """Four patches of every image, one by one, then all together."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.start, self.patch, self.head = nn.Conv2d(1, 1, 3, 1, 1), nn.Conv2d(1, 2, 3, 1, 1), nn.Linear(512, 3)

    def forward(self, x: Tensor) -> Tensor:
        patches = self.start(x).unfold(2, 8, 8).unfold(3, 8, 8).reshape(4 * len(x), 1, 8, 8)
        code: Tensor = self.head(self.patch(patches).relu().reshape(len(x), -1))
        return code


def test_a_layer_that_sees_patches_has_no_map_of_the_image() -> None:
    for options in ({}, {"create_graph": True}, {"method": "score_cam"}):
        assert "Layer 'patch' gives 12 activations for 3 images" in sentence_of(Patches(), layer="patch", **options)
    model = Patches()
    assert default_layer(model, model, lambda out: out, X[:1]) == "start"
    assert latent_attention(Patches(), X).shape == (3, 3, 16, 16)


class Recordless(nn.Module):
    """A model that encodes in inference mode."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    @torch.inference_mode()
    def encode(self, x: Tensor) -> Any:
        return self.inner(x)


@pytest.mark.parametrize("layer", ["inner.1", None])
@pytest.mark.parametrize("options", [{}, {"method": "gradient"}, {"create_graph": True}, {"method": "hires_cam"}])
def test_an_encode_in_inference_mode_is_named(layer: str | None, options: dict[str, Any]) -> None:
    told = sentence_of(Recordless(small()), layer=layer, **options)
    assert "the model encodes inside torch.inference_mode" in told


def test_score_cam_needs_no_gradient() -> None:
    found = latent_attention(Recordless(small()), X, "inner.1", method="score_cam")
    torch.testing.assert_close(found, latent_attention(small(), X, "1", method="score_cam"))


def test_a_loss_in_inference_mode_is_named() -> None:
    with torch.inference_mode():
        assert "torch.inference_mode records none" in sentence_of(small(), create_graph=True)
        made = torch.rand(1, 1, 16, 16)
    assert "images that were not made in it" in sentence_of(small(), made, create_graph=True)
    assert latent_attention(small(), made.clone(), "1", create_graph=True).requires_grad


@pytest.mark.parametrize("method", ["grad_cam", "gradient"])
@pytest.mark.parametrize("dtype", [torch.uint8, torch.float64, torch.float16])
def test_images_of_a_type_that_the_model_does_not_take(dtype: torch.dtype, method: str) -> None:
    told = sentence_of(small(), (X * 255).to(dtype), method=method, create_graph=True)
    assert f"images stay {dtype}, which a model with weights of torch.float32 does not take" in told


def test_a_model_that_converts_its_images_is_let_be() -> None:
    class Bytes(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.net = small()

        def forward(self, x: Tensor) -> Tensor:
            code: Tensor = self.net(x.float() / 255)
            return code

    x = (X * 255).to(torch.uint8)
    found = latent_attention(Bytes(), x, "net.1", create_graph=True)
    torch.testing.assert_close(found, latent_attention(small(), x.float() / 255, "1", create_graph=True))
    with torch.autocast("cpu", torch.bfloat16):  # this converts as well
        assert latent_attention(small(), X.bfloat16(), "1", create_graph=True).requires_grad


# --- outputs


@pytest.mark.parametrize(
    "make", [lambda h: Categorical(logits=h), lambda h: Cauchy(h, 1.0), lambda h: Independent(Cauchy(h, 1.0), 1)]
)
@pytest.mark.parametrize("layer", ["net.1", None])
def test_a_distribution_without_a_mean_is_named(make: Any, layer: str | None) -> None:
    class Distributed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.net = small()

        def forward(self, x: Tensor) -> Any:
            return make(self.net(x))

    told = sentence_of(Distributed(), layer=layer)
    assert f"returns a {type(make(torch.ones(1, 2))).__name__}, which has no mean that could be a code" in told


def test_a_likelihood_without_a_mean_beside_the_posterior() -> None:
    class Both(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.net = small()

        def forward(self, x: Tensor) -> Any:
            return Categorical(logits=torch.ones(len(x), 7)), Normal(self.net(x), 1.0)

    torch.testing.assert_close(latent_attention(Both(), X, "net.1"), latent_attention(small(), X, "1"))


# --- fused attention, whose backward pass has no derivative


class Attending(nn.Module):
    """A convolution, attention over its cells, and a head."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(2)
        self.conv, self.qkv, self.head = nn.Conv2d(1, 8, 4, 4), nn.Linear(8, 24), nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        tokens = self.conv(x).flatten(2).transpose(1, 2)[:, None]  # (B, 1, 16, 8)
        attended = F.scaled_dot_product_attention(*self.qkv(tokens).chunk(3, -1))
        code: Tensor = self.head(attended.mean((1, 2)))
        return code


def test_a_loss_through_fused_attention() -> None:
    """The gradient of the loss by the image against finite differences."""
    model, x = Attending().double(), X[:1].double()
    x.requires_grad_()
    maps = latent_attention(model, x, "conv", rectify="none", create_graph=True)
    (found,) = torch.autograd.grad(maps.square().sum(), x)
    for row, column in ((0, 0), (7, 12)):
        step = torch.zeros_like(x)
        step[..., row, column] = 1e-5
        up, down = (
            latent_attention(model, x.detach() + sign * step, "conv", rectify="none").square().sum()
            for sign in (1.0, -1.0)
        )
        assert float(found[0, 0, row, column]) == pytest.approx(float((up - down) / 2e-5), rel=1e-5, abs=1e-12)
