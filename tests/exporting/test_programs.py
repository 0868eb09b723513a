"""Exported files give what the model gives: every network, every part, both formats, and without torch."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

import vaex
from vaex.attention import latent_attention
from vaex.build import NETWORKS, build_model
from vaex.calibrate import fit_calibration
from vaex.errors import VaexError
from vaex.exporting import parts, programs
from vaex.exporting.batches import run_batches
from vaex.exporting.parts import PARTS, Request, judged, planned
from vaex.exporting.programs import export_model
from vaex.networks import VAE
from vaex.scores.thresholds import middle_of

SMALL: dict[str, dict[str, Any]] = {
    "mnist": {"name": "mnist", "shape": [1, 28, 28], "latents": 3},
    "factor_vae": {"name": "factor_vae", "shape": [3, 64, 64], "latents": 4},
    "conv": {"name": "conv", "shape": [1, 33, 33], "latents": 3, "width": 4, "depth": 2, "hidden": 8},
    "conv_batch": {"name": "conv", "shape": [3, 32, 32], "latents": 2, "width": 4, "depth": 3, "norm": "batch"},
    "conv_group": {"name": "conv", "shape": [1, 32, 32], "latents": 2, "width": 4, "depth": 2, "norm": "group"},
    "resnet18": {"name": "resnet18", "shape": [3, 64, 64], "latents": 2},
}


def test_every_network_is_exported_below() -> None:
    """Those of frozen features are in test_feature_networks.py."""
    assert {config["name"] for config in SMALL.values()} == set(NETWORKS)


@pytest.fixture
def vae() -> Callable[..., VAE]:
    """Build a network with maps of a size that a wrong one would show at 1e-5."""

    def build(name: str, scaled: bool = True) -> VAE:
        torch.manual_seed(3)
        model = build_model(SMALL[name]).eval()
        for module in model.modules():
            if isinstance(module, torch.nn.BatchNorm2d):
                torch.nn.init.uniform_(module.running_mean, -0.1, 0.1)  # type: ignore[arg-type]
                torch.nn.init.uniform_(module.running_var, 0.5, 2)  # type: ignore[arg-type]
        if not scaled:  # codes of that size would magnify rounding in the decoder
            return model
        images = torch.rand(2, *SMALL[name]["shape"])
        most = latent_attention(model, images, rectify="none").abs().max()
        with torch.no_grad():
            model.encoder.mean.weight.mul_(1 / most)
        return model

    return build


def images_for(name: str, count: int, seed: int = 5) -> Tensor:
    return torch.rand(count, *SMALL[name]["shape"], generator=torch.Generator().manual_seed(seed))


def what_the_model_says(model: VAE, what: str, entry: Tensor, **options: Any) -> dict[str, Tensor]:
    with torch.no_grad():
        if what == "encoder":
            return model.encode(entry)._asdict()
        if what == "decoder":
            return {"reconstruction": model.decode(entry).mean}
        if what == "reconstruction":
            return {"reconstruction": model(entry).reconstruction}
    found = vaex.explain(model, entry, **options)
    if what == "attention":
        return {"maps": found.maps}
    return {"score_map": found.score_map, "score": found.score}


def run_file(path: Path, entry: Tensor) -> dict[str, Tensor]:
    if path.suffix == ".pt2":
        return dict(torch.export.load(path).module()(entry))
    onnxruntime = pytest.importorskip("onnxruntime")
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    return {name: torch.from_numpy(value) for name, value in run_batches(session, entry.numpy()).items()}


def assert_same(found: dict[str, Tensor], expected: dict[str, Tensor], tolerance: float = 1e-5) -> None:
    assert list(found) == list(expected)
    for name, value in expected.items():
        scale = max(1.0, float(value.abs().max()))
        torch.testing.assert_close(found[name], value, rtol=0, atol=tolerance * scale)


@pytest.mark.slow
@pytest.mark.parametrize("what", PARTS)
@pytest.mark.parametrize("name", SMALL)
def test_both_formats_equal_the_model(name: str, what: str, vae: Callable[..., VAE], tmp_path: Path) -> None:
    model = vae(name, scaled=what in ("attention", "score"))
    entry = images_for(name, 6)
    if what == "decoder":
        entry = torch.randn(6, model.latents, generator=torch.Generator().manual_seed(1))
    expected = what_the_model_says(model, what, entry)
    for file_format in programs.FORMATS:
        done = export_model(model, tmp_path / f"x.{file_format}", Request(what), file_format)
        assert done.batch is None
        assert done.difference < 1e-5
        assert_same(run_file(done.path, entry), expected)
        assert_same(run_file(done.path, entry[:1]), {key: value[:1] for key, value in expected.items()})


@pytest.mark.slow
def test_maps_of_a_tiny_network_in_pt2(vae: Callable[..., VAE], tmp_path: Path) -> None:
    """The fast one of those above."""
    model = vae("conv_group")
    before = {key: value.clone() for key, value in model.state_dict().items()}
    done = export_model(model.train(), tmp_path / "x.pt2", Request("attention", {"target": "kl"}), "pt2")
    entry = images_for("conv_group", 4)
    assert_same(run_file(done.path, entry), what_the_model_says(model, "attention", entry, target="kl"))
    assert model.training
    assert all(parameter.requires_grad for parameter in model.parameters())
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
    extra = {programs.METADATA: ""}
    torch.export.load(done.path, extra_files=extra)
    told = json.loads(extra[programs.METADATA])
    assert told == done.metadata
    assert (told["layer"], told["target"], told["batch_size"]) == ("encoder.conv2", "kl", "any")


OPTIONS: list[dict[str, Any]] = [
    {"method": "hires_cam", "target": "logvar", "rectify": "none"},
    {"method": "layer_cam", "target": "kl", "latents": [1, 0]},
    {"method": "xgrad_cam", "layer": "conv1", "size": "layer"},
    {"method": "grad_cam_plus_plus", "target": "total_kl"},
    {"target": "sum", "rectify": "abs", "layer": "relu1"},
    {"target": {"name": "sample", "n": 3}},
    {"target": "normal_difference"},
    {"target": "mahalanobis"},
    {"target": "neg_elbo", "rectify": "abs"},
]


@pytest.mark.slow
@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_attention_options(options: dict[str, Any], vae: Callable[..., VAE], tmp_path: Path) -> None:
    model = vae("conv_batch")
    model.calibration = fit_calibration(model, [images_for("conv_batch", 20, seed=9)])
    entry = images_for("conv_batch", 5)
    expected = what_the_model_says(model, "attention", entry, **options)
    for file_format in programs.FORMATS:
        done = export_model(model, tmp_path / f"x.{file_format}", Request("attention", options), file_format)
        assert_same(run_file(done.path, entry), expected)


@pytest.mark.slow
@pytest.mark.parametrize("score", ["reconstruction", "kl", "deviation", "mahalanobis"])
def test_scores_and_threshold(score: str, vae: Callable[..., VAE], tmp_path: Path) -> None:
    model = vae("conv_batch")
    model.calibration = fit_calibration(model, [images_for("conv_batch", 20, seed=9)])
    entry = images_for("conv_batch", 5)
    entry[0] *= 0.2
    expected = what_the_model_says(model, "score", entry, score=score)
    threshold = float(expected["score"].sort().values[1:3].mean())
    middles = torch.tensor([middle_of(each[0].numpy()) for each in expected["score_map"]])
    scene = float(middles.sort().values[-2:].mean())
    for file_format in programs.FORMATS:
        request = Request("score", score=score, threshold=threshold, scene=scene)
        done = export_model(model, tmp_path / f"x.{file_format}", request, file_format)
        found = run_file(done.path, entry)
        assert found.pop("anomalous").tolist() == ((expected["score"] > threshold) | (middles > scene)).tolist()
        # a deviation divides by the small spread of the normal maps, which magnifies the rounding of fp32
        assert_same(found, expected, 1e-4 if score == "deviation" else 1e-5)


@pytest.mark.parametrize("side", [(1, 1), (2, 2), (3, 3), (2, 5), (4, 6)])
def test_more_than_half_of_a_map_is_its_median(side: tuple[int, int]) -> None:
    """Ties and maps of an even number of pixels are counted as `vaex explain` counts."""
    maps = torch.randint(0, 4, (60, 1, *side), generator=torch.Generator().manual_seed(0)).float()
    for scene in (0.5, 1.0, 2.0, 3.0):
        request = Request("score", threshold=9.0, scene=scene)
        assert request.outputs[-1] == "anomalous"
        found = judged(request, maps, torch.zeros(60))[2]
        assert found.tolist() == [middle_of(each[0].numpy()) > scene for each in maps]
        assert judged(request, maps, torch.full((60,), 10.0))[2].all()


@pytest.mark.parametrize("size", [None, (20, 41)])
def test_pixels_are_prepared_inside(size: tuple[int, int] | None, vae: Callable[..., VAE], tmp_path: Path) -> None:
    model = vae("conv_batch")
    request = Request("encoder", pixels="uint8", image_size=size)
    done = export_model(model, tmp_path / "x.pt2", request, "pt2")
    pixels = np.random.default_rng(0).integers(0, 256, (3, *(size or (32, 32)), 3), dtype=np.uint8)
    images = torch.from_numpy(pixels.astype(np.float32) / 255).permute(0, 3, 1, 2)
    if size is not None:
        images = torch.nn.functional.interpolate(images, (32, 32), mode="bilinear")
    assert_same(run_file(done.path, torch.from_numpy(pixels)), what_the_model_says(model, "encoder", images))


def test_a_fixed_batch_is_said(vae: Callable[..., VAE], tmp_path: Path) -> None:
    model = vae("conv")
    done = export_model(model, tmp_path / "x.pt2", Request("attention"), "pt2", batch_size=2)
    assert done.batch == 2
    assert done.metadata["batch_size"] == "2"
    entry = images_for("conv", 2)
    assert_same(run_file(done.path, entry), what_the_model_says(model, "attention", entry))


@pytest.mark.slow
def test_onnx_runs_where_torch_cannot_be_imported(vae: Callable[..., VAE], tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime")
    model = vae("conv")
    entry = images_for("conv", 5)
    for batch in (None, 2):
        export_model(model, tmp_path / "maps.onnx", Request("attention"), batch_size=batch)
        np.save(tmp_path / "images.npy", entry.numpy())
        program = """
