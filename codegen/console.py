"""Terminals that know ASCII only, readers that stop reading, people who stop waiting."""

from __future__ import annotations

import codecs
import contextlib
import io
import os
import sys
from multiprocessing import active_children
from typing import NoReturn

_PLAIN = {
    "→": "->",
    "…": "...",
    "×": "x",
    "√": "sqrt",
    "·": ".",
    "≤": "<=",
    "–": "-",
    "—": "-",
    "“": '"',
    "”": '"',
    "’": "'",
}


def spell_out() -> None:
    """From now on, what a terminal has no letter for is written with those it has."""
    codecs.register_error("codegen.plain", _plain)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="codegen.plain")


def _plain(error: UnicodeError) -> tuple[str | bytes, int]:
    assert isinstance(error, UnicodeEncodeError)
    unknown = error.object[error.start : error.end]
    return "".join(_PLAIN.get(c) or ascii(c)[1:-1] for c in unknown), error.end


def give_up() -> int:
    """The reader has gone: nothing more is written, nor complained about at the end."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return 128 + 13  # as a program that SIGPIPE ends


INTERRUPTED = 130
_stopped: list[BaseException] = []


def interrupted(error: KeyboardInterrupt) -> int:
    """Say so. What was being worked on is held: to free it may take seconds."""
    _stopped.append(error)
    print("interrupted: what was being made was not written", file=sys.stderr)
    return INTERRUPTED


def leave(status: int) -> NoReturn:
    """End the process; at once, and its own processes with it, if it was interrupted."""
    if status != INTERRUPTED:
        sys.exit(status)
    for process in active_children():
        process.terminate()
    with contextlib.suppress(OSError):  # whoever read it may have been stopped, too
        sys.stdout.flush()
    os._exit(status)
