"""Values of keys that more than one command takes: what is let through, and the sentence that refuses the rest."""

from __future__ import annotations

from typing import Any

import pytest

from vaex.cli import main
from vaex.commands.options import check_time
from vaex.errors import VaexError


@pytest.mark.parametrize("value", [None, "00:08:00:00", "01:00:00:05", {"hours": 8}, {"days": 1, "minutes": 30}])
def test_a_time(value: Any) -> None:
    check_time(value, "trainer.max_time")


@pytest.mark.parametrize("value", ["8h", "1:2:3", "", 20, 1.5, True, {"hours": "x"}, {"years": 1}, {"days": 1e12}, [1]])
def test_no_time(value: Any) -> None:
    with pytest.raises(VaexError, match=r"trainer\.max_time must be a time as days:hours:minutes:seconds, such as 00:"):
        check_time(value, "trainer.max_time")


def test_a_training_is_refused_before_anything_is_written(tmp_path: Any, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["train", "experiment=demo", "trainer.max_time=8h", f"paths.run={tmp_path / 'run'}"]) == 1
    assert "trainer.max_time must be a time" in capsys.readouterr().err
    assert not (tmp_path / "run" / "metrics.csv").exists()
