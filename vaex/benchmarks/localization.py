"""All measures of localisation together, beside scikit-learn's AUROC and an AUPRO that sorts all pixels."""

from __future__ import annotations

import importlib
import time
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import ndimage
from torch import Tensor

from vaex.benchmarks.table import Table
from vaex.benchmarks.timing import Contestant, Timing, interleaved, one_thread, quartiles
from vaex.errors import VaexError
from vaex.metrics import LocalizationMetrics

FASTER = 8.0
"""Goal: how many times less CPU time than both peers together."""
MAX_FPR = 0.3
BATCH = 16
VAEX, TOGETHER = "vaex: all measures, overall and per group", "both peers"
SKLEARN, SORTING = "scikit-learn roc_auc_score", "AUPRO by sorting all pixels (as anomalib does, rewritten)"


class Maps(NamedTuple):
    """Score maps (N, 1, H, W), masks (N, 1, H, W) and the name of each image's group."""

    maps: Tensor
    masks: Tensor
    groups: list[str]


class Result(NamedTuple):
    """Timings by contestant, the first being the floor; the largest difference from the peers; what was measured."""

    timings: Mapping[str, Timing]
    error: float
    case: str


def drawn_maps(count: int, size: int) -> Maps:
    """Return ``count`` maps of noise, a quarter of them normal, the others with defects of three kinds that stand out.

    About one pixel in twenty is anomalous, as in the test set of MVTec's bottle, which has 83 images.
    """
    generator = np.random.default_rng(0)
    masks, groups = np.zeros((count, 1, size, size), np.float32), ["good"] * count
    for image in range(count // 4, count):
        kind = image % 3
        groups[image] = ("one", "two", "many")[kind]
        for _ in range((1, 2, 8)[kind]):
            side = max(1, round(size * (0.26, 0.18, 0.09)[kind]))
            top, left = generator.integers(0, size - side + 1, 2)
            masks[image, 0, top : top + side, left : left + side] = 1
    noise = generator.standard_normal(masks.shape, np.float32)
    return Maps(torch.from_numpy(noise + 1.5 * masks), torch.from_numpy(masks), groups)


def all_measures(case: Maps) -> dict[str, Tensor]:
    """Return what `LocalizationMetrics` says, fed batch by batch."""
    metric = LocalizationMetrics(MAX_FPR)
    for start in range(0, len(case.maps), BATCH):
        part = slice(start, start + BATCH)
        metric.update(case.maps[part], case.masks[part], groups=case.groups[part])
    found: dict[str, Tensor] = metric.compute()
    return found


def sklearn_auroc(case: Maps) -> float:
    """Return the pixel AUROC of scikit-learn.

    Raises:
        VaexError: scikit-learn is not installed.
    """
    try:
        metrics: Any = importlib.import_module("sklearn.metrics")
    except ImportError as error:
        raise VaexError("what=metrics measures scikit-learn, which is missing: pip install scikit-learn.") from error
    return float(metrics.roc_auc_score(case.masks.numpy().ravel() > 0.5, case.maps.numpy().ravel()))


def sorting_aupro(case: Maps, max_fpr: float = MAX_FPR) -> float:
    """Return AUPRO by sorting all pixels, descending, and adding up weights of 1 / (regions * size of the region).

    Source: the algorithm of anomalib's AUPRO since its pull request 3115, written anew.
    """
    masks: NDArray[np.float32] = case.masks[:, 0].numpy()
    weights, regions = np.zeros(masks.shape, np.float64), 0
    for weight, mask in zip(weights, masks, strict=True):
        labels, count = ndimage.label(mask, np.ones((3, 3)))
        sizes = np.bincount(labels.ravel(), minlength=count + 1)
        weight[labels > 0] = 1 / sizes[labels[labels > 0]]
        regions += count
    scores, order = case.maps.flatten().sort(descending=True)
    overlap = torch.from_numpy(weights).flatten()[order].cumsum(0) / regions
    alarms = (case.masks.flatten()[order] == 0).double().cumsum(0)
    last = torch.cat([scores[1:] != scores[:-1], torch.ones(1, dtype=torch.bool)])  # ties enter at once
    fpr = torch.cat([torch.zeros(1), alarms[last] / alarms[-1]]).numpy()
    pro = torch.cat([torch.zeros(1), overlap[last]]).numpy()
    cut = int(np.searchsorted(fpr, max_fpr, "right"))
    x, y = np.append(fpr[:cut], max_fpr), np.append(pro[:cut], np.interp(max_fpr, fpr, pro))
    return float(np.trapezoid(y, x)) / max_fpr


def run_metrics(count: int, size: int, rounds: int) -> Result:
    """Measure CPU time in one thread, interleaved, on ``count`` maps of ``size`` x ``size``.

    Raises:
        VaexError: scikit-learn is missing, or there are fewer than four maps.
    """
    if count < 4:
        raise VaexError(f"what=metrics needs at least 4 maps, normal ones and three kinds of defects, got {count}.")
    case = drawn_maps(count, size)
    contestants = [
        Contestant(TOGETHER, lambda: (sklearn_auroc(case), sorting_aupro(case))),
        Contestant(SKLEARN, lambda: sklearn_auroc(case)),
        Contestant(SORTING, lambda: sorting_aupro(case)),
        Contestant(VAEX, lambda: all_measures(case)),
    ]
    with one_thread():
        found = all_measures(case)
        error = max(
            abs(float(found["pixel_auroc"]) - sklearn_auroc(case)), abs(float(found["aupro"]) - sorting_aupro(case))
        )
        timings = interleaved(contestants, rounds, time.process_time)
    share = float(case.masks.mean())
    text = f"{count} maps of {size}x{size}, {100 * share:.1f} % of the pixels anomalous, three kinds of defects."
    return Result(timings, error, text)


def metrics_table(result: Result) -> Table:
    """Return CPU times in ms, and how many times faster than both peers together each is, with quartiles."""
    rows = []
    for name, timing in result.timings.items():
        faster = quartiles([1 / ratio for ratio in timing.ratios])
        goal = f">= {FASTER:g} {'met' if faster.median >= FASTER else 'MISSED'}" if name == VAEX else "-"
        seconds = quartiles(timing.seconds).median
        spread = f"{faster.low:.2f}-{faster.high:.2f}"
        rows.append((name, f"{1e3 * seconds:.1f}", f"{faster.median:.2f}", spread, goal))
    notes = (
        f"{result.case} CPU time of one thread, taken in turn.",
        f"AUROC and AUPRO (to a false positive rate of {MAX_FPR:g}) differ from the peers' by at most "
        f"{result.error:.0e}; vaex's time holds all its other measures too.",
    )
    return Table("Metrics of localisation", ("", "ms", "times faster", "quartiles", "goal"), tuple(rows), notes)


def metrics_content(result: Result) -> dict[str, Any]:
    """Return the result as plain values for JSON; seconds, and ratios to both peers together."""
    rows = {
        name: {"seconds": quartiles(timing.seconds)._asdict(), "ratio": quartiles(timing.ratios)._asdict()}
        for name, timing in result.timings.items()
    }
    return {"case": result.case, "error": result.error, "goal": FASTER, "contestants": rows}
