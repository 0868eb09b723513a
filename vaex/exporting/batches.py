"""Running an exported ONNX file on any number of images; needs numpy and onnxruntime, not torch."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from vaex.errors import VaexError


def run_batches(session: Any, images: NDArray[Any], batch_size: int = 32) -> dict[str, NDArray[Any]]:
    """Return the outputs of an ``onnxruntime.InferenceSession`` for ``images`` (N, ...), by name, each (N, ...).

    ``images`` are what the file takes: float32 (N, C, H, W) in [0, 1], uint8 (N, H, W, C), or codes (N, D). A file of a
    fixed batch size is called with full batches, the last one filled up and cut; else ``batch_size`` images at a time.

    Raises:
        VaexError: when there are no images.
    """
    if len(images) == 0:
        raise VaexError("There are no images to run; give at least one, (N, ...).")
    (entry,) = session.get_inputs()
    names = [output.name for output in session.get_outputs()]
    fixed = isinstance(entry.shape[0], int)
    size = entry.shape[0] if fixed else batch_size
    parts = []
    for start in range(0, len(images), size):
        batch = images[start : start + size]
        filled = np.concatenate([batch, np.repeat(batch[-1:], size - len(batch), 0)]) if fixed else batch
        parts.append([output[: len(batch)] for output in session.run(names, {entry.name: filled})])
    return {name: np.concatenate(columns) for name, columns in zip(names, zip(*parts, strict=True), strict=True)}
