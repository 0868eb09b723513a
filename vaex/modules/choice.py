"""Which LightningModule trains what."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from vaex.errors import VaexError
from vaex.modules.factor_vae import FactorVAEModule
from vaex.modules.feature_vae import FeatureVAEModule
from vaex.modules.vae import VAEModule


def module_class(network: Mapping[str, Any], objective: Mapping[str, Any] | None = None) -> type[VAEModule]:
    """Return the LightningModule that trains a network by an objective, both configs ``{"name": ..., ...}``.

    Raises:
        VaexError: for a feature VAE by FactorVAE; for an objective that is no mapping.
    """
    if not isinstance(objective or {}, Mapping):
        raise VaexError(f"The objective must be a mapping such as {{name: beta_vae}}, got {objective!r}.")
    features = network.get("name") in ("feature_vae", "feature_grid")
    if (objective or {}).get("name") != "factor_vae":
        return FeatureVAEModule if features else VAEModule
    if features:
        raise VaexError(
            f"objective=factor_vae trains VAEs of pixels, not network={network.get('name')}; choose network=factor_vae "
            "or conv, or another objective."
        )
    return FactorVAEModule
