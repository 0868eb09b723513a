"""LightningDataModules that yield `vaex.types.Batch`."""

from typing import TYPE_CHECKING

from vaex.lazy import lazy_exports

if TYPE_CHECKING:
    from vaex.data.defects import Defects
    from vaex.data.dsprites import DSprites
    from vaex.data.folder import Folder
    from vaex.data.mnist import MNIST
    from vaex.data.module import ImageDataModule
    from vaex.data.mvtec import MVTec
    from vaex.data.ped1 import Ped1
    from vaex.data.sprites import Sprites

__all__ = ["MNIST", "DSprites", "Defects", "Folder", "ImageDataModule", "MVTec", "Ped1", "Sprites"]

__getattr__, __dir__ = lazy_exports(
    __name__,
    {
        "DSprites": "vaex.data.dsprites",
        "Defects": "vaex.data.defects",
        "Folder": "vaex.data.folder",
        "ImageDataModule": "vaex.data.module",
        "MNIST": "vaex.data.mnist",
        "MVTec": "vaex.data.mvtec",
        "Ped1": "vaex.data.ped1",
        "Sprites": "vaex.data.sprites",
    },
)
