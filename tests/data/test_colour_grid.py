"""Shapes3D and MPI3D from small files of their form: pixels, factors, order, and what does not fit."""

from __future__ import annotations

import itertools
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from vaex.data import MPI3D, Shapes3D
from vaex.errors import VaexError

SHAPES = {"floor_hue": 2, "wall_hue": 1, "object_hue": 2, "scale": 3, "shape": 2, "orientation": 2}
ROBOT = {"object_color": 2, "object_shape": 3, "object_size": 2, "background_color": 1, "camera_height": 1}
ROBOT |= {"horizontal_axis": 2, "vertical_axis": 2}


def pixels(count: int) -> NDArray[np.uint8]:
    return np.random.default_rng(0).integers(0, 256, (count, 64, 64, 3), dtype=np.uint8)


def labels() -> NDArray[np.float64]:
    """Return values as in the published file: hues in steps of 0.1, sizes, kinds, degrees."""
    hue, scale, turn = [0.0, 0.1], [0.75, 0.82142857, 1.25], [-30.0, 25.71428571]
    return np.array(list(itertools.product(hue, [0.3], hue, scale, [0.0, 1.0], turn)))


def store(folder: Path, name: str, **arrays: Any) -> None:
    (folder / Path(name).parent).mkdir(exist_ok=True)
    if name.endswith(".h5"):
        h5py = pytest.importorskip("h5py")
        with h5py.File(folder / name, "w") as file:
            for key, values in arrays.items():
                file.create_dataset(key, data=values, chunks=(min(5, len(values)), *values.shape[1:]))
    else:
        np.savez_compressed(folder / name, **arrays)


def ready(data: Any) -> Any:
    data.prepare_data()
    data.setup()
    return data


@pytest.mark.parametrize("name", ["3dshapes/3dshapes.npz", "3dshapes/3dshapes.h5"])
@pytest.mark.parametrize("cache", ["disk", "memory"])
def test_shapes3d_is_what_the_file_holds(tmp_path: Path, name: str, cache: str) -> None:
    store(tmp_path, name, images=pixels(48), labels=labels())
    data = ready(Shapes3D(str(tmp_path), grid=SHAPES, val=8, test=8, batch_size=16, cache=cache))
    assert data.shape == (3, 64, 64)
    assert data.factor_names == ("floor_hue", "object_hue", "scale", "shape", "orientation")
    assert data.factor_sizes == (2, 2, 3, 2, 2)
    batch = data.grid_set.__getitems__([47, 5])
    assert batch["image"].dtype == torch.float32
    expected = pixels(48)[[47, 5]].astype(np.float64).transpose(0, 3, 1, 2) / 255
    np.testing.assert_allclose(batch["image"], expected, atol=1e-7)
    assert batch["factors"].tolist() == [[1, 1, 2, 1, 1], [0, 0, 1, 0, 1]]
    assert [len(part) for part in (data.train_set, data.val_set, data.test_set)] == [32, 8, 8]
    assert (tmp_path / "3dshapes" / ".vaex_cache").is_dir() == (cache == "disk")


@pytest.mark.parametrize("per_factor", [False, True])
def test_mpi3d_is_what_the_file_holds(tmp_path: Path, per_factor: bool) -> None:
    images = pixels(48)
    sizes = (2, 3, 2, 1, 1, 2, 2)
    stored = images.reshape(*sizes, 64, 64, 3) if per_factor else images
    store(tmp_path, "mpi3d/mpi3d_real.npz", images=stored)
    data = ready(MPI3D(str(tmp_path), name="real", grid=ROBOT, val=8, test=8, batch_size=16, num_workers=2))
    assert data.factor_names == ("object_color", "object_shape", "object_size", "horizontal_axis", "vertical_axis")
    seen = set()
    for batch in data.train_dataloader():
        positions = batch["index"].numpy()
        expected = images[positions].astype(np.float64).transpose(0, 3, 1, 2) / 255
        np.testing.assert_allclose(batch["image"], expected, atol=1e-7)
        classes = np.stack(np.unravel_index(positions, sizes), 1)[:, [0, 1, 2, 5, 6]]
        np.testing.assert_array_equal(batch["factors"], classes)
        seen |= set(positions.tolist())
    assert len(seen) == 32


