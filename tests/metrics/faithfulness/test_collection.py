"""The metric's numbers are averages of the functions', whatever the batches; merging adds up."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from vaex.errors import VaexError
from vaex.metrics.faithfulness import (
    MEASURES,
    Answer,
    FaithfulnessMetrics,
    Question,
    Settings,
    Trials,
    agreement,
    deletion_curve,
    infidelity,
    insertion_curve,
    instability,
    map_similarity,
    relevance_rank,
    removal_changes,
    sensitivity_n,
    square_masks,
    subset_masks,
)
from vaex.metrics.pointing import energy_in_masks, pointing_hits

SETTINGS = Settings(steps=5, squares=9, side=0.4, subsets=8, shares=(0.2, 0.5), cell=1, samples=2, seed=3)


def explain(images: Tensor) -> Tensor:
    return images * torch.linspace(-1, 1, 5)


@pytest.fixture
def question(weighing: Any, images: Tensor) -> Question:
    generator = torch.Generator().manual_seed(9)
    masks = (torch.rand(3, 2, 6, 5, generator=generator) > 0.7).float()
    masks[1, 0] = 0  # nothing to point at
    fill, response = torch.rand(3, 2, 2, 6, 5, generator=generator), torch.rand(3, 2, 6, 5, generator=generator)
    return Question(images, 2, weighing, fill, masks, response, SETTINGS)


@pytest.fixture
def answer(maps: Tensor) -> Answer:
    randomised = [maps + 1, maps.flip(3)]
    return Answer(maps.relu(), maps, explain, randomised)


def expected(question: Question, answer: Answer) -> dict[str, Tensor]:
    """Return each measure of each map, (T,), by the functions."""
    values, fill, images, maps = question.values, question.fill, question.images, answer.maps
    assert values is not None
    assert fill is not None
    assert question.masks is not None
    assert question.response is not None
    assert answer.signed is not None
    assert answer.randomised is not None

    def area(curve: Tensor) -> Tensor:
        return torch.trapezoid(curve, dx=1 / 5).sum(0)

    down, up = deletion_curve(values, images, maps, fill, 5, 3), insertion_curve(values, images, maps, fill, 5, 3)
    squares = square_masks(9, 2, (6, 5), 3)
    subsets = [subset_masks(8, 0.2, (6, 5), 1, 3), subset_masks(8, 0.5, (6, 5), 1, 4)]
    trials = [Trials(masks, removal_changes(values, images, fill, masks, 2)) for masks in [squares, *subsets]]
    there = question.masks.flatten(2).any(2)

    def masked(found: Tensor) -> Tensor:
        return torch.where(there, found.double(), 0).sum(0) / there.sum(0)

    return {
        "deletion": area(down) / down[..., 0].sum(0),
        "insertion": area(up) / up[..., -1].sum(0),
        "infidelity": infidelity(answer.signed, trials[0], relative=True).mean(0),
        "sensitivity_n": (sensitivity_n(answer.signed, trials[1]) + sensitivity_n(answer.signed, trials[2])).mean(0)
        / 2,
        "agreement": agreement(maps, question.response).mean(0),
        "pointing_game": masked(pointing_hits(maps, question.masks)),
        "energy_inside": masked(energy_in_masks(maps, question.masks)),
        "relevance_rank": masked(relevance_rank(maps, question.masks)),
        "randomisation": torch.stack([map_similarity(maps, other) for other in answer.randomised]).mean((0, 1)),
        "instability": instability(explain, images, 0.02, 2, 3).mean.mean(0),
    }


def test_measures_are_averages_of_the_functions(question: Question, answer: Answer) -> None:
    metric = FaithfulnessMetrics(2)
    metric.update(question, answer)
    wanted, found = expected(question, answer), metric.per_target()
    assert list(found) == list(MEASURES) == list(wanted)
    for name, values in wanted.items():
        torch.testing.assert_close(found[name], values, atol=1e-9, rtol=1e-6)
        assert float(metric.compute()[name]) == pytest.approx(float(values.mean()))


def part(question: Question, answer: Answer, which: slice) -> tuple[Question, Answer]:
    fields: dict[str, Any] = {name: getattr(question, name)[which] for name in ("images", "fill", "masks", "response")}
    assert answer.signed is not None
    assert answer.randomised is not None
    some = Answer(answer.maps[which], answer.signed[which], explain, [maps[which] for maps in answer.randomised])
    return replace(question, **fields), some


def test_batches_and_merged_processes_give_the_same(question: Question, answer: Answer) -> None:
    whole = FaithfulnessMetrics(2)
    whole.update(question, answer)
    first, second = FaithfulnessMetrics(2), FaithfulnessMetrics(2)
    first.update(*part(question, answer, slice(0, 1)))
    second.update(*part(question, answer, slice(1, 3)))
    joined = FaithfulnessMetrics(2)
    joined.update(*part(question, answer, slice(0, 1)))
    joined.totals += second.totals  # what the sum over processes does
    joined.weights += second.weights
    first.update(*part(question, answer, slice(1, 3)))
    for metric in (first, joined):
        for name, value in metric.compute().items():
            assert float(value) == pytest.approx(float(whole.compute()[name]), rel=1e-6), name


def test_what_is_not_asked_is_absent(question: Question, maps: Tensor) -> None:
    metric = FaithfulnessMetrics(2)
    metric.update(Question(question.images, 2, masks=question.masks), maps)
    assert set(metric.compute()) == {"pointing_game", "energy_inside", "relevance_rank"}
    metric = FaithfulnessMetrics(2)
    metric.update(Question(question.images, 2, question.values, question.fill, settings=SETTINGS), explain)
    assert set(metric.compute()) == {"deletion", "insertion", "instability"}
    metric = FaithfulnessMetrics(2, ["sensitivity_n"])
    metric.update(question, Answer(maps))  # rectified maps do not add up
    assert metric.compute() == {}


def test_one_question_is_asked_of_many_methods_and_answered_once(question: Question, answer: Answer) -> None:
    calls = []

    def counted(images: Tensor) -> Tensor:
        calls.append(len(images))
        assert question.values is not None
        return question.values(images)

    asked = replace(question, values=counted)
    for _ in range(3):
        FaithfulnessMetrics(2, ["infidelity", "sensitivity_n"]).update(asked, answer)
    assert len(calls) == (1 + 9 * 2) + 2 * (1 + 8 * 2)


def test_wrong_input_is_told(question: Question, maps: Tensor) -> None:
    with pytest.raises(VaexError, match="did you mean 'deletion'"):
        FaithfulnessMetrics(2, ["deletio"])
    with pytest.raises(VaexError, match="named twice"):
        FaithfulnessMetrics(2, ["deletion", "deletion"])
    with pytest.raises(VaexError, match="at least 1 map"):
        FaithfulnessMetrics(0)
    with pytest.raises(VaexError, match="measures 3 maps per image, got 2"):
        FaithfulnessMetrics(3).update(question, maps)
    with pytest.raises(VaexError, match="NaN"):
        FaithfulnessMetrics(2).update(question, maps / 0)
    with pytest.raises(VaexError, match="steps of the faithfulness measures"):
        Settings(steps=0)
    with pytest.raises(VaexError, match="side and shares"):
        Settings(shares=(0.5, 1.0))


def test_makers_of_maps_may_differentiate(weighing: Any, question: Question) -> None:
    """A metric's update runs without gradients, but whoever makes maps needs them."""

    def saliency(images: Tensor) -> Tensor:
        leaf = images.clone().requires_grad_()
        values = weighing(leaf).exp()
        slopes = [torch.autograd.grad(values[:, i].sum(), leaf, retain_graph=True)[0].sum(1) for i in (0, 1)]
        return torch.stack(slopes, 1)

    metric = FaithfulnessMetrics(2, ["randomisation", "instability", "energy_inside"])
    metric.update(question, saliency)
    maps = saliency(question.images)
    metric.update(question, Answer(maps, randomised=(saliency(question.images) for _ in range(2))))
    found = metric.compute()
    assert float(found["randomisation"]) == pytest.approx(1.0)
    assert question.masks is not None
    there = question.masks.flatten(2).any(2)
    inside = torch.where(there, energy_in_masks(maps, question.masks), 0).sum(0) / there.sum(0)
    assert float(found["energy_inside"]) == pytest.approx(float(inside.mean()), abs=1e-6)


