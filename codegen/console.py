"""Terminals that know ASCII only, and readers that stop reading."""

from __future__ import annotations

import codecs
import io
import os
import sys

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
