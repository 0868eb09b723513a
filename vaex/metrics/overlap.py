"""How much the attention maps of two latents overlap, for losses and for measuring.

Only the positive part of a map counts, so signed maps (``rectify="none"``) keep the ratio in [0, 1]; maps in half
precision are summed in fp32. A NaN in a map makes its ratio NaN.
"""

from __future__ import annotations

import torch
from torch import Tensor

from vaex.errors import VaexError

CHUNK_ELEMENTS = 1 << 20
"""Images are measured in groups of at most this many map values (4 MiB): bounds memory, and fits a CPU cache."""


def overlap_ratio(a: Tensor, b: Tensor) -> Tensor:
    """Return 2 * sum min(a, b) / sum(a + b) of each pair of maps: (B,), 0 where disjoint, 1 where identical.

    ``a`` and ``b`` (B, ...) of one shape; two empty maps give 0 and no gradient. Differentiable twice. The ratio has no
    scale, so its gradient grows as 1 / sum(a + b): clip gradients when maps may fade.

    Raises:
        VaexError: the shapes differ, or have no axis beyond the batch.

    Source: Liu et al., CVPR 2020, "Towards Visually Explaining Variational Autoencoders", Eq. 5.
    Differs: the paper leaves two empty maps undefined (0 / 0).
    """
    if a.ndim < 2 or a.shape != b.shape:
        raise VaexError(
            f"Two maps to compare must have one shape (B, H, W), got {tuple(a.shape)} and {tuple(b.shape)}: "
            "take both from the same layer and size."
        )
    a, b = positive_part(a).flatten(1), positive_part(b).flatten(1)  # (B, HW)
    return safe_ratio(2 * torch.minimum(a, b).sum(1), (a + b).sum(1))


def pairwise_overlap(maps: Tensor) -> Tensor:
    """Return `overlap_ratio` of every pair of latents: (B, T, T), symmetric, from maps (B, T, H, W).

    The diagonal is 1, or 0 for an empty map. O(T^2 H W) time per image and one group of `CHUNK_ELEMENTS` in memory.

    Raises:
        VaexError: the maps are not (B, T, H, W).
    """
    check_maps(maps)
    targets = maps.shape[1]
    result = torch.zeros(len(maps), targets, targets, device=maps.device, dtype=summable(maps))
    for part in groups(maps):
        flat = positive_part(maps[part].detach()).flatten(2)  # (b, T, HW)
        mass = flat.sum(2)  # (b, T)
        for i in range(targets):
            shared = torch.minimum(flat[:, i : i + 1], flat[:, i:]).sum(2)  # (b, T - i)
            overlap = safe_ratio(2 * shared, mass[:, i : i + 1] + mass[:, i:])
            result[part, i, i:] = overlap
            result[part, i:, i] = overlap
    return result


def mean_overlap(maps: Tensor) -> Tensor:
    """Return the mean of `overlap_ratio` over all pairs of latents: (B,) in [0, 1], from maps (B, T, H, W).

    NaN where T < 2, for then there is no pair. Carries no gradient: a loss takes `overlap_ratio` of the pairs it needs.

    Raises:
        VaexError: the maps are not (B, T, H, W).
    """
    overlaps = pairwise_overlap(maps)
    rows, columns = torch.triu_indices(maps.shape[1], maps.shape[1], offset=1, device=maps.device)
    return overlaps[:, rows, columns].mean(1)


def filled_maps(overlaps: Tensor) -> Tensor:
    """Return which maps have anything above 0, (B, T) bool, from their `pairwise_overlap` (B, T, T).

    Two maps of which one is empty overlap by 0, which says nothing of where latents look: a mean overlap is to be read
    beside the share of empty maps, or over pairs of which both are filled.
    """
    return overlaps.diagonal(dim1=1, dim2=2) > 0


def groups(maps: Tensor) -> list[slice]:
    """Return slices over the batch that hold at most `CHUNK_ELEMENTS` map values each, or one image."""
    size = max(1, CHUNK_ELEMENTS // max(1, maps[:1].numel()))
    return [slice(start, start + size) for start in range(0, len(maps), size)]


def check_maps(maps: Tensor) -> None:
    """Refuse maps that are not (B, T, H, W)."""
    if maps.ndim != 4:
        raise VaexError(f"Maps must be (B, T, H, W), one per image and latent, got {tuple(maps.shape)}.")


def check_finite(maps: Tensor) -> None:
    """Refuse maps that are not (B, T, H, W), or hold NaN or infinity."""
    check_maps(maps)
    if not bool(torch.isfinite(maps).all()):
        raise VaexError("Attention maps hold NaN or infinity: look for a diverged model.")


def summable(maps: Tensor) -> torch.dtype:
    """Return the type to sum in: fp32 for half precision, which overflows at 65504 and drops small terms."""
    return torch.promote_types(maps.dtype, torch.float32)


def positive_part(maps: Tensor) -> Tensor:
    """Return max(maps, 0), in fp32 at least."""
    return maps.to(summable(maps)).clamp(min=0)


def is_empty(mass: Tensor) -> Tensor:
    """Return where the sum of a map is zero, or so small that dividing by it would overflow."""
    return mass <= torch.finfo(mass.dtype).tiny


def safe_ratio(part: Tensor, whole: Tensor) -> Tensor:
    """Return part / whole in [0, 1], and 0 with zero gradient where the whole is empty."""
    none = is_empty(whole)
    return torch.where(none, 0.0, part / torch.where(none, 1.0, whole)).clamp(max=1.0)  # rounding may pass 1
