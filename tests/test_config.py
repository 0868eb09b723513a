"""Every choice of every config group composes, is commented, and builds what it names."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from hydra import compose, initialize_config_dir
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, OmegaConf

from vaex.build import build_model, build_objective
from vaex.callbacks.measures import named_apart
from vaex.commands import assembly
from vaex.commands.launch import readable_groups
from vaex.commands.run_folders import read_results
from vaex.config import check, check_augmentation, conf_dir, idle_keys, register_resolvers, stored_config
from vaex.errors import VaexError
from vaex.modules import VAEModule
from vaex.modules.optimisation import SCHEDULES

CONF = conf_dir()


def choices(group: str) -> list[str]:
    """Return the choices of a config group, such as ``data`` or ``trainer/precision``.

    Definitions for ``wandb sweep`` are none of Hydra's; tests/commands/test_wandb_sweep.py runs them.
    """
    found = sorted(path.stem for path in (CONF / group).glob("*.yaml"))
    return [name for name in found if group != "sweep" or not name.startswith("wandb_")]


GROUPS = sorted({path.parent.relative_to(CONF).as_posix() for path in CONF.rglob("*.yaml")} - {"."})
OTHERS = {"hydra", "dashboard"}  # of each command its own; commands/test_dashboard.py makes every dashboard
CHOICES = [(group, choice) for group in GROUPS for choice in choices(group) if group not in OTHERS]
LISTS = {"callbacks", "logger"}
PAIRS = {("network", "mnist"): ["data=mnist"], ("data", "mnist"): ["network=mnist"]}


def composed(tmp_path: Path, *overrides: str, name: str = "train") -> DictConfig:
    """Compose a command's config as Hydra would, with a run folder below ``tmp_path``."""
    register_resolvers()
    with initialize_config_dir(str(CONF), version_base="1.3"):
        config = compose(
            name, [*readable_groups(overrides), f"+hydra.runtime.output_dir={tmp_path}"], return_hydra_config=True
        )
        HydraConfig.instance().set_config(config)
        OmegaConf.set_struct(config, False)
        config.pop("hydra")
        OmegaConf.set_struct(config, True)
    config.paths.run = str(tmp_path)
    return config


def plain(config: Any) -> Any:
    return OmegaConf.to_container(config, resolve=True)


