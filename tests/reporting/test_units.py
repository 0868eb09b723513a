"""Units and directions of measures, against the tables that the measures themselves come from."""

from __future__ import annotations

import pytest

from vaex.metrics.faithfulness import MEASURES
from vaex.reporting.units import LOW, NEITHER, UNITS, better_of, unit_of


@pytest.mark.parametrize(
    ("name", "unit", "better"),
    [
        ("loss", "nats per image", "low"),
        ("kl", "nats per image", ""),
        ("aupro_005_padim/cut", "[0, 1]", "high"),
        ("localization/pixel_auroc", "[0, 1]", "high"),
        ("f1_max", "[0, 1]", "high"),
        ("f1_max_threshold_attention", "units of the score", ""),
        ("factor_vae", "[0, 1]", "high"),
        ("factor_vae_pruned_latents", "latents", ""),
        ("active_latents", "latents", ""),
        ("mig_3", "[0, 1]", "high"),
        ("beta", "weight", ""),
        ("beta_vae", "[0, 1]", "high"),
        ("attention_weight", "weight", ""),
        ("attention/overlap", "[0, 1]", "low"),
        ("latents/kl/5", "nats per image", ""),
        ("throughput/images_per_second", "images per s", "high"),
        ("throughput/data_wait_share", "[0, 1]", ""),
        ("faithfulness_deletion_to_normal_kl", "share of the excess", "low"),
        ("losses", "", ""),
        ("own", "", ""),
        ("", "", ""),
    ],
)
def test_names_have_units_and_a_direction(name: str, unit: str, better: str) -> None:
    assert (unit_of(name), better_of(name)) == (unit, better)


def test_faithfulness_measures_point_where_their_table_says() -> None:
    for name, measure in MEASURES.items():
        assert better_of(f"faithfulness_{name}") == ("high" if measure.higher else "low")
        assert unit_of(f"faithfulness_{name}")


def test_lists_name_measures() -> None:
    assert {*LOW, *NEITHER} <= set(UNITS)
    assert not {*LOW} & {*NEITHER}
