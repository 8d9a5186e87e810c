"""Which names code binds, and which it reads.

LibCST's classes are abstract ones, of which ``isinstance`` is slow: the two walks that
are asked for most look the very class up. What is said of a statement is kept: most of a
changed block's statements are those that were there before.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from typing import Any

import libcst as cst

from codegen.diagnostics import children, walk


def dotted(node: cst.CSTNode | None) -> str | None:
    """``"torch.optim"`` for the expression ``torch.optim``; None for others."""
    if isinstance(node, cst.Name):
        return node.value
    if isinstance(node, cst.Attribute):
        base = dotted(node.value)
        return None if base is None else f"{base}.{node.attr.value}"
    return None


def target_names(target: cst.CSTNode) -> Iterator[str]:
    """Names that an assignment to ``target`` binds; not ``x`` in ``x[0] = …``."""
    if isinstance(target, cst.Name):
        yield target.value
    elif isinstance(target, (cst.Tuple, cst.List)):
        for element in target.elements:
            yield from target_names(element.value)
    elif isinstance(target, cst.StarredElement):
        yield from target_names(target.value)


def bound_names(node: cst.CSTNode) -> set[str]:
    """Names bound anywhere inside ``node``; nested functions bind their own name."""
    return set(_bound_names(node))


@functools.lru_cache(maxsize=1 << 14)
def _bound_names(node: cst.CSTNode) -> frozenset[str]:
    found: set[str] = set()
    _collect_bound(node, found)
    return frozenset(found)


_BINDING: dict[type, str] = {
    cst.AssignTarget: "target",
    cst.AnnAssign: "target",
    cst.AugAssign: "target",
    cst.NamedExpr: "target",
    cst.For: "target",
    cst.CompFor: "target",
    cst.AsName: "name",
}
_COMPREHENSIONS = frozenset({cst.GeneratorExp, cst.ListComp, cst.SetComp, cst.DictComp})
_LAZY = _COMPREHENSIONS | {cst.IfExp, cst.BooleanOperation, cst.Comparison, cst.Lambda}
_STATEMENTS: frozenset[type] = frozenset(
    {cst.SimpleStatementLine, cst.If, cst.For, cst.While, cst.With, cst.Try}
)


def _collect_bound(node: cst.CSTNode, found: set[str]) -> None:
    kind = type(node)
    if isinstance(node, cst.FunctionDef):
        found.add(node.name.value)
        return
    if kind is cst.Lambda:
        return
    if kind in _COMPREHENSIONS:
        inner = (n for n in walk(node) if isinstance(n, cst.NamedExpr))
        found.update(name for n in inner for name in target_names(n.target))
        return
    if kind in _BINDING:
        found.update(target_names(getattr(node, _BINDING[kind])))
    elif kind is cst.ImportAlias:
        assert isinstance(node, cst.ImportAlias)
        if node.asname is None:
            found.add((dotted(node.name) or "").split(".")[0])
    for child in children(node):
        if type(child) in _STATEMENTS:
            found.update(_bound_names(child))
        else:
            _collect_bound(child, found)


def surely_bound(node: cst.CSTNode) -> set[str]:
    """Names that a simple statement binds whenever it runs to its end."""
    return set(_surely_bound(node))


@functools.lru_cache(maxsize=1 << 14)
def _surely_bound(node: cst.CSTNode) -> frozenset[str]:
    sometimes = {
        inner
        for part in walk(node)
        for lazy in lazy_parts(part)
        for inner in walk(lazy)
        if isinstance(inner, cst.NamedExpr)
    }
    if not sometimes:
        return _bound_names(node)
    kinds = _BINDING.keys() - {cst.CompFor}
    sure = (n for n in walk(node) if type(n) in kinds and n not in sometimes)
    names = (target_names(getattr(s, _BINDING[type(s)])) for s in sure)
    return frozenset(name for found in names for name in found)


def walrus_names(node: cst.CSTNode) -> set[str]:
    """Names that ``:=`` may bind while ``node`` is evaluated."""
    inner = (n for n in walk(node) if isinstance(n, cst.NamedExpr))
    return {name for n in inner for name in target_names(n.target)}


def lazy_parts(node: cst.CSTNode) -> Iterator[cst.CSTNode]:
    """What is evaluated for ``node`` under a condition, later, or several times."""
    if type(node) not in _LAZY:
        return
    if isinstance(node, cst.IfExp):
        yield from (node.body, node.orelse)
    elif isinstance(node, cst.BooleanOperation):
        yield node.right
    elif isinstance(node, cst.Comparison):
        yield from (c.comparator for c in node.comparisons[1:])
    elif isinstance(node, cst.Lambda):
        yield node.body
    elif isinstance(node, cst.BaseComp):
        first = node.for_in.iter
        yield from (c for c in children(node) if c is not node.for_in)
        yield from (c for c in children(node.for_in) if c is not first)


def read_names(node: cst.CSTNode) -> set[str]:
    """Names that ``node`` reads: not attribute names, keywords or assigned names.

    ``x[i] = v`` and ``x += v`` read ``x``.
    """
    return set(_read_names(node))


@functools.lru_cache(maxsize=1 << 14)
def _read_names(node: cst.CSTNode) -> frozenset[str]:
    found: set[str] = set()
    _collect_read(node, found)
    return frozenset(found)


def _collect_read(node: cst.CSTNode, found: set[str]) -> None:
    how = _READING.get(type(node))
    if how is not None:
        how(node, found)
        return
    for child in children(node):
        if type(child) in _STATEMENTS:
            found.update(_read_names(child))
        else:
            _collect_read(child, found)


def _read_name(node: cst.Name, found: set[str]) -> None:
    found.add(node.value)


def _read_value(node: cst.Attribute | cst.Arg | cst.NamedExpr, found: set[str]) -> None:
    _collect_read(node.value, found)


def _read_nothing(node: cst.Annotation, found: set[str]) -> None:
    pass


def _read_by_target(node: cst.AssignTarget, found: set[str]) -> None:
    _collect_target_reads(node.target, found)


def _read_by_annotated(node: cst.AnnAssign, found: set[str]) -> None:
    _collect_target_reads(node.target, found)
    if node.value is not None:
        _collect_read(node.value, found)


def _read_default(node: cst.Param, found: set[str]) -> None:
    if node.default is not None:
        _collect_read(node.default, found)


def _read_by_function(node: cst.FunctionDef, found: set[str]) -> None:
    found.update(free_names(node))


def _read_by_lambda(node: cst.Lambda, found: set[str]) -> None:
    inner: set[str] = set()
    _collect_read(node.body, inner)
    found.update(inner - {p.name.value for p in all_params(node.params)})


def _read_in_comprehension(node: cst.BaseComp, found: set[str]) -> None:
    found.update(_read_by_comprehension(node))


def _read_by_loop(node: cst.For | cst.CompFor, found: set[str]) -> None:
    _collect_target_reads(node.target, found)
    for child in children(node):
        if child is not node.target:
            _collect_read(child, found)


_READING: dict[type, Callable[[Any, set[str]], None]] = {
    cst.Name: _read_name,
    cst.Attribute: _read_value,
    cst.Arg: _read_value,
    cst.Annotation: _read_nothing,
    cst.AssignTarget: _read_by_target,
    cst.AnnAssign: _read_by_annotated,
    cst.Param: _read_default,
    cst.FunctionDef: _read_by_function,
    cst.Lambda: _read_by_lambda,
    **dict.fromkeys(_COMPREHENSIONS, _read_in_comprehension),
    cst.NamedExpr: _read_value,
    cst.For: _read_by_loop,
    cst.CompFor: _read_by_loop,
}


def _read_by_comprehension(node: cst.BaseComp) -> set[str]:
    """Its loops' variables are its own."""
    inside: set[str] = set()
    for child in children(node):
        _collect_read(child, inside)
    return inside - comprehension_names(node) | read_names(node.for_in.iter)


def comprehension_names(node: cst.BaseComp) -> set[str]:
    """The variables of a comprehension's loops."""
    names: set[str] = set()
    loop: cst.CompFor | None = node.for_in
    while loop is not None:
        names.update(target_names(loop.target))
        loop = loop.inner_for_in
    return names


def _collect_target_reads(target: cst.CSTNode, found: set[str]) -> None:
    if isinstance(target, cst.Name):
        return
    if isinstance(target, (cst.Tuple, cst.List)):
        for element in target.elements:
            _collect_target_reads(element.value, found)
        return
    _collect_read(target, found)


def all_params(params: cst.Parameters) -> list[cst.Param]:
    result = [*params.posonly_params, *params.params, *params.kwonly_params]
    if isinstance(params.star_arg, cst.Param):
        result.append(params.star_arg)
    if params.star_kwarg is not None:
        result.append(params.star_kwarg)
    return result


def free_names(function: cst.FunctionDef) -> set[str]:
    """Names that a function reads and doesn't bind itself."""
    own = {p.name.value for p in all_params(function.params)} | bound_names(
        function.body
    )
    found: set[str] = set()
    _collect_read(function.body, found)
    return found - own
