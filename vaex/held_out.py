"""Held-out normal images: looked at once, for what is chosen by them and for the thresholds."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, overload

import torch
from torch import Tensor, nn

from vaex.attention.isolation import original, undisturbed
from vaex.calibrate import calibrated_with
from vaex.explanation import calibration_of, evidence_of
from vaex.metrics.parts import highest_of
from vaex.scores.evidence import Evidence, maps_of
from vaex.scores.registry import ScoreLike, score_named, with_bases
from vaex.scores.thresholds import map_quantiles, normal_state

MOST_KEPT = 64
"""Images that choices are made by, and of which is kept what was seen; more would only take memory."""

MOST_SCORED = 1000
"""Images that are scored for the thresholds."""


class HeldOut:
    """Normal images that ``model`` was not trained on, batches (B, C, H, W) of them, and what was seen of the first.

    Of `MOST_KEPT` images the evidence is computed once, when it is first asked for, whoever asks; of the others each
    time. So ``batches`` must be one that can be repeated where it holds more and is asked for twice. ``layer`` and
    ``options`` are those of `vaex.attention.latent_attention`.
    """

    def __init__(self, model: nn.Module, batches: Iterable[Tensor], layer: Any = None, **options: Any) -> None:
        self.model, self.batches, self.layer, self.options = model, batches, layer, options
        self._kept: list[Evidence] | None = None
        self._more = True

    def first(self, maps: bool) -> Sequence[Evidence]:
        """Return what is seen of the first images, with attention ``maps`` or without; nothing runs before it is read.

        All that read it share what scores say of it, until `forget`.
        """
        return _Later(lambda: self._first(maps))

    def forget(self) -> None:
        """Forget what scores said: they are about to be fitted anew."""
        self._kept = None if self._kept is None else [part._replace(known={}) for part in self._kept]

    def every(self, maps: bool, most: int) -> Iterator[Evidence]:
        """Yield what is seen of at most ``most`` images; maps of the first are kept where they are already.

        What scores said of these is known, but what they say now is not kept: all maps of many scores take memory.
        """
        kept = [] if self._kept is None else self._first(False)  # not yet asked for: one pass, by an iterator too
        for part in kept:
            few = min(most, len(part.images))
            if few < 1:
                return
            if few < len(part.images):
                yield self._look(part.images[:few], maps)
            else:
                yield (self._with_maps(part) if maps else part)._replace(known=dict(part.known or {}))
            most -= few
        if not self._more:
            return
        skipped = sum(len(part.images) for part in kept)
        for batch in self.batches:
            images = batch[skipped:][:most]
            skipped -= min(skipped, len(batch))
            most -= len(images)
            if len(images):
                yield self._look(images, maps)
            if most < 1:
                return

    def _first(self, maps: bool) -> list[Evidence]:
        if self._kept is None:
            self._kept, left = [], MOST_KEPT
            for batch in self.batches:
                images = batch[:left]
                left -= len(images)
                self._kept.append(self._look(images, maps))
                if left < 1:
                    break
            self._more = left < 1
        if maps:
            self._kept = [self._with_maps(part) for part in self._kept]
        known = calibration_of(self.model)
        return [part._replace(calibration=known) for part in self._kept]

    def _look(self, images: Tensor, maps: bool) -> Evidence:
        reads = ("maps",) if maps else ()
        return evidence_of(self.model, images, self.layer, reads=reads, **self.options)[0]._replace(known={})

    def _with_maps(self, part: Evidence) -> Evidence:
        if part.maps is not None:
            return part
        return part._replace(maps=maps_of(self.model, part.images, part.raw, self.layer, **self.options))


class _Later(Sequence[Evidence]):
    """A list that is made when it is first read."""

    def __init__(self, make: Callable[[], list[Evidence]]) -> None:
        self.make = make
        self.made: list[Evidence] | None = None

    def _list(self) -> list[Evidence]:
        if self.made is None:
            self.made = self.make()
        return self.made

    def __len__(self) -> int:
        return len(self._list())

    @overload
    def __getitem__(self, index: int) -> Evidence: ...
    @overload
    def __getitem__(self, index: slice) -> list[Evidence]: ...
    def __getitem__(self, index: int | slice) -> Evidence | list[Evidence]:
        return self._list()[index]


def score_normal(
    model: nn.Module,
    scores: Sequence[ScoreLike],
    held_out: Iterable[Tensor] | HeldOut,
    calibration: Mapping[str, Any] | None = None,
    layer: Any = None,
    image_of: Tensor | None = None,
    **options: Any,
) -> dict[str, dict[str, Any]]:
    """Return what thresholds of ``scores`` are read from: scores and maps of normal images that were not trained on.

    At most `MOST_SCORED` of ``held_out``, batches (B, C, H, W), are scored in one pass, by a model that holds
    ``calibration``; what a score is made of is scored with it. Of a `HeldOut` of the same model that was looked at
    before, such as by `vaex.detectors.fit_detectors` with this calibration, nothing is computed again; it has a layer
    and options of its own::

        normal_scores: by name of the score, (N,)
        normal_pixels: by name of the score, (N, Q), values that the shares `PIXEL_RATES` of their pixels exceed
        normal_options: by name of the score, its options

    Nothing is kept of a score that the model cannot give, or whose numbers are not finite.

    Where ``held_out`` are tiles, ``image_of`` (N,) says which image each is of. All are scored, and N above is the
    number of images: their score, and the value for each share of pixels, is the highest of their tiles, as an image is
    called anomalous by one of them.
    """
    given = with_bases([score_named(score) for score in scores])
    reads = {name for score in given.values() for name in score.reads}
    seen = held_out if isinstance(held_out, HeldOut) else HeldOut(model, held_out, layer, **options)
    batches: dict[str, list[tuple[Tensor, Tensor]]] = {}
    with calibrated_with(original(model), calibration_of(model) if calibration is None else calibration):
        for evidence in seen.every("maps" in reads, MOST_SCORED if image_of is None else len(image_of)):
            given = {name: score for name, score in given.items() if not score.missing(evidence)}
            with undisturbed(original(model), evidence.images):
                for name, score in given.items():
                    said = score(evidence)
                    values = said.score.float().cpu(), map_quantiles(said.score_map.float()).cpu()
                    batches.setdefault(name, []).append(values)
    kept: dict[str, dict[str, Any]] = {}
    for name, score in given.items():
        if name not in batches:  # there were no images
            continue
        numbers, quantiles = (torch.cat(part) for part in zip(*batches[name], strict=True))
        if bool(numbers.isfinite().all() and quantiles.isfinite().all()):
            if image_of is not None:
                numbers, quantiles = highest_of(numbers, image_of), highest_of(quantiles, image_of)
            for key, state in normal_state(score, numbers, quantiles).items():
                kept.setdefault(key, {}).update(state)
    return kept
