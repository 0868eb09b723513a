"""`vaex bench what=kinds`: do the latents that stand for kinds of defects name them (objective.kinds)?

Asked are new defects, pasted on the validation images of a run, which it was not trained on: which group of latents has
the most energy inside the mask? Beside them the defective test images, whose kinds the training did not know.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from vaex.attention import latent_attention
from vaex.attention.groups import KindsKL, group_sums
from vaex.attention.isolation import undisturbed
from vaex.benchmarks.table import Table
from vaex.data.anomalies import KINDS
from vaex.data.records import PastedSet
from vaex.errors import VaexError
from vaex.explanation import features_before
from vaex.metrics.kinds import Association, association, counted, named_kinds
from vaex.networks.feature_vae import statistics_of
from vaex.objectives.synthetic import direct_energy

ATTENTION, DIRECT = "attention (HiResCAM of the KL)", "the same code, read directly"
ELSEWHERE, BEFORE = "control: attention at another defect's place", "control: before training, read directly"
HELD_OUT = 0x61D5  # sets these defects apart from those that training and validation have
BATCH = 8


@dataclass(frozen=True)
class KindFindings:
    """What one run names: for each row the share of defects that are named rightly, and how often which is named."""

    name: str
    map: str
    """What was trained, attention or direct."""
    kinds: tuple[str, ...]
    counts: tuple[int, ...]
    """Pasted defects of each kind."""
    accuracy: Mapping[str, float]
    confusion: Mapping[str, Sequence[Sequence[int]]]
    """Row -> kind that was pasted -> kind that is named."""
    groups: tuple[str, ...]
    """Kinds of the test's defects."""
    named: Mapping[str, Sequence[Sequence[int]]]
    """Row -> kind of the test -> kind that is named."""
    association: Mapping[str, Association]


Energies = Callable[[Tensor], Tensor]


def readings(model: Any, fresh: Any, kinds: Sequence[str], layer: str) -> dict[str, Energies]:
    """Return by row what takes images (B, C, H, W) to the energies of the groups at each cell, (B, G, h, w)."""
    if hasattr(model, "remember"):  # both ask for the same features
        model.remember()
        fresh.load_state_dict(statistics_of(model), strict=False)

    def attention(images: Tensor) -> Tensor:
        target, seen = KindsKL(tuple(kinds)), features_before(model, images)
        return latent_attention(
            model, seen, layer, method="hires_cam", target=target, rectify="none", size="layer"
        ).cpu()

    def direct(of: Any) -> Energies:
        def energies(images: Tensor) -> Tensor:
            seen = features_before(model, images)
            with undisturbed(of, seen) as pixels, torch.no_grad():
                mean = of.encode(pixels).mean
            if mean.dim() != 4:
                raise VaexError("vaex bench what=kinds reads latent grids; train with network=feature_grid.")
            return group_sums(direct_energy(mean.float()), len(kinds)).cpu()

        return energies

    return {ATTENTION: attention, DIRECT: direct(model), BEFORE: direct(fresh)}


