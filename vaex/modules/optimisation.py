"""Optimisers and learning-rate schedules from plain dicts."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
from torch import nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR

from vaex.build import call_checked, named
from vaex.errors import VaexError


def _adam(
    parameters: Iterable[nn.Parameter],
    lr: float = 1e-3,
    betas: tuple[float, float] = (0.9, 0.999),
    eps: float = 1e-8,
    weight_decay: float = 0.0,
) -> Optimizer:
    return torch.optim.Adam(parameters, lr, tuple(betas), eps, weight_decay, fused=True)


def _adamw(
    parameters: Iterable[nn.Parameter],
    lr: float = 1e-3,
    betas: tuple[float, float] = (0.9, 0.999),
    eps: float = 1e-8,
    weight_decay: float = 1e-2,
) -> Optimizer:
    return torch.optim.AdamW(parameters, lr, tuple(betas), eps, weight_decay, fused=True)


def _sgd(
    parameters: Iterable[nn.Parameter], lr: float = 1e-2, momentum: float = 0.9, weight_decay: float = 0.0
) -> Optimizer:
    return torch.optim.SGD(parameters, lr, momentum, weight_decay=weight_decay)


OPTIMISERS: dict[str, Callable[..., Optimizer]] = {"adam": _adam, "adamw": _adamw, "sgd": _sgd}


def constant(step: int, total: int, warmup_steps: int = 0) -> float:
    """Rise linearly over ``warmup_steps``, then stay at 1."""
    return min(1.0, (step + 1) / (warmup_steps + 1)) if warmup_steps else 1.0


def cosine(step: int, total: int, warmup_steps: int = 0, final: float = 0.0) -> float:
    """Rise linearly over ``warmup_steps``, then fall to ``final`` along half a cosine by step ``total``."""
    if step < warmup_steps:
        return (step + 1) / (warmup_steps + 1)
    progress = min(1.0, (step - warmup_steps) / max(1, total - warmup_steps))
    return final + (1 - final) * 0.5 * (1 + math.cos(math.pi * progress))


def exponential(step: int, total: int, rate: float = 0.1, warmup_steps: int = 0) -> float:
    """Rise linearly over ``warmup_steps``, then decay by the factor ``rate`` over the whole run."""
    if step < warmup_steps:
        return (step + 1) / (warmup_steps + 1)
    return float(rate ** (step / max(1, total)))


SCHEDULES: dict[str, Callable[..., float]] = {"constant": constant, "cosine": cosine, "exponential": exponential}
"""Factor of the learning rate as a function of (optimiser step, total steps)."""


def build_optimiser(parameters: Iterable[nn.Parameter], config: Mapping[str, Any]) -> Optimizer:
    """Return the optimiser from ``{"name": "adam", "lr": ...}``.

    Raises:
        VaexError: for an unknown name or option, or a learning rate that is not positive.
    """
    function, options = named("optimiser", OPTIMISERS, config)
    if options.get("lr", 1.0) <= 0:
        raise VaexError(f"optim.lr must be positive, got {options['lr']}.")
    optimiser: Optimizer = call_checked(
        f"optimiser '{config['name']}'", function, {"parameters": parameters, **options}
    )
    return optimiser


def build_schedule(optimiser: Optimizer, config: Mapping[str, Any], total: int) -> LambdaLR:
    """Return the schedule from ``{"name": "cosine", ...}`` for a run of ``total`` optimiser steps."""
    function, options = named("schedule", SCHEDULES, config)
    call_checked(f"schedule '{config['name']}'", function, {"step": 0, "total": total, **options})
    return LambdaLR(optimiser, lambda step: function(step, total, **options))
