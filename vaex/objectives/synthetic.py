"""Maps that learn from pasted defects: the attention of a VAE, or what it has read directly, is to find the mask."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from vaex.attention import attention_maps
from vaex.attention.groups import check_names, group_sums
from vaex.attention.isolation import refuse_coupling
from vaex.attention.maps import resize_maps
from vaex.attention.methods import signed_root
from vaex.attention.target import Target
from vaex.attention.targets import target_named
from vaex.attention.values import over_cells, target_values
from vaex.data.anomalies import KINDS
from vaex.errors import VaexError, unknown
from vaex.networks.vae import VAE
from vaex.objectives.gathering import joint_sum
from vaex.objectives.terms import AFTER_TRAINING, Terms
from vaex.types import Batch, Posterior, VAEOutput

LEAST_ENERGY = 0.01
"""Added to the energy of every kind in a cell, whose whole energy is about 1 where the image is normal."""

MAPS = ("attention", "direct", "activation")
"""What is trained to be the anomaly map: HiResCAM of a target at a layer, or the length of code or layer per cell."""


def attention_energy(activation: Tensor, targets: Tensor) -> Tensor:
    """Return HiResCAM per channel of the layer, (B, T, h, w), with the graph of its gradient.

    ``activation`` is (B, K, h, w) and ``targets`` (B, T). Of half the squared length of a linear code z = W e it is
    |W e|^2 / K.
    """
    return attention_maps(activation, targets, "hires_cam", "none", create_graph=True) / activation.shape[1]


def direct_energy(mean: Tensor) -> Tensor:
    """Return the squares of a latent grid (B, D, h, w) per latent, (B, D, h, w), whose sum is the code's energy."""
    return mean.square() / mean.shape[1]


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


def naming_cross_entropy(own: Tensor, whole: Tensor, groups: int, cells: Tensor, step: int = AFTER_TRAINING) -> Tensor:
    """Return the cross-entropy of the kind that cells (B, 1, h, w) name, () in nats, every image with equal weight.

    The probability of a kind is its share of a cell's energy: ``own`` is that of the right kind and ``whole`` that of
    all ``groups``; where there is none, all kinds are as likely. ``cells`` is 1 where a cell counts; of an image
    without such cells nothing does, and without such images it is 0.
    """
    share = (own.relu() + LEAST_ENERGY) / (whole.relu() + groups * LEAST_ENERGY)
    costs = -share.clamp(max=1).log()  # an energy may be negative, and another one then larger than the whole
    counts = cells.sum((1, 2, 3))
    means = (cells * costs).sum((1, 2, 3)) / counts.clamp(min=1)  # (B,)
    sums = joint_sum(torch.stack([means.sum(), (counts > 0).to(means).sum()]), step)
    return sums[0] / sums[1].clamp(min=1)


