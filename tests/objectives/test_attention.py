"""The attention term against hand-made maps, loops over pairs, pixels and images, and finite differences."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import fields
from itertools import combinations
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn import functional as F

from vaex.attention import attention_maps
from vaex.build import build_model, build_objective
from vaex.errors import VaexError
from vaex.networks import VAE
from vaex.networks.likelihoods import Gaussian
from vaex.objectives import ELBO, Terms
from vaex.objectives.attention import (
    AttentionDisentanglement,
    AttentionTerm,
    mean_pair_overlap,
    most_active_pair,
    random_pair,
)
from vaex.objectives.terms import AFTER_TRAINING
from vaex.objectives.warmup import Warmup
from vaex.types import Batch, Posterior, VAEOutput

CONF = Path(__file__).parents[2] / "conf" / "objective"
NETWORK = {"name": "conv", "shape": [1, 32, 32], "latents": 4, "width": 4, "depth": 2, "hidden": 8}


class Nothing:
    """An inner objective of 0, so that the total is the term alone."""

    keep: tuple[str, ...] = ()
    needs: tuple[str, ...] = ()

    def __call__(self, images: Tensor, output: VAEOutput, step: int, batch: Batch | None = None) -> Terms:
        return Terms(images.new_zeros(()), {})


class Tiny(nn.Module):
    """A smooth encoder of 1x6x6 images whose layer is read by hand, in double precision."""

    def __init__(self, latents: int = 3) -> None:
        super().__init__()
        self.conv = nn.Conv2d(1, 2, 3)
        self.next = nn.Conv2d(2, 2, 2)
        self.mean = nn.Linear(2 * 9, latents)
        self.logvar = nn.Linear(2 * 9, latents)
        self.double()

    def forward(self, images: Tensor) -> VAEOutput:
        activation = torch.tanh(self.conv(images)) + 0.3
        hidden = torch.tanh(self.next(activation)).flatten(1)
        posterior = Posterior(self.mean(hidden), self.logvar(hidden))
        likelihood = Gaussian(images, images.new_zeros(()))
        return VAEOutput(posterior, posterior.mean, likelihood, posterior.kl_to_normal(), {"conv": activation})


@pytest.fixture
def tiny() -> Tiny:
    torch.manual_seed(0)
    return Tiny()


@pytest.fixture
def pixels() -> Tensor:
    return torch.rand(2, 1, 6, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(1))


@pytest.fixture
def model() -> VAE:
    torch.manual_seed(0)
    return build_model(NETWORK)


@pytest.fixture
def images() -> Tensor:
    return torch.rand(3, 1, 32, 32, generator=torch.Generator().manual_seed(1))


def term(inner: Any = None, layer: str = "conv", seed: int = 0, **options: Any) -> AttentionDisentanglement:
    return AttentionDisentanglement(inner or Nothing(), AttentionTerm(**{"weight": 1.0, **options}), layer, seed)


def maps_by_hand(output: VAEOutput, values: Tensor, constant: bool = False, rectify: bool = True) -> list[list[Tensor]]:
    """Eq. 1-3, one image, latent and channel at a time; ``constant`` holds the channel weights fixed."""
    activation = output.activations["conv"]
    result = []
    for b in range(len(values)):
        rows = []
        for d in range(values.shape[1]):
            (gradient,) = torch.autograd.grad(values[b, d], activation, create_graph=True)
            alpha = gradient[b].sum((1, 2)) / gradient[b, 0].numel()
            alpha = alpha.detach() if constant else alpha
            signed = sum(a * channel for a, channel in zip(alpha, activation[b], strict=True))
            rows.append(signed.relu() if rectify else signed)
        result.append(rows)
    return result


def ratio_by_hand(pairs: list[tuple[Tensor, Tensor]]) -> Tensor:
    """Eq. 5 over all the maps of ``pairs`` together, cell by cell."""
    shared = sum(torch.stack([p, q]).amin() for a, b in pairs for p, q in zip(a.flatten(), b.flatten(), strict=True))
    whole = sum(a.sum() + b.sum() for a, b in pairs)
    return torch.as_tensor(2 * shared / whole if whole > 0 else 0.0 * shared)


def overlap_by_hand(maps: Any, pairs: list[tuple[int, int]], pooled: bool) -> Tensor:
    images = range(len(maps))
    if pooled:
        return torch.stack([ratio_by_hand([(maps[b][i], maps[b][j]) for b in images]) for i, j in pairs]).mean()
    return torch.stack([ratio_by_hand([(maps[b][i], maps[b][j])]) for i, j in pairs for b in images]).mean()


# The overlap of given maps


@pytest.mark.parametrize(
    ("rows", "expected"),
    [
        ([[1, 1, 0, 0], [0, 0, 3, 1]], 0),
        ([[1, 2, 0, 3], [1, 2, 0, 3]], 1),
        ([[1, 1, 0, 0], [0, 1, 1, 0]], 2 * 1 / 4),
        ([[4, 0, 0, 0], [1, 0, 0, 0]], 2 * 1 / 5),
        ([[1, 2, 3, 4], [4, 3, 2, 1]], 2 * 6 / 20),
        ([[0, 0, 0, 0], [1, 0, 0, 0]], 0),
        ([[0, 0, 0, 0], [0, 0, 0, 0]], 0),
        ([[1, 1, 0, 0], [0, 1, 1, 0], [0, 0, 1, 1]], (1 / 2 + 1 / 2 + 0) / 3),
    ],
)
def test_overlap_of_hand_made_maps(rows: list[list[float]], expected: float) -> None:
    maps = torch.tensor(rows, dtype=torch.float32).reshape(1, len(rows), 2, 2)
    for pooled in (False, True):
        value = mean_pair_overlap(maps, range(1, len(rows)), pooled).item()
        assert value == pytest.approx(expected, abs=1e-7)


def test_pooling_lets_strong_maps_count_more() -> None:
    weak, strong = [[1.0, 0.0], [1.0, 0.0]], [[9.0, 0.0], [0.0, 9.0]]
    maps = torch.tensor([weak, strong]).reshape(2, 2, 1, 2)
    assert mean_pair_overlap(maps, (1,)).item() == pytest.approx((1 + 0) / 2)
    assert mean_pair_overlap(maps, (1,), pooled=True).item() == pytest.approx(2 * 1 / (2 + 18))


@pytest.mark.parametrize("pooled", [False, True])
@pytest.mark.parametrize("distances", [(1,), (1, 2, 3)])
def test_overlap_is_that_of_loops_over_pairs_and_cells(pooled: bool, distances: tuple[int, ...]) -> None:
    maps = torch.rand(3, 4, 3, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    maps[1, :2] = 0  # one image has an empty pair
    pairs = [(i, j) for i, j in combinations(range(4), 2) if j - i in distances]
    expected = overlap_by_hand(maps, pairs, pooled)
    torch.testing.assert_close(mean_pair_overlap(maps, distances, pooled), expected)


def test_empty_maps_give_zero_and_finite_gradients() -> None:
    maps = torch.zeros(2, 3, 2, 2, requires_grad=True)
    for pooled in (False, True):
        value = mean_pair_overlap(maps, (1, 2), pooled)
        (gradient,) = torch.autograd.grad(value, maps)
        assert value.item() == 0
        assert torch.equal(gradient, torch.zeros_like(maps))


def test_half_precision_maps_are_summed_in_full() -> None:
    maps = torch.full((1, 2, 200, 200), 3.0, dtype=torch.float16)  # the sum passes 65504
    assert mean_pair_overlap(maps, (1,)).item() == 1


# Which pairs


def test_random_pairs_are_two_latents_drawn_alike_and_repeatably() -> None:
    torch.manual_seed(3)
    before = torch.random.get_rng_state()
    drawn = [random_pair(4, step) for step in range(3000)]
    assert torch.equal(torch.random.get_rng_state(), before)
    torch.manual_seed(4)
    assert drawn == [random_pair(4, step) for step in range(3000)]
    counts = Counter(tuple(sorted(pair)) for pair in drawn)
    assert sorted(counts) == list(combinations(range(4), 2))
    chi2 = sum((count - 500) ** 2 / 500 for count in counts.values())
    assert chi2 < 20.5  # 5 degrees of freedom: exceeded once in a thousand


def test_runs_of_other_seeds_have_other_pairs() -> None:
    sequences = [[tuple(random_pair(10, step, seed)) for step in range(60)] for seed in range(8)]
    assert sequences[0] == [tuple(random_pair(10, step)) for step in range(60)]
    for a, b in combinations(sequences, 2):
        same = sum(p == q for p, q in zip(a, b, strict=True))
        assert same < 6  # of 60 draws among 90, one at a time is alike by chance; six once in ten thousand
        shifted = max(sum(p == q for p, q in zip(a[d:], b, strict=False)) for d in range(1, 20))
        assert shifted < 10  # nor is one sequence the other, some steps later


def test_the_pairs_of_a_run_follow_its_seed(tiny: Tiny, pixels: Tensor) -> None:
    """Over the steps of two seeds, the overlap is that of the pair that the seed draws."""
    output = tiny(pixels)
    maps = maps_by_hand(output, output.posterior.mean)
    drawn = []
    for seed in (1, 2):
        for step in range(6):
            pair = tuple(random_pair(3, step, seed))
            value = term(seed=seed, pairs="random")(pixels, output, step).parts["attention_overlap"]
            torch.testing.assert_close(value, overlap_by_hand(maps, [pair], False))  # type: ignore[list-item]
            drawn.append(tuple(sorted(pair)))
    assert drawn[:6] != drawn[6:]


def test_most_active_latents_are_those_of_largest_kl_over_the_batch() -> None:
    mean = torch.tensor([[0.1, 5.0, 0.0, 2.0], [0.1, 0.0, 0.0, 2.5]])  # latent 1 is active in one image only
    logvar = torch.zeros(2, 4)
    assert most_active_pair(Posterior(mean, logvar)) == [1, 3]
    logvar[:, 2] = -30.0  # a certain latent has a KL of its own
    assert set(most_active_pair(Posterior(mean, logvar))) == {1, 2}
    grid = mean[:, :, None, None].expand(2, 4, 3, 2)
    assert most_active_pair(Posterior(grid, torch.zeros_like(grid))) == [1, 3]


@pytest.mark.parametrize(
    ("pairs", "step", "expected"),
    [
        ("all", 0, list(combinations(range(3), 2))),
        ("neighbours", 0, [(0, 1), (1, 2)]),
        ("random", 5, []),
        ("random", AFTER_TRAINING, list(combinations(range(3), 2))),
        ("most_active", 0, None),
    ],
)
@pytest.mark.parametrize("pooled", [False, True])
def test_term_is_that_of_loops(
    tiny: Tiny, pixels: Tensor, pairs: str, step: int, expected: list[tuple[int, int]] | None, pooled: bool
) -> None:
    output = tiny(pixels)
    if pairs == "random" and not expected:
        expected = [tuple(random_pair(3, step, 8))]  # type: ignore[list-item]
    if expected is None:
        kl = output.posterior.kl_to_normal().sum(0).tolist()
        first, second = sorted(range(3), key=lambda d: -kl[d])[:2]
        expected = [(first, second)]
    value = term(seed=8, pairs=pairs, pooled=pooled)(pixels, output, step).parts["attention_overlap"]
    by_hand = overlap_by_hand(maps_by_hand(output, output.posterior.mean), expected, pooled)
    torch.testing.assert_close(value, by_hand)
    assert 0 < value.item() < 1  # or the comparison says little


@pytest.mark.parametrize(("pairs", "count"), [("all", 3), ("neighbours", 3), ("random", 2), ("most_active", 2)])
def test_only_maps_that_are_compared_are_made(
    tiny: Tiny, pixels: Tensor, pairs: str, count: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[tuple[int, ...]] = []

    def noted(activation: Tensor, targets: Tensor, **options: Any) -> Tensor:
        made.append(tuple(targets.shape))
        return attention_maps(activation, targets, **options)

    monkeypatch.setattr("vaex.objectives.attention.attention_maps", noted)
    term(pairs=pairs)(pixels, tiny(pixels), 0)
    assert made == [(2, count)]


def test_targets_and_size(tiny: Tiny, pixels: Tensor) -> None:
    output = tiny(pixels)
    pairs = list(combinations(range(3), 2))
    for target, values in (("logvar", output.posterior.logvar), ("kl", output.posterior.kl_to_normal())):
        value = term(target=target)(pixels, output, 0).parts["attention_overlap"]
        torch.testing.assert_close(value, overlap_by_hand(maps_by_hand(output, values), pairs, False))
    maps = torch.stack([torch.stack(rows) for rows in maps_by_hand(output, output.posterior.mean)])
    large = F.interpolate(maps, size=(6, 6), mode="bilinear", align_corners=False)
    value = term(size="input")(pixels, output, 0).parts["attention_overlap"]
    torch.testing.assert_close(value, overlap_by_hand(large, pairs, False))


def test_the_size_of_a_map_counts_where_it_is_asked_for(tiny: Tiny, pixels: Tensor) -> None:
    output = tiny(pixels)
    signed = torch.stack([torch.stack(rows) for rows in maps_by_hand(output, output.posterior.mean, rectify=False)])
    assert (signed < 0).any()
    pairs = list(combinations(range(3), 2))
    value = term(rectify="abs")(pixels, output, 0).parts["attention_overlap"]
    torch.testing.assert_close(value, overlap_by_hand(signed.abs(), pairs, False))
    assert not torch.allclose(value, term()(pixels, output, 0).parts["attention_overlap"])


def test_empty_maps_are_counted_and_no_refuge_for_sizes(tiny: Tiny, pixels: Tensor) -> None:
    with torch.no_grad():
        torch.nn.init.constant_(tiny.conv.bias, 3)  # type: ignore[arg-type]  # activations above 0, so that the sign of a map is that of its channel weights
        tiny.mean.weight[1] = -tiny.mean.weight[0]  # one of these two maps is above 0 nowhere
    output = tiny(pixels)
    signed = torch.stack(
        [torch.stack(rows) for rows in maps_by_hand(output, output.posterior.mean, rectify=False)]
    )  # (B, T, h, w)
    none = (signed.amax((2, 3)) <= 0).double().mean().item()
    assert 0 < none < 1
    assert term()(pixels, output, 0).parts["attention_empty"].item() == pytest.approx(none)
    assert term(rectify="abs")(pixels, output, 0).parts["attention_empty"].item() == 0


# Its gradient


def parameters_of(tiny: Tiny) -> tuple[list[str], tuple[Tensor, ...]]:
    names = [name for name, _ in tiny.named_parameters() if "logvar" not in name]
    return names, tuple(dict(tiny.named_parameters())[name].detach().requires_grad_() for name in names)


def loss_of(tiny: Tiny, pixels: Tensor, names: list[str], **options: Any) -> Callable[..., Tensor]:
    def loss(*values: Tensor) -> Tensor:
        output = functional_call(tiny, dict(zip(names, values, strict=True)), (pixels,))
        return term(**options)(pixels, output, 0).total

    return loss


@pytest.mark.parametrize(
    "options", [{}, {"pairs": "random", "pooled": True}, {"size": "input"}, {"rectify": "abs"}], ids=str
)
def test_gradient_is_that_of_finite_differences(tiny: Tiny, pixels: Tensor, options: dict[str, Any]) -> None:
    names, values = parameters_of(tiny)
    assert torch.autograd.gradcheck(loss_of(tiny, pixels, names, **options), values)


def test_second_gradient_is_that_of_finite_differences(pixels: Tensor) -> None:
    torch.manual_seed(0)
    tiny = Tiny(latents=2)
    names, values = parameters_of(tiny)
    assert torch.autograd.gradgradcheck(loss_of(tiny, pixels[:1], names), values)


def test_large_layers_take_another_way_to_the_same(tiny: Tiny, pixels: Tensor, monkeypatch: pytest.MonkeyPatch) -> None:
    found = []
    for limit, fold in ((1 << 20, True), (1 << 20, False), (0, False)):
        if not fold:
            monkeypatch.setattr("vaex.attention.maps.channel_weights", lambda *_: None)
        monkeypatch.setattr("vaex.attention.gradients.LOOPED_BYTES", limit)
        total = term()(pixels, tiny(pixels), 0).total
        found.append([total, *torch.autograd.grad(total, [tiny.conv.weight, tiny.mean.weight])])
    for values in zip(*found, strict=True):
        for other in values[1:]:
            torch.testing.assert_close(other, values[0])


@pytest.mark.parametrize("distances", [[1, 2, 3], [2]])
def test_derivatives_of_the_overlap_are_those_of_finite_differences(distances: list[int]) -> None:
    maps = torch.rand(2, 4, 1, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(0)).requires_grad_()
    for pooled in (False, True):
        assert torch.autograd.gradcheck(lambda m, p=pooled: mean_pair_overlap(m, distances, p), maps)
        assert torch.autograd.gradgradcheck(lambda m, p=pooled: mean_pair_overlap(m, distances, p), maps)


def test_ties_share_the_gradient_as_torch_minimum_does() -> None:
    maps = torch.randint(1, 4, (2, 3, 2, 3), generator=torch.Generator().manual_seed(0)).double().requires_grad_()
    found = torch.autograd.grad(mean_pair_overlap(maps, (1, 2)), maps)
    by_hand = torch.autograd.grad(overlap_by_hand(maps, list(combinations(range(3), 2)), False), maps)
    torch.testing.assert_close(found, by_hand)


def test_gradient_is_not_that_of_constant_channel_weights(tiny: Tiny, pixels: Tensor) -> None:
    weights = [p for name, p in tiny.named_parameters() if "logvar" not in name]

    def gradient(value: Tensor) -> list[Tensor]:
        found = torch.autograd.grad(value, weights, allow_unused=True, retain_graph=True)
        return [torch.zeros_like(w) if g is None else g for w, g in zip(weights, found, strict=True)]

    output = tiny(pixels)
    pairs = list(combinations(range(3), 2))
    true = gradient(term()(pixels, output, 0).total)
    by_hand = gradient(overlap_by_hand(maps_by_hand(output, output.posterior.mean), pairs, False))
    constant = gradient(overlap_by_hand(maps_by_hand(output, output.posterior.mean, constant=True), pairs, False))
    for a, b in zip(true, by_hand, strict=True):
        torch.testing.assert_close(a, b)
    assert all(g.abs().max() > 0 for g in true[:2])  # the convolution that is read
    head = [name for name, _ in tiny.named_parameters() if "logvar" not in name].index("mean.weight")
    assert true[head].abs().max() > 1e-4
    assert constant[head].abs().max() == 0  # constant weights never teach what lies behind the layer


def test_a_dead_layer_costs_nothing_and_breaks_nothing(model: VAE, images: Tensor) -> None:
    conv = model.encoder.get_submodule("conv2")
    assert isinstance(conv, nn.Conv2d)
    assert conv.bias is not None
    nn.init.zeros_(conv.weight)
    nn.init.constant_(conv.bias, -1.0)
    objective = build_objective({"name": "vae", "attention": {"weight": 1.0, "layer": "relu2"}}, model)
    terms = objective(images, model(images, keep=objective.keep), 0)
    assert terms.parts["attention_overlap"].item() == 0
    terms.total.backward()
    assert all(p.grad is not None and torch.isfinite(p.grad).all() for p in model.parameters())


# Beside another objective


def test_total_is_inner_plus_weight_times_overlap(model: VAE, images: Tensor) -> None:
    config = {"name": "beta_vae", "attention": {"weight": 30.0, "warmup": {"kind": "linear", "steps": 4}}}
    objective = build_objective(config, model)
    assert objective.keep == ("encoder.conv2",)  # the last of the encoder
    output = model(images, keep=objective.keep)
    inner = build_objective({"name": "beta_vae"})(images, output, 0)
    for step, weight in ((0, 0.0), (1, 7.5), (4, 30.0), (AFTER_TRAINING, 30.0)):
        terms = objective(images, output, step)
        overlap = terms.parts["attention_overlap"]
        assert 0 < overlap.item() <= 1
        assert terms.parts["attention_weight"].item() == weight
        torch.testing.assert_close(terms.total, inner.total + weight * overlap)
        for name, value in inner.parts.items():
            assert torch.equal(terms.parts[name], value)


def test_it_is_off_by_default_and_then_not_there(model: VAE) -> None:
    for attention in ({}, None, {"weight": 0.0, "pairs": "random"}):
        objective = build_objective({"name": "vae", "attention": attention}, model)
        assert type(objective) is ELBO
        assert objective.keep == ()


@pytest.mark.parametrize("path", [CONF / "vae.yaml", CONF / "beta_vae.yaml"], ids=lambda path: path.stem)
def test_every_objective_has_every_key_at_its_default(path: Path) -> None:
    config = yaml.safe_load(path.read_text())["attention"]
    assert config["warmup"] == {f.name: f.default for f in fields(Warmup)}
    config["warmup"] = None
    assert config == {f.name: f.default for f in fields(AttentionTerm) if f.init}


def test_layers_kept_by_the_inner_objective_are_kept(tiny: Tiny) -> None:
    inner = Nothing()
    inner.keep, inner.needs = ("other", "conv"), ("mask",)
    assert term(inner).needs == ("mask",)
    assert term(inner).keep == ("other", "conv")
    assert term(inner, "third").keep == ("other", "conv", "third")


def test_it_runs_in_bfloat16(model: VAE, images: Tensor) -> None:
    objective = build_objective({"name": "vae", "attention": {"weight": 50.0}}, model)
    full = objective(images, model(images, keep=objective.keep, sample=False), 0)
    with torch.autocast("cpu", torch.bfloat16):
        output = model(images, keep=objective.keep, sample=False)
        assert output.activations[objective.keep[0]].dtype == torch.bfloat16
        terms = objective(images, output, 0)
    terms.total.backward()
    assert all(p.grad is not None and torch.isfinite(p.grad).all() for p in model.parameters())
    assert terms.parts["attention_overlap"].dtype == torch.float32
    assert terms.parts["attention_overlap"].item() == pytest.approx(full.parts["attention_overlap"].item(), abs=0.05)


# What is refused


@pytest.mark.parametrize(
    ("attention", "message"),
    [
        ({"weight": -1.0}, r"objective\.attention\.weight must be 0 \(off\) or more, got -1"),
        ({"weight": float("inf")}, "got inf"),
        ({"weight": "much"}, "objective.attention needs a number for the option 'weight', got 'much'"),
        ({"wieght": 1.0}, "objective.attention has no option 'wieght': did you mean 'weight'"),
        ({"pairs": "randm"}, "Unknown attention pair rule 'randm': did you mean 'random'"),
        ({"size": "inputs"}, "Unknown attention map size 'inputs': did you mean 'input'"),
        ({"target": "total_kl"}, "Unknown target of objective.attention 'total_kl'"),
        ({"rectify": "none"}, r"Unknown objective\.attention\.rectify 'none'"),
        ({"layer": 3}, r"objective\.attention\.layer must be the name of a layer or null, got 3"),
        ({"warmup": {"kind": "linear"}}, r"objective\.attention\.warmup\.steps must be at least 1"),
        ({"warmup": {"step": 2}}, r"objective\.attention\.warmup has no option 'step': did you mean 'steps'"),
        ("grad_cam", r"objective\.attention must be a mapping such as \{weight: 1.0\}, got 'grad_cam'"),
        ({"weight": 1.0, "layer": "conv3"}, "Layer 'conv3' does not exist in VAE: did you mean 'conv1'|'conv2'"),
        ({"weight": 1.0, "layer": "deconv1"}, "Layer 'deconv1' did not run when the images were encoded"),
        ({"weight": 1.0, "layer": "encoder.fc1"}, r"Layer 'encoder.fc1' gives \(1, 8\)"),
    ],
)
def test_bad_options_are_told_when_it_is_built(model: VAE, attention: Any, message: str) -> None:
    with pytest.raises(VaexError, match=message):
        build_objective({"name": "vae", "attention": attention}, model)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"weight": "1"}, r"objective\.attention\.weight must be a number, got '1'"),
        ({"weight": True}, r"objective\.attention\.weight must be a number, got True"),
        ({"pooled": "no"}, r"objective\.attention\.pooled must be true or false, got 'no'"),
    ],
)
def test_values_of_another_type_are_told(options: Any, message: str) -> None:
    with pytest.raises(VaexError, match=message):
        AttentionTerm(**options)


@pytest.mark.parametrize(
    ("shape", "distances"), [((2, 1, 3, 3), ()), ((2, 1, 3, 3), (1,)), ((2, 3, 3, 3), (3,)), ((2, 3, 3, 3), (0,))]
)
def test_maps_without_a_pair_are_told(shape: tuple[int, ...], distances: tuple[int, ...]) -> None:
    with pytest.raises(VaexError, match="compare at least two latents"):
        mean_pair_overlap(torch.rand(shape), distances)
    with pytest.raises(VaexError, match=r"needs maps \(B, T, h, w\)"):
        mean_pair_overlap(torch.rand(2, 3, 3), (1,))


def test_batch_norm_in_the_encoder_alone_is_refused(images: Tensor) -> None:
    config = {"name": "vae", "attention": {"weight": 1.0}}
    coupled = build_model({**NETWORK, "norm": "batch"})
    with pytest.raises(VaexError, match="Batch-norm layer 'norm1' in training mode couples the images"):
        build_objective(config, coupled)
    assert build_objective(config, build_model({**NETWORK, "norm": "group"})).keep
    plain = build_model(NETWORK)
    mixed = VAE(plain.encoder, coupled.decoder, plain.likelihood, plain.prior, plain.shape)
    assert build_objective(config, mixed).keep


def test_what_it_cannot_do_without_is_told(model: VAE, images: Tensor) -> None:
    config = {"name": "vae", "attention": {"weight": 1.0}}
    with pytest.raises(VaexError, match="give the model to build_objective"):
        build_objective(config)
    with pytest.raises(VaexError, match=r"network\.latents must be 2 or more, got 1"):
        build_objective(config, build_model({**NETWORK, "latents": 1}))
    shapeless = VAE(model.encoder, model.decoder, model.likelihood, model.prior)
    with pytest.raises(VaexError, match="cannot be probed for a layer"):
        build_objective(config, shapeless)
    named = build_objective({"name": "vae", "attention": {"weight": 1.0, "layer": "conv1"}}, shapeless)
    assert named.keep == ("conv1",)
    objective = build_objective(config, model)
    with torch.no_grad():
        output = model(images, keep=objective.keep)
    with pytest.raises(VaexError, match="ran without gradients: run the VAE under"):
        objective(images, output, 0)


def test_building_draws_nothing_and_changes_no_flag(model: VAE) -> None:
    before = torch.random.get_rng_state()
    model.encoder.eval()
    build_objective({"name": "vae", "attention": {"weight": 1.0}}, model)
    assert torch.equal(torch.random.get_rng_state(), before)
    assert model.training
    assert not model.encoder.training
    assert all(p.grad is None for p in model.parameters())
