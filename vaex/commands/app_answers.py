"""What the controls of the page of `vaex app` call: each answer is the words, pictures and settings that follow."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from vaex.commands.app_choices import Choices
from vaex.commands.app_explorer import Explorer
from vaex.commands.app_stopping import StoppedError, Stopping
from vaex.commands.app_view import Asked, View
from vaex.commands.app_words import archive_stem, empty_html, error_html, verdict_html, write_archive
from vaex.errors import VaexError

NONE = "none"


class Answers:
    """The functions behind the controls; they know no control, only how many sliders there are.

    An answer begins with the state, the words and the pictures; where another image or latent is shown, what
    `_settings` says follows.
    """

    def __init__(self, gr: Any, explorer: Explorer, choices: Choices, folder: Path) -> None:
        self.gr, self.explorer, self.choices, self.folder = gr, explorer, choices, folder
        count = min(explorer.most, explorer.latents) if explorer.movable else 0
        self.sliders = count + bool(count)
        self.names = ("images", "maps") if explorer.tile is None else ("whole", "images", "maps")
        self.stopping = Stopping()

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
        return [*self._nothing(), *self._settings(None)]

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
            return self._nothing()
        moved = {**dict(view.moved), **dict(zip(view.latents(), values, strict=False))}
        known = view

        def changed() -> View:
            return self.explorer.move(self.explorer.ask(known, self._asked(layer, method, target)), moved)

        return self._tried(changed, opacity, view, session)

    def on_asked(self, path: str | None, view: View | None, session: str, *chosen: Any) -> list[Any]:
        """Show other maps; where a file was stopped or refused before it was seen, show it by what is chosen now."""
        if view is None:
            return self.on_file(path, session, *chosen[:4])
        found = self.on_change(view, session, *chosen)
        return [*found, *[self.gr.skip() for _ in self._settings(None)]]

    def on_tile(
        self, view: View | None, place: int, session: str, layer: str, method: str, target: str, opacity: float
    ) -> list[Any]:
        """Look at another tile of the image."""
        if view is None:
            return self.on_clear()
        known, asked = view, self._asked(layer, method, target)
        return self._opened(lambda: self.explorer.turn(self.explorer.ask(known, asked), place), opacity, session, view)

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
        return self._opened(lambda: self.explorer.move(view, {}), opacity, session, view)

    def on_archive(self, view: View | None, opacity: float) -> list[Any]:
        """Write the zip."""
        gr = self.gr
        if view is None:
            return [error_html("There is no image yet: drop one first."), gr.update(visible=False)]
        path = Path(tempfile.mkdtemp(dir=self.folder)) / f"{archive_stem(view)}_maps.zip"
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
            pictures = self.explorer.pictures(view, opacity)
        except StoppedError as error:
            kept = None if before is None else self.gr.skip()
            return [before, error_html(error), *[kept] * len(self.names)]
        except VaexError as error:
            return [before, error_html(error), *[None] * len(self.names)]
        return [view, verdict_html(self.explorer, view), *(pictures[name] for name in self.names)]

    def _nothing(self) -> list[Any]:
        """Return the answer where there is no image."""
        return [None, empty_html(self.explorer), *[None] * len(self.names)]

    def _opened(self, make: Callable[[], View], opacity: float, session: str, before: View | None = None) -> list[Any]:
        found = self._tried(make, opacity, before, session)
        return [*found, *self._settings(found[0])]

    def _settings(self, view: View | None) -> list[Any]:
        """Return the sliders, the choices of one more latent and of a tile, and no download."""
        gr, explorer = self.gr, self.explorer
        latents = [] if view is None else view.latents()
        sliders = [gr.update(visible=False) for _ in range(self.sliders)]
        if view is not None:
            for place, latent in enumerate(latents[: self.sliders]):
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
        tiles = [gr.update(visible=False)]
        if view is not None and view.whole is not None:
            named = [(label, place) for place, label in enumerate(view.whole.labels())]
            tiles = [gr.update(choices=named, value=view.place, visible=True)]
        return [*sliders, gr.update(choices=others, value=chosen), *tiles, gr.update(value=None, visible=False)]
