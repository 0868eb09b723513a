"""What an earlier pass of `vaex explain` left in its folder, image by image, for a pass that goes on with it."""

from __future__ import annotations

import csv
import zipfile
from array import array
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from vaex.commands.drawing import Shown
from vaex.commands.same_pass import TABLE
from vaex.commands.sources import file_stems
from vaex.errors import VaexError
from vaex.intake import text_of_cell
from vaex.runs import json_items

SKIPPED = "skipped.csv"


class Writes(NamedTuple):
    """What a pass writes besides explain.csv."""

    pictures: str  # true, anomalous or false
    finds: bool  # regions
    latents: bool  # pictures of latents

    def shows(self, decision: str | None) -> bool:
        """Return whether an image of this decision is drawn."""
        return self.pictures == "true" or (self.pictures == "anomalous" and decision == "anomalous")


NOTHING = Writes("false", finds=False, latents=False)


class Kept(NamedTuple):
    """What the files of an earlier pass say of an image."""

    name: str
    row: dict[str, str]  # of explain.csv, as it stands there
    told: dict[str, Any] | None  # of regions.json
    score_map: Any | None  # (H, W), of score_maps.npz
    maps: Any | None  # (T, H, W), of maps.npz


@dataclass
class Earlier:
    """The images of an earlier pass that need not be looked at again; by default none."""

    out: Path = Path()
    writes: Writes = NOTHING
    place: dict[str, int] = field(default_factory=dict)  # of all images
    kept: list[str] = field(default_factory=list)  # names, in the order of the images
    skipped: dict[str, str] = field(default_factory=dict)  # name -> reason
    scores: array[float] = field(default_factory=lambda: array("d"))  # of those kept
    anomalous: int = 0
    unlike: int = 0
    shown: Shown | None = None
    stale: list[Path] = field(default_factory=list)  # pictures of images that are gone or looked at again
    complete: bool = False  # whether nothing is to be done

    @contextmanager
    def reading(self) -> Iterator[Callable[[str | None], Iterator[Kept]]]:
        """Yield a function that yields, once each, the kept images that stand before an image, or all that are left."""
        with ExitStack() as files:
            images, waiting = self._images(files), self.kept[::-1]

            def until(name: str | None) -> Iterator[Kept]:
                while waiting and (name is None or self.place[waiting[-1]] < self.place[name]):
                    waiting.pop()
                    with undamaged(self.out):
                        found = next(images)
                    yield found

            yield until

    def _images(self, files: ExitStack) -> Iterator[Kept]:
        if not self.kept:
            return
        draws = self.writes.pictures != "false"
        score_maps = files.enter_context(_arrays(self.out / "score_maps.npz", self.writes.finds and draws))
        maps = files.enter_context(_arrays(self.out / "maps.npz", self.writes.latents))
        rows = files.enter_context(_rows(self.out / TABLE))
        items = json_items(self.out / "regions.json", "images") if self.writes.finds else None
        for name in self.kept:
            row = _next(row for row in rows if text_of_cell(row["image"]) == name)
            told = None if items is None else _next(item for item in items if item["image"] == name)
            yield Kept(name, row, told, score_maps(name), maps(name))


@contextmanager
def undamaged(out: Path) -> Iterator[None]:
    """Let what goes wrong with the files of a pass in the body end in one sentence."""
    try:
        yield
    except VaexError:
        raise
    except (OSError, ValueError, KeyError, TypeError, EOFError, csv.Error, zipfile.BadZipFile) as error:
        raise VaexError(
            f"Cannot resume: the results in {out} were changed or damaged ({error}); leave resume out to start anew."
        ) from error


def _next(found: Iterator[Any]) -> Any:
    for one in found:
        return one
    raise ValueError("an image stands in explain.csv alone, or elsewhere in another order")


@contextmanager
def _rows(path: Path) -> Iterator[Iterator[dict[str, str]]]:
    with path.open(encoding="utf-8", newline="") as file:
        yield iter(csv.DictReader(file))


