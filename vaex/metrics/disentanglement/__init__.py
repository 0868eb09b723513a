"""Disentanglement of codes (N, D) against known factors (N, F): functions, and a torchmetrics class.

Each metric is a function that returns its headline number as a float, and one named ``<metric>_scores`` that returns
all of its numbers.
"""

from typing import TYPE_CHECKING

from vaex.lazy import lazy_exports

if TYPE_CHECKING:
    from vaex.metrics.disentanglement.collection import DisentanglementMetrics, all_scores
    from vaex.metrics.disentanglement.importance import dci, dci_forest, dci_forest_scores, dci_scores
    from vaex.metrics.disentanglement.information import (
        information_matrix,
        mig,
        mig_scores,
        modularity,
        modularity_scores,
    )
    from vaex.metrics.disentanglement.interventions import irs, irs_scores
    from vaex.metrics.disentanglement.predictors import sap, sap_scores
    from vaex.metrics.disentanglement.votes import beta_vae, beta_vae_scores, factor_vae, factor_vae_scores

__all__ = [
    "DisentanglementMetrics",
    "all_scores",
    "beta_vae",
    "beta_vae_scores",
    "dci",
    "dci_forest",
    "dci_forest_scores",
    "dci_scores",
    "factor_vae",
    "factor_vae_scores",
    "information_matrix",
    "irs",
    "irs_scores",
    "mig",
    "mig_scores",
    "modularity",
    "modularity_scores",
    "sap",
    "sap_scores",
]

_HOMES = {
    "collection": ["DisentanglementMetrics", "all_scores"],
    "importance": ["dci", "dci_forest", "dci_forest_scores", "dci_scores"],
    "information": ["information_matrix", "mig", "mig_scores", "modularity", "modularity_scores"],
    "interventions": ["irs", "irs_scores"],
    "predictors": ["sap", "sap_scores"],
    "votes": ["beta_vae", "beta_vae_scores", "factor_vae", "factor_vae_scores"],
}

__getattr__, __dir__ = lazy_exports(
    __name__, {name: f"{__name__}.{home}" for home, names in _HOMES.items() for name in names}
)
