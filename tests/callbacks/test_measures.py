"""Measures of several scores over a test, against scikit-learn."""

from __future__ import annotations

import pytest
import torch
from sklearn.metrics import average_precision_score, roc_auc_score
from torch import Tensor
from torch.nn import functional as F

from vaex.callbacks.measures import ScoreMeasures, named_apart
from vaex.errors import VaexError
from vaex.scores import Scored


def draw(*shape: int, seed: int = 0) -> Tensor:
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("resolution", [None, 4])
def test_pixels_and_images_are_measured_for_each_score(resolution: int | None) -> None:
    scores = named_apart(["attention", "kl", {"name": "reconstruction", "label": "error"}])
    measures = ScoreMeasures(scores, resolution, "cpu")
    maps, numbers = draw(6, 1, 8, 8, seed=1), draw(6, seed=2)
    masks = (draw(6, 1, 8, 8, seed=3) > 0.5).float()
    masks[:2] = 0
    labels, kinds = torch.tensor([0, 0, 1, 1, 1, 1]), torch.tensor([0, 0, 1, 1, 2, 2])
    for part in (slice(0, 4), slice(4, 6)):
        scored = {name: Scored(maps[part], numbers[part]) for name in scores}
        measures.update(scored, labels[part], masks[part], kinds[part], ("good", "cut", "spot"))
    found = measures.compute()
    if resolution:
        maps = F.interpolate(maps, size=(4, 4), mode="bilinear")
        masks = (F.avg_pool2d(masks, 2) > 0.5).float()
        assert masks[2:].flatten(1).any(1).all()
    for name in ("attention", "error"):
        expected = roc_auc_score(masks.flatten(), maps.flatten())
        assert float(found[f"pixel_auroc_{name}"]) == pytest.approx(expected)
        of_cuts = [0, 1, 2, 3]
        expected = roc_auc_score(masks[of_cuts].flatten(), maps[of_cuts].flatten())
        assert float(found[f"pixel_auroc_{name}/cut"]) == pytest.approx(expected)
        assert float(found[f"image_auroc_{name}"]) == pytest.approx(roc_auc_score(labels, numbers))
        assert float(found[f"image_ap_{name}"]) == pytest.approx(average_precision_score(labels, numbers))
    assert "pixel_auroc_kl" not in found  # its map is that of the attention
    assert "image_auroc_kl" in found


def test_a_defect_that_would_vanish_keeps_the_cells_it_covers_most() -> None:
    measures = ScoreMeasures(named_apart(["attention"]), 4, "cpu")
    masks = torch.zeros(2, 1, 8, 8)
    masks[1, 0, 2, 2] = 1  # a quarter of the cell (1, 1)
    maps = torch.zeros(2, 1, 8, 8)
    maps[1, 0, 2:4, 2:4] = 1
    measures.update({"attention": Scored(maps, maps.amax((1, 2, 3)))}, torch.tensor([0, 1]), masks)
    assert float(measures.compute()["best_iou_attention"]) == 1.0


def test_an_anomalous_image_without_a_marked_pixel_counts_as_an_image_alone() -> None:
    """It is no normal image: neither its pixels nor its number stand among those of normal ones."""
    measures, judged = (ScoreMeasures(named_apart(["attention"]), None, "cpu") for _ in range(2))
    maps, labels = draw(6, 1, 8, 8), torch.tensor([0, 0, 1, 1, 1, 1])
    masks = (draw(6, 1, 8, 8) > 0.7).float() * (labels > 0)[:, None, None, None]
    masks[3] = 0
    kinds, names = torch.tensor([0, 0, 1, 1, 2, 2]), ["good", "cut", "hole"]
    scored = Scored(maps, maps.amax((1, 2, 3)))
    measures.update({"attention": scored}, labels, masks, kinds, names)
    kept = [0, 1, 2, 4, 5]
    judged.update({"attention": Scored(maps[kept], scored.score[kept])}, labels[kept], masks[kept], kinds[kept], names)
    found, expected = measures.compute(), judged.compute()
    images = {"image_auroc_attention", "image_ap_attention"}
    assert set(found) == set(expected)
    for name in set(found) - images:
        assert float(found[name]) == pytest.approx(float(expected[name]), nan_ok=True), name
    assert float(found["image_auroc_attention"]) == pytest.approx(roc_auc_score(labels, scored.score))
    alone = ScoreMeasures(named_apart(["attention"]), None, "cpu")
    alone.update({"attention": Scored(maps[3:4], scored.score[3:4])}, labels[3:4], masks[3:4], kinds[3:4], names)
    assert set(alone.compute()) == images


@pytest.mark.parametrize("lost", [[], [2, 5]])
def test_of_tiles_images_are_measured_whole(lost: list[int]) -> None:
    """Of ``lost`` tiles the mask is empty: one is all that shows its image's defect, the other is not."""
    measures, name = ScoreMeasures(named_apart(["attention"]), None, "cpu"), "attention"
    whose = torch.tensor([0, 0, 1, 1, 2, 2, 2, 3, 3, 4, 4])
    labels = torch.tensor([0, 0, 1, 0, 0, 1, 1, 0, 0, 0, 1])
    kinds = labels * torch.tensor([0, 0, 1, 0, 0, 1, 1, 0, 0, 0, 2])
    maps = draw(11, 1, 4, 4)
    masks = (draw(11, 1, 4, 4, seed=1) > 0.5).float() * labels[:, None, None, None]
    masks[lost] = 0
    scores = torch.tensor([3.0, 1, 2, 1, 0, 1, 5, 4, 0, 2, 3])
    for part in ([2, 9], [10, 7, 0], [5], [1, 3, 4, 6, 8]):
        given = labels[part], masks[part], kinds[part], ("good", "cut", "spot"), whose[part]
        measures.update({name: Scored(maps[part], scores[part])}, *given)
    found = measures.compute()
    highest, spoilt = torch.tensor([3.0, 2, 5, 4, 3]), torch.tensor([0, 1, 1, 0, 1])
    assert float(found[f"image_auroc_{name}"]) == pytest.approx(roc_auc_score(spoilt, highest))
    assert float(found[f"image_ap_{name}"]) == pytest.approx(average_precision_score(spoilt, highest))
    for kind, chosen in {"cut": [0, 2, 3] if lost else [0, 1, 2, 3], "spot": [0, 3, 4]}.items():
        expected = roc_auc_score(spoilt[chosen], highest[chosen])
        assert float(found[f"image_auroc_{name}/{kind}"]) == pytest.approx(expected)
    pixels = [n for n in range(11) if n not in lost]
    expected = roc_auc_score(masks[pixels].flatten(), maps[pixels].flatten())
    assert float(found[f"pixel_auroc_{name}"]) == pytest.approx(expected)


def test_without_masks_only_images_are_measured() -> None:
    measures = ScoreMeasures(named_apart(["attention"]), None, "cpu")
    measures.update({"attention": Scored(draw(3, 1, 4, 4), draw(3))}, torch.tensor([0, 1, 0]))
    assert set(measures.compute()) == {"image_auroc_attention", "image_ap_attention"}


def test_two_scores_of_one_name_are_told() -> None:
    with pytest.raises(VaexError, match="told apart by name, got mean_map, mean_map; give one of them another label"):
        named_apart([{"name": "mean_map", "of": "attention"}, {"name": "mean_map", "of": "padim"}])
