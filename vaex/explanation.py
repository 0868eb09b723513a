"""`explain`: the one path from images to maps and scores that every command, callback and export shares."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from vaex.attention.latent import encoding, latent_attention
from vaex.attention.outputs import code_of
from vaex.networks import VAE
from vaex.scores.image import Evidence, score_images
from vaex.types import Explanation


def _forward(model: nn.Module, images: Tensor) -> tuple[Tensor, Tensor | None, Tensor | None, Tensor | None]:
    if isinstance(model, VAE):
        output = model(images, sample=False)
        return output.posterior.mean, output.posterior.logvar, output.kl, output.reconstruction
    code = code_of(encoding(model)(images))
    if code.logvar is None:
        return code.mean, None, None, None
    kl = 0.5 * (code.mean.square() + code.logvar.exp() - 1 - code.logvar)  # to N(0, I), the usual prior
    return code.mean, code.logvar, kl, None


def explain(
    model: nn.Module, images: Tensor, layer: str | None = None, *, score: str = "attention", **options: Any
) -> Explanation:
    """Return maps, score map, score, code and reconstruction of ``images`` (B, C, H, W) in [0, 1].

    ``options`` are those of `vaex.attention.latent_attention`; ``score`` names one of `vaex.scores.SCORES`. What the
    model does not state (a log-variance, a decoder) is None. The same images give the same result inside fit,
    validate, test, predict and outside Lightning.

    Raises:
        VaexError: as `latent_attention`; for a score that the model cannot give.
    """
    maps = latent_attention(model, images, layer, **options).float()
    flags = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        with torch.inference_mode(False), torch.no_grad(), torch.autocast(images.device.type, enabled=False):
            parameter = next((p for p in model.parameters() if p.is_floating_point()), images)
            pixels = images.detach().clone()
            mean, logvar, kl, reconstruction = _forward(model, pixels.to(parameter.dtype))
            parts = [None if part is None else part.float() for part in (logvar, kl, reconstruction)]
            logvar, kl, reconstruction = parts
            scored = score_images(score, Evidence(pixels.float(), maps, reconstruction, kl))
    finally:
        for module, training in flags:
            module.training = training
    return Explanation(maps, scored.score_map, scored.score, mean.float(), logvar, kl, reconstruction)
