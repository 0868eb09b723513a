"""What a test keeps for the report: the extremes, at a small size, exactly those images, whatever the batches."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from vaex.callbacks.kept import EXTREMES, KeptTest
from vaex.callbacks.kept_arrays import MAP_SIDE, to_bytes
from vaex.callbacks.kept_methods import Normal, normal_of
from vaex.errors import VaexError
from vaex.scores import Scored, score_named
from vaex.types import Explanation

COUNT = 60


def kept(folder: Path, batch: int, latents: list[int] | None = None) -> dict[str, Any]:
    generator = torch.Generator().manual_seed(0)
    images = torch.rand(COUNT, 1, 96, 80, generator=generator)
    maps = torch.rand(COUNT, 3, 96, 80, generator=generator) * torch.tensor([1.0, 5.0, 2.0])[:, None, None]
    score_map = torch.rand(COUNT, 1, 96, 80, generator=generator)
    score, kl = torch.randperm(COUNT, generator=generator).float(), torch.zeros(COUNT, 12)
    kl[:, [0, 1, 2, 4, 7, 9]] = torch.tensor([0.1, 3, 0.5, 0.1, 3, 0.5])
    masks = torch.zeros(COUNT, 1, 96, 80)
    masks[::2, :, 10:12, 10:12] = 1
    labels = torch.arange(COUNT) % 2 == 0
    test = KeptTest("own", {"method": "grad_cam", "latents": latents}, names=["a", "b"])
    for start in range(0, COUNT, batch):
        part = slice(start, start + batch)
        explanation = Explanation(maps[part], score_map[part], score[part], kl[part], kl[part], kl[part], None)
        scored = {"other": Scored(2 * score_map[part], 2 * score[part])}
        test.update(images[part], explanation, scored, labels[part].long(), masks[part], labels[part].long())
    test.write(folder / "kept.npz")
    with np.load(folder / "kept.npz") as arrays:
        found = {name: arrays[name] for name in arrays.files}
    return {
        "about": json.loads(str(found.pop("about"))),
        "true_score": score,
        "true_maps": maps,
        "images": images,
        **found,
    }


def test_keeps_the_images_of_highest_and_lowest_score(tmp_path: Path) -> None:
    found = kept(tmp_path, 7)
    numbers, score = found["about"]["gallery"], found["true_score"].numpy()
    wanted: set[int] = set()
    for side in (np.arange(COUNT), np.arange(0, COUNT, 2), np.arange(1, COUNT, 2)):
        ordered = side[np.argsort(score[side])]
        wanted |= {*ordered[:EXTREMES].tolist(), *ordered[-EXTREMES:].tolist()}
    assert numbers == sorted(wanted)
    for position, number in enumerate(numbers):
        expected = np.round(255 * found["images"][number, 0].numpy())
        assert (found["image"][position][..., 1] == expected).all()


def test_batches_make_no_difference(tmp_path: Path) -> None:
    one, other = kept(tmp_path, COUNT), kept(tmp_path, 11)
    assert one["about"] == other["about"]
    for name, value in one.items():
        if isinstance(value, np.ndarray):
            np.testing.assert_array_equal(value, other[name])


def test_latents_come_by_divergence_under_their_own_names(tmp_path: Path) -> None:
    found = kept(tmp_path, 16, latents=[4, 7, 9])
    assert [name for name in found["about"]["maps"] if name.startswith("latent")] == [
        "latent:7",
        "latent:9",
        "latent:4",
    ]
    low, high = found["about"]["ranges"]["latent:7"]
    values = low + found["latent:7"].astype(float) / 255 * (high - low)
    number = found["about"]["gallery"][0]
    exact = torch.nn.functional.adaptive_avg_pool2d(found["true_maps"][number, 1][None], MAP_SIDE)[0].numpy()
    assert np.abs(values[0] - exact).max() < (high - low) / 255 + 0.005  # half floats in between


def test_a_defect_smaller_than_a_cell_stays(tmp_path: Path) -> None:
    found = kept(tmp_path, 16)
    assert found["curve_masks"].shape == (COUNT, MAP_SIDE, MAP_SIDE)
    assert found["curve_masks"][::2].any(axis=(1, 2)).all()
    assert not found["curve_masks"][1::2].any()


def test_every_image_has_its_row(tmp_path: Path) -> None:
    rows = kept(tmp_path, 16)["about"]["rows"]
    assert len(rows) == COUNT
    assert rows[2]["kind"] == "b"
    assert rows[3]["label"] == 0
    assert rows[5]["scores"]["other"] == 2 * rows[5]["score"]


@pytest.mark.parametrize(
    ("values", "ends"), [([1.0, 3.0], (0, 3)), ([-1.0, 3.0], (-3, 3)), ([-4.0, -2.0], (-4, -2)), ([0.0, 0.0], (0, 1))]
)
def test_bytes_have_an_end_that_means_something(values: list[float], ends: tuple[float, float]) -> None:
    scaled, found = to_bytes(np.array(values))
    assert tuple(found) == ends
    np.testing.assert_allclose(ends[0] + scaled / 255 * (ends[1] - ends[0]), values, atol=(ends[1] - ends[0]) / 510)


def test_nothing_is_written_of_an_empty_test(tmp_path: Path) -> None:
    KeptTest("own").write(tmp_path / "kept.npz")
    assert not list(tmp_path.iterdir())


def other_methods(folder: Path, draw: Any, target: str = "mean") -> dict[str, Any]:
    test = KeptTest(
        "own", {"target": target}, methods=["grad_cam", "hires_cam", {"name": "score_cam", "baseline": "blurred"}]
    )
    images = torch.rand(20, 1, 16, 16, generator=torch.Generator().manual_seed(0))
    maps, kl = images.expand(20, 3, 16, 16), torch.tensor([[1.0, 3.0, 2.0]]).expand(20, 3)
    for start in (0, 13):
        part = slice(start, start + 13)
        score, own = images[part].amax((1, 2, 3)), maps[part] if target == "mean" else maps[part][:, :1]
        explanation = Explanation(own, images[part], score, kl[part], kl[part], kl[part], None)
        test.update(images[part], explanation, {}, None, None, None)
    test.write(folder / "kept.npz", draw, Normal([0.5], [0.75]))
    with np.load(folder / "kept.npz") as arrays:
        return {"images": images, **{name: arrays[name] for name in arrays.files}}


def test_further_methods_are_drawn_of_the_gallery_alone(tmp_path: Path) -> None:
    asked: list[tuple[Any, Any, int]] = []

    def draw(method: Any, images: torch.Tensor, latents: Any) -> torch.Tensor:
        asked.append((method, latents, len(images)))
        if method != "hires_cam":
            raise VaexError("not of this model")
        return torch.cat([images * (1 + latent) for latent in latents], 1)

    with pytest.warns(UserWarning, match=r"no maps of method=score_cam \(baseline=blurred\): not of this model"):
        found = other_methods(tmp_path, draw)
    about = json.loads(str(found["about"]))
    assert about["methods"] == ["grad_cam", "hires_cam"]
    assert [name for name in about["maps"] if "@" in name] == ["latent:1@1", "latent:2@1", "latent:0@1"]
    assert sum(count for method, _, count in asked if method == "hires_cam") == len(about["gallery"]) == 16
    assert {tuple(latents) for _, latents, _ in asked} == {(1, 2, 0)}  # by divergence
    low, high = about["ranges"]["latent:2@1"]
    exact = 3 * found["images"][about["gallery"], 0].numpy()
    assert np.abs(low + found["latent:2@1"] / 255 * (high - low) - exact).max() <= high / 510 + 1e-6
    assert about["normal"] == {"scores": [0.5], "pixels": [0.75], "reason": "", "tiles": False}


def test_maps_of_no_single_latent_are_not_called_by_one(tmp_path: Path) -> None:
    about = json.loads(str(other_methods(tmp_path, None, "total_kl")["about"]))
    assert about["maps"] == ["score", "total:0"]


def test_a_wrong_method_is_told_at_once() -> None:
    with pytest.raises(VaexError, match="hires_cam"):
        KeptTest("own", methods=["hirescam"])


def test_without_calibration_the_reason_is_kept() -> None:
    found = normal_of(torch.nn.Identity(), score_named("attention"), None, {})
    assert not found.scores
    assert "keeps no scores of held-out normal images" in found.reason
