"""The gallery of a report: what its script needs of every image, and the controls that choose what is shown."""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vaex.viz.overlays import lookup_table
from vaex.viz.report_html import Markup, element, joined, void

Bytes = NDArray[np.uint8]


@dataclass(frozen=True)
class GalleryMap:
    """One map of every image: (G, h, w) bytes between ``low`` and ``high``; the threshold acts on one of them."""

    title: str
    values: Bytes
    low: float
    high: float
    group: str = "Score maps"
    unit: str = "score"
    threshold: bool = False


@dataclass(frozen=True)
class GalleryItem:
    """One image: its name, score, label (None: unknown), kind, and why it is a failure, with its rank, worst first."""

    name: str
    score: float
    label: int | None = None
    kind: str | None = None
    failure: tuple[int, str] | None = None


@dataclass(frozen=True)
class Gallery:
    """G images (G, H, W, 3), masks (G, H, W), reconstructions, and maps; ``levels`` (G, h, w) meet the thresholds."""

    items: Sequence[GalleryItem]
    images: Bytes
    maps: Sequence[GalleryMap]
    total: int
    masks: NDArray[np.bool_] | None = None
    reconstructions: Bytes | None = None
    levels: Bytes | None = None


def encoded(array: NDArray[Any]) -> str:
    """Return the bytes of an array as base64."""
    return base64.b64encode(np.ascontiguousarray(array, dtype=np.uint8).tobytes()).decode()


def colour_tables() -> dict[str, str]:
    """Return the 256 colours of both kinds of map as bytes in base64; the same as in all other pictures."""
    signed = {"sequential": False, "diverging": True}
    return {name: encoded(np.round(255 * lookup_table(None, sign))) for name, sign in signed.items()}


def gallery_data(gallery: Gallery) -> dict[str, Any]:
    """Return the gallery as plain values for the script."""
    items = []
    for position, item in enumerate(gallery.items):
        failure = None if item.failure is None else {"rank": item.failure[0], "why": item.failure[1]}
        entry: dict[str, Any] = {
            "name": item.name,
            "score": item.score,
            "label": item.label,
            "kind": item.kind,
            "failure": failure,
            "image": encoded(gallery.images[position]),
            "maps": [encoded(one.values[position]) for one in gallery.maps],
        }
        for name, arrays in (
            ("mask", gallery.masks),
            ("reconstruction", gallery.reconstructions),
            ("levels", gallery.levels),
        ):
            if arrays is not None:
                entry[name] = encoded(arrays[position])
        items.append(entry)
    maps: list[dict[str, Any]] = [
        {"title": one.title, "low": one.low, "high": one.high, "unit": one.unit, "threshold": one.threshold}
        for one in gallery.maps
    ]
    sizes = {"map_size": list(gallery.maps[0].values.shape[1:]), "image_size": list(gallery.images.shape[1:3])}
    return {"items": items, "maps": maps, "total": gallery.total, **sizes}


def gallery_controls(gallery: Gallery, thresholds: bool) -> Markup:
    """Return the choices above the gallery; ``thresholds``: a pixel threshold is there to paint with."""
    groups: dict[str, list[Markup]] = {}
    for position, one in enumerate(gallery.maps):
        groups.setdefault(one.group, []).append(element("option", one.title, value=position))
    plain = [element("option", "the image alone", value="plain")]
    if gallery.reconstructions is not None:
        plain.append(element("option", "the reconstruction", value="decoded"))
    choices = [element("optgroup", *options, label=name) for name, options in groups.items()]
    labels = {item.label for item in gallery.items}
    shows = [("all", "all kept images")]
    if labels & {0, 1}:
        shows += [("1", "anomalous ones"), ("0", "normal ones"), ("wrong", "wrongly called at the image threshold")]
    orders = [("most", "most anomalous first"), ("least", "least anomalous first")]
    controls = [
        _labelled(
            "Map and method", _select("map", joined([*choices, element("optgroup", *plain, label="Without a map")]))
        ),
        _labelled("Order, by image score", _select("order", _options(orders))),
        _labelled("Show", _select("show", _options(shows))),
        _labelled(
            joined(["Opacity of the map: ", element("output", "75 %", id="opacity-value", for_="opacity")]),
            void("input", type="range", id="opacity", min=0, max=100, value=75),
        ),
    ]
    boxes = []
    if gallery.masks is not None:
        boxes.append(
            element("label", void("input", type="checkbox", id="outline", checked=True), " Outline the ground truth")
        )
    if thresholds:
        boxes.append(
            element("label", void("input", type="checkbox", id="paint"), " Paint what exceeds the pixel threshold")
        )
    return element("div", *controls, element("div", *boxes), class_="controls", role="group", aria_label="Gallery")


def threshold_controls(pixel: Mapping[str, Any] | None, image: Mapping[str, Any] | None) -> Markup:
    """Return the sliders of the thresholds that are there, each at its ``best``."""
    sliders = []
    for name, title, points in (("image", "Image threshold", image), ("pixel", "Pixel threshold", pixel)):
        if points is None:
            continue
        slider = void(
            "input",
            type="range",
            id=f"{name}-threshold",
            min=0,
            max=len(points["thresholds"]) - 1,
            value=points["best"],
            step=1,
            aria_describedby=f"{name}-value",
        )
        output = element("output", id=f"{name}-value", for_=f"{name}-threshold", class_="note")
        sliders.append(element("div", element("label", title, slider), output))
    return element("div", *sliders, class_="controls", role="group", aria_label="Thresholds") if sliders else Markup("")


def gallery_body() -> Markup:
    """Return where the script puts the cards, the colour bar and the enlarged image."""
    bar = element(
        "div",
        *("Scale: ", element("span", id="bar-low"), element("canvas", id="bar", role="img", aria_label="Colour scale")),
        element("span", id="bar-high"),
        id="bar-row",
        class_="bar",
    )
    large = element(
        "dialog",
        element("p", element("strong", id="large-title")),
        element("p", "Each map has its own scale here, given in brackets; the same for all images.", class_="note"),
        element("div", id="large-maps", class_="many"),
        element("p", element("button", "Close", type="button", id="large-close")),
        id="large",
        aria_labelledby="large-title",
    )
    count = element("p", id="count", class_="note", aria_live="polite")
    script = element(
        "noscript", element("p", "The gallery needs JavaScript, which is off; all tables and curves do not.")
    )
    return joined([script, bar, count, element("ul", id="cards", class_="cards"), large])


def _labelled(title: object, control: Markup) -> Markup:
    return element("label", title, " ", control)


def _select(name: str, options: Markup) -> Markup:
    return element("select", options, id=name)


def _options(entries: Sequence[tuple[str, str]]) -> Markup:
    return joined(element("option", title, value=value) for value, title in entries)
