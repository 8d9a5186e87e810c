"""Lists that a loop over all groups fills with parameters or gradients.

grads = []                                   →   grads = [
for group in self.param_groups:                      p.grad
    for p in group["params"]:                        for group in self.param_groups
        if p.grad is None:                           for p in group["params"]
            continue                                 if not p.grad is None
        grads.append(p.grad)                     ]
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import cast

import libcst as cst

from codegen.analysis.liveness import NONE, Liveness, liveness
from codegen.context import Context
from codegen.diagnostics import walk
from codegen.lower.blocks import group_loop_target
from codegen.substitution import substitute
from codegen.syntax import (
    Body,
    Statement,
    assign,
    assignment,
    bound_names,
    code,
    is_name,
    map_bodies,
    negate,
    orelse_statements,
    positional,
    read_names,
    small,
    statements,
    string_key,
    with_comments,
)


def append_loops_to_comprehensions(body: Body, context: Context) -> Body:
    """Such lists made at once, where the loop that fills them does nothing else."""
    return _gathered(body, liveness(body), context)


def _gathered(body: Body, live: Liveness, context: Context) -> Body:
    result: list[Statement] = []
    for number, node in enumerate(body):
        needed = live.after.get(node, NONE)
        if small(node) is None:
            node = map_bodies(node, lambda b: _gathered(b, live, context))
        filling = _Filling(node, context)
        found = filling.found()
        if needed & (bound_names(node) - found.keys()):
            found = {}  # a comprehension leaves no variables behind
        places = {name: _begun(name, result) for name in found}
        later = body[number + 1 :]
        if not found or None in places.values() or any(_changed(later, found)):
            result.append(node)
            continue
        if filling.raises:
            result.append(_without_appends(node, found))
        for name, value in found.items():
            new = assign([cst.Name(name)], value)
            context.origins.inherit(new, node)
            at = cast(int, _begun(name, result))
            result.append(with_comments(new, result.pop(at)))
    return tuple(result)


def _without_appends(node: Statement, names: Iterable[str]) -> Statement:
    """What a loop does besides: it looks at what can't be stepped."""
    appends = tuple(f"{name}.append(" for name in names)
    return map_bodies(
        node,
        lambda body: [
            _without_appends(s, names) if small(s) is None else s
            for s in body
            if not code(s).strip().startswith(appends)
        ],
    )


def _begun(name: str, before: Sequence[Statement]) -> int | None:
    """Where the list is made, if nothing asks for it since."""
    for number in reversed(range(len(before))):
        pair = assignment(before[number])
        if pair is not None and is_name(pair[0], name):
            return number if code(pair[1]) in ("[]", "list()") else None
        if name in read_names(before[number]):
            return None
    return None


def _changed(body: Iterable[Statement], names: Iterable[str]) -> Iterable[bool]:
    """Whether these lists may change afterwards."""
    known = {*names}
    for node in (n for s in body for n in walk(s)):
        if isinstance(node, cst.Attribute):
            yield is_name(node.value) and code(node.value) in known
        elif isinstance(node, (cst.AssignTarget, cst.AugAssign, cst.Del)):
            yield bool({n.value for n in walk(node) if isinstance(n, cst.Name)} & known)


@dataclass
class _Filling:
    """A loop over groups and parameters, in which lists get items and nothing else
    happens."""

    node: Statement
    context: Context
    names: dict[str, cst.BaseExpression] = field(default_factory=dict)
    items: dict[str, cst.BaseExpression] = field(default_factory=dict)
    raises: bool = False

    def found(self) -> dict[str, cst.BaseExpression]:
        """Each list as a comprehension; none where the loop does something else."""
        group = group_loop_target(self.node)
        if group is None or not isinstance(self.node, cst.For) or self.node.orelse:
            return {}
        inner = statements(self.node.body)
        loop = inner[0] if len(inner) == 1 else None
        if not isinstance(loop, cst.For) or loop.orelse or not is_name(loop.target):
            return {}
        source = loop.iter
        if not isinstance(source, cst.Subscript) or string_key(source) != "params":
            return {}
        if not is_name(source.value, group) or not is_name(self.node.target, group):
            return {}
        self.param = code(loop.target)
        self.loops = (self.node, loop)
        return self.items if self._read(statements(loop.body), ()) else {}

    def _read(
        self,
        body: Body,
        around: Sequence[cst.BaseExpression],
        whole: bool = True,
    ) -> bool:
        """Reads statements, under conditions ``around``, of the ``whole`` loop or of a
        branch, which decides for the rest of the loop if it skips or binds."""
        conditions = [*around]
        for node in body:
            pair = assignment(node)
            if isinstance(node, cst.If) and not orelse_statements(node):
                inner = statements(node.body)
                test = self._meant(node.test)
                last = small(inner[0]) if len(inner) == 1 else None
                if isinstance(last, cst.Continue) and whole:
                    conditions.append(negate(test))
                elif isinstance(last, cst.Raise):
                    self.raises = True
                elif not self._read(inner, [*conditions, test], whole=False):
                    return False
            elif pair is not None and isinstance(pair[0], cst.Name):
                if not whole or not self._is_own(self._meant(pair[1])):
                    return False
                self.names[pair[0].value] = self._meant(pair[1])
            elif not self._append(node, conditions):
                return False
        return True

    def _append(
        self, node: Statement, conditions: Sequence[cst.BaseExpression]
    ) -> bool:
        inner = small(node)
        value = inner.value if isinstance(inner, cst.Expr) else None
        if not isinstance(value, cst.Call) or not isinstance(value.func, cst.Attribute):
            return False
        name, given = value.func.value, positional(value)
        if value.func.attr.value != "append" or len(given) != 1 or not is_name(name):
            return False
        item = self._meant(given[0])
        if not self._is_own(item) or code(name) in self.items:
            return False
        self.items[code(name)] = self._comprehension(item, conditions)
        return True

    def _meant(self, node: cst.BaseExpression) -> cst.BaseExpression:
        return cast(
            cst.BaseExpression, substitute(node, self.names, self.context.origins)
        )

    def _is_own(self, node: cst.CSTNode) -> bool:
        """The parameter, or its gradient."""
        return code(node) in (self.param, f"{self.param}.grad")

    def _comprehension(
        self, item: cst.BaseExpression, conditions: Sequence[cst.BaseExpression]
    ) -> cst.ListComp:
        outer, inner = self.loops
        tests = [cst.CompIf(c.deep_clone()) for c in conditions]
        within = cst.CompFor(inner.target, inner.iter, ifs=tests)
        return cst.ListComp(
            item.deep_clone(),
            cst.CompFor(outer.target, outer.iter, inner_for_in=within),
        )
