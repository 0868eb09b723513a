"""Names of pictures and list options of a command."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from omegaconf import OmegaConf
from PIL import Image

from vaex.commands.sources import (
    at_least_one,
    batches,
    file_stems,
    image_sources,
    list_option,
    size_and_pixels,
    white_of,
)
from vaex.data import Folder
from vaex.errors import VaexError


@pytest.mark.parametrize(("value", "numbers"), [(3, [3]), (0, [0]), ([3, 5], [3, 5]), ([5, 3, 5], [5, 3])])
def test_list_options(value: Any, numbers: list[int]) -> None:
    assert list_option(value, "latents") == numbers
    assert list_option(OmegaConf.create({"x": value}).x, "latents") == numbers


@pytest.mark.parametrize("value", [[], True, 1.5, "3", [1.5], [True], ["3"], [[1]], {"a": 1}, None])
def test_what_is_no_list_of_numbers(value: Any) -> None:
    with pytest.raises(VaexError, match=r"latents must .* such as latents=\[0,3\]"):
        list_option(value, "latents")


@pytest.mark.parametrize("value", [0, -1, True, 1.5, "x", None])
def test_what_is_no_count(value: Any) -> None:
    with pytest.raises(VaexError, match="size must be at least 1"):
        at_least_one(value, "size")


def test_only_one_batch_is_read_at_a_time(tmp_path: Path) -> None:
    for i in range(5):
        Image.fromarray(np.full((8, 8), i, dtype=np.uint8)).save(tmp_path / f"{i}.png")
    sources = image_sources(str(tmp_path), (1, 8, 8))
    (tmp_path / "4.png").unlink()  # the last file is gone, which the first batches do not notice
    taken = batches(iter(read() for read in sources.values()), 2)
    assert [pixels.mean() * 255 for pixels in next(taken)] == pytest.approx([0, 1])
    assert [pixels.mean() * 255 for pixels in next(taken)] == pytest.approx([2, 3])
    with pytest.raises(VaexError, match=r"4\.png cannot be read"):
        next(taken)


def test_a_name_that_is_not_utf8_can_be_written(tmp_path: Path) -> None:
    try:
        Image.fromarray(np.zeros((8, 8), dtype=np.uint8)).save(os.fsdecode(bytes(tmp_path) + b"/x\xff.png"))
    except OSError:
        pytest.skip("this file system takes UTF-8 names only")
    ((name, read),) = image_sources(str(tmp_path), (1, 8, 8)).items()
    assert name.encode().startswith(b"x")
    assert read().shape == (1, 8, 8)


def test_file_names_stay_inside_the_folder() -> None:
    names = ["../../x.png", "/etc/passwd", "a\\b.png", "..", ".hidden", "sub/a.b.png", "é" * 300 + ".png", "C:x.png"]
    stems = file_stems(names)
    assert list(stems) == names
    assert stems["sub/a.b.png"] == "sub__a.b"
    for stem in stems.values():
        assert stem
        assert not set(stem) & set("/\\:")
        assert not stem.startswith(".")
        assert len(f"{stem}_z00.png".encode()) < 255


def test_stems_differ_whatever_the_names() -> None:
    names = ["a.png", "a.jpg", "a_2.png", "A.png", "a/b.png", "a__b.png", "x" * 300 + "1.png", "x" * 300 + "2.png"]
    assert len({stem.lower() for stem in file_stems(names).values()}) == len(names)


def test_size_of_the_original_beside_the_pixels_of_the_model(tmp_path: Path) -> None:
    values = np.random.default_rng(0).integers(0, 256, (20, 30), dtype=np.uint8)
    Image.fromarray(values).save(tmp_path / "x.png")
    (source,) = image_sources(str(tmp_path), (1, 8, 8)).values()
    size, pixels = size_and_pixels(source)
    assert (size, pixels.shape) == ((30, 20), (1, 8, 8))
    size, pixels = size_and_pixels(source, original=True)
    np.testing.assert_array_equal(pixels[0], values / np.float32(255))
    size, pixels = size_and_pixels(lambda: np.zeros((3, 5, 7)))
    assert (size, pixels.shape) == ((7, 5), (3, 5, 7))


@pytest.mark.parametrize("white", [None, 4095.0])
def test_explained_are_the_pixels_that_thresholds_were_made_on(white: float | None, tmp_path: Path) -> None:
    """Of 16 bits the data modules keep 8: without the same rounding scores would differ."""
    generator = np.random.default_rng(0)
    for i in range(6):
        values = generator.integers(0, 4096, (20, 30), dtype=np.uint16)
        Image.fromarray(values).save(tmp_path / f"{i}.png")
    data = Folder(normal_dir=str(tmp_path), size=16, channels=1, white=white, test_fraction=0, synthetic=False)
    data.setup()
    batches = [s.__getitems__(list(range(len(s)))) for s in (data.train_set, data.val_set)]
    names = [record.path.name for s in (data.train_set, data.val_set) for record in s.records]
    expected = dict(zip(names, np.concatenate([batch["image"].numpy() for batch in batches]), strict=True))
    sources = image_sources(str(tmp_path), (1, 16, 16), white)
    assert set(sources) == set(expected)
    for name, source in sources.items():
        np.testing.assert_array_equal(source(), expected[name])
        whole = size_and_pixels(source, original=True)[1][0]
        own = np.asarray(Image.open(tmp_path / name), dtype=np.float64) / (white or 65535)
        np.testing.assert_array_equal(whole, np.rint(own * 255).astype(np.float32) / np.float32(255))


def test_white_of_a_data_config() -> None:
    assert white_of(None) is white_of(OmegaConf.create({})) is white_of({"white": None}) is None
    assert white_of(OmegaConf.create({"white": 1023})) == 1023
    with pytest.raises(VaexError, match=r"data\.white"):
        white_of({"white": "x"})
