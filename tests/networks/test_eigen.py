"""Eigenvectors of many matrices: those of numpy, whatever the number of threads."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest
import torch

from vaex.networks.eigen import eigh


@pytest.fixture
def threads() -> Iterator[None]:
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


@pytest.mark.usefixtures("threads")
@pytest.mark.parametrize("number", [1, 2, 3])
@pytest.mark.parametrize("count", [1, 2, 7])
def test_they_are_those_of_numpy(number: int, count: int) -> None:
    torch.set_num_threads(number)
    roots = torch.randn(count, 9, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(count))
    matrices = roots.transpose(1, 2) @ roots
    values, vectors = eigh(matrices)
    assert torch.get_num_threads() == number
    for matrix, rising, columns in zip(matrices.numpy(), values, vectors, strict=True):
        np.testing.assert_allclose(rising.numpy(), np.linalg.eigvalsh(matrix), rtol=1e-10, atol=1e-10)
        np.testing.assert_allclose((columns * rising @ columns.T).numpy(), matrix, rtol=1e-10, atol=1e-10)


@pytest.mark.usefixtures("threads")
def test_a_matrix_that_is_no_number_fails_as_in_torch_and_threads_stay() -> None:
    torch.set_num_threads(2)
    with pytest.raises(torch.linalg.LinAlgError):
        eigh(torch.full((4, 3, 3), float("nan")))
    assert torch.get_num_threads() == 2


@pytest.mark.usefixtures("threads")
def test_tensors_of_inference_mode_are_taken() -> None:
    torch.set_num_threads(2)
    with torch.inference_mode():
        values, _ = eigh(torch.eye(3).expand(4, 3, 3))
    assert values.tolist() == [[1.0] * 3] * 4
