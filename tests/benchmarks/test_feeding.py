"""The loaders of `vaex bench what=data` give the same images, and its table says what was measured."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from vaex.benchmarks import feeding
from vaex.benchmarks.feeding import (
    PAIRED,
    PLAIN,
    TRANSFORMED,
    VAEX,
    PairedItems,
    PlainItems,
    Result,
    Start,
    TransformedItems,
    all_pixels,
    feeding_content,
    feeding_table,
    resident_bytes,
    run_feeding,
)
from vaex.benchmarks.timing import Timing
from vaex.data import DSprites, dsprites
from vaex.errors import VaexError


@pytest.fixture
def options(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    monkeypatch.setattr(dsprites, "GRID", {"shape": 3, "scale": 2, "orientation": 5, "x": 3, "y": 4})
    return {"root": str(tmp_path), "val": 40, "test": 60, "batch_size": 32}


def test_every_loader_gives_the_same_images(options: dict[str, Any]) -> None:
    data = DSprites(**options)
    data.setup()
    images, seconds = all_pixels(data)
    assert seconds is None
    expected = data.grid_set.__getitems__(list(range(360)))["image"]
    floats = torch.from_numpy(images).unsqueeze(1).float()
    for found in (PlainItems(images)[7], TransformedItems(images)[7][0], PairedItems(floats)[7][0]):
        assert found.dtype == torch.float32
        assert torch.equal(found, expected[7])
    assert torch.equal(floats, expected)
    other = PairedItems(floats[:1])[0][1]
    assert torch.equal(other, expected[0])


def test_where_there_is_a_file_it_is_read_as_peers_do(options: dict[str, Any], tmp_path: Path) -> None:
    drawn = DSprites(**options)
    drawn.setup()
    images = 1 - drawn.grid_set.draw(np.arange(360))
    classes = np.insert(drawn.grid_set.grid.classes(np.arange(360)), 0, 0, axis=1)
    np.savez(tmp_path / "dsprites" / dsprites.FILES[0], imgs=images, latents_classes=classes)
    data = DSprites(**options)
    data.setup()
    found, seconds = all_pixels(data)
    np.testing.assert_array_equal(found, images)
    assert seconds is not None
    assert seconds > 0


def test_all_are_measured(options: dict[str, Any]) -> None:
    result = run_feeding(options, rounds=2, batches=1)
    assert list(result.timings) == [VAEX, PLAIN, TRANSFORMED, PAIRED]
    assert all(len(timing.seconds) == 2 and min(timing.seconds) > 0 for timing in result.timings.values())
    pixels = 360 * 64 * 64
    assert result.kept == {VAEX: pixels // 8, PLAIN: pixels, TRANSFORMED: pixels, PAIRED: 4 * pixels}
    assert (result.images, result.batch) == (360, 32)


@pytest.mark.slow
def test_memory_is_counted() -> None:
    """In a process of its own: one that has run other tests may have memory to reuse."""
    if resident_bytes() is None:
        pytest.skip("this system has no /proc/self/status")
    program = (
        "import numpy as np; from vaex.benchmarks.feeding import resident_bytes; before = resident_bytes();"
        "block = np.ones(50_000_000, np.uint8); print(resident_bytes() - before, block[0])"
    )
    grown, one = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    ).stdout.split()
    assert 40e6 < int(grown) < 80e6
    assert one == "1"


@pytest.mark.parametrize(
    ("rate", "start", "words"),
    [
        (250_000, Start(2.0, 600_000_000), [">= 250,000 met", "<= 2 s met", "<= 0.6 GB met"]),
        (249_000, Start(2.1, 610_000_000), [">= 250,000 MISSED", "<= 2 s MISSED", "<= 0.6 GB MISSED"]),
    ],
)
def test_table(rate: float, start: Start, words: list[str]) -> None:
    own, plain = Timing((1 / rate,) * 3, (1.0,) * 3), Timing((2.5 / rate,) * 3, (2.5,) * 3)
    ready = {VAEX: start.seconds, PLAIN: None}
    result = Result({VAEX: own, PLAIN: plain}, {VAEX: 380_000_000, PLAIN: 3_020_000_000}, ready, start, 737_280, 64)
    table = feeding_table(result)
    speed = f"{rate:,.0f}"
    assert table.rows[0] == (VAEX, speed, f"{speed}-{speed}", "1.00", "0.38", f"{start.seconds:.2f}", words[0])
    assert table.rows[1][3:] == ("2.50", "3.02", "-", "-")
    notes = "\n".join(table.notes)
    assert words[1] in notes
    assert words[2] in notes
    content = feeding_content(result)
    assert content["contestants"][PLAIN]["ratio"]["median"] == 2.5
    assert content["contestants"][PLAIN]["seconds_per_image"]["median"] == pytest.approx(2.5 / rate)


def test_a_short_memory_is_told(options: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    def short(data: DSprites) -> Any:
        raise MemoryError

    monkeypatch.setattr(feeding, "all_pixels", short)
    with pytest.raises(VaexError, match=r"holds 4\.1 GB of images"):
        run_feeding(options, rounds=1, batches=1)
