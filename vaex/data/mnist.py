"""MNIST and Fashion-MNIST from their original idx files, whole or as one normal class against the nine others."""

from __future__ import annotations

import hashlib
import logging
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from vaex.data.download import fetch_file
from vaex.data.idx import idx_header, read_idx
from vaex.data.mnist_files import FILES, PUBLICATIONS
from vaex.data.module import ImageDataModule
from vaex.errors import VaexError, unknown
from vaex.types import Batch

SIDE = 28

_REPLACE = "put the original files there"
_log = logging.getLogger(__name__)


class DigitImages:
    """One split: the rows of a file that belong to it, gathered a batch at a time.

    ``images`` (N, 28, 28) uint8 and ``classes`` (N,) long are shared by the splits of one file; ``rows`` are this
    split's positions in them. A batch holds ``image`` (B, 1, 28, 28) float32 in [0, 1], ``factors`` (B, 1) the class,
    ``index`` (B,) the position in the file, and with a ``normal_class`` also ``label`` (B,), 1 for every other class.
    """

    def __init__(self, images: Tensor, classes: Tensor, rows: Tensor, normal_class: int | None = None) -> None:
        self.images, self.classes, self.rows, self.normal_class = images, classes, rows, normal_class

    def __len__(self) -> int:
        return len(self.rows)

    def __getitems__(self, indices: list[int]) -> Batch:
        rows = self.rows[torch.as_tensor(indices, dtype=torch.long)]
        classes = self.classes[rows]
        batch: Batch = {
            "image": self.images[rows].unsqueeze(1).to(torch.float32).div_(255),  # (B, 1, H, W)
            "factors": classes.unsqueeze(1),  # (B, F)
            "index": rows,
        }
        if self.normal_class is not None:
            batch["label"] = (classes != self.normal_class).long()
        return batch


