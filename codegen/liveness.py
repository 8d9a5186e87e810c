"""Which variables may still be read after each statement. Never rewrites."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

import libcst as cst

from codegen.syntax import (
    bound_names,
    free_names,
    read_names,
    small,
    statements,
    target_names,
)

Names = frozenset[str]
NONE: Names = frozenset()


@dataclass
class Liveness:
    """``after[statement]``: names whose value may be read later.

    Nested functions capture by reference: reading such a function's name counts
    as reading what it captures.
    """

    after: dict[cst.CSTNode, Names] = field(default_factory=dict)
    captured: dict[str, Names] = field(default_factory=dict)

    def reads(self, node: cst.CSTNode | None) -> Names:
        if node is None:
            return NONE
        names = set(read_names(node))
        for name in list(names):
            names |= self.captured.get(name, NONE)
        return frozenset(names)

    def replace(
        self,
        node: cst.CSTNode,
        new: Sequence[cst.CSTNode],
        inside: Iterable[str] = (),
    ) -> None:
        """Statements take another one's place; ``inside`` is read by what is left."""
        if node not in self.after:
            return
        after = self.after[node] | frozenset(inside)
        for part in reversed(new):
            self.after[part] = after
            after = after | self.reads(part)

    # --- blocks -------------------------------------------------------------

    def block(
        self, body: Sequence[cst.CSTNode], after: Names, loop: tuple[Names, Names]
    ) -> Names:
        """Names live before ``body``; ``loop`` is what is live after a ``continue``
        and after a ``break``."""
        for node in reversed(body):
            self.after[node] = self.after.get(node, NONE) | after
            after = self._before(node, after, loop)
        return after

    def _before(
        self, node: cst.CSTNode, after: Names, loop: tuple[Names, Names]
    ) -> Names:
        if isinstance(node, cst.If):
            return self._if(node, after, loop)
        if isinstance(node, (cst.For, cst.While)):
            return self._loop(node, after, loop)
        if isinstance(node, cst.With):
            reads = frozenset().union(*(self.reads(i.item) for i in node.items))
            return reads | self.block(statements(node.body), after, loop)
        if isinstance(node, cst.Try):
            return self._try(node, after, loop)
        if isinstance(node, cst.FunctionDef):
            self.block(statements(node.body), NONE, (NONE, NONE))
            return after - {node.name.value} | self._defaults(node)
        return self._small(node, after, loop)

    def _defaults(self, node: cst.FunctionDef) -> Names:
        return self.reads(node.params)

    def _small(
        self, node: cst.CSTNode, after: Names, loop: tuple[Names, Names]
    ) -> Names:
        inner = small(node)
        if isinstance(inner, cst.Continue):
            return loop[0]
        if isinstance(inner, cst.Break):
            return loop[1]
        if isinstance(inner, (cst.Return, cst.Raise)):
            return self.reads(inner)
        return after - killed_by(node) | self.reads(node)

    def _if(self, node: cst.If, after: Names, loop: tuple[Names, Names]) -> Names:
        live = self.block(statements(node.body), after, loop)
        if isinstance(node.orelse, cst.If):
            other = self._if(node.orelse, after, loop)
        elif node.orelse is not None:
            other = self.block(statements(node.orelse.body), after, loop)
        else:
            other = after
        return self.reads(node.test) | live | other

    def _loop(
        self, node: cst.For | cst.While, after: Names, loop: tuple[Names, Names]
    ) -> Names:
        leave = after
        if node.orelse is not None:
            after = self.block(statements(node.orelse.body), after, loop)
        if isinstance(node, cst.For):
            head_reads, killed = NONE, frozenset(target_names(node.target))
        else:
            head_reads, killed = self.reads(node.test), NONE
        head = after | head_reads
        while True:
            body = self.block(statements(node.body), head, (head, leave))
            grown = head | (body - killed)
            if grown == head:
                break
            head = grown
        return head | (self.reads(node.iter) if isinstance(node, cst.For) else NONE)

    def _try(self, node: cst.Try, after: Names, loop: tuple[Names, Names]) -> Names:
        if node.finalbody is not None:
            after = after | self.block(statements(node.finalbody.body), after, loop)
        handlers = after
        for handler in node.handlers:
            handlers |= self.block(statements(handler.body), after, loop)
            handlers |= self.reads(handler.type)
        if node.orelse is not None:
            after = self.block(statements(node.orelse.body), after, loop)
        # an exception may leave the body after any of its statements
        for inner in statements(node.body):
            self.after[inner] = self.after.get(inner, NONE) | handlers
        return self.block(statements(node.body), after | handlers, loop) | handlers


def killed_by(node: cst.CSTNode) -> Names:
    """Names that a simple statement surely overwrites."""
    inner = small(node)
    if isinstance(inner, cst.AugAssign):
        return NONE
    if inner is None:
        return NONE
    return frozenset(bound_names(inner))


def liveness(body: Sequence[cst.CSTNode], live_out: Iterable[str] = ()) -> Liveness:
    """Liveness of the names of a function body."""
    result = Liveness()
    _collect_captured(body, result.captured)
    result.block(body, frozenset(live_out), (NONE, NONE))
    return result


def live_before(body: Sequence[cst.CSTNode], live_out: Iterable[str] = ()) -> set[str]:
    """Names that statements read before they bind them, or leave for ``live_out``."""
    result = Liveness()
    _collect_captured(body, result.captured)
    return set(result.block(body, frozenset(live_out), (NONE, NONE)))


def _collect_captured(body: Iterable[cst.CSTNode], found: dict[str, Names]) -> None:
    from codegen.syntax import all_statements

    for node in all_statements(body):
        if isinstance(node, cst.FunctionDef):
            found[node.name.value] = frozenset(free_names(node))
            _collect_captured(statements(node.body), found)
        inner = small(node)
        if isinstance(inner, cst.Assign) and isinstance(inner.value, cst.Lambda):
            for target in inner.targets:
                for name in target_names(target.target):
                    found[name] = frozenset(read_names(inner.value))
