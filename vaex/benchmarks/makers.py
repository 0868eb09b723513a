"""Who makes the maps that `vaex bench what=faithfulness` measures: vaex's methods, peers, and controls."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from vaex.attention import latent_attention
from vaex.attention.isolation import original, undisturbed
from vaex.attention.layers import default_layer
from vaex.attention.outputs import code_of, encoding
from vaex.benchmarks.peers import PEERS
from vaex.benchmarks.pointing import Method, row_name
from vaex.errors import VaexError
from vaex.metrics.faithfulness.decoding import decoded_response
from vaex.probing import codes_of_latents, reconstructed

NOISE = "control: noise"
INTENSITY = "control: the image itself"
RESPONSE = "control: what the decoder draws"
ERROR = "control: the reconstruction's error"
MEASURED_PEERS = ("captum LayerGradCam, looped", "pytorch-grad-cam's algorithm, rewritten")


@dataclass(frozen=True)
class Maker:
    """A row of the table: what makes its maps (B, T, H, W), the target they are of, and whether they are signed.

    ``control`` tells one that explains nothing, or that looks at what no explanation sees; it takes part in no rank.
    """

    row: str
    target: str
    maps: Callable[[nn.Module, Tensor], Tensor]
    signed: bool = True
    control: bool = False


def makers_of(
    model: nn.Module,
    images: Tensor,
    pairs: Sequence[tuple[Method, str]],
    latents: Sequence[int],
    layer: str | None = None,
) -> list[Maker]:
    """Return the rows for ``latents``: every pair of method and target, the peers' Grad-CAM of the mean, the controls.

    ``images`` (B, C, H, W): one is looked at to find the layer. Peers read a layer of ``model.encoder``; where the
    layer is elsewhere they are left out.
    """
    numbers = list(latents)

    def attention(network: nn.Module, seen: Tensor, *, method: Any, target: str) -> Tensor:
        return latent_attention(network, seen, layer, latents=numbers, method=method, target=target, rectify="none")

    rows = [
        Maker(row_name(method, target), target, partial(attention, method=method, target=target))
        for method, target in pairs
    ]
    if ("grad_cam", "mean") in pairs:  # as the peers' is, and as every picture shows it

        def default(network: nn.Module, seen: Tensor) -> Tensor:
            return latent_attention(network, seen, layer, latents=numbers)

        rows.append(Maker("grad_cam, mean, rectified", "mean", default, signed=False))
    name = layer or _default_layer(model, images)
    if name.startswith("encoder.") or layer is not None:
        short = name.removeprefix("encoder.")
        found = {peer: PEERS[peer] for peer in MEASURED_PEERS}

        def others(network: nn.Module, seen: Tensor, *, peer: Callable[..., Tensor]) -> Tensor:
            return peer(network, seen, short)[:, numbers]

        rows += [Maker(peer, "mean", partial(others, peer=run), signed=False) for peer, run in found.items()]
    return rows + _controls(numbers)


def makers_of_whole(pairs: Sequence[tuple[Method, str]], layer: str | None = None) -> list[Maker]:
    """Return the rows of maps of the whole code, (B, 1, H, W): every pair of method and target, and the controls.

    The controls are asked what maps of ``total_kl`` are.
    """

    def attention(network: nn.Module, seen: Tensor, *, method: Any, target: str) -> Tensor:
        return latent_attention(network, seen, layer, method=method, target=target, rectify="none")

    def error(network: nn.Module, seen: Tensor) -> Tensor:
        drawn = reconstructed(network, seen)
        if drawn is None:
            raise VaexError("The model has no decoder.")
        return (seen - drawn).abs().mean(1, keepdim=True)

    rows = [
        Maker(row_name(method, target), target, partial(attention, method=method, target=target))
        for method, target in pairs
    ]
    shared = [replace(maker, target="total_kl") for maker in _controls([0]) if maker.row != RESPONSE]
    return [*rows, *shared, Maker(ERROR, "total_kl", error, control=True)]


def _default_layer(model: nn.Module, images: Tensor) -> str:
    whole = original(model)
    with undisturbed(whole, images[:1]) as probe:
        return default_layer(whole, encoding(whole), lambda output: code_of(output).mean, probe)


def _controls(numbers: list[int]) -> list[Maker]:
    def noise(network: nn.Module, seen: Tensor) -> Tensor:  # noqa: ARG001 - it looks at nothing
        drawn = torch.randn(len(numbers), *seen.shape[2:], generator=torch.Generator().manual_seed(7))
        return drawn.to(seen).expand(len(seen), -1, -1, -1)

    def intensity(network: nn.Module, seen: Tensor) -> Tensor:  # noqa: ARG001 - as above
        return seen.mean(1, keepdim=True).expand(-1, len(numbers), -1, -1)

    def response(network: nn.Module, seen: Tensor) -> Tensor:
        if not hasattr(network, "decode"):
            raise VaexError("The model has no decoder.")
        return decoded_response(
            lambda codes: network.decode(codes).mean,  # type: ignore[operator]
            codes_of_latents(network, seen),
            numbers,
        )

    controls: Mapping[str, Callable[[nn.Module, Tensor], Tensor]] = {
        NOISE: noise,
        INTENSITY: intensity,
        RESPONSE: response,
    }
    return [Maker(row, "mean", maps, control=True) for row, maps in controls.items()]
