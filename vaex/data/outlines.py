"""What `vaex.data.anomalies` draws: outlines of defects, and what happens to the pixels within."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]


class Window(NamedTuple):
    """The rectangle of an image that a defect is drawn in, and where to take pixels from."""

    image: Floats  # (C, H, W)
    source: Floats  # (C, H, W) another normal image, or the same
    rows: slice
    columns: slice
    radius: float  # pixels

    @property
    def pixels(self) -> Floats:
        """The pixels of the rectangle (C, h, w)."""
        return self.image[:, self.rows, self.columns]


Outline = Callable[[Floats, Floats, float, np.random.Generator], Floats]
Change = Callable[[Window, np.random.Generator], Floats]


# Outlines: signed distance (h, w) in pixels, about, negative inside, of a shape that fits a circle of the radius


def _ellipse(down: Floats, across: Floats, radius: float, random: np.random.Generator) -> Floats:
    u, v = _turned(down, across, random)
    minor = max(1.0, radius * random.uniform(0.35, 1))
    return np.asarray((np.hypot(u / radius, v / minor) - 1) * math.sqrt(radius * minor), np.float32)


def _bar(down: Floats, across: Floats, radius: float, random: np.random.Generator) -> Floats:
    u, v = _turned(down, across, random)
    half = max(0.75, radius * random.uniform(0.06, 0.22))
    bend = random.uniform(-0.3, 0.3) / radius
    v = v - bend * (u * u - radius * radius / 3)
    return np.asarray(np.hypot(np.maximum(np.abs(u) - (radius - half), 0), v) - half, np.float32)


def _blob(down: Floats, across: Floats, radius: float, random: np.random.Generator) -> Floats:
    angle = np.arctan2(down, across)
    edge = np.zeros_like(angle)
    for wave in range(1, 6):
        edge += random.uniform(0, 1) / wave * np.cos(wave * angle + np.float32(random.uniform(0, 2 * math.pi)))
    edge -= edge.max()
    return np.asarray(np.hypot(down, across) - radius * np.maximum(1 + 0.5 * edge, 0.25), np.float32)


def _turned(down: Floats, across: Floats, random: np.random.Generator) -> tuple[Floats, Floats]:
    turn = random.uniform(0, math.pi)
    cos, sin = np.float32(math.cos(turn)), np.float32(math.sin(turn))
    return cos * across + sin * down, cos * down - sin * across


# What is done to the pixels: the new ones (C, h, w) of a window


def _pasted(window: Window, random: np.random.Generator) -> Floats:
    """Pixels from anywhere of the source, mirrored at random."""
    height, width = window.pixels.shape[1:]
    y = random.integers(window.image.shape[1] - height + 1)
    x = random.integers(window.image.shape[2] - width + 1)
    step_y, step_x = random.choice((-1, 1), 2)
    return window.source[:, y : y + height, x : x + width][:, ::step_y, ::step_x]


def _recoloured(window: Window, random: np.random.Generator) -> Floats:
    """The same structure in other light: another contrast, and brighter, darker or tinted."""
    before = window.pixels
    channels = len(before)
    shift = random.uniform(0.1, 0.45) * random.choice((-1, 1)) * np.ones(channels)
    if random.random() < 0.5:
        shift *= random.uniform(-0.5, 1, channels)
    mean = before.mean(axis=(1, 2), keepdims=True)
    contrast = np.float32(random.uniform(0.5, 1.3))
    return np.asarray(mean + contrast * (before - mean) + shift[:, None, None], np.float32)


def _noise(window: Window, random: np.random.Generator) -> Floats:
    """Noise added, fine or coarse, grey or coloured."""
    channels, height, width = window.pixels.shape
    planes = channels if random.random() < 0.5 else 1
    grain = int(random.integers(1, max(2, round(window.radius / 3)) + 1))
    cells = random.standard_normal((planes, -(-height // grain), -(-width // grain)), dtype=np.float32)
    noise = cells.repeat(grain, axis=1).repeat(grain, axis=2)[:, :height, :width]
    return window.pixels + np.float32(random.uniform(0.08, 0.3)) * noise


def _shifted(window: Window, random: np.random.Generator) -> Floats:
    """The same pixels moved by up to the radius, the image's border repeated."""
    turn, way = random.uniform(0, 2 * math.pi), max(1.0, window.radius * random.uniform(0.3, 1))
    height, width = window.image.shape[1:]
    rows = np.arange(window.rows.start, window.rows.stop) + round(way * math.sin(turn))
    columns = np.arange(window.columns.start, window.columns.stop) + round(way * math.cos(turn))
    return window.image[:, rows.clip(0, height - 1)[:, None], columns.clip(0, width - 1)]


def _blurred(window: Window, random: np.random.Generator) -> Floats:
    """The same pixels out of focus."""
    sigma = max(1.0, window.radius * random.uniform(0.15, 0.5))
    reach = math.ceil(2 * sigma)
    weights = np.exp(-0.5 * (np.arange(-reach, reach + 1) / sigma) ** 2)
    weights = (weights / weights.sum()).astype(np.float32)
    pixels = np.pad(window.pixels, ((0, 0), (reach, reach), (reach, reach)), mode="edge")
    for axis in (1, 2):
        length = pixels.shape[axis] - 2 * reach
        parts = (weight * _part(pixels, axis, start, length) for start, weight in enumerate(weights))
        total = next(parts)
        for part in parts:
            total += part
        pixels = total
    return pixels


def _part(pixels: Floats, axis: int, start: int, length: int) -> Floats:
    cut = slice(start, start + length)
    return pixels[:, cut] if axis == 1 else pixels[:, :, cut]


def _flat(window: Window, random: np.random.Generator) -> Floats:
    """One colour: the mean of the place, made brighter or darker, or any."""
    channels = len(window.pixels)
    mean = window.pixels.mean(axis=(1, 2))
    color = random.random(channels) if random.random() < 0.3 else mean + random.uniform(-0.4, 0.4)
    return np.broadcast_to(color.astype(np.float32)[:, None, None], window.pixels.shape)


CHANGES: dict[str, Change] = {
    "pasted": _pasted,
    "recoloured": _recoloured,
    "noise": _noise,
    "shifted": _shifted,
    "blurred": _blurred,
    "flat": _flat,
}
"""What may be done to the pixels of a defect."""

OUTLINES: dict[str, Outline] = {
    "ellipse": _ellipse,
    "bar": _bar,
    "blob": _blob,
}
"""Outlines of defects."""
