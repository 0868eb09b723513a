"""Maps trained on pasted defects: closed forms of linear encoders, cross-entropy by hand, gradients by differences."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from vaex.attention.methods import signed_root
from vaex.build import build_model, build_objective
from vaex.data.anomalies import KINDS
from vaex.errors import VaexError
from vaex.networks import FeatureVAE
from vaex.objectives.synthetic import (
    SyntheticAttention,
    attention_energy,
    balanced_cross_entropy,
    direct_energy,
    naming_cross_entropy,
)
from vaex.objectives.terms import AFTER_TRAINING
from vaex.types import Batch

GRID: dict[str, Any] = {
    "name": "feature_grid",
    "shape": [1, 32, 32],
    "blocks": [0],
    "size": 32,
    "grid": 8,
    "latents": 16,
    "hidden": 5,
    "decoder_hidden": 6,
    "rank": 4,
}


def drawn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_the_attention_of_a_linear_code_is_its_length() -> None:
    """d(.5 |We|^2)/de * e summed over channels is (We)^T (We)."""
    features, encoder = drawn(2, 6, 3, 4).requires_grad_(), nn.Conv2d(6, 5, 1, bias=False).double()
    code = encoder(features)
    found = attention_energy(features, 0.5 * code.square().sum((1, 2, 3))[:, None])
    lengths = torch.einsum("dk,bkhw->bdhw", encoder.weight[:, :, 0, 0], features).norm(dim=1, keepdim=True)
    torch.testing.assert_close(found, lengths.square() / 6)
    torch.testing.assert_close(direct_energy(code).sum(1, keepdim=True) * 5, lengths.square())


def test_the_weights_learn_through_the_gradient_that_is_the_map() -> None:
    """The derivative of the loss by a weight, against the difference of two losses."""
    features, mask = drawn(1, 3, 2, 2).requires_grad_(), torch.tensor([[[[1.0, 0.0], [0.0, 0.1]]]])
    first = nn.Conv2d(3, 4, 1)
    encoder = nn.Sequential(first, nn.Tanh(), nn.Conv2d(4, 4, 1)).double()

    def loss() -> Tensor:
        maps = signed_root(attention_energy(features, 0.5 * encoder(features).square().sum((1, 2, 3))[:, None]))
        return balanced_cross_entropy(4 * maps - 1, mask, 0.15)

    weight = first.weight
    (found,) = torch.autograd.grad(loss(), [weight])
    for place in ((0, 0, 0, 0), (3, 2, 0, 0)):
        sides = []
        for step in (1e-5, -1e-5):
            with torch.no_grad():
                weight[place] += step
            sides.append(float(loss().detach()))
            with torch.no_grad():
                weight[place] -= step
        assert float(found[place]) == pytest.approx((sides[0] - sides[1]) / 2e-5, rel=1e-4)


def test_the_cross_entropy_gives_both_kinds_of_cells_half_the_weight() -> None:
    logits = torch.tensor([[[[2.0, -1.0, 0.5, 3.0]]]])
    share = torch.tensor([[[[0.15, 0.0, 0.0, 0.14]]]])
    normal = (math.log(1 + math.exp(-1.0)) + math.log(1 + math.exp(0.5))) / 2
    expected = 0.5 * math.log(1 + math.exp(-2.0)) + 0.5 * normal
    assert float(balanced_cross_entropy(logits, share, 0.15)) == pytest.approx(expected, rel=1e-6)
    alone = balanced_cross_entropy(logits, torch.zeros_like(share), 0.15)
    assert float(alone) == pytest.approx(0.5 * float(torch.nn.functional.softplus(logits).mean()), rel=1e-6)


def test_a_kind_is_named_by_its_share_of_the_energy() -> None:
    own = torch.tensor([[[[2.0, -1.0, 9.0]]], [[[0.0, 0.0, 5.0]]], [[[1.0, 1.0, 1.0]]]])
    whole = torch.tensor([[[[4.0, 3.0, 1.0]]], [[[0.0, 0.0, 9.0]]], [[[1.0, 1.0, 1.0]]]])
    cells = torch.tensor([[[[1.0, 1.0, 1.0]]], [[[0.0, 1.0, 0.0]]], [[[0.0, 0.0, 0.0]]]])
    first = (-math.log(2.01 / 4.03) - math.log(0.01 / 3.03) - 0) / 3  # more than the whole is certain
    second = math.log(3)  # nothing there: three kinds are as likely
    found = naming_cross_entropy(own, whole, 3, cells)
    assert float(found) == pytest.approx((first + second) / 2, rel=1e-5)
    assert float(naming_cross_entropy(own, whole, 3, torch.zeros_like(cells))) == 0


# On a feature VAE


def model() -> FeatureVAE:
    torch.manual_seed(0)
    built = build_model(GRID)
    assert isinstance(built, FeatureVAE)
    with torch.no_grad():  # not where training starts: there the hidden channels count for nothing
        built.encoder.get_submodule("mean").weight.add_(0.1 * torch.randn(16, 21, 1, 1))  # type: ignore[operator]
        built.encoder.get_submodule("logvar").weight.add_(0.1 * torch.randn(16, 16, 1, 1))  # type: ignore[operator]
    return built


def batch() -> Batch:
    images = torch.rand(3, 1, 32, 32, generator=torch.Generator().manual_seed(1))
    masks = torch.zeros(3, 1, 32, 32)
    masks[1, 0, 4:9, 8:20] = 1
    return {"image": images, "mask": masks, "label": torch.tensor([0, 1, 0])}


def run(vae: FeatureVAE, given: Batch, **options: Any) -> Any:
    objective = build_objective({"name": "synthetic_attention", **options})
    output = vae(given["image"], keep=objective.keep, sample=False)
    return objective, output, objective(given["image"], output, 0, given)


def test_the_map_that_is_trained_is_the_one_that_explains() -> None:
    from vaex.attention import latent_attention

    vae, given = model(), batch()
    objective, output, _ = run(vae, given)
    shown = latent_attention(
        vae, given["image"], "input", method="hires_cam", target="total_kl", rectify="root", size="layer"
    )
    torch.testing.assert_close(objective.maps(output).detach() * 4, shown, rtol=1e-4, atol=1e-4)  # 4 = sqrt(16)


@pytest.mark.parametrize("network", ["cells alike", "cells of two sizes"])
@pytest.mark.parametrize("kind", ["attention", "activation"])
def test_maps_of_several_layers_are_trained_as_their_sum_explains(kind: str, network: str) -> None:
    from vaex.attention import latent_attention

    given = batch()
    vae: Any
    if network == "cells alike":
        vae, layers = model(), ["input", "conv1"]
    else:
        torch.manual_seed(0)
        vae = build_model({"name": "conv", "shape": [1, 32, 32], "latents": 3, "width": 4, "depth": 3, "hidden": 8})
        layers = ["conv2", "conv1"]  # 8x8 and 16x16 cells, 8 and 4 channels
    objective, output, terms = run(vae, given, map=kind, layer=layers)
    found = objective.maps(output)
    options = {"attention": {"method": "hires_cam", "rectify": "root"}, "activation": {"method": "activation"}}[kind]
    size = tuple(found.shape[-2:])
    assert size == ((8, 8) if network == "cells alike" else (16, 16))
    shown = latent_attention(vae, given["image"], layers, target="total_kl", fuse="sum", size=size, **options)  # type: ignore[arg-type]
    factor = output.activations[layers[0]].shape[1] ** 0.5 if kind == "attention" else 1.0
    torch.testing.assert_close(found.detach() * factor, shown, rtol=1e-3, atol=3e-3 * float(shown.abs().max()))
    share = torch.nn.functional.adaptive_avg_pool2d(given["mask"], size)
    torch.testing.assert_close(terms.parts["defect"], balanced_cross_entropy(4 * found - 4, share, 0.15))


def test_the_weights_learn_through_the_maps_of_two_layers(monkeypatch: pytest.MonkeyPatch) -> None:
    """The derivative of the whole loss by a weight of the hidden layer, against the difference of two losses."""
    monkeypatch.setattr(Tensor, "float", Tensor.double)  # single precision would hide a small error in the difference
    vae, given = model().double(), batch()
    given = {**given, "image": given["image"].double()}
    weight = vae.encoder.get_submodule("mean").weight
    assert isinstance(weight, Tensor)
    (found,) = torch.autograd.grad(run(vae, given, layer=["input", "conv1"])[2].total, [weight])
    alone = torch.autograd.grad(run(vae, given, layer="input")[2].total, [weight])[0]
    for place in ((0, 17, 0, 0), (5, 20, 0, 0)):  # hidden channels follow the 16 of the features
        sides = []
        for step in (1e-5, -1e-5):
            with torch.no_grad():
                weight[place] += step
            sides.append(float(run(vae, given, layer=["input", "conv1"])[2].total.detach()))
            with torch.no_grad():
                weight[place] -= step
        assert float(found[place]) == pytest.approx((sides[0] - sides[1]) / 2e-5, rel=1e-4)
        assert float(found[place]) != pytest.approx(float(alone[place]), rel=2e-2)


@pytest.mark.parametrize("layer", [[], ["input", "input"]])
def test_layers_are_named_once(layer: list[str]) -> None:
    with pytest.raises(VaexError, match=r"objective\.layer must be a layer or a list of different ones"):
        SyntheticAttention(layer=layer)


def test_kinds_split_one_layer() -> None:
    with pytest.raises(VaexError, match=r"one layer; name one in objective\.layer"):
        SyntheticAttention(layer=["input", "conv1"], kinds=["noise", "flat"])


@pytest.mark.parametrize("kind", ["attention", "direct"])
def test_the_terms_add_up(kind: str) -> None:
    vae, given = model(), batch()
    features = vae.features(given["image"])
    given["clean"] = features[[0, 2, 2]]  # of another image, to be told from the features that are encoded
    objective, output, terms = run(vae, given, map=kind, elbo=0.5, beta=0.3, offset=-4.0)
    share = given["mask"].reshape(3, 1, 8, 4, 8, 4).mean((3, 5))
    logits = 4 * objective.maps(output) - 4
    defect = balanced_cross_entropy(logits, share, 0.15)
    reconstruction = -output.likelihood.log_prob(given["clean"]).mean()
    kl = output.kl.flatten(1).sum(1).mean()
    torch.testing.assert_close(terms.parts, {"defect": defect, "reconstruction": reconstruction, "kl": kl})
    torch.testing.assert_close(terms.total, defect + 0.5 * (reconstruction + 0.3 * kl) / (16 * 8 * 8))


@pytest.mark.parametrize("kind", ["attention", "direct"])
def test_latents_are_told_the_kind_of_a_defect(kind: str) -> None:
    """Against maps of single latents by a loop, of which kind 0 has the even ones and kind 1 the odd ones."""
    from vaex.attention import latent_attention

    vae, given = model(), batch()
    given["mask"][2, 0, 16:, 16:] = 1
    given["kind"] = torch.tensor([-1, KINDS.index("noise"), KINDS.index("flat")])
    names = ["noise", "flat"]
    _, output, terms = run(vae, given, map=kind, kinds=names, naming=0.7)
    plain = run(vae, given, map=kind)[2]
    torch.testing.assert_close({k: v for k, v in terms.parts.items() if k != "naming"}, plain.parts)
    torch.testing.assert_close(terms.total, plain.total + 0.7 * terms.parts["naming"])
    if kind == "attention":
        parts = latent_attention(
            vae, given["image"], "input", method="hires_cam", target="kl", rectify="none", size="layer"
        )
    else:
        parts = output.posterior.mean.detach().square()
    share = given["mask"].reshape(3, 1, 8, 4, 8, 4).mean((3, 5))[:, 0] >= 0.15
    costs = []
    for image, group in ((1, 0), (2, 1)):
        energy = parts[image] / 16
        own, whole = energy[group::2].sum(0).relu() + 0.01, energy.sum(0).relu() + 0.02
        costs.append(-(own / whole).clamp(max=1).log()[share[image]].mean())
    torch.testing.assert_close(terms.parts["naming"].detach(), torch.stack(costs).mean(), rtol=1e-3, atol=1e-4)
    terms.parts["naming"].backward()
    assert vae.get_parameter("encoder.mean.weight").grad.abs().sum() > 0  # type: ignore[union-attr]


def test_kinds_that_are_not_asked_for_do_not_count() -> None:
    vae, given = model(), batch()
    given["kind"] = torch.tensor([-1, KINDS.index("blurred"), -1])
    assert run(vae, given, kinds=["noise", "flat"])[2].parts["naming"].item() == 0
    given.pop("kind")
    with pytest.raises(VaexError, match="learns from the kind of pasted defects, which this data does not tell"):
        run(vae, given, kinds=["noise", "flat"])
    objective = SyntheticAttention(kinds=["noise", "flat"])
    output = vae(given["image"], keep=objective.keep, sample=False)
    assert "naming" not in objective(given["image"], output, AFTER_TRAINING, given).parts


def test_without_clean_images_the_normal_ones_are_reconstructed() -> None:
    vae, given = model(), batch()
    _, output, terms = run(vae, given)
    errors = -output.likelihood.log_prob(vae.features(given["image"]))
    torch.testing.assert_close(terms.parts["reconstruction"], errors[[0, 2]].mean())
    given["mask"][:] = 1
    assert run(vae, given)[2].parts["reconstruction"].item() == 0


@pytest.mark.parametrize("kind", ["attention", "direct"])
def test_the_loss_reaches_the_encoder_alone_where_the_elbo_is_off(kind: str) -> None:
    vae, given = model(), batch()
    run(vae, given, map=kind, elbo=0.0)[2].total.backward()
    for name in ("encoder.conv1.weight", "encoder.mean.weight"):
        assert vae.get_parameter(name).grad.abs().sum() > 0, name  # type: ignore[union-attr]
    still = vae.get_parameter("decoder.deconv1.weight").grad
    assert still is None or not still.any()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"map": "directly"}, "objective.map 'directly': did you mean 'direct'"),
        ({"target": "kl"}, "one value for an image, such as total_kl, got 'kl'"),
        ({"target": "total_lk"}, "did you mean 'total_kl'"),
        ({"elbo": -1.0}, "elbo, beta and naming must be 0 or more"),
        ({"naming": -1.0}, "elbo, beta and naming must be 0 or more"),
        ({"kinds": ["flat", "nois"]}, "did you mean 'noise'"),
        ({"kinds": ["flat"]}, "at least two different names"),
        ({"kinds": ["flat", "noise"], "target": "sum"}, "needs target=total_kl, got 'sum'"),
        ({"target": "kinds"}, "one value for an image, such as total_kl, got 'kinds'"),
        ({"least": 0.0}, r"least in \(0, 1\]"),
        ({"scale": 0.0}, "scale positive"),
    ],
)
def test_bad_options_are_told(options: dict[str, Any], message: str) -> None:
    with pytest.raises(VaexError, match=message):
        build_objective({"name": "synthetic_attention", **options})


def test_what_it_cannot_learn_from_is_told() -> None:
    vae, given = model(), batch()
    output = vae(given["image"], keep=("input",))
    with pytest.raises(VaexError, match="learns from masks, which this data has not"):
        SyntheticAttention()(given["image"], output, 0, {"image": given["image"]})
    vector = build_model({"name": "conv", "shape": [1, 32, 32], "latents": 3, "depth": 2})
    with pytest.raises(VaexError, match="map=direct reads a latent grid"):
        SyntheticAttention(map="direct")(given["image"], vector(given["image"]), 0, given)


def test_a_layer_read_directly_is_the_control_of_a_code_without_cells() -> None:
    from vaex.attention import latent_attention

    vae, given = build_model({"name": "conv", "shape": [1, 32, 32], "latents": 3, "depth": 2}), batch()
    objective, output, terms = run(vae, given, map="activation", layer="relu1", elbo=0.0)  # type: ignore[arg-type]
    expected = output.activations["relu1"].detach().square().mean(1, keepdim=True).sqrt()
    torch.testing.assert_close(objective.maps(output).detach(), expected)
    options: dict[str, Any] = {"method": "activation", "target": "sum", "rectify": "none", "size": "layer"}
    torch.testing.assert_close(latent_attention(vae, given["image"], "relu1", **options), expected)
    terms.total.backward()
    reached = {name for name, weight in vae.named_parameters() if weight.grad is not None and bool(weight.grad.any())}
    assert reached == {"encoder.conv1.weight", "encoder.conv1.bias"}


def test_batch_norm_is_refused_where_it_would_couple_the_attention() -> None:
    vae = build_model({"name": "conv", "shape": [1, 32, 32], "latents": 3, "depth": 2, "norm": "batch"})
    with pytest.raises(VaexError, match="Batch-norm layer 'norm1' in training mode couples the images"):
        build_objective({"name": "synthetic_attention", "layer": "conv2"}, vae)
    build_objective({"name": "synthetic_attention", "layer": "conv2", "map": "activation"}, vae)


def test_behind_a_normalisation_the_attention_sums_to_nothing() -> None:
    """A factor of what is normalised changes nothing: sum A dT/dA is the derivative by that factor."""
    activation = drawn(2, 4, 6, 6).requires_grad_()
    code = torch.tanh(nn.functional.group_norm(nn.functional.conv2d(activation, drawn(6, 4, 3, 3)), 2)).mean((2, 3))
    gradient = torch.autograd.grad(code.square().sum(), activation)[0]
    maps = (activation * gradient).sum(1)
    assert bool((maps.sum((1, 2)).abs() < 1e-4 * maps.abs().sum((1, 2))).all())


def test_a_vae_of_pixels_learns_at_any_layer() -> None:
    vae = build_model({"name": "conv", "shape": [1, 32, 32], "latents": 3, "depth": 2})
    given = batch()
    objective = SyntheticAttention(layer="conv2")
    output = vae(given["image"], keep=objective.keep)
    given["clean"] = given["image"].flip(0)
    terms = objective(given["image"], output, 0, given)
    torch.testing.assert_close(terms.parts["reconstruction"], -output.likelihood.log_prob(given["clean"]).mean())
    terms.parts["defect"].backward()
    assert vae.encoder.get_submodule("conv1").weight.grad.abs().sum() > 0  # type: ignore[operator, union-attr]
