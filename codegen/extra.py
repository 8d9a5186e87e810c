"""What translating needs beside torch: the distribution's extra ``codegen``."""

from __future__ import annotations

import importlib.util

TOOLS = ("black", "jinja2", "libcst", "platformdirs", "rich")


class MissingExtra(ImportError):
    """The compiler's own requirements are not installed."""


def require() -> None:
    """Nothing, where all tools are installed.

    Raises:
        MissingExtra: one is not; the message says how to install it.
    """
    needed = ("torch", *TOOLS)
    missing = [tool for tool in needed if importlib.util.find_spec(tool) is None]
    if missing:
        raise MissingExtra(
            f"translating optimizers needs {', '.join(missing)}: "
            "pip install 'higher-codegen[codegen]'",
            name=missing[0],
        )
