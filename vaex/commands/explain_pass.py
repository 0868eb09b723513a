"""One pass of `vaex explain` over all images: what is written of each, and what an earlier pass has written already."""

from __future__ import annotations

from array import array
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from omegaconf import DictConfig

from vaex.commands.drawing import LatentPictures, latent_columns
from vaex.commands.earlier import SKIPPED, Earlier, Kept, Writes, find_earlier, numbered_stems
from vaex.commands.findings import findings_writer, table_row
from vaex.commands.finishing import finish_first
from vaex.commands.same_pass import TABLE, settings_kept
from vaex.commands.scoring import Item, part_of
from vaex.commands.sources import Sources, batches, file_stems, size_and_pixels
from vaex.errors import VaexError
from vaex.runs import csv_writer, npz_writer

SMALL = 8  # so many times shorter than the side that the model takes is worth a word


class Pass:
    """One pass over all images; counts, scores and what was skipped are known after `write`."""

    def __init__(
        self, config: DictConfig, options: Any, inspection: Any, scorer: Any, sources: Sources, out: Path, console: Any
    ) -> None:
        self.config, self.options, self.inspection, self.scorer = config, options, inspection, scorer
        self.sources, self.out, self.console = sources, out, console
        pictures = str(config.pictures).lower()
        self.writes = Writes(pictures, inspection.finds, pictures != "false" and config.tile is None)
        self.stems = file_stems(sources)
        self.earlier = Earlier()
        self.resumed = False
        self.skipped: list[tuple[str, str]] = []  # names and reasons
        self.small: list[str] = []  # names and sizes of images that are hardly more than their enlargement
        self.stopped: int | None = None  # the signal that ended the pass
        self.scores = array("d")
        self.anomalous = self.unlike = 0
        self.last: list[Any] = []  # images of the last batch, for the latency
        self._copies: Callable[[str | None], Iterator[Kept]]  # see `Earlier.reading`
        self._advance: Callable[[], Any]  # the bar, by an image

    def go_on(self, kept: Mapping[str, Any]) -> str:
        """Take up what an earlier pass left, ``kept`` being its explain.json, and return in a sentence what that is.

        Raises:
            VaexError: when its files are damaged.
        """
        self.earlier, self.resumed = find_earlier(self.out, self.stems, self.writes, kept), True
        self.scores, self.anomalous = self.earlier.scores[:], self.earlier.anomalous
        self.unlike = self.earlier.unlike
        count = len(self.earlier.kept)
        return f"Resuming in {self.out}: {count} of {len(self.sources)} images are there, the others are looked at."

    def readable(self, advance: Any) -> Iterator[Item]:
        """Yield the images that are to be looked at and can be read; ``advance`` is called for each."""
        import torch

        kept = set(self.earlier.kept)
        for name, source in self.sources.items():
            if name in kept:
                continue
            advance()
            self.earlier.skipped.pop(name, None)  # it is tried again
            try:
                size, pixels = size_and_pixels(source, original=self.config.tile is not None)
            except VaexError as error:
                self.skipped.append((name, str(error)))
                continue
            try:  # whether the region of interest fits is asked before the image is scored
                self.inspection.mask(size, pixels.shape[-2:], getattr(source, "path", None))
            except VaexError as error:
                self.skipped.append((name, f"{name}: {error}"))
            else:
                if min(size) * SMALL < min(pixels.shape[-2:]):
                    self.small.append(f"{name} ({size[0]}x{size[1]})")
                yield Item(name, torch.from_numpy(pixels), size)

    def remarks(self) -> list[str]:
        """Return in a sentence that images are far smaller than the model takes them, where some are."""
        if not self.small:
            return []
        count = f"{len(self.small)} image{' is' if len(self.small) == 1 else 's are'}"
        return [
            f"{count} less than 1/{SMALL} as high or wide as the model takes them, so what was judged is mostly their "
            f"enlargement: {self.small[0]}{' ...' if len(self.small) > 1 else ''}."
        ]

    def write(self, settings: Mapping[str, Any]) -> None:
        """Write the tables, the regions, and pictures and maps where they are wanted, and keep the ``settings``.

        Raises:
            VaexError: when no image can be read; as the model and the files do.
        """
        from rich.progress import Progress

        if self.earlier.complete:
            return
        shown = self.earlier.shown

        def more() -> dict[str, Any]:
            return {"shown": shown and shown._asdict(), "stems": numbered_stems(self.stems)}

        with settings_kept(self.out, settings, self.resumed, more), ExitStack() as files:
            pictures = findings = None
            if self.writes.latents:
                store = files.enter_context(npz_writer(self.out / "maps.npz"))
                pictures = LatentPictures(self.config, self.options, self.out, store, shown)
            row = files.enter_context(csv_writer(self.out / TABLE))
            if self.inspection.finds:
                draws = self.writes.pictures != "false"
                findings = files.enter_context(findings_writer(self.out, self.inspection, draws))
            for file in self.earlier.stale:
                file.unlink(missing_ok=True)
            ends = files.enter_context(finish_first())
            self._copies = files.enter_context(self.earlier.reading())
            size = self.config.batch_size if self.config.tile is None else 1
            bar = files.enter_context(Progress(console=self.console, transient=True))
            task = bar.add_task("Explaining", total=len(self.sources))
            self._advance = lambda: bar.advance(task)
            for batch in batches(self.readable(self._advance), size):
                self._batch(batch, row, findings, pictures)
                self.last, self.stopped = batch, ends()
                if self.stopped is not None:
                    break
            if not self.scores:
                told = f"None of the {len(self.skipped)} images could be judged; the first: {self.skipped[0][1]}"
                raise VaexError(told)
            self._keep(None, row, findings, pictures)
            shown = pictures.shown if pictures is not None else None
            self._write_skipped(files)

    def _write_skipped(self, files: ExitStack) -> None:
        kept = set(self.earlier.kept)
        waiting = {name: why for name, why in self.earlier.skipped.items() if name in self.stems and name not in kept}
        if not self.skipped and not waiting:
            (self.out / SKIPPED).unlink(missing_ok=True)
            return
        skipped = files.enter_context(csv_writer(self.out / SKIPPED, ("image", "reason")))
        for name, reason in (*self.skipped, *waiting.items()):
            skipped({"image": name, "reason": reason})

    def _keep(
        self, before: str | None, row: Any, findings: Any, pictures: Any, draw: Callable[[], None] = lambda: None
    ) -> None:
        """Write again what is known of the images that stand before one, or of all that are left.

        ``draw`` is called before maps are stored, which those of images that stand before them must be.
        """
        for kept in self._copies(before):
            row(kept.row, as_read=True)
            if findings is not None:
                findings.keep(kept.told, kept.score_map)
            if pictures is not None and kept.maps is not None:
                draw()
                pictures.store(kept.name, kept.maps)
            self._advance()

    def _batch(self, batch: list[Item], row: Any, findings: Any, pictures: Any) -> None:
        import torch

        whole = pictures is not None and self.writes.pictures == "true"
        looked = self.scorer.look(batch, whole=whole or bool(self.inspection.kinds and self.inspection.finds))
        drawn: list[int] = []  # positions in the batch, to be drawn yet

        def draw() -> None:
            if pictures is None or not drawn:
                return
            chosen = [batch[position] for position in drawn]
            explained = looked.explanation
            explanation = self.scorer.explain(chosen) if explained is None else part_of(explained, drawn)
            names = [item.name for item in chosen]
            images = torch.stack([item.pixels for item in chosen])
            pictures.write(names, [self.stems[name] for name in names], images, explanation)
            drawn.clear()

        for position, item in enumerate(batch):
            score_map = looked.score_map[position, 0].numpy()
            path = getattr(self.sources[item.name], "path", None)
            maps = () if looked.explanation is None else looked.explanation.maps[position].numpy()
            try:
                verdict = self.inspection.judge(score_map, float(looked.score[position]), item.size, path, maps)
            except VaexError as error:
                self.skipped.append((item.name, f"{item.name}: {error}"))
                continue
            self._keep(item.name, row, findings, pictures, draw)
            self.scores.append(verdict.score)
            self.anomalous += bool(verdict.anomalous)
            self.unlike += verdict.unlike
            latents = {}
            if whole and looked.explanation is not None:
                one = looked.explanation.image(position)
                latents = latent_columns(one, pictures.latents(one), pictures.totals(one))
            known = table_row(item, verdict)
            show = self.writes.shows(known.get("decision"))
            row({**known, **latents})
            if findings is not None:
                findings.write(item, self.stems[item.name], score_map, verdict, show)
            drawn += [position] if show else []
        draw()
