"""Batches of a file with a fixed and with an open batch size, by a session that only counts."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from vaex.errors import VaexError
from vaex.exporting.batches import run_batches


class Session:
    """Doubles and sums its input; of a fixed size it takes no other."""

    def __init__(self, batch: int | str) -> None:
        self.batch = batch
        self.sizes: list[int] = []

    def get_inputs(self) -> list[Any]:
        return [SimpleNamespace(name="image", shape=[self.batch, 2])]

    def get_outputs(self) -> list[Any]:
        return [SimpleNamespace(name="double"), SimpleNamespace(name="sum")]

    def run(self, names: list[str], feed: dict[str, Any]) -> list[Any]:
        (images,) = feed.values()
        assert isinstance(self.batch, str) or len(images) == self.batch
        self.sizes.append(len(images))
        values = {"double": images * 2, "sum": images.sum(1)}
        return [values[name] for name in names]


@pytest.mark.parametrize(("batch", "sizes"), [(3, [3, 3, 3]), (1, [1] * 7), ("batch", [4, 3]), (7, [7])])
def test_any_number_of_images(batch: int | str, sizes: list[int]) -> None:
    images = np.random.default_rng(0).random((7, 2), dtype=np.float32)
    session = Session(batch)
    found = run_batches(session, images, batch_size=4)
    assert session.sizes == sizes
    assert list(found) == ["double", "sum"]
    np.testing.assert_array_equal(found["double"], images * 2)
    np.testing.assert_array_equal(found["sum"], images.sum(1))


def test_no_images() -> None:
    with pytest.raises(VaexError, match="no images"):
        run_batches(Session(1), np.zeros((0, 2), np.float32))
