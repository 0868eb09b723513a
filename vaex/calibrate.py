"""Calibration: one pass over normal images after training, kept in the checkpoint as plain tensors and values."""

from __future__ import annotations

import io
import os
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from vaex.attention.isolation import original, undisturbed
from vaex.attention.latent import latent_attention
from vaex.attention.outputs import code_of, encoding
from vaex.attention.target import reduced_variance
from vaex.attention.values import over_cells
from vaex.build import read_checkpoint
from vaex.errors import VaexError
from vaex.explanation import features_before
from vaex.runs import SHIPPED, find_checkpoint, write_atomic
from vaex.scores.matching import FREE, map_options
from vaex.types import LOGVAR_RANGE

NEED_CODES = ("normal_difference", "mahalanobis")
"""Targets that look at the normal codes, so that their maps take a second pass."""

PLAIN = (bool, int, float, str)
"""Values that `torch.load` reads back with ``weights_only=True``."""


class Moments(NamedTuple):
    """Of N values: their number, mean, and summed squares of what they differ from it, in float64 on the CPU.

    ``scatter`` is elementwise like the mean, or, where cross terms are wanted, (D, D) for means (D,).
    """

    number: int
    mean: Tensor
    scatter: Tensor


def moments_of(values: Tensor, cross: bool = False) -> Moments:
    """Return the moments of ``values`` (N, ...) over N; with ``cross`` those of (N, D) with all products."""
    values = values.detach().cpu().double()
    mean = values.mean(0)
    offset = values - mean
    return Moments(len(values), mean, offset.T @ offset if cross else offset.square().sum(0))


def merged(a: Moments | None, b: Moments) -> Moments:
    """Return the moments of the values of ``a`` and ``b`` together; None stands for no values.

    Source: Chan, Golub & LeVeque, "Updating formulae and a pairwise algorithm for computing sample variances", 1979.
    """
    if a is None:
        return b
    count = a.number + b.number
    step = b.mean - a.mean
    products = torch.outer(step, step) if a.scatter.dim() > a.mean.dim() else step.square()
    scatter = a.scatter + b.scatter + products * (a.number * b.number / count)
    return Moments(count, a.mean + step * (b.number / count), scatter)


def codes_of(model: nn.Module, images: Tensor, reduce: Any = "sum") -> tuple[Tensor, Tensor]:
    """Return mean and posterior variance (B, D) of the codes, latent grids reduced over their cells.

    The variance is 0 where the model states none.
    """
    model = original(model)
    with undisturbed(model, images) as pixels:
        code = code_of(encoding(model)(pixels))
        mean = over_cells(code.mean, reduce)
        if code.logvar is None:
            return mean, torch.zeros_like(mean)
        logvar = code.logvar.clamp(*LOGVAR_RANGE)
        return mean, reduced_variance(code.mean, logvar, partial(over_cells, reduce=reduce), reduce)


def _checked(part: Tensor) -> Tensor:
    if not bool(torch.isfinite(part).all()):
        raise VaexError(
            "Calibration met normal images whose codes or maps are not finite; check the images for NaN, or train "
            "with a lower optim.lr."
        )
    return part


def _fit_codes(model: nn.Module, batches: Iterable[Tensor], reduce: Any, also: Any = None) -> dict[str, Any]:
    """Return ``codes`` and ``count`` of a calibration; ``also`` is called with each batch in the same pass."""
    codes: Moments | None = None
    variances: Moments | None = None
    for images in batches:
        images = features_before(original(model), images)
        mean, variance = map(_checked, codes_of(model, images, reduce))
        codes, variances = merged(codes, moments_of(mean, cross=True)), merged(variances, moments_of(variance))
        if also is not None:
            also(images)
    if codes is None or variances is None or codes.number < 2:
        found = 0 if codes is None else codes.number
        raise VaexError(
            f"Calibration needs at least 2 normal images, got {found}; check the training images and their labels."
        )
    covariance = codes.scatter / (codes.number - 1)
    parts = {"mean": codes.mean, "covariance": covariance, "variance": variances.mean}
    return {"codes": {name: part.float() for name, part in parts.items()}, "count": codes.number}


