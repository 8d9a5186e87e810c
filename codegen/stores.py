"""What is given to attributes from outside: ``Opt.dir = other``, ``setattr(m, "X", 2)``,
and what methods give to ``self``."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import libcst as cst

from codegen.bindings import bound_names, dotted
from codegen.diagnostics import children, walk
from codegen.syntax import all_params

_ABOUT = frozenset(
    "__doc__ __module__ __name__ __qualname__ __annotations__ __wrapped__".split()
)


@dataclass(frozen=True)
class Store:
    """``owner.attribute`` is given something, or deleted; None where any attribute may
    be."""

    owner: str
    attribute: str | None
    node: cst.CSTNode


def stores(tree: cst.CSTNode, local: frozenset[str] = frozenset()) -> Iterator[Store]:
    """Stores into attributes of what isn't local where it is done."""
    if isinstance(tree, cst.FunctionDef):
        own = {p.name.value for p in all_params(tree.params)} | bound_names(tree.body)
        shared = {
            item.name.value
            for n in walk(tree.body)
            if isinstance(n, (cst.Global, cst.Nonlocal))
            for item in n.names
        }
        local = local | frozenset(own - {str(name) for name in shared})
    for store in _of_node(tree):
        if store.owner.partition(".")[0] not in local:
            yield store
    for child in children(tree):
        yield from stores(child, local)


def given_to_self(method: cst.FunctionDef) -> Iterator[Store]:
    """What a method gives to attributes of its first argument, or of its class."""
    first = (*method.params.posonly_params, *method.params.params)[:1]
    own = {p.name.value for p in first}
    for node in walk(method.body):
        for store in _of_node(node):
            if store.owner in own or _is_class_of(store.owner, own):
                yield store


def _is_class_of(owner: str, own: set[str]) -> bool:
    return any(owner in (f"{n}.__class__", f"type({n})", f"{n}.__dict__") for n in own)


def _of_node(node: cst.CSTNode) -> Iterator[Store]:
    if isinstance(node, cst.Call):
        yield from _of_call(node)
    elif isinstance(
        node, (cst.AssignTarget, cst.AnnAssign, cst.AugAssign, cst.Del, cst.For)
    ):
        if not isinstance(node, cst.AnnAssign) or node.value is not None:
            yield from _targets(node.target, node)
    elif isinstance(node, cst.AsName):
        yield from _targets(node.name, node)


def _of_call(node: cst.Call) -> Iterator[Store]:
    name = dotted(node.func) or ""
    arguments = [a.value for a in node.args]
    if name in ("setattr", "delattr", "object.__setattr__") and len(arguments) >= 2:
        owner = _owner(arguments[0])
        if owner is not None:
            yield Store(owner, _text(arguments[1]), node)
    elif isinstance(node.func, cst.Attribute) and node.func.attr.value in _FILLING:
        owner = _dictionary(node.func.value)
        if owner is not None:
            yield Store(owner, None, node)


_FILLING = ("update", "setdefault", "pop", "clear", "__setitem__")


def _targets(target: cst.CSTNode, node: cst.CSTNode) -> Iterator[Store]:
    if isinstance(target, (cst.Tuple, cst.List)):
        for element in target.elements:
            yield from _targets(element.value, node)
    elif isinstance(target, cst.StarredElement):
        yield from _targets(target.value, node)
    elif isinstance(target, cst.Attribute):
        owner = _owner(target.value)
        if owner is not None and target.attr.value not in _ABOUT:
            yield Store(owner, target.attr.value, node)
    elif isinstance(target, cst.Subscript):
        owner = _dictionary(target.value)
        index = target.slice[0].slice
        if owner is not None:
            key = _text(index.value) if isinstance(index, cst.Index) else None
            yield Store(owner, key, node)


def _dictionary(node: cst.BaseExpression) -> str | None:
    """``x`` for ``x.__dict__`` and ``vars(x)``."""
    if isinstance(node, cst.Attribute) and node.attr.value == "__dict__":
        return _owner(node.value)
    if isinstance(node, cst.Call) and dotted(node.func) == "vars" and node.args:
        return _owner(node.args[0].value)
    return None


def _owner(node: cst.BaseExpression) -> str | None:
    if isinstance(node, cst.Call) and dotted(node.func) == "type":
        inner = dotted(node.args[0].value) if len(node.args) == 1 else None
        return f"type({inner})" if inner is not None else None
    return dotted(node)


def _text(node: cst.BaseExpression) -> str | None:
    if isinstance(node, cst.SimpleString):
        return str(node.evaluated_value)
    return None
