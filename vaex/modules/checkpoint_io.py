"""Checkpoints that are either whole or absent."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch.plugins.io import TorchCheckpointIO

from vaex.errors import VaexError
from vaex.runs import unfinished


class AtomicCheckpointIO(TorchCheckpointIO):
    """Write a checkpoint beside its place and rename it, so that a kill or a full disk leaves the old one whole."""

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any = None) -> None:
        """Save to a temporary file in the same folder, then rename; there are no storage options.

        Differs: Lightning's own writes the file in the system's temporary folder and copies it here, which needs the
        space twice and says nothing when the copy is not permitted.

        Raises:
            VaexError: when the disk is full or the folder cannot be written.
        """
        target = Path(path)
        temporary = unfinished(target)
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
            with temporary.open("wb") as file:
                torch.save(checkpoint, file)
                file.flush()
                os.fsync(file.fileno())  # else a power cut could leave the new name and none of its bytes
            temporary.replace(target)
        except (OSError, RuntimeError) as error:  # torch wraps a failing write in a RuntimeError
            cause = error if isinstance(error, OSError) else error.__context__
            reason = getattr(cause, "strerror", None) or str(error).partition("\n")[0]
            named = re.sub(r"^\.(.+)\.\d+\.tmp$", r"\1", target.name)  # one that waits beside its place
            raise VaexError(
                f"Cannot write checkpoint {target.with_name(named)} ({reason}); the last good one is kept. Free space, "
                "then continue with vaex train resume=RUN_FOLDER."
            ) from error
        finally:
            if temporary.exists():
                temporary.unlink()
