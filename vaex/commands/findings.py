"""What an inspection writes of every image: regions.json, regions.csv, score_maps.npz and decisions/."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from vaex.commands.inspection import Inspection, Verdict
from vaex.commands.same_pass import KEPT
from vaex.commands.scoring import Item
from vaex.commands.sources import Sources
from vaex.errors import VaexError
from vaex.runs import csv_writer, json_writer, npz_writer

if TYPE_CHECKING:
    from vaex.scores.regions import Map

PICTURES = ("decisions", "overlays", "pictures")
"""Folders of pictures below that of the results."""

OVERVIEW = "overview.png"
"""The one picture beside them."""

COLUMNS = ("image", "x0", "y0", "x1", "y1", "area", "score")


class Findings(NamedTuple):
    """Functions that write what was found in an image."""

    write: Callable[[Item, str, Map, Verdict, bool], None]
    """Takes an image, the stem of its files, score map (H, W), what was found, and whether to draw it."""
    keep: Callable[[dict[str, Any], Map | None], None]
    """Takes what regions.json says of an image, and its score map (H, W) where that is stored; nothing is drawn."""


@contextmanager
def findings_writer(out: Path, inspection: Inspection, draws: bool) -> Iterator[Findings]:
    """Yield the functions that write what was found; pictures and maps only where ``draws``."""
    from vaex.viz import save_png
    from vaex.viz.decisions import decision_picture

    level = inspection.pixel_threshold
    with ExitStack() as files:
        document = files.enter_context(json_writer(out / "regions.json", inspection.head(), "images"))
        columns = (*COLUMNS, "kind") if inspection.kinds else COLUMNS
        table = files.enter_context(csv_writer(out / "regions.csv", columns))
        store = files.enter_context(npz_writer(out / "score_maps.npz")) if draws else None

        def keep(told: dict[str, Any], score_map: Map | None) -> None:
            document(told)
            for region in told["regions"]:
                table({"image": told["image"], **region})
            if score_map is not None and store is not None:
                store(told["image"], score_map)

        def write(item: Item, stem: str, score_map: Map, verdict: Verdict, show: bool) -> None:
            told_of = [{**region._asdict(), "score": _number(region.score)} for region in verdict.regions or ()]
            regions = [{name: region[name] for name in columns[1:]} for region in told_of]
            width, height = item.size
            told: dict[str, Any] = {"image": item.name, "width": width, "height": height}
            told |= {"score": _number(verdict.score), "decision": decision(verdict), "unlike": verdict.unlike}
            told["regions"] = regions
            keep(told, score_map if show else None)
            if show and store is not None:
                boxes = [region[:4] for region in verdict.regions or ()]
                picture = decision_picture(
                    item.pixels.permute(1, 2, 0).numpy(),
                    score_map,
                    boxes,
                    item.size,
                    2 * level
                    if level is not None and level > 0
                    else None,  # one scale for all: the middle is the limit
                )
                save_png(picture, out / "decisions" / f"{stem}.png")

        yield Findings(write, keep)


def decision(verdict: Verdict) -> str | None:
    """Return the decision in a word, None where nothing decides."""
    return None if verdict.anomalous is None else "anomalous" if verdict.anomalous else "ok"


def table_row(item: Item, verdict: Verdict) -> dict[str, Any]:
    """Return the columns of explain.csv that every image has."""
    row: dict[str, Any] = {"image": item.name, "score": verdict.score}
    if verdict.anomalous is not None:
        row["decision"] = decision(verdict)
    if verdict.anomalous is not None or verdict.regions is not None:
        row["regions"] = len(verdict.regions or ())
    return row


def _number(value: float) -> float | None:
    return value if abs(value) < float("inf") else None  # NaN too


def without_results(images: Path, sources: Sources) -> tuple[Sources, list[str]]:
    """Return the ``sources`` without pictures that earlier passes left below the folder ``images``, and that they did.

    A folder of results is one that holds an explain.json; other files in it are images as elsewhere.

    Raises:
        VaexError: when nothing else lies there.
    """
    found = {
        name: _results_of(path, images) for name, source in sources.items() if (path := getattr(source, "path", None))
    }
    left_out = {name: folder for name, folder in found.items() if folder is not None}
    if not left_out:
        return sources, []
    folders = sorted(set(left_out.values()))
    more = f" and {len(folders) - 1} more" if len(folders) > 1 else ""
    if len(left_out) == len(sources):
        raise VaexError(f"{images} holds no images but pictures of earlier passes ({folders[0]}{more}); check images=.")
    told = f"{len(left_out)} pictures of earlier passes are no images to look at: those in {folders[0]}{more}."
    return {name: source for name, source in sources.items() if name not in left_out}, [told]


def _results_of(file: Path, images: Path) -> Path | None:
    """Return the folder of results, at or below ``images``, of which ``file`` is a picture; None where it is none."""
    folder = file.parent.parent if file.parent.name in PICTURES else file.parent if file.name == OVERVIEW else None
    inside = folder is not None and folder.is_relative_to(images)
    return folder if inside and folder is not None and (folder / KEPT).is_file() else None


def earlier_results(out: Path, sources: Sources, resumed: bool = False) -> list[str]:
    """Return in a sentence that ``out`` holds results of an earlier pass, where it does and that is not ``resumed``.

    Raises:
        VaexError: when images lie where pictures of results are written.
    """
    paths = (getattr(source, "path", None) for source in sources.values())
    homes = {Path(os.path.realpath(path)).parent for path in paths if path is not None}  # of links in a circle too
    for folder in (out / name for name in PICTURES):
        if folder.resolve() in homes:
            raise VaexError(
                f"Images lie in {folder}, where pictures of results are written; choose another folder: out=."
            )
    if resumed or not (out / "explain.csv").exists():
        return []
    return [
        f"{out} holds results of an earlier pass: tables are replaced, and of images that are not drawn now the "
        "pictures stay; choose another out= to keep passes apart, or go on with that pass by resume=true."
    ]


def where_to_look(out: Path, latents: bool, decides: bool, draws: bool, skipped: bool = False) -> str:
    """Return the files that were written, in a sentence."""
    files = ["explain.csv", *(["regions.json", "regions.csv"] if decides else [])]
    files += ["decisions/", "score_maps.npz"] if decides and draws else []
    files += ["skipped.csv"] if skipped else []
    if latents:
        return f"Look at {out / OVERVIEW}; {', '.join(['pictures/, overlays/, maps.npz', *files])} lie beside it."
    return f"Look at {out}: {', '.join(files)}."
