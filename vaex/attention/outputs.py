"""Reading mean and log-variance out of whatever a VAE or encoder returns."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

from torch import Tensor

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


def _from_names(get: Any) -> Code | None:
    for name in MEAN_NAMES:
        mean = get(name)
        if isinstance(mean, Tensor):
            logvars = [value for value in map(get, LOGVAR_NAMES) if isinstance(value, Tensor)]
            return Code(mean, logvars[0] if logvars else None)
    return None


def code_of(output: Any) -> Code:
    """Return the code in a model's output.

    Understood are: a tensor (the mean); an object or mapping with ``mean``, ``mu`` or ``embedding`` and, if there,
    ``logvar``, ``log_var`` or ``log_covariance``; one with ``posterior`` or ``latent_dist`` that has them; and a tuple,
    in which the first two neighbours of equal shape (B, D) are mean and log-variance (of shape (B, D, h, w) where no
    such pair exists), else its first tensor is the mean.

    Raises:
        VaexError: when no code is found.
    """
    if isinstance(output, Tensor):
        return Code(output, None)
    for name in ("posterior", "latent_dist"):
        inner = output.get(name) if isinstance(output, Mapping) else getattr(output, name, None)
        if inner is not None:
            return code_of(inner)
    get = output.get if isinstance(output, Mapping) else lambda name: getattr(output, name, None)
    if (code := _from_names(get)) is not None:
        return code
    if isinstance(output, tuple | list):
        tensors = [value for value in output if isinstance(value, Tensor)]
        pairs = list(zip(tensors, tensors[1:], strict=False))
        for dims in (2, 4):
            for mean, logvar in pairs:
                if mean.dim() == dims and mean.shape == logvar.shape:
                    return Code(mean, logvar)
        if tensors:
            return Code(tensors[0], None)
    raise VaexError(
        f"No latent code found in the model's output of type {type(output).__name__}: expected a tensor, (mean, logvar), "
        "or an object with .mean, .mu, .embedding, .posterior or .latent_dist."
    )
