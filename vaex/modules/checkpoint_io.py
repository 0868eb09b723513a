"""Checkpoints that are either whole or absent."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from lightning.pytorch.plugins.io import TorchCheckpointIO

from vaex.errors import VaexError


class AtomicCheckpointIO(TorchCheckpointIO):
    """Write a checkpoint beside its place and rename it, so that a kill or a full disk leaves the old one whole."""

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any = None) -> None:
        """Save to a temporary file in the same folder, then rename.

        Raises:
            VaexError: when the disk is full or the folder cannot be written.
        """
        target = Path(path)
        temporary = target.with_name(f".{target.name}.{os.getpid()}.tmp")
        try:
            super().save_checkpoint(checkpoint, temporary, storage_options)
            temporary.replace(target)
        except OSError as error:
            temporary.unlink(missing_ok=True)
            raise VaexError(
                f"Cannot write checkpoint {target} ({error.strerror or error}); the last good one is kept. Free space, "
                "then continue with vaex train resume=RUN_FOLDER."
            ) from error
