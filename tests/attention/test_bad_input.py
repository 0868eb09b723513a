"""What a foreign model and its user get wrong is answered in one sentence that names the thing and the way out."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from vaex.attention import latent_attention
from vaex.errors import VaexError


class Posterior:
    """A posterior as a class of the user's own, neither tuple nor mapping."""

    def __init__(self, mean: Tensor, logvar: Tensor) -> None:
        self.mean, self.logvar = mean, logvar


class Result:
    """What the encoder below returns."""

    def __init__(self, posterior: Posterior) -> None:
        self.posterior = posterior


class Trunk(nn.Module):
    """Convolutions with batch-norm and a block, as in many encoders."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 4, 3, 2, 1)
        self.norm = nn.BatchNorm2d(4)
        self.block = nn.Sequential(nn.Conv2d(4, 6, 3, 2, 1), nn.LeakyReLU(0.1))

    def forward(self, x: Tensor) -> Tensor:
        hidden: Tensor = self.block(torch.tanh(self.norm(self.stem(x))))
        return hidden


class Own(nn.Module):
    """A latent-grid VAE (B, 2, 4, 4) of images (B, 3, 16, 16) with an ``encode`` of its own kind of result."""

    def __init__(self, between: Callable[[Tensor], Tensor] = lambda hidden: hidden) -> None:
        super().__init__()
        torch.manual_seed(3)
        self.trunk, self.heads, self.between = Trunk(), nn.Conv2d(6, 4, 1), between
        self.pool, self.decoder = nn.Flatten(), nn.Sequential(nn.ConvTranspose2d(2, 3, 4, 4))

    def encode(self, x: Tensor) -> Result:
        hidden = self.between(self.trunk(x))
        self.pool(hidden)
        mean, logvar = self.heads(hidden).chunk(2, 1)
        return Result(Posterior(mean, logvar))

    def decode(self, z: Tensor) -> Tensor:
        images: Tensor = self.decoder(z)
        return images


def pictures(count: int = 3) -> Tensor:
    return torch.rand(count, 3, 16, 16, generator=torch.Generator().manual_seed(4))


def sentence_of(model: nn.Module, *args: Any, **options: Any) -> str:
    """Return the answer to a bad call: one sentence, and the model as it was."""
    before = [(len(module._forward_hooks), module.training) for module in model.modules()]
    with pytest.raises(VaexError) as error:
        latent_attention(model, pictures(), *args, **options)
    assert [(len(module._forward_hooks), module.training) for module in model.modules()] == before
    sentence = str(error.value)
    assert sentence.endswith(".")
    assert "\n" not in sentence
    assert ". " not in sentence
    return sentence


# --- layers


@pytest.mark.parametrize(
    ("layer", "nearest"),
    [("trunk.blok", "trunk.block"), ("stm", "stem"), ("Norm", "norm"), ("trunk.block1", "trunk.block.1")],
)
def test_an_unknown_layer_is_answered_with_the_nearest(layer: str, nearest: str) -> None:
    sentence = sentence_of(Own(), layer)
    assert f"Layer '{layer}' does not exist in Own: did you mean '{nearest}'?" in sentence
    assert "valid names are trunk.stem, trunk.norm, trunk.block.0, trunk.block.1, heads" in sentence


@pytest.mark.parametrize("create_graph", [False, True])
def test_a_layer_of_the_decoder_did_not_run(create_graph: bool) -> None:
    sentence = sentence_of(Own().eval(), "decoder.0", create_graph=create_graph)
    assert sentence == ("Layer 'decoder.0' did not run when the images were encoded; choose a layer of the encoder.")


def test_a_layer_beside_the_way_to_the_code_has_no_gradient() -> None:
    model = Own()
    model.add_module("aside", nn.Conv2d(6, 2, 1))
    model.between = lambda hidden: hidden + 0 * model.get_submodule("aside")(hidden).detach().mean()
    assert "no gradient path to the layer" in sentence_of(model, "aside")


def test_a_layer_without_cells_is_told_with_its_shape() -> None:
    assert "Layer 'pool' gives (3, 96), but a map needs an activation (B, K, h, w)" in sentence_of(Own(), "pool")


class Detached(nn.Module):
    """A module that cuts the graph, as the straight part of a quantiser does."""

    def forward(self, hidden: Tensor) -> Tensor:
        return hidden.detach()


@pytest.mark.parametrize("between", [Detached(), torch.no_grad()(lambda hidden: hidden * 1)])
def test_a_detached_module_between_layer_and_code(between: Callable[[Tensor], Tensor]) -> None:
    model = Own(between)
    assert "detaches (no_grad, detach, argmax) between them" in sentence_of(model, "trunk")
    assert "no convolution before its code" in sentence_of(model)  # heads give the code, what is before is cut off


# --- compiled, in training, in half precision


@pytest.mark.parametrize("part", ["the model", "the trunk", "its encode"])
def test_compiled_parts_change_no_map(part: str) -> None:
    x, expected = pictures(), latent_attention(Own(), pictures(), "block", rectify="none")
    model: Any = Own().eval()
    if part == "the model":
        model = torch.compile(model, backend="eager")
    elif part == "the trunk":
        model.trunk = torch.compile(model.trunk, backend="eager")
    else:
        model.encode = torch.compile(model.encode, backend="eager")
    model.encode(x)
    for layer in ("block", "trunk.block"):
        torch.testing.assert_close(latent_attention(model, x, layer, rectify="none"), expected)
    assert latent_attention(model, x).shape == (3, 2, 16, 16)
    with pytest.raises(VaexError, match=r"Layer 'blok' does not exist in Own: did you mean 'block'\?"):
        latent_attention(model, x, "blok")


def test_batch_norm_in_training_mode_is_switched_and_switched_back() -> None:
    model = Own().train()
    model.encode(pictures())  # moves the running statistics
    buffers = {name: buffer.clone() for name, buffer in model.named_buffers()}
    found = latent_attention(model, pictures(), "stem", rectify="none")
    assert all(module.training for module in model.modules())
    assert all(torch.equal(buffer, buffers[name]) for name, buffer in model.named_buffers())
    alone = torch.cat([latent_attention(model, x[None], "stem", rectify="none") for x in pictures()])
    torch.testing.assert_close(found, alone)
    torch.testing.assert_close(found, latent_attention(model.eval(), pictures(), "stem", rectify="none"))


def test_batch_norm_in_training_mode_is_refused_for_a_loss() -> None:
    model = Own().train()
    sentence = sentence_of(model, "stem", create_graph=True)
    assert "Batch-norm layer 'trunk.norm' in training mode couples the images of a batch" in sentence
    assert "call .eval()" in sentence
    model.trunk.norm.eval()  # the layer alone, as the sentence says
    assert latent_attention(model, pictures(), "stem", create_graph=True).requires_grad


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float16, 0.02), (torch.bfloat16, 0.1)])
def test_half_precision_weights(dtype: torch.dtype, tolerance: float) -> None:
    """Maps in single precision, near those of the same weights in single precision."""
    model = Own().eval().to(dtype)
    for layer in ("stem", "block"):
        found = latent_attention(model, pictures(), layer, target="kl", rectify="none")
        assert found.dtype == torch.float32
        twin = Own().eval()
        twin.load_state_dict({name: value.float() for name, value in model.state_dict().items()})
        expected = latent_attention(twin, pictures(), layer, target="kl", rectify="none")
        largest = float(expected.abs().amax())
        torch.testing.assert_close(found.float(), expected, rtol=0, atol=tolerance * largest)
    assert next(model.parameters()).dtype == dtype


class Grid(nn.Module):
    """A latent grid as large as those of latent diffusion, of a narrow posterior as theirs."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.stem, self.code = nn.Conv2d(1, 4, 3, 1, 1), nn.Conv2d(4, 4, 1)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        mean, spread = self.code(self.stem(x).relu()).chunk(2, 1)
        return 20 * mean + 30, spread - 20


