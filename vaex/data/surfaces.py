"""Surfaces drawn by code: each texture is a relief and colours, lit from the upper left."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.floating[Any]]
Bools = NDArray[np.bool_]


class Surface(NamedTuple):
    """A surface before it is lit."""

    height: Floats  # (S, S) relief in sides of the image
    color: Floats  # (3, S, S) in [0, 1], of the material
    gloss: float  # strength of the highlights
    material: Bools  # (S, S) where the surface is, not a hole nor the ground behind an object


def light_surface(surface: Surface, glow: Floats) -> Floats:
    """Return a picture (3, S, S), about in [0, 1], of a surface under a light of brightness ``glow`` (S, S)."""
    size = surface.height.shape[0]
    down, across = np.gradient(surface.height)
    down, across = (slope * np.float32(size) for slope in (down, across))
    length = np.sqrt(1 + down * down + across * across)
    x, y, z = 0.45, 0.5, 0.74  # to the light, of length 1
    diffuse = (z + x * across + y * down) / length
    # Blinn's half-way vector between the light and the viewer above
    half_x, half_y, half_z = (value / math.sqrt(2 + 2 * z) for value in (x, y, 1 + z))
    shine = np.maximum((half_z + half_x * across + half_y * down) / length, 0) ** 24
    flat = half_z**24
    bright = 0.3 + 0.7 * np.maximum(diffuse, 0) / z
    return np.asarray(glow * (surface.color * bright + surface.gloss * (shine - flat)), np.float32)


def smooth_noise(random: np.random.Generator, rows: int, columns: int, size: int) -> Floats:
    """Noise (size, size) of mean 0 and deviation 1, with ``rows`` by ``columns`` bumps, the same picture at any size.

    Cubic B-splines between random numbers, summed tap by tap, so that every process gets the same bits.
    """
    noise = random.standard_normal((rows + 3, columns + 3), dtype=np.float32)
    for count, axis in ((rows, 0), (columns, 1)):
        place = (np.arange(size, dtype=np.float32) + 0.5) * (count / size)
        cell = np.minimum(place.astype(np.int64), count - 1)
        t = place - cell
        taps = ((1 - t) ** 3, 3 * t**3 - 6 * t**2 + 4, -3 * t**3 + 3 * t**2 + 3 * t + 1, t**3)
        shape = (-1, 1) if axis == 0 else (1, -1)
        noise = sum(
            (np.take(noise, cell + n, axis) * (tap / 6).reshape(shape) for n, tap in enumerate(taps)),
            np.zeros((), np.float32),
        )
    # A B-spline through white noise has less deviation than the noise: a half, about, for two axes
    return np.asarray(noise * 2, np.float32)


def _plane(size: int, random: np.random.Generator, turn: float = 0.03, warp: float = 0.0) -> tuple[Floats, Floats]:
    """Coordinates x, y (S, S) in sides of the image, slightly turned, at a random place, smoothly warped."""
    at = (np.arange(size, dtype=np.float32) + 0.5) / size - 0.5
    angle = random.uniform(-turn, turn)
    cos, sin = np.float32(math.cos(angle)), np.float32(math.sin(angle))
    x, y = cos * at + sin * at[:, None] + random.uniform(0, 1), cos * at[:, None] - sin * at + random.uniform(0, 1)
    if warp:
        x, y = x + warp * smooth_noise(random, 3, 3, size), y + warp * smooth_noise(random, 3, 3, size)
    return np.asarray(x, np.float32), np.asarray(y, np.float32)


def _tinted(color: tuple[float, float, float], value: Floats) -> Floats:
    """A colour (3,) times a picture (S, S): (3, S, S)."""
    return np.asarray(color, np.float32)[:, None, None] * value


def _jitter(i: NDArray[np.int64], j: NDArray[np.int64], random: np.random.Generator) -> Floats:
    """One number in [0, 1) per pair of whole numbers, from a random table."""
    table = random.random(4096, dtype=np.float32)
    return np.asarray(table[(i * 73 + j * 179) % 4096])


def _step(value: Floats, low: float, high: float) -> Floats:
    t = np.clip((value - low) / (high - low), 0, 1)
    return np.asarray(t * t * (3 - 2 * t), np.float32)


def _weave(size: int, random: np.random.Generator) -> Surface:
    """A coarse twill: every thread passes over two and under two."""
    x, y = _plane(size, random, warp=0.004)
    threads = 26
    u, v = x * threads, y * threads
    i, j = np.floor(u).astype(np.int64), np.floor(v).astype(np.int64)
    fu, fv = u - i - 0.5, v - j - 0.5
    over = (i + j) % 4 < 2  # the upright thread is above
    lift = np.where(over, np.cos(math.pi * fv * 0.9), np.cos(math.pi * fu * 0.9))
    body = np.where(over, np.sqrt(np.maximum(0.3 - fu * fu, 0)), np.sqrt(np.maximum(0.3 - fv * fv, 0)))
    # Fibres run along the thread, twisted
    fibre = np.where(over, np.sin(38 * fu + 9 * v), np.sin(38 * fv + 9 * u))
    thread = np.where(over, _jitter(i, i * 0, random), _jitter(j, j * 0 + 7, random))
    height = (0.55 * body + 0.12 * lift + 0.012 * fibre) / threads
    shade = 0.8 + 0.16 * thread + 0.03 * fibre + 0.03 * smooth_noise(random, 6, 6, size)
    shade *= 0.55 + 0.45 * _step(body * 1.8, 0.1, 0.75)
    color = np.where(over, _tinted((0.60, 0.57, 0.50), shade), _tinted((0.42, 0.45, 0.50), shade))
    return _surface(height, color, 0.05)


def _wood(size: int, random: np.random.Generator) -> Surface:
    """A planed board: growth rings, stretched along the grain, with pores."""
    x, y = _plane(size, random, turn=0.05)
    bend = 0.06 * smooth_noise(random, 2, 4, size) + 0.012 * smooth_noise(random, 3, 14, size)
    rings = (x + bend + 0.05 * y) * 11
    part = rings - np.floor(rings)
    ring = _step(part, 0.0, 0.75) * (1 - _step(part, 0.88, 1.0))
    fibre = smooth_noise(random, 5, 150, size)
    pores = np.maximum(smooth_noise(random, 16, 190, size) - 1.3, 0)
    dark = np.clip(0.35 + 0.4 * ring * _strength(rings, random) + 0.08 * fibre + 0.4 * pores, 0, 1)
    light, deep = np.array((0.80, 0.60, 0.38), np.float32), np.array((0.40, 0.24, 0.12), np.float32)
    color = light[:, None, None] + (deep - light)[:, None, None] * dark
    return _surface(0.0006 * fibre - 0.002 * pores, color, 0.08)


def _strength(rings: Floats, random: np.random.Generator) -> Floats:
    number = np.floor(rings).astype(np.int64)
    return np.asarray(0.55 + 0.9 * _jitter(number, number * 0, random), np.float32)


def _metal(size: int, random: np.random.Generator) -> Surface:
    """Sheet steel, brushed across."""
    lines = 0.5 * smooth_noise(random, 170, 3, size) + 0.35 * smooth_noise(random, 240, 9, size)
    lines += 0.25 * smooth_noise(random, 60, 2, size)
    sheen = smooth_noise(random, 2, 2, size)
    color = _tinted((0.56, 0.58, 0.60), 1 + 0.09 * lines + 0.05 * sheen)
    return _surface(0.0006 * lines, color, 0.22)


def _brick(size: int, random: np.random.Generator) -> Surface:
    """A wall of glazed bricks in running bond."""
    x, y = _plane(size, random, turn=0.015, warp=0.003)
    rows, columns = 8.0, 3.5
    j = np.floor(y * rows).astype(np.int64)
    u = x * columns + 0.5 * (j % 2)
    i = np.floor(u).astype(np.int64)
    # Distance to the brick's edge, in rows
    edge = np.minimum(0.5 - np.abs(y * rows - j - 0.5), (0.5 - np.abs(u - i - 0.5)) * rows / columns)
    edge = edge + 0.012 * smooth_noise(random, 40, 40, size)
    solid = _step(edge, 0.07, 0.15)
    rough = smooth_noise(random, 60, 60, size)
    coarse = smooth_noise(random, 14, 14, size)
    shade = 0.82 + 0.25 * _jitter(i, j, random) + 0.045 * coarse + 0.03 * rough
    mortar = _tinted((0.63, 0.61, 0.57), 1 + 0.06 * smooth_noise(random, 100, 100, size))
    color = mortar + solid * (_tinted((0.60, 0.31, 0.23), shade) - mortar)
    return _surface(0.012 * solid + 0.0012 * (0.4 + solid) * rough + 0.002 * coarse, color, 0.04)


def _grid(size: int, random: np.random.Generator) -> Surface:
    """A wire mesh over a dark ground."""
    x, y = _plane(size, random, turn=0.02, warp=0.003)
    cells = 11
    u, v = (x + y) * cells * 0.75, (x - y) * cells * 0.75
    i, j = np.floor(u).astype(np.int64), np.floor(v).astype(np.int64)
    du, dv = np.abs(u - i - 0.5), np.abs(v - j - 0.5)
    half = 0.19
    wave_u, wave_v = np.cos(math.pi * (v + i)), -np.cos(math.pi * (u + j))
    wire_u, wire_v = np.sqrt(np.maximum(half**2 - du**2, 0)), np.sqrt(np.maximum(half**2 - dv**2, 0))
    level_u, level_v = wire_u + 0.12 * wave_u - 9 * (wire_u == 0), wire_v + 0.12 * wave_v - 9 * (wire_v == 0)
    material = (wire_u > 0) | (wire_v > 0)
    height = np.where(material, np.maximum(level_u, level_v), -0.15) / cells
    grain = smooth_noise(random, 90, 90, size)
    ground = 0.17 + 0.012 * smooth_noise(random, 8, 8, size) + 0.008 * grain
    metal = _tinted((0.66, 0.63, 0.56), 1 + 0.05 * grain)
    return _surface(height, np.where(material, metal, ground), 0.15, material)


def _leather(size: int, random: np.random.Generator) -> Surface:
    """Grained leather: rounded cells between creases of uneven depth."""
    x, y = _plane(size, random, turn=0.3, warp=0.012)
    near, second = _cells(x * 30, y * 26, random)
    depth = np.clip(0.75 + 0.3 * smooth_noise(random, 7, 7, size), 0.25, 1.3)
    crease = (1 - _step(second - near, 0.0, 0.38)) * depth
    pores = smooth_noise(random, 110, 110, size)
    folds = smooth_noise(random, 5, 5, size)
    shade = 0.98 - 0.22 * crease + 0.03 * folds + 0.025 * pores
    height = -0.007 * crease + 0.0006 * pores + 0.002 * folds
    return _surface(height, _tinted((0.46, 0.28, 0.19), shade), 0.1)


def _cells(u: Floats, v: Floats, random: np.random.Generator) -> tuple[Floats, Floats]:
    """Distances of each pixel to the nearest and the second nearest of jittered lattice points."""
    i, j = np.floor(u).astype(np.int32), np.floor(v).astype(np.int32)
    table = random.random((2, 4096), dtype=np.float32)
    first = 73 * i + 179 * j  # of the table, wrapped around
    left, top = u - i.astype(np.float32), v - j.astype(np.float32)
    near, second = np.full_like(u, 9), np.full_like(u, 9)
    for a in (-1, 0, 1):
        for b in (-1, 0, 1):
            entry = (first + (73 * a + 179 * b)) & 4095
            distance = np.square(table[0].take(entry) + (a - left)) + np.square(table[1].take(entry) + (b - top))
            second = np.minimum(second, np.maximum(near, distance))
            near = np.minimum(near, distance)
    near, second = np.sqrt(near), np.sqrt(second)
    return near, second


def _washer(size: int, random: np.random.Generator) -> Surface:
    """A turned washer on a matt ground, always at the same place but for a hundredth of the side."""
    at = (np.arange(size, dtype=np.float32) + 0.5) / size - 0.5
    shift_x, shift_y = random.uniform(-0.01, 0.01, 2).astype(np.float32)
    x, y = at + shift_x, at[:, None] + shift_y
    radius = np.hypot(x, y)
    inner, outer, bevel = 0.165, 0.41, 0.022
    rise = np.minimum(_step(radius, inner, inner + bevel), 1 - _step(radius, outer - bevel, outer))
    material = (radius > inner) & (radius < outer)
    table = random.standard_normal(512, dtype=np.float32)
    place = radius * 512
    low = place.astype(np.int64)
    lathe = table[low] + (table[np.minimum(low + 1, 511)] - table[low]) * (place - low)
    ring = np.exp(-(((radius - 0.305) / 0.006) ** 2))  # a turned groove
    # Turned metal mirrors in two opposite sectors
    sheen = np.cos(2 * (np.arctan2(y, x) - 0.75)) ** 2 * material
    steel = _tinted((0.50, 0.50, 0.49), 0.85 + 0.05 * lathe + 0.42 * sheen - 0.2 * ring)
    shadow = 1 - 0.45 * (1 - _step(np.abs(np.hypot(x - 0.014, y - 0.016) - 0.2875) - 0.1225, -0.01, 0.035))
    fleck = smooth_noise(random, 120, 120, size)
    ground = _tinted((0.74, 0.75, 0.72), (1 + 0.02 * fleck) * shadow)
    height = 0.02 * rise - 0.004 * ring + 0.0005 * lathe * material
    return _surface(height, np.where(material, steel, ground), 0.12, material)


def _surface(height: Floats, color: Floats, gloss: float, material: Bools | None = None) -> Surface:
    height = np.asarray(height, np.float32)
    return Surface(
        height, np.asarray(color, np.float32), gloss, np.ones(height.shape, bool) if material is None else material
    )


TEXTURES: dict[str, Callable[[int, np.random.Generator], Surface]] = {
    "weave": _weave,
    "wood": _wood,
    "metal": _metal,
    "brick": _brick,
    "grid": _grid,
    "leather": _leather,
    "washer": _washer,
}
"""Drawers of surfaces (size, random); the washer is an aligned object, the others fill the image."""
