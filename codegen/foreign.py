"""Calls that no rule can mend: autograd, and other processes."""

from __future__ import annotations

import libcst as cst

from codegen.context import Context
from codegen.diagnostics import walk
from codegen.syntax import Body, dotted

_FOREIGN = (
    "torch.autograd.grad",
    "torch.autograd.backward",
    "torch.distributed",
    "dist.",
)


def refuse_foreign(body: Body, context: Context) -> None:
    """Refuse them before anything else is said: all else may follow from them."""
    for statement in body:
        for node in walk(statement):
            name = dotted(node.func) if isinstance(node, cst.Call) else None
            if name is not None and name.startswith(_FOREIGN):
                context.refuse(
                    "fence",
                    node,
                    f"{name} can't be part of a differentiable step",
                    "autograd, distributed and compiled calls belong outside the "
                    "optimizer",
                )
