"""What the number of a measure or log key counts, and which way it is better."""

from __future__ import annotations

NATS = "nats per image"
SHARE = "[0, 1]"
CORRELATION = "[-1, 1]"
WEIGHT = "weight"

UNITS = {
    **dict.fromkeys(("loss", "reconstruction", "kl", "total_correlation", "discriminator_loss", "iwae_bound"), NATS),
    **dict.fromkeys(("pixel_auroc", "pixel_ap", "image_auroc", "image_ap", "best_iou", "f1_max"), SHARE),
    **dict.fromkeys(("aupro", "aupimo", "energy_inside", "pointing_game", "entropy", "overlap", "empty"), SHARE),
    **dict.fromkeys(("factor_vae", "beta_vae", "mig", "dci", "dci_forest", "sap", "modularity", "irs"), SHARE),
    **dict.fromkeys(("discriminator_accuracy", "attention_overlap", "attention_empty"), SHARE),
    **dict.fromkeys(("beta", "gamma", "attention_weight"), WEIGHT),
    **dict.fromkeys(("faithfulness_deletion", "faithfulness_insertion"), "share of the change"),
    **{f"faithfulness_{name}": CORRELATION for name in ("sensitivity_n", "agreement", "randomisation")},
    **{f"faithfulness_{name}": SHARE for name in ("infidelity", "pointing_game", "energy_inside", "relevance_rank")},
    "faithfulness_instability": "relative change",
    "faithfulness_deletion_to_normal": "share of the excess",
    "f1_max_threshold": "units of the score",
    "capacity": NATS,
    "images_per_second": "images per s",
    "step_seconds": "s",
    "peak_memory_gib": "GiB",
}
"""Unit by measure; a longer name counts as the longest of these that it begins with."""

ENDS = {"_latents": "latents", "_share": SHARE, "_seconds": "s"}
"""Unit by how a name ends, which comes first."""

LOW = (
    *("loss", "reconstruction", "discriminator_loss", "overlap", "attention_overlap", "step_seconds"),
    *("empty", "attention_empty"),
    *(f"faithfulness_{name}" for name in ("deletion", "deletion_to_normal", "infidelity", "randomisation")),
    "faithfulness_instability",
)
"""Measures that are better when low."""

NEITHER = (
    *("kl", "total_correlation", "capacity", "entropy", "f1_max_threshold", "discriminator_accuracy"),
    *("peak_memory_gib", "beta", "gamma", "attention_weight"),
)
"""Measures of which neither more nor less is better."""


def unit_of(name: str) -> str:
    """Return the unit of ``name``, as in metrics.json or metrics.csv: "[0, 1]" for shares; empty where none is known.

    A score and a kind of defect behind the measure (``aupro_005_padim/cut``) and a section before it
    (``localization/aupro``) do not matter.
    """
    base = _measure(name)
    return ENDS.get(base, "") or UNITS.get(base, "")


def better_of(name: str) -> str:
    """Return "high" or "low", whichever is better for ``name``; empty where neither is, or it is not known."""
    base = _measure(name)
    if base not in UNITS or base in NEITHER:
        return ""
    return "low" if base in LOW else "high"


def _measure(name: str) -> str:
    """Return which of `ENDS` or `UNITS` a name stands for, empty for none."""
    parts = name.split("/")
    for end in ENDS:
        if any(part.endswith(end) and part not in UNITS for part in parts):
            return end
    for part in parts:
        found = [base for base in UNITS if part == base or part.startswith(f"{base}_")]
        if found:
            return max(found, key=len)
    return ""
