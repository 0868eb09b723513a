"""Timings of scores: who takes part, and what is judged."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from vaex.benchmarks.scoring import CODE, MOST, ScoringResult, run_scoring, scoring_content, scoring_table
from vaex.benchmarks.timing import Timing
from vaex.build import build_model
from vaex.scores import score_named

FEATURES: dict[str, Any] = {
    "name": "feature_vae",
    "shape": [1, 32, 32],
    "latents": 3,
    "blocks": [0],
    "size": 32,
    "grid": 8,
}


def test_scores_that_the_model_cannot_give_are_left_out() -> None:
    model = build_model(FEATURES).eval()
    scores = [score_named(name) for name in ("feature_error", "feature_residual", "kl")]
    found = run_scoring("small", model, scores, {"layer": "encoder.conv2"}, 2, 1.0)
    assert list(found.timings) == ["bare feature extractor", CODE, "feature_error", "kl"]
    assert found.goal == "feature_error"
    assert found.timings["bare feature extractor"].ratios == (1.0, 1.0)
    assert run_scoring("small", model, scores[1:], {}, 1, 1.0).goal is None  # the run's own score is not there


@pytest.mark.parametrize(("ratio", "word"), [(MOST, "met"), (MOST + 0.01, "MISSED")])
def test_the_goal_is_of_the_median(ratio: float, word: str) -> None:
    timings = {"floor": Timing((0.1, 0.1), (1.0, 1.0)), "own": Timing((0.1, 0.2, 0.3), (0.0, ratio, 9.0))}
    table = scoring_table(ScoringResult("run", timings, "own"))
    assert [row[-1] for row in table.rows] == ["-", f"<= {MOST:g} {word}"]
    assert table.rows[1][:3] == ("own", "200.0", f"{ratio:.2f}")
    content = scoring_content(ScoringResult("run", timings, "own"))
    assert content["goal"] == MOST
    assert content["contestants"]["own"]["ratio"]["median"] == pytest.approx(float(torch.tensor(ratio)), rel=1e-6)
