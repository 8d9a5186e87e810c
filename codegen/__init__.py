"""Compiles optimizers' source into differentiable, out-of-place classes.

codegen.translate("torch.optim.NAdam").text        # the text of a module
codegen.compile_optimizer(MyOptimizer)             # a class, in memory
"""

from __future__ import annotations

import importlib
import sys
import types
from typing import TYPE_CHECKING, Any

from codegen.extra import require

if TYPE_CHECKING:
    import torch

    from codegen.diagnostics import CodegenError, Diagnostic
    from codegen.translate import Translation, translate
    from higher.optim.base import DifferentiableOptimizer

__all__ = [
    "CodegenError",
    "Diagnostic",
    "Translation",
    "check",
    "compile_optimizer",
    "translate",
]

_HOMES = {
    "CodegenError": "codegen.diagnostics",
    "Diagnostic": "codegen.diagnostics",
    "Translation": "codegen.translate",
    "translate": "codegen.translate",
}


def compile_optimizer(
    optimizer: type[torch.optim.Optimizer], *, verify: bool = True
) -> type[DifferentiableOptimizer]:
    """The differentiable twin of an optimizer class, compiled in memory.

    It is run against the original first, which takes seconds; ``verify=False`` leaves
    that out. What was compiled is kept on disk, in the platform's usual place for that
    or in the folder named by the environment variable ``HIGHER_CODEGEN_CACHE`` (empty:
    nowhere): for the same sources, torch and compiler it is there at once the next time.

    ``inspect.getsource`` and tracebacks show the generated code. The class's docstring
    says what verification has found, and which lines it has not run.

    Raises:
        CodegenError: it can't be translated, or is wrong; diagnostics say where.

    Examples:
        >>> made = codegen.compile_optimizer(torch.optim.SGD, verify=False)
        >>> made.__name__, issubclass(made, higher.optim.DifferentiableOptimizer)
        ('DifferentiableSGD', True)
    """
    from codegen.once import compile_once

    return compile_once(optimizer, verify)


def check(*files: str) -> list[str]:
    """Compare generated files with what would be generated now.

    Returns one message per file that has drifted, with the diff and the command that
    mends it; none where all is current. Without ``files``: all of ``generated/``.

    Examples:
        >>> codegen.check("nowhere.py")[0].splitlines()[0]
        'nowhere.py: missing file'
    """
    from codegen.tools.drift import drifts

    return [str(drift) for drift in drifts(files)]


if not TYPE_CHECKING:  # whose checkers would take any name for one of these

    def __getattr__(name: str) -> Any:
        """The rest is imported when it is asked for: ``--help`` needs none of it."""
        if name not in _HOMES:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        require()
        value = getattr(importlib.import_module(_HOMES[name]), name)
        globals()[name] = value
        return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})


class _Package(types.ModuleType):
    """``codegen.translate`` is the function, when its module is imported, too."""

    def __setattr__(self, name: str, value: object) -> None:
        if name not in _HOMES or not isinstance(value, types.ModuleType):
            super().__setattr__(name, value)


sys.modules[__name__].__class__ = _Package
# Run as a command (argv is ["-m"] while Python looks for it), main() says it in a line.
if getattr(sys, "argv", [])[:1] != ["-m"] and "higher_codegen" not in sys.modules:
    require()
