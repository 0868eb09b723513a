"""Warm-up weights against hand tables."""

from __future__ import annotations

import re
from typing import Any

import pytest

from vaex.build import build_objective
from vaex.errors import VaexError
from vaex.objectives.elbo import ELBO
from vaex.objectives.factor_vae import FactorVAE
from vaex.objectives.warmup import Warmup


def table(warmup: Warmup, count: int) -> list[float]:
    return [warmup(step) for step in range(count)]


def test_none_is_always_one() -> None:
    assert table(Warmup(), 5) == [1.0] * 5


def test_linear() -> None:
    assert table(Warmup("linear", steps=4), 7) == [0.0, 0.25, 0.5, 0.75, 1.0, 1.0, 1.0]
    assert table(Warmup("linear", steps=4, start=0.5), 6) == [0.5, 0.625, 0.75, 0.875, 1.0, 1.0]
    assert table(Warmup("linear", steps=1), 3) == [0.0, 1.0, 1.0]
    assert table(Warmup("linear", steps=3, start=1.0), 5) == [1.0] * 5


def test_cyclical() -> None:
    """Two cycles of four steps, the first half of each rising, then 1."""
    two = Warmup("cyclical", steps=8, cycles=2, proportion=0.5)
    assert table(two, 11) == [0.0, 0.5, 1.0, 1.0, 0.0, 0.5, 1.0, 1.0, 1.0, 1.0, 1.0]
    whole = Warmup("cyclical", steps=8, cycles=2, proportion=1.0, start=0.2)
    assert table(whole, 9) == pytest.approx([0.2, 0.4, 0.6, 0.8, 0.2, 0.4, 0.6, 0.8, 1.0])


def test_cyclical_of_the_paper_has_four_cycles_half_of_each_rising() -> None:
    paper = Warmup("cyclical", steps=400)
    values = table(paper, 500)
    assert [step for step, value in enumerate(values) if value == 0] == [0, 100, 200, 300]
    assert values[25] == values[125] == values[325] == 0.5
    assert set(values[50:100]) == set(values[150:200]) == {1.0}
    assert set(values[400:]) == {1.0}
    assert values[:100] == values[100:200] == values[300:400]


def test_cycles_that_do_not_divide_the_steps() -> None:
    """Three cycles of 10 / 3 steps: 0, 1, 2 and 3 steps into the first, then 2/3, 5/3, 8/3 into the second ..."""
    values = table(Warmup("cyclical", steps=10, cycles=3, proportion=1.0), 11)
    expected = [0, 0.3, 0.6, 0.9, 0.2, 0.5, 0.8, 0.1, 0.4, 0.7, 1.0]
    assert values == pytest.approx(expected)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"kind": "lineal", "steps": 3}, "Unknown warm-up kind 'lineal': did you mean 'linear'"),
        ({"kind": "linear"}, "warmup.steps must be at least 1 for a linear warm-up, got 0"),
        ({"start": -0.1}, "start in"),
        ({"start": 1.1}, "start in"),
        ({"proportion": 0.0}, "proportion in"),
        ({"proportion": 1.5}, "proportion in"),
        ({"cycles": 0}, "cycles of at least 1"),
    ],
)
def test_bad_settings_are_told(options: dict[str, object], message: str) -> None:
    with pytest.raises(VaexError, match=message):
        Warmup(**options)  # type: ignore[arg-type]


OBJECTIVES = ["vae", "beta_vae", "beta_tcvae", "dip_vae_i", "dip_vae_ii", "info_vae", "factor_vae"]


@pytest.mark.parametrize("warmup", [3, "linear", [1, 2]], ids=str)
def test_what_is_no_mapping_is_told(warmup: Any) -> None:
    words = "objective.warmup must be a mapping of options (kind, steps, start, cycles, proportion), got"
    told = re.escape(f"{words} {warmup!r}.")
    for name in OBJECTIVES:
        with pytest.raises(VaexError, match=f"^{told}$"):
            build_objective({"name": name, "warmup": warmup})
    for function in (ELBO, FactorVAE):
        with pytest.raises(VaexError, match=f"^{told}$"):
            function(warmup=warmup)
    with pytest.raises(VaexError, match=r"objective\.attention\.warmup must be a mapping of options"):
        build_objective({"name": "vae", "attention": {"weight": 1.0, "warmup": warmup}})


def test_wrong_options_are_told_without_a_config_too() -> None:
    for function in (ELBO, FactorVAE):
        with pytest.raises(VaexError, match=r"objective\.warmup has no option 'step': did you mean 'steps'"):
            function(warmup={"step": 2})
        with pytest.raises(VaexError, match=r"objective\.warmup needs a whole number for the option 'steps', got 2\.5"):
            function(warmup={"kind": "linear", "steps": 2.5})
