"""Images of a test that are called wrongly: which, why, and in which order they are worth a look."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from vaex.commands.report_thresholds import Row, Slider, in_tiles, whole_rows
from vaex.viz.report_html import Markup, element, joined, table
from vaex.viz.report_page import Section

WORST = 8
"""Most failures of each kind that are shown."""


def name_of(number: int, row: Row) -> str:
    """Return what the image, or tile, at a position of the test is called: test_images=[N] of vaex explain shows it."""
    return f"test {'image' if row.get('image_of') is None else 'tile'} {number}"


def which(slider: Slider) -> str:
    """Return which threshold decides here."""
    return "calibrated threshold" if slider.calibrated is not None else "image threshold of highest F1"


def failures_of(rows: Sequence[Row], slider: Slider | None) -> dict[int, tuple[int, str]]:
    """Return by position the images that are called wrongly at the slider's beginning, worst first: (rank, why).

    An image in tiles stands at the position of its highest tile.
    """
    if slider is None:
        return {}
    cut = float(slider.thresholds[slider.begin])
    order = sorted(whole_rows(rows), key=lambda row: row["score"])
    misses = [row for row in order if row["label"] == 1 and row["score"] < cut][:WORST]
    alarms = [row for row in reversed(order) if row["label"] == 0 and row["score"] >= cut][:WORST]
    normal = [row["score"] for row in order if row["label"] == 0]
    anomalous = [row["score"] for row in order if row["label"] == 1]
    why = {}
    for row in misses:
        higher = sum(score > row["score"] for score in normal)
        why[row["number"]] = f"missed: {higher} of {len(normal)} normal images score higher"
    for row in alarms:
        lower = sum(score < row["score"] for score in anomalous)
        beaten = f"scores above {lower} of {len(anomalous)} anomalous images" if anomalous else "scores above it"
        why[row["number"]] = f"false alarm: {beaten}"
    return {number: (rank, text) for rank, (number, text) in enumerate(why.items())}


def failures_section(rows: Sequence[Row], slider: Slider | None, failures: Mapping[int, tuple[int, str]]) -> Section:
    """Return the images that are called wrongly, as a table and as cards; nothing without labels."""
    if slider is None or any(row["label"] is None for row in rows):
        return Section("failures", "Failures", Markup(""))
    if not failures:
        note = f"No image is called wrongly at the {which(slider)}."
        return Section("failures", "Failures", element("p", note))
    of = {row["number"]: row for row in whole_rows(rows)}
    lines = [
        [name_of(n, of[n]), of[n]["kind"] or ("anomalous" if of[n]["label"] else "normal"), why, float(of[n]["score"])]
        for n, (_, why) in failures.items()
    ]
    told = table(
        f"Called wrongly at the {which(slider)}, {slider.thresholds[slider.begin]:.4g}: at most {WORST} misses and "
        f"{WORST} false alarms",
        ["image", "ground truth", "why", "score"],
        lines,
        texts=3,
    )
    tiles = "Whole images are judged, each named by its highest tile. Cards are of those tiles that the gallery holds."
    note = element("p", tiles, class_="note") if in_tiles(rows) else ""
    return Section("failures", "Failures", joined([told, note, element("ul", id="failure-cards", class_="cards")]))