@pytest.mark.parametrize(
    ("group", "choice"),
    [pytest.param(*pair, marks=pytest.mark.slow if pair[0] == "experiment" else ()) for pair in CHOICES],
    ids=str,
)
def test_every_choice_composes_and_builds(group: str, choice: str, tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.setenv("WANDB_MODE", "offline")
    value = f"[{choice}]" if group in LISTS else choice
    config = composed(tmp_path, f"{group}={value}", *PAIRS.get((group, choice), []))
    resolved = plain(config)
    check(resolved)
    if group == "data":
        data: Any = assembly.build_data(config.data)
        assert list(data.shape) == resolved["data"]["shape"]
    if group == "network":
        assert build_model(resolved["network"], resolved["prior"]).latents == resolved["network"]["latents"]
    if group == "objective":
        assert callable(build_objective(resolved["objective"]))
    if group in {"optim", "schedule", "prior", "attention", "score", "metrics", "experiment"}:
        module = assembly.build_module(config)
        assert isinstance(module, VAEModule)
        assert resolved["schedule"]["name"] in SCHEDULES
        assert module.hparams["run"]["attention"] == resolved["attention"]
    if choice.startswith("dsprites_"):  # whatever the objective, what it does to the latents is watched
        assert {"last_checkpoint", "traversal", "latents", "disentanglement"} < config.callbacks.keys()
        assert config.callbacks.disentanglement.every_n_steps == config.trainer.val_check_interval
    if group == "callbacks":
        assert len(assembly.build_all(config.callbacks)) == len(resolved["callbacks"])
    if group == "logger":
        loggers = assembly.build_all(config.logger)
        assert len(loggers) == (0 if choice == "none" else 1)
    if group.startswith("trainer") and choice not in {"gpu", "ddp", "slurm", "16"}:
        trainer = assembly.build_trainer(config, [], [])
        assert trainer.max_epochs == resolved["trainer"]["max_epochs"]
        assert trainer.gradient_clip_algorithm == "norm"


def test_gradients_are_clipped_as_the_config_says(tmp_path: Path) -> None:
    config = composed(tmp_path, "trainer.gradient_clip_val=0.5", "trainer.gradient_clip_algorithm=value")
    trainer = assembly.build_trainer(config, [], [])
    assert (trainer.gradient_clip_val, trainer.gradient_clip_algorithm) == (0.5, "value")


@pytest.mark.parametrize("chosen", [True, False])
def test_the_progress_bar_is_a_choice(chosen: bool, tmp_path: Path) -> None:
    config = composed(tmp_path, f"callbacks=[checkpoint{',progress' if chosen else ''}]")
    trainer = assembly.build_trainer(config, assembly.build_all(config.callbacks), [])
    assert (trainer.progress_bar_callback is not None) is chosen


@pytest.mark.parametrize(
    ("overrides", "steps"),
    [
        ([], 100_000),  # the paper's, of schedule=paper
        (["schedule=cpu"], 25_000),
        (["schedule=cpu", "trainer.max_steps=2"], 1),
        (["schedule=cosine"], 100_000),  # epochs decide
        (["schedule=cpu", "objective.steps=7"], 7),
    ],
)
def test_the_capacity_is_reached_in_a_third_of_a_run(overrides: list[str], steps: int, tmp_path: Path) -> None:
    config = composed(tmp_path, "experiment=dsprites_annealed_vae", *overrides)
    objective: Any = build_objective(plain(config)["objective"])
    assert objective.steps == steps
    total = config.trainer.max_steps
    assert objective.capacity_at(total if total > 0 else steps) == 25.0


@pytest.mark.parametrize("path", sorted(CONF.rglob("*.yaml")), ids=lambda path: path.relative_to(CONF).as_posix())
def test_every_file_says_what_it_is(path: Path) -> None:
    lines = path.read_text().splitlines()
    comments = [line for line in lines[:2] if line.startswith("# ") and "@package" not in line]
    assert comments, f"{path} starts without a comment"
    assert yaml.safe_load(path.read_text()) is not None or "debug" in path.parts


def test_every_number_of_a_data_file_is_commented() -> None:
    for path in (CONF / "data").glob("*.yaml"):
        for line in path.read_text().splitlines():
            if re.match(r"\w+: [\d.]+$", line):
                pytest.fail(f"{path.name}: '{line}' has no comment")


def test_ped1_paper_has_the_network_of_the_paper(tmp_path: Path) -> None:
    network = plain(composed(tmp_path, "experiment=ped1_paper"))["network"]
    convolutions = 64 * (16 + 1) + 128 * (64 * 16 + 1) + 256 * (128 * 16 + 1)
    linear = 1024 * (256 * 12 * 12 + 1) + 2 * 32 * (1024 + 1)
    model = build_model(network)
    assert sum(weights.numel() for weights in model.encoder.parameters()) == convolutions + linear
    assert model(torch.rand(1, 1, 100, 100)).reconstruction.shape == (1, 1, 100, 100)


@pytest.mark.parametrize(
    ("overrides", "objective", "method", "target", "rectify", "pasted"),
    [
        (["experiment=mvtec_pixel_attention"], "synthetic_attention", "hires_cam", "total_kl", "root", 2),
        (["experiment=mvtec_pixel_coverage"], "attention_expansion", "grad_cam", "sum", "one_minus_sigmoid", 0),
        (
            ["experiment=mvtec_pixel_coverage", "objective=attention_size"],
            *("attention_size", "grad_cam", "sum", "one_minus_sigmoid", 0),
        ),
        (
            ["experiment=mvtec_pixel_coverage", "objective.rectify=one_minus_min_max"],
            *("attention_expansion", "grad_cam", "sum", "one_minus_min_max", 0),
        ),
    ],
)
def test_the_map_that_is_trained_is_the_one_that_is_measured(
    overrides: list[str], objective: str, method: str, target: str, rectify: str, pasted: int, tmp_path: Path
) -> None:
    config = plain(composed(tmp_path, *overrides))
    shown = {name: config["attention"][name] for name in ("layer", "method", "target", "rectify")}
    assert shown == {"layer": "layer2", "method": method, "target": target, "rectify": rectify}
    assert (config["objective"]["name"], config["objective"]["layer"]) == (objective, "layer2")
    assert config["data"]["pasted"] == pasted
    assert config["network"]["norm"] == "group"
    assert callable(build_objective(config["objective"]))


@pytest.mark.parametrize("data", choices("data"))
def test_what_errors_of_small_batches_advise_is_a_key_of_all_data(data: str, tmp_path: Path) -> None:
    """FactorVAE and objectives that compare the images of a batch name data.drop_last=true as the way out."""
    options = [f"data={data}", *PAIRS.get(("data", data), [])]
    usual: Any = assembly.build_data(composed(tmp_path, *options).data)
    dropping: Any = assembly.build_data(composed(tmp_path, *options, "data.drop_last=true").data)
    assert (usual.drop_last, dropping.drop_last) == (False, True)


@pytest.mark.parametrize("data", ["mvtec", "visa", "folder", "ped1", "defects"])
def test_a_recipe_of_pasted_defects_reaches_the_data(data: str, tmp_path: Path) -> None:
    config = composed(tmp_path, f"data={data}", "data.recipe={kinds:[noise,flat],size:[4,12]}")
    built: Any = assembly.build_data(config.data)
    assert (list(built.recipe.kinds), list(built.recipe.size)) == (["noise", "flat"], [4, 12])


OF_MVTEC = [name for name in choices("experiment") if name.startswith(("mvtec_", "padim", "patchcore"))]


@pytest.mark.parametrize("experiment", OF_MVTEC)
def test_tables_call_runs_of_mvtec_by_their_category(experiment: str, tmp_path: Path) -> None:
    """As Hydra writes the config of a run, with what it refers to."""
    config = composed(tmp_path, f"experiment={experiment}", "data.category=screw")
    (tmp_path / ".hydra").mkdir()
    OmegaConf.save(config, tmp_path / ".hydra" / "config.yaml")
    (tmp_path / "metrics.json").write_text('{"test": {"aupro": 0.5}}')
    (found,) = read_results([str(tmp_path)])
    assert (found.name, found.family) == (f"{experiment}_screw", experiment)


@pytest.mark.parametrize(
    ("experiment", "own"), [("mvtec_features", "feature_residual"), ("padim", "padim"), ("patchcore", "patchcore")]
)
def test_detectors_of_features_stand_beside_their_controls(experiment: str, own: str, tmp_path: Path) -> None:
    """No VAE, an untrained encoder, and a map that does not look at the image, of the deciding score, too."""
    config = plain(composed(tmp_path, f"experiment={experiment}"))
    found = named_apart(config["metrics"]["scores"])
    assert {own, "feature_residual", "feature_distance", "mean_map", "attention", "untrained_attention"} <= set(found)
    options = {name: score.as_options() for name, score in found.items()}
    assert (options["untrained_attention"]["untrained"], options["mean_map"]["of"]) == (True, "feature_residual")
    assert own in {option.get("of") for option in options.values() if option["name"] == "mean_map"}
    untrained = options["untrained_attention"]["maps"]
    assert untrained == {key: value for key, value in config["attention"].items() if key != "chunk"}


@pytest.mark.slow
@pytest.mark.parametrize("data", ["folder", "visa", "defects"])
@pytest.mark.parametrize("experiment", OF_MVTEC)
def test_experiments_of_mvtec_take_other_images(experiment: str, data: str, tmp_path: Path) -> None:
    own = [f"data.normal_dir={tmp_path}"] if data == "folder" else []
    config = composed(tmp_path, f"experiment={experiment}", f"data={data}", *own)
    assert (
        plain(config)["name"]
        == {
            "folder": f"{experiment}_own",
            "visa": f"{experiment}_{config.data.get('category', 'own')}",
            "defects": f"{experiment}_{config.data.get('texture')}",
        }[data]
    )
    assert assembly.build_data(config.data) is not None


def test_experiments_win_over_groups_and_the_command_line_over_both(tmp_path: Path) -> None:
    config = composed(tmp_path, "experiment=mnist_one_class", "data.normal_class=3", "optim.lr=0.5")
    assert config.network.name == "mnist"
    assert config.attention.layer == "conv2"
    assert config.trainer.max_epochs == 100
    assert config.name == "mnist_one_class_3"
    assert config.optim.lr == 0.5


def test_shape_follows_the_data(tmp_path: Path) -> None:
    config = composed(tmp_path, "data.size=32", "data.color=random")
    assert plain(config.network.shape) == [3, 32, 32]
    data: Any = assembly.build_data(config.data)
    assert data.shape == (3, 32, 32)


def test_a_shape_that_the_data_has_not_is_told(tmp_path: Path) -> None:
    with pytest.raises(VaexError, match=r"data.shape is \[2, 64, 64\], but Sprites gives \[1, 64, 64\]"):
        assembly.build_data(composed(tmp_path, "data.shape=[2,64,64]").data)


def test_only_known_data_is_built_from_a_checkpoint() -> None:
    hostile = OmegaConf.create({"_target_": "os.system", "command": "true"})
    with pytest.raises(VaexError, match=r"Unknown data module in the checkpoint 'os.system'"):
        assembly.build_data(hostile, from_checkpoint=True)


def test_a_stored_config_interpolates_paths_only() -> None:
    assert stored_config({"data": {"root": "${paths.data}", "n": 3}}) == {"data": {"root": "${paths.data}", "n": 3}}
    with pytest.raises(VaexError, match=r"\$\{oc.env:HOME\}.* at run.data.root"):
        stored_config({"data": {"root": "${oc.env:HOME}"}})
    with pytest.raises(VaexError, match="does not evaluate"):
        stored_config({"data": [{"root": "x${paths.data}"}]})


def test_portable_config_keeps_paths_and_resolves_the_rest(tmp_path: Path) -> None:
    config = composed(tmp_path, "data=mnist", "network=mnist", "seed=5")
    stored = assembly.portable(config.data)
    assert stored["root"] == "${paths.data}"
    assert stored["seed"] == 5


@pytest.mark.parametrize("data", ["mnist", "sprites", "defects"])
def test_augmentation_of_data_that_takes_none_is_refused(data: str, tmp_path: Path) -> None:
    config = plain(composed(tmp_path, f"data={data}", "augmentation=strong"))
    with pytest.raises(VaexError, match=r"augmentation=strong has no effect on \w+, .* choose augmentation=none"):
        check_augmentation(config)
    check_augmentation(plain(composed(tmp_path, f"data={data}")))
    check_augmentation(plain(composed(tmp_path, "data=mvtec", "augmentation=strong")))


def test_keys_of_what_was_not_chosen_are_found(tmp_path: Path) -> None:
    config = composed(tmp_path, "callbacks=[checkpoint]", "+callbacks.ema.decay=0.9", "+logger.wandb.tags=[a]")
    assert idle_keys(plain(config)) == ["callbacks.ema", "logger.wandb"]
    assert idle_keys(plain(composed(tmp_path, "callbacks=[checkpoint,ema]", "callbacks.ema.decay=0.9"))) == []


def test_sweeps_name_every_category_and_seed(tmp_path: Path) -> None:
    from vaex.data.mvtec import CATEGORIES

    def swept(choice: str) -> dict[str, str]:
        with initialize_config_dir(str(CONF), version_base="1.3"):
            config = compose("train", [f"sweep={choice}"], return_hydra_config=True)
            return dict(config.hydra.sweeper.params)

    register_resolvers()
    assert swept("mvtec_categories") == {"data.category": ",".join(CATEGORIES)}
    assert swept("seeds") == {"seed": "0,1,2"}
    assert swept("grid_beta") == {"objective.beta": "1,2,4,8,16,32"}
    assert set(swept("optuna_beta")) < set(swept("optuna_cma_es")) == set(swept("optuna_pareto"))


@pytest.mark.parametrize(
    ("choice", "launcher", "pinned"),
    [
        ("basic", "BasicLauncher", False),
        ("joblib", "JoblibLauncher", True),
        ("submitit_local", "LocalLauncher", True),
        ("submitit", "SlurmLauncher", False),  # SLURM shares GPUs out
    ],
)
def test_a_launcher_pins_gpus_where_nobody_else_does(choice: str, launcher: str, pinned: bool) -> None:
    with initialize_config_dir(str(CONF), version_base="1.3"):
        config = compose("train", [f"launcher={choice}", "sweep=optuna_pareto"], return_hydra_config=True)
    assert config.hydra.launcher._target_.rpartition(".")[2] == launcher
    assert config.pin_gpus is pinned
