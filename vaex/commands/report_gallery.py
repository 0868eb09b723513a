"""Sections of the report made of what the test kept: thresholds with their curves, gallery, failures."""

from __future__ import annotations

import json
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from vaex.metrics.operating import OperatingPoints, image_points, pixel_points
from vaex.runs import KEPT_TEST
from vaex.viz.report_gallery import (
    Gallery,
    GalleryItem,
    GalleryMap,
    gallery_body,
    gallery_controls,
    gallery_data,
    threshold_controls,
)
from vaex.viz.report_html import Markup, element, joined, table
from vaex.viz.report_page import Section
from vaex.viz.report_plots import line_plot

WORST = 8
"""Most failures of each kind that are shown."""

Kept = dict[str, Any]


def read_kept(folder: Path) -> Kept | None:
    """Return what the test of a run kept, None where nothing was kept or it is damaged."""
    try:
        with np.load(folder / KEPT_TEST, allow_pickle=False) as arrays:
            found = {name: arrays[name] for name in arrays.files}
        about = json.loads(str(found.pop("about")))
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile):
        return None
    return {**about, "arrays": found}


def kept_parts(kept: Kept | None) -> tuple[list[Section], dict[str, Any]]:
    """Return the sections of thresholds, gallery and failures, and the data of their script."""
    if kept is None:
        note = "The test of this run kept no images. vaex evaluate ckpt=RUN_FOLDER writes a report with a gallery."
        return [Section("gallery", "Gallery", element("p", note, class_="note"))], {}
    rows, arrays = kept["rows"], kept["arrays"]
    labelled = all(row["label"] is not None for row in rows)
    scores = np.array([row["score"] for row in rows], np.float64)
    images = image_points(scores, np.array([row["label"] for row in rows])) if labelled else None
    pixels = pixel_points(arrays["curve_maps"], arrays["curve_masks"]) if "curve_maps" in arrays else None
    failures = failures_of(rows, images)
    gallery = gallery_of(kept, pixels, failures)
    data = {"gallery": gallery_data(gallery), "pixel": plain(pixels), "image": plain(images)}
    shown = [
        *curves(kept, pixels, images),
        element("p", gallery_note(kept), class_="note"),
        gallery_controls(gallery, pixels is not None),
        element("div", threshold_controls(data["pixel"], data["image"]), class_="sticky"),  # while the cards scroll
        gallery_body(),
    ]
    title = "Thresholds and gallery" if pixels or images else "Gallery"
    return [Section("gallery", title, joined(shown)), failures_section(kept, failures)], data


def plain(points: OperatingPoints | None) -> dict[str, Any] | None:
    """Return points as plain lists; the precision where nothing is called anomalous counts as 1."""
    if points is None:
        return None
    values: dict[str, Any] = {"thresholds": points.thresholds, "fpr": points.fpr, "tpr": points.tpr}
    values |= {"precision": np.nan_to_num(points.precision, nan=1.0), "pro": points.pro}
    return {name: value.tolist() for name, value in values.items() if value is not None} | {"best": points.best}


def name_of(number: int) -> str:
    """Return what the image at a position of the test is called: as test_images=[N] of vaex explain calls it."""
    return f"test image {number}"


def gallery_of(kept: Kept, pixels: OperatingPoints | None, failures: Mapping[int, tuple[int, str]]) -> Gallery:
    """Return the gallery of the images that were kept."""
    arrays, ranges = kept["arrays"], kept["ranges"]
    maps = []
    for name in kept["maps"]:
        kind, _, which = name.partition(":")
        if kind == "score":
            values = arrays["score"]
            low, high = float(values.min()), float(values.max())
            low = 0.0 if low >= 0 else low
            span = high - low or 1.0
            scaled = np.round(255 * (values - low) / span).astype(np.uint8)
            title = f"{kept['score']} (this run's score)"
            maps.append(GalleryMap(title, scaled, low, low + span, threshold=pixels is not None))
        elif kind == "other" and which != kept["score"]:
            low, high = ranges[name]
            maps.append(GalleryMap(which, arrays[name], low, high))
        elif kind == "latent":
            group = f"Attention of latents, by KL{': ' + kept['method'] if kept.get('method') else ''}"
            low, high = ranges[name]
            maps.append(GalleryMap(f"latent {which}", arrays[name], low, high, group, "attention"))
    items = [
        GalleryItem(
            name_of(number),
            kept["rows"][number]["score"],
            kept["rows"][number]["label"],
            kept["rows"][number]["kind"],
            failures.get(number),
        )
        for number in kept["gallery"]
    ]
    levels = None if pixels is None else pixels.level(arrays["score"].astype(np.float64))
    return Gallery(
        items, arrays["image"], maps, len(kept["rows"]), arrays.get("mask"), arrays.get("reconstruction"), levels
    )