@pytest.mark.parametrize("target", ["mean", "logvar", "kl", "sum", "total_kl", "sample"])
def test_sums_over_a_large_grid_do_not_outgrow_half_precision(target: str) -> None:
    """64 x 64 cells of log-variance -20 are beyond the 65504 of fp16."""
    images = torch.rand(2, 1, 64, 64, generator=torch.Generator().manual_seed(0))
    model = Grid().half()
    twin = Grid()
    twin.load_state_dict({name: value.float() for name, value in model.state_dict().items()})
    found, expected = (latent_attention(one, images, "stem", target=target, rectify="none") for one in (model, twin))
    torch.testing.assert_close(found, expected, rtol=0, atol=0.02 * float(expected.abs().amax()))


# --- targets and images


@pytest.mark.parametrize(
    ("target", "got"),
    [
        (lambda output: output, "Result"),
        (lambda output: output.posterior, "Posterior"),
        (lambda output: output.posterior.mean, r"\(3, 2, 4, 4\)"),
        (lambda output: output.posterior.mean[:, 0], r"\(3, 4, 4\)"),
        (lambda output: output.posterior.mean.mean(), r"\(\)"),
        (lambda output: output.posterior.mean.mean((1, 2, 3)), r"\(3,\)"),
        (lambda output: output.posterior.mean.sum((2, 3))[:, :0], r"\(3, 0\)"),
        (lambda output: output.posterior.mean.sum((2, 3)).T, r"\(2, 3\)"),
        (lambda output: output.posterior.mean.sum((2, 3))[:1], r"\(1, 2\)"),
        (lambda output: (output.posterior.mean.sum((2, 3)),), "tuple"),
        (lambda output: None, "NoneType"),
        (lambda output: 1.0, "float"),
    ],
)
def test_a_callable_target_of_a_wrong_shape(target: Any, got: str) -> None:
    sentence = sentence_of(Own(), "block", target=target)
    assert sentence.startswith("A target must return")
    assert "(B, T)" in sentence
    with pytest.raises(VaexError, match=f"got {got}"):
        latent_attention(Own(), pictures(), "block", target=target)


