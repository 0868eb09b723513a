"""Scores of hand-made evidence, added up by hand."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from scipy.ndimage import gaussian_filter
from torch import Tensor

from vaex.errors import VaexError
from vaex.scores import SCORES, Evidence, score_images, score_named


def evidence(*absent: str) -> Evidence:
    generator = torch.Generator().manual_seed(0)

    def draw(*shape: int) -> Tensor:
        return torch.rand(shape, generator=generator, dtype=torch.float64)

    images, maps, reconstruction, kl = draw(2, 3, 4, 5), draw(2, 6, 4, 5), draw(2, 3, 4, 5), draw(2, 6)
    return Evidence(
        images, maps, None if "reconstruction" in absent else reconstruction, None if "kl" in absent else kl
    )


def _maps(given: Evidence) -> Tensor:
    assert given.maps is not None
    return given.maps


PLAIN = ("attention", "reconstruction", "kl")


def test_names() -> None:
    assert {"attention", "reconstruction", "kl", "deviation", "mahalanobis", "projection"} < set(SCORES)
    assert {"feature_error", "feature_distance", "feature_residual", "padim", "patchcore", "mean_map"} < set(SCORES)
    with pytest.raises(VaexError, match="Unknown score 'atention': did you mean 'attention'"):
        score_images("atention", evidence())
    with pytest.raises(VaexError, match="score 'attention' has no option 'sigm': did you mean 'sigma'"):
        score_named({"name": "attention", "sigm": 2})
    with pytest.raises(VaexError, match="Unknown pool of score 'attention' 'maximum'"):
        score_named({"name": "attention", "pool": "maximum"})
    with pytest.raises(VaexError, match="sigma of score 'attention' must be 0 or more, got -1"):
        score_named({"name": "attention", "sigma": -1.0})


@pytest.mark.parametrize(("pool", "oracle"), [("sum", np.sum), ("max", np.max), ("mean", np.mean)])
def test_the_number_is_pooled_from_the_smoothed_map(pool: str, oracle: Any) -> None:
    given = evidence()
    found = score_images({"name": "reconstruction", "pool": pool, "sigma": 1.5}, given)
    plain = score_images("reconstruction", given).score_map
    for b in range(2):
        expected = gaussian_filter(plain[b, 0].numpy(), 1.5, mode="nearest")
        np.testing.assert_allclose(found.score_map[b, 0], expected, rtol=1e-9)
        assert float(found.score[b]) == pytest.approx(oracle(expected))


def test_attention_is_the_mean_over_latents() -> None:
    given = evidence("reconstruction", "kl")
    found = score_images("attention", given)
    assert found.score_map.shape == (2, 1, 4, 5)
    for b in range(2):
        for i in range(4):
            for j in range(5):
                expected = sum(float(_maps(given)[b, t, i, j]) for t in range(6)) / 6
                assert float(found.score_map[b, 0, i, j]) == pytest.approx(expected)
        assert float(found.score[b]) == pytest.approx(float(_maps(given)[b].sum()) / 6)


def test_reconstruction_is_the_squared_error_over_channels() -> None:
    given = evidence("kl")
    found = score_images("reconstruction", given)
    assert given.reconstruction is not None
    assert found.score_map.shape == (2, 1, 4, 5)
    for b in range(2):
        errors = [[(x - y) ** 2 for x, y in zip(*pair, strict=True)] for pair in _channels(given, b)]
        for cell, expected in enumerate(map(sum, zip(*errors, strict=True))):
            assert float(found.score_map[b].flatten()[cell]) == pytest.approx(expected)
        assert float(found.score[b]) == pytest.approx(sum(map(sum, errors)))


def _channels(given: Evidence, image: int) -> list[tuple[list[float], list[float]]]:
    assert given.reconstruction is not None
    pairs = zip(given.images[image], given.reconstruction[image], strict=True)
    return [(x.flatten().tolist(), y.flatten().tolist()) for x, y in pairs]


def test_kl_is_its_sum_over_latents() -> None:
    given = evidence("reconstruction")
    found = score_images("kl", given)
    assert given.kl is not None
    assert found.score.tolist() == pytest.approx([sum(row) for row in given.kl.tolist()])
    assert torch.equal(found.score_map, score_images("attention", given).score_map)


@pytest.mark.parametrize(
    ("name", "absent", "reason"), [("reconstruction", "reconstruction", "decoder"), ("kl", "kl", "log-variance")]
)
def test_what_the_model_does_not_state_cannot_be_scored(name: str, absent: str, reason: str) -> None:
    with pytest.raises(VaexError, match=f"score={name} needs a model .*{reason}.*; use score=attention"):
        score_images(name, evidence(absent))


def test_scores_of_images_do_not_mix() -> None:
    whole = evidence()
    assert whole.maps is not None
    for name in PLAIN:
        both = score_images(name, whole)
        assert whole.reconstruction is not None
        assert whole.kl is not None
        second = score_images(name, Evidence(whole.images[1:], whole.maps[1:], whole.reconstruction[1:], whole.kl[1:]))
        torch.testing.assert_close(second.score, both.score[1:])
        torch.testing.assert_close(second.score_map, both.score_map[1:])
