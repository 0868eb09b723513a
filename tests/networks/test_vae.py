"""The VAE: what a forward pass returns, what it keeps, and what it leaves behind."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from vaex.build import build_model
from vaex.errors import VaexError
from vaex.networks import VAE

NETWORK = {"name": "conv", "shape": [1, 32, 32], "latents": 3, "width": 4, "depth": 3, "hidden": 8}


@pytest.fixture
def vae() -> VAE:
    torch.manual_seed(0)
    return build_model(NETWORK)


@pytest.fixture
def images() -> Tensor:
    return torch.rand(6, 1, 32, 32, generator=torch.Generator().manual_seed(1))


def hooks(model: nn.Module) -> int:
    kinds = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
    return sum(len(getattr(module, kind)) for module in model.modules() for kind in kinds)


def test_shapes_of_the_output(vae: VAE, images: Tensor) -> None:
    out = vae(images)
    assert vae.latents == 3
    assert out.posterior.mean.shape == out.posterior.logvar.shape == out.z.shape == out.kl.shape == (6, 3)
    assert out.reconstruction.shape == (6, 1, 32, 32)
    assert out.activations == {}
    assert torch.equal(out.reconstruction, out.likelihood.mean)
    assert 0 < out.reconstruction.min().item() <= out.reconstruction.max().item() < 1


def test_a_sample_is_mean_plus_deviation_times_noise(vae: VAE, images: Tensor) -> None:
    torch.manual_seed(7)
    out = vae(images, sample=True)
    torch.manual_seed(7)
    noise = torch.randn(6, 3)
    torch.testing.assert_close(out.z, out.posterior.mean + out.posterior.logvar.exp().sqrt() * noise)
    torch.testing.assert_close(out.likelihood.mean, vae.decode(out.z).mean)


def test_z_is_sampled_in_training_and_the_mean_in_evaluation(vae: VAE, images: Tensor) -> None:
    for training, sample, is_mean in [
        (True, None, False),
        (False, None, True),
        (True, False, True),
        (False, True, False),
    ]:
        out = vae.train(training)(images, sample=sample)
        assert torch.equal(out.z, out.posterior.mean) is is_mean


def test_kept_activations_are_those_of_the_layers_and_carry_the_graph(vae: VAE, images: Tensor) -> None:
    out = vae(images, keep=("conv1", "encoder.conv3", "deconv2"), sample=False)
    assert list(out.activations) == ["conv1", "encoder.conv3", "deconv2"]
    conv1 = vae.encoder.get_submodule("conv1")(images)
    torch.testing.assert_close(out.activations["conv1"], conv1)
    assert out.activations["encoder.conv3"].shape == (6, 16, 4, 4)
    assert out.activations["deconv2"].shape == (6, 4, 16, 16)
    # forwards: from the activation to the code
    (gradient,) = torch.autograd.grad(out.posterior.mean.sum(), out.activations["conv1"], retain_graph=True)
    rest = [vae.encoder.get_submodule(name) for name in vae.encoder.chain[1:]]
    leaf = conv1.detach().requires_grad_()
    (expected,) = torch.autograd.grad(vae.encoder.mean(nn.Sequential(*rest)(leaf)).sum(), leaf)
    torch.testing.assert_close(gradient, expected)
    assert bool(gradient.abs().sum() > 0)
    # backwards: from the activation to the weights
    out.activations["conv1"].sum().backward()
    assert bool(vae.encoder.get_submodule("conv1").weight.grad.abs().sum() > 0)  # type: ignore[union-attr,operator]


def test_keeping_changes_no_result_and_leaves_no_hook(vae: VAE, images: Tensor) -> None:
    plain = vae(images, sample=False)
    for _ in range(3):
        kept = vae(images, keep=("conv1", "relu2", "fc1"), sample=False)
    assert torch.equal(plain.reconstruction, kept.reconstruction)
    assert torch.equal(plain.posterior.logvar, kept.posterior.logvar)
    assert hooks(vae) == 0


def test_an_inplace_layer_does_not_corrupt_what_is_kept(vae: VAE, images: Tensor) -> None:
    plain = vae(images, keep=("conv1", "relu1"), sample=False)
    vae.encoder.relu1 = nn.ReLU(inplace=True)
    kept = vae(images, keep=("conv1", "relu1"), sample=False)
    assert bool((kept.activations["conv1"] < 0).any())
    for name in ("conv1", "relu1"):
        assert torch.equal(kept.activations[name], plain.activations[name])
    assert torch.equal(kept.reconstruction, plain.reconstruction)
    (gradient,) = torch.autograd.grad(kept.posterior.mean.sum(), kept.activations["conv1"])
    (expected,) = torch.autograd.grad(plain.posterior.mean.sum(), plain.activations["conv1"])
    assert torch.equal(gradient, expected)


def twice(vae: VAE) -> None:
    vae.encoder.relu2 = vae.encoder.relu1


@pytest.mark.parametrize(
    ("keep", "change", "message"),
    [
        (
            "conv9",
            None,
            "Layer 'conv9' does not exist in VAE: did you mean 'conv[0-9]'.*valid names are encoder.conv1, ",
        ),
        ("encoder", None, "returns a Posterior, not a tensor"),
        ("relu1", twice, "runs more than once"),
    ],
)
def test_layers_that_cannot_be_kept_are_told_and_leave_no_hook(
    vae: VAE, images: Tensor, keep: str, change: Callable[[VAE], None] | None, message: str
) -> None:
    if change:
        change(vae)
    with pytest.raises(VaexError, match=message):
        vae(images, keep=("conv1", keep))
    assert hooks(vae) == 0
    assert vae(images, keep=("conv1",)).activations["conv1"].shape == (6, 4, 16, 16)


def test_an_untrained_model_has_empty_config_and_calibration(vae: VAE) -> None:
    assert vae.config == {}
    assert vae.calibration == {}
    assert not {"config", "calibration"} & {name.split(".")[0] for name in vae.state_dict()}


def test_images_that_the_model_does_not_take_are_told(vae: VAE, images: Tensor) -> None:
    assert vae.shape == (1, 32, 32)
    for wrong, got in (
        (images.expand(-1, 3, -1, -1), "3x32x32"),
        (torch.rand(2, 1, 64, 64), "1x64x64"),
        (images[0], r"a tensor of shape \(1, 32, 32\)"),
        (images[:, 0], r"a tensor of shape \(6, 32, 32\)"),
    ):
        for call in (vae, vae.encode):
            with pytest.raises(VaexError, match=rf"takes images \(B, C, H, W\) of 1x32x32 .*, got {got}; resize"):
                call(wrong)
    untold = VAE(vae.encoder, vae.decoder, vae.likelihood, vae.prior)
    assert torch.equal(untold.eval()(images).z, vae.eval()(images).z)
