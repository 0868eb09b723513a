"""Exporting a trained model to a file of ONNX or torch.export, checked against the model itself."""

from __future__ import annotations

import copy
import importlib
import io
import json
import logging
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from vaex import __version__
from vaex.attention.isolation import original, undisturbed
from vaex.errors import VaexError, unknown
from vaex.exporting.inputs import code_shape, example_input
from vaex.exporting.parts import Plan, Request, eager_outputs, graph_outputs, planned
from vaex.exporting.tracing import traced_program
from vaex.networks import VAE
from vaex.runs import write_atomic
from vaex.scores import score_named

FORMATS = ("onnx", "pt2")
METADATA = "vaex.json"
"""Name of the metadata inside a .pt2 file; an .onnx file holds them as metadata properties."""

TOLERANCE = 1e-3
"""Largest difference from the model that is taken for rounding, as a share of the largest value of the output."""


class Exported(NamedTuple):
    """The file written, its batch size (None for any) and its metadata.

    ``difference`` is the largest one between file and model on random input: absolute up to values of 1, relative
    above.
    """

    path: Path
    batch: int | None
    difference: float
    metadata: dict[str, str]


def export_model(
    model: VAE,
    path: str | Path,
    request: Request,
    file_format: str = "onnx",
    batch_size: int | None = None,
    metadata: Mapping[str, str] | None = None,
) -> Exported:
    """Write what ``request`` asks of ``model`` to one file and compare the file with the model.

    The file holds weights, preprocessing, threshold and, of maps, the gradient itself, so that neither autograd nor
    vaex is needed; the model stays as it is. The batch size is open, unless ``batch_size`` fixes it or the graph does
    not allow that: then it is 1 and said in the metadata. ``metadata`` are further entries.

    Raises:
        VaexError: for an unknown format, missing packages, an operation that cannot be exported, or a file that would
            not give what the model gives; as `vaex.explain` for options that the model cannot serve.
    """
    if file_format not in FORMATS:
        raise unknown("format of an export", str(file_format), FORMATS)
    if batch_size is not None and (isinstance(batch_size, bool) or not isinstance(batch_size, int) or batch_size < 1):
        raise VaexError(f"batch_size must be null or a whole number of at least 1, got {batch_size!r}.")
    if file_format == "onnx":
        need_packages("onnx", "onnxscript")
    frozen: VAE = copy.deepcopy(original(model))  # type: ignore[assignment]
    frozen.to("cpu", torch.float32).eval().requires_grad_(False)
    plan = planned(frozen, request)
    program, batch = _program(frozen, request, plan, batch_size)
    layer = {} if plan is None else {"layer": plan.layer}
    if request.what == "decoder" and len(code_shape(frozen)) > 1:
        layer = {"input": "float32 (B, D, h, w)"}
    entries = {**described(request), **layer, **(metadata or {}), "batch_size": "any" if batch is None else str(batch)}
    inputs = [example_input(frozen, request, count, seed=1) for count in ([1, 3] if batch is None else [batch])]
    expected = [eager_outputs(frozen, request, images) for images in inputs]
    if file_format == "onnx":
        content, found = _onnx(program, request, inputs, entries)
    else:
        buffer = io.BytesIO()
        with _quiet():
            torch.export.save(program, buffer, extra_files={METADATA: json.dumps(entries)})
        content, found = buffer.getvalue(), [list(program.module()(images).values()) for images in inputs]
    difference = max(map(_difference, expected, found), default=0.0)
    if not difference <= TOLERANCE:
        raise VaexError(
            f"The exported {request.what} would differ from the model by {difference:.1e}, so nothing was written; "
            "choose other attention options, or another what."
        )
    target = Path(path).expanduser()
    write_atomic(target, content)
    return Exported(target, batch, difference, entries)


def described(request: Request) -> dict[str, str]:
    """Return what an export says of itself: version, input, outputs, and of maps the method, target and unit."""
    scale = "uint8 (B, H, W, C), 0 to 255" if request.pixels == "uint8" else "float32 (B, C, H, W), 0 to 1"
    told = {
        "vaex_version": __version__,
        "what": request.what,
        "input": "float32 (B, D)" if request.what == "decoder" else scale,
        "outputs": ", ".join(request.outputs),
    }
    if request.has_maps:
        options = {"method": "grad_cam", "target": "mean", "rectify": "relu", **request.options}
        told |= {key: str(options[key]) for key in ("method", "target", "rectify")}
        told["units"] = "units of the target: nats of kl, total_kl and neg_elbo, else of the code; >= 0 when rectified"
    if request.what == "score":
        told |= {"score": score_named(request.score).known_as, "threshold": str(request.threshold)}
        told |= {} if request.scene is None else {"scene_threshold": str(request.scene)}
    return told


