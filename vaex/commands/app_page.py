"""The page of `vaex app`: controls and what they call; everything that is computed is `app_explorer`'s."""

from __future__ import annotations

import importlib
import tempfile
import uuid
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from vaex.commands.app_choices import Choices
from vaex.commands.app_explorer import Asked, Explorer, View
from vaex.commands.app_stopping import StoppedError, Stopping
from vaex.commands.app_words import empty_html, error_html, verdict_html, write_archive
from vaex.commands.sources import file_stems
from vaex.errors import VaexError
from vaex.viz.overlays import OPACITY

NONE = "none"
SLOW = "score_cam, smooth_gradient and integrated_gradients take long, on large models minutes: Stop ends them"
STYLE = """
.vaex-head { font-size: 1.25rem; margin: 0 }
.vaex-head span { padding: .1rem .5rem; border-radius: .3rem; color: #fff !important; font-weight: 700 }
.vaex-ok { background: #0a6b3d } .vaex-anomalous { background: #a4371f } .vaex-open { background: #5a5a66 }
.vaex-error { border-left: .3rem solid #a4371f; padding: .3rem .8rem; font-weight: 600 }
"""


def page_of(explorer: Explorer, choices: Choices, title: str, folder: Path) -> Any:
    """Return the gradio page (Blocks) of a model called ``title``; archives are written below ``folder``.

    Every visitor has a state of their own, and nothing is kept when they leave.
    """
    gr: Any = importlib.import_module("gradio")
    page = Page(gr, explorer, choices, folder)
    with gr.Blocks(analytics_enabled=False, title=f"vaex app: {title}", delete_cache=(600, 3600)) as blocks:
        gr.HTML(f"<style>{STYLE}</style>")
        page.draw(title)
        blocks.load(lambda: uuid.uuid4().hex, None, page.session, show_progress="hidden", api_visibility="private")
    return blocks


