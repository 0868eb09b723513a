"""What each latent carries, against numpy on all codes at once."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from vaex.errors import VaexError
from vaex.metrics.latents import LatentMetrics


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


def test_two_processes_add_up() -> None:
    means = torch.randn(30, 2, generator=torch.Generator().manual_seed(2))
    parts = [LatentMetrics(), LatentMetrics(), LatentMetrics()]
    parts[0].update(means[:7], means[:7].square())
    parts[1].update(means[7:], means[7:].square())
    whole = parts[0]
    whole.sums = [torch.cat([parts[0].sums[0], parts[1].sums[0]])]  # as a gathering of both leaves it
    found = whole.compute()
    np.testing.assert_allclose(found["variance"].numpy(), np.var(means.numpy(), axis=0), rtol=1e-5)
    np.testing.assert_allclose(found["kl"].numpy(), means.square().mean(0).numpy(), rtol=1e-5)
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
