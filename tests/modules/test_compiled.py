"""VAEModule with compile=True under Lightning."""

from __future__ import annotations

from pathlib import Path

import lightning.pytorch as pl
import pytest
import torch

from tests.modules.conftest import NETWORK, sprites
from vaex.explanation import explain
from vaex.modules import VAEModule


@pytest.mark.slow
def test_a_compiled_run_takes_a_last_batch_of_another_size(tmp_path: Path) -> None:
    """Its weights and maps are those of an eager one; `aot_eager` traces as the default backend does, without C++."""
    torch._dynamo.reset()
    plain, compiled = VAEModule(NETWORK, seed=1), VAEModule(NETWORK, seed=1, compile=True)
    compiled.vae.compile(backend="aot_eager")
    for module in (plain, compiled):
        data = sprites()
        data.batch_size = 9  # 48 images: five batches and one of 3
        trainer = pl.Trainer(
            accelerator="cpu",
            max_epochs=2,
            logger=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            default_root_dir=tmp_path,
        )
        trainer.fit(module, datamodule=data)
    for a, b in zip(plain.vae.parameters(), compiled.vae.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-4)
    images = data.train_set.__getitems__([0, 5, 9])["image"]
    eager, traced = (explain(module.vae.eval(), images, "relu2", rectify="abs").maps for module in (plain, compiled))
    assert float(eager.max()) > 0
    torch.testing.assert_close(traced, eager, rtol=0, atol=1e-3 * float(eager.max()))
