"""A translation's text as a class, whose source tracebacks and ``inspect`` can show.

Nothing of the compiler is imported here: what is in the cache needs none of it.
"""

from __future__ import annotations

import linecache
import sys
import types
from typing import cast

from higher.optim.base import DifferentiableOptimizer


def load_text(text: str, target: str, class_name: str) -> type[DifferentiableOptimizer]:
    """Executes the text of a module, which becomes ``codegen.compiled.TARGET``."""
    name = f"codegen.compiled.{target.replace(':', '.').replace('/', '.')}"
    filename = f"<{name}>"
    lines = text.splitlines(keepends=True)
    linecache.cache[filename] = (len(text), None, lines, filename)
    module = types.ModuleType(name)
    module.__file__ = filename
    sys.modules[name] = module
    exec(compile(text, filename, "exec"), module.__dict__)
    return cast("type[DifferentiableOptimizer]", getattr(module, class_name))
