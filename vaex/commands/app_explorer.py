"""What `vaex app` shows of one image, without the page: score and decision, maps, and what moved latents decode to."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from vaex.attention.isolation import original, undisturbed
from vaex.attention.outputs import reconstruction_of
from vaex.columns import kl_of_maps, latents_of_maps, title_of, titles_of_totals
from vaex.commands.app_tiles import whole_of
from vaex.commands.app_view import Asked, Looked, View
from vaex.commands.inspection import Inspection
from vaex.commands.scoring import Item, Scorer
from vaex.commands.sources import ImageFile, size_and_pixels
from vaex.errors import VaexError
from vaex.probing import attention_of, codes_of_latents
from vaex.types import Explanation
from vaex.viz import figure_to_array, images_panel, maps_panel
from vaex.viz.overlays import OPACITY, Pixels

REACH = 4.0
"""How far from 0 a slider goes at least; a prior of N(0, 1) has nothing beyond."""

AT_ONCE = 32
"""Tiles per forward pass: as many as `vaex explain` takes, so that scores are its to the last digit."""


@dataclass
class Explorer:
    """A model in evaluation mode, on its device, and how it is asked; ``most`` latents are shown at first.

    ``white`` is what is white in the files that are opened, see `vaex.data.images.read_image`. With ``tile`` images are
    scored in tiles that share ``overlap`` pixels, and one tile at a time is looked at. ``own`` are the options of the
    maps that the score reads, where they are not ``options``, those that are shown at first.
    """

    model: nn.Module
    options: Mapping[str, Any]
    inspection: Inspection
    shape: tuple[int, int, int]
    most: int = 6
    white: float | None = None
    tile: int | None = None
    overlap: int = 0
    own: Mapping[str, Any] | None = None

    def __post_init__(self) -> None:
        self.device = next((part.device for part in self.model.parameters()), torch.device("cpu"))
        score, cut = self.inspection.score, (self.tile, self.overlap, AT_ONCE)
        self.scorer = Scorer(self.model, self.device, score, self.options, self.shape, *cut, self.own)
        probe = torch.full((1, *self.shape), 0.5).to(self.device)
        self._explained(probe)  # what is wrong is told at the start
        code = codes_of_latents(self.model, probe)
        self.grid = tuple(code.shape[2:])
        self.latents = int(code.shape[1])
        decodes = self._decode(code) is not None
        self.movable = decodes and not self.grid
        self.reason = self._reason(decodes)

    def _reason(self, decodes: bool) -> str:
        """Return in a sentence why there are no sliders; empty where there are."""
        parts = [] if decodes else ["decodes features and no images, so that there is no reconstruction"]
        if self.grid:
            parts.append(f"codes an image by {' x '.join(map(str, self.grid))} cells per latent, not by one number")
        return f"This model {' and '.join(parts)}: its latents have maps here, but no sliders." if parts else ""

    def open(self, path: Path, name: str, asked: Asked) -> View:
        """Return the view of an image file, read as every other command reads it, called ``name``.

        Raises:
            VaexError: when it cannot be read, or the model does not admit what is asked.
        """
        file = ImageFile(path, self.shape, self.white)
        try:
            size, pixels = size_and_pixels(file, original=self.tile is not None)
        except VaexError as error:
            raise VaexError(str(error).replace(str(path), name)) from error
        return self.see(torch.from_numpy(pixels), name, size, asked)

    def example(self, asked: Asked) -> View:
        """Return the view of a sprite, for models of such images (see `takes_sprites`)."""
        from vaex.data.render import example_sprites

        pixels = torch.from_numpy(example_sprites(1, self.shape[1])).float()
        return self.see(pixels, "an example sprite", (self.shape[2], self.shape[1]), asked)

    @property
    def takes_sprites(self) -> bool:
        """Whether example sprites are images for this model."""
        return self.shape[0] == 1 and self.shape[1] == self.shape[2]

    def see(self, pixels: Tensor, name: str, size: tuple[int, int], asked: Asked) -> View:
        """Return the view of an image (C, H, W) in [0, 1] whose file is ``size`` (width, height) pixels large.

        Pixels are as many as the model takes or, where it is scored in tiles, those of the file: of these the one of
        highest score is looked at.
        """
        whole = None if self.tile is None else whole_of(self.scorer, pixels)
        own = self._look(pixels[None] if whole is None else whole.tile(0, self.shape[1:]), asked)
        said = own.explanation
        score_map = said.score_map[0, 0].numpy() if whole is None else whole.score_map
        score = float(said.score[0]) if whole is None else whole.score
        verdict = self.inspection.judge(score_map, score, size)
        view = View(name, size, asked, own, verdict, tuple(self.ranked(said)[: self.most]), None, whole=whole)
        return self.move(view, {})

    def turn(self, view: View, place: int) -> View:
        """Return the view of another tile of a large image, the one in ``place`` by falling score."""
        if view.whole is None or place == view.place:
            return view
        own = self._look(view.whole.tile(place, self.shape[1:]), view.asked)
        shown = tuple(self.ranked(own.explanation)[: self.most])
        other = replace(view, own=own, shown=shown, extra=None, moved=(), decoded=None, place=place)
        return self.move(other, {})

    def ask(self, view: View, asked: Asked) -> View:
        """Return the view with other maps; its score and decision stay those of the checkpoint's own maps."""
        if asked == view.asked:
            return view
        own, decoded = (
            None if one is None else one._replace(maps=self.maps(one.image, asked)) for one in (view.own, view.decoded)
        )
        assert own is not None  # noqa: S101 - for the type checker
        return replace(view, asked=asked, own=own, decoded=decoded)

    def move(self, view: View, values: Mapping[int, float]) -> View:
        """Return the view with latents at ``values``; those left out stand where the encoder put them.

        A value that is the code's own, rounded, means the code's own exactly.
        """
        if not self.movable:
            return view
        moved = {i: float(value) for i, value in values.items() if round(value, 2) != round(float(view.code[i]), 2)}
        kept = tuple(sorted(moved.items()))
        if kept == view.moved and view.decoded is not None:
            return view
        code = view.code.clone()
        for latent, value in kept:
            code[latent] = value
        image = self._decode(code[None].to(self.device))
        assert image is not None  # noqa: S101 - for the type checker: the model decodes images
        return replace(view, moved=kept, decoded=self._look(image.clamp(0, 1), view.asked))

    def maps(self, images: Tensor, asked: Asked) -> Tensor:
        """Return the maps (B, T, H, W) of images, on the CPU.

        Raises:
            VaexError: when the model does not admit what is asked.
        """
        options = {**self.options, **asked._asdict()}
        return attention_of(self.model, images.to(self.device), **options).float().cpu()

    def _look(self, images: Tensor, asked: Asked) -> Looked:
        found = self._explained(images)
        own = all(self.options.get(key) == value for key, value in asked._asdict().items())
        return Looked(images.cpu(), found, found.maps if own else self.maps(images, asked))

    def _explained(self, images: Tensor) -> Explanation:
        height, width = self.shape[1:]
        return self.scorer.explain([Item("", image, (width, height)) for image in images])

    def _decode(self, codes: Tensor) -> Tensor | None:
        whole = original(self.model)
        with undisturbed(whole, codes) as given:
            decoded = reconstruction_of(whole, given, (len(codes), *self.shape))
        return None if decoded is None else decoded.float()

    def ranked(self, explanation: Explanation) -> list[int]:
        """Return all latents by falling KL; in their order where no KL is stated latent by latent."""
        kl = kl_of_maps(explanation, range(explanation.mean.shape[1]))
        if kl is None:
            return list(range(explanation.mean.shape[1]))
        order: list[int] = kl[0].argsort(descending=True, stable=True).tolist()
        return order

    def label(self, view: View, latent: int) -> str:
        """Return the name of a latent with its KL in this image."""
        kl = kl_of_maps(view.own.explanation, [latent])
        return title_of(latent, None if kl is None else float(kl[0, 0]))

    def columns(self, view: View) -> tuple[list[int], list[str]]:
        """Return the positions and titles of the maps that are drawn: of the latents on the page, or of totals."""
        count = view.own.maps.shape[1]
        named = view.own.explanation._replace(maps=view.own.maps)
        names = latents_of_maps(named, view.asked.target, self.options.get("latents"))
        if names is None:
            return list(range(count))[: self.most], titles_of_totals(count, view.asked.target)[: self.most]
        shown = [latent for latent in view.latents() if latent in names]
        return [names.index(latent) for latent in shown], [self.label(view, latent) for latent in shown]

    def reach(self, view: View, latent: int) -> float:
        """Return how far from 0 the slider of a latent goes: `REACH`, or further where the code is; a whole number."""
        return float(max(REACH, math.ceil(abs(float(view.code[latent])) + 1)))

    def pictures(self, view: View, opacity: float = OPACITY) -> dict[str, Pixels]:
        """Return the pictures (h, w, 3) of the page by their names, from above."""
        drawn = {"images": self.images_picture(view, opacity), "maps": self.maps_picture(view, opacity)}
        if view.whole is None:
            return drawn
        return {"whole": view.whole.picture(view.place, self.scored_as, opacity, self.full(view)), **drawn}

    @property
    def scored_as(self) -> str:
        """What the bar of a score map is called."""
        return f"{self.inspection.score.known_as} score"

    def full(self, view: View) -> float | None:
        """Return the score of full colour of a large image and its tiles: twice the threshold, as in decisions/."""
        if view.whole is None:
            return None
        level = self.inspection.pixel_threshold
        top = float(view.whole.score_map.max()) if level is None else 2 * level
        return top if 0 < top < math.inf else None

    def images_picture(self, view: View, opacity: float = OPACITY) -> Pixels:
        """Return the picture (h, w, 3) of the image or tile, what it decodes to and the score maps."""
        own, decoded = view.own, view.decoded
        pictures = [(view.part, own.image[0].numpy())]
        if own.explanation.reconstruction is not None:
            pictures.append(("reconstruction", own.explanation.reconstruction[0].numpy()))
        scored = [(f"score map of the {view.part}", own)]
        if decoded is not None:
            pictures.append(("decoded from sliders", decoded.image[0].numpy()))
            scored.append(("score map of the decoded", decoded))
        maps = [
            (title, one.image[0].numpy(), one.explanation.score_map[0, 0].clamp(min=0).numpy()) for title, one in scored
        ]
        drawn = images_panel(pictures, maps, opacity=opacity, label=self.scored_as, vmax=self.full(view))
        return figure_to_array(drawn)

    def maps_picture(self, view: View, opacity: float = OPACITY) -> Pixels:
        """Return the picture (h, w, 3) of the maps of the image and, below, of what the sliders decode to."""
        columns, titles = self.columns(view)
        looked = [view.own, *([] if view.decoded is None else [view.decoded])]
        images = torch.cat([one.image for one in looked]).numpy()
        maps = torch.cat([one.maps[:, columns] for one in looked]).numpy()
        rows = [view.part, "decoded from sliders"][: len(looked)]
        return figure_to_array(maps_panel(images, maps, titles=titles, rows=rows, opacity=opacity))
