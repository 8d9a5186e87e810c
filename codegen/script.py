"""The command ``higher-codegen``: ``python -m codegen``, whatever else is so called.

A wheel has this file at its top, as the module ``higher_codegen``. The compiler is the
folder beside ``higher``; it is loaded by its place, so that a package of the user's own
that is called codegen, too, stays out of the way.
"""

from __future__ import annotations

import importlib.util
import os
import sys
from pathlib import Path
from typing import NoReturn


def _load() -> None:
    higher = importlib.util.find_spec("higher")  # found, not imported: it brings torch
    if higher is None or higher.origin is None:
        sys.exit("higher-codegen: `higher` is not whole: pip install higher-codegen")
    folder = Path(higher.origin).resolve().parent.parent / "codegen"
    if not (folder / "__init__.py").is_file():
        sys.exit(
            f"higher-codegen: {higher.origin} is not of higher-codegen: "
            "pip uninstall -y higher && pip install 'higher-codegen[codegen]'"
        )
    spec = importlib.util.spec_from_file_location(
        "codegen", folder / "__init__.py", submodule_search_locations=[str(folder)]
    )
    assert spec is not None and spec.loader is not None
    package = importlib.util.module_from_spec(spec)
    sys.modules["codegen"] = package
    spec.loader.exec_module(package)


_load()  # when imported, as processes do that a survey starts


def main() -> NoReturn:
    """Run the command, and end with its exit code."""
    from codegen.__main__ import main as run
    from codegen.console import leave

    if not getattr(sys.flags, "safe_path", False):
        sys.path.insert(0, os.getcwd())  # as `python -m` does
    leave(run(prog="higher-codegen"))
