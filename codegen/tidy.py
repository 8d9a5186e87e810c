"""Removes what no one reads: the leftovers of folding, inlining and rebinding."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Collection, Iterator, Sequence
from typing import cast

import libcst as cst

from codegen.analysis.copies import is_copy_wherever_read
from codegen.analysis.liveness import Liveness, liveness
from codegen.context import Context
from codegen.diagnostics import Origins
from codegen.purity import effects, iterators, pure, pure_functions
from codegen.substitution import substitute
from codegen.syntax import (
    Body,
    Statement,
    all_statements,
    assignment,
    block,
    bound_names,
    is_constant,
    orelse_statements,
    read_names,
    rebuild_if,
    same,
    small,
    statements,
    target_names,
    with_comments,
)

TOOL_PRAGMA = re.compile(r"#\s*(type:|noqa|pyrefly:|pyright:|pylint:|pragma)")


def tidy(body: Body, context: Context) -> Body:
    """Drop dead assignments until none is left."""
    return _tidied(body, context.origins)


def tidy_calls(body: Body, context: Context) -> Body:
    """The same, and calls of helpers that nobody needs: what mutates has been inlined,
    and those that are left are pure, unless they draw."""
    return _tidied(body, context.origins, pure_functions(context.sources()))


def _tidied(body: Body, origins: Origins, functions: Collection[str] = ()) -> Body:
    while True:
        before = body
        body = _propagate_copies(_drop_flags(body), origins)
        body = _Sweep(liveness(body), origins, functions, iterators(body)).block(body)
        if len(body) == len(before) and all(
            a.deep_equals(b) for a, b in zip(body, before)
        ):
            return body


class _Sweep:
    """One pass over a body, with the liveness of its names."""

    def __init__(
        self,
        live: Liveness,
        origins: Origins,
        functions: Collection[str] = (),
        iterators: frozenset[str] = frozenset(),
    ) -> None:
        self.live = live
        self.origins = origins
        self.functions = functions
        self.iterators = iterators

    def _is_pure(self, node: cst.CSTNode) -> bool:
        walks = read_names(node) & self.iterators
        return not walks and pure(node, self.functions)

    def block(self, body: Sequence[Statement]) -> Body:
        result: list[Statement] = []
        for node in body:
            new = self._left(node)
            if new is None:
                kept = self._statement(node)
                new = [] if kept is None else [kept]
            result += new
        return tuple(result)

    def _left(self, node: Statement) -> list[Statement] | None:
        """What a statement does whose value nobody needs; None if it is another."""
        inner, left = small(node), None
        if isinstance(inner, cst.Expr):
            told = isinstance(inner.value, (cst.Call, cst.BaseString, cst.Ellipsis))
            left = None if told else inner.value
        elif isinstance(node, cst.If):
            done = _without_pass(statements(node.body))
            rest = _without_pass(orelse_statements(node))
            left = None if done or rest else node.test
        if left is None:
            return None
        lines = effects(left, self.functions)
        for line in lines:
            self.origins.inherit(line, node)
        return [with_comments(lines[0], node), *lines[1:]] if lines else []

    def _statement(self, node: Statement) -> Statement | None:
        if isinstance(node, cst.If):
            return self._if(node)
        if isinstance(node, (cst.For, cst.While, cst.With)):
            return self._repeated(node)
        if isinstance(node, cst.FunctionDef):
            if node.name.value not in self.live.after.get(node, ()):
                return None
            inner = statements(node.body)
            return node.with_changes(body=block(_tidied(inner, self.origins)))
        return self._simple(node)

    def _repeated(self, node: cst.For | cst.While | cst.With) -> Statement | None:
        body = self.block(statements(node.body))
        orelse = None if isinstance(node, cst.With) else node.orelse
        if orelse is not None:
            rest = self.block(statements(orelse.body))
            orelse = orelse.with_changes(body=block(rest)) if rest else None
            node = node.with_changes(orelse=orelse)
        if body or orelse is not None or isinstance(node, cst.While):
            return node.with_changes(body=block(body))
        heads = [node.iter] if isinstance(node, cst.For) else node.items
        if all(map(self._is_pure, heads)):
            return None
        return node.with_changes(body=block(body))

    def _if(self, node: cst.If) -> Statement | None:
        body = self.block(statements(node.body))
        if isinstance(node.orelse, cst.If):
            rest = self._if(node.orelse)
            orelse: Body = () if rest is None else (rest,)
        else:
            orelse = (
                () if node.orelse is None else self.block(statements(node.orelse.body))
            )
        body, orelse = _without_pass(body), _without_pass(orelse)
        if not body and not orelse:
            if self._is_pure(node.test):
                return None
            return node.with_changes(body=block(()), orelse=None)
        return rebuild_if(node, node.test, body, orelse)

    def _simple(self, node: Statement) -> Statement | None:
        inner = small(node)
        if isinstance(inner, cst.Assign):
            return self._assign(node, inner)
        if isinstance(inner, cst.AnnAssign):
            return self._annotated(node, inner)
        return _without_pragma(node)

    def _annotated(self, node: Statement, inner: cst.AnnAssign) -> Statement | None:
        if inner.value is None:
            return None
        plain = cst.Assign([cst.AssignTarget(inner.target)], inner.value)
        return self._assign(node, plain)

    def _assign(self, node: Statement, inner: cst.Assign) -> Statement | None:
        """Drop dead targets; drop the statement where none is left."""
        after = self.live.after.get(node, frozenset())
        targets = [
            t for t in inner.targets if not self._dead(t.target, inner.value, after)
        ]
        if targets or not self._is_pure(inner.value):
            if not targets:
                return node.with_changes(body=[cst.Expr(inner.value)])
            return _without_pragma(
                node.with_changes(body=[inner.with_changes(targets=targets)])
            )
        return None

    def _dead(
        self,
        target: cst.BaseExpression,
        value: cst.BaseExpression,
        after: frozenset[str],
    ) -> bool:
        if isinstance(target, (cst.Name, cst.Attribute, cst.Subscript)):
            if same(target, value):
                return True
        return _only_names(target) and not set(target_names(target)) & after


def _only_names(target: cst.CSTNode) -> bool:
    """Whether a target binds names alone: ``a, b``, not ``a, x["k"]``."""
    if isinstance(target, (cst.Tuple, cst.List)):
        return all(_only_names(e.value) for e in target.elements)
    return isinstance(target, cst.Name)


def _without_pass(body: Body) -> Body:
    return tuple(s for s in body if not isinstance(small(s), cst.Pass))


def _without_pragma(node: Statement) -> Statement:
    trailing = getattr(node, "trailing_whitespace", None)
    if trailing is not None and trailing.comment is not None:
        if TOOL_PRAGMA.match(trailing.comment.value):
            node = node.with_changes(trailing_whitespace=cst.TrailingWhitespace())
    lines = [
        l
        for l in node.leading_lines
        if not (l.comment and TOOL_PRAGMA.match(l.comment.value))
    ]
    return node.with_changes(leading_lines=lines)


def _drop_flags(body: Body) -> Body:
    """Variables that only accumulate: ``has_complex |= torch.is_complex(p)``."""
    flags = _candidate_flags(body)
    for node in all_statements(body):
        inner = small(node)
        if isinstance(inner, cst.AugAssign) and isinstance(inner.target, cst.Name):
            flags -= read_names(inner.value) - {inner.target.value}
        elif inner is not None:
            flags -= read_names(inner)
        else:
            flags -= _head_reads(node)
    return _remove_bindings(body, flags) if flags else body


def _candidate_flags(body: Body) -> set[str]:
    added: set[str] = set()
    other: set[str] = set()
    for node in all_statements(body):
        inner = small(node)
        if isinstance(inner, cst.AugAssign) and isinstance(inner.target, cst.Name):
            (added if pure(inner.value) else other).add(inner.target.value)
        elif isinstance(inner, cst.Assign) and is_constant(inner.value):
            continue
        elif inner is not None:
            other |= bound_names(inner)
        elif isinstance(node, cst.For):
            other |= set(target_names(node.target))
    return added - other


def _head_reads(node: Statement) -> set[str]:
    if isinstance(node, (cst.If, cst.While)):
        names = read_names(node.test)
        orelse = node.orelse
        while isinstance(orelse, cst.If):
            names |= read_names(orelse.test)
            orelse = orelse.orelse
        return names
    if isinstance(node, cst.For):
        return read_names(node.iter)
    if isinstance(node, (cst.FunctionDef, cst.With, cst.Try)):
        return read_names(node)
    return set()


def _remove_bindings(body: Sequence[Statement], names: set[str]) -> Body:
    result: list[Statement] = []
    for node in body:
        inner = small(node)
        if inner is not None and bound_names(inner) and bound_names(inner) <= names:
            continue
        if isinstance(node, (cst.For, cst.While, cst.With, cst.If)):
            node = node.with_changes(
                body=block(_remove_bindings(statements(node.body), names))
            )
            orelse = getattr(node, "orelse", None)
            if isinstance(orelse, cst.If):
                node = node.with_changes(orelse=_remove_bindings([orelse], names)[0])
            elif orelse is not None:
                new = _remove_bindings(statements(orelse.body), names)
                node = node.with_changes(orelse=orelse.with_changes(body=block(new)))
        result.append(node)
    return tuple(result)


# --- copies --------------------------------------------------------------------


def _propagate_copies(body: Body, origins: Origins) -> Body:
    """``device_beta1 = beta1``, each bound once: one name is enough."""
    bindings = Counter(_bindings(body))
    for node in all_statements(body):
        pair = assignment(node)
        if pair is None or not isinstance(pair[0], cst.Name):
            continue
        if not isinstance(pair[1], cst.Name) or pair[1].value not in bindings:
            continue
        if bindings[pair[0].value] == 1 and bindings[pair[1].value] == 1:
            if not is_copy_wherever_read(body, pair[0].value, pair[1].value):
                continue
            copy = {pair[0].value: cst.Name(pair[1].value)}
            return tuple(cast(Statement, substitute(s, copy, origins)) for s in body)
    return body


def _bindings(body: Body) -> Iterator[str]:
    for node in all_statements(body):
        inner = small(node)
        if inner is not None:
            yield from bound_names(inner)
        elif isinstance(node, cst.For):
            yield from target_names(node.target)
            yield from target_names(node.target)  # bound anew in each iteration
        elif isinstance(node, cst.FunctionDef):
            yield from bound_names(node.body)
