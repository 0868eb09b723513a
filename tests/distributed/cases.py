"""What two processes and one do alike: small modules, their data, and noise that belongs to an image."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import lightning.pytorch as pl
import pytest
import torch
from torch import Tensor
from torch.utils.data import Dataset

from tests.modules.conftest import NETWORK, sprites
from vaex.callbacks import Attention, ImportanceBound
from vaex.callbacks.latents import Latents
from vaex.data import Defects
from vaex.data.module import ImageDataModule
from vaex.errors import VaexError
from vaex.modules import VAEModule, module_class
from vaex.types import Batch

FEATURES = {"shape": [1, 32, 32], "blocks": [0], "size": 32, "grid": 8}
VECTOR: dict[str, Any] = {"name": "feature_vae", "latents": 3, "widths": [8, 6, 4], **FEATURES}
GRID: dict[str, Any] = {
    "name": "feature_grid",
    "latents": 16,
    "hidden": 5,
    "decoder_hidden": 6,
    "rank": 4,
    **FEATURES,
}


class NoClean(Defects):
    """Defects that do not tell what an image was without its defect."""

    def on_after_batch_transfer(self, batch: Any, dataloader_idx: int) -> Any:
        """Take it away."""
        found: Batch = {key: value for key, value in batch.items() if not key.startswith("clean")}  # type: ignore[assignment]
        return found


def defects(batch_size: int, kind: type[Defects] = Defects, **options: Any) -> Defects:
    """Twelve training images, 7 to validate and a copy of each with a defect, an odd number to test."""
    sizes: dict[str, Any] = {"texture": "metal", "size": 32, "channels": 1, "train": 12, "val": 7}
    return kind(
        **{**sizes, "test_good": 5, "test_defects": 3, "pasted": 1, "batch_size": batch_size, **options},
    )


def drawn(batch_size: int) -> Any:
    """Sprites with their masks."""
    data = sprites()
    data.batch_size = data.eval_batch_size = batch_size
    return data


class Case(NamedTuple):
    """A network, an objective and the data that it learns from; ``batch`` images for each of two processes."""

    network: dict[str, Any]
    objective: dict[str, Any]
    data: Callable[[int], Any] = drawn
    batch: int = 4


def attending(**term: Any) -> dict[str, Any]:
    """Return the attention term, heavy enough to be seen in a gradient."""
    return {"attention": {"weight": 1000.0, "layer": "relu2", **term}}


CASES = {
    "free bits, pooled overlap of all": Case(
        NETWORK, {"name": "beta_vae", "beta": 4.0, "free_bits": 0.35, **attending(pooled=True)}
    ),
    "annealed, most active pair": Case(
        NETWORK, {"name": "annealed_vae", "capacity": 4.35, "steps": 1, **attending(pairs="most_active")}
    ),
    "total correlation, random pair": Case(
        NETWORK, {"name": "beta_tcvae", "beta": 20.0, "estimator": "stratified", **attending(pairs="random")}
    ),
    "dip i": Case(NETWORK, {"name": "dip_vae_i"}),
    "dip ii, neighbours": Case(NETWORK, {"name": "dip_vae_ii", **attending(pairs="neighbours")}),
    "mmd": Case(NETWORK, {"name": "info_vae"}),
    "iwae": Case(NETWORK, {"name": "iwae", "samples": 2}),
    "factor vae, attention": Case(
        NETWORK,
        {
            "name": "factor_vae",
            "gamma": 5.0,
            "discriminator": {"width": 16, "depth": 3, "init": "torch", "optim": {"name": "sgd", "lr": 0.1}},
            **attending(),
        },
    ),
    "features": Case(VECTOR, {"name": "vae", "free_bits": 0.05}, lambda batch: defects(batch, pasted=0)),
    "features, dip": Case(VECTOR, {"name": "dip_vae_i"}, lambda batch: defects(batch, pasted=0)),
    "synthetic attention": Case(GRID, {"name": "synthetic_attention"}, defects),
    "synthetic attention, direct": Case(GRID, {"name": "synthetic_attention", "map": "direct"}, defects),
    "attention expansion": Case(NETWORK, {"name": "attention_expansion", "layer": "relu2", "weight": 50.0}),
    "attention size": Case(NETWORK, {"name": "attention_size", "layer": "relu2"}),
    "synthetic attention, kinds": Case(
        GRID, {"name": "synthetic_attention", "kinds": ["pasted", "recoloured", "noise", "shifted"]}, defects
    ),
    "synthetic attention without clean images": Case(
        NETWORK,
        {"name": "synthetic_attention", "layer": "relu2", "elbo": 5.0, "target": "total_kl"},
        lambda batch: defects(batch, NoClean),
    ),
}


def own_noise(values: Tensor, dtype: torch.dtype | None = None) -> Tensor:
    """Return "noise" that follows from the numbers it is added to, whoever draws it and with whom."""
    return torch.sin(40 * values.detach() + 0.5).to(dtype or values.dtype)


class Gradients(pl.Callback):
    """Keep the gradients of each step, all of them."""

    def __init__(self) -> None:
        self.found: list[list[Tensor]] = []

    def on_before_optimizer_step(self, trainer: pl.Trainer, pl_module: pl.LightningModule, optimizer: Any) -> None:
        """Copy them, the discriminator's too."""
        weights = [weight for weight in pl_module.parameters() if weight.requires_grad]
        self.found.append([torch.zeros_like(w) if w.grad is None else w.grad.clone() for w in weights])