def gallery_note(kept: Kept) -> str:
    """Return what the gallery holds, in a sentence or two."""
    height, width = kept["arrays"]["score"].shape[1:]
    labelled = all(row["label"] is not None for row in kept["rows"])
    shown = "The images of highest and lowest score"
    shown += ", among all and among the normal and the anomalous ones" if labelled else ""
    return (
        f"{shown}. Maps are averaged down to {height}x{width} cells. Press a card to see all its maps. Names count "
        "test images from 0, as test_images=[N] of vaex explain does."
    )


def curves(kept: Kept, pixels: OperatingPoints | None, images: OperatingPoints | None) -> list[Markup]:
    """Return ROC, PRO and precision-recall curves, and what they were made of."""
    plots: list[Markup] = []
    notes = []
    if images is not None:
        plots += _plots(images, "image", "Images")
        notes.append(f"Image curves: {len(kept['rows'])} test images.")
    if pixels is not None:
        plots += _plots(pixels, "pixel", "Pixels")
        count, height, width = kept["arrays"]["curve_maps"].shape
        notes.append(
            f"Pixel curves: maps and masks of {count} test images, averaged down to {height}x{width} cells, at "
            f"{len(pixels.thresholds)} thresholds; the numbers under Metrics are of whole maps and exact."
        )
    if not plots:
        return []
    notes.append(
        "The thresholds below begin at the highest F1, chosen by the labels of these very images: none that could have "
        "been known before. The dots are where they lie; moving the pixel threshold paints the gallery."
    )
    return [element("p", " ".join(notes), class_="note"), element("div", *plots, class_="plots")]


def _plots(points: OperatingPoints, curve: str, what: str) -> list[Markup]:
    precision = np.nan_to_num(points.precision, nan=1.0)
    rate = "true positive rate"
    found = [
        line_plot(
            {what: (points.fpr, points.tpr)},
            f"{what}: ROC",
            "false positive rate",
            rate,
            unit=True,
            diagonal=True,
            curve=curve,
        ),
        line_plot(
            {what: (points.tpr, precision)},
            f"{what}: precision and recall",
            "recall",
            "precision",
            unit=True,
            curve=curve,
        ),
    ]
    if points.pro is not None:
        pro = line_plot(
            {what: (points.fpr, points.pro)},
            "Regions: PRO",
            "false positive rate of pixels",
            "mean share of a region found",
            unit=True,
            diagonal=True,
            curve=curve,
        )
        found.insert(1, pro)
    return found


def failures_of(rows: list[dict[str, Any]], points: OperatingPoints | None) -> dict[int, tuple[int, str]]:
    """Return by position the images that are called wrongly at the best F1, worst first: (rank, why)."""
    if points is None:
        return {}
    cut = float(points.thresholds[points.best])
    order = sorted(range(len(rows)), key=lambda number: rows[number]["score"])
    misses = [n for n in order if rows[n]["label"] == 1 and rows[n]["score"] < cut][:WORST]
    alarms = [n for n in reversed(order) if rows[n]["label"] == 0 and rows[n]["score"] >= cut][:WORST]
    normal = [row["score"] for row in rows if row["label"] == 0]
    anomalous = [row["score"] for row in rows if row["label"] == 1]
    why = {}
    for n in misses:
        above = sum(score > rows[n]["score"] for score in normal)
        why[n] = f"missed: {above} of {len(normal)} normal images score higher"
    for n in alarms:
        below = sum(score < rows[n]["score"] for score in anomalous)
        why[n] = f"false alarm: scores above {below} of {len(anomalous)} anomalous images"
    return {number: (rank, text) for rank, (number, text) in enumerate(why.items())}


def failures_section(kept: Kept, failures: Mapping[int, tuple[int, str]]) -> Section:
    """Return the images that are called wrongly, as a table and as cards."""
    rows = kept["rows"]
    if any(row["label"] is None for row in rows) or len({row["label"] for row in rows}) < 2:
        return Section("failures", "Failures", Markup(""))
    if not failures:
        note = "No image is called wrongly at the image threshold of highest F1."
        return Section("failures", "Failures", element("p", note))
    lines = [
        [name_of(n), rows[n]["kind"] or ("anomalous" if rows[n]["label"] else "normal"), why, float(rows[n]["score"])]
        for n, (_, why) in failures.items()
    ]
    told = table(
        f"Called wrongly at the image threshold of highest F1, at most {WORST} misses and {WORST} false alarms",
        ["image", "ground truth", "why", "score"],
        lines,
        texts=3,
    )
    return Section("failures", "Failures", joined([told, element("ul", id="failure-cards", class_="cards")]))
