"""``vaex app``: a page in the browser to look at one image after another, and to move its latents."""

from __future__ import annotations

import importlib
import os
import socket
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from omegaconf import DictConfig, OmegaConf

from vaex.commands.launch import checkpoint_choices, under_hydra, value_of
from vaex.commands.same_reading import cut_once
from vaex.commands.sources import at_least_one, list_option, model_shape, pick_device, white_of
from vaex.errors import VaexError

if TYPE_CHECKING:
    from vaex.commands.app_explorer import Explorer

DEFAULT_CHECKPOINT = "sprites"
LOOPBACK = ("127.0.0.1", "localhost", "::1")
WHOLE: dict[Any, Any] = {
    "roi": None,
    "min_area": 0,
    "pixel_rate": 0,
    "pixel_threshold": None,
    "pictures": "true",
}
"""What `vaex.commands.inspection` asks beside the keys of the page: all of an image, no regions."""


def run(arguments: Sequence[str]) -> None:
    """Run the command with its arguments (Hydra overrides)."""
    asks = any(argument in ("--help", "-h", "--hydra-help") for argument in arguments)
    with checkpoint_choices(None if asks else value_of(arguments, "ckpt") or DEFAULT_CHECKPOINT) as choices:
        under_hydra("app", serve, [*arguments, *choices])


def serve(config: DictConfig) -> None:
    """Show the page until Ctrl-C.

    Raises:
        VaexError: when gradio is missing, the port is taken or an option is out of range; as the checkpoint does.
        KeyboardInterrupt: when Ctrl-C ends it.
    """
    options = checked_options(config)
    if find_spec("gradio") is None:
        raise VaexError("vaex app needs gradio: pip install 'vaex-attention[app]' from this repository.")
    with listening(str(config.host), config.port) as door, tempfile.TemporaryDirectory(prefix="vaex-app-") as folder:
        page, theme = page_for(config, options, Path(folder))
        host, port = door.getsockname()[:2]
        shown = f"[{host}]" if ":" in host else host
        for sentence in cut_once(config):
            print(sentence, flush=True)
        address = f"http://{'127.0.0.1' if host in ('0.0.0.0', '::') else shown}:{port}"  # noqa: S104 - compared
        if str(config.host) not in LOOPBACK:
            print(f"Whoever reaches {host}:{port} can use this page: it has no password.", flush=True)
        print(f"Look at {address}; Ctrl-C ends it.", flush=True)
        run_server(page, theme, door, host, port)


def checked_options(config: DictConfig) -> dict[str, Any]:
    """Return the attention options, after a check of what needs no model.

    Raises:
        VaexError: for options out of range.
    """
    from vaex.commands.inspection_options import check_inspection

    at_least_one(config.max_latents, "max_latents")
    port = config.port
    if isinstance(port, bool) or not isinstance(port, int) or not 0 <= port <= 65535:
        raise VaexError(f"port must be a whole number from 1 to 65535, or 0 for one that is free, got {port}.")
    keys = ("false_alarm_rate", "threshold", "tile", "overlap")
    check_inspection(DictConfig({**WHOLE, **{key: config[key] for key in keys}}))
    options: Any = OmegaConf.to_container(config.attention, resolve=True)
    if options.get("latents") is not None:
        options["latents"] = list_option(options["latents"], "attention.latents")
    return dict(options)


@contextmanager
def listening(host: str, port: int) -> Iterator[socket.socket]:
    """Yield a socket that listens at ``host`` and ``port``, 0 for one that is free.

    Raises:
        VaexError: when the port is taken, or the host is none of this machine.
    """
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        door = socket.socket(family, kind, protocol)
    except OSError as error:
        raise VaexError(f"host={host} is not a name or address of this machine ({error.strerror}).") from error
    with door:
        door.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            door.bind(address)
            door.listen(128)
        except OSError as error:
            raise VaexError(
                f"No page at {host}:{port} ({error.strerror}): choose another with port=NUMBER, or port=0 for one "
                "that is free."
            ) from error
        yield door


def page_for(config: DictConfig, options: dict[str, Any], folder: Path) -> tuple[Any, Any]:
    """Return the page of the checkpoint, and its theme; what visitors send and get lies below ``folder``."""
    os.environ["GRADIO_TEMP_DIR"] = str(folder)
    os.environ |= {"GRADIO_ANALYTICS_ENABLED": "False", "GRADIO_RUN_HISTORY": "False", "HF_HUB_OFFLINE": "1"}
    gr: Any = importlib.import_module("gradio")
    from vaex.commands.app_choices import choices_for
    from vaex.commands.app_page import page_of
    from vaex.commands.quieting import quiet

    quiet()
    explorer = explorer_for(config, options)
    theme = gr.themes.Default(font=["system-ui", "sans-serif"], font_mono=["ui-monospace", "monospace"])  # none fetched
    theme = theme.set(block_info_text_color="*neutral_600")  # its own is too pale to read
    choices = choices_for(explorer.model, explorer.shape, options)
    return page_of(explorer, choices, "/".join(Path(str(config.ckpt)).parts[-2:]), folder), theme


def explorer_for(config: DictConfig, options: dict[str, Any]) -> Explorer:
    """Return the model of the checkpoint with what decides on its images; ``options`` are those of the maps."""
    from vaex.build import load
    from vaex.commands.app_explorer import Explorer
    from vaex.commands.inspection import inspection_of
    from vaex.scores import score_named
    from vaex.scores.thresholds import maps_that_decide

    model = load(config.ckpt)
    model.to(pick_device(config.device))
    asked: Any = OmegaConf.to_container(config, resolve=True)
    known = model.calibration or {}
    own = maps_that_decide(known, score_named(asked["score"]), options)
    inspection = inspection_of(DictConfig({**WHOLE, **asked}), known, own)
    read = (white_of(config.data), config.tile, config.overlap, None if own == options else own)
    return Explorer(model, options, inspection, model_shape(model), config.max_latents, *read)


def run_server(page: Any, theme: Any, door: socket.socket, host: str, port: int) -> None:
    """Serve the page on a socket until a signal ends it."""
    fastapi: Any = importlib.import_module("fastapi")
    gr: Any = importlib.import_module("gradio")
    uvicorn: Any = importlib.import_module("uvicorn")
    app = fastapi.FastAPI(docs_url=None, redoc_url=None, openapi_url=None)
    if host == "127.0.0.1":  # a page elsewhere cannot speak to this one under a name of its own
        trusted: Any = importlib.import_module("starlette.middleware.trustedhost")
        app.add_middleware(trusted.TrustedHostMiddleware, allowed_hosts=["127.0.0.1", "localhost"])
    page.queue(default_concurrency_limit=1, api_open=False)
    app = gr.mount_gradio_app(
        app, page, path="/", server_name=host, server_port=port, theme=theme, max_file_size="256mb", footer_links=[]
    )
    config = uvicorn.Config(app, log_level="critical", timeout_graceful_shutdown=1, ws="none")
    uvicorn.Server(config).run(sockets=[door])
