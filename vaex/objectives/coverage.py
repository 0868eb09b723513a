"""Attention that is to cover normal images: the ELBO plus a price on what the attention map leaves out."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from vaex.attention import attention_maps
from vaex.attention.gradients import summable
from vaex.attention.targets import target_named
from vaex.attention.values import target_values
from vaex.errors import VaexError, unknown
from vaex.networks.vae import VAE
from vaex.objectives.codes import check_weights
from vaex.objectives.elbo import elbo_terms
from vaex.objectives.layers import readable_layer
from vaex.objectives.terms import Terms
from vaex.types import Batch, Posterior, VAEOutput

COMPLEMENTS = ("one_minus_sigmoid", "one_minus_min_max")
"""Rectifications 1 - A of `vaex.attention.methods`, with an attention A in [0, 1]: what it leaves out of each cell."""


def extended_log_barrier(excess: Tensor, t: float) -> Tensor:
    """Return the price of ``excess`` z, which is to be at most 0: -log(-z) / t, beyond -1 / t^2 its tangent.

    Unlike the logarithm it is finite, with slope ``t``, where the constraint is not kept.

    Source: Kervadec et al., "Constrained deep networks: Lagrangian optimization via log-barrier extensions", 2019.
    """
    inside = -torch.log((-excess).clamp(min=1 / t**2)) / t
    beyond = t * excess - math.log(1 / t**2) / t + 1 / t
    return torch.where(excess <= -1 / t**2, inside, beyond)


class AttentionExpansion:
    """(Reconstruction + ``beta`` KL) per value, plus ``weight`` times what the attention leaves out of normal images.

    The attention A in [0, 1] is ``method`` of ``target`` at ``layer`` (None: `default_layer`), squashed as
    ``rectify`` says, which is one of `COMPLEMENTS`: the map 1 - A that is trained is the one that
    `vaex.explain` gives with the same options, and at the test it is the anomaly map. What is left out is its mean
    over cells and images. The encoder may hold no batch-norm that trains.

    Its parts are ``reconstruction`` and ``kl`` in nats per image, ``attention_left_out`` in [0, 1] and ``price``, what
    is weighed by ``weight``.

    Source: Venkataramanan et al., "Attention Guided Anomaly Localization in Images", ECCV 2020, Eq. 3 (CAVGA-u).
    Differs: no adversarial term; the network and its code may be any.

    Raises:
        VaexError: for a target of several values, an unknown rectification, or a weight out of range.
    """

    needs: tuple[str, ...] = ()

    def __init__(
        self,
        weight: float = 0.01,
        layer: str | None = None,
        method: str = "grad_cam",
        target: str = "sum",
        rectify: str = "one_minus_sigmoid",
        beta: float = 1.0,
    ) -> None:
        check_weights(weight=weight, beta=beta)
        if rectify not in COMPLEMENTS:
            raise unknown("objective.rectify", rectify, COMPLEMENTS)
        found = target_named(target)
        if not (getattr(found, "total", False) or getattr(found, "single", False)):
            raise VaexError(f"objective.target must be one value for an image, such as sum, got {target!r}.")
        self.weight, self.layer, self.method, self.target = weight, layer, method, target
        self.rectify, self.beta = rectify, beta
        self.keep: tuple[str, ...] = () if layer is None else (layer,)

    def bind(self, model: VAE) -> None:
        """Find the layer in ``model``, and that it gives a map."""
        self.layer = readable_layer(model, self.layer, "objective.layer", method=self.method, target=self.target)
        self.keep = (self.layer,)

    def maps(self, output: VAEOutput) -> Tensor:
        """Return 1 - A, (B, 1, h, w) in [0, 1], with its graph.

        Raises:
            VaexError: before `bind`, where no layer was named.
        """
        if self.layer is None:
            raise VaexError("objective.layer is not known: give the model to build_objective too, or name a layer.")
        posterior = Posterior(*(summable(part) for part in output.posterior))
        targets = target_values(posterior, self.target)
        activation = output.activations[self.layer]
        return summable(attention_maps(activation, targets, self.method, self.rectify, create_graph=True))

    def price(self, left_out: Tensor) -> Tensor:
        """Return the price, (), of the mean of 1 - A over the cells of each image, (B,)."""
        return left_out.mean()

    def __call__(self, images: Tensor, output: VAEOutput, step: int, batch: Batch | None = None) -> Terms:
        """Return the terms; ``step`` does not matter."""
        total, parts = elbo_terms(images, output, self.beta)
        del parts["beta"]
        left_out = self.maps(output).flatten(1).mean(1)  # (B,)
        price = self.price(left_out)
        parts |= {"attention_left_out": left_out.mean(), "price": price}
        return Terms(total / output.reconstruction[0].numel() + self.weight * price, parts)


class AttentionSize(AttentionExpansion):
    """The same, with the attention of every normal image to have a mean of at least 1 - ``share``.

    The price of an image is the `extended_log_barrier` of (mean of 1 - A) - ``share``, of steepness ``t``. Nothing
    else is asked of an image whose attention is large enough, while `AttentionExpansion` always asks for more.

    Source: Silva-Rodriguez et al., "Looking at the whole picture: constrained unsupervised anomaly segmentation", BMVC
    2021.
    Differs: the network; the ELBO is per value.

    Raises:
        VaexError: as `AttentionExpansion`; for a share outside (0, 1), or a ``t`` that is not above 0.
    """

    def __init__(
        self,
        weight: float = 10.0,
        layer: str | None = None,
        method: str = "grad_cam",
        target: str = "sum",
        rectify: str = "one_minus_sigmoid",
        beta: float = 1.0,
        share: float = 0.2,
        t: float = 20.0,
    ) -> None:
        super().__init__(weight, layer, method, target, rectify, beta)
        if not (0 < share < 1 and 0 < t < math.inf):
            raise VaexError(f"objective.share must be in (0, 1) and objective.t above 0, got {share} and {t}.")
        self.share, self.t = share, t

    def price(self, left_out: Tensor) -> Tensor:
        """Return the mean barrier of the images, ()."""
        return extended_log_barrier(left_out - self.share, self.t).mean()
