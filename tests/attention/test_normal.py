"""What calibration left is read back whole, or said to be missing in one sentence."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from vaex.attention.normal import normal_codes, normal_maps
from vaex.errors import VaexError


def calibration() -> dict[str, Any]:
    codes = {"mean": torch.arange(3.0), "covariance": torch.eye(3), "variance": torch.full((3,), 0.5)}
    return {"codes": codes, "maps": {"mean": torch.ones(3, 2, 4), "deviation": torch.zeros(3, 2, 4)}, "count": 9}


def test_parts_are_those_that_were_stored() -> None:
    given = calibration()
    codes, maps = normal_codes(given), normal_maps(given)
    assert codes.mean.tolist() == [0, 1, 2]
    assert torch.equal(codes.covariance, torch.eye(3))
    assert codes.variance.tolist() == [0.5] * 3
    assert maps.mean.sum() == 24
    assert maps.deviation.sum() == 0


@pytest.mark.parametrize("read", [normal_codes, normal_maps])
@pytest.mark.parametrize("nothing", [None, {}])
def test_a_model_without_calibration_is_told_what_to_do(read: Any, nothing: Any) -> None:
    with pytest.raises(VaexError, match=r"not calibrated.*run `vaex calibrate ckpt=\.\.\.`"):
        read(nothing)


@pytest.mark.parametrize(("key", "read"), [("codes", normal_codes), ("maps", normal_maps)])
def test_a_damaged_calibration_is_told(key: str, read: Any) -> None:
    for damage in ({}, {"mean": torch.zeros(3)}, None, 3):
        with pytest.raises(VaexError, match=f"lacks {key} .*run `vaex calibrate"):
            read(calibration() | {key: damage})
    for name, part in calibration()[key].items():
        wrong = {**calibration()[key], name: part[..., :1]}
        with pytest.raises(VaexError, match=r"of shapes .* in place of"):
            read(calibration() | {key: wrong})