class SyntheticAttention:
    """Cross-entropy of ``scale`` map + ``offset`` against the defects, plus ``elbo`` (reconstruction + beta KL).

    ``map`` "attention" is HiResCAM of ``target`` at ``layer``, as `vaex.explain` gives it with ``method=hires_cam
    rectify=root``, here per channel. Its controls have no gradient: "direct" is the length of the code at each cell of
    a latent grid, "activation" that of the layer's activation, for codes without cells (``method=activation``).
    Of several layers the signed square roots add up, as ``fuse=sum`` of `vaex.explain` adds them (the code has but
    one). ``elbo`` weighs nats per value that is reconstructed, the cross-entropy nats per cell. The reconstruction is
    that of the image without its defect (``clean`` of the batch); where a batch has none, of its normal images alone.

    Where all that follows the layer is normalised (a group norm), a factor of the layer changes nothing, so the cells
    of HiResCAM sum to about 0: what it gives to a defect it takes from other cells. A direct map need not.

    With ``offset`` 0 a normal cell always costs something, so that its map is pressed towards 0 throughout.

    ``kinds``, names of `vaex.data.anomalies.KINDS`, splits the latents into as many groups (`group_sums`), whose maps
    add up to the map, before its root. In the cells of a defect the group that stands for its kind is to have all of
    it: ``naming`` weighs the cross-entropy of that share, in nats per defect.

    Its parts are ``defect``, the cross-entropy, ``reconstruction`` and ``kl`` in nats per image, and ``naming``.

    Source: the attention is Liu et al.'s (CVPR 2020); training on pasted defects is CutPaste's (Li et al., CVPR 2021).
    Differs: the gradient of the KL itself is trained.

    Raises:
        VaexError: for an unknown map, target or kind, or a value out of range.
    """

    needs: tuple[str, ...] = ("mask",)

    def __init__(
        self,
        map: str = "attention",  # noqa: A002 - the config key
        target: str = "total_kl",
        layer: str | Sequence[str] = "input",
        elbo: float = 1.0,
        beta: float = 0.1,
        scale: float = 4.0,
        offset: float = -4.0,
        least: float = 0.15,
        kinds: Sequence[str] | None = None,
        naming: float = 1.0,
    ) -> None:
        if map not in MAPS:
            raise unknown("objective.map", map, MAPS)
        found = target_named(target)
        if not (isinstance(found, Target) and (found.total or found.single) and not found.titles):
            raise VaexError(f"objective.target must be one value for an image, such as total_kl, got {target!r}.")
        finite = all(0 <= weight < math.inf for weight in (elbo, beta, naming))
        if not (finite and 0 < scale < math.inf and 0 < least <= 1):
            raise VaexError(
                "objective.elbo, beta and naming must be 0 or more, scale positive and least in (0, 1], got "
                f"{elbo}, {beta}, {naming}, {scale} and {least}."
            )
        self.kinds = () if kinds is None else check_names("objective.kinds", kinds)
        for kind in self.kinds:
            if kind not in KINDS:
                raise unknown("kind of defect in objective.kinds", kind, KINDS)
        if self.kinds and map == "attention" and target != "total_kl":
            raise VaexError(f"objective.kinds splits the KL of the code, so it needs target=total_kl, got {target!r}.")
        if self.kinds and map == "activation":
            raise VaexError("objective.kinds names groups of latents; use objective.map=attention or direct.")
        self.map, self.target = map, target
        self.layers = (layer,) if isinstance(layer, str) else tuple(layer)
        if not self.layers or len(set(self.layers)) < len(self.layers):
            raise VaexError(f"objective.layer must be a layer or a list of different ones, got {layer!r}.")
        if self.kinds and len(self.layers) > 1:
            raise VaexError("objective.kinds splits the energy of one layer; name one in objective.layer.")
        self.elbo, self.beta, self.scale, self.offset, self.least = elbo, beta, scale, offset, least
        self.naming = naming
        self.keep: tuple[str, ...] = () if map == "direct" else self.layers

    def bind(self, model: VAE) -> None:
        """Refuse a ``model`` whose batch-norm would couple the images of a batch in the attention."""
        if self.map == "attention":
            refuse_coupling(model.encoder)

    def energies(self, output: VAEOutput, kind: Tensor | None = None, layer: str | None = None) -> Tensor:
        """Return the square of the map of ``layer``, (B, 1, h, w), with its graph and the sign of its parts.

        With ``kind`` (B,), a group of latents for each image, the part of that group follows: (B, 2, h, w). Without
        ``layer`` it is the first of the objective's.

        Raises:
            VaexError: for ``map=direct`` without a latent grid.
        """
        layer = layer or self.layers[0]
        if self.map == "attention":
            posterior = Posterior(*(part.float() for part in output.posterior))
            targets = target_values(posterior, self.target)
            if kind is not None:
                targets = torch.cat([targets, self._own(over_cells(posterior.kl_to_normal(), "sum"), kind)], 1)
            return attention_energy(output.activations[layer], targets).float()
        if self.map == "activation":
            return output.activations[layer].float().square().mean(1, keepdim=True)
        if output.posterior.mean.dim() != 4:
            raise VaexError(
                "objective.map=direct reads a latent grid; use network=feature_grid, map=activation or map=attention."
            )
        latents = direct_energy(output.posterior.mean.float())
        whole = latents.sum(1, keepdim=True)
        return whole if kind is None else torch.cat([whole, self._own(latents, kind)], 1)

    def _own(self, values: Tensor, kind: Tensor) -> Tensor:
        """Return the sum (B, 1, ...) over the latents of each image's kind."""
        sums = group_sums(values, len(self.kinds))
        return sums[torch.arange(len(kind), device=kind.device), kind][:, None]

    def maps(self, output: VAEOutput) -> Tensor:
        """Return the map that is trained, (B, 1, h, w), with its graph; of several layers at the finest one's cells.

        Raises:
            VaexError: as `energies`.
        """
        if self.map == "direct" or len(self.layers) == 1:
            return signed_root(self.energies(output))
        parts = [self.energies(output, layer=layer) for layer in self.layers]
        if self.map == "attention":  # per channel of the first: so they weigh as those that `latent_attention` adds up
            channels = [output.activations[layer].shape[1] for layer in self.layers]
            parts = [part * (count / channels[0]) for part, count in zip(parts, channels, strict=True)]
        cells = [max(part.shape[axis] for part in parts) for axis in (-2, -1)]
        return torch.stack([resize_maps(signed_root(part), cells, (0, 0)) for part in parts]).sum(0)

    def __call__(self, images: Tensor, output: VAEOutput, step: int, batch: Batch | None = None) -> Terms:
        """Return the terms; ``batch`` holds the ``mask`` (B, 1, H, W) and, where there are pasted defects, ``clean``.

        Raises:
            VaexError: for a batch without masks; in training with ``kinds`` for one that does not tell the kind.
        """
        batch = batch or {}
        if "mask" not in batch:
            raise VaexError(
                "objective=synthetic_attention learns from masks, which this data has not; set data.pasted."
            )
        kind = self._kind(batch, step)
        energies = None if kind is None else self.energies(output, kind.clamp(min=0))
        maps = self.maps(output) if energies is None else signed_root(energies[:, :1])
        with torch.no_grad():
            share = F.adaptive_avg_pool2d(batch["mask"].float(), (maps.shape[-2], maps.shape[-1]))
        defect = balanced_cross_entropy(self.scale * maps + self.offset, share, self.least, step)
        reconstruction = self._reconstruction(images, output, batch, step)
        kl = output.kl.float().flatten(1).sum(1).mean()
        values = output.reconstruction[0].numel()
        parts = {"defect": defect, "reconstruction": reconstruction, "kl": kl}
        total = defect + self.elbo / values * (reconstruction + self.beta * kl)
        if kind is not None and energies is not None:
            cells = ((share >= self.least) & (kind >= 0)[:, None, None, None]).to(maps)
            parts["naming"] = naming_cross_entropy(energies[:, 1:], energies[:, :1], len(self.kinds), cells, step)
            total = total + self.naming * parts["naming"]
        return Terms(total, parts)

    def _kind(self, batch: Batch, step: int) -> Tensor | None:
        """Return the group (B,) that stands for each defect, -1 where there is none; None where kinds do not count."""
        if not self.kinds or ("kind" not in batch and step == AFTER_TRAINING):
            return None
        if "kind" not in batch:
            raise VaexError("objective.kinds learns from the kind of pasted defects, which this data does not tell.")
        groups = [self.kinds.index(kind) if kind in self.kinds else -1 for kind in KINDS]
        return torch.tensor([*groups, -1], device=batch["kind"].device)[batch["kind"]]  # the last is that of kind -1

    @staticmethod
    def _reconstruction(images: Tensor, output: VAEOutput, batch: Batch, step: int) -> Tensor:
        if "clean" in batch:
            return -output.likelihood.log_prob(batch["clean"]).mean()
        normal = (batch["mask"].flatten(1).amax(1) == 0).float()
        sums = torch.stack([(normal * output.likelihood.log_prob(images)).sum(), normal.sum()])
        found = joint_sum(sums, step)
        return -found[0] / found[1].clamp(min=1)
