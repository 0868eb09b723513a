"""Sections of the report made of what the test kept: thresholds with their curves, gallery, failures."""

from __future__ import annotations

import json
import zipfile
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from vaex.commands.report_failures import failures_of, failures_section, name_of
from vaex.commands.report_thresholds import Kept, Slider, curves, in_tiles, sliders_of, threshold_notes
from vaex.metrics.operating import levels
from vaex.runs import KEPT_TEST
from vaex.viz.report_controls import gallery_body, gallery_controls, threshold_controls
from vaex.viz.report_gallery import Gallery, GalleryItem, GalleryMap, gallery_data
from vaex.viz.report_html import element, joined
from vaex.viz.report_page import Section

EVERY_MAP, OWN_METHOD, OWN_SCORE = "every map", "own method", "own score"

LEFT_OUT: dict[str, list[str]] = {
    EVERY_MAP: [],
    OWN_METHOD: ["maps of further methods"],
    OWN_SCORE: ["maps of further methods", "maps of the other scores"],
}
"""What a gallery leaves out that shows these maps."""


def read_kept(folder: Path) -> Kept | None:
    """Return what the test of a run kept, None where nothing was kept, nothing in it where it is damaged."""
    if not (folder / KEPT_TEST).is_file():
        return None
    try:
        with np.load(folder / KEPT_TEST, allow_pickle=False) as arrays:
            found = {name: arrays[name] for name in arrays.files}
        about = dict(json.loads(str(found.pop("about"))))
    except (OSError, ValueError, TypeError, KeyError, EOFError, zipfile.BadZipFile, zipfile.LargeZipFile, zlib.error):
        return {}
    return {**about, "arrays": found}


def kept_parts(kept: Kept | None, rate: float, which: str = EVERY_MAP) -> tuple[list[Section], dict[str, Any]]:
    """Return the sections of thresholds, gallery and failures, and the data of their script.

    ``rate`` is the share of normal images that the calibrated threshold may call anomalous; ``which`` maps is one of
    `LEFT_OUT`.
    """
    again = "vaex evaluate ckpt=RUN_FOLDER writes a report with a gallery."
    if kept is None:
        note = f"The test of this run kept no images. {again}"
        return [Section("gallery", "Gallery", element("p", note, class_="note"))], {}
    try:
        return _shown(kept, rate, which)
    except (KeyError, IndexError, TypeError, ValueError, AttributeError):  # of another program, or cut off
        note = f"{KEPT_TEST} is damaged and cannot be shown. {again}"
        return [Section("gallery", "Gallery", element("p", note, class_="wrong"))], {}


def _shown(kept: Kept, rate: float, which: str) -> tuple[list[Section], dict[str, Any]]:
    sliders = sliders_of(kept, rate)
    failures = failures_of(kept["rows"], sliders.image)
    gallery = gallery_of(kept, sliders.pixel, failures, which)
    plain = {name: None if one is None else one.plain() for name, one in sliders._asdict().items() if name != "reason"}
    shown = [
        *curves(kept, sliders),
        *threshold_notes(kept, sliders),
        element("p", gallery_note(kept, gallery), class_="note"),
        gallery_controls(gallery, sliders.pixel is not None),
        element("div", threshold_controls(plain["pixel"], plain["image"]), class_="sticky"),  # while the cards scroll
        gallery_body(),
    ]
    title = "Thresholds and gallery" if sliders.pixel or sliders.image else "Gallery"
    sections = [
        Section("gallery", title, joined(shown)),
        failures_section(kept["rows"], sliders.image, failures),
    ]
    return sections, {"gallery": gallery_data(gallery), **plain}


def gallery_of(
    kept: Kept, pixel: Slider | None, failures: Mapping[int, tuple[int, str]], which: str = EVERY_MAP
) -> Gallery:
    """Return the gallery of the images that were kept."""
    arrays = kept["arrays"]
    items = [
        GalleryItem(
            name_of(number, kept["rows"][number]),
            kept["rows"][number]["score"],
            kept["rows"][number]["label"],
            kept["rows"][number]["kind"],
            failures.get(number),
        )
        for number in kept["gallery"]
    ]
    reached = None if pixel is None else levels(pixel.thresholds, arrays["score"].astype(np.float64))
    return Gallery(
        items,
        arrays["image"],
        maps_of(kept, pixel is not None, which),
        len(kept["rows"]),
        arrays.get("mask"),
        arrays.get("reconstruction"),
        reached,
        "tiles" if in_tiles(kept["rows"]) else "images",
    )


def maps_of(kept: Kept, thresholds: bool, shown: str) -> list[GalleryMap]:
    """Return the maps of the gallery, the run's own score first."""
    arrays, ranges = kept["arrays"], kept["ranges"]
    methods = kept.get("methods") or [str(kept.get("method") or "attention")]
    found = []
    for name in kept["maps"]:
        kind, _, rest = name.partition(":")
        which, _, place = rest.partition("@")
        if kind == "score":
            scaled, low, high = score_bytes(arrays["score"])
            found.append(GalleryMap(f"{kept['score']} (this run's score)", scaled, low, high, threshold=thresholds))
        elif kind == "other":
            if rest != kept["score"] and shown != OWN_SCORE:
                found.append(GalleryMap(rest, arrays[name], *ranges[name]))
        elif shown == EVERY_MAP or not place:
            of_latent = kind == "latent"
            title = f"latent {which}" if of_latent else "all latents together" if which == "0" else f"target {which}"
            group = "Attention of latents, by KL" if of_latent else "Attention"
            method = methods[int(place or 0)]
            low, high = ranges[name]
            found.append(GalleryMap(title, arrays[name], low, high, group, "attention", method=method))
    return found


def score_bytes(values: np.ndarray[Any, Any]) -> tuple[np.ndarray[Any, Any], float, float]:
    """Return score maps as 0..255 from 0 to the highest, from minus to plus the largest where they have both signs.

    What is no number counts as the lowest.
    """
    known = values[np.isfinite(values)]
    low, high = (float(known.min()), float(known.max())) if known.size else (0.0, 0.0)
    if low < 0 < high:  # colours of both signs have 0 in their middle
        high = max(-low, high)
        low = -high
    low = min(low, 0.0)
    span = high - low or 1.0
    scaled = np.nan_to_num((values.astype(np.float64) - low) / span, nan=0.0, posinf=1.0, neginf=0.0)
    return np.round(255 * scaled).clip(0, 255).astype(np.uint8), low, low + span


def gallery_note(kept: Kept, gallery: Gallery) -> str:
    """Return what the gallery holds, in a sentence or two."""
    height, width = kept["arrays"]["score"].shape[1:]
    labelled = all(row["label"] is not None for row in kept["rows"])
    what = "tiles" if in_tiles(kept["rows"]) else "images"
    shown = f"The {what} of highest and lowest score"
    shown += ", among all and among the normal and the anomalous ones" if labelled else ""
    methods = gallery.methods
    named = f"count test {what} from 0, as test_images=[N] of vaex explain does."
    if kept.get("held_out"):
        named = f"count held-out {what} and their copies from 0; test_images=[N] of vaex explain shows others."
    more = f" Attention is there by {', '.join(methods)}, the first of which is the run's own." if methods[1:] else ""
    return (
        f"{shown}. Maps are averaged down to {height}x{width} cells.{more} Press a card to see all its maps. Names "
        f"{named}" + (" Each tile is judged by itself here, by its own part of the mask." if what == "tiles" else "")
    )