class Page:
    """The controls of one page, in order, and the functions behind them."""

    def __init__(self, gr: Any, explorer: Explorer, choices: Choices, folder: Path) -> None:
        self.gr, self.explorer, self.choices, self.folder = gr, explorer, choices, folder
        self.count = min(explorer.most, explorer.latents) if explorer.movable else 0
        self.stopping = Stopping()

    def draw(self, title: str) -> None:
        """Lay out the page and connect it."""
        gr = self.gr
        self.state, self.session = gr.State(None), gr.State("")
        gr.Markdown(f"# vaex app: {title}")
        with gr.Row():
            with gr.Column(scale=1, min_width=320):
                self.file = gr.File(label="Drop an image, or click to choose one", elem_id="file", height=120)
                sprites = self.explorer.takes_sprites
                self.example = gr.Button("Take an example sprite", elem_id="example", size="sm", visible=sprites)
                self.asked = [
                    gr.Dropdown(list(part), value=next(iter(part)), label=label, elem_id=label, info=info)
                    for label, part, info in zip(
                        ("layer", "method", "target"),
                        self.choices,
                        (
                            "whose activation a map is read from",
                            "how it is made; " + SLOW,
                            "what it is of; by default each latent",
                        ),
                        strict=True,
                    )
                ]
                self.stop = gr.Button("Stop", elem_id="stop", size="sm")
                self.opacity = gr.Slider(0, 1, OPACITY, step=0.05, label="opacity", buttons=[], elem_id="opacity")
                self._draw_sliders()
                self.archive = gr.Button("Make a zip of all maps", elem_id="zip", size="sm")
                self.made = gr.File(label="Download", interactive=False, visible=False, elem_id="made", height=90)
            with gr.Column(scale=3, min_width=520):
                self.words = gr.HTML(empty_html(self.explorer), elem_id="words")
                self.pictures = [
                    gr.Image(show_label=False, format="png", interactive=False, buttons=[], elem_id=name, alt_text=said)
                    for name, said in (
                        ("images", "image, reconstruction and score map"),
                        ("maps", "maps of the latents"),
                    )
                ]
        self._connect()

    def _draw_sliders(self) -> None:
        gr, count = self.gr, self.count
        total = self.explorer.latents
        named = f"The {min(self.explorer.most, total)} latents of highest KL in this image, of {total}"
        gr.Markdown(
            f"{named}. Move one: the code is decoded, and the maps are drawn of that picture, too."
            if count
            else f"{named}, have maps here where the target is of single latents."
        )
        places = range(count + bool(count))
        self.sliders = [gr.Slider(-4, 4, 0, visible=False, buttons=[], elem_id=f"slider{i}") for i in places]
        self.extra = gr.Dropdown([NONE], value=NONE, label="one more latent", elem_id="extra")
        self.reset = gr.Button("Back to the code of the image", elem_id="reset", size="sm", visible=bool(count))

    def _connect(self) -> None:
        asked = [self.session, *self.asked, self.opacity]
        controls = [self.state, *asked, *self.sliders]
        shown = [self.state, self.words, *self.pictures]
        settings = [*self.sliders, self.extra, self.made]
        live = {"show_progress": "hidden", "trigger_mode": "always_last", "api_visibility": "private"}
        once = {"api_visibility": "private"}
        self.file.upload(self.on_file, [self.file, *asked], [*shown, *settings], **once)
        self.file.clear(self.on_clear, None, [*shown, *settings], **once)
        self.example.click(self.on_example, asked, [*shown, *settings], **once)
        for control in self.asked:  # change: input comes again, with the old value, when a list is opened
            control.change(self.on_change, controls, shown, **once)
        for slider in (self.opacity, *self.sliders):
            slider.input(self.on_change, controls, shown, **live)
        self.extra.input(self.on_extra, [self.state, self.extra, self.opacity], [*shown, *settings], **once)
        self.reset.click(self.on_reset, [self.state, self.session, self.opacity], [*shown, *settings], **once)
        # beside the queue, in which it would wait for what it is to end
        self.stop.click(self.stopping.ask, self.session, None, queue=False, show_progress="hidden", **once)
        self.archive.click(self.on_archive, [self.state, self.opacity], [self.words, self.made], **once)

    # --- what the controls call

    def on_file(
        self, path: str | None, session: str, layer: str, method: str, target: str, opacity: float
    ) -> list[Any]:
        """Show an image file."""
        if path is None:
            return self.on_clear()
        name, asked = Path(path).name, self._asked(layer, method, target)
        return self._opened(lambda: self.explorer.open(Path(path), name, asked), opacity, session)

    def on_example(self, session: str, layer: str, method: str, target: str, opacity: float) -> list[Any]:
        """Show an example."""
        asked = self._asked(layer, method, target)
        return self._opened(lambda: self.explorer.example(asked), opacity, session)

    def on_clear(self) -> list[Any]:
        """Show nothing."""
        return [None, empty_html(self.explorer), None, None, *self._settings(None)]

    def on_change(
        self,
        view: View | None,
        session: str,
        layer: str,
        method: str,
        target: str,
        opacity: float,
        *values: float,
    ) -> list[Any]:
        """Show other maps, or where the sliders stand."""
        if view is None:
            return [None, empty_html(self.explorer), None, None]
        moved = {**dict(view.moved), **dict(zip(view.latents(), values, strict=False))}
        known = view

        def changed() -> View:
            return self.explorer.move(self.explorer.ask(known, self._asked(layer, method, target)), moved)

        return self._tried(changed, opacity, view, session)

    def on_extra(self, view: View | None, choice: str, opacity: float) -> list[Any]:
        """Show one more latent."""
        if view is None:
            return self.on_clear()
        latent = None if choice == NONE else int(choice.partition(" ")[0].removeprefix("z"))
        seen = replace(view, extra=latent)
        return [*self._tried(lambda: seen, opacity, view), *self._settings(seen)]

    def on_reset(self, view: View | None, session: str, opacity: float) -> list[Any]:
        """Put the latents back."""
        if view is None:
            return self.on_clear()
        return self._opened(lambda: self.explorer.move(view, {}), opacity, session)

    def on_archive(self, view: View | None, opacity: float) -> list[Any]:
        """Write the zip."""
        gr = self.gr
        if view is None:
            return [error_html("There is no image yet: drop one first."), gr.update(visible=False)]
        stem = file_stems([view.name])[view.name]
        path = Path(tempfile.mkdtemp(dir=self.folder)) / f"{stem}_maps.zip"
        write_archive(self.explorer, view, path, opacity)
        return [verdict_html(self.explorer, view), gr.update(value=str(path), visible=True)]

    # --- what they share

    def _asked(self, layer: str, method: str, target: str) -> Asked:
        return Asked(*(part[name] for part, name in zip(self.choices, (layer, method, target), strict=True)))

    def _tried(self, make: Callable[[], View], opacity: float, before: View | None, session: str = "") -> list[Any]:
        """Return state, words and pictures; of what fails the sentence alone, beside the view before.

        What is stopped leaves the pictures as they are.
        """
        try:
            with self.stopping.allowed(session):
                view = make()
            pictures = [self.explorer.images_picture(view, opacity), self.explorer.maps_picture(view, opacity)]
        except StoppedError as error:
            kept = None if before is None else self.gr.skip()
            return [before, error_html(error), kept, kept]
        except VaexError as error:
            return [before, error_html(error), None, None]
        return [view, verdict_html(self.explorer, view), *pictures]

    def _opened(self, make: Callable[[], View], opacity: float, session: str) -> list[Any]:
        found = self._tried(make, opacity, None, session)
        return [*found, *self._settings(found[0])]

    def _settings(self, view: View | None) -> list[Any]:
        """Return the sliders, the choice of one more latent, and no download."""
        gr, explorer = self.gr, self.explorer
        latents = [] if view is None else view.latents()
        sliders = [gr.update(visible=False) for _ in self.sliders]
        if view is not None:
            for place, latent in enumerate(latents[: len(sliders)]):
                reach, label = explorer.reach(view, latent), explorer.label(view, latent)
                value = view.value(latent)
                sliders[place] = gr.update(
                    minimum=-reach, maximum=reach, step=0.01, value=value, label=label, visible=True
                )
        others = [NONE]
        if view is not None:
            ranked = explorer.ranked(view.own.explanation)
            others += [explorer.label(view, latent) for latent in ranked if latent not in view.shown]
        chosen = NONE if view is None or view.extra is None else explorer.label(view, view.extra)
        return [*sliders, gr.update(choices=others, value=chosen), gr.update(value=None, visible=False)]
