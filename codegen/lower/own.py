"""What a step reads of the optimizer itself: properties, attributes, methods."""

from __future__ import annotations

from typing import cast

import libcst as cst

from codegen.bindings import lazy_parts
from codegen.context import Context
from codegen.diagnostics import Origins, walk
from codegen.lower.callees import is_property, only_return
from codegen.lower.frame import Frame
from codegen.syntax import (
    Statement,
    assign,
    assignment,
    call,
    calls,
    code,
    dotted,
    expr,
    is_name,
    parenthesize,
    positional,
    read_names,
    replace_nodes,
    small,
    statements,
    with_comments,
)
from codegen.upstream import Definition, Upstream

_PROPERTY = "get_property_"
_MAX_DEPTH = 12


class SelfResolver:
    """Reads ``self.x`` as the class and its bases mean it."""

    def __init__(self, upstream: Upstream, context: Context) -> None:
        self.upstream = upstream
        self.context = context
        self.origins = context.origins

    def ask_attributes(self, node: cst.CSTNodeT) -> cst.CSTNodeT:
        """``getattr(self, "x", d)`` → ``self.x``, where there surely is one, else
        ``self.shared.get("x", d)``; ``hasattr`` likewise."""

        def replace(inner: cst.CSTNode) -> cst.CSTNode | None:
            if not isinstance(inner, cst.Call) or not isinstance(inner.func, cst.Name):
                return None
            asked, args = inner.func.value, positional(inner)
            if asked not in ("getattr", "hasattr") or not is_name(args[0], "self"):
                return None
            if not isinstance(args[1], cst.SimpleString):
                return None
            name = str(args[1].evaluated_value)
            if self._has_attribute(name) or (asked == "getattr" and len(args) == 2):
                found = expr(f"self.{name}" if asked == "getattr" else "True")
                return found
            self.context.carried.add(name)
            if asked == "hasattr":
                return expr(f'("{name}" in self.shared)')
            return call("self.shared.get", expr(f'"{name}"'), args[2])

        return cast(cst.CSTNodeT, replace_nodes(node, replace, self.origins))

    def _has_attribute(self, name: str) -> bool:
        """Whether a class or constructor of the lineage surely gives it."""
        given = (
            pair[0]
            for cls in self.upstream.lineage
            for s in statements(cast(cst.ClassDef, cls.node).body)
            if (pair := assignment(s)) is not None
        )
        return (
            name in self.context.attributes
            or self.upstream.method(name) is not None
            or any(is_name(target, name) for target in given)
        )

    def read_properties(self, node: cst.CSTNodeT, frame: Frame) -> cst.CSTNodeT:
        """``self.rate`` → what the property returns, or a call to be inlined."""

        def replace(inner: cst.CSTNode) -> cst.CSTNode | None:
            found = self._property(inner)
            if found is None:
                return None
            value = only_return(found)
            if value is not None and found.module is frame.module:
                self.upstream.read(found)
                return parenthesize(value.deep_clone())
            if any(inner is n for part in lazy for n in walk(part)):
                self._refuse_lazy_property(inner)
                return None
            getter = f"{_PROPERTY}{found.name.rpartition('.')[2]}"
            frame.constants[getter] = found
            return cst.Call(cst.Name(getter))

        for _ in range(_MAX_DEPTH):
            before = node
            lazy = [p for n in walk(node) for p in lazy_parts(n)]
            node = cast(cst.CSTNodeT, replace_nodes(node, replace, self.origins))
            if node is before:
                break
        return node

    def _refuse_lazy_property(self, node: cst.CSTNode) -> None:
        self.context.refuse(
            "lower",
            node,
            f"{code(node)} is a property that is computed under a condition here",
            "read it on a line of its own before",
        )

    def _property(self, node: cst.CSTNode) -> Definition | None:
        """The property that an expression reads."""
        if not isinstance(node, cst.Attribute) or not is_name(node.value, "self"):
            return None
        method = self.upstream.method(node.attr.value)
        if method is None or not is_property(cast(cst.FunctionDef, method.node)):
            return None
        return method

    def sets_property(self, node: Statement) -> bool:
        """Whether a statement assigns through a property, which is then refused."""
        targets = (
            n.target
            for n in walk(node)
            if isinstance(n, (cst.AssignTarget, cst.AugAssign))
        )
        for part in (p for target in targets for p in walk(target)):
            if self._property(part) is not None:
                self.context.refuse(
                    "lower",
                    part,
                    f"{code(part)} is a property: what setting it does isn't seen",
                    "set what the property keeps instead",
                )
                return True
        return False

    def name_methods(self, node: cst.CSTNodeT, frame: Frame) -> cst.CSTNodeT:
        """``self.debias`` → ``debias``: a method that needs no ``self`` is a function."""

        def replace(inner: cst.CSTNode) -> cst.CSTNode | None:
            name = dotted(inner) if isinstance(inner, cst.Attribute) else None
            if name is None or not name.startswith("self.") or name.count(".") != 1:
                return None
            method = self.upstream.method(name[5:])
            if method is None or not self.needs_no_self(method):
                return None
            return cst.Name(self.context.name(method, name[5:], frame.local))

        return cast(cst.CSTNodeT, replace_nodes(node, replace, self.origins))

    def needs_no_self(
        self, method: Definition, seen: frozenset[str] = frozenset()
    ) -> bool:
        if method.name in seen:
            return True
        node = cast(cst.FunctionDef, method.node)
        if is_property(node):
            return False
        if "self" not in read_names(node.body):
            return True
        uses = [n for n in walk(node.body) if isinstance(n, cst.Attribute)]
        own = [n.attr.value for n in uses if is_name(n.value, "self")]
        count = sum(is_name(n, "self") for n in walk(node.body))
        if count != len(own):
            return False
        found = [self.upstream.method(name) for name in own]
        inner = seen | {method.name}
        return all(m is not None and self.needs_no_self(m, inner) for m in found)


def set_attribute(node: Statement) -> Statement:
    """``setattr(self, "x", v)`` → ``self.x = v``."""
    made = getattr(small(node), "value", None)
    if not isinstance(made, cst.Call) or not is_name(made.func, "setattr"):
        return node
    args = positional(made)
    if len(args) != 3 or not is_name(args[0], "self"):
        return node
    if not isinstance(args[1], cst.SimpleString):
        return node
    target = expr(f"self.{args[1].evaluated_value!s}")
    return with_comments(assign([target], args[2]), node)


def mangled(node: Statement, owner: str, origins: Origins) -> Statement:
    """``self.__k`` → ``self._Class__k``, as Python names a class's private attributes;
    methods keep their names."""

    def replace(inner: cst.CSTNode) -> cst.CSTNode | None:
        if not isinstance(inner, cst.Attribute) or not is_name(inner.value, "self"):
            return None
        name = inner.attr.value
        if inner in called or not name.startswith("__") or name.endswith("__"):
            return None
        return inner.with_changes(attr=cst.Name(f"_{owner.lstrip('_')}{name}"))

    called = {made.func for made in calls(node)}
    return cast(Statement, replace_nodes(node, replace, origins))
