"""Checkpoints whose config asks for more than vaex's own parts, given to every command that reads one."""

from __future__ import annotations

import copy
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf

from vaex.build import build_model, build_objective
from vaex.callbacks import BestCheckpoint
from vaex.cli import main
from vaex.config import conf_dir, register_resolvers, stored_config
from vaex.errors import VaexError
from vaex.modules.optimisation import build_optimiser

NETWORK = {"name": "conv", "shape": [1, 32, 32], "latents": 3, "width": 4, "depth": 3, "hidden": 8}


@pytest.fixture(scope="module")
def content() -> dict[str, Any]:
    """What vaex would save of a small untrained model of sprites."""
    register_resolvers()
    grid = "data.grid={shape: 1, scale: 1, orientation: 1, x: 6, y: 6}"
    sizes = ["data.size=32", grid, "data.val=8", "data.test=8"]
    with initialize_config_dir(str(conf_dir()), version_base="1.3"):
        whole: Any = OmegaConf.to_container(compose("train", ["callbacks=[]", "logger=[]", *sizes]), resolve=False)
    whole.pop("paths")
    whole = OmegaConf.to_container(OmegaConf.create(whole), resolve=True)
    run = {group: whole[group] for group in ("data", "attention", "score", "metrics")}
    parts = {key: whole[key] for key in ("objective", "optim", "schedule", "prior", "seed")}
    weights = {f"vae.{key}": value for key, value in build_model(NETWORK).state_dict().items()}
    return {"state_dict": weights, "hyper_parameters": {"network": NETWORK, **parts, "run": {**run, "name": "x"}}}


def saved(content: dict[str, Any], path: Path, place: str = "", value: Any = None) -> Path:
    """Write the checkpoint with ``value`` at ``place`` of its config."""
    content = copy.deepcopy(content)
    *parents, last = ["hyper_parameters", *place.split(".")]
    inner = content
    for key in parents:
        inner = inner[key]
    if place:
        inner[last] = value
    torch.save(content, path)
    return path


COMMANDS = {
    "evaluate": ["callbacks=[]", "logger=[]"],
    "explain": ["pictures=false"],
    "calibrate": [],
    "export": ["what=encoder", "format=pt2"],
}


def run(command: str, file: Path, *more: str) -> int:
    out = file.parent / "out"
    options = [f"hydra.run.dir={out}"] if command == "evaluate" else [f"out={out / 'x.ckpt'}"]
    return main([command, f"ckpt={file}", *COMMANDS[command], *options, *more])


def test_the_checkpoint_is_sound_without_an_attack(content: dict[str, Any], tmp_path: Path) -> None:
    assert run("evaluate", saved(content, tmp_path / "a.ckpt")) == 0
    assert run("calibrate", saved(content, tmp_path / "b.ckpt")) == 0


