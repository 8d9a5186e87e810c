"""Compiles optimizers' source into differentiable, out-of-place classes.

codegen.translate("torch.optim.NAdam").text        # the text of a module
codegen.compile_optimizer(MyOptimizer)             # a class, in memory
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from codegen.diagnostics import CodegenError, Diagnostic
from codegen.translate import Translation, translate

if TYPE_CHECKING:
    import torch
    from higher.optim.base import DifferentiableOptimizer

__all__ = [
    "CodegenError",
    "Diagnostic",
    "Translation",
    "check",
    "compile_optimizer",
    "translate",
]


def compile_optimizer(
    optimizer: type[torch.optim.Optimizer], *, verify: bool = False
) -> type[DifferentiableOptimizer]:
    """The differentiable twin of an optimizer class, compiled in memory.

    ``inspect.getsource`` and tracebacks show the generated code. With ``verify`` it
    is first run against the original.

    Raises:
        CodegenError: it can't be translated, or is wrong; diagnostics say where.
    """
    from codegen.memory import compile_class

    return compile_class(optimizer, verify=verify)


def check(*files: str) -> list[str]:
    """Compare generated files with what would be generated now.

    Returns one message per file that has drifted, with the diff and the command that
    mends it; none where all is current. Without ``files``: all of ``generated/``.
    """
    from codegen.tools.drift import drifts

    return [str(drift) for drift in drifts(files)]
