"""PatchCore: the distance of every patch to the nearest one in a memory of normal patches."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.nn import functional as F

from vaex.errors import VaexError, unknown
from vaex.scores.evidence import Evidence
from vaex.scores.feature import FeatureScore, by_position, raw_features

SAMPLINGS = ("random", "greedy")


@dataclass(frozen=True)
class PatchCore(FeatureScore):
    """Euclidean distance to the nearest of ``patches`` normal patches: features averaged over 3 x 3 cells, raw.

    ``sampling`` "greedy" keeps those that cover all others best (k-centre, on 64 random projections, out of ten times
    as many drawn at random), "random" any; both by ``seed``.

    Source: Roth et al., "Towards Total Recall in Industrial Anomaly Detection", CVPR 2022, sections 3.1 to 3.3.
    Differs: the number of an image is the maximum of its smoothed map, not reweighted by neighbours; the backbone and
        its grid are the model's; each channel is divided by its deviation over normal patches.

    Raises:
        VaexError: for an unknown sampling, or fewer than 1 patch.
    """

    patches: int = 10000
    sampling: str = "random"
    seed: int = 0

    name: ClassVar = "patchcore"
    reads: ClassVar = ("raw",)
    fit_options: ClassVar = ("patches", "sampling", "seed")

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.sampling not in SAMPLINGS:
            raise unknown("sampling of score 'patchcore'", self.sampling, SAMPLINGS)
        if self.patches < 1:
            raise VaexError(f"Option patches of score 'patchcore' must be at least 1, got {self.patches}.")

    def values(self, evidence: Evidence) -> Tensor:
        """Return patches (B, h * w, K)."""
        features = raw_features(evidence, self.known_as)
        return by_position(F.avg_pool2d(features, 3, 1, 1, count_include_pad=False))

    def fitter(self) -> PatchFitter:
        """Return what fills the memory."""
        return PatchFitter(self)

    def measure(self, evidence: Evidence) -> Tensor:
        """Return the distance (B, 1, h, w)."""
        patches = self.values(evidence)
        state = self.fitted(evidence)
        memory, scale = state["memory"].to(patches), state["scale"].to(patches)
        if memory.shape[1] != patches.shape[2]:
            raise VaexError(
                f"score={self.known_as} was fitted to {memory.shape[1]} channels, this model has {patches.shape[2]}; "
                "run `vaex calibrate ckpt=... score=patchcore`."
            )
        nearest = [nearest_distance(image / scale, memory) for image in patches]  # one by one: it is M numbers a patch
        cells = raw_features(evidence, self.known_as).shape[2:]
        distance: Tensor = torch.stack(nearest).unflatten(1, cells)[:, None]
        return distance


def nearest_distance(points: Tensor, memory: Tensor) -> Tensor:
    """Return the Euclidean distance (N,) of ``points`` (N, K) to the nearest of ``memory`` (M, K).

    By one matrix product, as `torch.cdist` has it for more than 25 points, which onnxruntime does not know. Both are
    taken from the centre of the memory first, for of long vectors close to each other the product leaves no digits.
    """
    centre = memory.mean(0)
    points, memory = points - centre, memory - centre
    squared = memory.square().sum(1) - 2 * points @ memory.T  # (N, M), less the squared length of the point
    return (squared.amin(1) + points.square().sum(1)).clamp(min=0).sqrt()


class PatchFitter:
    """A sample of all normal patches, drawn in one pass: of each batch its share, at random."""

    def __init__(self, score: PatchCore) -> None:
        self.score = score
        self.generator = torch.Generator().manual_seed(score.seed)
        self.most = score.patches * (10 if score.sampling == "greedy" else 1)
        self.keys = torch.empty(0)
        self.kept: Tensor | None = None
        self.count = 0
        self.sums: list[Tensor] = []

    def take(self, evidence: Evidence) -> None:
        """Take in a batch of normal images: the patches with the lowest random keys of all stay."""
        patches = self.score.values(evidence).flatten(0, 1).float().cpu()  # (B h w, K)
        double = patches.double()
        moments = torch.stack([double.sum(0), double.square().sum(0)])
        self.sums = [moments if not self.sums else self.sums[0] + moments]
        self.count += len(patches)
        keys = torch.cat([self.keys, torch.rand(len(patches), generator=self.generator)])
        patches = patches if self.kept is None else torch.cat([self.kept, patches])
        order = keys.argsort()[: self.most].sort().values
        self.keys, self.kept = keys[order], patches[order]

    def state(self, held_out: Sequence[Evidence]) -> dict[str, Any]:
        """Return the memory (M, K) and the deviation of every channel (K,)."""
        if self.kept is None:
            raise VaexError("score=patchcore needs normal images to be fitted to.")
        total, squares = self.sums[0] / self.count
        scale = (squares - total.square()).clamp(min=1e-12).sqrt().float()
        memory = self.kept / scale
        if self.score.sampling == "greedy":
            memory = memory[k_centre(memory, self.score.patches, self.generator)]
        return {"memory": memory.half().float(), "scale": scale}


def k_centre(points: Tensor, count: int, generator: torch.Generator) -> Tensor:
    """Return which ``count`` of ``points`` (N, K) cover the others: each next one is the farthest from those before.

    Distances are those of 64 random projections.

    Source: Roth et al., CVPR 2022, algorithm 1; Johnson & Lindenstrauss, 1984, for the projection.
    """
    if count >= len(points):
        return torch.arange(len(points))
    if points.shape[1] > 64:
        points = points @ (torch.randn(points.shape[1], 64, generator=generator) / 8)
    chosen = [int(torch.randint(len(points), (), generator=generator))]
    distance = (points - points[chosen[0]]).square().sum(1)
    while len(chosen) < count:
        chosen.append(int(distance.argmax()))
        distance = torch.minimum(distance, (points - points[chosen[-1]]).square().sum(1))
    return torch.tensor(chosen)