class MNIST(ImageDataModule):
    """Images of 28 x 28 pixels from ten classes: digits, or clothes with ``name="fashion_mnist"``.

    With ``normal_class`` this is the one-class set-up of the paper: training and validation see that class of the
    training files alone, the test is all test images, labelled 1 where their class is another. Without it every
    split has all classes and no ``label``. The class is the one factor, ``factors`` (B, 1), either way.

    Args:
        root: folder that holds ``MNIST/raw`` or ``FashionMNIST/raw``; ``${paths.data}`` in the configuration.
        name: ``mnist`` or ``fashion_mnist``.
        normal_class: class 0 to 9 that counts as normal, or None.
        val_fraction: share of the training images, in (0, 1), held out for validation; which ones depends on ``seed``.
        download: fetch files that are neither there as they are nor packed as ``.gz``.
        size: 28 pixels; the images are not resized. The remaining arguments are those of `ImageDataModule`.

    Raises:
        VaexError: when an argument is out of range, a file is missing and cannot be fetched, or the files do not
            fit together.

    Source: Y. LeCun, C. Cortes, C. J. C. Burges, http://yann.lecun.com/exdb/mnist/; H. Xiao, K. Rasul, R. Vollgraf,
        arXiv:1708.07747. One-class set-up: W. Liu et al., arXiv:1911.07389, and their code, liuem607/expVAE.
    Differs: the authors' code chooses its checkpoint on test images of the normal class; here validation images are
        held out of the training files.
    """

    factor_names, factor_sizes = ("class",), (10,)

    def __init__(
        self,
        root: str = "data",
        name: str = "mnist",
        normal_class: int | None = None,
        val_fraction: float = 0.1,
        download: bool = True,
        size: int = SIDE,
        batch_size: int = 64,
        eval_batch_size: int | None = None,
        num_workers: int = 0,
        pin_memory: bool = False,
        drop_last: bool = False,
        seed: int = 0,
    ) -> None:
        if name not in PUBLICATIONS:
            raise unknown("data.name", name, PUBLICATIONS)
        publication = PUBLICATIONS[name]
        if normal_class is not None and not _is_class(normal_class):
            names = (text if text == str(i) else f"{i} ({text})" for i, text in enumerate(publication.class_names))
            raise VaexError(f"data.normal_class must be null or one of {', '.join(names)}, got {normal_class!r}.")
        if type(val_fraction) is not float or not 0 < val_fraction < 1:
            raise VaexError(f"data.val_fraction must be between 0 and 1, both excluded, got {val_fraction!r}.")
        if size != SIDE:
            raise VaexError(f"data.size must be {SIDE}, for {publication.folder} is not resized, got {size!r}.")
        super().__init__((1, size, size), batch_size, eval_batch_size, num_workers, pin_memory, drop_last, seed)
        self.name, self.publication, self.class_names = name, publication, publication.class_names
        self.val_fraction, self.download = val_fraction, download
        self.normal_class = None if normal_class is None else int(normal_class)
        self.folder = Path(root) / publication.folder / "raw"
        self._files: dict[str, NDArray[Any]] = {}
        self._checksum = ""

    def prepare_data(self) -> None:
        """Fetch the files that are missing, unless ``download`` is off."""
        if not self.download:
            return
        for name, (sha256, _) in zip(FILES, self.publication.sha256, strict=True):
            if self._path(name) is None:
                urls = [f"{mirror}{name}.gz" for mirror in self.publication.mirrors]
                fetch_file(urls, self.folder / f"{name}.gz", sha256=sha256, advice=self._advice())

    def setup(self, stage: str | None = None) -> None:
        """Read and check the four files once, and split them."""
        if self._files:
            return
        files = {name: self._read(name) for name in FILES}
        train_images, train_classes = _pair(self.folder, files, "train")
        test_images, test_classes = _pair(self.folder, files, "t10k")
        if self.normal_class is None:
            rows = torch.arange(len(train_classes))
        else:
            rows = torch.nonzero(train_classes == self.normal_class).flatten()
        if len(rows) < 2:
            raise VaexError(f"{self.folder} has {len(rows)} images to train on; training and validation need one each.")
        held_out = min(max(round(len(rows) * self.val_fraction), 1), len(rows) - 1)
        rows = rows[torch.randperm(len(rows), generator=torch.Generator().manual_seed(self.seed))]
        val_rows, train_rows = rows[:held_out].sort().values, rows[held_out:].sort().values
        self.train_set = DigitImages(train_images, train_classes, train_rows, self.normal_class)
        self.val_set = DigitImages(train_images, train_classes, val_rows, self.normal_class)
        self.test_set = DigitImages(test_images, test_classes, torch.arange(len(test_classes)), self.normal_class)
        self._files = files

    @property
    def checksum(self) -> str:
        """SHA-256 over names and unpacked contents of the four files, so packing does not change it."""
        if not self._checksum:
            self.setup()
            digest = hashlib.sha256()
            for name, array in self._files.items():
                digest.update(name.encode() + idx_header(array))
                digest.update(array.data)
            self._checksum = digest.hexdigest()
        return self._checksum

    def _path(self, name: str) -> Path | None:
        """Return where a file lies, preferring the unpacked one."""
        return next((path for path in (self.folder / name, self.folder / f"{name}.gz") if path.is_file()), None)

    def _read(self, name: str) -> NDArray[Any]:
        path = self._path(name)
        if path is None:
            reason = "it was not fetched, call prepare_data() first" if self.download else "data.download is false"
            raise VaexError(f"There is no {name} in {self.folder} and {reason}: {self._advice()}.")
        array = read_idx(path)
        digest = hashlib.sha256(idx_header(array))
        digest.update(array.data)
        if digest.hexdigest() != self.publication.sha256[FILES.index(name)][1]:
            _log.warning("%s is not the published file of %s: do not compare results.", path, self.publication.folder)
        return array

    def _advice(self) -> str:
        return (
            f"put {', '.join(FILES[:-1])} and {FILES[-1]}, each as it is or packed as .gz, into {self.folder}, "
            "or use data=sprites, which needs no download"
        )


def _is_class(value: object) -> bool:
    return isinstance(value, int | np.integer) and not isinstance(value, bool) and value in range(10)


def _pair(folder: Path, files: dict[str, NDArray[Any]], part: str) -> tuple[Tensor, Tensor]:
    """Return images (N, 28, 28) uint8 and classes (N,) long of one half, checked against each other."""
    images_name, labels_name = (name for name in FILES if name.startswith(part))
    images, labels = files[images_name], files[labels_name]
    if images.dtype != np.uint8 or images.shape[1:] != (SIDE, SIDE):
        found = f"{images.dtype} of shape {images.shape}"
        raise VaexError(f"{folder / images_name} must hold {SIDE} x {SIDE} uint8 images, got {found}; {_REPLACE}.")
    if labels.dtype != np.uint8 or labels.ndim != 1 or labels.max(initial=0) > 9:
        found = f"{labels.dtype} of shape {labels.shape} up to {labels.max(initial=0)}"
        raise VaexError(f"{folder / labels_name} must hold uint8 classes from 0 to 9, got {found}; {_REPLACE}.")
    if len(images) != len(labels):
        found = f"{len(images)} images in {images_name} but {len(labels)} labels in {labels_name}"
        raise VaexError(f"{folder} has {found}; {_REPLACE}.")
    return torch.from_numpy(images), torch.from_numpy(labels).long()
