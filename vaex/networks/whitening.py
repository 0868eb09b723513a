"""Whitening of features by what normal images have: of channels over all positions, and at each position."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor, nn

from vaex.errors import VaexError
from vaex.networks.eigen import eigh

RIDGE = 0.01
"""Added to the eigenvalues of the correlation matrix: directions that normal images hardly use are not blown up."""

POSITIONS = 64
"""Positions whose covariances are taken apart together; 256 channels take 17 MB of them."""


class Whitening(nn.Module):
    """f = W^T (x - mean) / std over K channels, W = V / sqrt(w + `RIDGE`) of the correlation matrix V w V^T.

    Without ``whiten`` the channels are standardised alone. Before `fit` it passes features on as they are.
    """

    def __init__(self, channels: int, whiten: bool = True) -> None:
        super().__init__()
        self.whiten = whiten
        self.register_buffer("mean", torch.zeros(channels))
        self.register_buffer("matrix", torch.eye(channels))  # (K of the result, K)
        self.register_buffer("fitted", torch.zeros((), dtype=torch.bool))

    @property
    def ready(self) -> bool:
        """Whether `fit` has run."""
        return bool(self.get_buffer("fitted"))

    def forward(self, features: Tensor) -> Tensor:
        """Return the whitened features of (B, K, h, w), in the precision of the matrix."""
        mean, matrix = self.get_buffer("mean"), self.get_buffer("matrix")
        with torch.autocast(features.device.type, enabled=False):
            centred = features.to(matrix.dtype) - mean[:, None, None]  # before the product: less to cancel in it
            whitened: Tensor = torch.matmul(matrix, centred.flatten(2)).unflatten(2, features.shape[2:])
            return whitened

    @torch.no_grad()
    def fit(self, batches: Iterable[Tensor]) -> Tensor:
        """Take the moments of raw features (B, K, h, w), batch by batch in float64; return their mean (K, h, w).

        Raises:
            VaexError: for fewer than two images, or features that are not finite.
        """
        mean, matrix = self.get_buffer("mean"), self.get_buffer("matrix")
        shift, total, products = (torch.zeros(0, dtype=torch.float64, device=mean.device) for _ in range(3))
        count = 0
        for batch in batches:
            values = batch.detach().to(total)
            if count == 0:
                shift = values.mean((0, 2, 3))  # sums of what differs from it cancel less
                total, products = torch.zeros_like(values[0]), total.new_zeros(len(shift), len(shift))
            values = values - shift[:, None, None]
            total += values.sum(0)
            rows = values.transpose(0, 1).flatten(1)  # (K, B h w)
            products += rows @ rows.T
            count += len(values)
        if count < 2:
            raise VaexError(f"Whitening needs the features of at least 2 normal images, got {count}.")
        if not bool(torch.isfinite(products).all()):
            raise VaexError("Whitening met features that are not finite; check the training images for NaN.")
        cells = count * total[0].numel()
        offset = total.sum((1, 2)) / cells
        covariance = products / cells - torch.outer(offset, offset)
        std = covariance.diagonal().clamp(min=0).sqrt()
        # A channel that is constant up to rounding keeps its unit
        std = torch.where(std > 1e-6 * shift.abs().clamp(min=1e-6), std, 1.0)
        whitening = torch.diag(1 / std)
        if self.whiten:
            values, vectors = torch.linalg.eigh(covariance / torch.outer(std, std))
            whitening = (vectors / (values.clamp(min=0) + RIDGE).sqrt()).T / std
        mean.copy_(shift + offset)
        matrix.copy_(whitening)
        self.get_buffer("fitted").fill_(True)
        return total / count + shift[:, None, None]


class PositionWhitening(nn.Module):
    """e = (S + ``shrink`` I)^-1/2 (f - m) with mean m and covariance S of normal features at each position.

    |e|^2 is the Mahalanobis distance there. Of S the ``rank`` strongest directions are kept, the others share their
    mean variance: 4 h w K rank bytes. Before `fit` it passes features on as they are.

    Source: Tipping & Bishop, "Probabilistic Principal Component Analysis", 1999, Eq. 7 and 8, for the low rank.
    """

    def __init__(self, channels: int, grid: int, rank: int = 48, shrink: float = 1.0) -> None:
        super().__init__()
        if not 1 <= rank <= channels or not shrink > 0:
            raise VaexError(
                f"network.rank must be from 1 to {channels} and network.shrink positive, got {rank} and {shrink}."
            )
        self.rank, self.shrink = rank, shrink
        self.register_buffer("mean", torch.zeros(channels, grid, grid))
        self.register_buffer("basis", torch.zeros(grid * grid, channels, rank))
        self.register_buffer("cut", torch.zeros(grid * grid, rank))  # what is taken off along the basis, in [0, 1)
        self.register_buffer("scale", torch.ones(grid * grid))
        self.register_buffer("fitted", torch.zeros((), dtype=torch.bool))

    @property
    def ready(self) -> bool:
        """Whether `fit` has run."""
        return bool(self.get_buffer("fitted"))

    def forward(self, features: Tensor) -> Tensor:
        """Return e of features (B, K, h, w), in the precision of the basis."""
        mean, basis = self.get_buffer("mean"), self.get_buffer("basis")
        with torch.autocast(features.device.type, enabled=False):
            centred = (features.to(mean.dtype) - mean).flatten(2).permute(2, 0, 1).contiguous()  # (h w, B, K)
            along = torch.bmm(centred, basis) * self.get_buffer("cut")[:, None]  # (h w, B, r)
            scaled = (centred - torch.bmm(along, basis.transpose(1, 2))) * self.get_buffer("scale")[:, None, None]
            whitened: Tensor = scaled.permute(1, 2, 0).unflatten(2, features.shape[2:])
            return whitened

    @torch.no_grad()
    def fit(self, features: Tensor) -> None:
        """Take mean and covariance (N - 1) at each position of features (N, K, h, w), of any floating type.

        Raises:
            VaexError: for fewer than two images.
        """
        if len(features) < 2:
            raise VaexError(f"Whitening needs the features of at least 2 normal images, got {len(features)}.")
        mean, basis = self.get_buffer("mean"), self.get_buffer("basis")
        flat = features.flatten(2)
        for start in range(0, flat.shape[2], POSITIONS):
            part = slice(start, start + POSITIONS)
            values = flat[:, :, part].permute(2, 0, 1).to(mean)  # (P, N, K)
            centre = values.mean(1)
            values = values - centre[:, None]
            spread, vectors = _directions(values)
            kept, left = spread[:, -self.rank :], spread[:, : -self.rank]
            rest = left.mean(1) if left.shape[1] else torch.zeros_like(spread[:, 0])
            mean.flatten(1)[:, part] = centre.T
            basis[part] = vectors[:, :, -self.rank :]
            self.get_buffer("cut")[part] = 1 - ((rest + self.shrink)[:, None] / (kept + self.shrink)).sqrt()
            self.get_buffer("scale")[part] = (rest + self.shrink).rsqrt()
        self.get_buffer("fitted").fill_(True)


def _directions(values: Tensor) -> tuple[Tensor, Tensor]:
    """Return variances (P, K), rising, and their directions (P, K, K) of centred ``values`` (P, N, K)."""
    count, channels = values.shape[1:]
    if count >= channels:
        spread, vectors = eigh(values.transpose(1, 2) @ values / (count - 1))
        return spread.clamp(min=0), vectors
    # Of fewer images than channels: from the products of the images, many times faster; other variances are 0
    spread, mixing = eigh(values @ values.transpose(1, 2) / (count - 1))  # (P, N)
    spread = spread.clamp(min=0)
    length = (spread * (count - 1)).clamp(min=1e-12).sqrt()
    vectors = values.transpose(1, 2) @ mixing / length[:, None]  # (P, K, N)
    missing = channels - count
    return torch.nn.functional.pad(spread, (missing, 0)), torch.nn.functional.pad(vectors, (missing, 0))
