"""What becomes of the arguments before Hydra reads them."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from omegaconf import OmegaConf

from vaex.cli import main
from vaex.commands.launch import PATHS, checkpoint_choices, one_folder, quoted_paths, sweeping, value_of
from vaex.errors import VaexError


@pytest.mark.parametrize("key", PATHS)
def test_paths_may_hold_spaces_and_commas(key: str) -> None:
    assert quoted_paths([f"{key}=my photos, new"]) == [f"{key}='my photos, new'"]
    assert quoted_paths([f"{key}=null", f"{key}='a'", f"{key}=${{x}}"]) == [
        f"{key}=null",
        f"{key}='a'",
        f"{key}=${{x}}",
    ]


def test_a_list_of_runs_stays_a_list() -> None:
    assert quoted_paths(["runs=[a,b]", "out=[a]"]) == ["runs=[a,b]", "out='[a]'"]


@pytest.mark.parametrize(
    ("arguments", "added"),
    [
        (["sweep=seeds"], True),
        (["sweep=seeds", "-m"], False),
        (["--multirun", "sweep=seeds"], False),
        (["sweep=seeds", "--cfg", "job"], False),
        (["sweep=seeds", "--cfg=job"], False),
        (["sweep=seeds", "--help"], False),
        (["sweep=null"], False),
        (["seed=1"], False),
    ],
)
def test_a_sweep_asks_for_several_runs(arguments: list[str], added: bool) -> None:
    assert sweeping(arguments) == [*arguments, *(["--multirun"] if added else [])]


def saved(path: Path, **run: object) -> Path:
    torch.save({"hyper_parameters": {"network": {"name": "conv"}, "run": run}}, path)
    return path


def test_the_augmentation_of_a_checkpoint_is_a_choice_of_its_own(tmp_path: Path) -> None:
    own = {"name": "own", "split": "train", "transforms": [{"name": "HorizontalFlip"}]}
    file = saved(tmp_path / "a.ckpt", data={"_target_": "vaex.data.MVTec", "augmentation": own, "size": 32})
    with checkpoint_choices(str(file)) as (argument,):
        folder = Path(value_of([argument], "hydra.searchpath")[len("['file://") : -2])  # type: ignore[index]
        data, augmentation = (OmegaConf.load(folder / group / "checkpoint.yaml") for group in ("data", "augmentation"))
    assert OmegaConf.to_container(data, resolve=False) == {
        "_target_": "vaex.data.MVTec",
        "augmentation": "${augmentation}",
        "size": 32,
    }
    assert augmentation == own


def test_an_interpolation_in_a_stored_augmentation_is_refused(tmp_path: Path) -> None:
    file = saved(tmp_path / "a.ckpt", data={"augmentation": {"name": "${oc.env:HOME}"}})
    with pytest.raises(VaexError, match="does not evaluate"), checkpoint_choices(str(file)):
        pass


def test_the_folder_of_a_run_takes_its_config_along(tmp_path: Path) -> None:
    assert one_folder(["seed=1", "paths.run='a b'"]) == ["seed=1", "hydra.run.dir='a b'"]
    assert one_folder(["seed=1", "paths.output=x"]) == ["seed=1", "paths.output=x"]
    with pytest.raises(VaexError, match=r"name hydra\.sweep\.dir=FOLDER"):
        one_folder(["--multirun", "seed=1,2", "paths.run=x"])
    assert main(["train", "data.batch_size=0", f"paths.run={tmp_path}/run"]) == 1
    assert (tmp_path / "run/.hydra/config.yaml").is_file()
