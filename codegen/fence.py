"""Proof that nothing mutable, detached or unknown is left in a translation."""

from __future__ import annotations

import libcst as cst

from codegen.context import Context
from codegen.diagnostics import walk
from codegen.rules.r4_out_of_place.inplace import inplace_function, inplace_method
from codegen.syntax import Body, dotted, is_name, keyword

_FORBIDDEN_ATTRIBUTES = {
    "data": "R5",
    "grad": "R2",
}
_FORBIDDEN_METHODS = {
    "item": ("R5", "cuts the gradient"),
    "detach": ("R5", "cuts the gradient"),
    "backward": ("R1", "runs autograd inside the step"),
    "numpy": ("R5", "leaves torch"),
    "tolist": ("R5", "leaves torch"),
    "register_hook": ("R1", "hooks into autograd"),
    "step": ("R1", "steps another optimizer, which can't be seen through here"),
    "zero_grad": ("R1", "clears gradients that the step is handed"),
}
_FOREIGN = (
    "torch.autograd.grad",
    "torch.autograd.backward",
    "torch.distributed",
    "dist.",
)
_FORBIDDEN_FUNCTIONS = (
    *_FOREIGN,
    "torch.autograd",
    "torch.no_grad",
    "torch.jit",
    "torch.compile",
    "torch.utils.checkpoint",
)
_KNOWN_SELF = frozenset({"param_groups", "state", "shared", "defaults"})


def check(body: Body, context: Context) -> None:
    """Refuse whatever survived the rules and would be wrong at run time."""
    for statement in body:
        nodes = list(walk(statement))
        bases: set[cst.CSTNode] = {
            n.value for n in nodes if isinstance(n, cst.Attribute)
        }
        # a message may name the optimizer
        bases |= {n for r in nodes if isinstance(r, cst.Raise) for n in walk(r)}
        for node in nodes:
            if is_name(node, "self") and node not in bases:
                context.refuse(
                    "fence",
                    node,
                    "the optimizer itself is handed on",
                    "hand on what is needed of it",
                )
            if isinstance(node, cst.Expr):
                _check_effect(node, context)
            if isinstance(node, cst.Call):
                _check_call(node, context)
            elif isinstance(node, cst.Attribute):
                _check_attribute(node, context)
            elif isinstance(node, (cst.Yield, cst.Await, cst.Global, cst.Nonlocal)):
                context.refuse(
                    "fence", node, "this statement has no place in a step", "remove it"
                )


def _check_effect(node: cst.Expr, context: Context) -> None:
    """What is called for its effect, and has no source, changes who knows what."""
    if isinstance(node.value, cst.Call) and isinstance(node.value.func, cst.Subscript):
        context.refuse(
            "fence",
            node,
            "this call is there for its effect, which can't be seen",
            "call a function of the module by its name",
        )


def refuse_foreign(body: Body, context: Context) -> None:
    """Calls that no rule can mend: said first, for all else may follow from them."""
    for statement in body:
        for node in walk(statement):
            if isinstance(node, cst.Call):
                _check_function(node, context, _FOREIGN)


def _check_function(
    node: cst.Call, context: Context, forbidden: tuple[str, ...]
) -> None:
    name = dotted(node.func) or ""
    if name.startswith(forbidden):
        context.refuse(
            "fence",
            node,
            f"{name} can't be part of a differentiable step",
            "autograd, distributed and compiled calls belong outside the optimizer",
        )


def _check_call(node: cst.Call, context: Context) -> None:
    name = dotted(node.func) or ""
    if inplace_method(node) or inplace_function(node) or keyword(node, "out"):
        context.refuse(
            "R4",
            node,
            "an in-place operation is left here",
            "write it as a statement of its own, on a variable",
        )
    _check_function(node, context, _FORBIDDEN_FUNCTIONS)
    if _reinterprets(node):
        context.refuse(
            "R5",
            node,
            "a view of another dtype cuts the gradient",
            "compute with numbers, not with their bits",
        )
    if isinstance(node.func, cst.Attribute):
        rule, why = _FORBIDDEN_METHODS.get(node.func.attr.value, ("", ""))
        if rule:
            context.refuse(
                rule, node, f".{node.func.attr.value}() {why}", "compute with tensors"
            )
    if name.startswith("self.") and name != "self.shared.get":
        context.refuse(
            "fence",
            node,
            f"the method {name} has no source that can be translated here",
            "inline it, or make it a function of its arguments",
        )


def _reinterprets(node: cst.Call) -> bool:
    """``x.view(torch.uint8)``: the same bits, read as something else."""
    func = node.func
    if not isinstance(func, cst.Attribute) or func.attr.value != "view":
        return False
    name = dotted(node.args[0].value) if node.args else None
    return name is not None and (
        keyword(node, "dtype") is not None
        or name.endswith(".dtype")
        or (name.startswith("torch.") and name.count(".") == 1)
    )


def _check_attribute(node: cst.Attribute, context: Context) -> None:
    name = dotted(node) or ""
    if node.attr.value in _FORBIDDEN_ATTRIBUTES and not name.startswith("torch."):
        context.refuse(
            _FORBIDDEN_ATTRIBUTES[node.attr.value],
            node,
            f".{node.attr.value} is read outside a loop over parameters",
            'read it inside `for p in group["params"]`',
        )
    if name.startswith("self.") and name.split(".")[1] not in _KNOWN_SELF:
        context.refuse(
            "fence",
            node,
            f"{name} is not known to a differentiable optimizer",
            "keep settings in the parameter groups",
        )
