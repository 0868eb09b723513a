"""Tiles: a score that looks at single pixels gives in tiles what it gives of the whole image."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from vaex.data.tiling import tiles_of
from vaex.scores.evidence import Scored
from vaex.scores.tiling import score_tiles


def pointwise(images: Tensor) -> Scored:
    score_map = images.square().sum(1, keepdim=True)
    return Scored(score_map, score_map.flatten(1).amax(1))


@pytest.mark.parametrize(
    ("height", "width", "tile", "overlap"),
    [(40, 56, 16, 0), (40, 56, 16, 4), (41, 57, 16, 8), (16, 16, 16, 3), (17, 100, 16, 5)],
)
@pytest.mark.parametrize("batch_size", [1, 3])
def test_a_pointwise_score_is_that_of_the_whole_image(
    height: int, width: int, tile: int, overlap: int, batch_size: int
) -> None:
    image = torch.rand(3, height, width, generator=torch.Generator().manual_seed(0))
    whole = pointwise(image[None])
    sizes: list[tuple[int, ...]] = []

    def score(images: Tensor) -> Scored:
        sizes.append(tuple(images.shape))
        return pointwise(images)

    found = score_tiles(image, (tile, tile), score, tile, overlap, batch_size)
    torch.testing.assert_close(found.score_map, whole.score_map)
    assert torch.equal(found.score, whole.score)
    assert all(size[0] <= batch_size and size[1:] == (3, tile, tile) for size in sizes)
    assert found.tiles == tiles_of(height, width, tile, overlap)
    expected = [float(whole.score_map[0, 0, t.top : t.bottom, t.left : t.right].max()) for t in found.tiles]
    assert found.tile_scores.tolist() == expected


def test_tiles_of_another_size_than_the_model_takes() -> None:
    """A plane stays one when it is made larger and smaller again, away from the border of a tile."""
    image = (torch.arange(48).float() / 48)[None, None].expand(1, 32, 48)

    def score(images: Tensor) -> Scored:
        assert images.shape[1:] == (1, 32, 32)
        return Scored(images, images.flatten(1).amax(1))

    found = score_tiles(image, (32, 32), score, 16, 4)
    torch.testing.assert_close(found.score_map[0, 0, :, 2:-2], image[0, :, 2:-2], atol=0.02, rtol=0)


@pytest.mark.parametrize("channels", [1, 3])
def test_a_tile_is_what_a_file_of_its_pixels_is_read_as(channels: int, tmp_path: Path) -> None:
    """Saved by Pillow and read at the size that the score takes, which is larger, smaller and of other proportions."""
    from PIL import Image

    from vaex.data.images import read_image

    stored = np.random.default_rng(0).integers(0, 256, (40, 30, channels), dtype=np.uint8)
    image = torch.from_numpy(stored).permute(2, 0, 1).float() / 255
    for shape in ((32, 48), (7, 9)):
        seen: list[Tensor] = []

        def score(images: Tensor, seen: list[Tensor] = seen) -> Scored:
            seen.extend(images)
            return pointwise(images)

        found = score_tiles(image, shape, score, 20, 0)
        parts = tiles_of(40, 30, 20, 0)
        assert len(seen) == len(parts) == 4
        files = []
        for number, (part, crop) in enumerate(zip(parts, seen, strict=True)):
            file = tmp_path / f"{number}.png"
            Image.fromarray(stored[part.top : part.bottom, part.left : part.right].squeeze()).save(file)
            files.append(torch.from_numpy(read_image(file, (channels, *shape))))
            assert torch.equal(crop, files[-1])
        assert float(found.score) == float(pointwise(torch.stack(files)).score.max())


def test_an_image_smaller_than_a_tile() -> None:
    image = torch.rand(1, 6, 40, generator=torch.Generator().manual_seed(0))
    found = score_tiles(image, (8, 8), pointwise, 16, 2)
    assert found.score_map.shape == (1, 1, 6, 40)
    assert bool(found.score_map.isfinite().all())


def test_what_one_of_two_tiles_finds_is_not_averaged_away() -> None:
    """The second tile calls the columns that it shares with the first normal; the map keeps what the first found."""
    seen: list[int] = []

    def score(images: Tensor) -> Scored:
        seen.append(len(images))
        score_map = torch.zeros(1, 1, 16, 16)
        score_map[..., 14] = 2.0 - len(seen)  # 1, then 0
        return Scored(score_map, score_map.flatten(1).amax(1))

    found = score_tiles(torch.rand(1, 16, 28), (16, 16), score, 16, 4)
    assert len(seen) == 2
    assert float(found.score_map.max()) == float(found.score) == 1.0
    assert bool((found.score_map[..., 14] == 1).all())


def test_a_tile_that_is_no_number_makes_the_score_none() -> None:
    image = torch.rand(1, 16, 32)
    image[0, 3, 3] = torch.nan
    found = score_tiles(image, (16, 16), pointwise, 16, 0)
    assert bool(found.score.isnan().all())
