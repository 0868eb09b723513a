"""torchmetrics: the functional form first, the class a thin state around it."""

from typing import TYPE_CHECKING

from vaex.lazy import lazy_exports

if TYPE_CHECKING:
    from vaex.metrics.detection import DetectionMetrics
    from vaex.metrics.disentanglement.collection import DisentanglementMetrics
    from vaex.metrics.faithfulness.collection import FaithfulnessMetrics
    from vaex.metrics.latents import active_latents, active_units
    from vaex.metrics.localization import LocalizationMetrics
    from vaex.metrics.maps import MapMetrics, energy_inside, map_entropy, pointing_game
    from vaex.metrics.overlap import mean_overlap, overlap_ratio, pairwise_overlap
    from vaex.metrics.ranking import auroc, average_precision

__all__ = [
    "DetectionMetrics",
    "DisentanglementMetrics",
    "FaithfulnessMetrics",
    "LocalizationMetrics",
    "MapMetrics",
    "active_latents",
    "active_units",
    "auroc",
    "average_precision",
    "energy_inside",
    "map_entropy",
    "mean_overlap",
    "overlap_ratio",
    "pairwise_overlap",
    "pointing_game",
]

_LATENTS = ["active_latents", "active_units"]
_MAPS = ["MapMetrics", "energy_inside", "map_entropy", "pointing_game"]
_OVERLAP = ["mean_overlap", "overlap_ratio", "pairwise_overlap"]

__getattr__, __dir__ = lazy_exports(
    __name__,
    {
        "DetectionMetrics": "vaex.metrics.detection",
        "DisentanglementMetrics": "vaex.metrics.disentanglement.collection",
        "FaithfulnessMetrics": "vaex.metrics.faithfulness.collection",
        "LocalizationMetrics": "vaex.metrics.localization",
    }
    | dict.fromkeys(_LATENTS, "vaex.metrics.latents")
    | dict.fromkeys(_MAPS, "vaex.metrics.maps")
    | dict.fromkeys(_OVERLAP, "vaex.metrics.overlap")
    | dict.fromkeys(["auroc", "average_precision"], "vaex.metrics.ranking"),
)
