"""What each latent carries, against numpy on all codes at once."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from tests.pairs import run_pair
from vaex.errors import VaexError
from vaex.metrics.latents import LatentMetrics, active_latents, active_units


def test_batches_give_what_numpy_gives_of_all() -> None:
    generator = torch.Generator().manual_seed(0)
    scales = torch.tensor([2.0, 0.11, 0.09, 0.0])  # variances 4, .0121, .0081 and 0
    means, kl = torch.randn(999, 4, generator=generator) * scales + 50, torch.rand(999, 4, generator=generator)
    means = (means - means.mean(0)) / means.std(0, correction=0).clamp(min=1e-9) * scales + 50
    metric = LatentMetrics()
    for part in (slice(0, 1), slice(1, 500), slice(500, 999)):
        metric.update(means[part], kl[part])
    found = metric.compute()
    np.testing.assert_allclose(found["variance"].numpy(), np.var(means.double().numpy(), axis=0), rtol=1e-5, atol=1e-9)
    np.testing.assert_allclose(found["kl"].numpy(), kl.numpy().mean(0), rtol=1e-5)
    assert found["active_units"].item() == 2  # Burda et al.'s 0.01 lies between the second and the third


def test_the_variance_of_a_grid_is_the_average_over_its_cells() -> None:
    means = torch.randn(50, 3, 2, 4, generator=torch.Generator().manual_seed(1))
    metric = LatentMetrics()
    metric.update(means[:20])
    metric.update(means[20:])
    found = metric.compute()
    np.testing.assert_allclose(found["variance"].numpy(), np.var(means.numpy(), axis=0).mean((1, 2)), rtol=1e-5)
    assert "kl" not in found


def case() -> tuple[Tensor, Tensor]:
    means = torch.randn(6, 2, 3, 3, generator=torch.Generator().manual_seed(2))
    return means, means.square().mean((2, 3))


SHARES = [[[0, 1, 4, 5], [2, 3]], [[], [0, 1, 2, 3, 4, 5]]]
"""Which images each of two processes sees: unevenly many, or none."""


def _one_process(rank: int, folder: str) -> None:
    metric, results = LatentMetrics(), []
    for shares in SHARES:
        for n in shares[rank]:
            metric.update(*(part[n : n + 1] for part in case()))
        results.append(metric.compute())
        metric.reset()
    torch.save(results, Path(folder) / f"{rank}.pt")


def test_two_processes_merge(tmp_path: Path) -> None:
    run_pair(_one_process, str(tmp_path))
    means, kl = case()
    for rank in range(2):
        results = torch.load(tmp_path / f"{rank}.pt")
        assert len(results) == 2
        for found in results:
            np.testing.assert_allclose(found["variance"].numpy(), np.var(means.numpy(), 0).mean((1, 2)), rtol=1e-5)
            np.testing.assert_allclose(found["kl"].numpy(), kl.numpy().mean(0), rtol=1e-5)
            assert found["active_units"] == 2


@pytest.mark.filterwarnings("ignore:The ``compute`` method of metric:UserWarning")
def test_no_image_measures_nothing() -> None:
    assert LatentMetrics().compute() == {}


def test_bad_input_is_told() -> None:
    metric = LatentMetrics()
    with pytest.raises(VaexError, match=r"got \(4, 3\) and \(4, 2\)"):
        metric.update(torch.zeros(4, 3), torch.zeros(4, 2))
    with pytest.raises(VaexError, match=r"Means must be"):
        metric.update(torch.zeros(4, 3, 2))
    metric.update(torch.zeros(4, 3))
    with pytest.raises(VaexError, match="saw 3 latents before and 2 now"):
        metric.update(torch.zeros(4, 2))
    with pytest.raises(VaexError, match="must be 0 or more, got -1"):
        LatentMetrics(-1.0)


def test_active_latents_and_units() -> None:
    kl = torch.tensor([[0.0, 0.03, 0.5], [0.01, 0.0, 0.5]])  # means 0.005, 0.015, 0.5
    assert active_latents(kl).tolist() == [False, True, True]
    assert active_latents(kl, threshold=0.1).tolist() == [False, False, True]
    means = torch.tensor([[5.0, 0.09, -1.0], [5.0, -0.09, 1.0], [5.0, 0.09, -1.0], [5.0, -0.09, 1.0]])
    assert active_units(means).tolist() == [False, False, True]  # variances 0, 0.0081, 1
    assert active_units(means, threshold=0.008).tolist() == [False, True, True]
    with pytest.raises(VaexError, match="at least one image"):
        active_latents(torch.zeros(0, 3))
    with pytest.raises(VaexError, match="at least one image"):
        active_units(torch.zeros(3))
