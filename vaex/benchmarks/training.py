"""`vaex bench what=train`: a FactorVAE step beside the reproductions' loop, a hand-written loop and the floor."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

import lightning.pytorch as pl
import torch
from torch import Tensor

from vaex.benchmarks.steps import FLOOR, HandWritten, Products, Reproductions
from vaex.benchmarks.table import Table
from vaex.benchmarks.timing import Contestant, Timing, interleaved, one_thread, quartiles
from vaex.errors import VaexError
from vaex.modules import FactorVAEModule
from vaex.types import Batch

VAEX, PEER, HAND = "vaex, under Lightning", "the reproductions' loop, rewritten", "hand-written, without Lightning"
FASTER, OVERHEAD = 1.2, 1.05
"""Goals: times the speed of the reproductions' loop; times the hand-written loop's time, at most."""

ATTENTION: dict[str, dict[str, Any]] = {
    "attention loss, conv4, all pairs": {"layer": "conv4", "pairs": "all"},
    "attention loss, conv1, a random pair": {"layer": "conv1", "pairs": "random"},
    "attention loss, conv1, all pairs": {"layer": "conv1", "pairs": "all"},
}
GOALS = dict(zip(ATTENTION, (1.05, 1.6, 4.2), strict=True))
"""Most that a step with the attention loss may take, as a multiple of FactorVAE's step."""


def built(attention: dict[str, Any] | None = None) -> FactorVAEModule:
    """Return FactorVAE on dSprites, as in experiment=dsprites_factor_vae; ``attention`` are options of that loss."""
    network = {"name": "factor_vae", "shape": [1, 64, 64], "latents": 10, "init": "normal"}
    term = {} if attention is None else {"weight": 1.0, **attention}
    return FactorVAEModule(network, {"name": "factor_vae", "gamma": 40.0, "attention": term})


class _Gate(pl.Callback):
    """Let one batch pass at a time: what lies between two batches belongs to the first of them."""

    def __init__(self) -> None:
        self.open, self.waiting = threading.Semaphore(0), threading.Semaphore(0)

    def on_train_batch_start(self, trainer: pl.Trainer, *_: Any) -> None:
        self.waiting.release()
        self.open.acquire()


class LightningSteps:
    """Each call is one training step of `FactorVAEModule` within one ``Trainer.fit``, with all that Lightning does.

    The trainer runs in a thread of its own, which is waited for, so that the steps of others can come in between.
    """

    def __init__(self, module: FactorVAEModule, images: Tensor, folder: Path) -> None:
        self.gate, self.error = _Gate(), None
        self.trainer = pl.Trainer(
            accelerator="cpu",
            max_epochs=-1,
            logger=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            callbacks=[self.gate],
            default_root_dir=folder,
        )
        self._thread = threading.Thread(target=self._fit, args=(module, images), daemon=True)
        self._thread.start()
        self._wait()

    error: BaseException | None

    def _fit(self, module: FactorVAEModule, images: Tensor) -> None:
        try:
            torch.set_num_threads(1)  # of this thread
            self.trainer.fit(module, train_dataloaders=_Endless(Batch(image=images)))
        except BaseException as error:  # noqa: BLE001 - told to the thread that waits
            self.error = error
        finally:
            self.gate.waiting.release()

    def _wait(self) -> None:
        self.gate.waiting.acquire()
        if self.error is not None:
            raise VaexError(f"The training that is measured failed: {self.error}") from self.error

    def __call__(self) -> None:
        """Train by one batch."""
        self.gate.open.release()
        self._wait()

    def close(self) -> None:
        """End the training."""
        self.trainer.should_stop = True
        while self._thread.is_alive():
            self.gate.open.release()
            self._thread.join(0.2)


class _Endless:
    """The same batch for ever."""

    def __init__(self, batch: Batch) -> None:
        self.batch = batch

    def __iter__(self) -> Iterator[Batch]:
        while True:
            yield self.batch


class Result(NamedTuple):
    """Timings of FactorVAE's step by contestant, the floor first, and of the attention loss over vaex's step."""

    steps: dict[str, Timing]
    attention: dict[str, Timing]
    batch: int


