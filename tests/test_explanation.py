"""`explain` against the parts it is made of, and the same everywhere."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import lightning.pytorch as pl
import pytest
import torch
from torch import Tensor, nn
from torch.distributions import Normal, kl_divergence
from torch.utils.data import DataLoader, TensorDataset

import vaex
from vaex.attention import latent_attention
from vaex.build import build_model
from vaex.errors import VaexError
from vaex.modules import VAEModule
from vaex.networks import VAE
from vaex.types import Explanation

NETWORK: dict[str, Any] = {"name": "conv", "shape": [1, 32, 32], "latents": 3, "width": 4, "depth": 3, "hidden": 8}


@pytest.fixture
def model() -> VAE:
    torch.manual_seed(1)
    return build_model(NETWORK | {"norm": "batch"})


@pytest.fixture
def x() -> Tensor:
    return torch.rand(5, 1, 32, 32, generator=torch.Generator().manual_seed(0))


def same(one: Explanation, other: Explanation) -> None:
    for name, a, b in zip(one._fields, one, other, strict=True):
        assert (a is None) == (b is None), name
        assert a is None or b is None or torch.equal(a, b), name


def kl_of(mean: Tensor, logvar: Tensor) -> Tensor:
    kl: Tensor = kl_divergence(Normal(mean, (logvar / 2).exp()), Normal(torch.zeros_like(mean), 1.0))
    return kl


def test_parts(model: VAE, x: Tensor) -> None:
    found = vaex.explain(model, x, "relu2", target="kl", rectify="abs")
    assert torch.equal(found.maps, latent_attention(model, x, "relu2", target="kl", rectify="abs"))
    model.eval()
    with torch.no_grad():
        posterior = model.encode(x)
        decoded = model.decode(posterior.mean).mean
    torch.testing.assert_close(found.mean, posterior.mean)
    torch.testing.assert_close(found.logvar, posterior.logvar)
    torch.testing.assert_close(found.kl, kl_of(*posterior))
    torch.testing.assert_close(found.reconstruction, decoded)
    torch.testing.assert_close(found.score_map, found.maps.mean(1, keepdim=True))
    torch.testing.assert_close(found.score, found.score_map.sum((1, 2, 3)))


@pytest.mark.parametrize("score", ["reconstruction", "kl"])
def test_other_scores(score: str, model: VAE, x: Tensor) -> None:
    found = vaex.explain(model, x, score=score)
    assert found.reconstruction is not None
    assert found.kl is not None
    error = (x - found.reconstruction).square().sum((1, 2, 3))
    torch.testing.assert_close(found.score, error if score == "reconstruction" else found.kl.sum(1))


def test_all_is_single_precision_without_graph(model: VAE, x: Tensor) -> None:
    for dtype in (torch.float64, torch.bfloat16):
        for part in vaex.explain(model.to(dtype), x.requires_grad_(), score="reconstruction"):
            assert part is not None
            assert part.dtype == torch.float32
            assert not part.requires_grad
            assert not part.is_inference()


def test_flags_and_random_stream_stay(model: VAE, x: Tensor) -> None:
    model.train()
    model.encoder.get_submodule("conv2").eval()
    before = [module.training for module in model.modules()]
    buffers = {name: buffer.clone() for name, buffer in model.named_buffers()}
    torch.manual_seed(3)
    expected = torch.rand(2)
    torch.manual_seed(3)
    vaex.explain(model, x)
    with pytest.raises(VaexError, match="Unknown score"):
        vaex.explain(model, x, score="attenton")
    assert torch.equal(torch.rand(2), expected)
    assert [module.training for module in model.modules()] == before
    assert all(torch.equal(buffer, buffers[name]) for name, buffer in model.named_buffers())


def test_an_explanation_for_a_loss_is_refused(model: VAE, x: Tensor) -> None:
    with pytest.raises(VaexError, match="carries no graph"):
        vaex.explain(model, x, create_graph=True)


class Foreign(nn.Module):
    """An encoder of someone else that draws random numbers in evaluation mode too."""

    def __init__(self, wrap: Callable[[Tensor, Tensor], Any], grid: bool = False) -> None:
        super().__init__()
        torch.manual_seed(2)
        self.conv, self.wrap = nn.Conv2d(1, 4, 4, 4), wrap
        self.head: nn.Module = nn.Conv2d(4, 6, 1) if grid else nn.Sequential(nn.Flatten(), nn.Linear(256, 6))

    def forward(self, x: Tensor) -> Any:
        mu, logvar = self.head(torch.tanh(self.conv(x))).chunk(2, 1)
        torch.randn(1)
        return self.wrap(mu, logvar)


def test_what_a_model_does_not_state_is_none(x: Tensor) -> None:
    alone = vaex.explain(Foreign(lambda mu, logvar: mu), x)
    assert (alone.logvar, alone.kl, alone.reconstruction) == (None, None, None)
    pair = vaex.explain(Foreign(lambda mu, logvar: {"mu": mu, "logvar": logvar}), x)
    assert torch.equal(pair.maps, alone.maps)
    assert torch.equal(pair.mean, alone.mean)
    assert pair.reconstruction is None
    assert pair.logvar is not None
    torch.testing.assert_close(pair.kl, kl_of(pair.mean, pair.logvar))
    for score, reason in (("kl", "log-variance"), ("reconstruction", "decoder")):
        with pytest.raises(VaexError, match=f"score={score} needs a model .*{reason}"):
            vaex.explain(Foreign(lambda mu, logvar: mu), x, score=score)


def test_kl_of_a_latent_grid_is_summed_over_its_cells(x: Tensor) -> None:
    wrap = lambda mu, logvar: SimpleNamespace(latent_dist=SimpleNamespace(mean=mu, logvar=logvar))  # noqa: E731
    found = vaex.explain(Foreign(wrap, grid=True), x)
    assert found.mean.shape == (5, 3, 8, 8)
    assert found.logvar is not None
    torch.testing.assert_close(found.kl, kl_of(found.mean, found.logvar).sum((2, 3)))
    assert found.maps.shape == (5, 3, 32, 32)


def test_a_lightning_module_is_explained_as_its_vae(x: Tensor) -> None:
    module = VAEModule(NETWORK)
    same(vaex.explain(module, x, "encoder.conv2"), vaex.explain(module.vae, x, "encoder.conv2"))
    same(vaex.explain(module, x), vaex.explain(module.vae, x))


@pytest.mark.parametrize("how", ["in place", "wrapped"])
def test_compiled_models_say_the_same(how: str, model: VAE, x: Tensor) -> None:
    expected = vaex.explain(model.eval(), x)
    if how == "in place":
        model.compile(backend="eager")
        compiled: Any = model
    else:
        compiled = torch.compile(model, backend="eager")
    compiled(x)
    same(vaex.explain(compiled, x), expected)


class Loops(pl.LightningModule):
    """Explain the same images from within every loop."""

    def __init__(self, vae: VAE, images: Tensor) -> None:
        super().__init__()
        self.vae, self.images = vae, images
        self.found: dict[str, Explanation] = {}

    def _explain(self, stage: str) -> None:
        images = self.images * 1  # made in the loop: an inference tensor in inference mode
        self.found[stage] = vaex.explain(self.vae, images, "relu2")

    def training_step(self, batch: list[Tensor]) -> Tensor:
        self._explain("fit")
        loss: Tensor = 0 * self.vae(batch[0]).kl.sum()
        return loss

    def validation_step(self, batch: list[Tensor]) -> None:
        self._explain("validate in fit" if self.trainer.state.fn == "fit" else "validate")

    def test_step(self, batch: list[Tensor]) -> None:
        self._explain("test")

    def predict_step(self, batch: list[Tensor]) -> None:
        self._explain("predict")

    def configure_optimizers(self) -> Any:
        return torch.optim.SGD(self.parameters(), lr=0.0)


@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed"])
@pytest.mark.parametrize("inference_mode", [True, False])
def test_every_loop_gives_the_same(precision: Any, inference_mode: bool, x: Tensor, tmp_path: Any) -> None:
    torch.manual_seed(1)
    vae = build_model(NETWORK)  # no batch-norm, whose statistics a training step moves
    expected = vaex.explain(vae, x, "relu2")
    module = Loops(vae, x)
    trainer = pl.Trainer(
        accelerator="cpu",
        precision=precision,
        inference_mode=inference_mode,
        max_epochs=1,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        default_root_dir=tmp_path,
    )
    loader: DataLoader[Any] = DataLoader(TensorDataset(x), batch_size=5)
    trainer.fit(module, loader, loader)
    trainer.validate(module, loader, verbose=False)
    trainer.test(module, loader, verbose=False)
    trainer.predict(module, loader)
    assert sorted(module.found) == ["fit", "predict", "test", "validate", "validate in fit"]
    for found in module.found.values():
        same(found, expected)
