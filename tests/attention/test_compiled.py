"""Compiled models have the maps of their originals; the backends here need no compiler."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from vaex.attention import latent_attention
from vaex.attention.isolation import original
from vaex.errors import VaexError


@pytest.mark.slow
@pytest.mark.parametrize("backend", ["eager", "aot_eager"])
def test_compiled_models_have_the_same_maps(backend: str, vae: Any, images: Any) -> None:
    x = images("conv")
    expected = {layer: latent_attention(vae("conv"), x, layer) for layer in (None, "conv2", "encoder.conv2")}
    torch._dynamo.reset()

    def in_place() -> Any:
        model = vae("conv")
        model.compile(backend=backend)
        return model

    def wrapped() -> Any:
        return torch.compile(vae("conv"), backend=backend)

    def wrapped_part() -> Any:
        model = vae("conv")
        model.encoder = torch.compile(model.encoder, backend=backend)
        return model

    def in_place_part() -> Any:
        model = vae("conv")
        model.encoder.conv2.compile(backend=backend)
        model.encoder.compile(backend=backend)
        return model

    for make in (in_place, wrapped, wrapped_part, in_place_part):
        model = make()
        reference = model(x).posterior.mean  # compiled by now
        for layer, maps in expected.items():
            assert torch.equal(latent_attention(model, x, layer), maps), (make.__name__, layer)
            with torch.inference_mode():
                assert torch.equal(latent_attention(model, x, layer), maps)
        torch.testing.assert_close(model(x).posterior.mean, reference)


def test_compiled_models_train_on_their_maps(vae: Any, images: Any) -> None:
    """A loss on maps differentiates twice, which compiled code (of aot_eager, unlike eager) does not allow."""
    x = images("conv")
    gradients = []
    for compiled in (False, True):
        model = vae("conv").train()
        if compiled:
            model.encoder.compile(backend="aot_eager")
            model(x)
        maps = latent_attention(model, x, "relu2", create_graph=True)
        gradients.append(torch.autograd.grad(maps.sum(), model.encoder.conv1.weight)[0])
    assert torch.equal(*gradients)


def test_compiled_code_runs_again_afterwards(vae: Any, images: Any) -> None:
    model, x = vae("conv"), images("conv")
    runs = []

    def backend(graph: torch.fx.GraphModule, inputs: Any) -> Any:
        def run(*args: Any) -> Any:
            runs.append(1)
            return graph(*args)

        return run

    model.encoder.compile(backend=backend)
    model(x)
    assert len(runs) == 1
    latent_attention(model, x)
    assert len(runs) == 1
    model(x)
    assert len(runs) == 2


def test_names_inside_compiled_modules_are_those_of_the_original(vae: Any, images: Any) -> None:
    model: Any = torch.compile(vae("conv"), backend="eager")
    assert original(model) is model._orig_mod
    assert original(vae("conv").encoder.conv1).kernel_size == (4, 4)
    with pytest.raises(VaexError, match=r"does not exist in VAE: .*valid names are encoder\.conv1") as error:
        latent_attention(model, images("conv"), "con1")
    assert "_orig_mod" not in str(error.value)
