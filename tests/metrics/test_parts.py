"""Measures of images that come in tiles, against scikit-learn on maxima made by hand, alone and of two processes."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from sklearn.metrics import average_precision_score, roc_auc_score
from torch import Tensor

from tests.pairs import run_pair
from vaex.errors import VaexError
from vaex.metrics import DetectionMetrics, LocalizationMetrics
from vaex.metrics.parts import highest_of

WHOSE = torch.tensor([7, 7, 0, 3, 3, 3, 7, 9, 9, 2, 0, 5, 5, 11])
"""Of which image each of 14 tiles is: none in one piece, and numbers that leave some out."""
ANOMALOUS = {0: "cut", 4: "cut", 6: "bent", 7: "bent", 12: "rust"}
"""Tiles that show a defect: images 7 (both kinds), 3, 9 and 5; normal are 0, 2 and 11."""


class Tiles(NamedTuple):
    maps: Tensor  # (14, 1, 6, 5)
    masks: Tensor
    scores: Tensor
    groups: list[str]


def _tiles() -> Tiles:
    generator = torch.Generator().manual_seed(3)
    masks = torch.zeros(len(WHOSE), 1, 6, 5)
    masks[list(ANOMALOUS), 0, 2:4, 1:3] = 1
    maps = torch.randint(0, 9, masks.shape, generator=generator) + masks
    scores = torch.randint(0, 7, (len(WHOSE),), generator=generator).double()  # with ties
    return Tiles(maps, masks, scores, [ANOMALOUS.get(n, "good") for n in range(len(WHOSE))])


def _by_hand(kind: str | None = None, lost: tuple[int, ...] = ()) -> dict[str, float]:
    """Measures of whole images, of a kind beside the normal ones; ``lost`` tiles are anomalous and of no kind."""
    scores, labels = [], []
    tiles = _tiles()
    for image in sorted(set(WHOSE.tolist())):
        own = [n for n, other in enumerate(WHOSE.tolist()) if other == image]
        spoilt = [n for n in own if n in ANOMALOUS]
        if kind is None or not spoilt or any(ANOMALOUS[n] == kind and n not in lost for n in spoilt):
            scores.append(max(float(tiles.scores[n]) for n in own))
            labels.append(len(spoilt) > 0)
    end = f"/{kind}" if kind else ""
    found = {
        f"image_auroc{end}": roc_auc_score(labels, scores),
        f"image_ap{end}": average_precision_score(labels, scores),
    }
    return {name: float(value) for name, value in found.items()}


def _expected() -> dict[str, float]:
    return _by_hand() | _by_hand("cut") | _by_hand("bent") | _by_hand("rust")


def _localized(metric: LocalizationMetrics, chosen: list[int], whole: bool = True) -> None:
    tiles = _tiles()
    groups, images = [tiles.groups[n] for n in chosen], WHOSE[chosen] if whole else None
    metric.update(tiles.maps[chosen], tiles.masks[chosen], tiles.scores[chosen], groups, images)


def _detected(metric: DetectionMetrics, chosen: list[int], whole: bool = True) -> None:
    tiles = _tiles()
    labels = tiles.masks[chosen].flatten(1).any(1).long()
    metric.update({"kl": tiles.scores[chosen]}, labels, WHOSE[chosen] if whole else None)


def _images(values: dict[str, Tensor]) -> dict[str, float]:
    return {name: value.item() for name, value in values.items() if name.startswith("image_")}


@pytest.mark.parametrize("columns", [(), (3,)])
def test_the_highest_of_each_image(columns: tuple[int, ...]) -> None:
    values = torch.randn(len(WHOSE), *columns, generator=torch.Generator().manual_seed(0))
    values[3] = -torch.inf
    expected = [values[image == WHOSE].amax(0) for image in (0, 2, 3, 5, 7, 9, 11)]
    assert torch.equal(highest_of(values, WHOSE), torch.stack(expected))


@pytest.mark.parametrize("size", [14, 3, 1])
def test_image_measures_are_of_whole_images_and_pixels_of_tiles(size: int) -> None:
    one, other, plain = LocalizationMetrics(), DetectionMetrics(["kl"]), LocalizationMetrics()
    for start in range(0, len(WHOSE), size):
        chosen = list(range(len(WHOSE)))[start : start + size]
        _localized(one, chosen)
        _localized(plain, chosen, whole=False)
        _detected(other, chosen)
    found, tiles = one.compute(), plain.compute()
    assert set(found) == set(tiles)
    assert _images(found) == pytest.approx(_expected(), abs=1e-6)
    assert _images(found) != pytest.approx(_images(tiles), abs=1e-3)
    assert _images(other.compute()) == pytest.approx({f"{name}_kl": v for name, v in _by_hand().items()}, abs=1e-6)
    for name in set(found) - set(_images(found)):
        assert torch.equal(found[name], tiles[name]), name


def test_images_of_one_part_each_are_as_without() -> None:
    tiles, plain, numbered = _tiles(), LocalizationMetrics(), LocalizationMetrics()
    plain.update(*tiles)
    numbered.update(*tiles, images=torch.arange(14).flip(0))
    assert _images(numbered.compute()) == pytest.approx(_images(plain.compute()), abs=1e-9)


def test_an_image_of_a_part_without_marks_is_no_normal_one() -> None:
    """Tile 12, alone in showing that image 5 is anomalous, and tile 4, one of the parts of image 3."""
    metric, tiles, lost = LocalizationMetrics(), _tiles(), [4, 12]
    _localized(metric, [n for n in range(14) if n not in lost])
    metric.update_unmarked(tiles.scores[lost], WHOSE[lost])
    expected = _by_hand() | _by_hand("cut", (4, 12)) | _by_hand("bent", (4, 12))
    assert _images(metric.compute()) == pytest.approx(expected, abs=1e-6)
    assert "image_auroc/rust" not in expected


def test_parts_that_come_after_a_measure_count_in_the_next() -> None:
    """Also those of another metric, and where unmarked parts are all that came."""
    metric, other, tiles, lost = LocalizationMetrics(), LocalizationMetrics(), _tiles(), [4, 12]
    _localized(metric, list(range(4)))
    metric.compute()
    _localized(other, [n for n in range(4, 14) if n not in lost])
    metric.merge_state(other)
    metric.compute()
    metric.update_unmarked(tiles.scores[lost], WHOSE[lost])
    assert metric.compute()["image_auroc"].item() == pytest.approx(_by_hand()["image_auroc"], abs=1e-6)
    alone = LocalizationMetrics()
    alone.update_unmarked(tiles.scores[lost], WHOSE[lost])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert alone.compute()["image_auroc"].isnan()


def test_all_or_none_have_an_image() -> None:
    for update, made in ((_localized, LocalizationMetrics), (_detected, lambda: DetectionMetrics(["kl"]))):
        for first in (True, False):
            metric: Any = made()
            update(metric, [0, 1], whole=first)
            update(metric, [], whole=not first)
            before = metric.compute()
            counts = "2 of 3" if first else "1 of 3"
            with pytest.raises(
                VaexError, match=f"Of {counts} maps or scores .* give images in every update, or in none"
            ):
                update(metric, [2], whole=not first)
            assert str(metric.compute()) == str(before)
            other: Any = made()
            update(other, [2], whole=not first)
            other.merge_state(metric)
            with pytest.raises(VaexError, match=f"Of {counts} maps or scores"):
                other.compute()
    with pytest.raises(VaexError, match=r"images must be \(2,\) whole numbers, .* got \(2,\) of torch.float32"):
        DetectionMetrics(["kl"]).update({"kl": torch.rand(2)}, torch.tensor([0, 1]), torch.rand(2))


SHARES = [
    [list(range(0, 14, 2)), list(range(1, 14, 2))],
    [[], list(range(14))],
    [[12, 4, 6], [0, 1, 2, 3, 5, 7, 8, 9, 10, 11, 13]],
]
"""Tiles of each of two processes: in turn, as the sampler deals them; none of them; and kinds of one alone."""


def _one_process(rank: int, folder: str) -> None:
    found = []
    for shares in SHARES:
        one, other = LocalizationMetrics(), DetectionMetrics(["kl"]).to("cpu")
        for n in shares[rank]:
            _localized(one, [n])
            _detected(other, [n])
        found.append((_images(one.compute()), _images(other.compute())))
        assert sum(map(len, one.image_numbers)) == sum(map(len, other.images)) == len(shares[rank])
    torch.save(found, Path(folder) / f"{rank}.pt")


@pytest.mark.filterwarnings("ignore:The ``compute`` method")
def test_two_processes_share_images(tmp_path: Path) -> None:
    run_pair(_one_process, str(tmp_path))
    for rank in range(2):
        for localized, detected in torch.load(tmp_path / f"{rank}.pt"):
            assert localized == pytest.approx(_expected(), abs=1e-6)
            assert detected == pytest.approx({f"{name}_kl": v for name, v in _by_hand().items()}, abs=1e-6)


@pytest.mark.parametrize("shares", SHARES)
def test_merged_states_share_images(shares: list[list[int]]) -> None:
    parts = [(LocalizationMetrics(exact_pixels=60), DetectionMetrics(["kl"])) for _ in shares]
    for (one, other), chosen in zip(parts, shares, strict=True):
        for n in chosen:
            _localized(one, [n])
            _detected(other, [n])
    parts[1][0].merge_state(parts[0][0])
    parts[1][1].merge_state(parts[0][1])
    assert _images(parts[1][0].compute()) == pytest.approx(_expected(), abs=1e-6)
    assert _images(parts[1][1].compute()) == pytest.approx({f"{n}_kl": v for n, v in _by_hand().items()}, abs=1e-6)


def test_many_random_images() -> None:
    """Also as forward() gives them, which measures a batch and keeps the total."""
    generator = np.random.default_rng(0)
    metric, every = DetectionMetrics(["kl"]), []
    for _ in range(5):
        whose, labels = generator.integers(0, 60, 50), generator.random(50) > 0.95
        scores = generator.normal(size=50) + labels
        every.append((whose, labels, scores))
        batch = metric({"kl": torch.from_numpy(scores)}, torch.from_numpy(labels).long(), torch.from_numpy(whose))
        assert 0 <= float(batch["image_auroc_kl"]) <= 1 or not labels.any()
    whose, labels, scores = (np.concatenate(part) for part in zip(*every, strict=True))
    images = np.unique(whose)
    highest = [scores[whose == image].max() for image in images]
    expected = roc_auc_score([labels[whose == image].any() for image in images], highest)
    assert metric.compute()["image_auroc_kl"].item() == pytest.approx(expected, abs=1e-6)
