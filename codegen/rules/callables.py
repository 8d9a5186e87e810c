"""What functions a variable may hold.

root = torch.sqrt                               root → torch.sqrt
mm = torch.bmm if x.ndim > 2 else torch.mm      mm → torch.bmm, torch.mm
for view in [_rows, _columns]:                  view → _rows, _columns
def half(x): …                                  half → itself
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import libcst as cst

from codegen.diagnostics import walk
from codegen.syntax import Body, bare, bound_names, target_names


class Callables:
    """Variables of a body, and the expressions that they are bound to."""

    def __init__(self, body: Body) -> None:
        self._bound: dict[str, list[cst.CSTNode | None]] = {}
        for node in (n for statement in body for n in walk(statement)):
            for name, value in _bindings(node):
                self._bound.setdefault(name, []).append(value)

    def __contains__(self, name: str) -> bool:
        return name in self._bound

    def of(self, name: str) -> list[cst.CSTNode] | None:
        """What a variable may hold: names, lambdas, functions; None if not known."""
        found: list[cst.CSTNode] = []
        return found if self._collect(name, found, {name}) else None

    def _collect(self, name: str, found: list[cst.CSTNode], seen: set[str]) -> bool:
        for value in self._bound[name]:
            if value is None:
                return False
            for leaf in _leaves(value):
                if isinstance(leaf, cst.Name) and leaf.value in self._bound:
                    if leaf.value not in seen:
                        seen.add(leaf.value)
                        if not self._collect(leaf.value, found, seen):
                            return False
                else:
                    found.append(leaf)
        return True


def _leaves(node: cst.CSTNode) -> Iterator[cst.CSTNode]:
    node = bare(node)
    if isinstance(node, cst.IfExp):
        yield from _leaves(node.body)
        yield from _leaves(node.orelse)
    elif isinstance(node, cst.BooleanOperation):
        yield from _leaves(node.left)
        yield from _leaves(node.right)
    else:
        yield node


def _bindings(node: cst.CSTNode) -> Iterator[tuple[str, cst.CSTNode | None]]:
    """(variable, value) of what a statement binds; None for a value not written out."""
    if isinstance(node, cst.FunctionDef):
        yield node.name.value, node
    elif isinstance(node, cst.Assign):
        for target in node.targets:
            yield from _pairs(target.target, node.value)
    elif isinstance(node, cst.AnnAssign) and node.value is not None:
        yield from _pairs(node.target, node.value)
    elif isinstance(node, cst.NamedExpr):
        yield from _pairs(node.target, node.value)
    elif isinstance(node, (cst.For, cst.CompFor)):
        yield from _walked(node.target, node.iter)
    elif isinstance(node, (cst.AugAssign, cst.AsName, cst.ImportAlias)):
        yield from ((name, None) for name in bound_names(node))


def _pairs(
    target: cst.BaseExpression, value: cst.BaseExpression
) -> Iterator[tuple[str, cst.CSTNode | None]]:
    displays = (cst.Tuple, cst.List)
    if isinstance(target, cst.Name):
        yield target.value, value
        return
    if isinstance(target, displays) and isinstance(value, displays):
        if len(target.elements) == len(value.elements):
            for a, b in zip(target.elements, value.elements):
                yield from _pairs(a.value, b.value)
            return
    yield from ((name, None) for name in target_names(target))


def _walked(
    target: cst.BaseExpression, source: cst.BaseExpression
) -> Iterator[tuple[str, cst.CSTNode | None]]:
    """Items of a display; of anything else they aren't known."""
    if isinstance(target, cst.Name) and isinstance(source, (cst.Tuple, cst.List)):
        for element in source.elements:
            starred = isinstance(element, cst.StarredElement)
            yield target.value, None if starred else element.value
    else:
        yield from ((name, None) for name in target_names(target))


def called_parameters(function: cst.FunctionDef) -> set[str]:
    """Parameters that a function calls, or hands on to who may."""
    names = {p.name.value for p in function.params.params}
    names |= {p.name.value for p in function.params.kwonly_params}
    found: set[str] = set()
    for node in walk(function.body):
        if isinstance(node, cst.Call) and isinstance(node.func, cst.Name):
            found.add(node.func.value)
    return found & names


def arguments_of(
    function: cst.FunctionDef, args: Sequence[cst.Arg]
) -> dict[str, cst.BaseExpression]:
    """Arguments of a call by parameter, as far as they are written out."""
    names = [p.name.value for p in function.params.params]
    plain = [a.value for a in args if a.keyword is None and not a.star]
    given = dict(zip(names[1:] if names[:1] == ["self"] else names, plain))
    return given | {a.keyword.value: a.value for a in args if a.keyword is not None}
