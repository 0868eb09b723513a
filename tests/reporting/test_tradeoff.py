"""One measure against another: which points there are, and where the picture puts them."""

from __future__ import annotations

import math
import statistics

import pytest

from tests.reporting.conftest import made
from vaex.errors import VaexError
from vaex.reporting.groups import Group, grouped
from vaex.reporting.results import Result
from vaex.reporting.tradeoff import axis_of, marks_of, tradeoff_picture

RECON = {1.0: (10.0, 12.0), 16.0: (30.0, 36.0), 4.0: (20.0, 21.0)}


def runs() -> list[Result]:
    found = [
        made("beta_vae", seed, {"reconstruction": value, "mig": value / 100}, objective__beta=beta)
        for beta, values in RECON.items()
        for seed, value in enumerate(values)
    ]
    return [*found, made("vae", 0, {"reconstruction": 9.0, "mig": 0.05}), made("ae", 0, {"reconstruction": 3.0})]


def groups() -> list[Group]:
    return grouped(runs())[0]


def test_a_mark_for_every_experiment_that_has_both_in_the_order_of_what_was_swept() -> None:
    marks = marks_of(groups(), ("test", "reconstruction"), ("test", "mig"), "none", 0.95)
    assert list(marks) == ["beta_vae", "vae"]
    assert [mark.label for mark in marks["beta_vae"]] == ["beta=1.0", "beta=4.0", "beta=16.0"]
    for mark, values in zip(marks["beta_vae"], (RECON[1.0], RECON[4.0], RECON[16.0]), strict=True):
        mean, std = statistics.mean(values), statistics.stdev(values)
        assert (mark.x.mean, mark.x.low, mark.x.high) == pytest.approx((mean, mean - std, mean + std))
        assert mark.y.mean == pytest.approx(mean / 100)
    assert marks["vae"][0].x.low is None


def test_bars_are_the_interval_of_the_mean() -> None:
    """Student's t with one degree of freedom: the 97.5 % quantile is that of Cauchy's distribution."""
    marks = marks_of(groups(), ("test", "reconstruction"), ("test", "mig"), "t", 0.95)
    half = math.tan(math.pi * 0.475) * abs(RECON[1.0][1] - RECON[1.0][0]) / 2
    assert marks["beta_vae"][0].x.high == pytest.approx(11.0 + half)


def test_the_picture_shows_them_where_they_lie() -> None:
    figure = tradeoff_picture(groups(), ["reconstruction", "test/mig"], "test", "none")
    (axis,) = figure.axes
    assert (axis.get_xlabel(), axis.get_ylabel()) == ("test: reconstruction, nats per image", "test: mig, [0, 1]")
    lines = {str(line.get_label()): line for line in axis.lines}
    assert lines["beta_vae"].get_xdata() == pytest.approx([11.0, 20.5, 33.0])
    assert lines["beta_vae"].get_linestyle() == "-"
    assert lines["vae"].get_linestyle() == "None"
    assert len(axis.lines) == 2 + 3 * 2  # three marks of several seeds have two bars
    assert {text.get_text() for text in axis.texts} == {"beta=1.0", "beta=4.0", "beta=16.0", ""}


def test_an_axis_of_an_unknown_unit_has_the_name_alone() -> None:
    found = [made("vae", seed, {"a": seed, "reconstruction": seed}) for seed in range(2)]
    (axis,) = tradeoff_picture(grouped(found)[0], ["a", "test/reconstruction"], "test").axes
    assert (axis.get_xlabel(), axis.get_ylabel()) == ("test: a", "test: reconstruction, nats per image")


def test_a_name_is_no_formula() -> None:
    """Dollar signs would be read as mathematics, and a broken one would end in an error when it is drawn."""
    found = [made("$\\frac{", seed, {"a": seed, "b": seed}, x=key) for seed in range(2) for key in ("$", "$\\bad$")]
    tradeoff_picture(grouped(found)[0], ["a", "b"], "test").canvas.draw()


def test_the_stage_of_an_axis() -> None:
    both = [Result(run.folder, {"val": {"loss": 1.0}, **run.measures}, run.config, run.raw) for run in runs()]
    assert axis_of("val/loss", "test", both) == ("val", "loss")
    assert axis_of("mig", "test", both) == ("test", "mig")
    with pytest.raises(VaexError, match="did you mean 'mig'"):
        axis_of("migg", "test", both)


@pytest.mark.parametrize(("names", "expected"), [(["mig"], "takes two measures"), (["mig", "kl"], "no point to draw")])
def test_what_cannot_be_drawn(names: list[str], expected: str) -> None:
    more = [*runs(), made("other", 0, {"kl": 1.0})]
    with pytest.raises(VaexError, match=expected):
        tradeoff_picture(grouped(more)[0], names, "test")
