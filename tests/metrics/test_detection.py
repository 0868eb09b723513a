"""DetectionMetrics against scikit-learn, in one process and merged over two."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from sklearn.metrics import average_precision_score, roc_auc_score
from torch import Tensor

from tests.pairs import run_pair
from vaex.errors import VaexError
from vaex.metrics.detection import DetectionMetrics

NAMES = ["kl", "reconstruction"]


def _batches() -> list[tuple[dict[str, Tensor], Tensor]]:
    generator = torch.Generator().manual_seed(0)
    batches = []
    for size in (7, 1, 12, 5):
        labels = torch.randint(0, 2, (size,), generator=generator)
        kl = 10 + 1e-12 * torch.randint(0, 9, (size,), generator=generator).double() + 1e-12 * labels
        batches.append(({"kl": kl, "reconstruction": torch.randn(size, generator=generator) * 1e4}, labels))
    return batches


def _expected() -> dict[str, float]:
    batches = _batches()
    labels = torch.cat([labels for _, labels in batches]).numpy()
    result = {}
    for name in NAMES:
        scores = torch.cat([scores[name].double() for scores, _ in batches]).numpy()
        result[f"image_auroc_{name}"] = float(roc_auc_score(labels, scores))
        result[f"image_ap_{name}"] = float(average_precision_score(labels, scores))
    return result


def _floats(values: dict[str, Tensor]) -> dict[str, float]:
    return {name: value.item() for name, value in values.items()}


def test_equals_scikit_learn_over_batches_and_epochs() -> None:
    metric = DetectionMetrics(NAMES)
    for _ in range(2):  # the second epoch must not remember the first
        for scores, labels in _batches():
            metric.update(scores, labels)
        assert _floats(metric.compute()) == pytest.approx(_expected(), abs=1e-6)
        metric.reset()


def test_forward_returns_the_batch_and_keeps_the_total() -> None:
    metric = DetectionMetrics(NAMES)
    for scores, labels in _batches():
        batch = metric(scores, labels)
    alone = DetectionMetrics(NAMES)
    alone.update(*_batches()[-1])
    assert _floats(batch) == pytest.approx(_floats(alone.compute()), abs=1e-6, nan_ok=True)
    assert _floats(metric.compute()) == pytest.approx(_expected(), abs=1e-6)


@pytest.mark.filterwarnings("ignore:The ``compute`` method")
def test_nan_without_two_classes() -> None:
    metric = DetectionMetrics(["kl"])
    assert all(value.isnan() for value in metric.compute().values())
    metric.reset()
    metric.update({"kl": torch.rand(4)}, torch.zeros(4, dtype=torch.long))
    assert set(metric.compute()) == {"image_auroc_kl", "image_ap_kl"}
    assert all(value.isnan() for value in metric.compute().values())


def test_bad_input() -> None:
    metric, labels = DetectionMetrics(NAMES), torch.tensor([0, 1, 1])
    good = {"kl": torch.rand(3), "reconstruction": torch.rand(3)}
    with pytest.raises(VaexError, match="Unknown score 'kI': did you mean 'kl'"):
        metric.update({**good, "kI": torch.rand(3)}, labels)
    with pytest.raises(VaexError, match="'reconstruction' is missing"):
        metric.update({"kl": torch.rand(3)}, labels)
    with pytest.raises(VaexError, match=r"score 'kl' is \(2,\)"):
        metric.update({**good, "kl": torch.rand(2)}, labels)
    with pytest.raises(VaexError, match="1 of 3 values of score 'kl' are NaN"):
        metric.update({**good, "kl": torch.tensor([0.0, torch.nan, 1.0])}, labels)
    with pytest.raises(VaexError, match=r"0 .normal. or 1"):
        metric.update(good, torch.tensor([0, 1, 2]))
    for names in ([], ["kl", "kl"]):
        with pytest.raises(VaexError, match="distinct score names"):
            DetectionMetrics(names)


SHARES = [[[0, 3], [1, 2]], [[0, 1, 2, 3], []], [[], [3, 2, 1, 0]]]
"""Which batches each of two processes sees: unevenly many, or none."""


def _one_process(rank: int, folder: str) -> None:
    metric = DetectionMetrics(NAMES).to("cpu")  # a move resets the type that torchmetrics thinks of
    batches, results = _batches(), []
    for shares in SHARES:
        for number in shares[rank]:
            metric.update(*batches[number])
        results.append(metric.compute())
        own = sum(len(batches[number][1]) for number in shares[rank])
        assert sum(len(labels) for labels in metric.labels) == own  # each process has its own images again
        metric.reset()
    torch.save(results, Path(folder) / f"{rank}.pt")


@pytest.mark.filterwarnings("ignore:The ``compute`` method")
def test_two_processes_merge(tmp_path: Path) -> None:
    run_pair(_one_process, str(tmp_path))
    for rank in range(2):
        for result in torch.load(tmp_path / f"{rank}.pt"):
            assert _floats(result) == pytest.approx(_expected(), abs=1e-6)
