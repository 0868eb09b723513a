"""Calibration against numpy and torch on all images at once, its file, and whose images are normal."""

from __future__ import annotations

import os
import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import vaex
from vaex.attention import latent_attention
from vaex.attention.normal import normal_codes
from vaex.build import build_model
from vaex.calibrate import Moments, calibrated_copy, codes_of, fit_calibration, merged, moments_of, store_calibration
from vaex.data import Sprites
from vaex.data.normal import NormalImages
from vaex.errors import VaexError
from vaex.networks import VAE

NETWORK: dict[str, Any] = {"name": "conv", "shape": [1, 32, 32], "latents": 3, "width": 4, "depth": 3, "hidden": 8}


@pytest.fixture
def model() -> VAE:
    torch.manual_seed(1)
    return build_model(NETWORK).eval()


@pytest.fixture
def x() -> Tensor:
    return torch.rand(11, 1, 32, 32, generator=torch.Generator().manual_seed(0))


def all_at_once(values: list[Tensor]) -> Moments:
    moments: Moments | None = None
    for part in values:
        moments = merged(moments, moments_of(part, cross=True))
    assert moments is not None
    return moments


@pytest.mark.parametrize("offset", [0.0, 1e6])
def test_merged_moments_are_those_of_all_values(offset: float) -> None:
    """Far from zero, where sums of squares would have lost all digits of the covariance."""
    values = torch.randn(40, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0)) + offset
    expected = np.cov(values.numpy().T - offset)
    for sizes in ([40], [1] * 40, [13, 1, 26]):
        found = all_at_once(list(values.split(sizes)))
        assert found.number == 40
        np.testing.assert_allclose(found.mean, values.numpy().mean(0), rtol=1e-12, atol=1e-12)
        np.testing.assert_allclose(found.scatter / 39, expected, rtol=1e-6, atol=1e-8)


def test_moments_of_maps_are_elementwise() -> None:
    values = torch.randn(9, 2, 3, 4, generator=torch.Generator().manual_seed(0))
    found = merged(moments_of(values[:2]), moments_of(values[2:]))
    np.testing.assert_allclose(found.mean, values.double().numpy().mean(0), rtol=1e-10)
    np.testing.assert_allclose(found.scatter / 8, values.double().numpy().var(0, ddof=1), rtol=1e-10)


@pytest.mark.parametrize("size", [1, 4, 11])
def test_codes_and_maps_of_normal_images(size: int, model: VAE, x: Tensor) -> None:
    found = fit_calibration(model, x.split(size), "conv2", target="kl")
    with torch.no_grad():
        posterior = model.encode(x)
    maps = latent_attention(model, x, "conv2", target="kl", size="layer")
    torch.testing.assert_close(found["codes"]["mean"], posterior.mean.mean(0))
    torch.testing.assert_close(found["codes"]["covariance"], torch.cov(posterior.mean.T))
    torch.testing.assert_close(found["codes"]["variance"], posterior.logvar.exp().mean(0))
    torch.testing.assert_close(found["maps"]["mean"], maps.mean(0))
    torch.testing.assert_close(found["maps"]["deviation"], maps.std(0), rtol=1e-4, atol=1e-9)
    assert found["count"] == 11
    attention = found["attention"]
    assert (attention["layer"], attention["target"], attention["method"]) == ("conv2", "kl", "grad_cam")
    assert (attention["rectify"], attention["reduce"], attention["latents"]) == ("relu", "sum", None)
    for part in (*found["codes"].values(), *found["maps"].values()):
        assert part.dtype == torch.float32