def test_arrays_and_whole_numbers_are_maps(question: Question, maps: Tensor) -> None:
    def measured(answer: Any) -> dict[str, float]:
        metric = FaithfulnessMetrics(2)
        metric.update(question, answer)
        return {name: float(value) for name, value in metric.compute().items()}

    counts = (10 * maps.abs()).round()
    plain = measured(Answer(counts, counts, lambda seen: counts, [counts]))
    assert len(plain) == len(MEASURES)
    array: Any = counts.numpy()
    assert measured(Answer(array, array, lambda seen: array, [array])) == plain
    assert measured(Answer(counts.long(), counts.long(), lambda seen: counts.long(), [counts.long()])) == plain
    assert measured(counts.numpy()) == measured(counts)
    assert measured(lambda seen: counts.numpy()) == measured(lambda seen: counts)


@pytest.mark.parametrize("where", ["maps", "signed", "explain", "noisy", "randomised", "response", "values", "fill"])
def test_nothing_that_is_no_number_stays_out_of_an_average(question: Question, maps: Tensor, where: str) -> None:
    broken, calls = maps.clone(), [0]
    broken[0, 0, 0, 0] = torch.nan

    def noisy(seen: Tensor) -> Tensor:
        calls[0] += 1
        return maps if calls[0] == 1 else broken

    answer = {"maps": maps, "signed": maps, "explain": lambda seen: maps, "randomised": [maps]}
    asked = question
    if where in answer:
        answer[where] = {"explain": lambda seen: broken, "randomised": [maps, broken]}.get(where, broken)
    elif where == "noisy":
        answer["explain"] = noisy
    elif where == "values":
        asked = replace(question, values=lambda seen: torch.full((3, 2), torch.nan))
    else:
        change: Any = {where: torch.full_like(getattr(question, where), torch.nan)}
        asked = replace(question, **change)
    with pytest.raises(VaexError, match="NaN or infini"):
        FaithfulnessMetrics(2).update(asked, Answer(**answer))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"maps": [1.0]}, "a tensor or an array"),
        ({"signed": torch.zeros(3, 2, 3, 5)}, "Signed maps must be"),
        ({"explain": lambda seen: torch.ones(3, 1, 6, 5)}, "of noisy images"),
        ({"masks": torch.ones(3, 1, 3, 3)}, "Masks must fit maps"),
        ({"masks": torch.ones(3, 3, 6, 5)}, "Masks must fit maps"),
        ({"values": lambda seen: (seen,)}, "must be a tensor"),
    ],
)
def test_what_does_not_fit_is_told(question: Question, maps: Tensor, change: dict[str, Any], words: str) -> None:
    asked = {name: value for name, value in change.items() if hasattr(question, name)}
    given = {name: value for name, value in change.items() if name not in asked}
    with pytest.raises(VaexError, match=words):
        FaithfulnessMetrics(2).update(replace(question, **asked), Answer(**{"maps": maps, **given}))
