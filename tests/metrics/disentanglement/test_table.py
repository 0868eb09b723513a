"""The table of codes and factors: what is refused, and which rows are drawn."""

from __future__ import annotations

import re
from typing import Any

import numpy as np
import pytest
import torch

from tests.metrics.disentanglement.conftest import grid
from vaex.errors import VaexError
from vaex.metrics.disentanglement.collection import SCORES
from vaex.metrics.disentanglement.table import code_table, drawn, sample

FACTORS = np.tile(grid(2, 3), (20, 1))
CODES = np.random.default_rng(0).standard_normal((120, 3))


def changed(place: tuple[int, int], value: float) -> Any:
    codes = CODES.copy()
    codes[place] = value
    return codes


BAD = {
    "length": (CODES[:-1], FACTORS, "There are 119 codes but factors of 120 images"),
    "constant": (CODES, FACTORS * [1, 0], "Factor 1 has the same value 0 in all 120 images"),
    "one latent": (CODES[:, :1], FACTORS, "at least 2, got 1"),
    "one image": (CODES[:1], FACTORS[:1], "codes of many images, got 1"),
    "none": (CODES[:0], FACTORS[:0], "codes of many images, got 0"),
    "nan": (changed((7, 2), np.nan), FACTORS, "The code of image 7 is nan at latent 2"),
    "infinite": (changed((9, 0), -np.inf), FACTORS, "The code of image 9 is -inf at latent 0"),
    "large": (
        changed((3, 1), 2e15),
        FACTORS,
        r"The code of image 3 is 2e\+15 at latent 1: codes must be at most 1e\+15 in",
    ),
    "largest": (CODES * 1e300, FACTORS, r"The code of image 0 is .*e\+299 at latent 0: .* or scale the codes"),
    "flat codes": (CODES[:, 0], FACTORS, r"Codes must be numbers \(N, D\).*shape \(120,\)"),
    "flat factors": (CODES, FACTORS[:, 0], r"Factors must be numbers \(N, F\)"),
    "uneven": ([[1.0, 2.0], [3.0]], FACTORS, r"Codes must be numbers \(N, D\), rows of one length"),
    "text": (CODES, FACTORS.astype(str), "Factors must be numbers"),
    "no factor": (CODES, FACTORS[:, :0], "no column"),
    "factor nan": (CODES, np.where(FACTORS == 1, np.nan, FACTORS), "Factor 0 holds values that are not finite"),
}


@pytest.mark.parametrize("name", SCORES)
@pytest.mark.parametrize("case", BAD)
def test_every_metric_refuses_bad_input_in_one_sentence(name: str, case: str) -> None:
    codes, factors, message = BAD[case]
    with pytest.raises(VaexError, match=message):
        SCORES[name](codes, factors)


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("name", sorted(SCORES.keys() - {"dci"}))
def test_codes_as_large_as_are_taken_have_finite_scores(name: str) -> None:
    codes = np.repeat(CODES / np.abs(CODES).max() * 1e15, 2, 0)
    found = SCORES[name](codes, np.repeat(FACTORS, 2, 0))
    assert all(0 <= found[key] <= 1 for key in found if not key.endswith("_latents"))


def test_tensors_and_labels_of_any_kind_are_the_same_table() -> None:
    expected = code_table(CODES, FACTORS)
    for factors in (torch.from_numpy(FACTORS), FACTORS * 7 - 3, FACTORS * 10**9, FACTORS / 3, FACTORS.astype(np.uint8)):
        table = code_table(torch.from_numpy(CODES), factors)
        np.testing.assert_array_equal(table.classes, expected.classes)
        assert table.sizes.tolist() == [2, 3]
    assert expected.classes.tolist() == FACTORS.tolist()
    graph = torch.from_numpy(CODES).requires_grad_()
    np.testing.assert_array_equal(code_table(graph, FACTORS).codes, CODES)


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("kind", ["bool", "int8", "int32", "int64", "uint64"])
def test_the_extremes_of_every_kind_of_number_are_labels(kind: str) -> None:
    ends = [False, True] if kind == "bool" else [np.iinfo(kind).min, np.iinfo(kind).max]
    table = code_table(CODES, np.array(ends, kind)[FACTORS[:, :1]])
    assert table.classes.tolist() == FACTORS[:, :1].tolist()
    high = code_table(CODES, np.uint64(2**63) + FACTORS.astype(np.uint64))
    assert high.classes.tolist() == FACTORS.tolist()