import sys
for name in ("torch", "vaex.networks", "vaex.attention"):
    sys.modules[name] = None  # so that importing it fails
import numpy as np, onnxruntime
from vaex.exporting.batches import run_batches
session = onnxruntime.InferenceSession("maps.onnx", providers=["CPUExecutionProvider"])
np.savez("out.npz", **run_batches(session, np.load("images.npy")))
print(session.get_modelmeta().custom_metadata_map["batch_size"])
"""
        root = str(Path(__file__).parents[2])
        done = subprocess.run(
            [sys.executable, "-c", program],
            cwd=tmp_path,
            env={"PYTHONPATH": root},
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        assert done.stdout.strip() == ("any" if batch is None else "2")
        maps = np.load(tmp_path / "out.npz")["maps"]
        np.testing.assert_allclose(maps, vaex.explain(model, entry).maps, rtol=0, atol=1e-5)


def test_one_pass_holds_all_targets_unless_something_bypasses_the_layer(vae: Callable[..., VAE]) -> None:
    plan = planned(vae("conv"), Request("attention"))
    assert plan is not None
    assert (plan.repeat, plan.targets, plan.layer) == (True, 3, "encoder.conv2")
    plan = planned(vae("resnet18"), Request("attention", {"layer": "layer4.1.second.0"}))
    assert plan is not None
    assert (plan.repeat, plan.targets) == (False, 2)
    assert planned(vae("conv"), Request("encoder")) is None


def test_what_cannot_be_exported_is_refused(vae: Callable[..., VAE], tmp_path: Path) -> None:
    model = vae("conv")
    path = tmp_path / "x.pt2"
    for request, told in (
        (Request("attention", {"method": "score_cam"}), "takes several passes"),
        (Request("attention", {"layer": ["conv1", "conv2"]}), "one layer"),
        (Request("attention", {"layer": "conv9"}), "Layer 'conv9' does not exist"),
        (Request("score", score="mahalanobis"), "calibrate"),
    ):
        with pytest.raises(VaexError, match=told):
            export_model(model, path, request, "pt2")
    with pytest.raises(VaexError, match="did you mean 'onnx'"):
        export_model(model, path, Request("encoder"), "onx")
    with pytest.raises(VaexError, match="batch_size"):
        export_model(model, path, Request("encoder"), "pt2", batch_size=0)
    with pytest.raises(VaexError, match="did you mean 'encoder'"):
        Request("encode")
    with pytest.raises(VaexError, match="image_size"):
        Request("encoder", image_size=(0, 3))
    with pytest.raises(VaexError, match="threshold"):
        Request("score", threshold="high")
    assert not list(tmp_path.iterdir())


def test_missing_packages_are_named(vae: Callable[..., VAE], monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(programs, "find_spec", lambda name: None)
    with pytest.raises(VaexError, match=r"needs onnx and onnxscript: .*'\.\[export\]'.*format=pt2"):
        export_model(vae("conv"), tmp_path / "x.onnx", Request("encoder"))


def test_a_file_that_differs_is_not_written(
    vae: Callable[..., VAE], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    saved = parts.eager_outputs
    monkeypatch.setattr(programs, "eager_outputs", lambda *args: tuple(part + 0.01 for part in saved(*args)))
    with pytest.raises(VaexError, match="would differ from the model"):
        export_model(vae("conv"), tmp_path / "x.pt2", Request("decoder"), "pt2")
    assert not list(tmp_path.iterdir())
