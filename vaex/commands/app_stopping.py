"""Ending what somebody waits for: a long method of the maps stops at the model's next module."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from torch.nn.modules.module import register_module_forward_pre_hook

from vaex.errors import VaexError


class StoppedError(VaexError):
    """Somebody no longer wants the result."""


class Stopping:
    """Which visitors wait, by the name of their session, and whether they still want to."""

    def __init__(self) -> None:
        self._asked: dict[str, threading.Event] = {}
        self._left: set[str] = set()

    def ask(self, session: str) -> None:
        """End what ``session`` waits for; nothing where it waits for nothing."""
        if (event := self._asked.get(session)) is not None:
            event.set()

    def leave(self, session: str) -> None:
        """End what ``session`` waits for; where it waits for nothing, what was on its way and begins only now."""
        self._left.add(session)
        self.ask(session)

    @contextmanager
    def allowed(self, session: str) -> Iterator[None]:
        """Let the body be ended by `ask`, from another thread.

        Raises:
            StoppedError: from the body, where it was asked, as soon as it calls a module of a model.
        """
        event, thread = threading.Event(), threading.get_ident()
        self._asked[session] = event
        if session in self._left:
            event.set()

        def look(module: Any, args: Any) -> None:  # noqa: ARG001 - as torch calls it
            if event.is_set() and threading.get_ident() == thread:
                raise StoppedError("Stopped. Choose another method, layer or target, or the same again.")

        handle = register_module_forward_pre_hook(look)
        try:
            yield
        finally:
            handle.remove()
            self._asked.pop(session, None)
            self._left.discard(session)