@pytest.mark.parametrize(
    ("place", "value", "message"),
    [
        ("evil", 3, "The config in .*a.ckpt has no option 'evil'|no option 'evil'"),
        ("seed", "x", "needs a whole number for the option 'seed'"),
        ("objective", "beta_vae", "The objective must be a mapping"),
        ("run", [1], "must hold a mapping at run"),
    ],
    ids=lambda value: str(value)[:30],
)
def test_an_edited_config_ends_in_one_sentence(
    place: str, value: Any, message: str, content: dict[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("evaluate", saved(content, tmp_path / "a.ckpt", place, value)) == 1
    error = capsys.readouterr().err
    assert re.search(message, error)
    assert len(error.strip().splitlines()) == 1
    assert "debug=default" not in error


@pytest.mark.parametrize(
    ("calibration", "message"),
    [
        ({"score": {"name": "kl", "_target_": "os.system"}}, "holds '_target_' at run.score"),
        ({"score": {"name": "${oc.env:HOME}"}}, "which vaex does not evaluate"),
        ({"score": "kl"}, "must hold a mapping at run.score"),
        ({"score": {"name": "kll"}}, "did you mean 'kl'"),
        ([1], "is cut short, damaged or not a vaex checkpoint"),
    ],
    ids=lambda value: str(value)[:30],
)
def test_the_score_of_a_calibration_is_read_as_the_config_is(
    calibration: Any, message: str, content: dict[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = saved({**content, "calibration": calibration}, tmp_path / "a.ckpt")
    assert run("explain", file) == 1
    error = capsys.readouterr().err
    assert message in error
    assert len(error.strip().splitlines()) == 1


HOSTILE = ["torch.hub.load", "torch.load", "torch.utils.cpp_extension.load_inline", "os.system", "builtins.eval"]


@pytest.mark.parametrize(
    "place", ["run.data", "run.attention.method", "run.score", "run.metrics.scores", "run.data.grid"]
)
@pytest.mark.parametrize("command", COMMANDS)
def test_no_class_is_built_out_of_a_checkpoint(
    command: str, place: str, content: dict[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    target = HOSTILE[(len(place) + len(command)) % len(HOSTILE)]
    evil = {"_target_": target, "command": f"touch {tmp_path / 'witness'}"}
    value = [evil] if place == "run.metrics.scores" else evil
    file = saved(content, tmp_path / "a.ckpt", place, value)
    ours = run(command, file)
    error = capsys.readouterr().err
    if place == "run.data" and command in ("explain", "export"):
        assert "Traceback" not in error  # images that are not the checkpoint's own: its data is never built
    else:
        assert ours == 1
        assert target in error or "'_target_' at" in error
        assert len(error.strip().splitlines()) == 1
    assert not (tmp_path / "witness").exists()


REFUSED: list[tuple[Any, str]] = [
    ([1], "must hold a mapping at run, got list"),
    ({"data": [1]}, r"must hold a mapping at run\.data"),
    ({"data": {"defaults": [{"override /hydra/launcher": "joblib"}]}}, "'defaults' at run.data"),
    ({"attention": {"defaults": ["/evil"]}}, "'defaults' at run.attention"),
    ({"attention": {"hydra": {"launcher": {}}}}, "'hydra' at run.attention"),
    ({"score": {"_target_": "os.system"}}, "'_target_' at run.score"),
    ({"data": {"augmentation": {"transforms": [{"_target_": "os.system"}]}}}, "'_target_' at run.data.augmentation"),
    ({"data": {"root": "${oc.env:HOME}"}}, "which vaex does not evaluate"),
    ({"data": {"root": "${paths.data}/${oc.env:HOME}"}}, "which vaex does not evaluate"),
    ({"metrics": {"scores": ["${oc.decode:x}"]}}, "which vaex does not evaluate"),
]


@pytest.mark.parametrize(("config", "message"), REFUSED, ids=lambda value: str(value)[:40])
def test_a_stored_config_composes_nothing(config: Any, message: str) -> None:
    with pytest.raises(VaexError, match=message):
        stored_config(config)


def test_a_checkpoint_names_no_server_to_download_from() -> None:
    data = {"_target_": "vaex.data.MVTec", "urls": ["http://evil/x.tar.xz"], "sha256": "0" * 64, "size": 64}
    expected = {"_target_": "vaex.data.MVTec", "urls": None, "sha256": None, "size": 64}
    assert stored_config({"data": data})["data"] == expected


NAMES = ["torch.hub.load", "torch.load", "os.system", "__import__('os')", "../x", "vaex.cli.main", "__class__"]


@pytest.mark.parametrize("name", NAMES)
def test_parts_are_built_by_exact_names_alone(name: str) -> None:
    from vaex.attention.targets import target_named
    from vaex.data.transforms import Augmentation
    from vaex.scores import score_named

    builders: list[Any] = [
        lambda: build_model({**NETWORK, "name": name}),
        lambda: build_model(NETWORK, {"name": name}),
        lambda: build_model({"name": "feature_vae", "shape": [3, 64, 64], "latents": 3, "backbone": name}),
        lambda: build_model({"name": "feature_vae", "shape": [3, 64, 64], "latents": 3, "backbone": f"timm:{name}/x"}),
        lambda: build_objective({"name": name}),
        lambda: build_objective({"name": "beta_vae", "warmup": {"name": name}}),
        lambda: build_optimiser([torch.nn.Parameter(torch.ones(1))], {"name": name}),
        lambda: target_named(name),
        lambda: target_named({"name": name}),
        lambda: score_named({"name": name}),
        lambda: Augmentation(transforms=[{"name": name}]),
    ]
    for build in builders:
        with pytest.raises(VaexError) as caught:
            build()
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize("evil", ["..", "/", "/home/victim/x.txt", "run/..", "", ".hidden.ckpt", 3])
def test_a_checkpoint_cannot_name_what_is_deleted(evil: Any, tmp_path: Path) -> None:
    callback = BestCheckpoint(dirpath=tmp_path / "checkpoints", monitor="val/loss")
    score = torch.tensor(1.0)
    state = {"dirpath": "/old", "best_model_score": score, "kth_value": score, "last_model_path": evil}
    paths = {"best_model_path": evil, "kth_best_model_path": evil, "best_k_models": {evil: score}}
    callback.load_state_dict({**state, **paths})
    assert callback.best_k_models == {}
    assert callback.best_model_path == callback.kth_best_model_path == callback.last_model_path == ""
    good = {"best_model_path": "/old/best.ckpt", "kth_best_model_path": "/old/best.ckpt", "best_k_models": {}}
    callback.load_state_dict({**state, **good, "best_k_models": {"/old/best.ckpt": score}})
    assert callback.best_k_models == {str(tmp_path / "checkpoints" / "best.ckpt"): score}
