"""Which latent each map of an explanation is of, and which maps to draw under which title."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from vaex.attention import Target
from vaex.attention.targets import TargetLike, target_named
from vaex.types import Explanation


def latents_of_maps(explanation: Explanation, target: TargetLike, latents: Sequence[int] | None) -> list[int] | None:
    """Return the latent of each of the T maps; None where a map is of several (a total) or of a function of the code.

    ``target`` and ``latents`` are what the maps were computed with.
    """
    found = target_named(target)
    if not isinstance(found, Target) or found.total or found.single:
        return None
    return list(range(explanation.maps.shape[1])) if latents is None else list(latents)


def kl_of_maps(explanation: Explanation, names: Sequence[int]) -> Tensor | None:
    """Return the KL (B, T) in nats of the latents ``names``; None where it is not stated latent by latent."""
    kl = explanation.kl
    if kl is None or kl.shape[1] != explanation.mean.shape[1]:  # not stated, or of a prior that does not factorise
        return None
    return kl[:, list(names)]


def strongest(explanation: Explanation, names: Sequence[int], count: int) -> list[int]:
    """Return the positions of ``count`` maps by falling mean KL over the images; the first ones where no KL is stated.

    ``names`` holds the latent of each map.
    """
    kl = kl_of_maps(explanation, names)
    if kl is None:
        return list(range(len(names)))[:count]
    order: list[int] = kl.mean(0).argsort(descending=True, stable=True)[:count].tolist()
    return order


def columns_to_draw(
    explanation: Explanation, count: int, target: TargetLike, latents: Sequence[int] | None
) -> tuple[list[int], list[str]]:
    """Return the ``count`` maps to draw and their titles: latents by falling mean KL over the images, with that KL.

    ``target`` and ``latents`` are what the maps were computed with.
    """
    names = latents_of_maps(explanation, target, latents)
    if names is None:
        total = explanation.maps.shape[1]
        return list(range(total))[:count], titles_of_totals(total, target)[:count]
    order = strongest(explanation, names, count)
    kl = kl_of_maps(explanation, names)
    mean = None if kl is None else kl.mean(0)
    return order, [title_of(names[i], None if mean is None else float(mean[i])) for i in order]


def title_of(latent: int, kl: float | None) -> str:
    """Return what stands above the map of a latent, with its KL in nats where that is known."""
    return f"z{latent}" if kl is None else f"z{latent}  KL {kl:.2f} nats"


def titles_of_totals(count: int, target: TargetLike) -> list[str]:
    """Return what stands above maps that are of no single latent: the names that ``target`` gives them, if it does."""
    titles: Sequence[str] = getattr(target_named(target), "titles", ())
    if titles:
        return list(titles)
    return ["total"] if count == 1 else [f"target {i}" for i in range(count)]
