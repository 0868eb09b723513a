"""Faithfulness in metrics.json of evaluations."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from omegaconf import OmegaConf

from tests.commands.test_evaluate import evaluate
from vaex.attention import latent_attention
from vaex.benchmarks.pointing import factor_masks
from vaex.build import load
from vaex.cli import main
from vaex.commands.assembly import build_data
from vaex.commands.faithful import faithful_settings, faithfulness
from vaex.errors import VaexError
from vaex.explanation import explain, score_only
from vaex.metrics.faithfulness import MEASURES, Settings, deletion_to_normal, energy_in_masks

QUICK = ["steps=2", "squares=2", "subsets=2", "shares=[0.5]", "samples=1", "images=6", "latents=2", "match=0.001"]


MODEL = "sprites"  # the checkpoint that ships with vaex


def test_evaluation_measures_its_maps(tmp_path: Path) -> None:
    quick = [f"metrics.faithfulness.{option}" for option in QUICK]
    maps = ["attention.method=gradient", "attention.layer=null", "attention.target=mean", "attention.rectify=relu"]
    given = [f"ckpt={MODEL}", "metrics=faithfulness", "data.test=16", "data.val=200", *quick, *maps, "logger=csv"]
    found = evaluate(tmp_path, *given)
    assert {f"faithfulness_{name}" for name in MEASURES} <= found.keys()
    assert "faithfulness/test/deletion" in (tmp_path / "metrics.csv").read_text().splitlines()[0]
    model: Any = load(MODEL)
    stored = {**model.config["run"]["data"], "test": 16, "val": 200}
    data: Any = build_data(OmegaConf.create({"paths": {"data": "."}, "data": stored}).data, from_checkpoint=True)
    data.setup()
    items, grid = data.test_set.__getitems__([0, 3, 6, 9, 12, 15]), data.val_set.__getitems__(list(range(200)))
    with torch.no_grad():
        codes, seen = (model.encode(part["image"]).mean for part in (items, grid))
    latents = sorted(codes.var(0).argsort(descending=True)[:2].tolist())
    factors = []
    for latent in latents:  # the factor whose classes leave the least variance, adjusted for their number
        left = []
        for column in grid["factors"].T:
            classes = column.unique()
            parts = [seen[column == one, latent] for one in classes]
            within = sum(float((part - part.mean()).square().sum()) for part in parts)
            left.append(within / (200 - len(classes)))
        factors.append(data.factor_names[int(torch.tensor(left).argmin())])
    masks = factor_masks(data, items["index"], factors)
    energy = energy_in_masks(latent_attention(model, items["image"], method="gradient", latents=latents), masks)
    shown = masks.flatten(2).any(2)
    expected = torch.where(shown, energy, 0).sum(0) / shown.sum(0)
    assert found["faithfulness_energy_inside"] == pytest.approx(float(expected.nanmean()), abs=1e-5)


class Defects:
    """Images of which every second one is anomalous."""

    def __init__(self) -> None:
        generator = torch.Generator().manual_seed(5)
        self.images = torch.rand(8, 1, 64, 64, generator=generator)
        self.test_set = [{"image": image, "label": torch.tensor(i % 2)} for i, image in enumerate(self.images)]


class Quiet:
    """What is asked of a Trainer."""

    is_global_zero, loggers, global_step = True, (), 0


def test_score_maps_are_deleted_to_normal() -> None:
    model: Any = load(MODEL)
    chosen = {"faithfulness": {"names": ["pointing_game"], "images": 8, "steps": 4}}
    data, trainer = Defects(), Quiet()
    found = faithfulness(chosen, model, data, {"method": "gradient"}, "reconstruction", trainer)  # type: ignore[arg-type]
    images = data.images[1::2]
    told = explain(model, images, score="reconstruction", method="gradient")
    assert told.reconstruction is not None
    for name, judge in (("deletion_to_normal", "reconstruction"), ("deletion_to_normal_kl", "kl")):
        left = deletion_to_normal(
            lambda seen, judge=judge: score_only(model, seen, score=judge).score[:, None],  # type: ignore[misc]
            images,
            told.score_map,
            told.reconstruction,
            steps=4,
        )
        there = ~left.isnan()
        excess = [
            score_only(model, images, score=judge).score[row]
            - score_only(model, told.reconstruction, score=judge).score[row]
            for row in range(len(images))
        ]
        if there.any():
            pairs = [(float(value), float(more)) for value, more, kept in zip(left, excess, there, strict=True) if kept]
            mean = sum(value * more for value, more in pairs) / sum(more for _, more in pairs)
            assert found[f"faithfulness_{name}"] == pytest.approx(mean, abs=1e-4)
        else:
            assert f"faithfulness_{name}" not in found
    assert "faithfulness_deletion_to_normal" in found


def test_settings() -> None:
    assert faithful_settings({}) is None
    assert faithful_settings({"faithfulness": {"names": []}}) is None
    chosen = faithful_settings({"faithfulness": {"names": None, "shares": [0.5], "images": 3}})
    assert chosen is not None
    assert chosen.names == list(MEASURES)
    assert (chosen.images, chosen.settings) == (3, Settings(shares=(0.5,)))
    for wrong, told in (
        ({"stepz": 3}, "did you mean 'steps'"),
        ({"images": 0}, "images must be a whole number of at least 1"),
        ({"fill": "grey"}, "fill of metrics"),
        ({"names": ["deletio"]}, "did you mean 'deletion'"),
        ({"steps": 0}, "steps of the faithfulness measures"),
    ):
        with pytest.raises(VaexError, match=told):
            faithful_settings({"faithfulness": {"names": None, **wrong}})


def test_a_wrong_name_ends_before_anything_is_measured(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    wrong = ["metrics=faithfulness", "metrics.faithfulness.names=[delition]", f"hydra.run.dir={tmp_path}"]
    assert main(["evaluate", f"ckpt={MODEL}", *wrong]) == 1
    assert "did you mean 'deletion'" in capsys.readouterr().err
    assert not (tmp_path / "metrics.json").exists()


def test_collapsed_latents_are_told_and_not_fatal(capsys: pytest.CaptureFixture[str]) -> None:
    model: Any = load(MODEL)
    torch.nn.init.zeros_(model.encoder.mean.weight)
    chosen = {"faithfulness": {"names": None}}
    assert faithfulness({}, model, Defects(), {}, "kl", Quiet()) == {}  # type: ignore[arg-type]
    found = faithfulness(chosen, model, Defects(), {}, "kl", Quiet())  # type: ignore[arg-type]
    assert set(found) == {"faithfulness_deletion_to_normal", "faithfulness_deletion_to_normal_kl"}
    assert "vaex: faithfulness is not measured: all latents are collapsed" in capsys.readouterr().err


def test_every_measure_of_the_config_is_one() -> None:
    """The comment of conf/metrics/faithfulness.yaml names what there is."""
    text = (Path(__file__).parents[2] / "conf" / "metrics" / "faithfulness.yaml").read_text()
    assert all(name in text for name in MEASURES)
