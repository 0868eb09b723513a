"""Above which score is an image anomalous? A threshold by the rate of false alarms on held-out normal images."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from vaex.errors import VaexError
from vaex.scores.matching import FREE, map_options, told_apart
from vaex.scores.score import Score

PIXEL_RATES = (0.0, 0.001, 0.005, 0.01, 0.05, 0.1, 0.5)
"""Shares of the pixels of a score map for which calibration keeps what they lie above."""

FEWEST_SCENES = 8
"""Held-out normal images from which on an image is compared with all of them as a whole."""

Values = Tensor | NDArray[Any] | Sequence[float]
"""Scores of some images, (N,)."""

CONFIDENCE = 0.95
"""Of the intervals."""


class NormalScores(NamedTuple):
    """What held-out normal images get: scores (N,), and for each of `PIXEL_RATES` (N, Q) what that share exceeds."""

    scores: Tensor
    pixels: Tensor


class Threshold(NamedTuple):
    """A threshold with what is known of it; above ``value`` an image is anomalous.

    ``low`` and ``high`` hold the score that exactly the wanted rate of all normal images would exceed, ``rate_low`` and
    ``rate_high`` the rate of false alarms at ``value``, each with probability `CONFIDENCE`; infinite where there are
    too few images to tell. ``images`` were looked at; ``enough`` says whether these suffice for the rate.
    """

    value: float
    rate: float
    low: float
    high: float
    rate_low: float
    rate_high: float
    images: int
    enough: bool

    @property
    def images_needed(self) -> int:
        """The fewest normal images that this rate can be told from."""
        return math.ceil(1 / self.rate - 1e-9) - 1


def check_rate(rate: Any, name: str = "false_alarm_rate") -> float:
    """Return ``rate``.

    Raises:
        VaexError: when it is no number between 0 and 1.
    """
    if isinstance(rate, bool) or not isinstance(rate, int | float) or not 0 < rate < 1:
        raise VaexError(f"{name} must be a number between 0 and 1, such as {name}=0.05, got {rate}.")
    return float(rate)


def threshold_at(scores: Values, rate: float, confidence: float = CONFIDENCE) -> Threshold:
    """Return the threshold that a further normal image exceeds with probability at most ``rate``.

    ``scores`` (N,) are those of normal images that were not trained on. The threshold is the k-th lowest of them with
    k = N + 1 - floor(rate (N + 1)), whatever their distribution is; where that is above N, the highest.

    Raises:
        VaexError: for no scores, scores that are no numbers, or a rate that is none.

    Source: Vovk, Gammerman & Shafer, "Algorithmic Learning in a Random World", 2005, for the threshold; order
        statistics of a sample as Beta variables and binomial limits of a quantile: David & Nagaraja, "Order
        Statistics", 2003, 2.1 and 7.1.
    """
    from scipy.stats import beta, binom

    check_rate(rate)
    ordered = np.sort(np.asarray(scores, dtype=np.float64))
    count = len(ordered)
    if not count or not np.isfinite(ordered).all():
        raise VaexError("A threshold needs finite scores of normal images; run `vaex calibrate ckpt=...` again.")
    allowed = math.floor(rate * (count + 1) + 1e-9)  # of count + 1 images, so many may lie above; 0.05 * 20 is 1
    position = min(count + 1 - allowed, count)  # 1 is the lowest score
    tail = (1 - confidence) / 2
    above = beta(count + 1 - position, position)  # the share of all normal images above that score
    first, last = (int(binom.ppf(share, count, 1 - rate)) for share in (tail, 1 - tail))
    return Threshold(
        value=float(ordered[position - 1]),
        rate=float(rate),
        low=float(ordered[first - 1]) if first >= 1 else -math.inf,
        high=float(ordered[last]) if last + 1 <= count else math.inf,
        rate_low=float(above.ppf(tail)),
        rate_high=float(above.ppf(1 - tail)),
        images=count,
        enough=allowed >= 1,
    )


def rate_above(scores: Values, threshold: float, confidence: float = CONFIDENCE) -> tuple[float, float]:
    """Return the interval of the rate of normal images above a ``threshold`` that was not chosen by ``scores`` (N,).

    Source: Clopper & Pearson, "The use of confidence or fiducial limits", Biometrika 1934.
    """
    from scipy.stats import beta

    values = np.asarray(scores, dtype=np.float64)
    count, above = len(values), int((values > threshold).sum())
    tail = (1 - confidence) / 2
    low = 0.0 if above == 0 else float(beta.ppf(tail, above, count - above + 1))
    high = 1.0 if above == count else float(beta.ppf(1 - tail, above + 1, count - above))
    return low, high


def map_quantiles(score_maps: Tensor) -> Tensor:
    """Return for each map (B, 1, H, W) and each of `PIXEL_RATES` the value that at most that share exceeds, (B, Q)."""
    flat = score_maps.flatten(1)
    ranks = [math.floor(rate * flat.shape[1]) for rate in PIXEL_RATES]
    highest = flat.topk(max(ranks) + 1, dim=1).values  # falling
    return highest[:, ranks]


def normal_state(score: Score, scores: Tensor, quantiles: Tensor) -> dict[str, dict[str, Any]]:
    """Return what calibration keeps of held-out normal images with ``scores`` (N,) and ``quantiles`` of maps (N, Q)."""
    return {
        "normal_scores": {score.known_as: scores},
        "normal_pixels": {score.known_as: quantiles},
        "normal_options": {score.known_as: options_of(score)},
    }


def options_of(score: Score) -> dict[str, Any]:
    """Return name and options of a score, without the label, as plain values."""
    return {"name": score.name, **{name: value for name, value in asdict(score).items() if name != "label"}}


def normal_scores_of(
    calibration: Mapping[str, Any], score: Score, layer: Any = None, options: Mapping[str, Any] | None = None
) -> NormalScores:
    """Return what held-out normal images get by ``score``, as calibration left it.

    ``layer`` and ``options`` are those of the attention maps, for scores that read them.

    Raises:
        VaexError: when calibration holds nothing for this score, or was made with other options.
    """
    kept = (calibration.get("normal_scores") or {}).get(score.known_as)
    pixels = (calibration.get("normal_pixels") or {}).get(score.known_as)
    if not isinstance(kept, Tensor) or not isinstance(pixels, Tensor) or not len(kept):
        others = ", ".join(map(str, calibration.get("normal_scores") or {}))
        raise VaexError(
            f"the checkpoint keeps no scores of held-out normal images for score={score.known_as}"
            f"{f', only for {others}' if others else ''}; run `vaex calibrate ckpt=... score={score.name}`, or give "
            "threshold=NUMBER."
        )
    seen = (calibration.get("normal_options") or {}).get(score.known_as) or {}
    differ = told_apart(seen, options_of(score), "score.")
    if not differ and "maps" in score.reads:
        seen = calibration.get("attention") or {}
        differ = told_apart(seen, map_options(layer, options or {}), "attention.")
    if differ:
        raise VaexError(
            f"the checkpoint keeps scores of held-out normal images for score={score.known_as} with {differ}; give the "
            f"same, run `vaex calibrate ckpt=... score={score.name}` with the new ones, or give threshold=NUMBER."
        )
    return NormalScores(kept.float(), pixels.float())


def maps_that_decide(calibration: Mapping[str, Any], score: Score, options: Mapping[str, Any]) -> dict[str, Any]:
    """Return options of the maps that ``score`` reads: those that are shown, or those of calibration.

    They are ``options``, with ``layer`` among them, unless only with the maps of calibration normal images were scored.
    """
    kept = dict(calibration.get("attention") or {})
    shown = dict(options)
    if "maps" not in score.reads or not told_apart(kept, map_options(shown.pop("layer", None), shown)):
        return dict(options)
    try:
        normal_scores_of(calibration, score, kept.get("layer"), kept)
    except VaexError:
        return dict(options)
    return {**kept, **{name: options[name] for name in FREE if name in options}}


def pixel_scores(normal: NormalScores, pixel_rate: float) -> Tensor:
    """Return for each normal image (N,) the value that ``pixel_rate`` of its pixels exceed.

    Raises:
        VaexError: when ``pixel_rate`` is none of `PIXEL_RATES`.
    """
    if pixel_rate not in PIXEL_RATES:
        raise VaexError(f"pixel_rate must be one of {', '.join(map(str, PIXEL_RATES))}, got {pixel_rate}.")
    if PIXEL_RATES.index(pixel_rate) >= normal.pixels.shape[1]:
        raise VaexError(
            f"this checkpoint was calibrated before pixel_rate={pixel_rate} was kept; run `vaex calibrate ckpt=...`."
        )
    return normal.pixels[:, PIXEL_RATES.index(pixel_rate)]


def middle_of(score_map: NDArray[Any]) -> float:
    """Return the value that at most half of a score map (H, W) exceeds, as `map_quantiles` counts."""
    place = score_map.size - 1 - score_map.size // 2
    return float(np.partition(score_map, place, axis=None)[place])


def scene_limit(normal: NormalScores) -> float | None:
    """Return the median of a score map above which an image as a whole is like none of the normal ones.

    It is the highest of theirs and once more the width of their range. A further normal image exceeds even the highest
    of N with probability 1 / (N + 1) at most. None where they are fewer than `FEWEST_SCENES`, or calibrated before
    medians were kept.
    """
    if len(normal.scores) < FEWEST_SCENES or normal.pixels.shape[1] < len(PIXEL_RATES):
        return None
    medians = normal.pixels[:, PIXEL_RATES.index(0.5)]
    return float(2 * medians.max() - medians.min())
