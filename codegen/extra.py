"""What translating needs beside torch: the distribution's extra ``codegen``."""

from __future__ import annotations

import importlib.util
from pathlib import Path

TOOLS = ("black", "jinja2", "libcst", "platformdirs", "rich")


class MissingExtra(ImportError):
    """The compiler's own requirements are not installed."""


def require() -> None:
    """Nothing, where all tools are installed.

    Raises:
        MissingExtra: one is not; the message says how to install it.
    """
    _require_own_higher()
    needed = ("torch", *TOOLS)
    missing = [tool for tool in needed if importlib.util.find_spec(tool) is None]
    if missing:
        raise MissingExtra(
            f"translating optimizers needs {', '.join(missing)}: "
            "pip install 'higher-codegen[codegen]'",
            name=missing[0],
        )


def _require_own_higher() -> None:
    """The classic library may be found before this one's ``higher``."""
    higher = importlib.util.find_spec("higher")
    folder = Path(higher.origin).parent if higher and higher.origin else None
    if folder is not None and not (folder / "_intact.py").is_file():
        raise MissingExtra(
            f"the `higher` that is imported is the classic library, in {folder}: "
            "pip uninstall -y higher && pip install 'higher-codegen[codegen]'",
            name="higher",
        )
