"""Classes compiled in memory, whose source tracebacks and ``inspect`` can show."""

from __future__ import annotations

import torch

from codegen.cache import Entry, read_by
from codegen.class_source import class_target
from codegen.loading import load_text
from codegen.settle import translate_and_verify
from codegen.translate import Translation, translate
from higher.optim.base import DifferentiableOptimizer


def load(translation: Translation) -> type[DifferentiableOptimizer]:
    """Execute a translation; its module is ``codegen.compiled.NAME``."""
    return load_text(translation.text, translation.target, translation.class_name)


def compiled(optimizer: type[torch.optim.Optimizer], verify: bool) -> Entry:
    """Translate a class object; with ``verify``, run it against the original.

    Raises:
        CodegenError: it can't be translated, or is wrong.
    """
    target, library = class_target(optimizer)
    translation = translate(target, library)
    report = summary = ""
    if verify:
        translation, found = translate_and_verify(optimizer, translation, library)
        report, summary = found.to_json(), found.summary
    return Entry(
        translation.target,
        translation.class_name,
        translation.text,
        report,
        summary,
        read_by(library.paths),
    )
