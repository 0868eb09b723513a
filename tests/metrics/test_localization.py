"""LocalizationMetrics against scikit-learn and a sweep over all thresholds, on cases that break others."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from sklearn.metrics import average_precision_score, roc_auc_score
from torch import Tensor

from vaex.errors import VaexError
from vaex.metrics import LocalizationMetrics, evidence

Oracle = Callable[..., dict[str, float]]
PIXEL = {"pixel_auroc", "pixel_ap", "aupro", "aupro_005", "aupimo", "best_iou", "f1_max", "f1_max_threshold"}
IMAGE = {"image_auroc", "image_ap"}


def _floats(values: dict[str, Tensor]) -> dict[str, float]:
    return {name: value.item() for name, value in values.items()}


def _measured(maps: Tensor, masks: Tensor, scores: Tensor | None = None, **options: Any) -> dict[str, float]:
    metric = LocalizationMetrics(**options)
    metric.update(maps, masks, scores)
    return _floats(metric.compute())


def _masks(generator: torch.Generator) -> Tensor:
    """(6, 1, 12, 9): touching corners, one pixel, the border, a ring with a dot; two normal images."""
    masks = torch.zeros(6, 1, 12, 9)
    masks[1, 0, 1:4, 1:4] = masks[1, 0, 4, 4] = masks[1, 0, 8, 2] = 1
    masks[2, 0, 5, 5] = 1
    masks[3, 0, :, 0] = masks[3, 0, 0] = masks[3, 0, 6:9, 4:9] = 1
    masks[4, 0, 2:9, 1:8] = 1
    masks[4, 0, 3:8, 2:7] = 0
    masks[4, 0, 5, 4] = 1
    return masks[torch.randperm(6, generator=generator)]


def _cases() -> dict[str, tuple[Tensor, Tensor]]:
    generator = torch.Generator().manual_seed(0)
    cases = {}

    def noise(masks: Tensor) -> Tensor:
        return torch.randn(masks.shape, generator=generator) + 1.5 * masks

    def add(name: str, change: Callable[[Tensor], Tensor]) -> None:
        masks = _masks(generator)
        cases[name] = (change(noise(masks)), masks)

    def with_outlier(z: Tensor) -> Tensor:
        z.view(-1)[17] = 3e38
        return z

    add("noise", lambda z: z)
    add("heavy tails", lambda z: (8 * z).exp())
    add("far offset", lambda z: 10 + 1e-3 * z)
    add("outlier", with_outlier)
    add("ties", lambda z: z.round())
    add("many ties and both zeros", lambda z: torch.where(z > 1.5, z.round(), z.sign() * 0.0))
    add("negative and tiny", lambda z: -1e-38 * z.exp())
    add("infinities", lambda z: torch.where(z > 2, torch.inf, torch.where(z < -1, -torch.inf, z)))
    add("constant", lambda z: torch.full_like(z, 0.3))
    add("inverted", lambda z: -z)
    masks = _masks(generator)
    cases["perfect"] = (masks * 2 - 7, masks)
    return cases


CASES = _cases()


@pytest.mark.parametrize("name", CASES)
def test_equals_scikit_learn_and_a_sweep_over_all_thresholds(
    name: str, oracle: Oracle, monkeypatch: pytest.MonkeyPatch
) -> None:
    maps, masks = CASES[name]
    assert (masks.flatten(1).sum(1) == 0).sum() == 2
    for bounds in ((1e-5, 1e-4), (0.02, 0.4)):  # 216 normal pixels do not reach the former
        monkeypatch.setattr(evidence, "PIMO_BOUNDS", bounds)
        for max_fpr in (0.3, 0.07, 1.0):
            expected = oracle(maps[:, 0].double().numpy(), masks[:, 0].numpy() > 0, max_fpr, bounds)
            found = _measured(maps, masks, max_fpr=max_fpr)
            assert set(found) == PIXEL | IMAGE
            assert {key: found[key] for key in expected} == pytest.approx(expected, abs=2e-6)
    labels, peaks = masks.amax((1, 2, 3)).numpy(), maps.amax((1, 2, 3)).double().clamp(-1e300, 1e300).numpy()
    assert found["image_auroc"] == pytest.approx(roc_auc_score(labels, peaks), abs=1e-6)
    assert found["image_ap"] == pytest.approx(average_precision_score(labels, peaks), abs=1e-6)


@settings(max_examples=40, deadline=None)
@given(
    maps=hnp.arrays(np.float32, (3, 4, 5), elements=st.floats(-3, 3, width=16) | st.sampled_from([-1.0, 0.0, 2.0])),
    masks=hnp.arrays(np.bool_, (3, 4, 5)),
)
def test_equals_the_sweep_on_anything(oracle: Oracle, maps: Any, masks: Any) -> None:
    found = _measured(torch.from_numpy(maps)[:, None], torch.from_numpy(masks)[:, None])
    if masks.any():
        expected = oracle(maps.astype(np.float64), masks)
        assert {key: found[key] for key in expected} == pytest.approx(expected, abs=2e-6)
    else:
        assert all(math.isnan(found[key]) for key in PIXEL)


GROUPS = ["bent", "good", "cut", "bent", "good", "cut"]


def _grouped(seed: int = 0) -> tuple[Tensor, Tensor, Tensor]:
    """Six images, of which those named good are normal, and other image scores than the maxima."""
    generator = torch.Generator().manual_seed(seed)
    masks = _masks(generator)
    masks = masks[masks.flatten(1).sum(1).argsort()][[2, 0, 3, 4, 1, 5]]
    maps = torch.randn(masks.shape, generator=generator) + masks
    return maps, masks, torch.tensor([0.2, -3.0, 0.1, 7.0, 0.1, 0.4])


def test_groups_are_measured_against_all_normal_images(oracle: Oracle, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(evidence, "PIMO_BOUNDS", (0.01, 0.5))
    maps, masks, scores = _grouped()
    metric = LocalizationMetrics()
    metric.update(maps, masks, scores, GROUPS)
    found = _floats(metric.compute())
    assert set(found) == {key + end for key in PIXEL | IMAGE for end in ("", "/bent", "/cut")}
    for end, names in (("", set(GROUPS)), ("/bent", {"bent", "good"}), ("/cut", {"cut", "good"})):
        own = [name in names for name in GROUPS]
        truth = masks[own, 0].numpy() > 0
        expected = oracle(maps[own, 0].double().numpy(), truth, bounds=(0.01, 0.5))
        expected["image_auroc"] = float(roc_auc_score(truth.any((1, 2)), scores[own]))
        expected["image_ap"] = float(average_precision_score(truth.any((1, 2)), scores[own]))
        assert {key: found[key + end] for key in expected} == pytest.approx(expected, abs=2e-6)


def test_batches_epochs_and_types_do_not_matter() -> None:
    maps, masks, scores = _grouped()
    maps = maps.half()
    whole, steps = LocalizationMetrics(), LocalizationMetrics()
    whole.update(maps.float(), masks.bool(), scores, GROUPS)
    for _ in range(2):
        for part in ([0, 3, 5], [], [1], [2, 4]):
            names = [GROUPS[b] for b in part]
            at_step = steps(maps[part].requires_grad_(), masks[part].long(), scores[part].double(), names)
        alone = LocalizationMetrics()
        alone.update(maps[part], masks[part], scores[part], names)
        assert _floats(at_step) == pytest.approx(_floats(alone.compute()), nan_ok=True)
        assert _floats(steps.compute()) == _floats(whole.compute())
        steps.reset()


def test_only_the_order_counts() -> None:
    maps, masks = CASES["noise"]
    reference = _measured(maps, masks)
    for scale in (1e-30, 1e6):
        found = _measured(maps * scale, masks)
        assert found.pop("f1_max_threshold") == pytest.approx(reference["f1_max_threshold"] * scale)
        assert found == {key: reference[key] for key in found}


def test_maps_of_different_sizes_pool_pixels_but_average_normal_images(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(evidence, "PIMO_BOUNDS", (0.1, 0.5))
    metric = LocalizationMetrics()
    small, large = torch.zeros(1, 1, 1, 2), torch.zeros(2, 1, 2, 1000)
    small[..., 0] = 2  # above the defects: half of its pixels, a sixth on the average of three normal images
    mask = torch.zeros(1, 1, 2, 1000)
    mask[..., 0] = 1
    metric.update(small, torch.zeros_like(small))
    metric.update(large, torch.zeros_like(large))
    metric.update(mask, mask)
    found = metric.compute()
    assert found["aupimo"].item() == pytest.approx(math.log(0.5 * 6) / math.log(5), abs=1e-6)
    assert found["pixel_auroc"].item() == pytest.approx(1 - 1 / 6000, abs=1e-7)


@pytest.mark.filterwarnings("ignore:The ``compute`` method")
def test_one_class_only() -> None:
    metric = LocalizationMetrics()
    found = _floats(metric.compute())
    assert set(found) == (PIXEL | IMAGE) - {"aupimo"}
    assert all(math.isnan(value) for value in found.values())
    maps = torch.rand(2, 1, 3, 3)
    found = _measured(maps, torch.zeros_like(maps))
    assert set(found) == PIXEL | IMAGE
    assert all(math.isnan(value) for value in found.values())
    found = _measured(maps, torch.ones_like(maps))  # no normal pixel
    assert found["best_iou"] == found["f1_max"] == 1
    assert found["f1_max_threshold"] == maps.min().item()
    assert {key for key, value in found.items() if math.isnan(value)} == IMAGE | {
        "pixel_auroc",
        "pixel_ap",
        "aupro",
        "aupro_005",
    }
    mask = torch.zeros_like(maps)
    mask[..., 0] = 1
    found = _measured(maps, mask)  # normal pixels, but no normal image
    assert "aupimo" not in found
    assert {key for key, value in found.items() if math.isnan(value)} == IMAGE


def test_constant_maps_earn_chance() -> None:
    maps, masks = CASES["constant"]
    found, base = _measured(maps, masks), masks.mean().item()
    assert found["pixel_auroc"] == found["image_auroc"] == 0.5
    assert found["pixel_ap"] == found["best_iou"] == pytest.approx(base)
    assert found["aupro"] == pytest.approx(0.15)
    assert found["f1_max"] == pytest.approx(2 * base / (1 + base))
    assert found["f1_max_threshold"] == pytest.approx(0.3)


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (lambda z: 10 + 1e-9 * z, True),
        (lambda z: 1e-60 * z, True),  # all of them 0
        (lambda z: 1 - 1e-12 * z.argsort().argsort().double(), True),
        (lambda z: (2**30 + 10 * z).long(), True),
        (lambda z: z, False),  # what float64 noise has beyond float32 decides nothing
        (lambda z: 1000 + z, False),
        (lambda z: (100 * z).long(), False),
        (lambda z: z.float(), False),
        (lambda z: torch.full_like(z, 0.1), False),
    ],
)
def test_maps_that_float32_cannot_tell_apart_are_told(change: Callable[[Tensor], Tensor], told: bool) -> None:
    """The scores of images are told apart all the same."""
    generator = torch.Generator().manual_seed(0)
    masks = torch.zeros(4, 1, 24, 24)
    masks[2:, :, 3:9, 3:9] = 1
    z = torch.randn(masks.shape, generator=generator, dtype=torch.float64).reshape(-1)
    maps = change(z).reshape(masks.shape)
    metric = LocalizationMetrics()
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        metric.update(maps, masks)
    sentences = [str(warning.message) for warning in seen if "float32 cannot tell apart" in str(warning.message)]
    assert len(sentences) == told
    assert all(text.startswith("The score map of image 0 has ") for text in sentences)
    found = _floats(metric.compute())
    truth, peaks = masks.flatten().numpy(), maps.double().amax((1, 2, 3)).numpy()
    assert found["image_auroc"] == pytest.approx(roc_auc_score([0, 0, 1, 1], peaks))
    if not told:
        assert found["pixel_auroc"] == pytest.approx(roc_auc_score(truth, maps.flatten().numpy()), abs=1e-4)


def test_bad_input_is_told_and_leaves_no_trace() -> None:
    maps, masks, scores = _grouped()
    metric = LocalizationMetrics()
    metric.update(maps[:4], masks[:4], scores[:4], GROUPS[:4])
    before = _floats(metric.compute())
    broken = maps.clone()
    broken[2, 0, 3, 3] = broken[5, 0, 0, 0] = torch.nan
    with pytest.raises(VaexError, match=r"score map of image 6 holds NaN \(number 2 of its batch, and 1 more"):
        metric.update(broken, masks)
    with pytest.raises(VaexError, match=r"score of image 5 holds NaN \(number 1 of its batch;"):
        metric.update(maps, masks, torch.where(torch.arange(6) == 1, torch.nan, scores))
    with pytest.raises(VaexError, match="mask of image 6 holds NaN"):
        metric.update(maps, torch.where(broken.isnan(), torch.nan, masks))
    with pytest.raises(VaexError, match=r"\(6, 1, 12, 9\) and that of the masks \(6, 1, 9, 12\)"):
        metric.update(maps, masks.mT)
    with pytest.raises(VaexError, match=r"\(B, 1, H, W\) with at least one pixel, got \(6, 12, 9\)"):
        metric.update(maps[:, 0], masks[:, 0])
    with pytest.raises(VaexError, match=r"at least one pixel, got \(2, 1, 0, 4\)"):
        metric.update(torch.zeros(2, 1, 0, 4), torch.zeros(2, 1, 0, 4))
    with pytest.raises(VaexError, match=r"Scores must be \(6,\), one per map, got \(6, 1\)"):
        metric.update(maps, masks, scores[:, None])
    with pytest.raises(VaexError, match="groups must be a list of 6 names"):
        metric.update(maps, masks, groups=["cut"])
    with pytest.raises(VaexError, match="groups must be a list of 6 names"):
        metric.update(maps, masks, groups="scrape")
    for groups, got in (([None] * 6, r"\[None"), (torch.arange(6), "a Tensor"), (6, "a int"), ([0] * 6, r"\[0, 0")):
        with pytest.raises(VaexError, match=f"groups must be a list of 6 names, one text per map .*, got {got}"):
            metric.update(maps, masks, groups=groups)  # type: ignore[arg-type]
    with pytest.raises(VaexError, match="score map of image 5 holds 4e\\+300, which float32 cannot hold"):
        metric.update(torch.where(torch.arange(6)[:, None, None, None] == 1, 4e300, maps.double()), masks)
    metric._computed = None
    assert _floats(metric.compute()) == before
    for options in ({"max_fpr": 0.0}, {"max_fpr": 1.5}, {"tolerance": 0.0}, {"exact_pixels": 0}):
        with pytest.raises(VaexError, match=next(iter(options))):
            LocalizationMetrics(**options)
