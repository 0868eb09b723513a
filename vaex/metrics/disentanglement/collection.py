"""Several metrics of one table of codes, by name, and the torchmetrics class that gathers the table."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torchmetrics import Metric
from torchmetrics.utilities.data import dim_zero_cat

from vaex.errors import VaexError, unknown
from vaex.metrics.disentanglement.importance import dci_forest_scores, dci_scores
from vaex.metrics.disentanglement.information import mig_scores, modularity_scores
from vaex.metrics.disentanglement.interventions import irs_scores
from vaex.metrics.disentanglement.predictors import sap_scores
from vaex.metrics.disentanglement.table import seeded
from vaex.metrics.disentanglement.votes import beta_vae_scores, factor_vae_scores

SCORES: dict[str, Callable[..., dict[str, float]]] = {
    "factor_vae": factor_vae_scores,
    "beta_vae": beta_vae_scores,
    "mig": mig_scores,
    "dci": dci_scores,
    "dci_forest": dci_forest_scores,
    "sap": sap_scores,
    "modularity": modularity_scores,
    "irs": irs_scores,
}
"""All metrics by name."""

USUAL = tuple(name for name in SCORES if name != "dci")
"""All metrics but the one that takes minutes."""


def named_metrics(names: Sequence[str]) -> list[str]:
    """Return ``names`` as a list.

    Raises:
        VaexError: for a name that is no metric, or one that comes twice.
    """
    if isinstance(names, str):
        names = [names]
    for name in names:
        if name not in SCORES:
            raise unknown("disentanglement metric", name, SCORES)
    if len(set(names)) < len(names):
        raise VaexError(f"A disentanglement metric is named twice in {', '.join(names)}: name each once.")
    return list(names)


def all_scores(codes: Any, factors: Any, names: Sequence[str] = USUAL, seed: int = 0) -> dict[str, float]:
    """Return the numbers of the metrics ``names`` of ``codes`` (N, D) and ``factors`` (N, F), under flat names.

    Raises:
        VaexError: as the metrics do; for an unknown name.
    """
    found: dict[str, float] = {}
    for name in named_metrics(names):
        found |= SCORES[name](codes, factors, seed)
    return found


def _one_width(codes: Sequence[Tensor], factors: Sequence[Tensor]) -> None:
    for name, parts in (("codes (B, D)", codes), ("factors (B, F)", factors)):
        first, *_ = widths = list(dict.fromkeys(part.shape[1] for part in parts))
        if len(widths) > 1:
            raise VaexError(
                f"DisentanglementMetrics takes {name} of one model and data set, but was fed {first} columns and then "
                f"{widths[1]}: use a metric for each, or call reset between them."
            )


class DisentanglementMetrics(Metric):
    """How far each latent stands for one factor, by the metrics ``names``, each drawing with ``seed``.

    Fed with codes and factors batch by batch; all processes' codes are put together. An image that comes twice counts
    twice.

    Raises:
        VaexError: for an unknown metric, one that is named twice, or a seed that is none.

    Examples:
        >>> metric = DisentanglementMetrics(["mig"])
        >>> factors = torch.cartesian_prod(torch.arange(20), torch.arange(20))
        >>> metric.update(factors.float(), factors)
        >>> round(float(metric.compute()["mig"]), 3)
        1.0
    """

    is_differentiable = False
    higher_is_better = True
    full_state_update = False

    codes: list[Tensor]
    factors: list[Tensor]

    def __init__(self, names: Sequence[str] = USUAL, seed: int = 0) -> None:
        super().__init__()
        seeded(seed, 0)
        self.names, self.seed = named_metrics(names), seed
        self.add_state("codes", default=[], dist_reduce_fx="cat")
        self.add_state("factors", default=[], dist_reduce_fx="cat")

    def update(self, codes: Tensor, factors: Tensor) -> None:
        """Take in the codes (B, D) and factors (B, F) of a batch.

        Raises:
            VaexError: when they are no tensors, not of the same images, or have another D or F than before.
        """
        kinds = [type(part).__name__ for part in (codes, factors) if not isinstance(part, Tensor)]
        if kinds:
            raise VaexError(f"DisentanglementMetrics takes tensors, got {kinds[0]}: the functions take arrays, too.")
        if codes.dim() != 2 or factors.dim() != 2 or len(codes) != len(factors):
            raise VaexError(
                "DisentanglementMetrics takes codes (B, D) and factors (B, F) of the same images, got "
                f"{tuple(codes.shape)} and {tuple(factors.shape)}."
            )
        _one_width([*self.codes[-1:], codes], [*self.factors[-1:], factors])
        self.codes.append(codes.detach().to(torch.promote_types(codes.dtype, torch.float32)))
        self.factors.append(factors.detach())

    def compute(self) -> dict[str, Tensor]:
        """Return scalars by name: ``factor_vae``, ``mig`` ... and what else each metric tells (see its `_scores`).

        Raises:
            VaexError: as the metrics do; when nothing was taken in.
        """
        if not len(self.codes):
            raise VaexError("DisentanglementMetrics has seen no codes: call update first.")
        if isinstance(self.codes, list):  # those of other processes have been put together
            _one_width(self.codes, self.factors)
        codes, factors = dim_zero_cat(self.codes), dim_zero_cat(self.factors)
        found = all_scores(codes, factors, self.names, self.seed)
        return {name: torch.tensor(value, device=self.device) for name, value in found.items()}
