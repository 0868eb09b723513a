"""What `vaex app` says of an image: its decision in words, and one archive of its maps."""

from __future__ import annotations

import io
import zipfile
from html import escape
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from vaex.columns import latents_of_maps
from vaex.commands.app_choices import label_of
from vaex.commands.app_explorer import Explorer
from vaex.commands.app_view import Asked, Looked, View
from vaex.commands.explain_pass import SMALL
from vaex.commands.sources import file_stems
from vaex.runs import strict_json
from vaex.viz import overlay
from vaex.viz.overlays import OPACITY, SEQUENTIAL, scale_of

FILES = {"maps": "latents"}
"""Pictures of the page that have another name in the archive, which has other maps beside."""


def error_html(error: object) -> str:
    """Return an error as a sentence of the page."""
    return f'<p class="vaex-error" role="alert">{escape(str(error))}</p>'


def empty_html(explorer: Explorer) -> str:
    """Return what the page says before there is an image."""
    channels, height, width = explorer.shape
    kind = "grey" if channels == 1 else "RGB"
    seen = f"the model sees it as {width} x {height} pixels, {kind}"
    if explorer.tile is not None:
        cut = f"tiles of {explorer.tile} pixels that share {explorer.overlap}"
        seen = f"it is scored in {cut}, which the model sees as {width} x {height} pixels, {kind}"
    said = f"Drop an image of any size: {seen}. {explorer.reason}"
    return f"<p>{escape(said)}</p>"


def verdict_html(explorer: Explorer, view: View) -> str:
    """Return score and decision of the view's image, what they are of, and what the sliders did to the score."""
    inspection, verdict = explorer.inspection, view.verdict
    _, height, width = explorer.shape
    word = {None: "", True: "anomalous", False: "ok"}[verdict.anomalous]
    named = f"score {verdict.score:.4g} ({inspection.score.known_as})"
    head = f'<span class="vaex-{word or "open"}">{word or "no decision"}</span> {escape(named)}'
    if view.whole is not None and len(view.whole.tiles) > 1:
        head += f", the highest of {len(view.whole.tiles)} tiles"
    if view.decoded is not None and view.moved:
        before = "" if view.whole is None else f"this tile {view.whole.scores[view.place]:.4g}, "
        head += f"; {before}decoded from the sliders: {float(view.decoded.explanation.score[0]):.4g}"
    seen = f"{view.name}: {view.size[0]} x {view.size[1]} pixels"
    if view.whole is not None:
        seen += f", in tiles of {explorer.tile} pixels that share {explorer.overlap}"
        x0, y0, x1, y1 = view.whole.box(view.place)
        score = view.whole.scores[view.place]
        seen += f". Below is tile {view.place + 1} by score: {score:.4g}, x {x0} to {x1}, y {y0} to {y1}"
    elif view.size != (width, height):
        seen += f", seen as {width} x {height}"
    said = [*inspection.sentences()]
    if verdict.unlike:
        said.insert(0, "As a whole it is like none of the normal images: is the part there, in place, and lit?")
    if view.whole is None and min(view.size) * SMALL < min(height, width):
        taken = f"less than 1/{SMALL} as high or wide as the model takes it"
        said.insert(0, f"The image is {taken}, so what was judged is mostly its enlargement.")
    if explorer.own is not None or view.asked != own_asked(explorer):
        said.append("Score and decision are those of the checkpoint's own maps, whatever maps are chosen here.")
    if explorer.reason:
        said.append(explorer.reason)
    lines = "".join(f"<p>{escape(line)}</p>" for line in (f"{seen}.", " ".join(said)))
    return f'<div id="verdict"><p class="vaex-head">{head}</p>{lines}</div>'


def archive_stem(view: View) -> str:
    """Return the beginning of the name of the view's zip: that of the file and, where there are tiles, the place."""
    stem = file_stems([view.name])[view.name]
    return stem if view.whole is None else "{}_x{}_y{}".format(stem, *view.whole.box(view.place)[:2])


def own_asked(explorer: Explorer) -> Asked:
    """Return what the checkpoint's own maps are."""
    options = explorer.options
    return Asked(options.get("layer"), options.get("method", "grad_cam"), options.get("target", "mean"))


def _png(pixels: Any) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, format="PNG", compress_level=3)
    return buffer.getvalue()


def _arrays(one: Looked) -> dict[str, Any]:
    said = one.explanation
    parts = {"image": one.image, "maps": one.maps, "score_map": said.score_map, "score": said.score}
    parts |= {"mean": said.mean, "logvar": said.logvar, "kl": said.kl, "reconstruction": said.reconstruction}  # type: ignore[dict-item]
    return {name: part[0].numpy() for name, part in parts.items() if part is not None}


def write_archive(explorer: Explorer, view: View, path: Path, opacity: float = OPACITY) -> Path:
    """Write a zip of the view and return its path.

    In it: ``maps.npz`` with all raw maps (T, H, W), score map, code and images, and ``decoded_...`` of what the sliders
    made; ``overlays/`` and ``decoded_overlays/``, every map on one scale; the pictures of the page; ``about.json``.
    Of a large image all this is of the tile that is looked at, and beside it stand ``whole_...``, what is said of the
    image, and the scores and places of all ``tiles``.
    """
    looked = {"": view.own, "decoded_": view.decoded}
    there = {prefix: one for prefix, one in looked.items() if one is not None}
    arrays = {f"{prefix}{name}": array for prefix, one in there.items() for name, array in _arrays(one).items()}
    arrays |= {} if view.whole is None else view.whole.arrays()
    named = view.own.explanation._replace(maps=view.own.maps)
    latents = latents_of_maps(named, view.asked.target, explorer.options.get("latents"))
    every = np.stack([one.maps[0].numpy() for one in there.values()])
    top, signed = scale_of(every, None), bool(every.min() < 0)
    about: dict[str, Any] = {
        "image": view.name,
        "layer": label_of(view.asked.layer),
        "method": label_of(view.asked.method),
        "target": label_of(view.asked.target),
        "latents": latents,
        "moved": {f"z{latent}": value for latent, value in view.moved},
        "score": {"name": explorer.inspection.score.known_as, "value": view.verdict.score},
        "threshold": explorer.inspection.threshold,
        "anomalous": view.verdict.anomalous,
        "overlays": {"full_colour": top, "signed": signed, "opacity": opacity, "colours": SEQUENTIAL[0]},
    }
    if view.whole is not None:
        place, cut = view.place, {"side": explorer.tile, "overlap": explorer.overlap, "count": len(view.whole.tiles)}
        tile = {"rank": place + 1, "box": view.whole.box(place), "score": view.whole.scores[place]}
        about |= {"size": view.size, "tiles": cut, "tile": tile}
    buffer = io.BytesIO()
    np.savez(buffer, **arrays)
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive:
        archive.writestr("maps.npz", buffer.getvalue())
        archive.writestr("about.json", strict_json(about, indent=2))
        for name, picture in explorer.pictures(view, opacity).items():
            archive.writestr(f"{FILES.get(name, name)}.png", _png(picture))
        for prefix, one in there.items():
            pixels = one.image[0].permute(1, 2, 0).numpy()
            for number, values in enumerate(one.maps[0].numpy()):
                name = f"z{latents[number]:02d}" if latents is not None else f"target{number}"
                drawn = overlay(pixels, values, vmax=top, opacity=opacity, signed=signed)
                archive.writestr(f"{prefix}overlays/{name}.png", _png(drawn))
    return path
