"""Eigenvectors of many small matrices at once."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import torch
from torch import Tensor


def eigh(matrices: Tensor) -> tuple[Tensor, Tensor]:
    """Return eigenvalues (P, K), rising, and eigenvectors (P, K, K) in columns of symmetric matrices (P, K, K).

    On the CPU each thread has matrices of its own: several threads on one of 256 x 256 are slower than a single one.
    """
    threads = torch.get_num_threads()
    if matrices.device.type != "cpu" or threads < 2 or len(matrices) < 2:
        values, vectors = torch.linalg.eigh(matrices)
        return values, vectors
    torch.set_num_threads(1)
    try:
        with ThreadPoolExecutor(threads) as pool:
            parts = list(pool.map(torch.linalg.eigh, matrices.tensor_split(min(threads, len(matrices)))))
    finally:
        torch.set_num_threads(threads)
    return torch.cat([part.eigenvalues for part in parts]), torch.cat([part.eigenvectors for part in parts])
