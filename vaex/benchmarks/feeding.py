"""Batches of dSprites out of packed bits, beside the loaders of others, which keep all pixels and take them one by one.

The peers are rewritten from what their code does: an item is one image (or two), a DataLoader stacks the items.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from vaex.benchmarks.table import Table
from vaex.benchmarks.timing import Contestant, Timing, interleaved, one_thread, quartiles
from vaex.data import DSprites
from vaex.errors import VaexError

FASTEST = 250_000
"""Goal: images per second of one thread's CPU time."""
SOONEST, LEAST = 2.0, 0.6
"""Goals: seconds until the first batch, and GB of memory after all images were seen."""

VAEX = "vaex: bits, a batch at once"
PLAIN = "each image from uint8"
TRANSFORMED = "each image from uint8, to float by a transform (disentangling-vae)"
PAIRED = "two images an item from a float tensor (reproductions of FactorVAE)"
FLOATS = 65_536
"""Images of the float tensor: 1.07 GB instead of the 12.1 GB that all take, which is to the peer's advantage."""


class Start(NamedTuple):
    """How vaex begins: seconds to the first batch, and bytes by which memory has grown once all images were seen."""

    seconds: float
    memory: int | None


class Result(NamedTuple):
    """Timings by contestant, bytes that each keeps, seconds until it can begin, and how vaex begins."""

    timings: Mapping[str, Timing]
    kept: Mapping[str, int]
    ready: Mapping[str, float | None]
    start: Start
    images: int
    batch: int


class PlainItems(Dataset[Tensor]):
    """One image (1, H, W) float32 per item."""

    def __init__(self, images: NDArray[np.uint8]) -> None:
        self.images = images

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> Tensor:
        return torch.from_numpy(self.images[index]).unsqueeze(0).float()


class TransformedItems(Dataset[tuple[Tensor, int]]):
    """One image per item, scaled to 0..255, given a channel, and taken apart again by a transform to [0, 1]."""

    def __init__(self, images: NDArray[np.uint8]) -> None:
        self.images = images

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        picture = np.expand_dims(self.images[index] * 255, axis=2)  # (H, W, 1)
        return torch.from_numpy(picture.transpose(2, 0, 1)).contiguous().to(torch.float32).div(255), 0


class PairedItems(Dataset[tuple[Tensor, Tensor]]):
    """The image of the index and a random one per item, from a float tensor (N, 1, H, W)."""

    def __init__(self, images: Tensor) -> None:
        self.images = images

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        return self.images[index], self.images[int(np.random.randint(len(self.images)))]  # noqa: NPY002 - as peers do


def resident_bytes() -> int | None:
    """Return the memory of this process that is in use, mapped files included; None where the system does not say."""
    status = Path("/proc/self/status")
    lines = status.read_text().splitlines() if status.is_file() else []
    return next((1024 * int(line.split()[1]) for line in lines if line.startswith("VmRSS:")), None)


def begin(options: Mapping[str, Any]) -> tuple[DSprites, Start]:
    """Build dSprites from its packed bits, take a batch, then see every image once."""
    before, clock = resident_bytes(), time.perf_counter()
    data = DSprites(**options)
    data.setup()
    next(iter(data.train_dataloader()))
    seconds = time.perf_counter() - clock
    for _ in data.train_dataloader():
        pass
    after = resident_bytes()
    return data, Start(seconds, None if before is None or after is None else after - before)


def all_pixels(data: DSprites) -> tuple[NDArray[np.uint8], float | None]:
    """Return all images (N, H, W) uint8 as peers hold them, and the seconds that reading them from the file took."""
    if data.file is not None:
        clock = time.perf_counter()
        with np.load(data.file) as file:
            images: NDArray[np.uint8] = file["imgs"]
        return images, time.perf_counter() - clock
    images = np.empty((len(data.grid_set), *data.shape[1:]), np.uint8)
    for start in range(0, len(images), 8192):
        part = slice(start, start + 8192)
        images[part] = data.grid_set.draw(data.grid_set.positions[part])
    return images, None


def _endless(loader: Any) -> Iterator[Any]:
    while True:
        yield from loader


def _puller(loader: Any, batches: int) -> Callable[[], None]:
    stream = _endless(loader)

    def pull() -> None:
        for _ in range(batches):
            next(stream)

    return pull


