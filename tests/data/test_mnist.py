"""MNIST and Fashion-MNIST: the real files, and small made-up ones for splits, downloads and damage."""

from __future__ import annotations

import gzip
import hashlib
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch

from vaex.data.idx import write_idx
from vaex.data.mnist import MNIST
from vaex.data.mnist_files import FILES, PUBLICATIONS
from vaex.errors import VaexError

if TYPE_CHECKING:
    from tests.data.conftest import Mirror

TRAIN_IMAGES, TRAIN_LABELS, TEST_IMAGES, TEST_LABELS = FILES


def fill(root: Path, folder: str = "MNIST", suffix: str = "") -> Path:
    """Write 60 training and 20 test images; image i has pixels (i + column) modulo 256 and class i modulo 10."""
    raw = root / folder / "raw"
    raw.mkdir(parents=True)
    for images, labels, count in ((TRAIN_IMAGES, TRAIN_LABELS, 60), (TEST_IMAGES, TEST_LABELS, 20)):
        numbers = np.arange(count)
        pixels = np.broadcast_to(numbers[:, None, None] + np.arange(28), (count, 28, 28))
        write_idx(raw / (images + suffix), pixels.astype(np.uint8))
        write_idx(raw / (labels + suffix), (numbers % 10).astype(np.uint8))
    return raw


def ready(root: Path, **options: Any) -> MNIST:
    data = MNIST(root=str(root), **options)
    data.prepare_data()
    data.setup()
    return data


def gather(split: Any, indices: list[int]) -> dict[str, torch.Tensor]:
    return dict(split.__getitems__(indices))


def everything(split: Any) -> dict[str, torch.Tensor]:
    return gather(split, list(range(len(split))))


def plain_labels(path: Path) -> np.ndarray[Any, np.dtype[np.uint8]]:
    return np.frombuffer(path.read_bytes()[8:], np.uint8)


