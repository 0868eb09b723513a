"""LightningDataModules that yield `vaex.types.Batch`."""

from vaex.data.mnist import MNIST
from vaex.data.module import ImageDataModule
from vaex.data.sprites import Sprites

__all__ = ["MNIST", "ImageDataModule", "Sprites"]
