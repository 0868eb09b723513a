"""Write the documentation's tables of faithfulness, from what `vaex bench what=faithfulness` left of each data set.

python docs/tables/faithfulness.py OUT.md sprites=FOLDER MNIST=FOLDER screw=FOLDER writes the full tables of each to
OUT.md and prints those of the mean ranks over all.
"""

import json
import math
import sys
from pathlib import Path
from statistics import median
from typing import Any

from vaex.benchmarks.faithful_tables import CONTROL, DIRECTIONS, mean_over_seeds, mean_ranks
from vaex.benchmarks.makers import NOISE
from vaex.benchmarks.pointing import Findings, Latents
from vaex.benchmarks.seeds import over_seeds

KINDS = {"runs": "Maps of single latents", "whole_code": "Maps of the whole code"}
WEIGHTS = ("trained", "untrained")
NAMES = {"deletion_to_normal_kl": "deletion to normal, KL", "sensitivity_n": "sensitivity-n"}
Numbers = dict[str, dict[str, float]]


def findings_of(folder: str, kind: str) -> list[Findings]:
    """Read what was found in each run."""
    content = json.loads((Path(folder) / "bench_faithfulness.json").read_text(encoding="utf-8"))
    return [
        Findings(**{**one, "latents": Latents(**one["latents"]), "rows": with_nan(one["rows"])})
        for one in content.get(kind, ())
    ]


def with_nan(value: Any) -> Any:
    """Return numbers with NaN, which JSON has not, in the place of null."""
    if isinstance(value, dict):
        return {name: with_nan(one) for name, one in value.items()}
    return [math.nan if one is None else one for one in value]


def heading(name: str) -> str:
    """Name a column, with an arrow to its better end."""
    return f"{NAMES.get(name, name.replace('_', ' '))} {'↑' if DIRECTIONS[name] else '↓'}"


def short(cell: str) -> str:
    """Round a cell of mean and spread to two digits."""
    if cell == "-":
        return cell
    numbers = [f"{float(part):.1f}" if abs(float(part)) >= 10 else f"{float(part):.2f}" for part in cell.split(" +- ")]
    return " ± ".join(number.replace("-0.", "-.").removeprefix("0") for number in numbers)


def table(head: list[str], rows: list[list[str]]) -> str:
    """Write a table of markdown whose first column is text."""
    lines = [head, ["---", *["---:"] * (len(head) - 1)], *rows]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def numbers_of(found: list[Findings], weights: str) -> tuple[Numbers, list[str]]:
    """Return all numbers of a data set, and the measures that any row has."""
    rows = list(dict.fromkeys(row for one in found for row in one.rows))
    numbers = {row: {name: mean_over_seeds(found, row, weights, name) for name in DIRECTIONS} for row in rows}
    return numbers, [name for name in DIRECTIONS if any(not math.isnan(of[name]) for of in numbers.values())]


def ranked(numbers: Numbers) -> dict[str, float]:
    """Return the mean rank of every row but the controls."""
    return mean_ranks({row: found for row, found in numbers.items() if not row.startswith(CONTROL)})


def full(found: list[Findings], weights: str) -> str:
    """Return all numbers of one data set, best rank first."""
    numbers, names = numbers_of(found, weights)
    ranks = ranked(numbers)
    order = sorted(numbers, key=lambda row: (row.startswith(CONTROL), ranks.get(row, 0.0)))
    body = [
        [row, f"{ranks[row]:.1f}" if row in ranks else "-", *(short(over_seeds(found, row, weights, n)) for n in names)]
        for row in order
    ]
    return table(["map", "mean rank", *map(heading, names)], body)


def overall(sets: dict[str, list[Findings]], weights: str) -> str:
    """Return the mean ranks over all data sets, those of each, and those by measure."""
    numbers = {name: numbers_of(found, weights) for name, found in sets.items()}
    rows = [row for row in next(iter(numbers.values()))[0] if all(row in found for found, _ in numbers.values())]
    rows = [row for row in rows if not row.startswith(CONTROL)]
    common = {name: {row: found[row] for row in rows} for name, (found, _) in numbers.items()}
    ranks = {name: ranked(found) for name, found in common.items()}
    mean = {row: sum(of[row] for of in ranks.values()) / len(ranks) for row in rows}
    measures = [name for name in DIRECTIONS if any(name in has for _, has in numbers.values())]
    by_measure = {
        measure: [
            ranked({row: {measure: of[measure]} for row, of in common[name].items()})
            for name, (_, has) in numbers.items()
            if measure in has
        ]
        for measure in measures
    }
    body = [
        [
            row,
            f"{mean[row]:.1f}",
            *(f"{ranks[name][row]:.1f}" for name in sets),
            *(f"{sum(of[row] for of in by_measure[m]) / len(by_measure[m]):.0f}" for m in measures),
        ]
        for row in sorted(rows, key=lambda row: mean[row])
    ]
    return table(["map", "all", *sets, *(NAMES.get(name, name.replace("_", " ")) for name in measures)], body)


def medians(sets: dict[str, list[Findings]]) -> str:
    """Return the median over all maps of each measure, trained and untrained, and what noise has."""
    parts = {(name, weights): numbers_of(found, weights)[0] for name, found in sets.items() for weights in WEIGHTS}
    head = ["measure", *(f"{name}, {weights}" for name in sets for weights in (*WEIGHTS, "noise"))]
    body = []
    for measure in DIRECTIONS:
        line = []
        for name in sets:
            for weights in WEIGHTS:
                numbers = parts[name, weights]
                line.append([of[measure] for row, of in numbers.items() if not row.startswith(CONTROL)])
            line.append([parts[name, "trained"][NOISE][measure]])
        values = [[one for one in numbers if not math.isnan(one)] for numbers in line]
        if any(values):
            body.append(
                [heading(measure), *(short(f"{median(numbers):.3f}") if numbers else "-" for numbers in values)]
            )
    return table(head, body)


def main(out: str, *given: str) -> None:
    """Write the page and print the ranks."""
    folders = dict(one.split("=", 1) for one in given)
    page = (
        "# Faithfulness, all numbers\n\nWhat [results.md](results.md#do-the-maps-tell-the-truth) sums up: mean ± "
        "sample standard deviation over three seeds.\n"
    )
    for kind, title in KINDS.items():
        sets = {name: findings_of(folder, kind) for name, folder in folders.items()}
        if not all(sets.values()):
            continue
        for weights in WEIGHTS:
            sys.stdout.write(f"{title}, {weights}\n\n{overall(sets, weights)}\n")
        sys.stdout.write(f"{title}, medians\n\n{medians(sets)}\n")
        for name, found in sets.items():
            for weights in WEIGHTS:
                page += f"\n## {title}: {name}, {weights}\n\n{full(found, weights)}"
    Path(out).write_text(page, encoding="utf-8")


if __name__ == "__main__":
    main(*sys.argv[1:])
