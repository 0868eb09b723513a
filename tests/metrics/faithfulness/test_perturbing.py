"""Infidelity against captum, sensitivity-n against scipy, both against a network that adds pixels up."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from scipy import stats
from torch import Tensor

from vaex.errors import VaexError
from vaex.metrics.faithfulness import Trials, infidelity, removal_changes, sensitivity_n, square_masks, subset_masks
from vaex.metrics.faithfulness.perturbing import mask_sums


def trials_of(weighing: Any, images: Tensor, masks: Tensor) -> Trials:
    return Trials(masks, removal_changes(weighing, images, torch.zeros_like(images), masks, 2))


def test_squares_lie_inside_and_everywhere() -> None:
    masks = square_masks(200, 3, (6, 5))
    assert masks.shape == (200, 6, 5)
    for mask in masks.numpy():
        rows, columns = np.nonzero(mask)
        assert len(rows) == 9
        assert [int(np.ptp(places)) for places in (rows, columns)] == [2, 2]
    assert len({tuple(mask.flatten().tolist()) for mask in masks}) == 4 * 3
    with pytest.raises(VaexError, match="do not fit"):
        square_masks(2, 6, (6, 5))


def test_subsets_have_one_size_and_are_made_of_cells() -> None:
    masks = subset_masks(40, 0.3, (6, 4), cell=2)
    cells = masks.view(40, 3, 2, 2, 2).float().mean((2, 4))
    assert set(cells.unique().tolist()) == {0.0, 1.0}
    assert cells.sum((1, 2)).tolist() == [2.0] * 40  # .3 of 6 cells
    assert bool(masks.any(0).all())
    assert subset_masks(5, 0.001, (6, 5)).sum((1, 2)).tolist() == [1] * 5
    assert subset_masks(3, 0.5, (7, 5), cell=4).shape == (3, 7, 5)
    with pytest.raises(VaexError, match="cannot be drawn"):
        subset_masks(3, 0.5, (4, 4), cell=4)


@pytest.mark.parametrize("own_fill", [False, True])
def test_changes_are_those_of_masked_images(weighing: Any, images: Tensor, own_fill: bool) -> None:
    fill = torch.rand(3, 2, 2, 6, 5) if own_fill else torch.rand(3, 2, 6, 5)
    masks = square_masks(4, 2, (6, 5))
    found = removal_changes(weighing, images, fill, masks, 2)
    weight = weighing.weight.detach().double()
    for p, mask in enumerate(masks):
        for target in range(2):
            away = images - (fill[:, target] if own_fill else fill)
            expected = (away * mask).double().sum(1).mul(weight[target]).sum((1, 2))
            torch.testing.assert_close(found[p, :, target], expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("scaled", [True, False])
def test_infidelity_is_captums(weighing: Any, images: Tensor, maps: Tensor, scaled: bool) -> None:
    metrics = pytest.importorskip("captum.metrics")
    masks = square_masks(12, 2, (6, 5))
    found = infidelity(maps, trials_of(weighing, images, masks), scaled=scaled)
    for target in range(2):
        left = list(masks)

        def perturbed(inputs: Tensor, left: list[Tensor] = left) -> tuple[Tensor, Tensor]:
            count = len(inputs) // 3  # captum repeats every image, the copies side by side
            chosen = torch.stack([left[i] for i in range(count)]).repeat(3, 1, 1)[:, None]
            return chosen.expand_as(inputs).float(), torch.where(chosen, 0.0, inputs)

        # captum sums over colours as well: half of the map on each of the two
        attributions = (maps[:, target : target + 1] / 2).expand(-1, 2, -1, -1)
        expected = metrics.infidelity(
            weighing, perturbed, images, attributions, target=target, n_perturb_samples=12, normalize=scaled
        )
        torch.testing.assert_close(found[:, target].float(), expected.detach(), rtol=1e-3, atol=1e-4)


def test_a_map_that_adds_up_has_no_infidelity_and_one_of_another_scale_none_when_scaled(
    weighing: Any, images: Tensor
) -> None:
    trials = trials_of(weighing, images, square_masks(12, 2, (6, 5)))
    truth = weighing.truth(images)
    torch.testing.assert_close(infidelity(truth, trials, scaled=False), torch.zeros(3, 2).double(), atol=1e-9, rtol=0)
    torch.testing.assert_close(infidelity(-7 * truth, trials), torch.zeros(3, 2).double(), atol=1e-9, rtol=0)
    assert bool((infidelity(-7 * truth, trials, scaled=False) > 0.1).all())


def test_relative_infidelity_is_one_minus_the_squared_cosine(weighing: Any, images: Tensor, maps: Tensor) -> None:
    trials = trials_of(weighing, images, square_masks(12, 2, (6, 5)))
    sums = torch.stack([(maps.double() * mask).sum((2, 3)) for mask in trials.masks]).numpy()
    torch.testing.assert_close(mask_sums(maps, trials.masks), torch.from_numpy(sums))
    changes = trials.changes.numpy()
    cosine = (sums * changes).sum(0) / np.linalg.norm(sums, axis=0) / np.linalg.norm(changes, axis=0)
    np.testing.assert_allclose(infidelity(maps, trials, relative=True), 1 - cosine**2, atol=1e-9)
    assert infidelity(torch.zeros_like(maps), trials, relative=True).tolist() == [[1.0, 1.0]] * 3
    still = Trials(trials.masks, torch.zeros_like(trials.changes))
    assert bool(infidelity(maps, still, relative=True).isnan().all())


def test_sensitivity_n_is_the_correlation_over_subsets(weighing: Any, images: Tensor, maps: Tensor) -> None:
    trials = trials_of(weighing, images, subset_masks(15, 0.3, (6, 5)))
    found = sensitivity_n(maps, trials).numpy()
    for b in range(3):
        for t in range(2):
            sums = [float((maps[b, t].double() * mask).sum()) for mask in trials.masks]
            expected = stats.pearsonr(sums, trials.changes[:, b, t].numpy()).statistic
            assert found[b, t] == pytest.approx(expected, abs=1e-9)
    truth = sensitivity_n(weighing.truth(images), trials)
    torch.testing.assert_close(truth, torch.ones(3, 2).double(), atol=1e-6, rtol=0)


def test_a_map_that_says_nothing_has_no_correlation(weighing: Any, images: Tensor) -> None:
    trials = trials_of(weighing, images, subset_masks(15, 0.3, (6, 5)))
    flat = torch.full((3, 2, 6, 5), 0.1)  # its sums are equal but for rounding
    assert sensitivity_n(flat, trials).tolist() == [[0.0, 0.0]] * 3
    still = Trials(trials.masks, torch.zeros_like(trials.changes))
    assert bool(sensitivity_n(flat, still).isnan().all())


def test_wrong_shapes_are_told(weighing: Any, images: Tensor, maps: Tensor) -> None:
    masks = square_masks(4, 2, (6, 5))
    with pytest.raises(VaexError, match="Changes must be"):
        infidelity(maps, Trials(masks, torch.zeros(4, 3, 1)))
    with pytest.raises(VaexError, match="Changes must be"):
        sensitivity_n(maps, Trials(masks, torch.zeros(3, 3, 2)))
    with pytest.raises(VaexError, match="Masks must be"):
        removal_changes(weighing, images, images, masks[:, :3], 2)
    with pytest.raises(VaexError, match="values of 3 images"):
        removal_changes(weighing, images, images, masks, 3)
