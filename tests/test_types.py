"""The posterior's noise: the stream of the seed, in eager and in compiled code of any batch size."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from vaex.build import build_model
from vaex.types import Posterior

NETWORK = {"name": "conv", "shape": [1, 32, 32], "latents": 3, "width": 4, "depth": 2, "hidden": 8}


@pytest.mark.parametrize("shape", [(1, 3), (5, 3), (64, 10), (2, 3, 4, 4)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_the_noise_is_that_of_the_seed_with_and_without_a_generator(shape: Any, dtype: torch.dtype) -> None:
    posterior = Posterior(torch.zeros(shape, dtype=dtype), torch.zeros(shape, dtype=dtype))
    torch.manual_seed(3)
    expected = torch.randn(shape, dtype=dtype)
    torch.manual_seed(3)
    assert torch.equal(posterior.sample(), expected)
    assert torch.equal(posterior.sample(torch.Generator().manual_seed(3)), expected)


SLOW = [pytest.param("aot_eager", dynamic, marks=pytest.mark.slow) for dynamic in (True, None)]


@pytest.mark.parametrize(("backend", "dynamic"), [("eager", True), *SLOW])
def test_a_compiled_vae_trains_on_batches_of_any_size(backend: str, dynamic: bool | None) -> None:
    torch._dynamo.reset()
    plain, compiled = build_model(NETWORK), build_model(NETWORK)
    compiled.load_state_dict(plain.state_dict())
    compiled.compile(backend=backend, dynamic=dynamic)
    for count in (8, 5, 3):
        images = torch.rand(count, 1, 32, 32)
        found = []
        for model in (plain, compiled):
            torch.manual_seed(1)
            output = model(images, sample=True)
            (output.kl.sum() - output.likelihood.log_prob(images).sum()).backward()
            found.append(output.z)
        torch.testing.assert_close(*found)
    for a, b in zip(plain.parameters(), compiled.parameters(), strict=True):
        assert a.grad is not None
        torch.testing.assert_close(a.grad, b.grad, rtol=1e-4, atol=1e-4)
