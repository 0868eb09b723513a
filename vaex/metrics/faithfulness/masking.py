"""Relevance rank: of as many top pixels as the truth has, how many lie in it."""

from __future__ import annotations

import torch
from torch import Tensor

from vaex.errors import VaexError
from vaex.metrics.overlap import check_finite


def relevance_rank(maps: Tensor, masks: Tensor) -> Tensor:
    """Return the share of the mask's size that the top |mask| pixels of |map| hit: (B, T) in [0, 1], high is good.

    ``maps`` (B, T, H, W), ``masks`` of one truth per map, or (B, 1, H, W) for all, with values above one half inside.
    Pixels that tie at the edge of the top count by their share, so a flat map earns chance, the mask's share of the
    image. NaN for an empty mask: there is nothing to hit.

    Raises:
        VaexError: when the shapes do not fit, or a map is not finite.

    Source: Arras et al., Information Fusion 2022, "CLEVR-XAI", relevance rank accuracy. Differs: the size |map|, and
    ties by their share.
    """
    check_finite(maps)
    if (
        masks.dim() != 4
        or masks.shape[1] not in (1, maps.shape[1])
        or (masks.shape[0] != maps.shape[0] or masks.shape[2:] != maps.shape[2:])
    ):
        raise VaexError(
            f"Masks must fit maps of {tuple(maps.shape)}, one for each or one for all, got {tuple(masks.shape)}."
        )
    inside = (masks.to(maps.device) > 0.5).expand_as(maps).flatten(2)  # (B, T, HW)
    values = maps.abs().flatten(2).double()
    count = inside.sum(2, keepdim=True)  # (B, T, 1)
    ordered = values.sort(dim=2, descending=True).values
    edge = ordered.gather(2, (count - 1).clamp(min=0))  # the smallest value that is still among the top
    above, level = values > edge, values == edge
    left = count - above.sum(2, keepdim=True)  # places that the level pixels share
    hits = (above & inside).sum(2) + (level & inside).sum(2) * (left / level.sum(2, keepdim=True)).squeeze(2)
    return torch.where(count.squeeze(2) > 0, hits / count.squeeze(2).clamp(min=1), torch.nan)
