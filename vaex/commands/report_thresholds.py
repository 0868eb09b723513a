"""Thresholds of the report: those that calibration gave, those that a slider runs over, and the curves they lie on."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from vaex.errors import VaexError
from vaex.metrics.operating import (
    Floats,
    OperatingPoints,
    above,
    image_points,
    pixel_points,
    unlabelled_points,
)
from vaex.scores.thresholds import Threshold, threshold_at
from vaex.viz.report_html import Markup, element
from vaex.viz.report_plots import line_plot

Kept = dict[str, Any]
Row = Mapping[str, Any]


class Slider(NamedTuple):
    """Thresholds to choose from, rising; values at or above one are called anomalous."""

    thresholds: Floats
    points: OperatingPoints | None  # rates at each threshold; None without labels of both kinds
    share: Floats | None  # of all values that reach each threshold, without labels
    calibrated: int | None  # position of the one that calibration gave
    limit: Threshold | None

    @property
    def begin(self) -> int:
        """Position to begin at: the calibrated threshold, else that of highest F1."""
        return self.calibrated if self.calibrated is not None else self.points.best if self.points else 0

    def plain(self) -> dict[str, Any]:
        """Return plain lists; the precision where nothing is called anomalous counts as 1."""
        found: dict[str, Any] = {"thresholds": self.thresholds.tolist(), "begin": self.begin}
        found |= {"calibrated": self.calibrated, "best": None, "share": None}
        if self.share is not None:
            found["share"] = self.share.tolist()
        if self.points is not None:
            points = self.points
            values = {"fpr": points.fpr, "tpr": points.tpr, "precision": np.nan_to_num(points.precision, nan=1.0)}
            found |= {name: value.tolist() for name, value in values.items()} | {"best": points.best}
            found["pro"] = None if points.pro is None else points.pro.tolist()
        return found


class Sliders(NamedTuple):
    """The thresholds of images and pixels, where there are such, and why calibration gave none ("": it did)."""

    image: Slider | None
    pixel: Slider | None
    reason: str


def in_tiles(rows: Sequence[Row]) -> bool:
    """Return whether the rows of a test are of tiles, and it is known of which images."""
    return any(row.get("image_of") is not None for row in rows)


def whole_rows(rows: Sequence[Row]) -> list[Row]:
    """Return a row for each image of a test, with the ``number`` of its own row.

    Of an image in tiles it is that of the highest tile; the image is anomalous by one of them, whose kind it has.
    """
    images: dict[object, list[Row]] = {}
    for number, row in enumerate(rows):
        image = row.get("image_of")
        images.setdefault(("row", number) if image is None else image, []).append({**row, "number": number})
    found: list[Row] = []
    for tiles in images.values():
        worst = max(tiles, key=lambda row: row["label"] or 0)
        found.append({**max(tiles, key=lambda row: row["score"]), "label": worst["label"], "kind": worst["kind"]})
    return found


def sliders_of(kept: Kept, rate: float) -> Sliders:
    """Return the thresholds of a test; those of calibration call at most ``rate`` of normal images anomalous.

    Without labels of both kinds there are only those of calibration, and what they lie among.
    """
    rows, arrays = whole_rows(kept["rows"]), kept["arrays"]
    image, pixel, reason = limits_of(kept.get("normal"), rate)
    labelled = all(row["label"] is not None for row in rows)
    scores = np.array([row["score"] for row in rows], np.float64)
    labels = np.array([row["label"] for row in rows]) if labelled else None
    maps, masks = arrays.get("curve_maps"), arrays.get("curve_masks")
    return Sliders(
        _slider(
            None if labels is None else lambda also: image_points(scores, labels, also),
            scores,
            image,
        ),
        _slider(
            None if maps is None or masks is None else lambda also: pixel_points(maps, masks, also),
            arrays["score"] if maps is None else maps,
            pixel,
        ),
        reason,
    )


def limits_of(normal: Any, rate: float) -> tuple[Threshold | None, Threshold | None, str]:
    """Return the thresholds of images and of pixels by held-out normal images, or why there are none.

    As `vaex explain` makes them: so many normal images have a score, and so many a pixel, above.
    """
    if not normal or not normal.get("scores"):
        return None, None, str((normal or {}).get("reason") or "")
    try:
        return threshold_at(normal["scores"], rate), threshold_at(normal["pixels"], rate), ""
    except VaexError as error:
        return None, None, str(error)


def _slider(points_with: Callable[[Any], OperatingPoints | None] | None, values: Any, limit: Threshold | None) -> Any:
    also = [] if limit is None else [above(limit.value)]
    points = None if points_with is None else points_with(also)
    if points is None and limit is None:
        return None
    thresholds, share = (points.thresholds, None) if points is not None else unlabelled_points(values, also)
    position = int(np.searchsorted(thresholds, also[0])) if also else None
    return Slider(thresholds, points, share, position, limit)


def curves(kept: Kept, sliders: Sliders) -> list[Markup]:
    """Return ROC, PRO and precision-recall curves, and what they were made of."""
    plots: list[Markup] = []
    notes = []
    tiles = in_tiles(kept["rows"])
    shown = "tiles" if tiles else "images"
    image, pixel = sliders.image, sliders.pixel
    if image is not None and image.points is not None:
        plots += _plots(image, "image", "Images")
        each = f", each the highest of its tiles, {len(kept['rows'])} in all" if tiles else ""
        notes.append(f"Image curves: {len(whole_rows(kept['rows']))} test images{each}.")
    if pixel is not None and pixel.points is not None:
        plots += _plots(pixel, "pixel", "Pixels")
        count, height, width = kept["arrays"]["curve_maps"].shape
        notes.append(
            f"Pixel curves: maps and masks of {count} test {shown}, averaged down to {height}x{width} cells, at "
            f"{len(pixel.thresholds)} thresholds; the numbers under Metrics are of whole maps and exact."
        )
    if not plots:
        return []
    if (count := kept.get("processes", 1)) > 1:
        notes.append(
            f"Curves are of what the first of {count} processes saw of the test, the numbers under Metrics of all."
        )
        also = "and so may all that show its defect: then it counts as normal here."
        notes += [f"The highest tile of an image may have been seen by another, {also}"] if tiles else []
    return [element("p", " ".join(notes), class_="note"), element("div", *plots, class_="plots")]


def threshold_notes(kept: Kept, sliders: Sliders) -> list[Markup]:
    """Return where the thresholds come from, and what may be expected of them."""
    from vaex.commands.inspection import threshold_sentences

    image, pixel = sliders.image, sliders.pixel
    said: list[str] = []
    if image is not None and image.limit is not None:
        said += ["Calibrated threshold.", *threshold_sentences(kept["score"], image.limit.value, image.limit)]
    if pixel is not None and pixel.limit is not None:
        said.append(
            f"That of pixels, {pixel.limit.value:.4g}, is exceeded anywhere in at most {pixel.limit.rate:.3g} of "
            "normal images; it is one of whole maps, and a small peak may stay below in the averaged maps of this page."
        )
    if (kept.get("normal") or {}).get("tiles"):
        tiles = "so are the image curves, while pixel curves and the cards below are of single tiles"
        counted = tiles if in_tiles(kept["rows"]) else "the images of this test are not cut into tiles"
        said.append(f"Both are those of whole images, of the highest of their tiles; {counted}.")
    elif in_tiles(kept["rows"]) and image is not None and image.limit is not None:
        said.append("Both are of images that were not cut: an image of many tiles is above more often.")
    if kept.get("held_out") and image is not None and image.limit is not None:
        said.append(
            "Of the data of the training it was made of the very normal images of this page: their false alarms are no "
            "evidence."
        )
    if sliders.reason:
        said.append(f"No calibrated threshold: {sliders.reason}")
    if (image is not None and image.points is not None) or (pixel is not None and pixel.points is not None):
        said.append(
            "The threshold of highest F1 was chosen by the labels of these very images: none that could have been "
            "known before."
        )
    return [element("p", " ".join(said), class_="note")] if said else []


def _plots(slider: Slider, curve: str, what: str) -> list[Markup]:
    points = slider.points
    assert points is not None  # noqa: S101 - for the type checker
    precision = np.nan_to_num(points.precision, nan=1.0)
    common: dict[str, Any] = {"unit": True, "curve": curve, "mark": slider.calibrated}
    lines = [(f"{what}: ROC", points.fpr, points.tpr, "false positive rate", "true positive rate", True)]
    if points.pro is not None:
        words = "false positive rate of pixels", "mean share of a region found"
        lines.append(("Regions: PRO", points.fpr, points.pro, *words, True))
    lines.append((f"{what}: precision and recall", points.tpr, precision, "recall", "precision", False))
    return [
        line_plot({what: (x, y)}, title, x_label, y_label, diagonal=diagonal, **common)
        for title, x, y, x_label, y_label, diagonal in lines
    ]
