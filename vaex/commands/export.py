"""``vaex export``: encoder, decoder, reconstruction, attention or score of a checkpoint as one file."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from omegaconf import DictConfig, OmegaConf

from vaex.commands.explain import DEFAULT_CHECKPOINT, without_tilde
from vaex.commands.launch import checkpoint_choices, under_hydra, value_of
from vaex.commands.sources import at_least_one, list_option
from vaex.errors import VaexError


def run(arguments: Sequence[str]) -> None:
    """Run the command with its arguments (Hydra overrides)."""
    asks = any(argument in ("--help", "-h", "--hydra-help") for argument in arguments)
    with checkpoint_choices(None if asks else value_of(arguments, "ckpt") or DEFAULT_CHECKPOINT) as choices:
        under_hydra("export", export_checkpoint, [*map(without_tilde, arguments), *choices])


def export_checkpoint(config: DictConfig) -> None:
    """Write the file and say what it takes, what it gives and how far it is from the model."""
    if config.batch_size is not None:
        at_least_one(config.batch_size, "batch_size")
    started = time.monotonic()
    from vaex.build import load
    from vaex.exporting.parts import Request
    from vaex.exporting.programs import FORMATS, export_model, need_packages

    if config.format == FORMATS[0]:  # before anything slow
        need_packages("onnx", "onnxscript")
    model = load(config.ckpt)
    score: Any = OmegaConf.to_container(config.score, resolve=True)
    options, decides = attention_options(config), Decides()
    if config.what == "score":
        decides = thresholds_of(config.threshold, config.false_alarm_rate, model.calibration or {}, score, options)
    sides = None if config.image_size is None else size_of(config.image_size)
    request = Request(config.what, options, score, decides.threshold, config.input, sides, decides.scene)
    more = {"checkpoint": Path(str(config.ckpt)).name, "network": str(model.config["network"]["name"])}
    if data := OmegaConf.select(config, "data._target_"):
        more["data"] = str(data).rpartition(".")[2]
    done = export_model(model, config.out, request, config.format, config.batch_size, more)
    taken = "any number of images" if done.batch is None else f"{done.batch} images"
    if request.what == "decoder":
        taken = taken.replace("images", "codes")
    size = done.path.stat().st_size / 2**20
    print(f"{done.path} ({size:.1f} MiB, {time.monotonic() - started:.0f} s)")
    print(f"input {request.entry}: {done.metadata['input']}, {taken} per call; outputs {', '.join(request.outputs)}.")
    if "layer" in done.metadata:
        print(f"maps: {', '.join(f'{key} {done.metadata[key]}' for key in ('layer', 'method', 'target', 'rectify'))}.")
    if decides.told:
        print(decides.told)
    print(f"largest difference from the model: {done.difference:.1e}.")
    if done.batch is not None:
        print("vaex.exporting.batches.run_batches calls it with any number (docs/export.md).")


def attention_options(config: DictConfig) -> dict[str, Any]:
    """Return the attention options of the config, lists of latents checked."""
    options: Any = OmegaConf.to_container(config.attention, resolve=True)
    if options.get("latents") is not None:
        options["latents"] = list_option(options["latents"], "attention.latents")
    return dict(options)


def size_of(value: Any) -> tuple[int, int]:
    """Return ``image_size`` as (H, W).

    Raises:
        VaexError: when it is no pair.
    """
    sides = list(value) if isinstance(value, Sequence) and not isinstance(value, str) else []
    if len(sides) != 2:
        raise VaexError(f"image_size must be [height, width], got {value}.")
    return sides[0], sides[1]


class Decides(NamedTuple):
    """What the program calls anomalous: a score above ``threshold``, an image that is above ``scene`` as a whole."""

    threshold: Any = None
    scene: float | None = None
    told: str = ""


def thresholds_of(
    asked: Any, rate: Any, calibration: Mapping[str, Any], score: Any, options: Mapping[str, Any]
) -> Decides:
    """Return the threshold that is asked for, else those of `vaex explain`, else none; in words where they are from.

    ``rate`` is the share of normal images that may lie above, ``options`` are those of the attention maps.

    Raises:
        VaexError: when the rate is none.
    """
    from vaex.scores import score_named
    from vaex.scores.thresholds import check_rate, normal_scores_of, scene_limit, threshold_at

    if asked is not None:
        return Decides(asked)  # Request checks it
    rate = check_rate(rate)
    maps = dict(options)
    layer = maps.pop("layer", None)
    try:
        normal = normal_scores_of(calibration, score_named(score), layer, maps)
    except VaexError as error:
        return Decides(told=f"no threshold, and so no output `anomalous`: {error}")
    tiled = calibration.get("tiles") is not None
    found, scene = threshold_at(normal.scores, rate), None if tiled else scene_limit(normal)
    few = "" if found.enough else f", too few for this rate, which takes {found.images_needed}"
    tiles = " An image is anomalous when one of its tiles is." if tiled else ""
    whole = "" if scene is None else f" So is an image of whose map more than half lies above {scene:.4g}."
    return Decides(
        found.value,
        scene,
        f"threshold {found.value:.4g} for false_alarm_rate={rate:g} by {found.images} held-out normal images{few}; the "
        f"true rate lies between {found.rate_low:.3g} and {found.rate_high:.3g} (95 % confidence).{tiles}{whole}",
    )
