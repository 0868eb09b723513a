"""Sections of the report on what was measured: all numbers, published ones beside them, kinds of defect."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from vaex.commands.report_text import title_of
from vaex.reporting.published import published_beside
from vaex.reporting.resolution import counts_pixels, measured_at, resolution_of, resolution_sentence
from vaex.reporting.results import Result
from vaex.reporting.undefined import undefined_sentence
from vaex.reporting.units import better_of, unit_of
from vaex.viz.report_html import Markup, element, joined, table
from vaex.viz.report_page import Section

KINDS = ("image_auroc", "image_ap", "pixel_auroc", "pixel_ap", "aupro", "aupro_005", "aupimo", "best_iou", "f1_max")
"""Measures that are looked for by kind of defect and beside published figures, in this order."""

THRESHOLD = "f1_max_threshold"
"""Where F1 is highest, in units of each score: no measure of how good it is."""

TILES = (
    "image_auroc and image_ap are of whole images, each by the highest of its tiles. Pixels are counted tile by tile: "
    "one that tiles share counts in each, and regions are those within a tile."
)
"""What the measures of a test in tiles count."""


TESTS = ("test", "held_out")


def tested(result: Result) -> tuple[str, Mapping[str, float]]:
    """Return the stage of the run's test and what it measured: of the test images, or of those held out."""
    order = TESTS[::-1] if result.config.get("held_out") else TESTS  # of a folder with both: that of its pictures
    found = next((stage for stage in order if result.measures.get(stage)), TESTS[0])
    return found, result.measures.get(found, {})


def metrics_section(result: Result, others: Sequence[Result] = ()) -> Section:
    """Return all numbers without those of single kinds, a column per stage or run, and what was published."""
    stages = [stage for stage in (*TESTS, "val") if result.measures.get(stage)]
    beside = split_by_score(result)
    columns = ["measure", "unit, better", *stages]
    columns += [f"{title_of(other)} ({other.folder.name}), {tested(other)[0]}" for other in others]
    names = sorted({name for stage in stages for name in result.measures[stage] if "/" not in name} - set(beside))
    rows = [
        [
            *(name, ", ".join(filter(None, (unit_of(name), better_of(name))))),
            *(result.measures[stage].get(name) for stage in stages),
            *(tested(other)[1].get(name) for other in others),
        ]
        for name in names
    ]
    parts = [table("Measures of this run" + (" and of other runs" if others else ""), columns, rows, texts=2)]
    sides = [(title_of(run), resolution_of(run.config)) for run in (result, *others)]
    if result.config.get("held_out"):
        told = (
            "Test images of this page are the held-out ones, of many data sets normal images and copies of them with "
            "pasted defects: no test."
        )
        parts.append(element("p", told, class_="note"))
    if told := resolution_sentence(sides) if any(map(counts_pixels, tested(result)[1])) else "":
        parts.append(element("p", told, class_="note"))
    if result.config.get("data.tile") and any(name.startswith(("image_auroc", "image_ap")) for name in names):
        parts.append(element("p", TILES, class_="note"))
    published = published_table(result)
    if published:
        parts.append(published)
    return Section("metrics", "Metrics", joined(parts))


def split_by_score(result: Result) -> dict[str, tuple[str, str]]:
    """Return the measures of `tested` that name a score, by their whole name: (measure, score)."""
    found = {}
    for name in tested(result)[1]:
        base = name.partition("/")[0]
        known = (*KINDS, THRESHOLD)
        measures = [measure for measure in known if base.startswith(f"{measure}_") and base not in known]
        if measures:
            measure = max(measures, key=len)
            found[name] = (measure, base.removeprefix(f"{measure}_"))
    return found


def published_table(result: Result) -> Markup | None:
    """Return the run's own row beside the published ones of its data, or None where there are none."""
    test = result.measures.get("test", {})
    title, cells = published_beside(str(result.config.get("data._target_", "")), result.category)
    measures = [measure for measure in KINDS if measure in test and any(measure in row for _, _, row in cells)]
    if not measures:
        return None
    lines: list[list[object]] = [["this run", title_of(result), *(test[measure] for measure in measures)]]
    rows: list[list[object]] = [[name, source, *(row.get(one) for one in measures)] for name, source, row in cells]
    lines += [row for row in rows if any(cell is not None for cell in row[2:])]
    caption = f"Beside published figures, {title}; \N{EN DASH} where none was printed"
    return table(caption, ["method", "source", *measures], lines, best=True, texts=2)


def kinds_section(result: Result) -> Section:
    """Return a table per measure: a row per score, the run's own first, a column per kind of defect."""
    stage, test = tested(result)
    found = split_by_score(result)
    scores = list(dict.fromkeys(score for _, score in found.values()))
    label = str(result.config.get("score.label") or result.config.get("score.name"))
    scores.sort(key=lambda score: (score != label, score))
    kinds = sorted({name.partition("/")[2] for name in found if "/" in name})
    tables = []
    for measure in (*KINDS, THRESHOLD):
        rows: list[list[object]] = []
        for score in scores:
            cells = [test.get(f"{measure}_{score}"), *(test.get(f"{measure}_{score}/{kind}") for kind in kinds)]
            if any(cell is not None for cell in cells):
                rows.append([f"{score} (this run's score)" if score == label else score, *cells])
        if rows:
            caption = f"{measure}, {unit_of(measure)}, {stage}"
            tables.append(table(caption, ["score", "all", *kinds], rows, best=measure != THRESHOLD))
    if not tables:
        return Section("kinds", "Kinds of defect and controls", Markup(""))
    note = "Every score that was measured, so that controls stand beside what they control; the highest is bold."
    note = " ".join(filter(None, [note, measured_at(resolution_of(result.config), test), undefined_sentence(test)]))
    return Section("kinds", "Kinds of defect and controls", joined([element("p", note, class_="note"), *tables]))
