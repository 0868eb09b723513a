"""The decoder's response of a linear decoder is its column; agreement against numpy."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from vaex.errors import VaexError
from vaex.metrics.faithfulness import agreement, decoded_response, without_latents

COLUMNS = torch.randn(4, 3, 6, 5, generator=torch.Generator().manual_seed(5))  # D, C, H, W
CODES = torch.randn(2, 4, generator=torch.Generator().manual_seed(6))


def decode(codes: Tensor) -> Tensor:
    return torch.einsum("bd,dchw->bchw", codes, COLUMNS) + 0.5


def test_response_of_a_linear_decoder_is_twice_the_step_times_its_column() -> None:
    before = CODES.clone()
    found = decoded_response(decode, CODES, [2, 0], step=0.25)
    expected = 0.5 * COLUMNS[[2, 0]].abs().sum(1)
    torch.testing.assert_close(found, expected.expand(2, -1, -1, -1), atol=1e-5, rtol=1e-4)
    assert torch.equal(CODES, before)


def test_an_image_without_a_latent_lacks_its_column() -> None:
    found = without_latents(decode, CODES, [1, 3])
    for place, latent in enumerate([1, 3]):
        expected = decode(CODES) - CODES[:, latent, None, None, None] * COLUMNS[latent]
        torch.testing.assert_close(found[:, place], expected, atol=1e-5, rtol=1e-4)


def test_agreement_is_the_correlation_of_the_size(maps: Tensor) -> None:
    response = torch.rand(3, 2, 6, 5, generator=torch.Generator().manual_seed(7))
    found = agreement(maps, response)
    for b in range(3):
        for t in range(2):
            pair = np.abs(maps[b, t].numpy()).ravel(), response[b, t].numpy().ravel()
            assert float(found[b, t]) == pytest.approx(np.corrcoef(*pair)[0, 1], abs=1e-6)
    torch.testing.assert_close(agreement(-2 * response, response), torch.ones(3, 2).double())
    assert agreement(torch.ones_like(maps), response).tolist() == [[0.0, 0.0]] * 3
    assert bool(agreement(maps, torch.zeros_like(response)).isnan().all())


def test_wrong_input_is_told(maps: Tensor) -> None:
    with pytest.raises(VaexError, match=r"\[4\] are out of range: codes have latents 0 to 3"):
        decoded_response(decode, CODES, [4])
    with pytest.raises(VaexError, match="step above 0"):
        decoded_response(decode, CODES, [0], step=0)
    with pytest.raises(VaexError, match="latents of a grid"):
        without_latents(decode, CODES[:, :, None, None], [0])
    with pytest.raises(VaexError, match="response of its own"):
        agreement(maps, maps[:, :1])
