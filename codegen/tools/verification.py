"""``--verify``: every optimizer of ``generated/`` against its original, in processes."""

from __future__ import annotations

import importlib
import os
from collections.abc import Iterator, Sequence

from codegen.class_source import import_original
from codegen.tools.processes import in_processes
from codegen.tools.progress import followed
from codegen.verify import Report, verify
from higher import _generated


def reports(targets: Sequence[str]) -> Iterator[Report]:
    """One for each target, in their order."""
    workers = min(len(targets), os.cpu_count() or 1)
    found = (
        map(verified, targets)
        if workers == 1
        else in_processes(verified, targets, workers)
    )
    yield from followed(found, targets)


def verified(target: str) -> Report:
    """One optimizer of ``generated/`` against its original."""
    module, _, name = _generated.OPTIMIZERS[target].partition(":")
    return verify(
        import_original(target), getattr(importlib.import_module(module), name)
    )
