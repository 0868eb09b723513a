"""Do maps tell the truth? Functions of images, maps and values (B, T), and a torchmetrics class.

Maps come in as tensors, or as callables where a measure needs those of other images or networks, so any tool's maps can
be measured. The sign of a latent is arbitrary, so the size |map| is what is measured, but where a map has to add up.
"""

from typing import TYPE_CHECKING

from vaex.lazy import lazy_exports

if TYPE_CHECKING:
    from vaex.metrics.faithfulness.collection import FaithfulnessMetrics
    from vaex.metrics.faithfulness.decoding import agreement, decoded_response, without_latents
    from vaex.metrics.faithfulness.masking import relevance_rank
    from vaex.metrics.faithfulness.measures import MEASURES
    from vaex.metrics.faithfulness.noise import instability
    from vaex.metrics.faithfulness.perturbing import (
        Trials,
        infidelity,
        removal_changes,
        sensitivity_n,
        square_masks,
        subset_masks,
    )
    from vaex.metrics.faithfulness.question import Answer, Question, Settings
    from vaex.metrics.faithfulness.randomising import cascade, map_similarity, randomisation_curve, weighted_modules
    from vaex.metrics.faithfulness.removal import (
        curve_area,
        deletion,
        deletion_curve,
        deletion_to_normal,
        insertion,
        insertion_curve,
        values_along,
    )
    from vaex.metrics.pointing import FactorPointing, energy_in_masks, match_factors, pointing_hits

__all__ = [
    "MEASURES",
    "Answer",
    "FactorPointing",
    "FaithfulnessMetrics",
    "Question",
    "Settings",
    "Trials",
    "agreement",
    "cascade",
    "curve_area",
    "decoded_response",
    "deletion",
    "deletion_curve",
    "deletion_to_normal",
    "energy_in_masks",
    "infidelity",
    "insertion",
    "insertion_curve",
    "instability",
    "map_similarity",
    "match_factors",
    "pointing_hits",
    "randomisation_curve",
    "relevance_rank",
    "removal_changes",
    "sensitivity_n",
    "square_masks",
    "subset_masks",
    "values_along",
    "weighted_modules",
    "without_latents",
]

_HOMES = {
    "collection": ["FaithfulnessMetrics"],
    "measures": ["MEASURES"],
    "question": ["Answer", "Question", "Settings"],
    "decoding": ["agreement", "decoded_response", "without_latents"],
    "masking": ["relevance_rank"],
    "noise": ["instability"],
    "perturbing": [
        *("Trials", "infidelity", "removal_changes", "sensitivity_n", "square_masks", "subset_masks"),
    ],
    "randomising": ["cascade", "map_similarity", "randomisation_curve", "weighted_modules"],
    "removal": [
        *("curve_area", "deletion", "deletion_curve", "deletion_to_normal"),
        *("insertion", "insertion_curve", "values_along"),
    ],
}

__getattr__, __dir__ = lazy_exports(
    __name__,
    {name: f"{__name__}.{home}" for home, names in _HOMES.items() for name in names}
    | dict.fromkeys(["FactorPointing", "energy_in_masks", "match_factors", "pointing_hits"], "vaex.metrics.pointing"),
)
