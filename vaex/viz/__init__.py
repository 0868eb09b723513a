"""Arrays in, pictures out: numpy arrays become overlays, figures and PNG files; no torch, no global state.

`overlay` lays one map over one image, `attention_figure` shows the maps of many latents for many images,
`image_grid` puts images side by side, `traversal_figure` and `traversal_frames` show what latents do,
`images_panel`, `maps_panel` and `tile_panel` show one image on a page,
`intervals_figure` shows numbers of several seeds, `tradeoff_figure` one measure
against another, `figure_to_array`, `save_png` and `save_gif` take pictures out.
"""

from __future__ import annotations

from vaex.viz.files import figure_to_array, save_gif, save_png
from vaex.viz.grid import attention_figure
from vaex.viz.intervals import Dots, intervals_figure
from vaex.viz.overlays import overlay
from vaex.viz.panels import images_panel, maps_panel, tile_panel
from vaex.viz.tiles import image_grid
from vaex.viz.tradeoff import Mark, tradeoff_figure
from vaex.viz.traversals import traversal_figure, traversal_frames

__all__ = [
    "Dots",
    "Mark",
    "attention_figure",
    "figure_to_array",
    "image_grid",
    "images_panel",
    "intervals_figure",
    "maps_panel",
    "overlay",
    "save_gif",
    "save_png",
    "tile_panel",
    "tradeoff_figure",
    "traversal_figure",
    "traversal_frames",
]
