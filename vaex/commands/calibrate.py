"""``vaex calibrate``: learn from normal images what is normal, and keep it in the checkpoint."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from omegaconf import DictConfig, OmegaConf

from vaex.commands.launch import checkpoint_choices, under_hydra, value_of
from vaex.commands.sources import at_least_one, fit_data, list_option, model_shape, pick_device
from vaex.errors import VaexError

if TYPE_CHECKING:
    from torch import Tensor

    from vaex.data.normal import NormalImages
    from vaex.networks import VAE
    from vaex.scores import Score


def run(arguments: Sequence[str]) -> None:
    """Run the command with its arguments (Hydra overrides)."""
    with checkpoint_choices(value_of(arguments, "ckpt")) as choices:
        under_hydra("calibrate", calibrate_checkpoint, [*arguments, *choices], typed=arguments)


class Shown:
    """Batches of normal images on ``device``, with a progress bar on stderr for each pass."""

    def __init__(self, batches: NormalImages, device: Any) -> None:
        self.batches, self.device = batches, device

    def __iter__(self) -> Iterator[Tensor]:
        from rich.console import Console
        from rich.progress import track

        console = Console(stderr=True)
        for images in track(self.batches, "Calibrating", total=len(self.batches), console=console, transient=True):
            yield images.to(self.device)


def attention_of(config: DictConfig) -> dict[str, Any]:
    """Return the attention options of a composed config.

    Raises:
        VaexError: when ``attention.latents`` is no list of whole numbers.
    """
    options: Any = OmegaConf.to_container(config.attention, resolve=True)
    if options.get("latents") is not None:
        options["latents"] = list_option(options["latents"], "attention.latents")
    return dict(options)


def most_images(config: DictConfig) -> int | None:
    """Return ``calibration_images``, checked; None stands for all.

    Raises:
        VaexError: when it is no whole number of at least 1.
    """
    most = config.get("calibration_images")
    return None if most is None else at_least_one(most, "calibration_images")


def fitted(
    config: DictConfig, model: VAE, data: Any, batch_size: int, device: Any, held: Mapping[str, Any] | None = None
) -> dict[str, Any]:
    """Return the calibration of ``model`` for normal images of ``data``, the attention and the scores of ``config``.

    What ``held``, the calibration of before, knows of other scores stays; the score that decides is kept under
    ``score``, so that the checkpoint is asked for it from now on.

    Raises:
        VaexError: when the model does not state what that score looks at; as the parts do.
    """
    from vaex.calibrate import fit_calibration
    from vaex.data.normal import NormalImages
    from vaex.detectors import check_stated, fit_detectors, merged_into, scored_again
    from vaex.held_out import MOST_SCORED, HeldOut, score_normal
    from vaex.networks import FeatureVAE

    if isinstance(model, FeatureVAE):
        model.remember()
    batches = Shown(NormalImages(data, most_images(config), batch_size), device)
    options = attention_of(config)
    calibration = fit_calibration(model.to(device), batches, **options)
    held_out_images = NormalImages(data, MOST_SCORED, batch_size, split="val", entire=True)
    if hasattr(data, "white"):
        calibration["white"] = data.white
    if held_out_images.image_of is not None:
        calibration["tiles"] = {"tile": data.tile, "overlap": data.overlap}
    held = held or {}
    before = {"white": calibration.get("white"), "tiles": None} | {k: held[k] for k in ("white", "tiles") if k in held}
    if any(value != calibration.get(key) for key, value in before.items()):
        held = {}  # of images that were read otherwise
    main, beside = scores_of(config)
    for images in NormalImages(data, 1, 1):
        check_stated(model, main, images.to(device), calibration, **options)
    scores = [main, *beside]
    scores += scored_again(held, scores)
    held_out = HeldOut(model, Shown(held_out_images, device), **options)  # scores stand on others
    calibration["detectors"] = fit_detectors(model, scores, batches, held_out, calibration, **options)
    calibration |= score_normal(model, scores, held_out, calibration, image_of=held_out_images.image_of)
    score = OmegaConf.to_container(config.score, resolve=True)
    return {**merged_into(held, calibration, scores), "score": score}


def scores_of(config: DictConfig) -> tuple[Score, list[Score]]:
    """Return the score of a composed config, and all that are measured in a test."""
    from vaex.scores import measured_scores, score_named

    score: Any = OmegaConf.to_container(config.score, resolve=True)
    metrics: Any = OmegaConf.to_container(config.metrics, resolve=True)
    return score_named(score), measured_scores(score, metrics.get("scores") or ())


def calibrate_checkpoint(config: DictConfig) -> None:
    """Calibrate the checkpoint's model on its own normal training images, or others, and rewrite the file."""
    if not config.ckpt:
        raise VaexError("Name a checkpoint: vaex calibrate ckpt=RUN_FOLDER, or ckpt=FILE.ckpt.")
    from hydra.core.hydra_config import HydraConfig

    from vaex.scores.thresholds import check_rate

    most_images(config), attention_of(config), check_rate(config.false_alarm_rate)  # before anything slow
    at_least_one(config.batch_size, "batch_size")
    from vaex.build import load
    from vaex.calibrate import calibrated_copy, store_calibration
    from vaex.commands.assembly import build_data
    from vaex.commands.quieting import quiet
    from vaex.commands.trained_on import check_held_out
    from vaex.config import CHECKPOINT_CHOICE
    from vaex.data.normal import NormalImages
    from vaex.held_out import MOST_SCORED

    quiet()
    calibrated_copy(config.ckpt, config.out)  # a file that may not be written is told now
    model = load(config.ckpt)
    if config.seed is None:
        config.seed = model.config["seed"]
    fit_data(config, model)
    stored = HydraConfig.get().runtime.choices.get("data") == CHECKPOINT_CHOICE
    data: Any = build_data(config.data, from_checkpoint=stored)
    shape, takes = tuple(getattr(data, "shape", ())), model_shape(model)
    if shape != takes:
        raise VaexError(
            f"The data gives images of {'x'.join(map(str, shape))}, but the model was trained on "
            f"{'x'.join(map(str, takes))}; choose data that fits, or another checkpoint."
        )
    device = pick_device(config.device)
    data.prepare_data()
    check_held_out(model.config, data)
    data.setup("fit")
    calibration = fitted(config, model, data, config.batch_size, device, model.calibration)
    said = thresholds_in_words(config, calibration, NormalImages(data, MOST_SCORED, 1, split="val"))
    file = store_calibration(config.ckpt, calibration, config.out)
    what = "tiles of normal images" if "tiles" in calibration else "normal images"
    print(f"{calibration['count']} {what}; their codes and maps are kept in {file}.")
    print(*said, sep="\n")
    if "tiles" in calibration:
        print("The thresholds are those of whole images: of the highest of their tiles.")


def thresholds_in_words(config: DictConfig, calibration: Mapping[str, Any], held_out: NormalImages) -> list[str]:
    """Return a line for each score with a threshold, that of the deciding one first.

    Raises:
        VaexError: when the deciding one has none though normal images were held out.
    """
    from vaex.commands.inspection import threshold_sentences
    from vaex.scores.thresholds import threshold_at

    main, known = scores_of(config)[0].known_as, calibration["normal_scores"]
    if main not in known and next(iter(held_out), None) is not None:
        raise VaexError(
            f"score={main} gives held-out normal images numbers that are not finite, so that nothing can be decided "
            "by it; choose another score, or train with a lower optim.lr."
        )
    said = []
    if main not in known:
        said.append(
            f"No threshold for score={main}: no normal images are held out; give data.val_fraction or data.val."
        )
    for name in sorted(known, key=lambda name: name != main):
        limit = threshold_at(known[name], config.false_alarm_rate)
        said.append(" ".join(threshold_sentences(name, limit.value, limit)))
    return said
