"""Which layer a loss of attention maps reads, found out before the first step."""

from __future__ import annotations

from typing import Any

import torch

from vaex.attention import latent_attention
from vaex.attention.isolation import refuse_coupling, undisturbed
from vaex.attention.layers import default_layer
from vaex.errors import VaexError
from vaex.networks.vae import VAE


def readable_layer(model: VAE, layer: str | None, key: str, **options: Any) -> str:
    """Return ``layer``, or the default one, once a map of one blank image could be read from it.

    ``options`` are those of `latent_attention` for that map; ``key`` is the config key of the layer, for messages.

    Raises:
        VaexError: for a layer that gives no map, or batch-norm in an encoder that trains.
    """
    refuse_coupling(model.encoder)  # behind the code it touches no map
    if model.shape is None:
        if layer is None:
            raise VaexError(f"A VAE without a shape cannot be probed for a layer; name one in {key}.")
        return layer
    blank = torch.zeros(1, *model.shape, device=next(model.parameters()).device)
    with undisturbed(model, blank) as probe:
        layer = layer or default_layer(model, model.encode, lambda posterior: posterior.mean, probe)
    latent_attention(model, blank, layer, size="layer", **options)
    return layer
