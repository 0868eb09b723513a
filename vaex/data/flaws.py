"""Flaws of a surface: scratches, spots, cuts and stains change its relief and colours before it is lit."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from vaex.data.surfaces import Bools, Floats, Surface, smooth_noise


class Flaw(NamedTuple):
    """A surface with a flaw, and where the flaw is."""

    surface: Surface
    mask: Bools  # (S, S)


def add_flaw(surface: Surface, kind: str, random: np.random.Generator, strength: float = 1.0) -> Flaw:
    """Put a flaw of a kind in `FLAWS` on a surface, on its material only; ``strength`` 1 is plain to see, not loud."""
    changed, mask = FLAWS[kind](surface, random, strength)
    mask = mask & surface.material
    height = np.where(mask, changed.height, surface.height)
    return Flaw(surface._replace(height=height, color=np.where(mask, changed.color, surface.color)), mask)


def _place(surface: Surface, random: np.random.Generator, margin: float = 0.1) -> tuple[float, float]:
    """A random point x, y of the material in sides of the image, away from the image's border."""
    size = len(surface.material)
    for _ in range(1000):
        x, y = random.uniform(margin, 1 - margin, 2).tolist()
        if surface.material[int(y * size), int(x * size)]:
            break
    return x, y


def _stroke(
    size: int, x: float, y: float, length: float, bend: float, random: np.random.Generator
) -> tuple[Floats, Floats, Floats]:
    """Distance (S, S) to a bent line through x, y, its side (-1, 1) and the place along it in [0, 1].

    Lengths and distances are in sides of the image.
    """
    turn = random.uniform(0, 2 * math.pi)
    along = np.linspace(-0.5, 0.5, 25)
    wobble = bend * (4 * along**2 - 0.5) + 0.15 * bend * np.sin(11 * along + random.uniform(0, 6))
    points_x = x + length * (math.cos(turn) * along - math.sin(turn) * wobble)
    points_y = y + length * (math.sin(turn) * along + math.cos(turn) * wobble)
    at = (np.arange(size, dtype=np.float32) + 0.5) / size
    across, down = np.broadcast_to(at, (size, size)), np.broadcast_to(at[:, None], (size, size))
    best = np.full((size, size), np.inf, np.float32)
    side, place = np.zeros((size, size), np.float32), np.zeros((size, size), np.float32)
    reach = 0.08  # nothing farther than this matters
    for n in range(24):
        ax, ay, dx, dy = points_x[n], points_y[n], points_x[n + 1] - points_x[n], points_y[n + 1] - points_y[n]
        cut = tuple(
            slice(max(0, math.floor((min(a, a + d) - reach) * size)), max(0, math.ceil((max(a, a + d) + reach) * size)))
            for a, d in ((ay, dy), (ax, dx))
        )
        px, py = across[cut] - np.float32(ax), down[cut] - np.float32(ay)
        t = np.clip((px * dx + py * dy) / (dx * dx + dy * dy), 0, 1).astype(np.float32)
        distance = np.hypot(px - t * np.float32(dx), py - t * np.float32(dy))
        nearer = distance < best[cut]
        best[cut] = np.where(nearer, distance, best[cut])
        side[cut] = np.where(nearer, np.sign(dx * py - dy * px), side[cut])
        place[cut] = np.where(nearer, (n + t) / 24, place[cut])
    return best, side, place


def _mixed(color: Floats, other: tuple[float, float, float] | Floats, amount: Floats) -> Floats:
    target = np.asarray(other, np.float32)
    target = target[:, None, None] if target.ndim == 1 else target
    return np.asarray(color + amount * (target - color), np.float32)


def _scratch(surface: Surface, random: np.random.Generator, strength: float) -> Flaw:
    """A long thin furrow, thrown up on one side, whose pressure varies and may break off."""
    size = len(surface.height)
    x, y = _place(surface, random)
    length = random.uniform(0.16, 0.45)
    distance, side, along = _stroke(size, x, y, length, random.uniform(-0.25, 0.25), random)
    pressure = np.interp(along, np.linspace(0, 1, 8), np.clip(random.normal(0.9, 0.4, 8), 0.25, 1.4))
    width = max(random.uniform(0.004, 0.009), 0.7 / size) * (0.6 + 0.4 * pressure)
    groove = np.exp(-((distance / width) ** 2)) * pressure * (distance < 1)
    ridge = np.exp(-(((distance - 1.6 * width) / (0.8 * width)) ** 2)) * pressure * (side > 0)
    height = surface.height + (0.5 * ridge - groove) * width * 0.9 * strength
    bare = random.uniform(0.3, 0.55) * strength * random.choice((1, 1, -1))
    color = surface.color + (bare * groove * (1.05 - surface.color if bare > 0 else surface.color)).astype(np.float32)
    return Flaw(surface._replace(height=height, color=color), (distance < 1.7 * width) & (pressure > 0.3))