def run_feeding(options: Mapping[str, Any], rounds: int, batches: int = 100) -> Result:
    """Measure CPU time of one thread per image, all loaders in turn, shuffled, without workers.

    ``options`` are those of `DSprites`; a sample is ``batches`` batches.

    Raises:
        VaexError: when there is not enough memory for what peers hold.
    """
    packer = DSprites(**options)
    packer.prepare_data()
    with one_thread():
        data, start = begin(options)
        try:
            images, seconds = all_pixels(data)
            clock = time.perf_counter()
            floats = torch.from_numpy(images[:FLOATS]).unsqueeze(1).float()
        except MemoryError as error:
            raise VaexError("what=data holds 4.1 GB of images as peers do, for which memory is short.") from error
        converted = (time.perf_counter() - clock) * len(images) / len(floats)
        loading: dict[str, Any] = {"batch_size": data.batch_size, "shuffle": True}
        loaders: dict[str, Any] = {
            VAEX: data.train_dataloader(),
            PLAIN: DataLoader(PlainItems(images), **loading),
            TRANSFORMED: DataLoader(TransformedItems(images), **loading),
            PAIRED: DataLoader(PairedItems(floats), **{**loading, "batch_size": -(-data.batch_size // 2)}),
        }
        contestants = [Contestant(name, _puller(loader, batches)) for name, loader in loaders.items()]
        timings = interleaved(contestants, rounds, time.process_time)
    per_image = {
        name: Timing(tuple(value / (batches * data.batch_size) for value in timing.seconds), timing.ratios)
        for name, timing in timings.items()
    }
    uint8, bits = images.nbytes, len(images) * data.row[0]
    kept = {VAEX: bits, PLAIN: uint8, TRANSFORMED: uint8, PAIRED: 4 * uint8}
    ready = {VAEX: start.seconds, PLAIN: seconds, TRANSFORMED: seconds, PAIRED: seconds and seconds + converted}
    return Result(per_image, kept, ready, start, len(images), data.batch_size)


def _judged(met: bool, goal: str) -> str:
    return f"{goal} {'met' if met else 'MISSED'}"


def feeding_table(result: Result) -> Table:
    """Return images per second, how many times slower than vaex, memory and start of each loader, and goals."""
    rows = []
    for name, timing in result.timings.items():
        rate = quartiles([1 / seconds for seconds in timing.seconds])
        ready, ratio = result.ready[name], quartiles(timing.ratios).median
        rows.append(
            (
                name,
                f"{rate.median:,.0f}",
                f"{rate.low:,.0f}-{rate.high:,.0f}",
                f"{ratio:.2f}",
                f"{result.kept[name] / 1e9:.2f}",
                "-" if ready is None else f"{ready:.2f}",
                _judged(rate.median >= FASTEST, f">= {FASTEST:,}") if name == VAEX else "-",
            )
        )
    start = result.start
    soon = _judged(start.seconds <= SOONEST, f"<= {SOONEST:g} s")
    notes = [
        f"{result.images:,} images of 64x64 in shuffled batches of {result.batch}, float32; CPU time of one thread, "
        "no workers, taken in turn.",
        f"vaex's first batch came after {start.seconds:.2f} s ({soon}), the bits having been packed before; the others "
        "read the whole original file ('-': there is none here).",
    ]
    if start.memory is not None:
        judged = _judged(start.memory / 1e9 <= LEAST, f"<= {LEAST:g} GB")
        notes.append(f"Once all images were seen, vaex's memory had grown by {start.memory / 1e9:.2f} GB ({judged}).")
    notes.append(f"The float tensor held {min(FLOATS, result.images):,} images here; its memory and start are for all.")
    header = ("loader", "images/s", "quartiles", "times slower", "GB kept", "ready, s", "goal")
    return Table("Feeding dSprites", header, tuple(rows), tuple(notes))


def feeding_content(result: Result) -> dict[str, Any]:
    """Return the result as plain values for JSON: seconds per image, ratios to vaex, bytes, seconds to the start."""
    rows = {
        name: {
            "seconds_per_image": quartiles(timing.seconds)._asdict(),
            "ratio": quartiles(timing.ratios)._asdict(),
            "bytes_kept": result.kept[name],
            "ready_seconds": result.ready[name],
        }
        for name, timing in result.timings.items()
    }
    goals = {"images_per_second": FASTEST, "ready_seconds": SOONEST, "memory_gb": LEAST}
    start = result.start._asdict()
    return {"images": result.images, "batch": result.batch, "start": start, "goals": goals, "contestants": rows}
