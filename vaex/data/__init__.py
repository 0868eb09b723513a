"""LightningDataModules that yield `vaex.types.Batch`."""

from typing import TYPE_CHECKING

from vaex.lazy import lazy_exports

if TYPE_CHECKING:
    from vaex.data.mnist import MNIST
    from vaex.data.module import ImageDataModule
    from vaex.data.sprites import Sprites

__all__ = ["MNIST", "ImageDataModule", "Sprites"]

__getattr__, __dir__ = lazy_exports(
    __name__, {"MNIST": "vaex.data.mnist", "ImageDataModule": "vaex.data.module", "Sprites": "vaex.data.sprites"}
)
