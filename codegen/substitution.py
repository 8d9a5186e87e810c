"""Variables replaced by expressions, without capture.

What a comprehension, a lambda or a nested function binds is its own: it hides what is
replaced, and gets another name where a replacement reads one like it.
"""

from __future__ import annotations

from collections.abc import Mapping

import libcst as cst

from codegen.diagnostics import Origins
from codegen.syntax import (
    all_params,
    bound_names,
    comprehension_names,
    map_parts,
    parenthesize,
    read_names,
)


def substitute(
    node: cst.CSTNode, names: Mapping[str, cst.BaseExpression], origins: Origins
) -> cst.CSTNode:
    """``node`` with variables replaced by expressions (names, or anything read)."""
    return _Substitution(names, origins).visit(node) if names else node


def renamed_variables(
    node: cst.BaseComp, names: Mapping[str, str], origins: Origins
) -> cst.BaseComp:
    """A comprehension with other names for its own variables."""
    inside = _Substitution({old: cst.Name(new) for old, new in names.items()}, origins)
    new = cst.ensure_type(map_parts(node, inside.visit), type(node))
    new = new.with_changes(for_in=new.for_in.with_changes(iter=node.for_in.iter))
    origins.inherit(new, node)
    return new


class _Substitution:
    """Rebuilds the nodes above a replaced variable, and no others.

    ``around`` is what holds outside the scope whose parts are visited.
    """

    def __init__(
        self,
        names: Mapping[str, cst.BaseExpression],
        origins: Origins,
        around: _Substitution | None = None,
    ) -> None:
        self.names = names
        self.origins = origins
        self.around = around or self

    def visit(self, node: cst.CSTNode) -> cst.CSTNode:
        updated = self._updated(node)
        if updated is not node:
            self.origins.inherit(updated, node)
        return updated

    def _updated(self, node: cst.CSTNode) -> cst.CSTNode:
        if isinstance(node, cst.Name):
            new = self.names.get(node.value)
            return node if new is None else new.deep_clone()
        if isinstance(node, cst.Param):
            return self._param(node)
        if isinstance(node, cst.BaseComp):
            return self._comprehension(node)
        if isinstance(node, (cst.Lambda, cst.FunctionDef)):
            own = {p.name.value for p in all_params(node.params)}
            if isinstance(node, cst.FunctionDef):
                own |= bound_names(node.body)
            return map_parts(node, self._inside(node, own).visit)
        updated = map_parts(node, self.visit)
        if updated is not node and isinstance(updated, cst.Attribute):
            return updated.with_changes(value=parenthesize(updated.value))
        return updated

    def _inside(self, scope: cst.CSTNode, own: set[str]) -> _Substitution:
        """What is replaced inside a scope that binds ``own``."""
        read = read_names(scope)
        names = {n: v for n, v in self.names.items() if n in read - own}
        reads = {n for v in names.values() for n in read_names(v)}
        for name in sorted(own & reads):
            new = f"{name}_"
            while new in own | reads | read:
                new += "_"
            names[name] = cst.Name(new)
        return _Substitution(names, self.origins, self)

    def _param(self, node: cst.Param) -> cst.CSTNode:
        name = self.names.get(node.name.value, node.name)
        default = node.default and self.around.visit(node.default)
        if name is node.name and default is node.default:
            return node
        return node.with_changes(name=name, default=default)

    def _comprehension(self, node: cst.BaseComp) -> cst.CSTNode:
        inside = self._inside(node, comprehension_names(node))
        updated = map_parts(node, inside.visit)
        walked = self.visit(node.for_in.iter)
        if walked is updated.for_in.iter:
            return updated
        return updated.with_changes(for_in=updated.for_in.with_changes(iter=walked))