def test_published_sizes_and_circular_hues() -> None:
    shapes = Shapes3D()
    assert len(shapes.full_grid) == 480_000
    assert shapes.factor_sizes == (10, 10, 10, 8, 4, 15)
    assert shapes.factor_grid.periods == {"floor_hue": 10, "wall_hue": 10, "object_hue": 10}
    assert Shapes3D(grid={"floor_hue": 4}).factor_grid.periods == {"wall_hue": 10, "object_hue": 10}
    assert [len(MPI3D(name=name).full_grid) for name in ("toy", "realistic", "real", "real_complex")] == [
        *(3 * [1_036_800]),
        460_800,
    ]
    assert MPI3D(name="real_complex").factor_sizes == (4, 4, 2, 3, 3, 40, 40)


def test_the_checksum_follows_file_and_splits(tmp_path: Path) -> None:
    options: dict[str, Any] = {"root": str(tmp_path), "grid": SHAPES, "val": 8, "test": 8}
    store(tmp_path, "3dshapes/3dshapes.npz", images=pixels(48), labels=labels())
    first = Shapes3D(**options).checksum
    assert Shapes3D(**options, cache="memory").checksum == first
    other = Shapes3D(**options, seed=1).checksum
    store(tmp_path, "3dshapes/3dshapes.npz", images=255 - pixels(48), labels=labels())
    assert len({first, other, Shapes3D(**options).checksum}) == 3


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"images": pixels(47), "labels": labels()}, r"'images' must be uint8 of shape (48, 64, 64, 3), got uint8 (47"),
        ({"images": pixels(48) / 255, "labels": labels()}, "got float64"),
        ({"images": pixels(48)}, "no array 'labels'"),
        ({"images": pixels(48), "labels": labels()[:, :5]}, "'labels' must be (48, 6), got (48, 5)"),
        ({"images": pixels(48), "labels": labels()[::-1]}, "'floor_hue' in 'labels' is not in the order"),
    ],
)
def test_a_file_that_does_not_fit_is_told(tmp_path: Path, arrays: dict[str, Any], message: str) -> None:
    store(tmp_path, "3dshapes/3dshapes.npz", **arrays)
    with pytest.raises(VaexError, match=re.escape(message)):
        ready(Shapes3D(str(tmp_path), grid=SHAPES, val=8, test=8))
    assert list((tmp_path / "3dshapes" / ".vaex_cache").iterdir()) == []


def test_wrong_settings_and_missing_files_are_told(tmp_path: Path) -> None:
    root = str(tmp_path)
    cases: list[tuple[Any, str]] = [
        (lambda: MPI3D(root, name="reel"), "data.name 'reel': did you mean 'real'"),
        (lambda: Shapes3D(root, grid={"hue": 3}), "factor in data.grid 'hue'"),
        (lambda: Shapes3D(root, grid=[3]), "data.grid must map factor names"),  # type: ignore[arg-type]
        (lambda: Shapes3D(root, cache="device"), "Unknown data.cache 'device'"),
        (lambda: ready(Shapes3D(root)), f"There is no 3dshapes.h5 or 3dshapes.npz in {root}/3dshapes; fetch"),
        (lambda: ready(MPI3D(root)), f"There is no mpi3d_toy.npz in {root}/mpi3d; fetch"),
    ]
    for call, message in cases:
        with pytest.raises(VaexError, match=re.escape(message)):
            call()


def test_large_images_are_not_quietly_kept_in_memory(tmp_path: Path) -> None:
    store(tmp_path, "3dshapes/3dshapes.npz", images=pixels(48), labels=labels())
    folder = tmp_path / "3dshapes"
    folder.chmod(0o555)
    try:
        with pytest.raises(VaexError, match=r"the images take 5\.9 GB: set data\.cache_dir"):
            ready(Shapes3D(str(tmp_path)))
        small = ready(Shapes3D(str(tmp_path), grid=SHAPES, val=8, test=8))
        assert isinstance(small.grid_set.pixels, np.ndarray)
    finally:
        folder.chmod(0o755)
