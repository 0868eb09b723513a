"""From pixels, single or compressed, to the numbers of localisation."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from vaex.metrics.curves import best_cuts, log_area, overlap_area, precision_area, rank_area
from vaex.metrics.ordering import Floats, Keys, Tally, tally, to_values
from vaex.metrics.sketch import Nodes, Pixels, no_pixels, selected

PIMO_BOUNDS = (1e-5, 1e-4)
"""False positive rates in normal images between which AUPIMO averages."""
LOW_FPR = 0.05
"""The false positive rate up to which `aupro_005` integrates."""
PIXEL_KEYS = ("pixel_auroc", "pixel_ap", "aupro", "aupro_005", "best_iou", "f1_max", "f1_max_threshold")

Pair = tuple[Floats, Floats]  # above each anomalous pixel, and with its ties


class Part(NamedTuple):
    """One part of the images, as `Pixels` and `Nodes` number them, ready to be counted in.

    The anomalous pixels stand twice: to be counted, and as rows ``low``, ``high`` (n,) and ``mass`` (n, 3), which are
    pixels and their two weights.
    """

    number: int
    normal: Tally
    anomalous: Tally
    low: Keys
    high: Keys
    mass: Floats


def all_parts(pixels: Sequence[Pixels], nodes: Nodes) -> list[Part]:
    """Return all parts, each made of its pixels, of which one entry or none may be given, and its nodes."""
    given = {one.part: one for one in pixels}
    numbers = sorted({*given, *nodes.part.tolist()})
    return [_part(given.get(number) or no_pixels(number), nodes) for number in numbers]


def _part(pixels: Pixels, nodes: Nodes) -> Part:
    own = selected(nodes, nodes.part == pixels.part)
    low, high = own.low.astype(np.int32), (own.low + own.width - 1).astype(np.int32)
    held = own.mass[:, 1] > 0
    rows_low = np.concatenate([pixels.anomalous, low[held]])
    rows_high = np.concatenate([pixels.anomalous, high[held]])
    single = np.concatenate([np.ones((len(pixels.anomalous), 1)), pixels.weights], 1)
    return Part(
        pixels.part,
        tally(pixels.normal, low, high, own.mass[:, 0]),
        tally(pixels.anomalous, low, high, own.mass[:, 1]),
        rows_low,
        rows_high,
        np.concatenate([single, own.mass[held, 1:]]),
    )


def pixel_measures(parts: Sequence[Part], groups: Mapping[int, str], max_fpr: float) -> dict[str, float]:
    """Return `PIXEL_KEYS` and ``aupimo`` over all ``parts``, and ``<key>/<group>`` for each that ``groups`` names.

    A group is measured on its own images and all normal ones. What cannot be measured is NaN: everything without
    anomalous pixels, and areas without normal pixels. ``aupimo`` is absent without normal images.
    """
    normal = [part for part in parts if part.number < 0]
    kinds = [part for part in parts if part.number > 0]
    every: list[_Rows] = []
    result: dict[str, float] = {"aupimo": math.nan} if normal else {}
    for kind in kinds:
        counted = {part.number: part.normal.around(kind.low, kind.high) for part in parts}
        hit = {part.number: part.anomalous.around(kind.low, kind.high) for part in kinds}
        rates = _rates(normal, counted)
        every.append(_Rows(kind, _sum(list(hit.values())), _sum(list(counted.values())), rates))
        if name := groups.get(kind.number):
            alarms = _sum([counted[part.number] for part in (*normal, kind)])
            own = _Rows(kind, hit[kind.number], alarms, rates)
            found = _measure([own], sum(part.normal.total for part in (*normal, kind)), max_fpr)
            result |= {f"{key}/{name}": value for key, value in found.items()}
    return result | _measure(every, sum(part.normal.total for part in parts), max_fpr)


class _Rows(NamedTuple):
    """Anomalous pixels of one kind with what lies above them: ``hits``, ``alarms``, and rates of normal images."""

    kind: Part
    hits: Pair
    alarms: Pair
    rates: Pair | None


def _sum(pairs: Sequence[Pair]) -> Pair:
    return np.sum([above for above, _ in pairs], axis=0), np.sum([at_least for _, at_least in pairs], axis=0)


def _rates(normal: Sequence[Part], counted: Mapping[int, Pair]) -> Pair | None:
    """Return the false positive rate averaged over normal images, which may differ in size; None without any."""
    images = sum(part.normal.total / -part.number for part in normal)
    if not images:
        return None
    shares = [(counted[part.number], -part.number * images) for part in normal]
    return _sum([(above / weight, at_least / weight) for (above, at_least), weight in shares])


def _measure(rows: Sequence[_Rows], normals: float, max_fpr: float) -> dict[str, float]:
    """Return the measures of ``rows`` among so many normal pixels."""
    result = dict.fromkeys(PIXEL_KEYS, math.nan)
    if not rows:
        return result
    low = np.concatenate([one.kind.low for one in rows])
    single = low == np.concatenate([one.kind.high for one in rows])
    mass = np.concatenate([one.kind.mass for one in rows])
    pixels, regions, images = mass.T
    hits, alarms = _column([one.hits for one in rows]), _column([one.alarms for one in rows])
    overlap, f1, best = best_cuts(hits[1], alarms[1], float(pixels.sum()))
    result |= {"best_iou": overlap, "f1_max": f1, "f1_max_threshold": float(to_values(low[best : best + 1])[0])}
    if normals:
        found, missed = (np.where(single, pair[1], (pair[0] + pair[1]) / 2) for pair in (hits, alarms))
        result["pixel_auroc"] = rank_area(pixels, alarms[0] / normals, alarms[1] / normals)
        result["pixel_ap"] = precision_area(pixels, found, missed)
        for key, limit in (("aupro", max_fpr), ("aupro_005", LOW_FPR)):
            result[key] = overlap_area(regions, alarms[0] / normals, alarms[1] / normals, limit)
    if rates := [one.rates for one in rows if one.rates is not None]:
        result["aupimo"] = log_area(images, *_column(rates), PIMO_BOUNDS)
    return result


def _column(pairs: Sequence[Pair]) -> Pair:
    return np.concatenate([above for above, _ in pairs]), np.concatenate([at_least for _, at_least in pairs])
