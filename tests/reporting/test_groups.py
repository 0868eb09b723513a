"""Which runs share a row, and which columns there are."""

from __future__ import annotations

import pytest

from tests.reporting.conftest import made
from vaex.errors import VaexError
from vaex.reporting.groups import chosen_metrics, differing_keys, grouped, scores_measured
from vaex.reporting.results import Result


def test_runs_that_differ_in_their_seed_share_a_group() -> None:
    runs = [made("a", seed, {}, network__latents=latents) for latents in (4, 8) for seed in (0, 1, 2)]
    runs += [made("b", 0, {}, network__latents=16)]
    groups, told = grouped(runs)
    assert [(group.label, len(group.runs)) for group in groups] == [
        ("a, network.latents=4", 3),
        ("a, network.latents=8", 3),
        ("b", 1),
    ]
    assert not told


def test_a_repeated_seed_counts_once() -> None:
    groups, told = grouped([made("a", 0, {}), made("a", 0, {}), made("a", 1, {})])
    assert [run.seed for run in groups[0].runs] == [0, 1]
    assert len(told) == 1


def test_what_does_not_count_as_a_difference() -> None:
    runs = [
        made(
            "a",
            0,
            {},
            resume=0,
            paths__run="x",
            data__root="/x",
            callbacks__progress__refresh_rate=1,
            old=1,
            compile=True,
        ),
        made("a", 1, {}, resume=1, paths__run="y", data__root="/y", callbacks__progress__refresh_rate=2, compile=False),
    ]
    follows = [Result(run.folder, {}, {"data.seed": run.seed}, {"data.seed": "${seed}"}, run.seed) for run in runs]
    assert differing_keys(runs) == []
    assert differing_keys(follows) == []
    assert differing_keys([made("a", 0, {}, data__seed=1), made("a", 1, {}, data__seed=2)]) == ["data.seed"]
    assert differing_keys([made("a", 0, {}, data__seed=0), made("a", 1, {}, data__seed=1)]) == []  # of an evaluation


def test_forks_of_one_trunk_per_seed_share_a_group() -> None:
    forks = [made("a", seed, {}, init=f"trunk_{seed}") for seed in (0, 1, 2)]
    assert [(group.label, len(group.runs)) for group in grouped(forks)[0]] == [("a", 3)]
    twice = [*forks, made("a", 0, {}, init="other")]  # one seed from two starts: those are two experiments
    assert differing_keys(twice) == ["init"]
    assert differing_keys([made("a", 0, {}, init="x"), made("a", 1, {}, init="x"), made("a", 2, {}, init="y")]) == [
        "init"
    ]


def test_keys_can_be_named() -> None:
    runs = [made("a", seed, {}, x=x, y=seed) for x in (1, 2) for seed in (0, 1)]
    groups, _ = grouped(runs, by=["x"])
    assert [(group.label, len(group.runs)) for group in groups] == [("a, x=1", 2), ("a, x=2", 2)]
    with pytest.raises(VaexError, match=r"Unknown key in by 'z': valid names are name, x, y"):
        grouped(runs, by=["z"])


def test_categories_share_a_group_each_with_its_seeds() -> None:
    runs = [made(f"m_{c}", seed, {}, data__category=c) for c in ("nut", "pill") for seed in (0, 1)]
    groups, told = grouped(runs, across=["data.category"])
    assert [(group.label, len(group.runs)) for group in groups] == [("m", 4)]
    assert not told


def test_own_score_comes_first() -> None:
    run = made("a", 0, {"aupro_a": 1.0, "aupro_z": 1.0, "aupro": 1.0}, score__name="mean_map", score__label="z")
    assert scores_measured([run], "test") == ["z", "a"]


def test_columns() -> None:
    run = made("a", 0, {"aupro_z": 1.0, "image_auroc_z": 1.0, "loss": 2.0})
    plain = made("b", 0, {"loss": 2.0, "mig": 1.0})
    assert chosen_metrics([run, plain], "test", None) == ["aupro", "image_auroc"]
    assert chosen_metrics([plain], "test", None) == ["loss", "mig"]
    assert chosen_metrics([run], "test", ["loss", "aupro/cut"]) == ["loss", "aupro/cut"]
    with pytest.raises(VaexError, match="did you mean 'aupro'"):
        chosen_metrics([run], "test", ["aupr"])
    with pytest.raises(VaexError, match="measured are test"):
        chosen_metrics([run], "val", None)