def trainer(folder: Path, processes: int, *callbacks: pl.Callback, **options: Any) -> pl.Trainer:
    """Return a silent Trainer of one process, or of the two that there are."""
    return pl.Trainer(
        accelerator="cpu",
        devices=processes,
        strategy="ddp" if processes > 1 else "auto",
        use_distributed_sampler=False,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        default_root_dir=folder,
        callbacks=list(callbacks),
        **options,
    )


def module_of(case: Case, **options: Any) -> VAEModule:
    """Return the module that trains a case by plain gradient descent, in steps that change next to nothing.

    Its codes differ from image to image, so that the two processes' shares differ as well: in the KL of a latent, above
    the free bits for one alone; in that of an image, below the capacity for one; in which latents are most active.
    """
    optim = {"name": "sgd", "lr": 1e-7, "momentum": 0.0}
    module = module_class(case.network, case.objective)(case.network, case.objective, optim, seed=4, **options)
    with torch.no_grad():
        encoder: Any = module.vae.encoder
        if case.network is NETWORK:
            encoder.mean.weight.mul_(torch.tensor([[100.0], [123.0], [100.0]]))
    return module


def gradients(case: Case, processes: int, folder: Path) -> list[list[Tensor]]:
    """Return the gradients of two steps, each of ``2 case.batch`` images in all."""
    found = Gradients()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch, "randn_like", own_noise)
        data = case.data(case.batch * 2 // processes)
        options: dict[str, Any] = {"max_epochs": 1, "limit_train_batches": 2, "limit_val_batches": 0}
        trainer(folder, processes, found, **options).fit(module_of(case), datamodule=data)
    return found.found


class Numbered(Dataset[Batch]):
    """Noise images, every second one labelled anomalous; the image number ``broken`` is NaN."""

    def __init__(self, count: int, broken: int | None = None) -> None:
        self.images = torch.rand(count, 1, 32, 32, generator=torch.Generator().manual_seed(2))
        if broken is not None:
            self.images[broken] = torch.nan

    def __len__(self) -> int:
        return len(self.images)

    def __getitems__(self, indices: list[int]) -> Batch:
        index = torch.tensor(indices)
        return {"image": self.images[index], "label": index % 2, "index": index}


class Uneven(ImageDataModule):
    """As many images to validate with as ``val``; the second of two processes sees none that is normal."""

    def __init__(self, batch_size: int, val: int = 9, broken: int | None = None) -> None:
        super().__init__((1, 32, 32), batch_size, eval_batch_size=2)
        self.val, self.broken = val, broken

    def setup(self, stage: str) -> None:
        """Make the images."""
        self.train_set, self.val_set, self.test_set = Numbered(8), Numbered(self.val, self.broken), Numbered(7)


class Seen(pl.Callback):
    """Keep the numbers of the images that are evaluated."""

    def __init__(self) -> None:
        self.index: list[int] = []

    def on_test_batch_end(self, trainer: pl.Trainer, module: Any, outputs: Any, batch: Any, *_: Any) -> None:
        """Take a batch's."""
        self.index += batch["index"].tolist()

    def on_validation_batch_end(self, trainer: pl.Trainer, module: Any, outputs: Any, batch: Any, *_: Any) -> None:
        """Take a batch's."""
        self.index += batch["index"].tolist()


def _plain(values: Any) -> dict[str, float]:
    return {name: float(value) for name, value in values.items() if not name.startswith("throughput/")}


def measures(processes: int, folder: Path) -> dict[str, Any]:
    """Return what validations and a test of a module on defects measure, and the numbers of the images."""
    found: dict[str, Any] = {}
    data = defects(4, eval_batch_size=3)
    module = module_of(Case(NETWORK, {"name": "vae"}))
    callbacks = [
        Attention("vae", "relu2", folder=str(folder)),
        Latents("vae", overlap_images=64 // processes),
        ImportanceBound("vae", samples=2),
    ]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch, "randn_like", own_noise)
        for stage in ("validate", "test"):
            seen = Seen()
            runner = trainer(folder, processes, seen, *callbacks)
            getattr(runner, stage)(module, datamodule=data, verbose=False)
            found[stage] = _plain(runner.callback_metrics)
            found[f"{stage} index"] = seen.index
        for name in ("iwae", "features"):  # the latter with buffers, which DDP sends to the other process
            runner = trainer(folder, processes, max_epochs=2)
            runner.fit(module_of(CASES[name]), datamodule=Uneven(8 // processes))
            found[f"uneven {name}"] = {n: v for n, v in _plain(runner.callback_metrics).items() if "val/" in n}
    return found


def refusals(processes: int, folder: Path) -> list[str]:
    """Return the errors of validations that cannot go on, in every process."""
    told = []
    for data in (Uneven(8 // processes, broken=4), Uneven(8 // processes, val=1)):
        try:
            trainer(folder, processes, max_epochs=1).fit(module_of(CASES["iwae"]), datamodule=data)
        except VaexError as error:
            told.append(str(error))
    return told
