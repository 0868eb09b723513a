"""What only a VAE can be asked: does the map of a latent lie where the decoder draws that latent?"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from vaex.errors import VaexError
from vaex.metrics.faithfulness.correlation import pearson
from vaex.metrics.overlap import check_finite

Decoder = Callable[[Tensor], Tensor]
"""Takes codes (B, D) to images (B, C, H, W)."""


def _checked(codes: Tensor, latents: Sequence[int]) -> None:
    if codes.dim() != 2:
        raise VaexError(f"Codes must be (B, D), got {tuple(codes.shape)}: latents of a grid are not moved one by one.")
    wrong = [latent for latent in latents if not 0 <= latent < codes.shape[1]]
    if wrong or not latents:
        raise VaexError(
            f"Latents {wrong or list(latents)} are out of range: codes have latents 0 to {codes.shape[1] - 1}."
        )


@torch.no_grad()
def without_latents(decode: Decoder, codes: Tensor, latents: Sequence[int]) -> Tensor:
    """Return g(mu with mu_i = 0) for every latent i of ``latents``: (B, T, C, H, W), from codes (B, D).

    0 is the mean of the prior N(0, I): the image as it would be if the latent said nothing.

    Raises:
        VaexError: when the codes are no (B, D), or a latent is out of range.
    """
    _checked(codes, latents)
    changed = []
    for latent in latents:
        code = codes.clone()
        code[:, latent] = 0
        changed.append(decode(code))
    return torch.stack(changed, 1)


@torch.no_grad()
def decoded_response(decode: Decoder, codes: Tensor, latents: Sequence[int], step: float = 1.0) -> Tensor:
    """Return |g(mu + d e_i) - g(mu - d e_i)| summed over colours for every latent i: (B, T, H, W), >= 0.

    ``codes`` (B, D), ``step`` d in units of the latent: 1 is the deviation of the prior N(0, I).

    Raises:
        VaexError: when the codes are no (B, D), a latent is out of range, or the step is not above 0.
    """
    _checked(codes, latents)
    if not step > 0:
        raise VaexError(f"A latent is moved by a step above 0, got {step:g}.")
    responses = []
    for latent in latents:
        up, down = codes.clone(), codes.clone()
        up[:, latent] += step
        down[:, latent] -= step
        responses.append((decode(up) - decode(down)).abs().sum(1))
    return torch.stack(responses, 1)


def agreement(maps: Tensor, response: Tensor) -> Tensor:
    """Return the correlation over pixels of |M_i| and the decoder's response to z_i: (B, T) in [-1, 1], high is good.

    ``maps`` and ``response`` (B, T, H, W), the latter by `decoded_response`. 0 for a constant map, NaN for a latent
    that the decoder ignores.

    Raises:
        VaexError: when the shapes differ, or a value is not finite.
    """
    check_finite(maps)
    if maps.shape != response.shape:
        raise VaexError(f"Each map needs a response of its own: {tuple(maps.shape)} against {tuple(response.shape)}.")
    if not bool(torch.isfinite(response).all()):
        raise VaexError("The decoder's response holds NaN or infinity: look for a diverged model.")
    return pearson(maps.abs().flatten(2), response.to(maps.device).flatten(2))
