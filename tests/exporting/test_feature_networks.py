"""Networks of frozen features are exported too: one code, or a grid of latents whose decoder takes a grid."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import vaex
from vaex.build import MODELS, build_model
from vaex.detectors import fit_detectors
from vaex.exporting.batches import run_batches
from vaex.exporting.parts import Request
from vaex.exporting.programs import export_model
from vaex.networks import FeatureVAE

FEATURES: dict[str, Any] = {"shape": [3, 32, 32], "blocks": [0], "size": 32, "grid": 8}
SMALL: dict[str, dict[str, Any]] = {
    "feature_vae": {"name": "feature_vae", "latents": 3, "widths": [8, 6, 4], **FEATURES},
    "feature_grid": {"name": "feature_grid", "latents": 4, "hidden": 5, "decoder_hidden": 6, "rank": 4, **FEATURES},
}
DETECTORS: list[dict[str, Any]] = [
    {"name": "feature_error"},
    {"name": "feature_distance", "position": "free", "rank": 4},
    {"name": "feature_residual", "position": "aware", "rank": 4},
    {"name": "mean_map", "of": "feature_error"},
    {"name": "padim", "channels": 6},
    {"name": "patchcore", "patches": 40},
]
IMAGES = torch.rand(4, 3, 32, 32, generator=torch.Generator().manual_seed(2))


def fitted(name: str) -> FeatureVAE:
    torch.manual_seed(0)
    model = build_model(SMALL[name])
    assert isinstance(model, FeatureVAE)
    features = torch.randn(24, 16, 8, 8, generator=torch.Generator().manual_seed(1)) + 2
    model.eval().fit_whitening([features])
    if model.position is not None:
        model.fit_position(model.whitening(features))
    return model


def expected_of(model: FeatureVAE, what: str, entry: Tensor) -> list[Tensor]:
    with torch.no_grad():
        if what == "decoder":
            return [model.decode(entry).mean]
        if what == "reconstruction":
            return [model.decode(model.encode(entry).mean).mean]
    return [vaex.explain(model, entry).maps]


def assert_near(found: list[Tensor], expected: list[Tensor]) -> None:
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=1e-5 * max(1.0, float(other.abs().max())))


def test_every_network_of_features_is_exported_below() -> None:
    assert set(SMALL) == set(MODELS)


@pytest.mark.slow
@pytest.mark.parametrize("what", ["reconstruction", "attention"])  # encoder and score run parts of these
@pytest.mark.parametrize("name", SMALL)
def test_pt2_equals_the_model(name: str, what: str, tmp_path: Path) -> None:
    model = fitted(name)
    done = export_model(model, tmp_path / "x.pt2", Request(what), "pt2")
    assert done.batch is None
    found = list(torch.export.load(done.path).module()(IMAGES).values())
    assert_near(found, expected_of(model, what, IMAGES))


def test_the_decoder_of_a_grid_takes_a_grid_and_says_so(tmp_path: Path) -> None:
    model = fitted("feature_grid")
    entry = torch.randn(5, 4, 8, 8, generator=torch.Generator().manual_seed(3))
    done = export_model(model, tmp_path / "x.pt2", Request("decoder"), "pt2")
    assert (done.batch, done.metadata["input"]) == (None, "float32 (B, D, h, w)")
    assert_near(list(torch.export.load(done.path).module()(entry).values()), expected_of(model, "decoder", entry))


def with_detector(score: dict[str, Any]) -> FeatureVAE:
    """Return a small feature VAE whose calibration holds the fitted ``score``."""
    model = fitted("feature_vae")
    normal = torch.rand(12, 3, 32, 32, generator=torch.Generator().manual_seed(4))
    model.calibration = {"detectors": fit_detectors(model, [score], [normal[:8]], [normal[8:]])}
    return model


@pytest.mark.slow
@pytest.mark.parametrize("score", DETECTORS, ids=lambda score: "-".join(map(str, score.values())))
def test_detectors_on_features_equal_the_model(score: dict[str, Any], tmp_path: Path) -> None:
    model = with_detector(score)
    expected = vaex.explain(model, IMAGES, score=score)
    threshold = float(expected.score.sort().values[1])  # between the images: two are above
    done = export_model(model, tmp_path / "x.pt2", Request("score", score=score, threshold=threshold), "pt2")
    assert done.batch == (1 if score["name"] == "patchcore" else None)  # it looks at one image after the other
    program = torch.export.load(done.path).module()
    parts = [program(images) for images in IMAGES.split(done.batch or len(IMAGES))]
    found = {name: torch.cat([part[name] for part in parts]) for name in parts[0]}
    assert_near([found["score_map"], found["score"]], [expected.score_map, expected.score])
    clear = (expected.score - threshold).abs() > 1e-3 * threshold
    assert torch.equal(found["anomalous"][clear], expected.score[clear] > threshold)
    assert int(clear.sum()) == (0 if score["name"] == "mean_map" else 3)  # a mean map gives every image one number


@pytest.mark.slow
@pytest.mark.parametrize("score", DETECTORS[-2:], ids=lambda score: score["name"])
def test_detectors_on_features_run_in_onnxruntime(score: dict[str, Any], tmp_path: Path) -> None:
    onnxruntime = pytest.importorskip("onnxruntime")
    model = with_detector(score)
    done = export_model(model, tmp_path / "x.onnx", Request("score", score=score))
    session = onnxruntime.InferenceSession(done.path, providers=["CPUExecutionProvider"])
    found = run_batches(session, IMAGES.numpy())
    expected = vaex.explain(model, IMAGES, score=score)
    names = ("score_map", "score")
    assert_near([torch.from_numpy(found[name]) for name in names], [expected.score_map, expected.score])


@pytest.mark.slow
def test_onnx_maps_equal_the_model(tmp_path: Path) -> None:
    onnxruntime = pytest.importorskip("onnxruntime")
    model, entry = fitted("feature_grid"), IMAGES
    done = export_model(model, tmp_path / "x.onnx", Request("attention"))
    session = onnxruntime.InferenceSession(done.path, providers=["CPUExecutionProvider"])
    found = [torch.from_numpy(part) for part in run_batches(session, entry.numpy()).values()]
    assert_near(found, expected_of(model, "attention", entry))