class Grid(nn.Module):
    """A latent grid of two channels, by convolutions alone."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.features = nn.Conv2d(1, 4, 3, 4, 1)
        self.heads = nn.Conv2d(4, 4, 3, 2, 1)

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        mean, logvar = self.heads(self.features(images).relu()).chunk(2, 1)
        return mean, logvar


def test_latent_grids_are_reduced_as_targets_are(x: Tensor) -> None:
    grid = Grid()
    with torch.no_grad():
        mean, logvar = grid(x)
    for reduce in ("sum", "max", (1, 2)):
        values, variances = codes_of(grid, x, reduce)
        for b in range(len(x)):
            for d in range(2):
                cells = [(float(mean[b, d, i, j]), float(logvar[b, d, i, j].exp())) for i in range(4) for j in range(4)]
                total = sum(m for m, _ in cells), sum(v for _, v in cells)
                expected = {"sum": total, "max": max(cells), (1, 2): cells[6]}[reduce]
                assert float(values[b, d]) == pytest.approx(expected[0], rel=1e-4, abs=1e-5)
                assert float(variances[b, d]) == pytest.approx(expected[1], rel=1e-4)
    found = fit_calibration(grid, [x], "features", reduce="max")
    torch.testing.assert_close(found["codes"]["covariance"], torch.cov(mean.amax((2, 3)).T))


def test_a_model_without_logvar_has_no_variance(x: Tensor) -> None:
    encoder = nn.Sequential(nn.Conv2d(1, 2, 3, 2), nn.ReLU(), nn.Flatten(), nn.Linear(450, 4))
    assert fit_calibration(encoder, [x], "0")["codes"]["variance"].tolist() == [0.0] * 4


def test_a_target_that_needs_codes_takes_them_from_the_same_images(model: VAE, x: Tensor) -> None:
    found = fit_calibration(model, x.split(4), "conv2", target="mahalanobis")
    assert model.calibration == {}
    model.calibration = fit_calibration(model, [x], "conv2")
    maps = latent_attention(model, x, "conv2", target="mahalanobis", size="layer")
    torch.testing.assert_close(found["maps"]["mean"], maps.mean(0), rtol=1e-3, atol=1e-6)
    with pytest.raises(VaexError, match="takes two passes over the normal images; give a list"):
        fit_calibration(model, iter([x]), "conv2", target="mahalanobis")


def test_nothing_of_model_and_random_stream_is_changed(model: VAE, x: Tensor) -> None:
    model.train()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    state = torch.get_rng_state()
    fit_calibration(model, [x])
    assert torch.equal(state, torch.get_rng_state())
    assert model.training
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_what_cannot_be_calibrated_is_told(model: VAE, x: Tensor) -> None:
    for few in ([], [x[:1]]):
        with pytest.raises(VaexError, match=f"at least 2 normal images, got {len(few)}"):
            fit_calibration(model, few)
    with pytest.raises(VaexError, match="not finite"):
        fit_calibration(model, [x, x.clone().fill_(float("nan"))])
    with pytest.raises(VaexError, match="target must be a name"):
        fit_calibration(model, [x], target=lambda output: output.mean)
    with pytest.raises(VaexError, match="Unknown attention target"):
        fit_calibration(model, [x], target="kll")


# --- whose images


def sprites() -> Sprites:
    grid = {"shape": 2, "scale": 1, "orientation": 1, "x": 5, "y": 5}
    data = Sprites(size=32, grid=grid, val=8, test=8, batch_size=8)
    data.setup("fit")
    return data  # 34 training images


class Labelled:
    """Image i is filled with i / 100; every third is anomalous."""

    def __len__(self) -> int:
        return 20

    def __getitem__(self, index: int) -> dict[str, Any]:
        return {"image": torch.full((1, 2, 2), index / 100), "label": int(index % 3 == 0)}


def numbers(images: NormalImages) -> list[int]:
    return [round(float(image[0, 0, 0]) * 100) for batch in images for image in batch]


def test_all_training_images_come_once_in_order_and_leave_the_random_stream_alone() -> None:
    data = sprites()
    state, loader = torch.get_rng_state(), random.getstate()
    found = torch.cat(list(NormalImages(data, batch_size=7)))
    assert torch.equal(found, data.train_set.__getitems__(list(range(34)))["image"])
    assert torch.equal(state, torch.get_rng_state())
    assert loader == random.getstate()
    assert data.state_dict() == {}  # the position in training is not touched


def test_a_sample_is_the_same_whatever_the_batches() -> None:
    data = sprites()
    one = torch.cat(list(NormalImages(data, 10, batch_size=3)))
    other = torch.cat(list(NormalImages(data, 10, batch_size=34)))
    assert torch.equal(one, other)
    assert len(one) == 10
    assert len(torch.unique(one, dim=0)) == 10
    assert len(NormalImages(data, 10, batch_size=3)) == 4


@pytest.mark.parametrize("most", [None, 5, 13, 100])
def test_labels_say_what_is_normal(most: int | None) -> None:
    data = sprites()
    data.train_set = Labelled()  # type: ignore[assignment]
    normal = [index for index in range(20) if index % 3]
    found = numbers(NormalImages(data, most, batch_size=4))
    assert len(found) == min(most or 13, 13)
    assert set(found) <= set(normal)
    assert len(set(found)) == len(found)
    if most in (None, 100):
        assert found == normal


# --- where it is kept


@pytest.fixture
def checkpoint(tmp_path: Path, model: VAE) -> Path:
    file = tmp_path / "best.ckpt"
    optimiser = torch.optim.Adam(model.parameters())
    model.encode(torch.rand(2, 1, 32, 32)).mean.sum().backward()
    optimiser.step()
    content = {
        "state_dict": {f"vae.{name}": value for name, value in model.state_dict().items()},
        "hyper_parameters": {"network": NETWORK, "run": {"data": {"size": 32}}},
        "optimizer_states": [optimiser.state_dict()],
        "global_step": 17,
    }
    torch.save(content, file)
    return file


def same(a: Any, b: Any) -> bool:
    if isinstance(a, Tensor):
        return isinstance(b, Tensor) and a.dtype == b.dtype and torch.equal(a, b)
    if isinstance(a, dict):
        return isinstance(b, dict) and list(a) == list(b) and all(same(a[key], b[key]) for key in a)
    if isinstance(a, list | tuple):
        return type(a) is type(b) and len(a) == len(b) and all(map(same, a, b))
    return type(a) is type(b) and bool(a == b)


def test_the_file_keeps_all_else_and_its_time(checkpoint: Path, model: VAE, x: Tensor) -> None:
    os.utime(checkpoint, (1_000_000_000, 1_000_000_000))
    before = torch.load(checkpoint, weights_only=True)
    calibration = fit_calibration(model, [x], reduce=(0, 1), target={"name": "sample", "n": 2})
    assert store_calibration(checkpoint, calibration) == checkpoint
    after = torch.load(checkpoint, weights_only=True)
    assert same(after.pop("calibration"), calibration)
    assert same(after, before)
    assert checkpoint.stat().st_mtime == 1_000_000_000  # by which the best checkpoint of a run is found
    assert [path.name for path in checkpoint.parent.iterdir()] == ["best.ckpt"]
    loaded = vaex.load(checkpoint)
    assert torch.equal(normal_codes(loaded.calibration).covariance, calibration["codes"]["covariance"])
    store_calibration(checkpoint, fit_calibration(model, [x[:5]]))  # again, with other images
    assert vaex.load(checkpoint).calibration["count"] == 5


def test_the_state_of_the_optimisers_may_be_left_out(checkpoint: Path, model: VAE, x: Tensor) -> None:
    before = torch.load(checkpoint, weights_only=True)
    store_calibration(checkpoint, fit_calibration(model, [x]), resumable=False)
    after = torch.load(checkpoint, weights_only=True)
    assert set(before) - set(after) == {"optimizer_states"}
    assert same(after["state_dict"], before["state_dict"])


@pytest.mark.parametrize("error", [KeyboardInterrupt, OSError("disk full")])
def test_an_interrupted_write_leaves_the_old_file(
    error: Any, checkpoint: Path, model: VAE, x: Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    before, write = checkpoint.read_bytes(), Path.write_bytes

    def stop(path: Path, content: bytes) -> int:
        write(path, content[: len(content) // 2])
        raise error

    monkeypatch.setattr(Path, "write_bytes", stop)
    with pytest.raises((KeyboardInterrupt, VaexError)):
        store_calibration(checkpoint, fit_calibration(model, [x]))
    assert checkpoint.read_bytes() == before
    assert [path.name for path in checkpoint.parent.iterdir()] == ["best.ckpt"]


def test_a_copy_leaves_the_checkpoint_alone(checkpoint: Path, model: VAE, x: Tensor, tmp_path: Path) -> None:
    before, out = checkpoint.read_bytes(), tmp_path / "new" / "copy.ckpt"
    assert store_calibration(checkpoint, fit_calibration(model, [x]), out) == out
    assert checkpoint.read_bytes() == before
    assert vaex.load(out).calibration["count"] == 11
    with pytest.raises(VaexError, match="is a folder; name the checkpoint file"):
        calibrated_copy(checkpoint, tmp_path)


def test_shipped_checkpoints_are_never_rewritten(tmp_path: Path) -> None:
    shipped = Path(vaex.__file__).parent / "checkpoints" / "sprites.ckpt"
    (tmp_path / "link.ckpt").symlink_to(shipped)
    for ckpt, out in (
        ("sprites", None),
        (str(shipped), None),
        ("sprites", shipped),
        (str(tmp_path / "link.ckpt"), None),
    ):
        with pytest.raises(VaexError, match=r"ships with vaex and is not rewritten; .* out=FILE\.ckpt"):
            calibrated_copy(ckpt, out)
    assert calibrated_copy("sprites", tmp_path / "a.ckpt") == tmp_path / "a.ckpt"
