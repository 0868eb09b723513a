"""Starting a run from where another one stopped: its weights and the moments of its optimisers."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

from torch import nn
from torch.optim import Optimizer

from vaex.errors import VaexError

NETWORKS = ("vae", "discriminator")
"""Attributes of a module whose weights are taken, in the order of their optimisers."""


def take_weights(module: Any, checkpoint: Mapping[str, Any], source: str) -> list[dict[str, Any]]:
    """Give ``module`` the weights of ``checkpoint``; return the moments that belong to them, for `take_moments`.

    A discriminator that only one of the two has is left as it is.

    Raises:
        VaexError: when the networks or the optimisers differ; ``source`` is named in it.
    """
    saved, own = checkpoint["hyper_parameters"], module.hparams
    for key in ("network", "prior"):
        if saved.get(key) != own[key]:
            raise VaexError(
                f"init={source} was trained with {key}={saved.get(key)}, this run has {own[key]}; choose the same."
            )
    chosen = [str((config.get("optim") or {}).get("name")) for config in (saved, own)]
    if chosen[0] != chosen[1]:
        raise VaexError(f"init={source} was trained with optim={chosen[0]}, this run has {chosen[1]}; choose the same.")
    states = []
    for name, state in zip(NETWORKS, checkpoint.get("optimizer_states") or [], strict=False):
        network: nn.Module | None = getattr(module, name, None)
        prefix = f"{name}."
        weights = {k.removeprefix(prefix): v for k, v in checkpoint["state_dict"].items() if k.startswith(prefix)}
        if network is None or not weights:
            break
        try:
            network.load_state_dict(weights)
        except RuntimeError as error:
            raise VaexError(
                f"The {name} of init={source} has layers of other sizes; choose the same network."
            ) from error
        states.append(copy.deepcopy(state["state"]))  # an optimiser takes tensors as they are and changes them
    if not states:
        raise VaexError(f"init={source} holds weights alone, without optimisers; name a run folder or its last.ckpt.")
    return states


def take_moments(optimisers: list[Optimizer], states: list[dict[str, Any]]) -> None:
    """Give the optimisers the moments of `take_weights`; their learning rates and other options stay their own."""
    for optimiser, state in zip(optimisers, states, strict=False):
        optimiser.load_state_dict({"state": state, "param_groups": optimiser.state_dict()["param_groups"]})
