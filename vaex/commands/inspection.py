"""Is an image ok or anomalous, and where? What `vaex explain` decides by, and what it says of that."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from omegaconf import DictConfig, ListConfig, OmegaConf

from vaex.commands.same_reading import check_tiles, check_white, tiles_now
from vaex.errors import VaexError

if TYPE_CHECKING:
    from vaex.scores.regions import Map, Mask, Region
    from vaex.scores.score import Score
    from vaex.scores.thresholds import NormalScores, Threshold

MANY = 0.5  # share of anomalous images that is worth a word


class Verdict(NamedTuple):
    """What is found in one image."""

    score: float
    anomalous: bool | None  # None where nothing decides
    regions: list[Region] | None  # None where there is no threshold for pixels
    unlike: bool = False  # as a whole like none of the normal images, whatever its score


@dataclass
class Inspection:
    """What decides on an image; ``reason`` says why nothing does, where there is no threshold."""

    score: Score
    threshold: float | None = None
    pixel_threshold: float | None = None
    limit: Threshold | None = None  # the threshold, where normal images gave it
    normal: NormalScores | None = None
    roi: Any = None  # a box, the file of a mask, or None
    min_area: float = 0
    tiled: bool = False
    by_image: bool = False  # the threshold is one of whole images that were scored in tiles
    pixel_rate: float = 0
    scene: float | None = None  # median of the map above which an image is like no normal one; None: not looked at
    reason: str = ""
    kinds: tuple[str, ...] = ()  # of defects, where their maps are shown
    _kept: dict[Any, Mask] = field(default_factory=dict)

    def judge(
        self, score_map: Map, score: float, size: tuple[int, int], file: Path | None = None, maps: Sequence[Map] = ()
    ) -> Verdict:
        """Decide on an image of ``size`` (width, height) by its score and its ``score_map`` (H, W).

        ``maps``, (H, W) each, are those of the kinds of defects, of which a region gets one.

        Raises:
            VaexError: when the region of interest does not fit the image.
        """
        from vaex.scores.regions import find_regions, pooled_inside
        from vaex.scores.thresholds import middle_of

        roi = self.mask(size, (score_map.shape[0], score_map.shape[1]), file)
        if roi is not None:
            score = pooled_inside(score_map, roi, self.score.pool)
        regions = None
        if self.pixel_threshold is not None:
            kinds = dict(zip(self.kinds, maps, strict=False))
            regions = find_regions(score_map, self.pixel_threshold, size, roi, self.min_area, kinds)
        if self.threshold is None:
            return Verdict(score, None, regions)
        above = not score <= self.threshold  # what is no number is not ok
        unlike = self.scene is not None and middle_of(score_map) > self.scene
        return Verdict(score, unlike or (above and (not self.min_area or bool(regions))), regions, unlike)

    def mask(self, size: tuple[int, int], shape: tuple[int, int], file: Path | None) -> Mask | None:
        """Return the pixels (H, W) of a map that count, None for all; that of the last size of image is kept."""
        from vaex.data.images import read_mask
        from vaex.scores.regions import box_mask

        if self.roi is None:
            return None
        key = (size, shape)
        if key not in self._kept:
            self._kept.clear()
            if isinstance(self.roi, Path):
                read = read_mask(self.roi, shape, file)
                if read.empty:
                    raise VaexError(f"The mask roi={self.roi} marks nothing; draw what is to be inspected in white.")
                self._kept[key] = read.pixels[0].astype(bool)
            else:
                self._kept[key] = box_mask(self.roi, size, shape)
        return self._kept[key]

    @property
    def finds(self) -> bool:
        """Whether there is anything to decide or to mark."""
        return self.threshold is not None or self.pixel_threshold is not None

    @property
    def comparable(self) -> bool:
        """Whether images are scored as the normal ones of calibration were."""
        return self.roi is None and self.tiled == self.by_image

    def head(self) -> dict[str, Any]:
        """Return what stands above the images in regions.json."""

        def number(value: float | None) -> float | None:
            return value if value is not None and math.isfinite(value) else None

        limit = self.limit
        told: dict[str, Any] = {"score": self.score.known_as, "threshold": number(self.threshold)}
        if limit is not None:
            told |= {
                "threshold_interval": [number(limit.low), number(limit.high)],
                "false_alarm_rate": limit.rate,
                "false_alarm_interval": [limit.rate_low, limit.rate_high],
                "normal_images": limit.images,
                "enough_normal_images": limit.enough,
            }
        roi = str(self.roi) if isinstance(self.roi, Path) else self.roi
        told |= {"pixel_threshold": number(self.pixel_threshold), "scene_threshold": number(self.scene)}
        return told | {"roi": roi, "min_area": self.min_area}

    def sentences(self) -> list[str]:
        """Return in words how it is decided."""
        from vaex.scores.thresholds import rate_above

        if self.threshold is None:
            return [f"No decision between ok and anomalous: {self.reason}"]
        said = threshold_sentences(self.score.known_as, self.threshold, self.limit)
        if self.limit is None and self.normal is not None and self.comparable:
            low_rate, high_rate = rate_above(self.normal.scores, self.threshold)
            said.append(
                f"By {len(self.normal.scores)} held-out normal images {low_rate:.3g} to {high_rate:.3g} of normal "
                "images lie above (95 % confidence)."
            )
        if self.scene is not None and self.normal is not None:
            count = len(self.normal.scores)
            said.append(
                f"Anomalous is, too, an image that as a whole is like none of these {count}: half of its map above "
                f"{self.scene:.4g}. Of normal images that is 1 in {count + 1} at most."
            )
        if self.limit is not None and self.by_image:
            what = "a single tile lies above less often" if not self.tiled else "it holds for images of as many tiles"
            said.append(f"The threshold is one of whole images, of the highest of their tiles; {what}.")
        elif self.limit is not None and self.tiled:
            said.append("The rate is that of one tile scored like a whole image: an image of many tiles has a higher.")
        if self.limit is not None and self.roi is not None:
            lower = "the rate can only be lower" if self.score.pool == "max" else "the rate is unknown"
            said.append(f"The threshold was made on whole images; with roi {lower}.")
        return said

    def warnings(self, scores: Sequence[float], anomalous: int, unlike: int = 0) -> list[str]:
        """Return what is odd about all ``scores`` of a run, of which some were ``anomalous``, and some `unlike` all."""
        from vaex.scores.drift import FEWEST, drift_of

        said = []
        if unlike:
            said.append(
                f"{unlike} of {len(scores)} images are unlike all normal ones as a whole (half of the map lies above "
                f"{self.scene:.4g}) and so anomalous, whatever their score: is the part there, in place, and lit?"
            )
        if self.threshold is not None and len(scores) >= FEWEST and anomalous > MANY * len(scores):
            said.append(
                f"{anomalous} of {len(scores)} images are anomalous: look at some; if they are good, light, camera "
                "or product have changed since calibration, so run `vaex calibrate` on images of today."
            )
        if self.threshold is None or self.normal is None or not self.comparable:
            return said
        drift = drift_of(scores, self.normal.scores, self.threshold)
        if drift is not None and drift.told:
            said.append(
                f"Drift: the {drift.images} images that pass score otherwise than the {drift.normal_images} normal "
                f"images of calibration (median {drift.median:.4g} and {drift.normal_median:.4g}; Kolmogorov-Smirnov "
                f"{drift.statistic:.2f}, p = {drift.p_value:.1e}). Check light, focus and position, or run "
                "`vaex calibrate` on images of today."
            )
        return said


def threshold_sentences(score: str, threshold: float, limit: Threshold | None) -> list[str]:
    """Return in words what is anomalous, and what is known of the threshold where normal images gave it."""
    said = [f"Anomalous is an image whose {score} score is above {threshold:.4g}."]
    if limit is not None and limit.enough:
        low, high = (f"{v:.4g}" if math.isfinite(v) else "unknown" for v in (limit.low, limit.high))
        said.append(
            f"At most {limit.rate:.3g} of normal images are expected above; by {limit.images} held-out normal "
            f"images the true rate lies, with 95 % confidence, between {limit.rate_low:.3g} and "
            f"{limit.rate_high:.3g}, and the exact threshold between {low} and {high}."
        )
    elif limit is not None:
        said.append(
            f"Too few normal images for false_alarm_rate={limit.rate:g}: {limit.images} were held out and it takes "
            f"{limit.images_needed}. This is the highest score of theirs; the true rate lies, with 95 % "
            f"confidence, between {limit.rate_low:.3g} and {limit.rate_high:.3g}."
        )
    return said


def inspection_of(config: DictConfig, calibration: Mapping[str, Any], options: Mapping[str, Any]) -> Inspection:
    """Return what decides, out of the config and what calibration left; ``options`` are those of the maps.

    Raises:
        VaexError: for options that this score cannot obey.
    """
    from vaex.scores import Score, score_named
    from vaex.scores.thresholds import normal_scores_of, pixel_scores, scene_limit, threshold_at

    score = score_named(OmegaConf.to_container(config.score, resolve=True))  # type: ignore[arg-type]
    of_map = type(score).number is Score.number
    roi = list(config.roi) if isinstance(config.roi, ListConfig) else config.roi and Path(config.roi).expanduser()
    tiled = config.tile is not None
    if roi is not None and not of_map:
        raise VaexError(f"roi needs a score that is a number of its map, which {score.name} is not; leave roi out.")
    if tiled and roi is not None and score.pool != "max":
        raise VaexError(f"tile and roi together need a score whose number is the maximum, not the {score.pool}.")
    maps = dict(options)
    layer = maps.pop("layer", None)
    found = Inspection(score, roi=roi, min_area=config.min_area, tiled=tiled, pixel_rate=config.pixel_rate)
    found.by_image = calibration.get("tiles") is not None
    try:
        check_white(config.get("data"), calibration, score)
        check_tiles(tiles_now(config), calibration)
        found.normal = normal_scores_of(calibration, score, layer, maps)
    except VaexError as error:
        found.reason = str(error)
    found.threshold, found.pixel_threshold = config.threshold, config.pixel_threshold
    if found.normal is not None:
        if found.threshold is None:
            found.limit = threshold_at(found.normal.scores, config.false_alarm_rate)
            found.threshold = found.limit.value
            found.scene = scene_limit(found.normal) if found.comparable and not tiled else None
        if found.pixel_threshold is None and (config.threshold is None or not of_map or score.pool != "max"):
            pixels = pixel_scores(found.normal, config.pixel_rate)
            found.pixel_threshold = threshold_at(pixels, config.false_alarm_rate).value
    if found.pixel_threshold is None and found.threshold is not None and of_map and score.pool == "max":
        found.pixel_threshold = found.threshold  # a map above it is an image above it
    if found.threshold is None and str(config.pictures).lower() == "anomalous":
        raise VaexError(f"pictures=anomalous needs a decision: {found.reason}")
    if found.pixel_threshold is None and config.min_area:
        raise VaexError(f"min_area needs a threshold for pixels: {found.reason} Or give pixel_threshold=NUMBER.")
    return found
