"""Ways of making one FactorVAE step: by the reproductions' algorithm, by hand, and its matrix products alone."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from vaex.modules import FactorVAEModule
from vaex.objectives.factor_vae import discriminator_terms, permuted_latents, total_correlation

FLOOR = "floor: the matrix products alone"
GAMMA = 40.0


class Reproductions:
    """One step by the loop that the reproductions of FactorVAE share, rewritten.

    Both halves are encoded with a graph, both losses are sent back through all that they touch, so the
    discriminator's also through the encoder once more, and Adam is the plain one. ``bf16``: under autocast, images
    channels_last.

    Source: the order of FrankBrongers/Reproducing_expVAE, which is that of 1Konny/FactorVAE.
    """

    def __init__(self, module: FactorVAEModule, images: Tensor, bf16: bool = False) -> None:
        self.vae, self.discriminator, self.bf16 = module.vae, module.discriminator, bf16
        if bf16:
            images = images.contiguous(memory_format=torch.channels_last)
        self.first, self.second = images.chunk(2)
        self.optimiser = torch.optim.Adam(self.vae.parameters(), lr=1e-4)
        self.other = torch.optim.Adam(self.discriminator.parameters(), lr=1e-4, betas=(0.5, 0.9))

    def __call__(self) -> None:
        """Forward, backward, update."""
        with torch.autocast(self.first.device.type, torch.bfloat16, enabled=self.bf16):
            loss, own = self._losses()
        self.optimiser.zero_grad()
        loss.backward(retain_graph=True)
        self.other.zero_grad()
        own.backward()
        self.optimiser.step()
        self.other.step()

    def _losses(self) -> tuple[Tensor, Tensor]:
        mean, logvar = self.vae.encode(self.first)
        z = mean + torch.exp(logvar / 2) * torch.randn_like(mean)
        logits = self.vae.decoder(z)
        loss = F.binary_cross_entropy_with_logits(logits, self.first, reduction="sum") / len(self.first)
        loss = loss - 0.5 * (1 + logvar - mean**2 - logvar.exp()).sum(1).mean()
        told = self.discriminator(z)
        loss = loss + GAMMA * (told[:, :1] - told[:, 1:]).mean()
        mean2, logvar2 = self.vae.encode(self.second)
        other = mean2 + torch.exp(logvar2 / 2) * torch.randn_like(mean2)
        columns = [column[torch.randperm(len(other), device=other.device)] for column in other.split(1, 1)]
        permuted = self.discriminator(torch.cat(columns, 1).detach())
        zeros = torch.zeros(len(z), dtype=torch.long, device=z.device)
        return loss, 0.5 * (F.cross_entropy(told, zeros) + F.cross_entropy(permuted, zeros + 1))


class HandWritten:
    """One step as `FactorVAEModule` makes it, written by hand: no Lightning, no logging, no checks."""

    def __init__(self, module: FactorVAEModule, images: Tensor) -> None:
        self.vae, self.discriminator = module.vae, module.discriminator
        self.first, self.second = images.chunk(2)
        self.ours, self.theirs = list(self.vae.parameters()), list(self.discriminator.parameters())
        self.optimiser = torch.optim.Adam(self.ours, lr=1e-4, fused=True)
        self.other = torch.optim.Adam(self.theirs, lr=1e-4, betas=(0.5, 0.9), fused=True)

    def __call__(self) -> None:
        """Forward, backward, update."""
        output = self.vae(self.first, sample=True)
        loss = output.kl.sum(1).mean() - output.likelihood.log_prob(self.first).mean()
        told = self.discriminator(output.z)
        loss = loss + GAMMA * total_correlation(told)
        with torch.no_grad():
            permuted = permuted_latents(self.vae.encode(self.second).sample())
        own = discriminator_terms(told, self.discriminator(permuted)).loss
        own.backward(inputs=self.theirs, retain_graph=True)
        loss.backward(inputs=self.ours)
        self.optimiser.step()
        self.other.step()
        self.optimiser.zero_grad()
        self.other.zero_grad()


class Products:
    """The matrix products of a step: those of convolutions and linear layers, forward and backward, and nothing else.

    Of the VAE all but the gradient of the images; of the second encoder pass and of the discriminator's two passes the
    products forward; backward through the discriminator once for the codes, and twice for its weights.
    """

    def __init__(self, module: FactorVAEModule, images: Tensor) -> None:
        self.products: list[Callable[[], Any]] = []
        first = images.chunk(2)[0]
        with torch.no_grad():
            seen = _inputs(module.vae, lambda: module.vae(first, sample=True))
            encoder = set(module.vae.encoder.modules())
            codes = torch.randn(len(first), module.vae.latents, device=first.device)
            told = _inputs(module.discriminator, lambda: module.discriminator(codes))
            for number, (layer, given) in enumerate(seen):
                self._add(layer, given, forward=1 + (layer in encoder), inputs=int(number > 0), weights=1)
            for number, (layer, given) in enumerate(told):
                self._add(layer, given, forward=2, inputs=1 + 2 * (number > 0), weights=2)

    def _add(self, layer: Any, given: Tensor, forward: int, inputs: int, weights: int) -> None:
        out = torch.randn_like(layer(given))
        if isinstance(layer, nn.Linear):
            to_input: Callable[[], Any] = lambda: out @ layer.weight  # noqa: E731
            to_weight: Callable[[], Any] = lambda: out.T @ given  # noqa: E731
        else:
            to_input, to_weight = (_convolved(layer, given, out, mask) for mask in ((True, False), (False, True)))
        self.products += [lambda: layer(given)] * forward + [to_input] * inputs + [to_weight] * weights

    @torch.no_grad()
    def __call__(self) -> None:
        """Compute all products; nothing is kept."""
        for product in self.products:
            product()


def _inputs(network: nn.Module, run: Callable[[], Any]) -> list[tuple[nn.Module, Tensor]]:
    """Return the layers with products that ``run`` calls, in their order, with what they are given."""
    found: list[tuple[nn.Module, Tensor]] = []
    kinds = (nn.Linear, nn.Conv2d, nn.ConvTranspose2d)
    handles = [
        layer.register_forward_pre_hook(lambda module, given: found.append((module, given[0].clone())))
        for layer in network.modules()
        if isinstance(layer, kinds)
    ]
    try:
        run()
    finally:
        for handle in handles:
            handle.remove()
    return found


def _convolved(layer: Any, given: Tensor, out: Tensor, mask: tuple[bool, bool]) -> Callable[[], Any]:
    transposed = isinstance(layer, nn.ConvTranspose2d)

    def product() -> Any:
        return torch.ops.aten.convolution_backward(
            *(out, given, layer.weight, None, layer.stride, layer.padding, layer.dilation, transposed),
            *(layer.output_padding if transposed else (0, 0), layer.groups, (*mask, False)),
        )

    return product
