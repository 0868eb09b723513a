"""Which images a model was trained on, by their content, and what of it is held out or tested now."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from vaex.data.records import SPLITS, Record

DIGITS = 16
"""Hexadecimal digits of the SHA-256 of an image that are kept: by them a million images still differ."""


class Change(NamedTuple):
    """How the images of now differ from those of a training."""

    came: int
    went: int
    held_out: int  # of those held out now: how many were trained on
    all_held_out: int
    tested: int  # the same of those tested now
    all_tested: int
    resplit: bool  # the images to train on or those held out are others

    def told(self) -> str:
        """Return it in the words that every command begins with."""
        was = "image has" if self.came == 1 else "images have"
        moved = f"since the training {self.came} {was} come and {self.went} gone, so the data is split otherwise"
        if not self.came and not self.went:
            moved = "the images are those of the training, but split otherwise (other names, seed or shares)"
        return (
            f"{moved}: {self.held_out} of the {self.all_held_out} images held out now and {self.tested} of the "
            f"{self.all_tested} of the test were trained on"
        )


def by_content(records: Sequence[Record], digests: Mapping[Path, bytes]) -> dict[str, str]:
    """Return by split the first `DIGITS` of the digests of its images, sorted and in one text, for a checkpoint."""
    return {
        split: "".join(sorted(digests[record.path].hex()[:DIGITS] for record in records if record.split == split))
        for split in SPLITS
    }


def change_since(then: Any, now: Mapping[str, str]) -> Change | None:
    """Return how the images of ``now`` differ from those that a training remembered; None where no split does.

    Names and places of files do not count. None also where ``then``, out of a checkpoint, remembers nothing.
    """
    if not isinstance(then, Mapping) or not all(isinstance(then.get(split), str) for split in SPLITS):
        return None
    before, after = ({split: _counted(state[split]) for split in SPLITS} for state in (then, now))
    if before == after:
        return None
    all_before, all_after = (sum(state.values(), Counter[str]()) for state in (before, after))
    trained = before["train"]
    return Change(
        came=(all_after - all_before).total(),
        went=(all_before - all_after).total(),
        held_out=_among(after["val"], trained),
        all_held_out=after["val"].total(),
        tested=_among(after["test"], trained),
        all_tested=after["test"].total(),
        resplit=any(before[split] != after[split] for split in ("train", "val")),
    )


def _counted(text: str) -> Counter[str]:
    return Counter(text[start : start + DIGITS] for start in range(0, len(text), DIGITS))


def _among(images: Counter[str], known: Counter[str]) -> int:
    return sum(count for image, count in images.items() if image in known)