def need_packages(*names: str) -> None:
    """Check that packages of the extra ``export`` are there.

    Raises:
        VaexError: when one is missing, with what to install.
    """
    missing = [name for name in names if find_spec(name) is None]
    if missing:
        raise VaexError(
            f"format=onnx needs {' and '.join(missing)}: install vaex with its extra 'export' "
            "(pip install '.[export]' in its folder), or choose format=pt2."
        )


def _program(model: VAE, request: Request, plan: Plan | None, batch_size: int | None) -> tuple[Any, int | None]:
    """Return the exported program and its batch size, None for any."""
    sides = {*(model.shape or ()), *(request.image_size or ()), *code_shape(model)}
    apart = next(count for count in range(3, 99) if count not in sides)  # torch takes equal sides for one and the same
    failed: Exception | None = None
    for count, dynamic in [(apart, True), (1, False)] if batch_size is None else [(batch_size, False)]:
        example = example_input(model, request, count)
        try:
            with _quiet(), undisturbed(model, example):
                program = traced_program(
                    lambda images: graph_outputs(model, request, plan, images),
                    example,
                    request.entry,
                    request.outputs,
                    dynamic,
                )
        except VaexError:
            raise
        except Exception as error:  # noqa: BLE001 - torch raises nearly anything for what it cannot trace
            failed = error
            continue
        return program, None if dynamic else count
    raise VaexError(_not_exported(request, failed)) from failed


def _not_exported(request: Request, error: BaseException | None, otherwise: str = "") -> str:
    reason = next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)
    return (
        f"what={request.what} cannot be exported with these options ({reason[:200]}); "
        f"choose other attention options, another score{otherwise or ', or another what'}."
    )


@contextmanager
def _quiet() -> Iterator[None]:
    # torch reports absent packages that nothing here needs, and its own use of what it will drop
    logger = logging.getLogger("torch.onnx")
    before = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)
            warnings.simplefilter("ignore", DeprecationWarning)
            warnings.filterwarnings("ignore", "No complete tensor found")  # of transposed constants, which are whole
            yield
    finally:
        logger.setLevel(before)


def _onnx(
    program: Any, request: Request, inputs: Sequence[Tensor], entries: Mapping[str, str]
) -> tuple[bytes, list[list[Tensor]]]:
    """Return the ONNX file, and what it gives for ``inputs`` where onnxruntime is installed."""
    try:
        with _quiet():
            converted: Any = torch.onnx.export(
                program,
                (),
                input_names=[request.entry],
                dynamo=True,
                verbose=False,
            )
    except Exception as error:  # torch.onnx raises nearly anything for what it cannot convert
        raise VaexError(_not_exported(request, error.__cause__ or error, ", or format=pt2")) from error
    # An operation may have given its value the name of an output, such as mean
    for position, node in enumerate(converted.model.graph):
        for value in node.outputs:
            value.name = f"{node.op_type}_{position}_{value.index()}"
    for value, name in zip(converted.model.graph.outputs, request.outputs, strict=True):
        value.name = name
    converted.model.metadata_props.update(entries)
    content: bytes = converted.model_proto.SerializeToString()
    if find_spec("onnxruntime") is None:  # compared is then the program that the file was made of
        return content, [list(program.module()(images).values()) for images in inputs]
    runtime = importlib.import_module("onnxruntime")
    settings = runtime.SessionOptions()
    settings.log_severity_level = 3
    session = runtime.InferenceSession(content, settings, providers=["CPUExecutionProvider"])
    run = [session.run(list(request.outputs), {request.entry: images.numpy()}) for images in inputs]
    return content, [[torch.from_numpy(output) for output in outputs] for outputs in run]


def _difference(expected: Sequence[Tensor], found: Sequence[Tensor]) -> float:
    """Return the largest difference of two lists of tensors; true or false is left out, rounding may turn it."""
    worst = 0.0
    for ours, theirs in zip(expected, found, strict=True):
        if ours.shape != theirs.shape:
            return float("inf")
        if ours.dtype != torch.bool and ours.numel():
            scale = max(1.0, float(ours.abs().max()))
            worst = max(worst, float((ours.double() - theirs.double()).abs().max()) / scale)
    return worst
