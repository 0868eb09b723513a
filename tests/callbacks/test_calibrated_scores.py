"""The attention callback with scores that need calibration: measured where there is one, else left out or refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from sklearn.metrics import roc_auc_score
from torch import Tensor
from torch.utils.data import DataLoader

import vaex
from tests.callbacks.test_attention import Dictionaries, Recorder, module, sprites, trainer
from vaex.calibrate import fit_calibration
from vaex.errors import VaexError
from vaex.modules import VAEModule

SCORES = ("attention", "deviation", "mahalanobis")


def images(seed: int, count: int = 12) -> Tensor:
    return torch.rand(count, 1, 32, 32, generator=torch.Generator().manual_seed(seed))


def labelled() -> DataLoader[Any]:
    return DataLoader(Dictionaries(image=images(1), label=torch.arange(12) % 2), batch_size=5)


def calibrated(**options: Any) -> VAEModule:
    found = module()
    found.vae.calibration = fit_calibration(found.vae, [images(0)], "conv2", **options)
    return found


def test_calibrated_scores_are_measured_in_the_test(tmp_path: Path) -> None:
    explained = calibrated(target="kl")
    callback = Recorder("vae", "conv2", score="mahalanobis", scores=SCORES, target="kl")
    (found,) = trainer(tmp_path, callback).test(explained, labelled(), verbose=False)
    for name in SCORES:
        score = vaex.explain(explained.vae, images(1), "conv2", score=name, target="kl").score
        expected = roc_auc_score(torch.arange(12) % 2, score)
        assert found[f"localization/test/image_auroc_{name}"] == pytest.approx(expected)


def test_without_calibration_they_are_left_out_unless_chosen(tmp_path: Path) -> None:
    (found,) = trainer(tmp_path, Recorder("vae", scores=SCORES)).test(module(), labelled(), verbose=False)
    assert [key.rpartition("_")[2] for key in found if "image_auroc" in key] == ["attention"]
    with pytest.raises(VaexError, match="not calibrated"):
        trainer(tmp_path, Recorder("vae", score="deviation")).test(module(), labelled(), verbose=False)


def test_of_maps_of_another_kind_no_deviation_is_measured(tmp_path: Path) -> None:
    callback = Recorder("vae", "conv2", scores=SCORES, target="kl")
    (found,) = trainer(tmp_path, callback).test(calibrated(), labelled(), verbose=False)
    assert [key.rpartition("_")[2] for key in found if "image_auroc" in key] == ["attention", "mahalanobis"]
    callback = Recorder("vae", "conv2", score="deviation", target="kl")
    with pytest.raises(VaexError, match="calibrated with target=mean and not kl"):
        trainer(tmp_path, callback).test(calibrated(), labelled(), verbose=False)


def test_training_that_ends_with_calibration_shows_the_attention_until_then(tmp_path: Path) -> None:
    callback = Recorder("vae", score="deviation")
    trainer(tmp_path, callback, max_epochs=1).fit(module(), sprites())
    assert len(callback.counts) > 0