def measure_kinds(name: str, model: Any, fresh: Any, data: Any, copies: int = 10) -> KindFindings:
    """Measure one run: ``copies`` defects on each of its normal validation images, and its defective test images.

    ``fresh`` is the same network with other weights, as before training.

    Raises:
        VaexError: for a model that was not trained to tell kinds, or data without validation images to paste into.
    """
    objective = model.config.get("objective") or {}
    kinds = tuple(objective.get("kinds") or ())
    if not kinds:
        raise VaexError(f"{name} was not trained to tell kinds of defects; train it with objective.kinds.")
    if not isinstance(getattr(data, "val_set", None), PastedSet):
        raise VaexError(f"{name} has no validation images to paste defects into; give data.synthetic=true.")
    device = next(model.parameters()).device
    ways = readings(model, fresh, kinds, objective.get("layer", "input"))
    held_out = PastedSet(
        data.val_set.source, int(np.random.SeedSequence((data.seed, HELD_OUT)).generate_state(1)[0]), copies
    )
    wanted = torch.tensor([*(kinds.index(kind) if kind in kinds else -1 for kind in KINDS), -1])
    told: list[Tensor] = []
    named: dict[str, list[Tensor]] = {}
    for start in range(0, len(held_out), BATCH):
        batch = held_out.__getitems__(list(range(start, min(start + BATCH, len(held_out)))))
        kind = wanted[batch["kind"]]
        images, masks, kind = batch["image"][kind >= 0], batch["mask"][kind >= 0], kind[kind >= 0]
        if not len(kind):
            continue
        told.append(kind)
        for row, way in ways.items():
            energies = way(images.to(device))
            named.setdefault(row, []).append(named_kinds(energies, masks))
            if row == ATTENTION:
                named.setdefault(ELSEWHERE, []).append(named_kinds(energies, masks.roll(1, 0)))
    right = torch.cat(told)
    found = {row: torch.cat(parts) for row, parts in named.items()}
    shape = (len(kinds), len(kinds))
    groups, of, seen = _on_test(data, ways, device)
    return KindFindings(
        name,
        str(objective.get("map", "attention")),
        kinds,
        tuple(torch.bincount(right, minlength=len(kinds)).tolist()),
        {row: float((parts == right).float().mean()) for row, parts in found.items()},
        {row: counted(right, parts, shape).tolist() for row, parts in found.items()},
        groups,
        {row: counted(of, parts, (len(groups), len(kinds))).tolist() for row, parts in seen.items()},
        {row: association(parts, of) for row, parts in seen.items() if len(parts)},
    )


def _on_test(data: Any, ways: Mapping[str, Energies], device: Any) -> tuple[tuple[str, ...], Tensor, dict[str, Tensor]]:
    """Return the names of the test's kinds of defects, that of each defective image, and what is named in each."""
    groups: list[Tensor] = []
    named: dict[str, list[Tensor]] = {row: [] for row in ways}
    for start in range(0, len(data.test_set), BATCH):
        batch = data.test_set.__getitems__(list(range(start, min(start + BATCH, len(data.test_set)))))
        if not {"mask", "group"} <= set(batch):
            break
        chosen = batch["mask"].flatten(1).any(1)
        if bool(chosen.any()):
            groups.append(batch["group"][chosen])
            for row, way in ways.items():
                named[row].append(named_kinds(way(batch["image"][chosen].to(device)), batch["mask"][chosen]))
    if not groups:
        return (), torch.zeros(0, dtype=torch.long), {}
    there, of = torch.cat(groups).unique(return_inverse=True)
    names = tuple(data.group_names[number] for number in there.tolist())
    return names, of, {row: torch.cat(parts) for row, parts in named.items()}


def kinds_tables(findings: Sequence[KindFindings]) -> list[Table]:
    """Return the table of accuracies, a row for each run and way of reading, and what each run names of what."""
    rows = []
    for one in findings:
        chance, most = 1 / len(one.kinds), max(one.counts) / sum(one.counts)
        rows += [
            (one.name, one.map, row, f"{value:.3f}", f"{chance:.3f}", f"{most:.3f}", *_associated(one, row))
            for row, value in one.accuracy.items()
        ]
    columns = ("run", "trained", "read", "accuracy", "chance", "most frequent kind", "test: nats", "p")
    tables = [Table("Kinds of pasted defects that are named", columns, tuple(rows))]
    for one in findings:
        row = ATTENTION if one.map == "attention" else DIRECT
        of = [(f"pasted: {kind}", counts) for kind, counts in zip(one.kinds, one.confusion[row], strict=True)]
        of += [(f"test: {group}", counts) for group, counts in zip(one.groups, one.named.get(row, ()), strict=True)]
        body = tuple((label, *map(str, counts)) for label, counts in of)
        tables.append(Table(f"{one.name}: {row}, what is named", ("defect", *one.kinds), body))
    return tables


def _associated(one: KindFindings, row: str) -> tuple[str, str]:
    found = one.association.get(row)
    return ("-", "-") if found is None else (f"{found.nats:.3f}", f"{found.p_value:.3f}")