def run_training(batch: int, rounds: int) -> Result:
    """Measure CPU time in one thread, interleaved, of a step with ``batch`` images for the VAE and as many permuted.

    Raises:
        VaexError: for fewer than two images, or fewer than one round.
    """
    if batch < 2:
        raise VaexError(f"what=train needs a batch_size of at least 2, got {batch}.")
    images = (torch.rand(2 * batch, 1, 64, 64, generator=torch.Generator().manual_seed(0)) > 0.9).float()
    running: list[LightningSteps] = []

    def lightning(attention: dict[str, Any] | None = None) -> Callable[[], None]:
        running.append(LightningSteps(built(attention), images, Path(folder)))
        return running[-1]

    with one_thread(), TemporaryDirectory() as folder:
        try:
            plain = Contestant(VAEX, lightning())
            steps = [
                Contestant(FLOOR, Products(built(), images)),
                Contestant(PEER, Reproductions(built(), images)),
                Contestant(HAND, HandWritten(built(), images)),
                plain,
            ]
            found = interleaved(steps, rounds, time.process_time)
            terms = [plain, *(Contestant(name, lightning(options)) for name, options in ATTENTION.items())]
            return Result(found, interleaved(terms, rounds, time.process_time), batch)
        finally:
            for one in running:
                one.close()


def _ratios(timings: dict[str, Timing], over: str, under: str) -> list[float]:
    return [a / b for a, b in zip(timings[over].seconds, timings[under].seconds, strict=True)]


def _line(name: str, seconds: Sequence[float], ratios: Sequence[float], goal: str) -> tuple[str, ...]:
    spread = quartiles(ratios)
    return (
        name,
        f"{1e3 * quartiles(seconds).median:.1f}",
        f"{spread.median:.2f}",
        f"{spread.low:.2f}-{spread.high:.2f}",
        goal,
    )


def training_tables(result: Result) -> list[Table]:
    """Return steps as multiples of the floor, and steps with the attention loss as multiples of a plain one."""
    steps = result.steps
    columns = ("", "ms", "x first", "quartiles", "goal")
    faster, beyond = (quartiles(_ratios(steps, *pair)) for pair in ((PEER, VAEX), (VAEX, HAND)))
    notes = (
        f"Batch {result.batch} for the VAE and as many images whose codes are permuted, in fp32; CPU time of one "
        "thread, in turn. The floor is the matrix products of a step alone.",
        f"vaex is {faster.median:.2f} ({faster.low:.2f}-{faster.high:.2f}) times as fast as the reproductions' loop, "
        f"goal >= {FASTER:g}: {'met' if faster.median >= FASTER else 'MISSED'}.",
        f"vaex takes {beyond.median:.2f} ({beyond.low:.2f}-{beyond.high:.2f}) times as long as the hand-written loop, "
        f"goal <= {OVERHEAD:g}: {'met' if beyond.median <= OVERHEAD else 'MISSED'}.",
    )
    rows = tuple(_line(name, timing.seconds, timing.ratios, "-") for name, timing in steps.items())

    def told(name: str, timing: Timing) -> str:
        if name not in GOALS:
            return "-"
        return f"<= {GOALS[name]:g} {'met' if quartiles(timing.ratios).median <= GOALS[name] else 'MISSED'}"

    terms = tuple(_line(name, one.seconds, one.ratios, told(name, one)) for name, one in result.attention.items())
    return [
        Table("A FactorVAE step", columns, rows, notes),
        Table("The attention loss over FactorVAE's step", columns, terms, ("Second-order gradients, fp32.",)),
    ]


def training_content(result: Result) -> dict[str, Any]:
    """Return the result as plain values for JSON; seconds per step, and ratios to the first of each group."""

    def rows(timings: dict[str, Timing]) -> dict[str, Any]:
        return {
            name: {"seconds": quartiles(one.seconds)._asdict(), "ratio": quartiles(one.ratios)._asdict()}
            for name, one in timings.items()
        }

    faster, beyond = (quartiles(_ratios(result.steps, *pair)) for pair in ((PEER, VAEX), (VAEX, HAND)))
    return {
        "batch": result.batch,
        "steps": rows(result.steps),
        "attention": rows(result.attention),
        "times_faster_than_reproductions": faster._asdict(),
        "times_hand_written": beyond._asdict(),
    }
