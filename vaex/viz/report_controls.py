"""The controls of a report's gallery: what is shown, in which order, at which thresholds, and where it appears."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from vaex.viz.report_gallery import Gallery
from vaex.viz.report_html import Markup, element, joined, void


def gallery_controls(gallery: Gallery, thresholds: bool) -> Markup:
    """Return the choices above the gallery; ``thresholds``: a pixel threshold is there to paint with."""
    groups: dict[str, list[Markup]] = {}
    known: set[tuple[str, str]] = set()  # a title that several methods give is offered once
    for position, one in enumerate(gallery.maps):
        if (one.group, one.title) not in known:
            groups.setdefault(one.group, []).append(element("option", one.title, value=position))
        known.add((one.group, one.title))
    plain = [element("option", "the image alone", value="plain")]
    if gallery.reconstructions is not None:
        plain.append(element("option", "the reconstruction", value="decoded"))
    choices = [element("optgroup", *options, label=name) for name, options in groups.items()]
    labels = {item.label for item in gallery.items}
    shows = [("all", "all kept images")]
    if labels & {0, 1}:
        shows += [("1", "anomalous ones"), ("0", "normal ones"), ("wrong", "wrongly called at the image threshold")]
    methods = [(name, name + (" (this run's)" if place == 0 else "")) for place, name in enumerate(gallery.methods)]
    orders = [("most", "most anomalous first"), ("least", "least anomalous first")]
    controls = [
        _labelled("Map", _select("map", joined([*choices, element("optgroup", *plain, label="Without a map")]))),
        *([_labelled("Method, for attention", _select("method", _options(methods)))] if methods else []),
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
    """Return the sliders of the thresholds that are there, each at its ``begin``, with a button to each marked one."""
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
            value=points["begin"],
            step=1,
            list=f"{name}-marks",
            aria_describedby=f"{name}-value",
        )
        marked = [
            (words, points[key])
            for key, words in (("calibrated", "Calibrated"), ("best", "Highest F1"))
            if points[key] is not None
        ]
        ticks = element("datalist", *(element("option", value=at) for _, at in marked), id=f"{name}-marks")
        buttons = [
            element(
                "button",
                words,
                type="button",
                data_slider=f"{name}-threshold",
                data_value=at,
                aria_label=f"{title}: {words}",
            )
            for words, at in marked
        ]
        output = element("output", id=f"{name}-value", for_=f"{name}-threshold", class_="note")
        sliders.append(element("div", element("label", title, slider), ticks, *buttons, " ", output))
    return element("div", *sliders, class_="controls", role="group", aria_label="Thresholds") if sliders else Markup("")


def gallery_body() -> Markup:
    """Return where the script puts the cards, the colour bar and the enlarged image."""
    bar = _bar("bar", "Scale: ")
    large = element(
        "dialog",
        element(
            "p", element("strong", id="large-title"), " ", element("button", "Close", type="button", id="large-close")
        ),
        element("p", id="large-note", class_="note"),
        _bar("large-bar", "Attention: "),
        element("div", id="large-maps", class_="many"),
        id="large",
        aria_labelledby="large-title",
    )
    count = element("p", id="count", class_="note", aria_live="polite")
    script = element(
        "noscript", element("p", "The gallery needs JavaScript, which is off; all tables and curves do not.")
    )
    return joined([script, bar, count, element("ul", id="cards", class_="cards"), large])


def _bar(name: str, words: str) -> Markup:
    """Return a colour bar between its two ends."""
    colours = element("canvas", id=name, role="img", aria_label="Colour scale")
    ends = (element("span", id=f"{name}-{end}") for end in ("low", "high"))
    return element("div", words, next(ends), colours, next(ends), id=f"{name}-row", class_="bar")


def _labelled(title: object, control: Markup) -> Markup:
    return element("label", title, " ", control)


def _select(name: str, options: Markup) -> Markup:
    return element("select", options, id=name)


def _options(entries: Sequence[tuple[str, str]]) -> Markup:
    return joined(element("option", title, value=value) for value, title in entries)