@pytest.mark.parametrize("seed", [-1, 2**32, 1.5, True, None])
def test_a_seed_that_is_none_is_told(seed: Any) -> None:
    for name in SCORES:
        with pytest.raises(VaexError, match="seed must be a whole number from 0 to 4294967295, got"):
            SCORES[name](CODES, FACTORS, seed)


def test_rows_are_drawn_once_and_apart() -> None:
    table = code_table(np.column_stack([np.arange(120.0), -np.arange(120.0)]), FACTORS)
    train, test = drawn(table, 3, 60, 30)
    rows = np.concatenate([train.codes[:, 0], test.codes[:, 0]])
    assert len(set(rows)) == 90
    assert rows.tolist() != sorted(rows)
    np.testing.assert_array_equal(train.classes, FACTORS[train.codes[:, 0].astype(int)])
    np.testing.assert_array_equal(train.codes, sample(table, 3, 60).codes)
    assert drawn(table, 4, 60, 30).train.codes.tolist() != train.codes.tolist()
    small = drawn(table, 3)  # fewer than 15,000: divided as 10,000 and 5,000 are
    assert (len(small.train.codes), len(small.test.codes)) == (80, 40)
    assert len(sample(table, 3).codes) == 120


def test_draws_that_tell_nothing_are_refused() -> None:
    rare = np.zeros((500, 1), int)
    rare[0] = 1
    table = code_table(np.random.default_rng(0).standard_normal((500, 2)), rare)
    with pytest.raises(VaexError, match="10 images are too few for this metric: factor 0 does not vary"):
        sample(table, 0, 10)
    with pytest.raises(VaexError, match="at least 2 images"):
        sample(table, 0, 1)
    with pytest.raises(VaexError, match="got 1 and 5"):
        drawn(table, 0, 1, 5)
    with pytest.raises(VaexError, match="got 2 images"):
        drawn(code_table(CODES[:2], FACTORS[[0, 4]]), 0)


WRONG: dict[str, list[dict[str, Any]]] = {
    "factor_vae": [{"votes": 5}, {"votes": (10.5, 5)}, {"votes": (10,)}, {"votes": (10, True)}, {"batch": 2.5}],
    "beta_vae": [{"votes": None}, {"votes": "many"}, {"batch": "8"}],
    "mig": [{"bins": 2.5}, {"bins": "20"}, {"train": 50.5}],
    "modularity": [{"bins": 2.5}, {"train": 50.5}, {"test": 2.5}],
    "irs": [{"bins": 2.5}, {"train": 1.5}],
    "sap": [{"train": None}],
    "dci_forest": [{"trees": 2.5}, {"leaf": True}],
}


@pytest.mark.parametrize(("name", "options"), [(name, options) for name, many in WRONG.items() for options in many])
def test_sizes_that_are_no_whole_numbers_are_told(name: str, options: dict[str, Any]) -> None:
    ((key, value),) = options.items()
    with pytest.raises(VaexError, match=rf"at least [12].*got .*{re.escape(repr(value))}") as told:
        SCORES[name](CODES, FACTORS, **options)
    assert key in str(told.value) or key in ("train", "test")


def test_sizes_of_numpy_are_whole_numbers() -> None:
    counts: Any = [np.int32(50), np.int64(20)]
    assert SCORES["factor_vae"](CODES, FACTORS, votes=counts, batch=np.int8(8))["factor_vae"] >= 0
    assert SCORES["mig"](CODES, FACTORS, bins=np.uint8(5)) == SCORES["mig"](CODES, FACTORS, bins=5)


def test_codes_of_a_model_in_bf16_are_taken() -> None:
    factors = torch.cartesian_prod(torch.arange(3), torch.arange(4))
    assert np.array_equal(code_table(factors.bfloat16(), factors.bfloat16()).codes, factors.numpy())