@contextmanager
def _arrays(path: Path, there: bool) -> Iterator[Callable[[str], Any]]:
    """Yield a function that returns the array of a name, None where it is not there."""
    from numpy.lib.format import read_array

    if not there or not path.exists():
        yield dict[str, Any]().get
        return
    with zipfile.ZipFile(path) as archive:
        names = set(archive.namelist())

        def read(name: str) -> Any:
            if f"{name}.npy" not in names:
                return None
            with archive.open(f"{name}.npy") as member:
                return read_array(member, allow_pickle=False)

        yield read


def _members(path: Path, asked: bool) -> set[str]:
    if not asked or not path.exists():  # one that is not asked for is of an older pass
        return set()
    with zipfile.ZipFile(path) as archive:
        return {name.removesuffix(".npy") for name in archive.namelist()}


def pictures_of(out: Path, stem: str, writes: Writes, shown: Shown | None) -> list[Path]:
    """Return the pictures that are drawn of an image, by the stem of its files.

    Raises:
        ValueError: for a name that leads to another folder: it may come from a file that was changed.
    """
    if any(Path(name).name != name for name in (stem, *(shown.names if shown else ()))):
        raise ValueError(f"explain.json names a file of another folder for {stem}")
    files = [out / "decisions" / f"{stem}.png"] if writes.finds else []
    if writes.latents and shown is not None:
        files.append(out / "pictures" / f"{stem}.png")
        files += [out / "overlays" / f"{stem}_{name}.png" for name in shown.names]
    return files


def numbered_stems(stems: Mapping[str, str]) -> dict[str, str]:
    """Return the stems that are not what the image would have alone: they depend on the other images."""
    return {name: stem for name, stem in stems.items() if file_stems([name])[name] != stem}


def find_earlier(out: Path, stems: Mapping[str, str], writes: Writes, kept: Mapping[str, Any]) -> Earlier:
    """Return what the earlier pass in ``out`` has of the images whose files have ``stems``.

    An image is kept if all is there that a pass writes of it, under the names that it has now. ``kept`` is the content
    of explain.json.

    Raises:
        VaexError: when files are damaged.
    """
    found = Earlier(out, writes, {name: place for place, name in enumerate(stems)})
    if not (out / TABLE).exists():
        return found
    with undamaged(out):
        found.shown = None if kept.get("shown") is None else Shown(**kept["shown"])
        if (out / SKIPPED).exists():
            with _rows(out / SKIPPED) as rows:
                found.skipped = {text_of_cell(row["image"]): row["reason"] for row in rows}
        items = json_items(out / "regions.json", "images") if writes.finds else ()
        regions = {item["image"]: bool(item.get("unlike")) for item in items}
        score_maps = _members(out / "score_maps.npz", writes.finds)
        maps = _members(out / "maps.npz", writes.latents)
        before: dict[str, str] = kept.get("stems") or {}
        unclear = {text_of_cell(name) for name in stems if text_of_cell(name) != name}  # two images, one cell
        last, dropped = -1, []
        with _rows(out / TABLE) as rows:
            for row in rows:
                name, decision = text_of_cell(row["image"]), row.get("decision")
                stem = before.get(name) or file_stems([name])[name]
                whole = stems.get(name) == stem and found.place[name] > last and name not in unclear
                whole = whole and (not writes.finds or name in regions)
                if whole and writes.shows(decision):
                    whole = (not writes.finds or name in score_maps) and (not writes.latents or name in maps)
                    whole = whole and not (writes.latents and found.shown is None)
                    whole = whole and all(file.is_file() for file in pictures_of(out, stem, writes, found.shown))
                if not whole:
                    dropped.append(stem)
                    continue
                last = found.place[name]
                found.kept.append(name)
                found.scores.append(float(row["score"]))
                found.anomalous += decision == "anomalous"
                found.unlike += regions.get(name, False)
        gone = set(dropped) - {stems[name] for name in found.kept}
        found.stale = [file for stem in gone for file in pictures_of(out, stem, writes, found.shown)]
    found.complete = len(found.kept) == len(stems) and not dropped and not (out / SKIPPED).exists()
    return found
