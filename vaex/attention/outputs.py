"""Reading mean and log-variance out of whatever a VAE or encoder returns."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from itertools import pairwise
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.distributions import Distribution, Independent, Normal

from vaex.errors import VaexError
from vaex.types import LOGVAR_RANGE

MEAN_NAMES = ("mean", "mu", "embedding")
LOGVAR_NAMES = ("logvar", "log_var", "log_covariance", "log_variance")


class Code(NamedTuple):
    """Mean of a code (B, D) or latent grid (B, D, h, w), and its log-variance where the model states one."""

    mean: Tensor
    logvar: Tensor | None

    def need_logvar(self, purpose: str) -> Tensor:
        """Return the log-variance, or say that ``purpose`` needs one."""
        if self.logvar is None:
            raise VaexError(f"{purpose} needs a log-variance, but the model returns only a mean; use target='mean'.")
        return self.logvar.clamp(*LOGVAR_RANGE)


def _from_names(get: Callable[[str], Any]) -> Code | None:
    for name in MEAN_NAMES:
        mean = get(name)
        if isinstance(mean, Tensor):
            logvars = [value for value in map(get, LOGVAR_NAMES) if isinstance(value, Tensor)]
            return Code(mean, logvars[0] if logvars else None)
    return None


def _from_tuple(tensors: list[Tensor]) -> Code | None:
    # The code is the smallest thing that a VAE returns: of (recon, x, mean, logvar) the first pair are images
    for dims in (2, 4):
        pairs = [Code(a, b) for a, b in pairwise(tensors) if a.dim() == dims and a.shape == b.shape]
        if pairs:
            return min(pairs, key=lambda pair: pair.mean.numel())
    alone = [tensor for tensor in tensors if tensor.dim() in (2, 4)]
    return Code(min(alone, key=lambda tensor: int(tensor.numel())), None) if alone else None


def _from_distribution(distribution: Distribution) -> Code:
    inner = distribution
    while isinstance(inner, Independent):
        inner = inner.base_dist
    # The log-variance of a Gaussian alone: the targets take it for one
    logvar = 2 * torch.log(inner.stddev) if isinstance(inner, Normal) else None
    return Code(inner.mean, logvar)


def code_of(output: Any) -> Code:
    """Return the code in a model's output.

    Understood are: a tensor (the mean); an object or mapping with ``mean``, ``mu`` or ``embedding`` and, if there,
    ``logvar``, ``log_var`` or ``log_covariance``; a distribution of torch, of which a normal one has a log-variance;
    something with ``posterior`` or ``latent_dist`` that is one of these; and a tuple.
    In a tuple, the first of the smallest neighbours of equal shape (B, D), or else (B, D, h, w), are mean and
    log-variance; without such neighbours its smallest tensor is the mean. So (mean, logvar, z) is understood, and
    (z, mean, logvar) is not: name the fields.

    Raises:
        VaexError: when no code is found.
    """
    if isinstance(output, Tensor):
        return Code(output, None)
    if isinstance(output, Distribution):
        return _from_distribution(output)

    def get(name: str) -> Any:
        return output.get(name) if isinstance(output, Mapping) else getattr(output, name, None)

    for name in ("posterior", "latent_dist"):
        if (inner := get(name)) is not None:
            return code_of(inner)
    code = _from_names(get)
    if code is None and isinstance(output, tuple | list):
        code = _from_tuple([value for value in output if isinstance(value, Tensor)])
    if code is not None:
        return code
    raise VaexError(
        f"No latent code found in the model's output of type {type(output).__name__}: expected a tensor, "
        "(mean, logvar), or an object with .mean, .mu, .embedding, .posterior or .latent_dist."
    )
