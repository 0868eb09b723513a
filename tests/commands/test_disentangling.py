"""Disentanglement in metrics.json of trainings and evaluations."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.commands.test_evaluate import evaluate
from tests.commands.test_train import train
from vaex.build import load
from vaex.coding import encoded
from vaex.commands.assembly import build_data
from vaex.commands.disentangling import settings
from vaex.errors import VaexError
from vaex.metrics.disentanglement.collection import all_scores


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("trained") / "run"
    assert train(folder, "trainer.max_epochs=1", "metrics.disentanglement.codes=null") == 0
    return folder


@pytest.mark.slow
def test_training_ends_with_the_scores_of_all_images(trained: Path) -> None:
    from omegaconf import OmegaConf

    model = load(trained)
    table = encoded(model, build_data(OmegaConf.create(model.config["run"]["data"]), from_checkpoint=True))
    assert len(table.codes) == 144
    expected = all_scores(table.codes, table.factors, ["factor_vae", "mig"], model.config["seed"])
    metrics = json.loads((trained / "metrics.json").read_text())
    assert {name: metrics["test"][name] for name in expected} == pytest.approx(expected, abs=1e-6)
    assert not set(expected) & set(metrics["val"])
    assert (trained / "figures" / "mutual_information_test.png").is_file()
    assert "disentanglement/test/mig" in (trained / "metrics.csv").read_text().splitlines()[0]


def test_evaluation_measures_what_is_chosen(trained: Path, tmp_path: Path) -> None:
    found = evaluate(tmp_path / "a", f"ckpt={trained}", "metrics.disentanglement.names=[irs,mig]")
    stored = json.loads((trained / "metrics.json").read_text())["test"]
    assert found["mig"] == pytest.approx(stored["mig"], abs=1e-6)
    assert 0 <= found["irs"] <= 1
    assert found["irs_active_latents"] + found["irs_pruned_latents"] == 3  # a model of a few steps uses none
    assert "factor_vae" not in found
    none = evaluate(tmp_path / "b", f"ckpt={trained}", "metrics.disentanglement.names=[]")
    assert not {"mig", "factor_vae", "irs"} & none.keys()
    assert not (tmp_path / "b" / "figures" / "mutual_information_test.png").exists()


def test_what_the_codes_do_not_allow_is_told(trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found = evaluate(tmp_path / "a", f"ckpt={trained}", "metrics.disentanglement.codes=40")
    assert "factor_vae" not in found
    assert "mig" in found
    assert "vaex: factor_vae is not measured: A vote looks at 64 images" in capsys.readouterr().err


@pytest.mark.slow
def test_a_picture_that_cannot_be_drawn_loses_no_score(
    trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(table: Any, seed: int) -> None:
        raise VaexError("Factor 0 has one value.")

    monkeypatch.setattr("vaex.callbacks.disentanglement.information_picture", broken)
    assert "mig" in evaluate(tmp_path / "a", f"ckpt={trained}", "metrics.disentanglement.names=[mig]")
    assert "vaex: mutual information is not drawn: Factor 0 has one value." in capsys.readouterr().err


def test_wrong_names_end_before_training(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert train(tmp_path / "run", "metrics.disentanglement.names=[migs]") == 1
    assert "Unknown disentanglement metric 'migs': did you mean 'mig'" in capsys.readouterr().err
    assert not (tmp_path / "run" / "metrics.json").exists()


def test_settings_are_checked() -> None:
    assert settings({}) == ([], None)
    assert settings({"disentanglement": None}) == ([], None)
    assert settings({"disentanglement": {"names": ["mig"], "codes": 5}}) == (["mig"], 5)
    wrong: list[tuple[Any, str]] = [({"name": []}, "did you mean 'names'"), ({"codes": 1}, "codes=1")]
    for options, message in wrong:
        with pytest.raises(VaexError, match=message):
            settings({"disentanglement": options})
