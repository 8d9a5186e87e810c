"""The laws, by the rule that is for each: what is said where one is broken, and a hint."""

from __future__ import annotations

import ast
from dataclasses import dataclass
from typing import NamedTuple


class Law(NamedTuple):
    """A rule's name, a message about ``{}``, and what to do instead."""

    rule: str
    message: str
    hint: str


@dataclass(frozen=True)
class Fault:
    """A place of the emitted module that breaks a law."""

    node: ast.AST
    rule: str
    message: str
    hint: str


_ALONE = "write it as a statement of its own, on a variable"
_OUTSIDE = "autograd, distributed and compiled calls belong outside the optimizer"
_IN_LOOP = 'inside `for p in group["params"]`'

LAWS = {
    "loss": Law("R1", "a step returns no loss", "return nothing"),
    "backward": Law("R1", "{} runs autograd inside the step", _OUTSIDE),
    "step": Law("R1", "{} steps another optimizer, unseen", "write its update here"),
    "grad": Law(
        "R2", ".grad is read outside a loop over parameters", f"read it {_IN_LOOP}"
    ),
    "groups": Law("R2", "a group is replaced as a whole", "replace what it holds"),
    "slot": Law("R3", "state is not looked up by position", f"look it up {_IN_LOOP}"),
    "state": Law("R3", "state is replaced as a whole", "write what is in it, by key"),
    "self": Law("R3", "an attribute of the optimizer is set", "keep it in the state"),
    "in place": Law("R4", "an in-place operation is left here", _ALONE),
    "item": Law("R4", "an item of a tensor is written", _ALONE),
    "fixed": Law("R4", "a container outside the step is changed", "use the state"),
    "changes": Law("R4", "{} changes an object in place", _ALONE),
    "cut": Law("R5", "{} cuts the gradient", "compute with tensors"),
    "mode": Law("R5", "{} turns gradients off or on", "leave it out"),
    "bits": Law(
        "R5", "a view of another dtype cuts the gradient", "compute with numbers"
    ),
    "data": Law("R6", ".data is set", 'write group["params"][p_idx]'),
    "number": Law(
        "R7",
        "{} takes a plain number: a gradient would be lost there",
        "write it with operations on tensors, or hand it a constant",
    ),
    "lost": Law("R7", "{} loses a gradient", "compute with numbers that have none"),
    "counted": Law(
        "R7",
        "a number that has lost its gradient enters a result",
        "use it for what is only counted or compared",
    ),
    "switch": Law(
        "R7", "a setting that is off here has a derivative", "ask ops.is_used"
    ),
    "unknown": Law(
        "R7",
        "what {} does with a tensor or a setting is not known",
        "use torch's own operations, or a function whose source can be read",
    ),
    "unstable": Law(
        "R8",
        "{} has an infinite derivative at zero",
        "use the function of higher.ops, whose derivative is zero there",
    ),
    "outside": Law("fence", "{} can't be part of a differentiable step", _OUTSIDE),
    "whole": Law(
        "fence", "the optimizer itself is handed on", "hand on what is needed of it"
    ),
    "method": Law(
        "fence",
        "self.{} is not known to a differentiable optimizer",
        "keep settings in the groups, and what methods do in functions",
    ),
    "effect": Law(
        "fence",
        "this call is there for its effect, which can't be seen",
        "call a function of the module by its name",
    ),
    "recursion": Law(
        "fence", "a function that calls itself can't be followed", "write it as a loop"
    ),
    "syntax": Law("fence", "this has no place in a step", "remove it"),
    "bottom": Law("fence", "nothing can be told of this", "write it plainly"),
    "block": Law("fence", "what this block changes is not known", "leave it out"),
    "name": Law(
        "carry",
        "{} is not defined where the compiler can read it",
        "define it at the top level of the module",
    ),
}


def broken(law: str, node: ast.AST, about: str = "") -> Fault:
    """A fault; ``about`` is what its message speaks of."""
    rule, message, hint = LAWS[law]
    return Fault(node, rule, message.format(about), hint)
