"""What groups of latents name: readings against loops over latents, counts against labels that are known."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from vaex.attention import latent_attention
from vaex.benchmarks import kinds
from vaex.benchmarks.kinds import ATTENTION, BEFORE, DIRECT, ELSEWHERE, kinds_tables, measure_kinds, readings
from vaex.build import build_model
from vaex.data import Defects
from vaex.data.anomalies import KINDS
from vaex.errors import VaexError

NAMES = ["noise", "flat", "blurred"]
NETWORK: dict[str, Any] = {"name": "feature_grid", "shape": [1, 32, 32], "blocks": [0], "size": 32, "grid": 8}
SIZES: dict[str, Any] = {"latents": 16, "hidden": 5, "decoder_hidden": 6, "rank": 4}


@pytest.fixture(scope="module")
def pair() -> tuple[Any, Any]:
    """A model whose code is not what training starts from, and one whose code is."""
    found = []
    with torch.random.fork_rng():
        for seed in (0, 1):
            torch.manual_seed(seed)
            model: Any = build_model({**NETWORK, **SIZES}).eval()
            model.config = {"objective": {"name": "synthetic_attention", "map": "attention", "kinds": NAMES}}
            found.append(model)
        with torch.no_grad():
            found[0].encoder.mean.weight.add_(0.1 * torch.randn(16, 21, 1, 1))
    return found[0], found[1]


@pytest.fixture(scope="module")
def data() -> Defects:
    found = Defects(texture="metal", size=32, channels=1, train=2, val=3, test_good=2, test_defects=1)
    found.setup()
    return found


def test_readings_are_sums_over_the_latents_of_a_kind(pair: tuple[Any, Any]) -> None:
    model, fresh = pair
    images = torch.rand(2, 1, 32, 32, generator=torch.Generator().manual_seed(3))
    ways = readings(model, fresh, NAMES, "input")
    maps = latent_attention(model, images, "input", method="hires_cam", target="kl", rectify="none", size="layer")
    squares = model.encode(images).mean.detach().square() / 16
    start = model.features(images).square() / 16
    for row, parts in ((ATTENTION, maps), (DIRECT, squares), (BEFORE, start)):
        expected = torch.stack([parts[:, group::3].sum(1) for group in range(3)], 1)
        torch.testing.assert_close(ways[row](images), expected, rtol=1e-4, atol=1e-5)


def test_what_is_named_is_counted(pair: tuple[Any, Any], data: Defects, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of one way that names flat wherever the image is, and of one that looks where it was told to."""

    def flat(images: Tensor) -> Tensor:
        return torch.tensor([0.0, 1.0, 0.5])[None, :, None, None].expand(len(images), 3, 8, 8)

    monkeypatch.setattr(kinds, "readings", lambda *_: {ATTENTION: flat})
    found = measure_kinds("run", pair[0], pair[1], data, copies=30)
    assert 20 < sum(found.counts) < 80  # three of six kinds, of 90 defects
    assert found.accuracy == pytest.approx(dict.fromkeys((ATTENTION, ELSEWHERE), found.counts[1] / sum(found.counts)))
    assert found.confusion[ATTENTION] == [[0, count, 0] for count in found.counts]
    assert found.groups == data.kinds
    assert found.named[ATTENTION] == [[0, 1, 0]] * len(data.kinds)
    assert found.association[ATTENTION].nats == 0
    assert found.association[ATTENTION].p_value == 1
    accuracies, named = kinds_tables([found])
    assert accuracies.rows[0][:5] == ("run", "attention", ATTENTION, f"{found.accuracy[ATTENTION]:.3f}", "0.333")
    assert [row[0] for row in named.rows] == [f"pasted: {n}" for n in NAMES] + [f"test: {n}" for n in data.kinds]


def test_the_defects_asked_are_others_than_those_of_validation(pair: tuple[Any, Any], data: Defects) -> None:
    seen: list[Tensor] = []

    def watched(images: Tensor) -> Tensor:
        seen.append(images)
        return torch.zeros(len(images), 3, 8, 8)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(kinds, "readings", lambda *_: {DIRECT: watched})
        measure_kinds("run", pair[0], pair[1], data, copies=4)
    known = data.val_set.__getitems__([1, 3, 5])["image"]
    assert all(not torch.equal(one, other) for batch in seen for one in batch for other in known)


def test_runs_that_cannot_be_asked_are_told(pair: tuple[Any, Any], data: Defects) -> None:
    model, fresh = pair
    plain = Defects(texture="metal", size=32, channels=1, train=2, val=2, synthetic=False)
    plain.setup()
    with pytest.raises(VaexError, match="run has no validation images to paste defects into"):
        measure_kinds("run", model, fresh, plain)
    before, model.config = model.config, {"objective": {"name": "synthetic_attention", "kinds": None}}
    try:
        with pytest.raises(
            VaexError, match=r"run was not trained to tell kinds of defects; train it with objective\.ki"
        ):
            measure_kinds("run", model, fresh, data)
    finally:
        model.config = before
    assert set(NAMES) < set(KINDS)
