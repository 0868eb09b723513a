"""Optimisers and learning-rate schedules from plain dicts."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from typing import Any

import torch
from torch import nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR

from vaex.build import named
from vaex.checked import call_checked
from vaex.errors import VaexError


def _adam(
    parameters: Iterable[nn.Parameter],
    lr: float = 1e-3,
    betas: Sequence[float] = (0.9, 0.999),
    eps: float = 1e-8,
    weight_decay: float = 0.0,
) -> Optimizer:
    first, second = betas
    return torch.optim.Adam(parameters, lr, (first, second), eps, weight_decay, fused=True)


def _adamw(
    parameters: Iterable[nn.Parameter],
    lr: float = 1e-3,
    betas: Sequence[float] = (0.9, 0.999),
    eps: float = 1e-8,
    weight_decay: float = 1e-2,
) -> Optimizer:
    first, second = betas
    return torch.optim.AdamW(parameters, lr, (first, second), eps, weight_decay, fused=True)


def _sgd(
    parameters: Iterable[nn.Parameter], lr: float = 1e-2, momentum: float = 0.9, weight_decay: float = 0.0
) -> Optimizer:
    return torch.optim.SGD(parameters, lr, momentum, weight_decay=weight_decay)


OPTIMISERS: dict[str, Callable[..., Optimizer]] = {"adam": _adam, "adamw": _adamw, "sgd": _sgd}


def _rise(step: int, warmup_steps: int) -> float:
    return (step + 1) / (warmup_steps + 1)


def _progress(step: int, total: float, warmup_steps: float) -> float:
    return min(1.0, (step - warmup_steps) / max(1.0, total - warmup_steps))


def constant(step: int, total: float, warmup_steps: int = 0) -> float:  # noqa: ARG001 - as the other schedules
    """Rise linearly over ``warmup_steps``, then stay at 1."""
    return min(1.0, _rise(step, warmup_steps))


def cosine(step: int, total: float, warmup_steps: int = 0, final: float = 0.0) -> float:
    """Rise linearly over ``warmup_steps``, then fall to ``final`` along half a cosine by step ``total``."""
    if step < warmup_steps:
        return _rise(step, warmup_steps)
    return final + (1 - final) * 0.5 * (1 + math.cos(math.pi * _progress(step, total, warmup_steps)))


def exponential(step: int, total: float, rate: float = 0.1, warmup_steps: int = 0) -> float:
    """Rise linearly over ``warmup_steps``, then decay exponentially to ``rate`` by step ``total``."""
    if step < warmup_steps:
        return _rise(step, warmup_steps)
    return float(rate ** _progress(step, total, warmup_steps))


def one_cycle(step: int, total: float, rise: float = 0.3, start: float = 0.04, final: float = 4e-6) -> float:
    """Rise from ``start`` to 1 over the share ``rise`` of the run, then fall to ``final``, each along half a cosine.

    Source: Smith & Topin, "Super-Convergence", 2019, as torch's OneCycleLR with its defaults; the momentum stays.
    """
    if step == 0:  # of which the number of steps is not known
        return start if rise > 0 else 1.0
    peak = max(rise * total - 1, 0.0)
    low, progress = (start, step / peak) if step < peak else (final, 1 - _progress(step, total - 1, peak))
    return low + (1 - low) * 0.5 * (1 - math.cos(math.pi * progress))


SCHEDULES: dict[str, Callable[..., float]] = {
    "constant": constant,
    "cosine": cosine,
    "exponential": exponential,
    "one_cycle": one_cycle,
}
"""Factor of the learning rate as a function of (optimiser step, total steps)."""


def build_optimiser(parameters: Iterable[nn.Parameter], config: Mapping[str, Any], key: str = "optim") -> Optimizer:
    """Return the optimiser from ``{"name": "adam", "lr": ...}``, which errors call ``key``.

    Raises:
        VaexError: for an unknown name or option, or a value out of range.
    """
    function, options = named("optimiser", OPTIMISERS, config)
    kind = f"optimiser '{config['name']}'"
    try:
        optimiser: Optimizer = call_checked(kind, partial(function, parameters), options)
    except (TypeError, ValueError) as error:
        raise VaexError(f"The {kind} does not take these values: {error}; correct {key}.") from error
    if any(not 0 < group["lr"] < math.inf for group in optimiser.param_groups):
        raise VaexError(f"{key}.lr must be positive, got {options['lr']}.")
    return optimiser


def build_schedule(optimiser: Optimizer, config: Mapping[str, Any], total: Callable[[], float]) -> LambdaLR:
    """Return the schedule from ``{"name": "cosine", ...}`` for a run of ``total()`` optimiser steps.

    ``total`` is asked for at the second step: no schedule needs it at the first, and Lightning makes the training
    loader to count it, which must not happen before a resumed run has restored its position.

    Raises:
        VaexError: for an unknown name or option, or a value out of range.
    """
    function, options = named("schedule", SCHEDULES, config)
    for key, value in options.items():
        if isinstance(value, int | float) and (value < 0 or (key == "rate" and value == 0)):
            raise VaexError(f"schedule.{key} must be {'positive' if key == 'rate' else '0 or more'}, got {value}.")
        if key == "rise" and isinstance(value, int | float) and value >= 1:
            raise VaexError(f"schedule.rise is a share of the run and must be below 1, got {value}.")
    call_checked(f"schedule '{config['name']}'", partial(function, 0, 1), options)
    return LambdaLR(optimiser, lambda step: function(step, total() if step else 1, **options))