@pytest.mark.parametrize("name", ["mnist", "fashion_mnist"])
def test_real_files_are_the_published_ones_and_split_by_class(
    vaex_data: Path, name: str, caplog: pytest.LogCaptureFixture
) -> None:
    raw = vaex_data / PUBLICATIONS[name].folder / "raw"
    labels, test_labels = plain_labels(raw / TRAIN_LABELS), plain_labels(raw / TEST_LABELS)
    whole = ready(vaex_data, name=name, download=False)
    assert caplog.records == []  # no warning: the unpacked SHA-256 are those of the table
    assert [len(whole.train_set), len(whole.val_set), len(whole.test_set)] == [54_000, 6_000, 10_000]
    classes = torch.cat([everything(split)["factors"] for split in (whole.train_set, whole.val_set)]).flatten()
    assert torch.bincount(classes).tolist() == np.bincount(labels).tolist()

    one = ready(vaex_data, name=name, normal_class=3, download=False)
    count = int((labels == 3).sum())
    assert [len(one.train_set), len(one.val_set), len(one.test_set)] == [count - count // 10, count // 10, 10_000]
    train, val, test = (everything(split) for split in (one.train_set, one.val_set, one.test_set))
    assert sorted(torch.cat([train["index"], val["index"]]).tolist()) == np.flatnonzero(labels == 3).tolist()
    assert train["label"].sum() == val["label"].sum() == 0
    assert test["label"].tolist() == (test_labels != 3).tolist()
    assert test["factors"].flatten().tolist() == test_labels.tolist()
    assert one.checksum == whole.checksum
    seen, held_out = ({image.numpy().tobytes() for image in split["image"]} for split in (train, val))
    assert not seen & held_out


@pytest.mark.parametrize("suffix", ["", ".gz"])
def test_a_batch_has_the_pixels_classes_and_positions_of_the_files(tmp_path: Path, suffix: str) -> None:
    fill(tmp_path, suffix=suffix)
    data = ready(tmp_path)
    assert (data.shape, data.factor_names, data.factor_sizes) == ((1, 28, 28), ("class",), (10,))
    batch = gather(data.test_set, [7, 0, 7])
    assert sorted(batch) == ["factors", "image", "index"]
    assert batch["index"].tolist() == [7, 0, 7]
    assert batch["factors"].tolist() == [[7], [0], [7]]
    expected = np.broadcast_to((np.array([7, 0, 7])[:, None, None, None] + np.arange(28)) / 255, (3, 1, 28, 28))
    assert batch["image"].dtype == torch.float32
    np.testing.assert_array_equal(batch["image"].numpy(), expected.astype(np.float32))
    assert [batch[key].dtype for key in ("index", "factors")] == [torch.long, torch.long]


def test_one_class_against_the_others(tmp_path: Path) -> None:
    fill(tmp_path, "FashionMNIST")
    data = ready(tmp_path, name="fashion_mnist", normal_class=np.int64(4), val_fraction=0.5)
    train, val = everything(data.train_set), everything(data.val_set)
    assert sorted(train["index"].tolist() + val["index"].tolist()) == [4, 14, 24, 34, 44, 54]
    assert len(train["index"]) == len(val["index"]) == 3
    assert train["label"].tolist() == val["label"].tolist() == [0, 0, 0]
    test = next(iter(data.test_dataloader()))
    assert test["label"].tolist() == [0 if i % 10 == 4 else 1 for i in range(20)]
    assert test["label"].dtype == torch.long
    assert data.class_names[4] == "Coat"


def test_the_split_depends_on_the_seed_alone(tmp_path: Path) -> None:
    fill(tmp_path)
    first, again, other = (everything(ready(tmp_path, seed=seed).val_set)["index"].tolist() for seed in (1, 1, 2))
    assert first == again
    assert first != other
    assert first == sorted(set(first))


@pytest.mark.parametrize(("fraction", "held_out"), [(1e-9, 1), (0.1, 6), (0.49, 29), (0.999, 59)])
def test_val_fraction_leaves_an_image_to_each_side(tmp_path: Path, fraction: float, held_out: int) -> None:
    fill(tmp_path)
    data = ready(tmp_path, val_fraction=fraction)
    assert (len(data.val_set), len(data.train_set)) == (held_out, 60 - held_out)
    train, val = (set(everything(split)["index"].tolist()) for split in (data.train_set, data.val_set))
    assert train | val == set(range(60))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"normal_class": 10}, r"data\.normal_class must be null or one of 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, got 10"),
        ({"normal_class": -1}, "got -1"),
        ({"normal_class": True}, "got True"),
        ({"normal_class": 3.0}, r"got 3\.0"),
        ({"normal_class": "Bag", "name": "fashion_mnist"}, r"0 \(T-shirt/top\), .* 8 \(Bag\), .* got 'Bag'"),
        ({"name": "mnits"}, "Unknown data.name 'mnits': did you mean 'mnist'"),
        ({"val_fraction": 0.0}, r"data\.val_fraction must be between 0 and 1, both excluded, got 0\.0"),
        ({"val_fraction": 1}, "got 1"),
        ({"val_fraction": float("nan")}, "got nan"),
        ({"val_fraction": "a tenth"}, "got 'a tenth'"),
        ({"size": 32}, r"data\.size must be 28, .* got 32"),
        ({"batch_size": 0}, r"data\.batch_size"),
    ],
)
def test_wrong_settings_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(VaexError, match=message):
        MNIST(**options)


def test_the_unpacked_file_is_preferred(tmp_path: Path) -> None:
    raw = fill(tmp_path)
    (raw / f"{TRAIN_IMAGES}.gz").write_bytes(b"rubbish")
    assert len(ready(tmp_path).train_set) == 54


@pytest.mark.parametrize(
    ("name", "array", "message"),
    [
        (TRAIN_LABELS, np.zeros(59, np.uint8), f"60 images in {TRAIN_IMAGES} but 59 labels in {TRAIN_LABELS}"),
        (TEST_IMAGES, np.zeros((20, 32, 32), np.uint8), rf"{TEST_IMAGES} must hold 28 x 28 .* \(20, 32, 32\)"),
        (TEST_IMAGES, np.zeros((20, 784), np.uint8), r"shape \(20, 784\)"),
        (TEST_IMAGES, np.zeros((20, 28, 28), np.int32), "got int32"),
        (TEST_LABELS, np.full(20, 10, np.uint8), rf"{TEST_LABELS} must hold uint8 classes from 0 to 9, .* up to 10"),
        (TEST_LABELS, np.zeros((20, 1), np.uint8), r"shape \(20, 1\)"),
        (TEST_LABELS, np.zeros(20, np.int32), "got int32"),
        (TRAIN_LABELS, np.zeros(60, np.uint8), "has 0 images to train on"),
    ],
)
def test_files_that_do_not_fit_are_refused(tmp_path: Path, name: str, array: Any, message: str) -> None:
    write_idx(fill(tmp_path) / name, array)
    with pytest.raises(VaexError, match=message):
        ready(tmp_path, normal_class=3)


