"""Which scores a test measures: the one that decides, with its options, and those beside it."""

from __future__ import annotations

from typing import Any

import pytest

from vaex.errors import VaexError
from vaex.scores import measured_scores, score_named


def test_the_score_that_decides_comes_first_where_it_is_not_named() -> None:
    found = measured_scores({"name": "reconstruction", "sigma": 2.0}, ["kl", "attention"])
    assert found == [score_named({"name": "reconstruction", "sigma": 2.0}), score_named("kl"), score_named("attention")]
    assert measured_scores("kl", []) == []


@pytest.mark.parametrize("entry", ["reconstruction", {"name": "reconstruction", "sigma": 8.0}])
def test_its_name_stands_for_its_options(entry: Any) -> None:
    decides = {"name": "reconstruction", "sigma": 2.0, "pool": "max"}
    found = measured_scores(decides, ["kl", entry])
    assert found == [score_named("kl"), score_named(decides)]


def test_what_is_made_of_it_has_its_options() -> None:
    decides = {"name": "reconstruction", "sigma": 2.0}
    other = {"name": "reconstruction", "label": "plain"}
    mean, mixed, apart = measured_scores(
        decides,
        [
            {"name": "mean_map", "of": "reconstruction"},
            {"name": "combination", "of": ["padim", "reconstruction", "attention"], "pool": "max"},
            {"name": "mean_map", "of": other, "label": "plain_mean"},
        ],
    )[1:]
    assert mean.bases == (score_named(decides),)
    assert list(mixed.bases) == [score_named("padim"), score_named(decides), score_named("attention")]
    assert mixed.pool == "max"
    assert apart.bases == (score_named(other),)
    assert mean.options_of_fit() == {"of": {"name": "reconstruction", "sigma": 2.0}}


def test_a_name_alone_stays_one_where_the_options_are_the_default() -> None:
    (mean,) = measured_scores("reconstruction", [{"name": "mean_map", "of": "reconstruction"}])[1:]
    assert mean.options_of_fit() == {"of": "reconstruction"}  # as the checkpoint of a run before kept it


def test_two_of_one_name_are_refused() -> None:
    with pytest.raises(VaexError, match="told apart by name, got attention, kl, kl; give one of them another label"):
        measured_scores("attention", ["attention", "kl", {"name": "kl", "sigma": 1.0}])


@pytest.mark.parametrize("options", [{}, {"label": "mine"}, {"sigma": 3.0, "pool": "mean"}])
def test_options_make_the_score_again(options: dict[str, Any]) -> None:
    for name in ("reconstruction", "padim", "mean_map", "combination"):
        score = score_named({"name": name, **options})
        assert score_named(score.as_options()) == score
        assert score.as_options() == {"name": name, **options}
