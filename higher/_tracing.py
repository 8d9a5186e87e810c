"""Whether a step is being traced for the compiler: then no tensor can be read."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager


class _State(threading.local):
    depth = 0


_state = _State()


def is_tracing() -> bool:
    return _state.depth > 0


@contextmanager
def tracing() -> Iterator[None]:
    _state.depth += 1
    try:
        yield
    finally:
        _state.depth -= 1
