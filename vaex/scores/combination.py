"""Several scores as one: their maps on one scale, weighed by how well they find defects pasted on held-out images."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.nn import functional as F

from vaex.errors import VaexError
from vaex.scores.evidence import Evidence
from vaex.scores.score import Score

CELLS = 64
"""Cells a side, at most, at which weights are chosen."""

INSIDE, OUTSIDE = 0.5, 0.01
"""Share of a cell in the mask from which it is a defect, and up to which it is normal; others do not count."""

RIDGE = 1e-3
"""Penalty on squared weights, so that maps that separate perfectly keep finite ones."""

STEPS = 200  # of L-BFGS at most; some 20 are taken


@dataclass(frozen=True)
class Combination(Score):
    """Weighted sum of the maps of the scores ``of``, each standardised by mean and deviation over normal pixels.

    The weights, 0 or more, are those of a logistic regression that tells the pixels of pasted defects from normal
    ones, both counting half; mean, deviation and weights are fitted to held-out normal images and copies of them with
    `vaex.data.anomalies.paste_defects`. ``of`` holds names, or mappings of name and options, of two scores or more.

    Raises:
        VaexError: for fewer than two scores, two under one name, one without a map, or one that stands on another.
    """

    of: Sequence[Any] = ("attention", "reconstruction")

    name: ClassVar = "combination"
    fit_options: ClassVar = ("of",)

    def __post_init__(self) -> None:
        super().__post_init__()
        names = [base.known_as for base in self.bases]
        if len(set(names)) < 2 or len(set(names)) < len(names):
            raise VaexError(f"score=combination takes two scores or more by different names in `of`, got {names}.")
        if borrowed := [base.known_as for base in self.bases if not base.own_map]:
            raise VaexError(f"score=combination adds maps, and '{borrowed[0]}' has none of its own, only a number.")
        if nested := [base.known_as for base in self.bases if base.bases]:
            raise VaexError(f"score=combination cannot hold '{nested[0]}', which stands on another score.")

    @property
    def bases(self) -> Sequence[Score]:
        """The scores that are combined."""
        from vaex.scores.registry import score_named  # the registry knows this module

        if isinstance(self.of, str) or not isinstance(self.of, Sequence):
            raise VaexError(f"Option `of` of score=combination must be a list of scores, got {self.of!r}.")
        return [score_named(base) for base in self.of]

    @property
    def reads(self) -> tuple[str, ...]:  # type: ignore[override] # it depends on the scores
        """What the scores read together."""
        return tuple(dict.fromkeys(name for base in self.bases for name in base.reads))

    def over(self, base: Score) -> Score:
        """Return the combination with ``base`` where that is named alone."""
        of = [base.as_options() if one == base.known_as else one for one in self.of]
        return replace(self, of=of) if of != list(self.of) else self

    def options_of_fit(self) -> dict[str, Any]:
        """Return the scores as plain values, as a checkpoint keeps them."""
        return {"of": [dict(base) if isinstance(base, Mapping) else str(base) for base in self.of]}

    def fitter(self) -> CombinationFitter:
        """Return what chooses the weights."""
        return CombinationFitter(self)

    def missing(self, evidence: Evidence) -> bool:
        """Return whether one of the scores lacks what it looks at, or nothing was fitted."""
        return super().missing(evidence) or any(base.missing(evidence) for base in self.bases)

    def measure(self, evidence: Evidence) -> Tensor:
        """Return (B, 1, H, W)."""
        found = self.fitted(evidence)
        maps = stacked_maps(self.bases, evidence)
        mean, scale = (found[key].to(maps).view(1, -1, 1, 1) for key in ("mean", "deviation"))
        weights = found["weights"].to(maps).view(1, -1, 1, 1)
        combined: Tensor = ((maps - mean) / scale * weights).sum(1, keepdim=True)
        return combined


def stacked_maps(bases: Sequence[Score], evidence: Evidence) -> Tensor:
    """Return the score maps of a batch side by side, (B, number of scores, H, W)."""
    return torch.cat([base(evidence).score_map.float() for base in bases], 1)


class CombinationFitter:
    """Mean, deviation and weight of each map, from held-out images without and with pasted defects."""

    def __init__(self, score: Combination) -> None:
        self.bases = score.bases
        self.maps: list[Tensor] = []  # each (S, M), the cells that count
        self.defect: list[Tensor] = []  # each (M,)

    def take(self, evidence: Evidence) -> None:
        """Pass over training images: scores that were fitted to them find them more normal than others."""

    def take_defects(self, evidence: Evidence, masks: Tensor) -> None:
        """Take in a batch of held-out images with defects pasted where ``masks`` (B, 1, H, W) are 1."""
        maps = stacked_maps(self.bases, evidence)
        cells = min(CELLS, maps.shape[-2]), min(CELLS, maps.shape[-1])
        share = F.adaptive_avg_pool2d(masks.to(maps), cells).flatten()
        maps = F.adaptive_avg_pool2d(maps, cells).transpose(0, 1).flatten(1)  # (S, B * cells)
        counts = (share >= INSIDE) | (share <= OUTSIDE)
        self.maps.append(maps[:, counts].cpu())
        self.defect.append((share >= INSIDE)[counts].cpu())

    def state(self, held_out: Sequence[Evidence]) -> dict[str, Any]:
        """Return ``mean``, ``deviation`` and ``weights`` (S,)."""
        if not held_out or not self.maps:
            raise VaexError(
                "score=combination chooses its weights by held-out normal images, of which there are none; hold some "
                "out, such as by data.val_fraction=0.1."
            )
        normal = torch.cat([stacked_maps(self.bases, part).transpose(0, 1).flatten(1).cpu() for part in held_out], 1)
        mean, deviation = normal.mean(1), normal.std(1)
        if not bool((deviation > 0).all()):
            flat = self.bases[int((deviation > 0).int().argmin())].known_as
            raise VaexError(f"score=combination cannot weigh '{flat}': its map is the same at every normal pixel.")
        values = (torch.cat(self.maps, 1) - mean[:, None]) / deviation[:, None]
        return {"mean": mean, "deviation": deviation, "weights": defect_weights(values, torch.cat(self.defect))}


def defect_weights(values: Tensor, defect: Tensor) -> Tensor:
    """Return weights (S,), 0 or more, of a logistic regression of ``defect`` (M,) on ``values`` (S, M).

    Defects and normal cells count half each, however many they are; the penalty is `RIDGE` times the squared weights.

    Raises:
        VaexError: when there are no defects, or nothing else.
    """
    values, label = values.double(), defect.double()
    hits = float(label.sum())
    if not 0 < hits < len(label):
        raise VaexError("Weights of scores need cells inside and outside of defects; hold out more images.")
    balance = torch.where(defect, 0.5 / hits, 0.5 / (len(label) - hits))
    roots = torch.full((len(values),), len(values) ** -0.5, dtype=torch.float64, requires_grad=True)  # weight = root^2
    offset = torch.zeros((), dtype=torch.float64, requires_grad=True)
    search = torch.optim.LBFGS([roots, offset], max_iter=STEPS, line_search_fn="strong_wolfe", tolerance_grad=1e-10)

    def loss() -> Tensor:
        search.zero_grad()
        weights = roots.square()
        logits = weights @ values + offset
        found = (balance * F.binary_cross_entropy_with_logits(logits, label, reduction="none")).sum()
        found = found + RIDGE * weights.square().sum()
        found.backward()
        return found

    with torch.enable_grad(), torch.inference_mode(False):
        search.step(loss)
    return roots.detach().square().float()