def _cut(surface: Surface, random: np.random.Generator, strength: float) -> Flaw:
    """A short deep slit, widest in the middle, dark within and with raised lips."""
    size = len(surface.height)
    x, y = _place(surface, random, 0.15)
    length = random.uniform(0.1, 0.26)
    distance, _, along = _stroke(size, x, y, length, random.uniform(-0.12, 0.12), random)
    width = np.maximum(random.uniform(0.009, 0.018) * np.maximum(np.sin(math.pi * along), 0) ** 0.7, 0.6 / size)
    inside = np.clip((width - distance) * size * 0.7 + 0.5, 0, 1)
    lips = np.exp(-(((distance - width) / (0.6 * width + 0.002)) ** 2))
    height = surface.height + (0.6 * lips - 0.5 * inside) * width * strength
    dark = surface.color * np.float32(random.uniform(0.12, 0.35))
    color = _mixed(surface.color, dark, (inside * min(1.0, 0.9 * strength)).astype(np.float32))
    return Flaw(surface._replace(height=height, color=color), distance < 1.35 * width)


def _spot(surface: Surface, random: np.random.Generator, strength: float) -> Flaw:
    """One to four drops of another matter, opaque, thicker at the rim."""
    size = len(surface.height)
    x, y = _place(surface, random)
    paint = ((0.10, 0.10, 0.11), (0.88, 0.87, 0.83), (0.45, 0.20, 0.08), (0.25, 0.33, 0.24))[random.integers(4)]
    at = (np.arange(size, dtype=np.float32) + 0.5) / size
    cover, bulge = np.zeros((size, size), np.float32), np.zeros((size, size), np.float32)
    rough = smooth_noise(random, 24, 24, size)
    for drop in range(int(random.integers(1, 5))):
        radius = max(random.uniform(0.014, 0.045) / (1 + 0.5 * (drop > 0)), 1.2 / size)
        dx, dy = random.normal(0, 0.045, 2) * (drop > 0)
        long = random.uniform(0.75, 1)
        far = np.hypot((at - x - dx) / long, at[:, None] - y - dy) / radius + 0.1 * rough
        cover = np.maximum(cover, np.clip((1 - far) * radius * size + 0.5, 0, 1).astype(np.float32))
        bulge = np.maximum(bulge, radius * np.clip(1 - far * far, 0, 1).astype(np.float32) ** 0.5)
    amount = cover * np.float32(min(1.0, random.uniform(0.65, 0.95) * strength))
    color = _mixed(surface.color, paint, amount)
    return Flaw(surface._replace(height=surface.height + 0.12 * bulge, color=color), cover > 0.3)


def _stain(surface: Surface, random: np.random.Generator, strength: float) -> Flaw:
    """A liquid that soaked in and dried: a large tinted patch with a darker rim; the relief stays."""
    size = len(surface.height)
    x, y = _place(surface, random)
    radius, long = random.uniform(0.07, 0.15), random.uniform(0.6, 1)
    turn = random.uniform(0, math.pi)
    at = (np.arange(size, dtype=np.float32) + 0.5) / size
    dx, dy = at - np.float32(x), at[:, None] - np.float32(y)
    u, v = math.cos(turn) * dx + math.sin(turn) * dy, math.cos(turn) * dy - math.sin(turn) * dx
    edge = 1 - np.hypot(u, v / long) / radius + 0.16 * smooth_noise(random, 9, 9, size)
    inside = np.clip(edge * radius * size / max(1.5, 0.012 * size), 0, 1)
    rim = np.exp(-(((edge - 0.08) / 0.07) ** 2)) * inside
    tint = np.array(((0.50, 0.42, 0.30), (0.45, 0.46, 0.50), (0.62, 0.38, 0.30))[random.integers(3)], np.float32)
    soaked = inside * (0.62 + 0.1 * smooth_noise(random, 12, 12, size)) + 0.4 * rim
    amount = np.clip(soaked * random.uniform(0.55, 0.9) * strength, 0, 1).astype(np.float32)
    color = surface.color * (1 - amount * (1 - tint[:, None, None]))
    return Flaw(surface._replace(color=color), inside > 0.25)


FLAWS: dict[str, Callable[[Surface, np.random.Generator, float], Flaw]] = {
    "cut": _cut,
    "scratch": _scratch,
    "spot": _spot,
    "stain": _stain,
}
"""Drawers of flaws."""
