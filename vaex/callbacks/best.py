"""The best checkpoint of a run, also after its folder was moved."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from lightning.pytorch.callbacks import ModelCheckpoint


class BestCheckpoint(ModelCheckpoint):
    """Lightning's ModelCheckpoint, which forgets its best value when a run is resumed in a moved or copied folder.

    Without that value the first validation after the resume would overwrite a better checkpoint.
    """

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore the best values with their files looked for in this run's folder."""
        folder = self.dirpath
        if folder is not None:

            def here(path: Any) -> str:
                name = Path(
                    str(path)
                ).name  # Lightning deletes what it replaces, so nothing but a checkpoint may be named
                return str(Path(folder) / name) if name.endswith(".ckpt") and not name.startswith(".") else ""

            paths = ("best_model_path", "kth_best_model_path", "last_model_path")
            moved = {key: here(state_dict[key]) for key in paths if key in state_dict}
            kept = {here(path): score for path, score in state_dict.get("best_k_models", {}).items()}
            best = {path: score for path, score in kept.items() if path}
            if moved.get("kth_best_model_path") not in best:
                best, moved["kth_best_model_path"] = {}, ""
            state_dict = {**state_dict, **moved, "dirpath": folder, "best_k_models": best}
        super().load_state_dict(state_dict)
