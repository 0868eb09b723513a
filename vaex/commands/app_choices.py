"""What a page may offer to choose for a model: layers, methods and targets that it admits, found by trying them."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from vaex.attention.image_methods import IMAGE_METHODS
from vaex.attention.isolation import original, undisturbed
from vaex.attention.latent import latent_attention
from vaex.attention.methods import METHODS
from vaex.attention.outputs import encoding
from vaex.attention.targets import TARGETS
from vaex.errors import VaexError
from vaex.explanation import features_before

DEFAULT_LAYER = "last convolution"


class Choices(NamedTuple):
    """Label -> value of each option of the maps; what the model is configured with stands first."""

    layers: dict[str, Any]
    methods: dict[str, Any]
    targets: dict[str, Any]


def label_of(value: Any) -> str:
    """Return how an option's value is called: a name, layers joined by +, a name with its parameters."""
    if value is None:
        return DEFAULT_LAYER
    if isinstance(value, Mapping):
        inside = ", ".join(f"{key}={one}" for key, one in value.items() if key != "name")
        return f"{value.get('name')} ({inside})" if inside else str(value.get("name"))
    return " + ".join(map(str, value)) if isinstance(value, list | tuple) else str(value)


def _labelled(values: list[Any]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for value in values:
        found.setdefault(label_of(value), value)
    return found


def spatial_layers(model: nn.Module, seen: Tensor) -> list[str]:
    """Return the names of the modules whose output (B, K, h, w) has more than one cell when ``seen`` is encoded.

    A container is named in the place of the last module inside it.
    """
    whole = original(model)
    outputs: dict[str, int] = {}
    kept = []  # while they live no other output has their id

    def hook_for(name: str) -> Any:
        def hook(module: nn.Module, args: Any, output: Any) -> None:  # noqa: ARG001
            if isinstance(output, Tensor) and output.dim() == 4 and output.shape[-1] * output.shape[-2] > 1:
                kept.append(output)
                outputs[name] = id(output)

        return hook

    with undisturbed(whole, seen) as pixels:
        handles = [module.register_forward_hook(hook_for(name)) for name, module in whole.named_modules() if name]
        try:
            encoding(whole)(pixels)
        finally:
            for handle in handles:
                handle.remove()

    def doubled(name: str) -> bool:
        parents = [name.rsplit(".", depth)[0] for depth in range(1, name.count(".") + 1)]
        return any(outputs.get(parent) == outputs[name] for parent in parents)

    return [name for name in outputs if not doubled(name)]


def choices_for(model: nn.Module, shape: tuple[int, int, int], options: Mapping[str, Any]) -> Choices:
    """Return what the ``model`` of images ``shape`` (C, H, W) admits, by one small map of noise for each.

    ``options`` are those of the maps that it is configured with. Methods are all listed: each needs nothing but a
    gradient, and some take long.
    """
    device = next((parameter.device for parameter in model.parameters()), torch.device("cpu"))
    probe = torch.rand(1, *shape, generator=torch.Generator().manual_seed(0)).to(device)
    seen = features_before(original(model), probe)

    def admitted(layer: Any, target: Any) -> bool:
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                latent_attention(model, seen, layer, target=target, size=(4, 4), reduce=options.get("reduce", "sum"))
        except VaexError:
            return False
        return True

    configured = options.get("layer")
    layers = [name for name in (None, *spatial_layers(model, seen)) if admitted(name, "mean")]
    layers = [configured, *(name for name in layers if name is None or not _same(name, configured))]
    method, target = options.get("method", "grad_cam"), options.get("target", "mean")
    likely = next((layer for layer in layers if isinstance(layer, str)), None)
    targets = [name for name in TARGETS if admitted(likely, name)]
    return Choices(_labelled(layers), _labelled([method, *METHODS, *IMAGE_METHODS]), _labelled([target, *targets]))


def _same(name: str, configured: Any) -> bool:
    return isinstance(configured, str) and (name == configured or name.endswith(f".{configured}"))