def fit_calibration(model: nn.Module, batches: Iterable[Tensor], layer: Any = None, **options: Any) -> dict[str, Any]:
    """Return what is normal: moments of codes and maps over ``batches`` of normal images (B, C, H, W) in [0, 1].

    ``layer`` and ``options`` are those of `vaex.attention.latent_attention`; the maps stay at the size of the layer,
    those of several layers at the size of the image. The result holds plain tensors (float32, on the CPU) and values,
    to be kept in a checkpoint::

        codes: mean (D,), covariance (D, D), variance (D,), the mean posterior variance, 0 where the model states none
        maps: mean (T, h, w), deviation (T, h, w), at every position of the layer
        count: number N of images
        attention: layer and options of the maps

    Codes of a latent grid are reduced over its cells as ``reduce`` says, as targets are. Covariance and deviation
    are unbiased (N - 1). Sums are kept in float64 and merged, so the size of the batches changes the rounding alone.
    A target of `NEED_CODES` takes a second pass over the batches, with the codes of the first.

    Raises:
        VaexError: as `latent_attention`; for a method or target that is an object; for fewer than two images, or ones
            that do not give finite codes and maps.

    Source: Chan, Golub & LeVeque, 1979, for the merging of moments.
    """
    used = map_options(layer, options)
    for name, value in used.items():
        if not _is_plain(value):
            raise VaexError(
                f"A calibration is kept with the options of its maps, so {name} must be a name, or a mapping of a name "
                f"and parameters, got {value!r}."
            )
    reduce: Any = options.get("reduce", "sum")
    given = {name: value for name, value in options.items() if name not in FREE}
    size = "layer" if used["layer"] is None or isinstance(used["layer"], str) else "input"
    maps: list[Moments] = []

    def look(images: Tensor) -> None:
        found = latent_attention(model, images, layer, size=size, chunk=options.get("chunk"), **given)
        maps[:] = [merged(maps[0] if maps else None, moments_of(_checked(found)))]

    target = used["target"]
    if (target.get("name") if isinstance(target, dict) else target) in NEED_CODES:
        if iter(batches) is batches:
            raise VaexError(f"target={target} takes two passes over the normal images; give a list of batches.")
        calibration = _fit_codes(model, batches, reduce)
        with calibrated_with(original(model), calibration):
            for images in batches:
                look(images)
    else:
        calibration = _fit_codes(model, batches, reduce, also=look)
    (found,) = maps
    deviation = (found.scatter / (found.number - 1)).sqrt()
    calibration["maps"] = {"mean": found.mean.float(), "deviation": deviation.float()}
    return {**calibration, "attention": used}


def _is_plain(value: Any) -> bool:
    if isinstance(value, dict):
        return all(isinstance(key, str) and _is_plain(item) for key, item in value.items())
    return all(map(_is_plain, value)) if isinstance(value, list) else value is None or type(value) in PLAIN


@contextmanager
def calibrated_with(model: Any, calibration: Mapping[str, Any]) -> Iterator[None]:
    """Let ``model`` hold ``calibration`` within the body."""
    before = getattr(model, "calibration", None)
    model.calibration = calibration
    try:
        yield
    finally:
        if before is None:  # a foreign model, which has no such attribute
            del model.calibration
        else:
            model.calibration = before


def calibrated_copy(ckpt: str | Path, out: str | Path | None = None) -> Path:
    """Return the file that `store_calibration` will write: ``out``, or the checkpoint that ``ckpt`` means.

    Raises:
        VaexError: when there is no such checkpoint; when the file to write ships with vaex, or ``out`` is a folder.
    """
    target = (find_checkpoint(ckpt) if out is None else Path(out).expanduser()).resolve()
    if target.is_relative_to(SHIPPED.resolve()):
        raise VaexError(f"{target.name} ships with vaex and is not rewritten; name a file for a copy: out=FILE.ckpt.")
    if target.is_dir():
        raise VaexError(f"out={out} is a folder; name the checkpoint file to write, such as {out}/calibrated.ckpt.")
    return target


def halved(value: Any) -> Any:
    """Return plain values in which every tensor that half precision keeps exactly is in half precision."""
    if isinstance(value, Mapping):
        return {key: halved(item) for key, item in value.items()}
    if isinstance(value, Tensor) and value.dtype == torch.float32 and torch.equal(value.half().float(), value):
        return value.half()
    return value


def store_calibration(
    ckpt: str | Path, calibration: Mapping[str, Any], out: str | Path | None = None, resumable: bool = True
) -> Path:
    """Put ``calibration`` under its own key of the checkpoint ``ckpt``, or of a copy ``out``; return the file written.

    All else in the file stays, but, where it shall not be ``resumable``, the state of the optimisers. It is written
    beside its place and renamed, so that what interrupts this leaves the old file, and it keeps its time, by which the
    best checkpoint of a run is found.

    Raises:
        VaexError: as `calibrated_copy` and `vaex.build.read_checkpoint`; when the file cannot be written.
    """
    target = calibrated_copy(ckpt, out)
    source = find_checkpoint(ckpt)
    time = source.stat()
    content = {**read_checkpoint(source), "calibration": halved(calibration)}
    if not resumable:
        content.pop("optimizer_states", None)
    buffer = io.BytesIO()
    torch.save(content, buffer)
    write_atomic(target, buffer.getvalue())
    if out is None:
        with suppress(OSError):  # a file system without times
            os.utime(target, ns=(time.st_atime_ns, time.st_mtime_ns))
    return target
