"""The TensorBoard logger of a run folder, which continues its history on resume."""

from __future__ import annotations

from typing import Any

from lightning.pytorch.loggers import TensorBoardLogger

from vaex.errors import VaexError


class RunTensorBoardLogger(TensorBoardLogger):
    """Write events below ``folder``/tensorboard; on resume those of later steps are hidden (see `keep_until`).

    Raises:
        VaexError: when TensorBoard is not installed.
    """

    def __init__(self, folder: str, **options: Any) -> None:
        try:
            super().__init__(folder, name="tensorboard", version="", **options)
        except ModuleNotFoundError as error:
            raise VaexError(
                "logger=tensorboard needs TensorBoard, which is missing: pip install tensorboard, or choose logger=csv."
            ) from error

    def keep_until(self, step: int) -> None:
        """Tell TensorBoard to hide what an earlier session wrote of ``step`` and of later steps.

        Call it before the first value is logged.
        """
        self._kwargs["purge_step"] = step
