"""Tables of codes: perfect, entangled, noise."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import pytest
from numpy.typing import NDArray


class Case(NamedTuple):
    codes: NDArray[np.float64]
    factors: NDArray[np.int64]


def grid(*sizes: int) -> NDArray[np.int64]:
    return np.indices(sizes).reshape(len(sizes), -1).T.astype(np.int64)


@pytest.fixture(scope="session")
def entangled() -> Case:
    """Mixtures of factors, a latent of noise, a collapsed one, and one that is constant."""
    factors = grid(3, 4, 5, 6, 8)  # 2880 images
    random: Any = np.random.default_rng(5)
    unit = (factors - factors.mean(0)) / factors.std(0)
    mixed = unit @ random.normal(size=(5, 4)) * 0.7 + random.normal(size=(len(unit), 4)) * 0.4
    codes = np.column_stack(
        [
            unit[:, 0] + 0.2 * unit[:, 1],
            mixed,
            random.normal(size=len(unit)),
            0.01 * unit[:, 2],
            np.full(len(unit), 0.3),
        ]
    )
    return Case(codes, factors)


@pytest.fixture(scope="session")
def dsprites() -> NDArray[np.int64]:
    """Factors of all images of dSprites."""
    return grid(3, 6, 40, 32, 32)
