"""A memory of frozen features: what never changes is computed once for each image."""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from collections.abc import Callable

import torch
from torch import Tensor


class FeatureMemory:
    """Features by the content of the image, in at most ``most`` bytes; the image not asked for longest goes first.

    Training, validation after validation, calibration and test ask for the same images again and again, and the
    backbone is what takes the time.
    """

    def __init__(self, most: int = 1 << 30) -> None:
        self.most, self.bytes = most, 0
        self.known: OrderedDict[bytes, Tensor] = OrderedDict()

    def __call__(self, images: Tensor, compute: Callable[[Tensor], Tensor]) -> Tensor:
        """Return the features of ``images`` (B, C, H, W); ``compute`` gives those of the ones not known."""
        if images.requires_grad or torch.compiler.is_compiling() or type(images) is not Tensor:
            return compute(images)
        keys = [self._key(image) for image in images]
        missing = [row for row, key in enumerate(keys) if key not in self.known]
        if len(missing) == len(keys):
            found = compute(images)
            for key, features in zip(keys, found, strict=True):
                self._keep(key, features)
            return found
        rows = {key: self.known[key] for key in keys if key in self.known}
        if missing:
            fresh = compute(images[missing])
            for row, features in zip(missing, fresh, strict=True):
                rows[keys[row]] = features
                self._keep(keys[row], features)
        for key in keys:
            if key in self.known:
                self.known.move_to_end(key)
        return torch.stack([rows[key].to(images.device) for key in keys])

    def __deepcopy__(self, memo: dict[int, object]) -> FeatureMemory:
        """Return itself: a copy of the model asks the same frozen network."""
        return self

    @staticmethod
    def _key(image: Tensor) -> bytes:
        pixels = image.detach().cpu().contiguous()
        return hashlib.blake2b(str((pixels.dtype, pixels.shape)).encode() + pixels.numpy().tobytes()).digest()

    def _keep(self, key: bytes, features: Tensor) -> None:
        if features.requires_grad or key in self.known:
            return
        with torch.inference_mode(False):  # what is kept may meet a gradient later
            kept = features.detach().clone()
        self.known[key] = kept
        self.bytes += kept.numel() * kept.element_size()
        while self.bytes > self.most:
            _, dropped = self.known.popitem(last=False)
            self.bytes -= dropped.numel() * dropped.element_size()
