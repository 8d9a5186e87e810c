"""From a class to where its source is read, and from a target to its class."""

from __future__ import annotations

import importlib.util
import sys
import types
from pathlib import Path
from typing import cast

import torch

from codegen import session
from codegen.diagnostics import Origins, misuse
from codegen.upstream import Library


def _target_of(optimizer: type, library: Library) -> str:
    """A path under which the library finds the class's own source."""
    name = optimizer.__qualname__
    if "<locals>" in name or "." in name:
        raise misuse(
            f"{name} is defined inside a function or class",
            "define it at the top level of a module",
        )
    target = f"{optimizer.__module__}.{name}"
    if optimizer.__module__ != "__main__" and library.module(optimizer.__module__):
        return target
    file = session.file_of(optimizer) or _file_of_module(optimizer)
    if file is not None and Path(file).is_file():
        library.load(Path(file), optimizer.__module__)
        return target
    text = session.source_of(optimizer)
    if text is None:
        raise misuse(
            f"the source of {name} can't be found: no file and no notebook has it",
            "save the class to a file and import it from there",
        )
    library.load_text(text, f"<cell of {name}>", optimizer.__module__)
    return target


def _file_of_module(optimizer: type) -> str | None:
    """For a class without functions of its own."""
    return getattr(sys.modules.get(optimizer.__module__), "__file__", None)


def class_target(optimizer: type) -> tuple[str, Library]:
    """A target that means a class object, and the library that knows it.

    Raises:
        CodegenError: it is no optimizer, or its source can't be found.
    """
    if not (
        isinstance(optimizer, type) and issubclass(optimizer, torch.optim.Optimizer)
    ):
        raise misuse(
            f"{optimizer!r} is no optimizer class",
            "pass a subclass of torch.optim.Optimizer, not an instance",
        )
    library = Library(Origins())
    return _target_of(optimizer, library), library


def import_original(target: str) -> type[torch.optim.Optimizer]:
    """The class that a target names, imported, to run the translation against.

    Raises:
        CodegenError: its module can't be imported.
    """
    path, _, class_name = target.rpartition(":")
    module_name = target.rpartition(".")[0]
    try:
        if path.endswith(".py"):
            module = _import_file(Path(path))
        else:
            class_name = target.rpartition(".")[2]
            module = importlib.import_module(module_name)
        return cast("type[torch.optim.Optimizer]", getattr(module, class_name))
    except Exception as error:
        raise misuse(
            f"{target} can't be imported, so it can't be verified: "
            f"{type(error).__name__}: {error}",
            "make it importable, or skip verification with --no-verify",
        ) from error


def _import_file(path: Path) -> types.ModuleType:
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules.setdefault(path.stem, module)
    spec.loader.exec_module(module)
    return module
