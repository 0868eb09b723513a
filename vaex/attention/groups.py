"""Latents in groups: what the KL of each group is, one map for each, with a name."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from vaex.attention.target import Seen, Target
from vaex.data.anomalies import KINDS
from vaex.errors import VaexError
from vaex.types import Posterior


def group_sums(values: Tensor, count: int) -> Tensor:
    """Return the sums (B, G, ...) over the latents of ``count`` groups of values (B, D, ...).

    Latent d is of group d mod G, so that groups are alike wherever latents come in an order.

    Raises:
        VaexError: for fewer latents than groups.
    """
    if values.shape[1] < count:
        raise VaexError(f"{count} groups need as many latents at least, and the model has {values.shape[1]}.")
    return torch.stack([values[:, group::count].sum(1) for group in range(count)], 1)


def check_names(what: str, names: Any) -> tuple[str, ...]:
    """Return the names of groups as a tuple.

    Raises:
        VaexError: for fewer than two, for one that is given twice, or for what is no list of names.
    """
    listed = isinstance(names, Sequence) and not isinstance(names, str) and all(isinstance(name, str) for name in names)
    if not listed or len(names) < 2 or len(set(names)) < len(names):
        raise VaexError(f"{what} must be a list of at least two different names, got {names!r}.")
    return tuple(names)


@dataclass(frozen=True)
class KindsKL(Target):
    """KL to the prior in nats of the latents of each kind of defect: which kind does the image look like here?

    A map for each of ``names``, in the order in which the model was trained to tell them (``objective.kinds``).

    Raises:
        VaexError: for a list without at least two different names, fewer latents than names, or a model of vaex that
            was trained with other names or none.
    """

    single = True
    names: tuple[str, ...] = KINDS

    def __post_init__(self) -> None:
        object.__setattr__(self, "names", check_names("names of target 'kinds'", self.names))

    @property
    def titles(self) -> tuple[str, ...]:
        """Names of the maps."""
        return self.names

    def values(self, seen: Seen) -> Tensor:
        """Return (B, G)."""
        config = getattr(seen.model, "config", None)
        trained = (config.get("objective") or {}).get("kinds") if config else self.names
        if not trained:
            raise VaexError("The model was not trained to tell kinds of defects; train it with objective.kinds.")
        if tuple(trained) != self.names:
            raise VaexError(
                f"The model was trained to tell {', '.join(trained)}, and not {', '.join(self.names)}; give the former "
                "as names of target 'kinds'."
            )
        kl = Posterior(seen.code.mean, seen.code.need_logvar("target 'kinds'")).kl_to_normal()
        return group_sums(seen.reduce(kl), len(self.names))
