"""Maps that learn from pasted defects: the attention of a VAE, or what it has read directly, is to find the mask."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional as F

from vaex.attention import attention_maps
from vaex.attention.isolation import refuse_coupling
from vaex.attention.methods import channel_rms, signed_root
from vaex.attention.targets import target_named
from vaex.attention.values import target_values
from vaex.errors import VaexError, unknown
from vaex.networks.vae import VAE
from vaex.objectives.gathering import joint_sum
from vaex.objectives.terms import AFTER_TRAINING, Terms
from vaex.types import Batch, Posterior, VAEOutput

MAPS = ("attention", "direct", "activation")
"""What is trained to be the anomaly map: HiResCAM of a target at a layer, or the length of code or layer per cell."""


def attention_map(activation: Tensor, targets: Tensor) -> Tensor:
    """Return the signed root of HiResCAM per channel of the layer, (B, 1, h, w), with the graph of its gradient.

    ``activation`` is (B, K, h, w) and ``targets`` (B, 1). Of half the squared length of a linear code z = W e it is
    |W e| / sqrt(K).
    """
    maps = attention_maps(activation, targets, "hires_cam", "none", create_graph=True)
    return signed_root(maps / activation.shape[1])


def direct_map(mean: Tensor) -> Tensor:
    """Return the root mean square over latents of a latent grid (B, D, h, w) at each cell, (B, 1, h, w)."""
    return signed_root(mean.square().mean(1, keepdim=True))


def balanced_cross_entropy(logits: Tensor, share: Tensor, least: float, step: int = AFTER_TRAINING) -> Tensor:
    """Return the cross-entropy of cells (B, 1, h, w), () in nats, with as much weight on defects as on what is normal.

    Where the ``share`` of a cell that is defective is ``least`` or more, the cell is to be found; where it is 0, not;
    those between do not count. Without cells of one kind that half is 0. The cells are those of all processes at
    optimiser step ``step``; after training each has its own.
    """
    sums = []
    for cells, sign in ((share >= least, -1), (share == 0, 1)):
        weights = cells.to(logits)
        sums.append(torch.stack([(weights * F.softplus(sign * logits)).sum(), weights.sum()]))
    costs, counts = joint_sum(torch.stack(sums), step).unbind(1)  # (2,), (2,)
    return (0.5 * costs / counts.clamp(min=1)).sum()


class SyntheticAttention:
    """Cross-entropy of ``scale`` map + ``offset`` against the defects, plus ``elbo`` (reconstruction + beta KL).

    ``map`` "attention" is HiResCAM of ``target`` at ``layer``, as `vaex.explain` gives it with ``method=hires_cam
    rectify=root``, here per channel. Its controls have no gradient: "direct" is the length of the code at each cell of
    a latent grid, "activation" that of the layer's activation, for codes without cells (``method=activation``).
    ``elbo`` weighs nats per value that is reconstructed, the cross-entropy nats per cell. The reconstruction is that of
    the image without its defect (``clean`` of the batch); where a batch has none, of its normal images alone.

    Where all that follows the layer is normalised (a group norm), a factor of the layer changes nothing, so the cells
    of HiResCAM sum to about 0: what it gives to a defect it takes from other cells. A direct map need not.

    With ``offset`` 0 a normal cell always costs something, so that its map is pressed towards 0 throughout.

    Its parts are ``defect``, the cross-entropy, and ``reconstruction`` and ``kl`` in nats per image.

    Source: the attention is Liu et al.'s (CVPR 2020); training on pasted defects is CutPaste's (Li et al., CVPR 2021).
    Differs: the gradient of the KL itself is trained.

    Raises:
        VaexError: for an unknown map or target, or a value out of range.
    """

    needs: tuple[str, ...] = ("mask",)

    def __init__(
        self,
        map: str = "attention",  # noqa: A002 - the config key
        target: str = "total_kl",
        layer: str = "input",
        elbo: float = 1.0,
        beta: float = 0.1,
        scale: float = 4.0,
        offset: float = -4.0,
        least: float = 0.15,
    ) -> None:
        if map not in MAPS:
            raise unknown("objective.map", map, MAPS)
        found = target_named(target)
        if not (getattr(found, "total", False) or getattr(found, "single", False)):
            raise VaexError(f"objective.target must be one value for an image, such as total_kl, got {target!r}.")
        if not (0 <= elbo < math.inf and 0 <= beta < math.inf and 0 < scale < math.inf and 0 < least <= 1):
            raise VaexError(
                "objective.elbo and beta must be 0 or more, scale positive and least in (0, 1], got "
                f"{elbo}, {beta}, {scale} and {least}."
            )
        self.map, self.target, self.layer = map, target, layer
        self.elbo, self.beta, self.scale, self.offset, self.least = elbo, beta, scale, offset, least
        self.keep: tuple[str, ...] = () if map == "direct" else (layer,)

    def bind(self, model: VAE) -> None:
        """Refuse a ``model`` whose batch-norm would couple the images of a batch in the attention."""
        if self.map == "attention":
            refuse_coupling(model.encoder)

    def maps(self, output: VAEOutput) -> Tensor:
        """Return the map that is trained, (B, 1, h, w), with its graph.

        Raises:
            VaexError: for ``map=direct`` without a latent grid.
        """
        if self.map == "attention":
            posterior = Posterior(*(part.float() for part in output.posterior))
            return attention_map(output.activations[self.layer], target_values(posterior, self.target)).float()
        if self.map == "activation":
            return channel_rms(output.activations[self.layer].float())[:, None]
        if output.posterior.mean.dim() != 4:
            raise VaexError(
                "objective.map=direct reads a latent grid; use network=feature_grid, map=activation or map=attention."
            )
        return direct_map(output.posterior.mean.float())

    def __call__(self, images: Tensor, output: VAEOutput, step: int, batch: Batch | None = None) -> Terms:
        """Return the terms; ``batch`` holds the ``mask`` (B, 1, H, W) and, where there are pasted defects, ``clean``.

        Raises:
            VaexError: for a batch without masks.
        """
        batch = batch or {}
        if "mask" not in batch:
            raise VaexError(
                "objective=synthetic_attention learns from masks, which this data has not; set data.pasted."
            )
        maps = self.maps(output)
        with torch.no_grad():
            share = F.adaptive_avg_pool2d(batch["mask"].float(), (maps.shape[-2], maps.shape[-1]))
        defect = balanced_cross_entropy(self.scale * maps + self.offset, share, self.least, step)
        reconstruction = self._reconstruction(images, output, batch, step)
        kl = output.kl.float().flatten(1).sum(1).mean()
        values = output.reconstruction[0].numel()
        parts = {"defect": defect, "reconstruction": reconstruction, "kl": kl}
        return Terms(defect + self.elbo / values * (reconstruction + self.beta * kl), parts)

    @staticmethod
    def _reconstruction(images: Tensor, output: VAEOutput, batch: Batch, step: int) -> Tensor:
        if "clean" in batch:
            return -output.likelihood.log_prob(batch["clean"]).mean()
        normal = (batch["mask"].flatten(1).amax(1) == 0).float()
        sums = torch.stack([(normal * output.likelihood.log_prob(images)).sum(), normal.sum()])
        found = joint_sum(sums, step)
        return -found[0] / found[1].clamp(min=1)
