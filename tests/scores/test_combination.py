"""Combined scores: weights beside scikit-learn's, the fit from normal images to a map, and what is refused."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression
from torch import Tensor

from vaex.build import build_model
from vaex.calibrate import calibrated_with
from vaex.data.anomalies import paste_defects
from vaex.detectors import fit_detectors
from vaex.errors import VaexError
from vaex.explanation import explain, explain_and_score
from vaex.networks import VAE
from vaex.scores import score_named
from vaex.scores.combination import RIDGE, defect_weights
from vaex.scores.image import Reconstruction

NETWORK: dict[str, Any] = {"name": "conv", "shape": [1, 32, 32], "latents": 3, "width": 4, "depth": 3, "hidden": 8}
SMOOTH: dict[str, Any] = {"name": "reconstruction", "sigma": 1.0}
BOTH: dict[str, Any] = {"name": "combination", "of": ["attention", SMOOTH]}


def cells(seed: int = 0, count: int = 400) -> tuple[Tensor, Tensor]:
    """Two values per cell that defects raise, one more than the other, and one that they lower."""
    generator = np.random.default_rng(seed)
    defect = generator.random(count) < 0.1
    values = generator.standard_normal((3, count)) + np.outer([1.5, 0.7, -1.0], defect)
    return torch.tensor(values, dtype=torch.float32), torch.tensor(defect)


def test_weights_are_those_of_logistic_regression_where_they_are_positive() -> None:
    values, defect = cells()
    balance = np.where(defect, 0.5 / defect.sum(), 0.5 / (~defect).sum())
    oracle = LogisticRegression(C=1 / (2 * RIDGE), tol=1e-10, max_iter=1000)
    oracle.fit(values[:2].T.double().numpy(), defect.numpy(), sample_weight=balance)
    assert oracle.coef_.min() > 0
    np.testing.assert_allclose(defect_weights(values[:2], defect).numpy(), oracle.coef_[0], rtol=2e-3)


def test_a_map_that_defects_lower_counts_nothing() -> None:
    values, defect = cells()
    weights = defect_weights(values, defect)
    torch.testing.assert_close(weights[:2], defect_weights(values[:2], defect), rtol=5e-3, atol=5e-3)
    assert float(weights[2]) < 1e-3


def test_weights_need_both_kinds_of_cells() -> None:
    values, defect = cells()
    for label in (torch.zeros_like(defect), torch.ones_like(defect)):
        with pytest.raises(VaexError, match="inside and outside of defects"):
            defect_weights(values, label)


@pytest.fixture
def model() -> VAE:
    torch.manual_seed(0)
    return build_model(NETWORK).eval()


def normal(count: int, seed: int = 0) -> Tensor:
    return 0.4 + 0.2 * torch.rand(count, 1, 32, 32, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("sizes", [(6,), (4, 2)])
def test_the_map_is_the_weighted_sum_of_standardised_maps(model: VAE, sizes: tuple[int, ...]) -> None:
    score, held_out = score_named(BOTH), normal(6, 1)
    found = fit_detectors(model, [score], [normal(4)], held_out.split(sizes))
    fitted = found["combination"]
    maps = [explain(model, held_out, score=base).score_map for base in ("attention", SMOOTH)]
    for number, one in enumerate(maps):
        assert float(fitted["mean"][number]) == pytest.approx(float(one.mean()), rel=1e-4)
        assert float(fitted["deviation"][number]) == pytest.approx(float(one.std()), rel=1e-4)
    with calibrated_with(model, {"detectors": found}):
        combined = explain(model, held_out, score=score).score_map
    parts = [(one - one.mean()) / one.std() * weight for one, weight in zip(maps, fitted["weights"], strict=True)]
    torch.testing.assert_close(combined, sum(parts), rtol=1e-3, atol=1e-3)
    pasted = paste_defects(held_out, range(6))  # the weights are of these, cell by cell
    values = torch.stack(
        [explain(model, pasted.images, score=base).score_map.flatten() for base in ("attention", SMOOTH)]
    )
    values = (values - fitted["mean"][:, None]) / fitted["deviation"][:, None]
    torch.testing.assert_close(
        fitted["weights"], defect_weights(values, pasted.masks.flatten() > 0), rtol=1e-2, atol=1e-3
    )


def test_what_is_refused(model: VAE) -> None:
    for of, words in (
        (["attention"], "two scores or more"),
        (["kl", "kl"], "two scores or more"),
        ("attention", "must be a list"),
        (["attention", {"name": "mean_map", "of": "kl"}], "stands on another"),
        (["attention", "reconstructon"], "did you mean 'reconstruction'"),
    ):
        with pytest.raises(VaexError, match=words):
            score_named({"name": "combination", "of": of})
    with pytest.raises(VaexError, match="there are none; hold some out"):
        fit_detectors(model, [BOTH], [normal(4)])
    with pytest.raises(VaexError, match="run `vaex calibrate"):
        explain(model, normal(2), score=BOTH)
    found = fit_detectors(model, [BOTH], [normal(4)], [normal(4, 1)])
    with calibrated_with(model, {"detectors": found}), pytest.raises(VaexError, match=r"was fitted with of="):
        explain(model, normal(2), score={"name": "combination", "of": ["attention", "reconstruction"]})


def test_what_its_scores_said_is_not_computed_again(model: VAE, monkeypatch: pytest.MonkeyPatch) -> None:
    images = torch.rand(4, 1, 32, 32, generator=torch.Generator().manual_seed(1))
    calibration = {"detectors": fit_detectors(model, [BOTH], [images], [images])}
    seen: list[float] = []
    measure = Reconstruction.measure

    def counted(self: Reconstruction, evidence: Any) -> Tensor:
        seen.append(self.sigma)
        return measure(self, evidence)

    monkeypatch.setattr(Reconstruction, "measure", counted)
    with calibrated_with(model, calibration):
        found, others = explain_and_score(model, images, score=BOTH, scores=[SMOOTH, "reconstruction"])
        assert sorted(seen) == [0.0, 1.0]
        torch.testing.assert_close(found.score_map, explain(model, images, score=BOTH).score_map)
        torch.testing.assert_close(
            others["reconstruction"].score_map, explain(model, images, score="reconstruction").score_map
        )
