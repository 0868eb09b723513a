"""FactorVAEModule against Algorithm 2 of its paper written out, and what a run of it must keep."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import pytest
import torch
from lightning.pytorch.plugins.precision import MixedPrecision
from torch import Tensor
from torch.nn import functional as F

import vaex
from tests.modules.conftest import NETWORK, same, sprites, train
from vaex.attention import latent_attention
from vaex.callbacks.last import LastCheckpoint
from vaex.errors import VaexError
from vaex.modules import FactorVAEModule, FeatureVAEModule, VAEModule, module_class
from vaex.modules.vae import step_seed
from vaex.objectives.attention import mean_pair_overlap
from vaex.objectives.factor_vae import permuted_latents

SMALL = {"width": 16, "depth": 3, "init": "torch"}
VAE_RATE, RATE = 1e-3, 2e-3


def built(gamma: float = 5.0, discriminator: dict[str, Any] | None = None, **options: Any) -> FactorVAEModule:
    objective = {
        "name": "factor_vae",
        "gamma": gamma,
        "discriminator": {**SMALL, "optim": {"name": "adam", "lr": RATE, "betas": [0.5, 0.9]}, **(discriminator or {})},
        "attention": options.pop("attention", {}),
    }
    optim = options.pop("optim", {"name": "adam", "lr": VAE_RATE})
    return FactorVAEModule(NETWORK, objective, optim, seed=4, **options)


def batches(count: int, size: int = 8) -> list[dict[str, Tensor]]:
    """The training batches of the first epoch."""
    data = sprites()
    data.batch_size = size
    data.setup()
    loader = iter(data.train_dataloader())
    return [next(loader) for _ in range(count)]


def written_out(
    module: FactorVAEModule,
    steps: int,
    every: int = 1,
    clip: float | None = None,
    algorithm: str = "norm",
    left_out: int = 0,
) -> None:
    """Train by the algorithm as it is written: D(z) twice, weights of the other network frozen by ``autograd.grad``.

    The first ``left_out`` batches train the discriminator alone.
    """
    ours, theirs = list(module.vae.parameters()), list(module.discriminator.parameters())
    first = torch.optim.Adam(ours, VAE_RATE, foreach=False)
    second = torch.optim.Adam(theirs, RATE, (0.5, 0.9), foreach=False)
    attention = module.hparams["objective"]["attention"]
    sums: list[list[Tensor]] = []
    for number, batch in enumerate(batches(steps)):
        torch.manual_seed(step_seed(4, "train", 0, number, 0))
        noise, noise2 = torch.randn(4, 3), torch.randn(4, 3)
        x, x2 = batch["image"][:4], batch["image"][4:]
        mean, logvar = module.vae.encode(x)
        z = mean + (logvar / 2).exp() * noise
        logits = module.vae.decoder(z)
        loss = F.binary_cross_entropy_with_logits(logits, x, reduction="sum") / 4
        loss = loss - 0.5 * (1 + logvar - mean**2 - logvar.exp()).sum() / 4
        told = module.discriminator(z)
        loss = loss + 5.0 * (told[:, 0] - told[:, 1]).mean()
        if attention:
            maps = latent_attention(module.vae, x, "conv1", create_graph=True, size="layer")
            loss = loss + attention["weight"] * mean_pair_overlap(maps, [1, 2])
        mean2, logvar2 = (part.detach() for part in module.vae.encode(x2))
        generator = torch.Generator().manual_seed(step_seed(4, "permutation", 0, number))
        permuted = permuted_latents(mean2 + (logvar2 / 2).exp() * noise2, generator)
        right = -F.log_softmax(module.discriminator(z.detach()), 1)[:, 0].mean()
        right2 = -F.log_softmax(module.discriminator(permuted), 1)[:, 1].mean()
        gradients = [*torch.autograd.grad(loss, ours), *torch.autograd.grad(0.5 * (right + right2), theirs)]
        sums.append(gradients)
        if len(sums) == every:
            total = [torch.stack(parts).mean(0) for parts in zip(*sums, strict=True)]
            for weight, gradient in zip([*ours, *theirs], total, strict=True):
                weight.grad = gradient
            if clip is not None and algorithm == "value":
                for weight in (*ours, *theirs):
                    assert weight.grad is not None
                    weight.grad = torch.where(weight.grad.abs() > clip, clip * weight.grad.sign(), weight.grad)
            elif clip is not None:
                for weights in (ours, theirs):
                    norm = torch.stack([w.grad.norm() for w in weights if w.grad is not None]).norm()
                    for weight in weights:
                        assert weight.grad is not None
                        weight.grad *= min(1.0, clip / float(norm))
            if number >= left_out:
                first.step()
            second.step()
            sums = []


CASES: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "plain": ({}, {}),
    "clipped": ({}, {"clip": 0.05}),
    "clipped by value": ({}, {"clip": 1e-3, "algorithm": "value"}),
    "accumulated": ({}, {"every": 2}),
    "accumulated and clipped": ({}, {"every": 3, "clip": 0.05}),
    "accumulated and clipped by value": ({}, {"every": 2, "clip": 1e-3, "algorithm": "value"}),
    "attention": ({"attention": {"weight": 300.0, "layer": "conv1"}}, {}),
    "attention, channels_last": ({"attention": {"weight": 300.0, "layer": "conv1"}, "channels_last": True}, {}),
}


@pytest.mark.parametrize("case", CASES)
def test_steps_are_those_of_the_algorithm_written_out(case: str, tmp_path: Path) -> None:
    options, how = CASES[case]
    module, reference = built(**options), built(**options)
    start = {name: value.detach().clone() for name, value in module.named_parameters()}
    trainer = train(
        tmp_path,
        module,
        max_epochs=1,
        limit_val_batches=0,
        gradient_clip_val=how.get("clip"),
        gradient_clip_algorithm=how.get("algorithm"),
        accumulate_grad_batches=how.get("every", 1),
    )
    assert trainer.global_step == 6 // how.get("every", 1)  # one a batch, not one an optimiser
    written_out(reference, 6, **how)
    for name, value in reference.named_parameters():
        # Adam's steps are as long as its rate; what differs by rounding alone stays far below
        torch.testing.assert_close(module.state_dict()[name], value, rtol=1e-3, atol=2e-5, msg=name)
        assert not torch.equal(value, start[name])


def test_loss_of_the_discriminator_reaches_no_weight_of_the_vae(tmp_path: Path) -> None:
    modules = [built(gamma=0.0, discriminator=options) for options in ({}, {"width": 9, "depth": 4})]
    for module in modules:
        train(tmp_path, module, max_epochs=1)
    assert same(modules[0].vae.state_dict(), modules[1].vae.state_dict())


def test_total_correlation_reaches_no_weight_of_the_discriminator(tmp_path: Path) -> None:
    """With a VAE that learns next to nothing, the discriminator learns alike whatever the weight."""
    modules = [built(gamma=gamma, optim={"name": "adam", "lr": 1e-30}) for gamma in (0.0, 1e4)]
    for module in modules:
        train(tmp_path, module, max_epochs=1)
    assert same(modules[0].discriminator.state_dict(), modules[1].discriminator.state_dict())


@pytest.mark.slow
def test_discriminator_learns_to_tell_permuted_codes(tmp_path: Path) -> None:
    """Codes that are all alike: an easy task for the discriminator, as the logged loss and accuracy say."""

    class Alike(torch.nn.Module):
        """Latents that equal the same number of white pixels."""

        latents = 3

        def __init__(self) -> None:
            super().__init__()
            self.bias = torch.nn.Parameter(torch.zeros(1))

        def forward(self, images: Tensor) -> Any:
            size = images.mean((1, 2, 3))[:, None] * 20 + self.bias - 2
            return vaex.types.Posterior(size.expand(-1, 3), torch.full((len(images), 3), -8.0))

    module = built(gamma=0.0, optim={"name": "adam", "lr": 1e-30}, discriminator={"width": 64})
    module.vae.encoder = Alike()  # type: ignore[assignment]
    trainer = train(tmp_path, module, max_epochs=30)
    assert trainer.callback_metrics["train/discriminator_accuracy"] > 0.7
    assert trainer.callback_metrics["train/discriminator_loss"] < 0.6
    assert trainer.callback_metrics["val/total_correlation"] > 0.3


# Resumed, compiled, other precisions


@pytest.mark.parametrize("channels_last", [False, True])
def test_a_resumed_run_ends_as_an_uninterrupted_one(channels_last: bool, tmp_path: Path) -> None:
    whole = built(channels_last=channels_last)
    train(tmp_path, whole, max_epochs=3)
    train(
        tmp_path,
        built(channels_last=channels_last),
        LastCheckpoint(str(tmp_path / "half.ckpt"), 8),
        max_epochs=-1,
        max_steps=8,
    )
    again = built(channels_last=channels_last)
    trainer = pl.Trainer(
        accelerator="cpu",
        max_epochs=3,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        default_root_dir=tmp_path,
    )
    trainer.fit(again, datamodule=sprites(), ckpt_path=tmp_path / "half.ckpt", weights_only=True)
    assert trainer.global_step == 18  # 6 an epoch; the first 8 were made before
    assert same(whole.state_dict(), again.state_dict())


@pytest.mark.slow
@pytest.mark.parametrize("attention", [{}, {"weight": 100.0, "layer": "conv1"}], ids=["plain", "attention"])
def test_a_compiled_run_trains_as_another(attention: dict[str, Any], tmp_path: Path) -> None:
    torch._dynamo.reset()
    plain, compiled = built(attention=attention), built(attention=attention, compile=True)
    compiled.vae.compile(backend="aot_eager")
    for module in (plain, compiled):
        train(tmp_path, module, max_epochs=2)
    for name, value in plain.state_dict().items():
        torch.testing.assert_close(compiled.state_dict()[name], value, rtol=1e-3, atol=1e-4)
    if attention:
        without = built()
        train(tmp_path, without, max_epochs=2)
        first = "vae.encoder.conv1.weight"
        assert not torch.allclose(without.state_dict()[first], plain.state_dict()[first], atol=1e-4)


def test_bfloat16_trains_every_weight_of_both(tmp_path: Path) -> None:
    """Autocast keeps weights that were cast without a graph: the pass without one must not come first."""
    module, exact = built(), built()
    start = {name: value.clone() for name, value in module.state_dict().items()}
    train(tmp_path, module, max_epochs=1, precision="bf16-mixed")
    train(tmp_path, exact, max_epochs=1)
    for name, value in module.named_parameters():
        moved = (exact.state_dict()[name] - start[name]).flatten()
        assert F.cosine_similarity((value - start[name]).flatten(), moved, dim=0) > 0.7, name


class Scaled(MixedPrecision):
    """Loss scaling by itself: the forward pass stays in fp32."""

    def forward_context(self) -> Any:
        from contextlib import nullcontext

        return nullcontext()


def scaled(tmp_path: Path, module: FactorVAEModule, start: float, **options: Any) -> torch.amp.GradScaler:
    scaler = torch.amp.GradScaler("cpu", init_scale=start, growth_interval=1)
    plugin = Scaled("16-mixed", "cpu", scaler)
    train(tmp_path, module, max_epochs=1, plugins=[plugin], **options)
    return scaler


CLIPS: list[dict[str, Any]] = [
    {},
    {"gradient_clip_val": 0.05},
    {"gradient_clip_val": 1e-3, "gradient_clip_algorithm": "value"},
]


@pytest.mark.parametrize("clip", CLIPS, ids=["plain", "norm", "value"])
def test_scaled_losses_make_the_same_steps(clip: dict[str, Any], tmp_path: Path) -> None:
    """The scale doubles at every step: one that were changed between the two networks would double a gradient."""
    options: Any = {"optim": {"name": "sgd", "lr": 1e-3}, "discriminator": {"optim": {"name": "sgd", "lr": 0.1}}}
    module, exact = built(**options), built(**options)
    scaler = scaled(tmp_path, module, 1024.0, **clip)
    train(tmp_path, exact, max_epochs=1, **clip)
    assert scaler.get_scale() == 1024.0 * 2**6
    for name, value in exact.state_dict().items():
        torch.testing.assert_close(module.state_dict()[name], value, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("clip", CLIPS, ids=["plain", "norm", "value"])
def test_steps_that_overflow_are_left_out(clip: dict[str, Any], tmp_path: Path) -> None:
    module = built()
    start = {name: value.clone() for name, value in module.state_dict().items()}
    scaler = scaled(tmp_path, module, 2.0**127, limit_train_batches=1, **clip)
    assert scaler.get_scale() == 2.0**126
    assert same(module.vae.state_dict(), {n.removeprefix("vae."): v for n, v in start.items() if n.startswith("vae.")})


@pytest.mark.parametrize("infinite", [torch.inf, -torch.inf, torch.nan])
def test_a_run_that_overflows_once_goes_on_as_the_algorithm_written_out(infinite: float, tmp_path: Path) -> None:
    """Clipped to a number, the one infinite entry of the first batch would make a step of the VAE."""
    module, reference = built(), built()
    added = iter([torch.tensor([infinite, 0.0, 0.0])])
    module.vae.encoder.mean.bias.register_hook(lambda gradient: gradient + next(added, 0.0))
    clip = {"gradient_clip_val": 1e-3, "gradient_clip_algorithm": "value"}
    scaler = scaled(tmp_path, module, 1024.0, **clip)
    assert scaler.get_scale() == 1024.0 / 2 * 2**5
    written_out(reference, 6, clip=1e-3, algorithm="value", left_out=1)
    for name, value in reference.named_parameters():
        torch.testing.assert_close(module.state_dict()[name], value, rtol=1e-3, atol=2e-5, msg=name)


# Checkpoints and choices


def test_checkpoint_holds_the_discriminator_and_loads_without_it(tmp_path: Path) -> None:
    module = built()
    train(tmp_path, module, max_epochs=1).save_checkpoint(tmp_path / "end.ckpt")
    content = torch.load(tmp_path / "end.ckpt", weights_only=True)
    assert len(content["optimizer_states"]) == 2
    other = built()
    other.restore(content["state_dict"])
    assert same(other.discriminator.state_dict(), module.discriminator.state_dict())
    model = vaex.load(tmp_path / "end.ckpt")
    assert same(model.state_dict(), module.vae.state_dict())
    del content["state_dict"]["discriminator.layers.0.weight"]
    torch.save(content, tmp_path / "without.ckpt")
    assert same(vaex.load(tmp_path / "without.ckpt").state_dict(), module.vae.state_dict())


def test_module_is_chosen_by_network_and_objective() -> None:
    assert module_class({"name": "conv"}, {"name": "factor_vae"}) is FactorVAEModule
    assert module_class({"name": "conv"}, {"name": "vae"}) is VAEModule
    assert module_class({"name": "feature_vae"}, {"name": "vae"}) is FeatureVAEModule
    with pytest.raises(VaexError, match="not network=feature_grid; choose network=factor_vae"):
        module_class({"name": "feature_grid"}, {"name": "factor_vae"})


def test_the_plain_module_refuses_the_objective(tmp_path: Path) -> None:
    with pytest.raises(VaexError, match="train it with FactorVAEModule"):
        train(tmp_path, VAEModule(NETWORK, {"name": "factor_vae"}))
    with pytest.raises(VaexError, match="got beta_vae; use VAEModule"):
        FactorVAEModule(NETWORK, {"name": "beta_vae"})


@pytest.mark.parametrize(
    ("size", "message"),
    [
        (7, "but data.batch_size is 7; set an even data.batch_size"),
        (1, "but data.batch_size is 1;"),
        (2, "4 or more, and halves them, but data.batch_size is 2;"),
        (9, "data.batch_size is 9"),
        (46, "but the last batch of an epoch has 2; .* data.drop_last=true"),
    ],
)
def test_batches_that_make_no_halves_are_refused_before_the_first(size: int, message: str, tmp_path: Path) -> None:
    data = sprites()
    data.batch_size = size
    trainer = pl.Trainer(
        accelerator="cpu",
        max_epochs=1,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        default_root_dir=tmp_path,
    )
    with pytest.raises(VaexError, match=message):
        trainer.fit(built(), datamodule=data)
    assert trainer.global_step == 0


def test_a_last_batch_that_is_left_out_needs_no_halves(tmp_path: Path) -> None:
    data = sprites(drop_last=True)
    data.batch_size = 46
    trainer = pl.Trainer(
        accelerator="cpu",
        max_epochs=1,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        default_root_dir=tmp_path,
    )
    trainer.fit(built(), datamodule=data)
    assert trainer.global_step == 1


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"gamma": -1.0}, "objective.gamma.*must be 0 or more, got -1"),
        ({"attention": {"weight": -1.0}}, "objective.attention.weight must be 0 .*got -1"),
        ({"discriminator": {"widht": 3}}, "did you mean 'width'"),
        (
            {"discriminator": {"optim": {"name": "adam", "lr": -1.0}}},
            "objective.discriminator.optim.*lr|Invalid learning",
        ),
    ],
)
def test_values_out_of_range_are_refused(options: dict[str, Any], message: str, tmp_path: Path) -> None:
    with pytest.raises(VaexError, match=message):
        train(tmp_path, built(**options))
