"""What the latents and bound callbacks log is what plain loops over the images give."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import lightning.pytorch as pl
import numpy as np
import pytest
import torch

from tests.callbacks.test_traversal import NETWORK, Foreign, sprites, trainer
from vaex.attention import latent_attention, overlap_ratio
from vaex.callbacks import ImportanceBound, Latents
from vaex.errors import VaexError
from vaex.modules import VAEModule


def logged(
    folder: Path, callback: pl.Callback, module: pl.LightningModule, stage: str = "validate"
) -> dict[str, float]:
    run = trainer(folder, callback)
    getattr(run, stage)(module, datamodule=sprites(), verbose=False)
    return {name: float(value) for name, value in run.callback_metrics.items()}


def wide_module() -> VAEModule:
    """Return a module whose first latent moves much with the image and whose others hardly do."""
    module = VAEModule(NETWORK)
    with torch.no_grad():
        module.vae.encoder.get_submodule("mean").weight[0] *= 1000  # type: ignore[index, operator]
    return module


@pytest.mark.parametrize("stage", ["validate", "test"])
def test_measures_are_those_of_all_codes(tmp_path: Path, stage: str) -> None:
    module, data = wide_module(), sprites()
    found = logged(tmp_path, Latents("vae", overlap_images=5), module, stage)
    short = {"validate": "val", "test": "test"}[stage]
    data.setup(stage)
    loader = data.val_dataloader() if stage == "validate" else data.test_dataloader()
    images = torch.cat([batch["image"] for batch in loader])
    with torch.no_grad():
        posterior = module.vae.eval().encode(images)
    mean, variance = posterior.mean.double(), posterior.logvar.double().exp()
    kl = 0.5 * (mean**2 + variance - 1 - variance.log()).mean(0)
    spread = np.var(mean.numpy(), axis=0)
    assert int((spread > 0.01).sum()) == 1  # the case tells latents apart
    assert found[f"latents/{short}/active_units"] == 1
    for latent in range(3):
        assert found[f"latents/{short}/kl/{latent}"] == pytest.approx(kl[latent].item(), rel=1e-4)
        assert found[f"latents/{short}/variance/{latent}"] == pytest.approx(spread[latent], rel=1e-4)
    maps = latent_attention(module.vae, images[:5])
    pairs = [overlap_ratio(maps[:, i], maps[:, j]) for i in range(3) for j in range(i)]
    assert found[f"latents/{short}/map_overlap"] == pytest.approx(torch.stack(pairs).mean().item(), rel=1e-4)
    filled = maps.flatten(2).amax(2) > 0  # (5, 3)
    assert found[f"latents/{short}/map_empty"] == pytest.approx(1 - filled.float().mean().item())
    both = torch.stack([filled[:, i] & filled[:, j] for i in range(3) for j in range(i)])
    shared = torch.stack(pairs)[both].mean().item()
    assert found[f"latents/{short}/map_overlap_filled"] == pytest.approx(shared, rel=1e-4)


def test_pairs_with_an_empty_map_are_told_apart(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    maps = torch.zeros(8, 3, 4, 4)
    maps[:, 0, 0], maps[:4, 1, 0, :2] = 1.0, 3.0  # in half of the images a second map, none has the third
    monkeypatch.setattr(
        "vaex.callbacks.latents.explain", lambda model, images, **_: SimpleNamespace(maps=maps[: len(images)])
    )
    found = logged(tmp_path, Latents("vae", overlap_images=8), wide_module())
    shared = 2 * 2 / (4 + 6)
    assert found["latents/val/map_overlap_filled"] == pytest.approx(shared)
    assert found["latents/val/map_overlap"] == pytest.approx(shared / 3 / 2)
    assert found["latents/val/map_empty"] == pytest.approx(1 / 2)


def test_the_overlap_may_be_left_out_and_training_goes_on_as_without(tmp_path: Path) -> None:
    states = []
    for callbacks in ([], [Latents("vae", overlap_images=0)]):
        module = VAEModule(NETWORK, seed=1)
        run = trainer(tmp_path, *callbacks)
        run.fit(module, datamodule=sprites())
        states.append(module.state_dict())
    assert "latents/val/active_units" in run.callback_metrics
    assert "latents/val/map_overlap" not in run.callback_metrics
    assert all(torch.equal(states[0][name], states[1][name]) for name in states[0])


def test_a_foreign_model_in_a_plain_trainer(tmp_path: Path) -> None:
    found = logged(tmp_path, Latents(), Foreign())
    assert {f"latents/val/kl/{n}" for n in range(2)} < set(found)
    assert 0 <= found["latents/val/map_overlap"] <= 1


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"threshold": -0.1}, "must be 0 or more, got -0.1"),
        ({"overlap_images": -1}, "overlap_images of at least 1"),
        ({"layr": "conv1"}, "Unknown option of the latents callback 'layr': did you mean 'layer'"),
    ],
)
def test_bad_options_are_told(options: dict[str, Any], words: str) -> None:
    with pytest.raises(VaexError, match=words):
        Latents(**options)


def test_the_bound_lies_above_the_elbo_and_is_not_taken_in_training(tmp_path: Path) -> None:
    module = VAEModule(NETWORK)
    found = logged(tmp_path, ImportanceBound(samples=20), module, "test")
    elbo = -found["test/reconstruction"] - found["test/kl"]
    assert elbo < found["test/iwae_bound"] < 0  # of binary pixels it is a probability's logarithm
    run = trainer(tmp_path, ImportanceBound(samples=2))
    run.fit(module, datamodule=sprites())
    assert not any("iwae_bound" in name for name in run.callback_metrics)


def test_the_bound_nears_the_evidence(tmp_path: Path) -> None:
    """An estimate with draws of the prior instead of the posterior is independent of it."""
    module, data = VAEModule(NETWORK), sprites()
    found = logged(tmp_path, ImportanceBound(samples=50), module)
    data.setup("validate")
    images = torch.cat([batch["image"] for batch in data.val_dataloader()])
    with torch.no_grad():
        z = torch.randn(500, 3, generator=torch.Generator().manual_seed(0))
        likelihood = module.vae.eval().decode(z)
        each = torch.stack([likelihood.log_prob(one.expand(500, -1, -1, -1)) for one in images])
        evidence = (torch.logsumexp(each, 1) - np.log(500)).mean().item()
    assert found["val/iwae_bound"] == pytest.approx(evidence, abs=1.0)


def test_a_model_without_a_bound_is_told(tmp_path: Path) -> None:
    with pytest.raises(VaexError, match="got a Foreign; leave the bound callback out"):
        logged(tmp_path, ImportanceBound(""), Foreign())
    with pytest.raises(VaexError, match="samples of at least 1, got 0"):
        ImportanceBound(samples=0)
