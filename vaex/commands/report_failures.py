"""Images of a test that are called wrongly: which, why, and in which order they are worth a look."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from vaex.commands.report_thresholds import Slider
from vaex.viz.report_html import Markup, element, joined, table
from vaex.viz.report_page import Section

WORST = 8
"""Most failures of each kind that are shown."""


def name_of(number: int) -> str:
    """Return what the image at a position of the test is called: as test_images=[N] of vaex explain calls it."""
    return f"test image {number}"


def which(slider: Slider) -> str:
    """Return which threshold decides here."""
    return "calibrated threshold" if slider.calibrated is not None else "image threshold of highest F1"


def failures_of(rows: list[dict[str, Any]], slider: Slider | None) -> dict[int, tuple[int, str]]:
    """Return by position the images that are called wrongly at the slider's beginning, worst first: (rank, why)."""
    if slider is None:
        return {}
    cut = float(slider.thresholds[slider.begin])
    order = sorted(range(len(rows)), key=lambda number: rows[number]["score"])
    misses = [n for n in order if rows[n]["label"] == 1 and rows[n]["score"] < cut][:WORST]
    alarms = [n for n in reversed(order) if rows[n]["label"] == 0 and rows[n]["score"] >= cut][:WORST]
    normal = [row["score"] for row in rows if row["label"] == 0]
    anomalous = [row["score"] for row in rows if row["label"] == 1]
    why = {}
    for n in misses:
        higher = sum(score > rows[n]["score"] for score in normal)
        why[n] = f"missed: {higher} of {len(normal)} normal images score higher"
    for n in alarms:
        lower = sum(score < rows[n]["score"] for score in anomalous)
        beaten = f"scores above {lower} of {len(anomalous)} anomalous images" if anomalous else "scores above it"
        why[n] = f"false alarm: {beaten}"
    return {number: (rank, text) for rank, (number, text) in enumerate(why.items())}


def failures_section(
    rows: list[dict[str, Any]], slider: Slider | None, failures: Mapping[int, tuple[int, str]]
) -> Section:
    """Return the images that are called wrongly, as a table and as cards; nothing without labels."""
    if slider is None or any(row["label"] is None for row in rows):
        return Section("failures", "Failures", Markup(""))
    if not failures:
        note = f"No image is called wrongly at the {which(slider)}."
        return Section("failures", "Failures", element("p", note))
    lines = [
        [name_of(n), rows[n]["kind"] or ("anomalous" if rows[n]["label"] else "normal"), why, float(rows[n]["score"])]
        for n, (_, why) in failures.items()
    ]
    told = table(
        f"Called wrongly at the {which(slider)}, {slider.thresholds[slider.begin]:.4g}: at most {WORST} misses and "
        f"{WORST} false alarms",
        ["image", "ground truth", "why", "score"],
        lines,
        texts=3,
    )
    return Section("failures", "Failures", joined([told, element("ul", id="failure-cards", class_="cards")]))
