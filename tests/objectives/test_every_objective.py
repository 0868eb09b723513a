"""What holds for every objective of a VAE: the attention term wraps it, and two processes see the joint batch."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from tests.objectives.toys import black, codes, output_of
from tests.pairs import run_pair
from vaex.build import build_model, build_objective
from vaex.objectives.attention import AttentionDisentanglement

NETWORK = {"name": "conv", "shape": [1, 32, 32], "latents": 3, "width": 4, "depth": 3, "hidden": 8}
OBJECTIVES: dict[str, dict[str, Any]] = {
    "annealed_vae": {},
    "beta_tcvae": {"dataset_size": 100},
    "dip_vae_i": {},
    "dip_vae_ii": {},
    "info_vae": {},
    "iwae": {"samples": 2},
}
COUPLED = ("beta_tcvae", "stratified", "dip_vae_i", "dip_vae_ii", "info_vae")


@pytest.mark.parametrize("name", OBJECTIVES)
def test_the_attention_term_adds_its_weighted_overlap(name: str) -> None:
    torch.manual_seed(0)
    model = build_model(NETWORK)
    images = torch.rand(5, 1, 32, 32).round()
    config = {"name": name, **OBJECTIVES[name]}
    wrapped = build_objective({**config, "attention": {"weight": 7.0, "layer": "relu2"}}, model)
    assert isinstance(wrapped, AttentionDisentanglement)
    output = model(images, keep=wrapped.keep, sample=True)
    torch.manual_seed(1)
    plain = build_objective(config, model)(images, output, 3)
    torch.manual_seed(1)
    terms = wrapped(images, output, 3)
    overlap = terms.parts["attention_overlap"]
    assert 0 < overlap.item() < 1
    torch.testing.assert_close(terms.total, plain.total + 7 * overlap)
    for part, value in plain.parts.items():
        torch.testing.assert_close(terms.parts[part], value)
    terms.total.backward()
    assert all(w.grad is not None and bool(w.grad.isfinite().all()) for w in model.encoder.parameters())


@pytest.mark.parametrize("name", OBJECTIVES)
def test_terms_are_scalars_in_fp32_under_autocast(name: str) -> None:
    torch.manual_seed(0)
    model = build_model(NETWORK)
    images = torch.rand(4, 1, 32, 32)
    objective = build_objective({"name": name, **OBJECTIVES[name]}, model)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        terms = objective(images, model(images, sample=True), 5)
    assert all(value.shape == () and value.isfinite() for value in (terms.total, *terms.parts.values()))
    assert terms.total.dtype == torch.float32


class Encoder(nn.Module):
    """Means and log-variances of numbers, in double precision."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(3)
        self.layer = nn.Linear(5, 6).double()

    def forward(self, numbers: Tensor) -> tuple[Tensor, Tensor]:
        mean, logvar = self.layer(numbers).chunk(2, 1)
        return mean, logvar


def loss(name: str, model: nn.Module, rows: slice, monkeypatch: pytest.MonkeyPatch) -> Tensor:
    """Return the objective of some rows of a joint batch of 8, with noise that belongs to the row."""
    numbers = torch.randn(8, 5, generator=torch.Generator().manual_seed(4), dtype=torch.float64)
    noise, drawn, _ = codes(8, 3, seed=7)
    mean, logvar = model(numbers[rows])
    z = mean + noise[rows] * (logvar / 2).exp()
    monkeypatch.setattr(torch, "randn_like", lambda _, dtype: drawn[rows].to(dtype))
    options: dict[str, Any] = OBJECTIVES.get(name, {})
    if name == "stratified":
        name, options = "beta_tcvae", {"dataset_size": 100, "estimator": "stratified", "alpha": 0.5}
    objective = build_objective({"name": name, **options})
    output = output_of(z, mean, logvar)
    return objective(black(len(z)), output._replace(kl=output.kl * 0), 0).total  # what is left couples the images


def _rank(rank: int, folder: str) -> None:
    found = {}
    for name in COUPLED:
        model = DistributedDataParallel(Encoder())
        with pytest.MonkeyPatch.context() as patch:
            value = loss(name, model, slice(rank, None, 2), patch)
        value.backward()
        found[name] = [value.detach(), *(p.grad for p in model.parameters())]
    torch.save(found, f"{folder}/{rank}.pt")


@pytest.mark.slow
def test_two_processes_have_value_and_gradient_of_the_joint_batch(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run_pair(_rank, str(tmp_path))
    ranks = [torch.load(tmp_path / f"{rank}.pt") for rank in range(2)]
    for name in COUPLED:
        model = Encoder()
        with monkeypatch.context() as patch:
            value = loss(name, model, slice(0, 8), patch)
        value.backward()
        for found in ranks:
            expected = [value.detach(), *(p.grad for p in model.parameters())]
            for one, other in zip(found[name], expected, strict=True):
                torch.testing.assert_close(one, other, msg=name)
