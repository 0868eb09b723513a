"""What to call of a foreign VAE, and reading mean, log-variance and reconstruction out of whatever it returns."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import groupby
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.distributions import Categorical, Cauchy, Distribution, Independent, Normal

from vaex.errors import VaexError
from vaex.types import LOGVAR_RANGE

MEAN_NAMES = ("mean", "mu", "embedding", "z_mean", "z_mu")
LOGVAR_NAMES = ("logvar", "log_var", "log_covariance", "log_variance", "z_logvar", "z_log_var")
IMAGE_NAMES = ("reconstruction", "sample", "recon_x", "recon", "x_hat", "x_recon")


class Code(NamedTuple):
    """Mean of a code (B, D) or latent grid (B, D, h, w), and its log-variance where the model states one."""

    mean: Tensor
    logvar: Tensor | None

    def need_logvar(self, purpose: str) -> Tensor:
        """Return the log-variance, or say that ``purpose`` needs one."""
        if self.logvar is None:
            raise VaexError(f"{purpose} needs a log-variance, but the model returns only a mean; use target='mean'.")
        return self.logvar.clamp(*LOGVAR_RANGE)


def _getter(output: Any) -> Callable[[str], Any]:
    return output.get if isinstance(output, Mapping) else lambda name: getattr(output, name, None)


def _from_names(get: Callable[[str], Any]) -> Code | None:
    for name in MEAN_NAMES:
        mean = get(name)
        if isinstance(mean, Tensor):
            logvars = [value for value in map(get, LOGVAR_NAMES) if isinstance(value, Tensor)]
            return Code(mean, logvars[0] if logvars else None)
    return None


def _rows(values: Iterable[Any]) -> Iterator[list[Tensor]]:
    """Yield the tensors of a tuple, then those of each tuple in it: neighbours are those of one level."""
    values = list(values)
    yield [value for value in values if isinstance(value, Tensor)]
    for value in values:
        if isinstance(value, tuple | list):
            yield from _rows(value)


_AMBIGUOUS = (
    "The model returns {} tensors of one shape side by side, and the first two were taken for mean and log-variance. "
    "If they are not, as in (z, mean, logvar), return an object with .mean and .logvar or name the fields; a callable "
    "target picks them, too."
)


def _alike(row: Sequence[Tensor]) -> list[list[Tensor]]:
    """Return ``row`` in runs of neighbours of equal shape."""
    return [list(run) for _, run in groupby(row, key=lambda tensor: tensor.shape)]


def _from_tuple(values: Sequence[Any]) -> Code | None:
    # What states its code says more than an order: (recon, posterior), where the images alone would be taken for it
    stated = [code for value in values if not isinstance(value, Tensor) and (code := _stated(value)) is not None]
    stated = [code for code in stated if code.mean.dim() in (2, 4)]
    if stated:  # of posterior, prior and likelihood: a prior may have a row for all images, a likelihood is larger
        batch = max(len(code.mean) for code in stated)
        return min((code for code in stated if len(code.mean) == batch), key=lambda code: code.mean.numel())
    # The code is the smallest thing that a VAE returns: of (recon, x, mean, logvar) the first pair are images
    rows = list(_rows(values))
    for dims in (2, 4):
        runs = [run for row in rows for run in _alike(row) if len(run) > 1 and run[0].dim() == dims]
        if runs:
            smallest = min(runs, key=lambda run: run[0].numel())
            if len(smallest) > 2:
                warnings.warn(_AMBIGUOUS.format(len(smallest)), stacklevel=3)
            return Code(*smallest[:2])
    alone = [tensor for row in rows for tensor in row if tensor.dim() in (2, 4)]
    return Code(min(alone, key=lambda tensor: int(tensor.numel())), None) if alone else None


def _from_distribution(distribution: Distribution) -> Code | None:
    inner = distribution
    while isinstance(inner, Independent):
        inner = inner.base_dist
    if not _has_mean(inner):
        return None
    # The log-variance of a Gaussian alone: the targets take it for one
    logvar = 2 * torch.log(inner.stddev) if isinstance(inner, Normal) else None
    return Code(inner.mean, logvar)


def _has_mean(distribution: Distribution) -> bool:
    try:
        # a category or a Cauchy has none, which torch says with NaN
        return not isinstance(distribution, Categorical | Cauchy) and isinstance(distribution.mean, Tensor)
    except NotImplementedError:
        return False


def _stated(output: Any) -> Code | None:
    """Return the code of what names it: a distribution, an object or a mapping."""
    if isinstance(output, Distribution):
        return _from_distribution(output)
    get = _getter(output)
    for name in ("posterior", "latent_dist"):
        if (inner := get(name)) is not None:
            return code_of(inner)
    return _from_names(get)


def code_of(output: Any) -> Code:
    """Return the code in a model's output.

    Understood are: a tensor (the mean); an object or mapping with ``mean``, ``mu``, ``embedding``, ``z_mean`` or
    ``z_mu`` and, if there, ``logvar``, ``log_var``, ``log_covariance`` ...; a distribution of torch, of which a normal
    one has a log-variance; something with ``posterior`` or ``latent_dist`` that is one of these; and a tuple.
    In a tuple, what states its code (an object or distribution) is taken; else the first of the smallest neighbours of
    equal shape (B, D), or else (B, D, h, w), are mean and log-variance, also in a tuple inside; without such neighbours
    its smallest tensor is the mean. So (mean, logvar, z) is understood, and (z, mean, logvar) is not: name the fields.
    Of three such neighbours a warning tells what was taken.

    Raises:
        VaexError: when no code is found.
    """
    if isinstance(output, Tensor):
        return Code(output, None)
    code = _stated(output)
    if code is None and isinstance(output, tuple | list):
        code = _from_tuple(output)
    if code is not None:
        return code
    if isinstance(output, Distribution):
        raise VaexError(
            f"The model returns a {type(output).__name__}, which has no mean that could be a code; name a layer and "
            "give target= a function of the output, such as its logits."
        )
    raise VaexError(
        f"No latent code found in the model's output of type {type(output).__name__}: expected a tensor, "
        "(mean, logvar), or an object with .mean, .mu, .embedding, .posterior or .latent_dist; return one of these, or "
        "name a layer and give target= a function of the output."
    )


def encoding(model: nn.Module) -> Callable[[Tensor], Any]:
    """Return what maps images to a code: the model's ``encode`` where it has one, else the model itself.

    A model of pythae is called with a data set and keeps mean and log-variance to itself, so its ``encoder`` is taken.
    """
    encode: Callable[[Tensor], Any] | None = getattr(model, "encode", None)
    if callable(encode):
        return encode
    encoder = getattr(model, "encoder", None)
    return encoder if isinstance(encoder, nn.Module) and _of_pythae(model) else model


def reconstruction_of(model: nn.Module, mean: Tensor, shape: Sequence[int]) -> Tensor | None:
    """Return the images that ``model`` decodes from the code ``mean``, of ``shape`` (B, C, H, W); None without decoder.

    The decoder is the model's ``decode``, of pythae its ``decoder``. It may return images, flat ones (B, C * H * W), a
    distribution (its mean is taken), an object or mapping with one of `IMAGE_NAMES`, or a tuple with one of these.
    """
    decode = getattr(model, "decode", None)
    if not callable(decode):
        decode = getattr(model, "decoder", None) if _of_pythae(model) else None
    if not callable(decode):
        return None
    wanted = [tuple(shape), (shape[0], math.prod(shape[1:]))]
    fitting = [image for image in _images(decode(mean)) if tuple(image.shape) in wanted]
    return fitting[0].reshape(tuple(shape)) if fitting else None


def _images(decoded: Any) -> Iterator[Tensor]:
    if isinstance(decoded, Tensor):
        yield decoded
    elif isinstance(decoded, Distribution):
        yield decoded.mean
    elif isinstance(decoded, tuple | list) and not hasattr(decoded, "_fields"):
        for value in decoded:
            yield from _images(value)
    else:
        get = _getter(decoded)
        yield from (image for name in (*IMAGE_NAMES, "mean") if isinstance(image := get(name), Tensor))


def _of_pythae(model: nn.Module) -> bool:
    # told by name: nobody needs pythae to have this asked
    return any(base.__name__ == "BaseAE" and base.__module__.startswith("pythae.") for base in type(model).__mro__)
