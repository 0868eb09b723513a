"""Splits made of records: what a batch holds, how epochs travel in the index, and copies with pasted defects."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from vaex.data import anomalies
from vaex.data.anomalies import KINDS
from vaex.data.loading import ResumableLoader
from vaex.data.records import (
    GOOD,
    SYNTHETIC,
    Gallery,
    PastedSet,
    Record,
    RecordSet,
    checked_recipe,
    group_names,
    hold_out,
    with_pasted,
)
from vaex.errors import VaexError

GENERATOR = np.random.default_rng(0)
IMAGES = GENERATOR.integers(0, 256, (6, 3, 8, 8), dtype=np.uint8)
MASKS = (GENERATOR.random((2, 1, 8, 8)) < 0.5).astype(np.uint8)
RECORDS = (
    Record(Path("0.png"), "test", 0, GOOD),
    Record(Path("1.png"), "test", 1, "cut", Path("1_mask.png")),
    Record(Path("2.png"), "train", 0, GOOD),
    Record(Path("3.png"), "test", 1, "bent", Path("3_mask.png")),
    Record(Path("4.png"), "test", 1, "bent"),
    Record(Path("5.png"), "train", 0, GOOD),
)
GALLERY = Gallery(RECORDS, IMAGES, MASKS, group_names(RECORDS))


class Tagged:
    """Writes the seed into the picture, so that a test sees which one came."""

    def __call__(
        self, image: NDArray[np.uint8], mask: NDArray[np.uint8], seed: Sequence[int]
    ) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
        image, mask = image.copy(), mask.copy()
        image[0, 0, :3], mask[0, 0] = seed, 1
        return image, mask


def tags(dataset: RecordSet, indices: list[int]) -> list[list[int]]:
    return (dataset.__getitems__(indices)["image"][:, 0, 0, :3] * 255).round().int().tolist()


def test_a_batch_holds_what_is_known() -> None:
    batch = RecordSet(GALLERY, [0, 1, 3]).__getitems__([2, 0, 1])
    np.testing.assert_array_equal(batch["image"].numpy(), IMAGES[[3, 0, 1]].astype(np.float32) / np.float32(255))
    np.testing.assert_array_equal(batch["mask"].numpy(), np.stack([MASKS[1], np.zeros((1, 8, 8)), MASKS[0]]))
    assert GALLERY.group_names == (GOOD, "bent", "cut", *SYNTHETIC)
    assert batch["label"].tolist() == [1, 0, 1]
    assert batch["group"].tolist() == [1, 0, 2]
    assert batch["index"].tolist() == [2, 0, 1]
    assert batch["image"].dtype == batch["mask"].dtype == torch.float32
    assert batch["image"].is_contiguous()


def test_no_masks_where_one_is_unknown() -> None:
    assert "mask" not in RecordSet(GALLERY, [0, 1, 4]).__getitems__([0, 1])
    assert "mask" in RecordSet(GALLERY, [0, 2]).__getitems__([0])


def test_the_index_tells_the_epoch() -> None:
    dataset = RecordSet(GALLERY, [2, 5, 0], Tagged(), seed=9)
    assert dataset.counts_epochs
    assert tags(dataset, [0 + 3, 1 + 3 * 4, 2 + 3 * 2]) == [[9, 1, 0], [9, 4, 1], [9, 2, 2]]
    plain, mixed = RecordSet(GALLERY, [2, 5, 0]).__getitems__([1, 0]), dataset.__getitems__([1, 3])
    torch.testing.assert_close(mixed["image"][0], plain["image"][0])  # as it is
    assert mixed["mask"].flatten(1).sum(1).tolist() == [0, 1]
    assert mixed["index"].tolist() == [1, 0]


def test_pictures_changed_always_are_the_same_every_time() -> None:
    dataset = RecordSet(GALLERY, [2, 5], Tagged(), always=True, seed=9)
    assert not dataset.counts_epochs
    assert tags(dataset, [1, 0]) == [[9, 0, 1], [9, 0, 0]]


def pictures(batch_size: int, workers: int, epochs: int = 3, skip: int = 0) -> list[dict[int, list[int]]]:
    """Return for each epoch the tag of each image; the first epoch resumes behind ``skip`` batches."""
    dataset = RecordSet(GALLERY, range(6), Tagged(), seed=7)
    loader = ResumableLoader(dataset, batch_size, shuffle=True, num_workers=workers)
    if skip:
        loader.load_state_dict({"epoch": 1, "handed_out": skip})
    seen: list[dict[int, list[int]]] = []
    for _ in range(epochs):
        seen.append({})
        for batch in loader:
            drawn = (batch["image"][:, 0, 0, :3] * 255).round().int().tolist()
            seen[-1].update(zip(batch["index"].tolist(), drawn, strict=True))
    return seen


def test_neither_workers_nor_batch_size_nor_a_resume_change_a_picture() -> None:
    expected = [{i: [7, epoch + 1, i] for i in range(6)} for epoch in range(3)]
    assert pictures(1, 0) == pictures(4, 0) == pictures(2, 2) == expected
    resumed = pictures(2, 0, epochs=2, skip=1)
    assert len(resumed[0]) == 4
    assert resumed[0] == {i: expected[1][i] for i in resumed[0]}
    assert resumed[1] == expected[2]


def test_copies_have_a_pasted_defect() -> None:
    source = RecordSet(GALLERY, [0, 2, 5])
    dataset = PastedSet(source, seed=3)
    assert len(dataset) == 6
    assert [record.path.name for record in dataset.records] == ["0.png", "0.png", "2.png", "2.png", "5.png", "5.png"]
    batch = dataset.__getitems__([0, 1, 2, 3, 4, 5])
    assert batch["label"].tolist() == [0, 1] * 3
    names = [source.group_names[number] for number in batch["group"].tolist()]
    assert names[::2] == [GOOD] * 3
    assert names[1::2] == [f"synthetic_{KINDS[kind]}" for kind in batch["kind"][1::2].tolist()]
    assert batch["index"].tolist() == [0, 1, 2, 3, 4, 5]
    plain = source.__getitems__([0, 1, 2])["image"]
    torch.testing.assert_close(batch["image"][::2], plain)
    assert not batch["mask"][::2].any()
    marked = batch["mask"][1::2].bool()
    assert marked.flatten(1).any(1).all()
    assert ((batch["image"][1::2] - plain).abs().amax(1, keepdim=True) > 0).equal(marked)


def test_a_copy_does_not_depend_on_its_batch() -> None:
    dataset = PastedSet(RecordSet(GALLERY, [0, 2, 5]), seed=3)
    whole, alone = dataset.__getitems__([0, 1, 2, 3, 4, 5]), dataset.__getitems__([3])
    for key in ("image", "mask", "label", "group", "index", "kind"):
        torch.testing.assert_close(alone[key][0], whole[key][3])
    other = PastedSet(RecordSet(GALLERY, [0, 2, 5]), seed=4).__getitems__([3])
    assert not torch.equal(other["image"], alone["image"])


def test_a_copy_tells_what_was_pasted() -> None:
    source = RecordSet(GALLERY, [0, 2, 5])
    kinds = PastedSet(source, seed=3, copies=60).__getitems__(list(range(183)))["kind"]
    assert kinds[::61].tolist() == [-1] * 3
    assert set(kinds.tolist()) == {-1, *range(len(anomalies.KINDS))}
    kinds = PastedSet(source, 3, 3, anomalies.Recipe(kinds=["noise"])).__getitems__(list(range(12)))["kind"]
    assert kinds.tolist() == [-1, *[anomalies.KINDS.index("noise")] * 3] * 3


def test_copies_for_training_come_with_the_clean_image() -> None:
    source = RecordSet(GALLERY, [0, 2, 5])
    dataset = with_pasted(source, 2, seed=3)
    assert len(dataset) == 9
    batch = dataset.__getitems__([0, 1, 2, 8, 5, 3])
    assert batch["label"].tolist() == [0, 1, 1, 1, 1, 0]
    assert batch["index"].tolist() == [0, 1, 2, 8, 5, 3]
    assert batch["clean_index"].tolist() == [0, 0, 0, 6, 3, 3]
    assert (batch["kind"] == -1).tolist() == [True, False, False, False, False, True]
    plain = source.__getitems__([0, 0, 0, 2, 1, 1])["image"]
    assert torch.equal(batch["clean"], plain)
    assert torch.equal((batch["image"] != plain).any(1, keepdim=True).float(), batch["mask"])
    assert not torch.equal(batch["image"][1], batch["image"][2])  # two copies, two defects
    validation = PastedSet(source, seed=3, copies=2).__getitems__([1])
    assert not torch.equal(validation["mask"][0], batch["mask"][1])  # not those that validation has
    assert with_pasted(source, 0, seed=3) is source
    with pytest.raises(VaexError, match="some of these are labelled anomalous"):
        with_pasted(RecordSet(GALLERY, [0, 1]), 2, seed=3)
    for wrong in (-1, 1.0, True):
        with pytest.raises(VaexError, match="pasted must be a whole number of copies"):
            checked_recipe(wrong, None)  # type: ignore[arg-type]


def test_a_recipe_says_which_defects_are_pasted() -> None:
    given = {"kinds": ["flat"], "shapes": ["ellipse"], "size": [30, 30]}
    source = RecordSet(GALLERY, [0, 2, 5])
    batch = with_pasted(source, 3, 5, checked_recipe(3, given)).__getitems__(list(range(12)))
    assert set(batch["kind"].tolist()) == {-1, anomalies.KINDS.index("flat")}
    every = with_pasted(source, 40, 5, checked_recipe(40, None)).__getitems__(list(range(123)))
    assert set(every["kind"].tolist()) == {-1, *range(len(anomalies.KINDS))}
    with pytest.raises(VaexError, match=r"data\.recipe has no option 'kind': did you mean 'kinds'"):
        checked_recipe(1, {"kind": ["flat"]})
    with pytest.raises(VaexError, match="Unknown kind of defect 'flatt'"):
        checked_recipe(1, {"kinds": ["flatt"]})
    for wrong in ([4], [9, 4], ["a", "b"], 4):
        with pytest.raises(VaexError, match="must be two numbers"):
            checked_recipe(1, {"size": wrong})


def test_copies_of_augmented_images_change_with_the_epoch() -> None:
    dataset = with_pasted(RecordSet(GALLERY, [0, 2, 5], Tagged(), seed=9), 1, seed=3)
    assert dataset.counts_epochs
    assert not with_pasted(RecordSet(GALLERY, [0]), 1, seed=3).counts_epochs
    first, second = dataset.__getitems__([3 + 6, 2 + 6]), dataset.__getitems__([3 + 12, 2 + 12])
    assert first["index"].tolist() == second["index"].tolist() == [3, 2]
    for batch, epoch in ((first, 1), (second, 2)):
        assert (batch["clean"][:, 0, 0, :3] * 255).round().int().tolist() == [[9, epoch, 1]] * 2
        assert torch.equal(batch["image"][1], batch["clean"][1])
    assert not torch.equal(first["mask"][0], second["mask"][0])


@pytest.mark.parametrize(("count", "fraction", "held"), [(10, 0.1, 1), (10, 0.25, 2), (2, 0.01, 1), (3, 0.99, 2)])
def test_a_share_is_held_out_by_seed(count: int, fraction: float, held: int) -> None:
    rows = list(range(100, 100 + count))
    kept, out = hold_out(rows, fraction, seed=0)
    assert len(out) == held
    assert sorted([*kept, *out]) == rows
    assert (kept, out) == hold_out(rows, fraction, seed=0)
    assert len({str(hold_out(rows, fraction, seed)) for seed in range(8)}) > 1
