"""Line plots as SVG: where points lie, what is written at the axes."""

from __future__ import annotations

import json
import re
from xml.etree import ElementTree

import pytest

from vaex.viz.report_plots import BOTTOM, HEIGHT, LEFT, MOST_POINTS, RIGHT, TOP, WIDTH, Axis, line_plot


def points(markup: str) -> list[list[list[float]]]:
    found = re.findall(r'<polyline points="([^"]*)"', markup)
    return [[[float(number) for number in pair.split(",")] for pair in line.split()] for line in found]


def test_the_unit_square_fills_the_frame() -> None:
    ((first, middle, last),) = points(line_plot({"a": ([0, 0.5, 1], [0, 0.5, 1])}, "t", "x", "y", unit=True))
    assert first == [LEFT, HEIGHT - BOTTOM]
    assert last == [WIDTH - RIGHT, TOP]
    assert middle == pytest.approx([(first[0] + last[0]) / 2, (first[1] + last[1]) / 2])


def test_it_is_well_formed_and_named() -> None:
    name = '<script>&"'
    markup = line_plot({name: ([0, 1], [1, 2]), "b": ([0], [1])}, name, name, name)
    root = ElementTree.fromstring(markup)
    assert {element.tag for element in root.iter()} <= {
        *("figure", "svg", "title", "line", "text", "polyline", "circle", "figcaption"),
    }
    assert root.find("svg").get("role") == "img"  # type: ignore[union-attr]
    assert name in "".join(root.find("figcaption").itertext())  # type: ignore[union-attr]


def test_a_line_of_hardly_any_width_ends_in_a_point() -> None:
    markup = line_plot({"a": ([0, 2000], [1, 2]), "b": ([1999, 2000], [1, 1])}, "t", "x", "y")
    (circle,) = ElementTree.fromstring(markup).findall("svg/circle")
    assert circle.get("class") == "point s1"
    assert float(str(circle.get("cx"))) == WIDTH - RIGHT


def test_the_last_number_of_the_axis_is_not_cut_off() -> None:
    root = ElementTree.fromstring(line_plot({"a": ([0, 200000], [1, 2])}, "t", "x", "y"))
    (last,) = (text for text in root.findall("svg/text") if text.text == "200000")
    assert (last.get("x"), last.get("text-anchor")) == (str(WIDTH - 1), "end")
    (first,) = (text for text in root.findall("svg/text") if text.text == "0")
    assert (float(str(first.get("x"))), first.get("text-anchor")) == (LEFT, "middle")


def test_a_wide_span_is_logarithmic_and_says_so() -> None:
    markup = line_plot({"a": ([0, 1, 2], [1, 10, 100])}, "t", "x", "loss")
    assert "loss (log scale)" in markup
    ((low, middle, high),) = points(markup)
    assert low[1] - middle[1] == pytest.approx(middle[1] - high[1], abs=0.02)
    assert "log scale" not in line_plot({"a": ([0, 1], [0, 100])}, "t", "x", "loss")


def test_what_is_not_finite_is_left_out_and_long_lines_thinned() -> None:
    nan = float("nan")
    ((first, last),) = points(line_plot({"a": ([0, 1, 2], [1, nan, 2])}, "t", "x", "y"))
    assert first[0] < last[0]
    (line,) = points(line_plot({"a": (range(5000), range(5000))}, "t", "x", "y"))
    assert len(line) == MOST_POINTS
    assert line_plot({"a": ([0], [nan])}, "t", "x", "y") == ""


def test_a_slider_finds_every_point_of_its_curve() -> None:
    markup = line_plot({"a": ([0, 0.5, 1], [1, float("nan"), 0])}, "t", "x", "y", unit=True, curve="pixel")
    dot = ElementTree.fromstring(markup).find("svg/circle[@data-curve='pixel']")
    assert dot is not None
    assert len(json.loads(str(dot.get("data-points")))) == 3


@pytest.mark.parametrize("values", [[0.0, 1.0], [3.0, 3.0], [-5.0, 1e-3], [1e6, 3e6]])
def test_ticks_lie_within(values: list[float]) -> None:
    axis = Axis(values, 0, 100)
    ticks = axis.ticks()
    assert 2 <= len(ticks) <= 7
    assert all(-0.01 <= axis.at(tick) <= 100.01 for tick in ticks)