def test_a_file_that_is_not_the_published_one_is_mentioned(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    fill(tmp_path)
    ready(tmp_path)
    assert [name in record.getMessage() for name, record in zip(FILES, caplog.records, strict=True)] == [True] * 4


def test_the_checksum_is_that_of_the_unpacked_files(tmp_path: Path) -> None:
    raw = fill(tmp_path / "plain")
    fill(tmp_path / "packed", suffix=".gz")
    expected = hashlib.sha256(b"".join(name.encode() + (raw / name).read_bytes() for name in FILES)).hexdigest()
    data = MNIST(root=str(tmp_path / "plain"))
    assert data.checksum == expected
    (raw / TEST_LABELS).unlink()
    assert data.checksum == expected  # kept in the object
    assert ready(tmp_path / "packed", normal_class=1, seed=5).checksum == expected
    write_idx(fill(tmp_path / "other") / TEST_LABELS, np.zeros(20, np.uint8))
    assert ready(tmp_path / "other").checksum != expected


def publish(mirror: Mirror, source: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let MNIST be downloaded from ``mirror``, which gives the packed files of ``source``."""
    packed = {name: gzip.compress((source / name).read_bytes(), mtime=1) for name in FILES}
    for name, content in packed.items():
        url = mirror.url(f"/{name}.gz", lambda request, content=content: request.send(content))  # type: ignore[misc]
        mirror.url(f"/gone/{name}.gz", lambda request: request.send(b"", 404))
    folder = url.removesuffix(f"{FILES[-1]}.gz")
    digests = tuple((hashlib.sha256(packed[name]).hexdigest(), "") for name in FILES)
    changed = PUBLICATIONS["mnist"]._replace(mirrors=(f"{folder}gone/", folder), sha256=digests)
    monkeypatch.setitem(PUBLICATIONS, "mnist", changed)


def test_missing_files_are_fetched_from_the_second_mirror(
    mirror: Mirror, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    publish(mirror, fill(tmp_path / "source"), monkeypatch)
    data = ready(tmp_path / "new")
    assert data.checksum == ready(tmp_path / "source").checksum
    assert sorted(path.name for path in data.folder.iterdir()) == sorted(f"{name}.gz" for name in FILES)
    assert len(mirror.asked) == 8
    ready(tmp_path / "new")
    assert len(mirror.asked) == 8


def test_only_the_missing_file_is_fetched(mirror: Mirror, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    publish(mirror, fill(tmp_path / "source"), monkeypatch)
    (fill(tmp_path / "new") / TEST_LABELS).unlink()
    ready(tmp_path / "new")
    assert {path for path, _ in mirror.asked} == {f"/gone/{TEST_LABELS}.gz", f"/{TEST_LABELS}.gz"}


def test_offline_one_sentence_says_what_to_put_where(
    mirror: Mirror, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    publish(mirror, fill(tmp_path / "source"), monkeypatch)
    for name in FILES:
        mirror.url(f"/{name}.gz", lambda request: request.send(b"", 503))
    with pytest.raises(VaexError) as caught:
        ready(tmp_path / "new")
    text = str(caught.value)
    assert text.startswith(f"Could not download {TRAIN_IMAGES}.gz (http")
    assert "HTTP 404" in text
    assert "HTTP 503" in text
    assert all(
        name in text.split("put ")[1] for name in (*FILES, str(tmp_path / "new" / "MNIST" / "raw"), "data=sprites")
    )


def test_without_download_nothing_is_fetched_or_made(
    mirror: Mirror, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    publish(mirror, fill(tmp_path / "source"), monkeypatch)
    with pytest.raises(
        VaexError, match=rf"There is no {TRAIN_IMAGES} in .*data\.download is false: put .*data=sprites"
    ):
        ready(tmp_path / "new", download=False)
    with pytest.raises(VaexError, match=r"call prepare_data\(\) first"):
        MNIST(root=str(tmp_path / "new")).setup()
    assert mirror.asked == []
    assert not (tmp_path / "new").exists()
