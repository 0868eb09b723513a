"""The cascade changes what it names and nothing else; a decoder's weights never touch a map."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from scipy import stats
from torch import Tensor, nn

from vaex.attention import latent_attention
from vaex.build import build_model
from vaex.errors import VaexError
from vaex.metrics.faithfulness import cascade, map_similarity, randomisation_curve, weighted_modules


@pytest.fixture(scope="module")
def vae() -> Any:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return build_model({"name": "conv", "shape": [1, 32, 32], "latents": 3, "width": 4, "depth": 2, "hidden": 8})


def explain(model: nn.Module) -> Tensor:
    images = torch.rand(2, 1, 32, 32, generator=torch.Generator().manual_seed(1))
    return latent_attention(model, images, method="hires_cam", rectify="none")


def test_modules_with_weights_from_the_top_down(vae: Any) -> None:
    assert weighted_modules(vae, "encoder") == [
        *("encoder.logvar", "encoder.mean", "encoder.fc1", "encoder.conv2", "encoder.conv1")
    ]
    assert all(name.startswith("decoder.") for name in weighted_modules(vae, "decoder"))
    assert weighted_modules(nn.Linear(2, 3)) == [""]
    with pytest.raises(VaexError, match="did you mean 'encoder'"):
        weighted_modules(vae, "encodr")


def test_each_step_draws_one_more_module_anew_and_leaves_the_rest(vae: Any) -> None:
    names = ["encoder.mean", "encoder.conv1"]
    before = {key: value.clone() for key, value in vae.state_dict().items()}
    state = torch.get_rng_state()
    done: list[str] = []
    for name, fresh in cascade(vae, names, seed=5):
        done.append(name)
        for key, value in fresh.state_dict().items():
            assert torch.equal(value, before[key]) == (key.rpartition(".")[0] not in done), key
        weight = fresh.state_dict()[f"{name}.weight"]
        bound = 1 / weight[0].numel() ** 0.5  # torch's own rule
        assert float(weight.abs().max()) <= bound
    assert done == names
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(value, before[key]) for key, value in vae.state_dict().items())
    first, again, other = (dict(cascade(vae, names, seed))["encoder.conv1"].state_dict() for seed in (5, 5, 6))
    assert all(torch.equal(value, again[key]) for key, value in first.items())
    assert not torch.equal(first["encoder.mean.weight"], other["encoder.mean.weight"])
    with pytest.raises(VaexError, match=r"did you mean 'encoder\.conv1'"):
        list(cascade(vae, ["encoder.conv11"]))


class Own(nn.Module):
    """A module that cannot draw its weights again."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.arange(50.0))


def test_what_cannot_be_drawn_is_shuffled() -> None:
    ((_, fresh),) = cascade(Own(), [""])
    scale = fresh.state_dict()["scale"].tolist()
    assert scale != list(range(50))
    assert sorted(scale) == list(range(50))


def test_similarity_is_the_rank_correlation_of_sizes(maps: Tensor) -> None:
    others = maps + torch.randn(maps.shape, generator=torch.Generator().manual_seed(2))
    found = map_similarity(maps, others)
    for b in range(3):
        for t in range(2):
            pair = [part[b, t].abs().flatten().numpy() for part in (maps, others)]
            assert float(found[b, t]) == pytest.approx(stats.spearmanr(*pair).statistic, abs=1e-9)
    assert map_similarity(maps, -2 * maps).tolist() == [[1.0, 1.0]] * 3
    flat = torch.zeros_like(maps)
    assert map_similarity(flat, flat).tolist() == [[1.0, 1.0]] * 3
    assert map_similarity(maps, flat).tolist() == map_similarity(flat, maps).tolist() == [[0.0, 0.0]] * 3
    with pytest.raises(VaexError, match="one shape"):
        map_similarity(maps, maps[:2])


def test_maps_change_with_the_encoder_and_never_with_the_decoder(vae: Any) -> None:
    decoder = randomisation_curve(explain, vae, weighted_modules(vae, "decoder"))
    assert decoder.shape == (len(weighted_modules(vae, "decoder")), 2, 3)
    assert bool((decoder == 1).all())
    encoder = randomisation_curve(explain, vae, ["encoder.mean", "encoder.conv2"])
    assert bool((encoder < 1).all())
    ignored = randomisation_curve(lambda _: explain(vae), vae, ["encoder.mean"])  # maps that look at no network
    assert bool((ignored == 1).all())
    with pytest.raises(VaexError, match="at least one module"):
        randomisation_curve(explain, vae, [])
