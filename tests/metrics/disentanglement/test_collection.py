"""Metrics by name, the torchmetrics class, and its merging."""

from __future__ import annotations

import inspect
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import vaex.metrics.disentanglement as package
from tests.metrics.disentanglement.conftest import grid
from tests.pairs import run_pair
from vaex.errors import VaexError
from vaex.metrics import DisentanglementMetrics
from vaex.metrics.disentanglement.collection import SCORES, USUAL, all_scores, named_metrics

FACTORS = torch.from_numpy(np.tile(grid(3, 4), (40, 1)))
CODES = FACTORS.float() + 0.5 * torch.randn(FACTORS.shape, generator=torch.Generator().manual_seed(0))


@pytest.fixture(scope="module")
def each() -> dict[str, dict[str, float]]:
    """What each metric but the slow one says of the codes."""
    return {name: scores(CODES, FACTORS, 3) for name, scores in SCORES.items() if name != "dci"}


def test_every_metric_has_a_headline_and_all_its_numbers(each: dict[str, dict[str, float]]) -> None:
    for name, scores in SCORES.items():
        headline = getattr(package, name)
        assert getattr(package, f"{name}_scores") is scores
        assert list(inspect.signature(headline).parameters) == ["codes", "factors", "seed"]
        assert inspect.signature(headline).parameters["seed"].default == 0
        if name != "dci":
            value = headline(CODES, FACTORS, 3)
            assert type(value) is float
            assert value == each[name][name]
            assert all(type(number) is float for number in each[name].values())
            assert next(iter(each[name])) == name


def test_flat_names_do_not_collide(each: dict[str, dict[str, float]]) -> None:
    assert tuple(each) == USUAL
    together: dict[str, float] = {}
    for found in each.values():
        assert not together.keys() & found.keys()
        together |= found
    some = ["irs", "mig", "sap"]
    assert list(all_scores(CODES, FACTORS, some, 3)) == [key for name in some for key in each[name]]


def test_the_class_puts_batches_together() -> None:
    metric = DisentanglementMetrics(["mig", "factor_vae"], seed=2)
    for start in range(0, len(CODES), 100):
        metric.update(CODES[start : start + 100], FACTORS[start : start + 100])
    expected = all_scores(CODES, FACTORS, ["mig", "factor_vae"], 2)
    assert {name: float(value) for name, value in metric.compute().items()} == pytest.approx(expected)
    metric.reset()
    with pytest.raises(VaexError, match="has seen no codes"):
        metric.compute()


def test_codes_keep_their_precision() -> None:
    """Far from zero float32 has no digit left for what the functions read."""
    far = CODES.double() + 1e9
    metric = DisentanglementMetrics(["mig"])
    metric.update(far, FACTORS)
    assert float(metric.compute()["mig"]) == pytest.approx(all_scores(far, FACTORS, ["mig"])["mig"])
    assert float(metric.compute()["mig"]) > 0.1
    half = DisentanglementMetrics(["mig"])
    half.update(CODES.half(), FACTORS)
    assert half.codes[0].dtype == torch.float32


def test_states_merge() -> None:
    halves = [DisentanglementMetrics(["mig"]), DisentanglementMetrics(["mig"])]
    halves[0].update(CODES[:250], FACTORS[:250])
    halves[1].update(CODES[250:], FACTORS[250:])
    halves[0].merge_state(halves[1])
    whole = all_scores(CODES, FACTORS, ["mig"])["mig"]
    assert float(halves[0].compute()["mig"]) == pytest.approx(whole, abs=1e-6)  # all rows, whatever their order


def _process(rank: int, folder: str) -> None:
    metric = DisentanglementMetrics(["mig"])
    rows = slice(0, 300) if rank == 0 else slice(300, None)  # parts of different lengths
    metric.update(CODES[rows], FACTORS[rows])
    torch.save(metric.compute(), Path(folder) / f"{rank}.pt")


def test_processes_are_put_together(tmp_path: Path) -> None:
    run_pair(_process, str(tmp_path))
    whole = all_scores(CODES, FACTORS, ["mig"])["mig"]
    for rank in (0, 1):
        assert float(torch.load(tmp_path / f"{rank}.pt")["mig"]) == pytest.approx(whole, abs=1e-6)


def test_wrong_names_and_shapes_are_told() -> None:
    with pytest.raises(VaexError, match="Unknown disentanglement metric 'migg': did you mean 'mig'"):
        DisentanglementMetrics(["migg"])
    with pytest.raises(VaexError, match="named twice"):
        named_metrics(["mig", "mig"])
    metric: Any = DisentanglementMetrics()
    with pytest.raises(VaexError, match="of the same images"):
        metric.update(CODES, FACTORS[:3])
    with pytest.raises(VaexError, match="of the same images"):
        metric.update(CODES[:, 0], FACTORS)
    with pytest.raises(VaexError, match="takes tensors, got ndarray: the functions take arrays, too"):
        metric.update(CODES.numpy(), FACTORS)


@pytest.mark.parametrize("seed", [-1, 1.5, None, 2**32])
def test_a_seed_that_is_none_is_told_at_once(seed: Any) -> None:
    with pytest.raises(VaexError, match="seed must be a whole number from 0 to 4294967295, got"):
        DisentanglementMetrics(["mig"], seed=seed)


def test_batches_of_another_width_are_told_when_they_come() -> None:
    metric = DisentanglementMetrics(["mig"])
    four = torch.cat([CODES, CODES], 1)
    metric.update(four, FACTORS)
    with pytest.raises(VaexError, match=r"codes \(B, D\) .* fed 4 columns and then 2: use a metric for each"):
        metric.update(CODES, FACTORS)
    with pytest.raises(VaexError, match=r"factors \(B, F\) .* fed 2 columns and then 1"):
        metric.update(four, FACTORS[:, :1])
    assert float(metric.compute()["mig"]) == pytest.approx(all_scores(four, FACTORS, ["mig"])["mig"])
    others = [DisentanglementMetrics(["mig"]), DisentanglementMetrics(["mig"])]
    others[0].update(CODES, FACTORS)
    others[1].update(four, FACTORS)
    others[0].merge_state(others[1])
    with pytest.raises(VaexError, match=r"fed (2 columns and then 4|4 columns and then 2)"):
        others[0].compute()
    metric.reset()
    metric.update(CODES, FACTORS)
    assert float(metric.compute()["mig"]) == pytest.approx(all_scores(CODES, FACTORS, ["mig"])["mig"])
