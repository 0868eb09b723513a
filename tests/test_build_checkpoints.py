"""Rebuilding from checkpoint files: sound, damaged and hostile ones."""

from __future__ import annotations

import io
import os
import pickle
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from vaex.build import build_model, load, read_checkpoint, slim_checkpoint
from vaex.errors import VaexError

NETWORK = {"name": "conv", "shape": [1, 32, 32], "latents": 3, "width": 4, "depth": 3, "hidden": 8}


def write(path: Path, **changes: Any) -> Path:
    """Write a checkpoint of an untrained model with weights that are told apart from freshly built ones."""
    torch.manual_seed(3)
    model = build_model(NETWORK)
    content: dict[str, Any] = {
        "state_dict": {f"vae.{name}": value for name, value in model.state_dict().items()},
        "hyper_parameters": {"network": NETWORK, "prior": {"name": "normal"}, "seed": 3, "run": {"name": "x"}},
        "calibration": {"codes": [1.0, 2.0]},
        "global_step": 7,
        **changes,
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    torch.save({key: value for key, value in content.items() if value is not None}, path)
    return path


class Code:
    """Runs a shell command wherever it is unpickled."""

    def __init__(self, witness: Path) -> None:
        self.witness = witness

    def __reduce__(self) -> tuple[Callable[[str], int], tuple[str]]:
        return os.system, (f"touch {self.witness}",)


def test_load_gives_back_the_weights_config_and_calibration(tmp_path: Path) -> None:
    file = write(tmp_path / "run" / "checkpoints" / "best.ckpt")
    torch.manual_seed(3)
    expected = build_model(NETWORK).eval()
    torch.manual_seed(9)
    for path in (file, str(file), tmp_path / "run", str(tmp_path / "run")):
        model = load(path)
        assert not model.training
        assert model.config == {"network": NETWORK, "prior": {"name": "normal"}, "seed": 3, "run": {"name": "x"}}
        assert model.calibration == {"codes": [1.0, 2.0]}
        images = torch.rand(2, 1, 32, 32)
        assert torch.equal(model(images).reconstruction, expected(images).reconstruction)


def test_calibration_is_empty_where_nothing_was_fitted(tmp_path: Path) -> None:
    assert load(write(tmp_path / "a.ckpt", calibration=None)).calibration == {}


def test_a_run_folder_means_its_best_checkpoint_then_its_last(tmp_path: Path) -> None:
    folder = tmp_path / "checkpoints"
    write(folder / "last.ckpt", hyper_parameters={"network": NETWORK, "which": "last"})
    assert load(tmp_path).config["which"] == "last"
    write(folder / "best.ckpt", hyper_parameters={"network": NETWORK, "which": "best"})
    assert load(tmp_path).config["which"] == "best"


def test_load_in_a_fresh_process_needs_neither_lightning_nor_hydra(tmp_path: Path) -> None:
    write(tmp_path / "checkpoints" / "best.ckpt")
    program = """
import sys
import vaex
model = vaex.load(sys.argv[1])
print(type(model).__name__, model.latents, model.config["seed"])
print(*sys.modules)
"""
    done = subprocess.run([sys.executable, "-c", program, tmp_path], capture_output=True, text=True, check=True)
    said, _, modules = done.stdout.partition("\n")
    assert said == "VAE 3 3"
    loaded = {name.split(".")[0] for name in modules.split()}
    assert "torch" in loaded
    assert not loaded & {"lightning", "pytorch_lightning", "hydra", "omegaconf", "wandb", "albumentations"}


def missing(folder: Path) -> Path:
    return folder / "nothing"


def empty_run(folder: Path) -> Path:
    (folder / "run" / "checkpoints").mkdir(parents=True)
    return folder / "run"


def cut(keep: float) -> Callable[[Path], Path]:
    def make(folder: Path) -> Path:
        file = write(folder / "a.ckpt")
        content = file.read_bytes()
        file.write_bytes(content[: int(keep * len(content))])
        return file

    return make


def flipped(folder: Path) -> Path:
    """The archive's directory is whole, the pickle in it is not."""
    file = write(folder / "a.ckpt")
    content = bytearray(file.read_bytes())
    at = content.index(b"hyper_parameters")
    content[at - 40 : at + 40] = b"\xff" * 80
    file.write_bytes(content)
    return file


def noise(folder: Path) -> Path:
    (folder / "a.ckpt").write_bytes(np.random.default_rng(0).bytes(5000))
    return folder / "a.ckpt"


def nothing(folder: Path) -> Path:
    (folder / "a.ckpt").write_bytes(b"")
    return folder / "a.ckpt"


def bare_pickle(folder: Path) -> Path:
    (folder / "a.ckpt").write_bytes(pickle.dumps({"state_dict": {}, "hyper_parameters": Code(folder / "witness")}))
    return folder / "a.ckpt"


def other_zip(folder: Path) -> Path:
    with zipfile.ZipFile(folder / "a.ckpt", "w") as archive:
        archive.writestr("hello.txt", "hi")
    return folder / "a.ckpt"


def code(folder: Path) -> Path:
    return write(folder / "a.ckpt", hyper_parameters={"network": NETWORK, "run": Code(folder / "witness")})


def hidden_code(folder: Path) -> Path:
    return write(folder / "a.ckpt", callbacks=Code(folder / "witness"))


def numpy_scalar(folder: Path) -> Path:
    return write(folder / "a.ckpt", best_score=np.float64(1.5))


def foreign(content: Any) -> Callable[[Path], Path]:
    def make(folder: Path) -> Path:
        torch.save(content, folder / "a.ckpt")
        return folder / "a.ckpt"

    return make


def changed(**changes: Any) -> Callable[[Path], Path]:
    return lambda folder: write(folder / "a.ckpt", **changes)


REFUSED: list[tuple[Callable[[Path], Path], str]] = [
    (missing, "No checkpoint at .*nothing: expected a .ckpt file, a run folder, or a shipped name"),
    (empty_run, "Run folder .*run holds no checkpoint"),
    (cut(0.1), "cut short, damaged or no checkpoint at all"),
    (cut(0.9), "cut short, damaged or no checkpoint at all"),
    (cut(0.999), "cut short, damaged or no checkpoint at all"),
    (flipped, "a.ckpt"),
    (noise, "cut short, damaged or no checkpoint at all"),
    (nothing, "cut short, damaged or no checkpoint at all"),
    (bare_pickle, "cut short, damaged or no checkpoint at all"),
    (other_zip, "cut short, damaged or no checkpoint at all"),
    (code, "which could run code when it is read, so it is not read"),
    (hidden_code, "which could run code when it is read, so it is not read"),
    (numpy_scalar, "which could run code when it is read, so it is not read"),
    (foreign({"model": {}, "epoch": 3}), "not a vaex checkpoint: it lacks state_dict, hyper_parameters"),
    (foreign([1, 2]), "not a vaex checkpoint: it lacks state_dict, hyper_parameters"),
    (foreign(torch.ones(3)), "not a vaex checkpoint: it lacks state_dict, hyper_parameters"),
    (changed(hyper_parameters=5), "not a vaex checkpoint: it lacks hyper_parameters;"),
    (changed(hyper_parameters={"lr": 0.1}), "not a vaex checkpoint: it lacks hyper_parameters.network"),
    (changed(hyper_parameters={"network": "conv"}), "not a vaex checkpoint: it lacks hyper_parameters.network"),
    (changed(hyper_parameters={"network": {"name": "conf"}}), "does not describe a model.*did you mean 'conv'"),
    (changed(hyper_parameters={"network": {**NETWORK, "depth": 9}}), "does not describe a model.*network.depth"),
    (changed(hyper_parameters={"network": {**NETWORK, "latents": 4}}), "weights in .* do not fit the network 'conv'"),
    (changed(state_dict={}), "weights in .* do not fit the network 'conv'"),
    (changed(state_dict={"vae.encoder.conv1.weight": "heavy"}), "weights in .* do not fit the network 'conv'"),
]


@pytest.mark.parametrize(("make", "message"), REFUSED)
def test_what_is_no_sound_checkpoint_is_refused_in_one_sentence(
    tmp_path: Path, make: Callable[[Path], Path], message: str
) -> None:
    path = make(tmp_path)
    with pytest.raises(VaexError, match=message) as caught:
        load(path)
    said = str(caught.value)
    assert "\n" not in said
    assert "weights_only" not in said  # torch's advice to switch the protection off
    assert not (tmp_path / "witness").exists()


def test_the_code_above_would_run_if_it_were_unpickled(tmp_path: Path) -> None:
    pickle.loads(pickle.dumps(Code(tmp_path / "witness")))
    assert (tmp_path / "witness").exists()


def test_read_checkpoint_gives_everything(tmp_path: Path) -> None:
    content = read_checkpoint(write(tmp_path / "a.ckpt"))
    assert content["global_step"] == 7
    assert set(content) == {"state_dict", "hyper_parameters", "calibration", "global_step"}


def test_a_file_without_permission_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = write(tmp_path / "a.ckpt")

    def refuse(*_: Any, **__: Any) -> io.BytesIO:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "open", refuse)
    with pytest.raises(VaexError, match=r"a\.ckpt cannot be read \(Permission denied\)"):
        read_checkpoint(file)


def test_a_slim_checkpoint_halves_the_weights_and_keeps_the_config(tmp_path: Path) -> None:
    network = {"name": "conv", "shape": [1, 64, 64], "latents": 3, "width": 16, "depth": 3}
    model = build_model(network)
    state = {f"vae.{key}": value for key, value in model.state_dict().items()}
    extra = {"optimizer_states": [torch.zeros(1000)]}
    torch.save({"state_dict": state, "hyper_parameters": {"network": network}, **extra}, tmp_path / "whole.ckpt")
    slim_checkpoint(tmp_path / "whole.ckpt", tmp_path / "slim.ckpt")
    assert (tmp_path / "slim.ckpt").stat().st_size < 0.55 * (tmp_path / "whole.ckpt").stat().st_size
    slim = load(tmp_path / "slim.ckpt")
    assert slim.config["network"] == network
    for key, value in model.state_dict().items():
        assert torch.equal(slim.state_dict()[key], value.half().float()), key