@pytest.mark.parametrize(
    "target", [lambda output: output.posterior.mean.sum((2, 3)).detach(), lambda output: torch.ones(3, 2)]
)
def test_a_callable_target_without_a_gradient(target: Any) -> None:
    assert "no gradient path to the layer" in sentence_of(Own(), "block", target=target)


class Silent(Own):
    """A model whose result has no name that is known."""

    def encode(self, x: Tensor) -> Any:
        return {"code": super().encode(x).posterior.mean, "scale": 1.0}


def test_an_output_without_a_known_name_is_answered_with_the_ways_out() -> None:
    for layer in (None, "block"):
        sentence = sentence_of(Silent(), layer)
        assert "No latent code found in the model's output of type dict" in sentence
        assert "name a layer and give target= a function of the output" in sentence
    found = latent_attention(Silent(), pictures(), "block", target=lambda output: output["code"].sum((2, 3)))
    assert torch.equal(found, latent_attention(Own(), pictures(), "block"))


def test_a_mean_alone_has_no_kl() -> None:
    class Alone(Own):
        def encode(self, x: Tensor) -> Any:
            return super().encode(x).posterior.mean

    for target in ("kl", "logvar", "sample", "total_kl"):
        sentence = sentence_of(Alone(), "block", target=target)
        assert "needs a log-variance, but the model returns only a mean; use target='mean'" in sentence


@pytest.mark.parametrize(
    ("reduce", "told"),
    [
        ("mean", "Unknown reduction of a latent grid 'mean': did you mean 'max'?"),
        ((4, 0), "outside"),
        ((0,), "outside"),
    ],
)
def test_a_reduction_that_the_grid_has_not(reduce: Any, told: str) -> None:
    assert told in sentence_of(Own(), "block", reduce=reduce)


@pytest.mark.parametrize("images", [pictures().numpy(), [pictures()], {"data": pictures()}])
def test_images_that_are_no_tensor(images: Any) -> None:
    with pytest.raises(VaexError, match=r"Images must be .*\(B, C, H, W\)"):
        latent_attention(Own(), images, "block")


def test_a_model_that_is_no_module() -> None:
    with pytest.raises(VaexError, match=r"nn\.Module"):
        latent_attention(Own().encode, pictures(), "block")  # type: ignore[arg-type]


class Whole(Own):
    """Batch-norm in the decoder alone, beside the encoder of ``Own`` with its own one switched off."""

    def __init__(self) -> None:
        super().__init__()
        self.trunk.norm.eval()
        self.decoder.append(nn.BatchNorm2d(3))


def test_batch_norm_that_does_not_run_is_let_be() -> None:
    model = Whole()
    assert model.decoder[1].training
    found = latent_attention(model, pictures(), "stem", rectify="none", create_graph=True)
    torch.testing.assert_close(found.detach(), latent_attention(Own(), pictures(), "stem", rectify="none"))
    decoding = lambda output: model.decode(output.posterior.mean).flatten(1)[:, :2]  # noqa: E731
    told = sentence_of(model, "stem", target=decoding, create_graph=True)  # here it does run
    assert "Batch-norm layer 'decoder.1' in training mode couples the images of a batch" in told
    assert "or train with network.norm=group" in told


def test_batch_norm_without_statistics_is_refused_where_it_runs() -> None:
    model = Whole()
    model.decoder[1] = nn.BatchNorm2d(3, track_running_stats=False)
    assert latent_attention(model, pictures(), "stem").shape == (3, 2, 16, 16)
    model.trunk.norm = nn.BatchNorm2d(4, track_running_stats=False)
    for options in ({}, {"create_graph": True}, {"method": "gradient"}, {"layer": None}):
        sentence = sentence_of(model, **{"layer": "stem", **options})
        assert "Batch-norm layer 'trunk.norm'" in sentence
        assert "couples the images of a batch" in sentence
