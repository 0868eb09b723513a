"""``vaex evaluate``: test a checkpoint with its own data and attention, or others."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from vaex.checked import call_checked
from vaex.commands.launch import checkpoint_choices, under_hydra, value_of
from vaex.errors import VaexError


def run(arguments: Sequence[str]) -> None:
    """Run the command with its arguments (Hydra overrides)."""
    with checkpoint_choices(value_of(arguments, "ckpt")) as choices:
        under_hydra("evaluate", test_checkpoint, [*arguments, *choices], typed=arguments)


def test_checkpoint(config: DictConfig) -> None:
    """Test the checkpoint on all test images, or those held out, and write metrics.json and pictures."""
    if not config.ckpt:
        raise VaexError("Name a checkpoint: vaex evaluate ckpt=RUN_FOLDER, or ckpt=FILE.ckpt.")
    from vaex.build import load, read_checkpoint
    from vaex.commands import assembly
    from vaex.commands.record import RunRecord, write_metrics
    from vaex.commands.sources import fit_data
    from vaex.commands.train import command_line, compared_at, report
    from vaex.commands.trained_on import tested_again
    from vaex.modules import module_class
    from vaex.networks.feature_vae import statistics_of

    folder = Path(config.paths.run)
    model = load(config.ckpt)
    if config.seed is None:
        config.seed = model.config["seed"]
    fit_data(config, model)
    kind = module_class(model.config["network"], model.config.get("objective"))
    module = call_checked(f"The config in {config.ckpt}", kind, {**model.config, "seed": config.seed})
    if config.random_weights:  # what was measured of the data, and not trained, stays
        score_untrained(config)
        module.vae.load_state_dict(statistics_of(model), strict=False)
    else:
        module.vae.load_state_dict(model.state_dict())
        module.vae.calibration = model.calibration
        module.restore(read_checkpoint(config.ckpt)["state_dict"])
    run = assembly.assemble(config, module)
    shape, takes = tuple(getattr(run.data, "shape", ())), tuple(model.config["network"]["shape"])
    if shape != takes:
        raise VaexError(
            f"The data gives images of {'x'.join(map(str, shape))}, but the model was trained on "
            f"{'x'.join(map(str, takes))}; choose data that fits, or another checkpoint."
        )
    if config.held_out:
        take_held_out(run.data)
    run.data.prepare_data()
    warning = None if config.random_weights else tested_again(model.config, run.data, bool(config.held_out))
    if warning:
        print(f"vaex evaluate: {warning}", file=sys.stderr)
    with RunRecord(folder, command_line(), config.seed, run.data) as record:
        record.content |= {"checkpoint": str(config.ckpt), "random_weights": config.random_weights}
        record.content["warning"] = warning
        record.content["resolution"] = compared_at(config, run.data)
        stages = run.test("held_out" if config.held_out else "test")
        write_metrics(folder, **stages)
    title = "untrained network" if config.random_weights else "checkpoint"
    title += ", held-out images" if config.held_out else ""
    report(folder, stages, title, record.content["resolution"], page=config.get("report", True))


def take_held_out(data: Any) -> None:
    """Let the test be of the validation images.

    Raises:
        VaexError: for a data module that is not built on vaex's, or makes the loader of its test itself, and where test
            images shall be augmented.
    """
    from vaex.data import ImageDataModule

    if not isinstance(data, ImageDataModule):
        raise VaexError(
            f"held_out=true needs a data module on the base of vaex.data.ImageDataModule, which {type(data).__name__} "
            "is not; leave it out, or give your validation images as test_dataloader()."
        )
    if type(data).test_dataloader is not ImageDataModule.test_dataloader:
        raise VaexError(
            f"held_out=true needs the test_dataloader() of vaex.data.ImageDataModule, but {type(data).__name__} has "
            "one of its own, which would show the test; give its images as test_set and leave test_dataloader() out."
        )
    augmentation = getattr(data, "augmentation", None)
    if augmentation is not None and augmentation.options and augmentation.split == "test":
        raise VaexError(
            f"held_out=true measures validation images, but augmentation={augmentation.name} is of test images; set "
            "augmentation.split=val, or augmentation=none."
        )
    data.held_out = True


def score_untrained(config: DictConfig) -> None:
    """Let the mean attention be the score of random weights where the score would be one that is fitted to them."""
    from vaex.scores.registry import needs_calibration

    if needs_calibration(OmegaConf.to_container(config.score, resolve=True)):  # type: ignore[arg-type]
        name, config.score = config.score.name, {"name": "attention"}
        print(
            f"vaex evaluate: score={name} is fitted to normal images, which random weights are not; the attention of "
            "the untrained network is measured in its place.",
            file=sys.stderr,
        )
