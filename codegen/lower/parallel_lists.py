"""Lists over the parameters, walked in lockstep: one loop, one variable for each list.

    params = [p for p in group["params"] if p.grad is not None]
    grads = [p.grad for p in params]           for p in group["params"]:
    bufs = [self.state[p]["buf"] for p in params]  if p.grad is None:
    for buf, grad in zip(bufs, grads):     →           continue
        buf.mul_(0.9).add_(grad)                   grad = p.grad
    for p, buf in zip(params, bufs):               buf = self.state[p]["buf"]
        p.add_(buf, alpha=-lr)                     buf.mul_(0.9).add_(grad)
                                                   p.add_(buf, alpha=-lr)

Loops become one as long as nothing that one of them computes for all parameters is
read by the next. Where it is (a norm over all gradients), a loop ends: lists that are
read as a whole are filled, and what a later loop needs is looked up again, or kept
by the position of its parameter.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import cast

import libcst as cst

from codegen.analysis.liveness import upward_exposed
from codegen.context import Context
from codegen.diagnostics import walk
from codegen.lower.dependence import Dependence
from codegen.lower.domains import ParamDomain
from codegen.lower.filled import filled
from codegen.lower.forms import (
    appended,
    appending,
    as_list,
    does_nothing_without,
    emptiness,
    may_fail,
    upward_exposed_uses,
)
from codegen.lower.listed import KnownLists, Listed, Unfit
from codegen.lower.per_parameter import PerParameter
from codegen.lower.segments import Segments
from codegen.purity import is_unpacked
from codegen.substitution import substitute
from codegen.syntax import (
    Body,
    Statement,
    all_statements,
    assign,
    assignment,
    block,
    bound_names,
    calls,
    code,
    dotted,
    expr,
    is_name,
    map_bodies,
    negate,
    read_names,
    replace_nodes,
    small,
    statements,
    string_key,
)

_HINT = (
    "walk the parameters in one loop, or in loops that share nothing but lists with "
    "one item a parameter"
)
_MAKE = "make a list: [...] instead of (...)"
_READ_WHOLE = {"sum", "max", "min", "any", "all", "list", "tuple", "sorted", "set"}
_READ_WHOLE |= {"dict", "math.fsum", "math.prod"}


def fuse_parallel_lists(body: Body, context: Context) -> Body:
    """Rewrite each block that builds lists over a group's parameters."""
    return _fused(body, body, context)


def _fused(body: Body, step: Body, context: Context) -> Body:
    result: list[Statement] = []
    for number, node in enumerate(body):
        if _is_generator(node) and not _is_read_next(body[number:], step):
            context.refuse("R2", node, "a generator is read later, or twice", _MAKE)
        if small(node) is None and not _is_walk(node):
            node = map_bodies(node, lambda part: _fused(part, step, context))
        result.append(node)
    plain = _unwrapped(result)
    if not any(map(_builds_list, all_statements(plain))) and not filled(plain):
        return tuple(result)
    dependence = Dependence((*step, *result), context)
    lockstep = ParallelListFusion(plain, context, dependence)
    try:
        new = lockstep.run()
    except Unfit as unfit:
        context.refuse("R2", unfit.node, unfit.message, _HINT)
        return tuple(result)
    return new if lockstep.lists.found else tuple(result)


def _is_generator(node: Statement) -> bool:
    """Whether a variable is a generator from here on."""
    pair = assignment(node)
    if pair is None or not isinstance(pair[1], cst.GeneratorExp):
        return False
    return not is_unpacked(pair[0])


def _is_read_next(body: Body, step: Body) -> bool:
    """Whether nothing but the statement after the first one reads what that binds, and
    to its end: then it may be a list."""
    name = code(cast("tuple[cst.CSTNode, cst.CSTNode]", assignment(body[0]))[0])
    reads = [n for s in step for n in walk(s) if is_name(n, name)]
    if len(body) == 1 or len(reads) != 2 or name not in read_names(body[1]):
        return False
    if isinstance(body[1], cst.For):
        return name in read_names(body[1].iter)
    whole = (c for c in calls(body[1]) if dotted(c.func) in _READ_WHOLE)
    return small(body[1]) is not None and any(name in read_names(c) for c in whole)


def _is_walk(node: Statement) -> bool:
    return isinstance(node, cst.For) and not any(
        string_key(n) == "params" or dotted(n) == "self.param_groups"
        for n in walk(node)
    )


def _builds_list(node: cst.CSTNode) -> bool:
    if small(node) is None:
        return False
    return any(isinstance(n, (cst.ListComp, cst.GeneratorExp)) for n in walk(node))


def _unwrapped(body: Iterable[Statement]) -> Body:
    """Without ``with torch.no_grad():``, which changes no values."""
    result: list[Statement] = []
    for node in body:
        modes = isinstance(node, cst.With) and all(
            code(i.item).startswith(("torch.no_grad", "torch.inference_mode"))
            for i in node.items
        )
        inside = _unwrapped(statements(cast(cst.With, node).body)) if modes else ()
        result.extend(inside if modes else (node,))
    return tuple(result)


class ParallelListFusion:
    """The statements of one block, taken into loops over the parameters."""

    def __init__(self, body: Body, context: Context, dependence: Dependence) -> None:
        self.body = body
        self.context = context
        self.dependence = dependence
        self.origins = context.origins
        self.lists = KnownLists(body, context.origins, dependence)
        self.segments = Segments(self.lists, context, dependence)
        self.turns = PerParameter(self.lists, self.segments)

    def run(self) -> Body:
        for number, node in enumerate(self.body):
            self.lists.needed = upward_exposed(self.body[number + 1 :])
            self.lists.reading = read_names(node)
            self._statement(node)
        self.lists.needed = self.lists.reading = set()
        self.segments.flush()
        return tuple(self.segments.out)

    def _statement(self, node: Statement) -> None:
        if self._begins(node) or self._is_guard(node):
            return
        if isinstance(node, cst.If) and self._asks_for_any(node):
            self._each(statements(node.body), self.lists.needed)
            return
        if self.turns.mapped(node):
            if isinstance(node, cst.If):
                self.turns.name_items(node)
            domain = self.turns.domain_of(node)
            new = self._fill_read(self.turns.items(node), node)
            self.segments.join(domain, new, node)
        elif self.lists.mentions(node) or self._reads_items(node):
            self._whole(node)
        else:
            self._beside(node)

    def _fill_read(self, new: list[Statement], node: Statement) -> list[Statement]:
        """Lists that the turn of one parameter reads as a whole are filled before."""
        read = set().union(*map(read_names, new), set()) & {
            *self.lists.known,
            *self.lists.empty,
        }
        filled: dict[str, cst.Name] = {}
        for name in sorted(read):
            found = self._list(cst.Name(name), node)
            if not isinstance(found, cst.Name):
                raise Unfit(node, "a list of parameters is used as a whole")
            filled[name] = found
        if filled:
            self.segments.flush()
            self._forget_changed(node)
        return [cast(Statement, substitute(s, filled, self.origins)) for s in new]

    def _forget_changed(self, node: Statement) -> None:
        """A list that is changed as a whole has no item for each parameter any more."""
        items = self.segments.needed_items()
        for variable, found in self.segments.definitions.items():
            if variable in items and found and self.dependence.replaces(found, [node]):
                raise Unfit(
                    node, "what lists were made of is replaced outside of loops"
                )
        for name in [n for n in self.lists.known if self.dependence.changes(node, n)]:
            del self.lists.known[name]

    def _asks_for_any(self, node: cst.If) -> bool:
        """``if params:`` around loops, which do nothing without parameters anyway."""
        name = emptiness(negate(node.test))
        if name not in self.lists.known or node.orelse is not None:
            return False
        live = self.lists.needed | self.dependence.carried
        return does_nothing_without(self.lists.alike(name), statements(node.body), live)

    def _each(self, body: Body, after: set[str]) -> None:
        """Statements that stand inside another one, in its place."""
        for number, inner in enumerate(body):
            self.lists.needed = upward_exposed(body[number + 1 :], after)
            self.lists.reading = read_names(inner)
            self._statement(inner)

    def _begins(self, node: Statement) -> bool:
        """``params = [p for p in group["params"] if …]`` and ``grads = []``."""
        pair = assignment(node)
        if pair is None or not isinstance(pair[0], cst.Name):
            return False
        name, value = pair[0].value, as_list(pair[1])
        if code(value) in ("[]", "list()") and self._is_filled(name):
            self.lists.empty[name] = node
            self.lists.known.pop(name, None)
            return True
        domain = self.lists.selection(value)
        if domain is None:
            return False
        self.lists.known[name] = Listed(domain, self.lists.item)
        return True

    def _is_filled(self, name: str) -> bool:
        """Whether the block's loops append to a list."""
        return any(
            pair[0] == name
            for s in all_statements(self.body)
            if (pair := appended(s)) is not None
        )

    def _is_guard(self, node: Statement) -> bool:
        """``if not params: continue``: without parameters, no loop does anything."""
        if not isinstance(node, cst.If) or node.orelse is not None:
            return False
        body = statements(node.body)
        inner = small(body[0]) if len(body) == 1 else None
        if isinstance(inner, cst.Raise):
            return self.lists.mentions(node)
        if not isinstance(inner, (cst.Continue, cst.Return)):
            return False
        name = emptiness(node.test)
        if name not in self.lists.known and name not in self.lists.empty:
            return False
        whole = any(node is s for s in self.body)
        rest = self.body[self.body.index(node) + 1 :] if whole else self.body
        # leaving the step leaves out other groups, too
        leaves = isinstance(inner, cst.Return)
        if (
            leaves
            or any(map(may_fail, rest))
            or not does_nothing_without(
                self.lists.alike(name), rest, self.dependence.carried
            )
        ):
            listed = self.lists.known.get(name)
            if listed is None:
                return False
            self.segments.flush()
            self.segments.out.append(
                node.with_changes(test=listed.domain.is_empty(self.lists.item))
            )
            self.origins.inherit(self.segments.out[-1], node)
        return True

    def _whole(self, node: Statement) -> None:
        """``torch.stack(norms).norm()``: the loop ends, with the list filled."""
        if isinstance(node, cst.If) and node.orelse is None:
            self._inside(node)
            return
        line = small(node)
        known = isinstance(line, (cst.Assign, cst.AugAssign, cst.Expr, cst.AnnAssign))
        if not known or read_names(node) & self.lists.empty.keys():
            raise Unfit(node, "a list of parameters is used as a whole")
        assert isinstance(line, (cst.Assign, cst.AugAssign, cst.Expr, cst.AnnAssign))
        self.lists.found = self.lists.found or _builds_list(node)
        value = cast(cst.BaseExpression, line.value)
        for replace in (self.lists.count_items, self._part, self._list):
            self._refuse_iterators(value, node)
            value = cast(
                cst.BaseExpression,
                replace_nodes(value, lambda n: replace(n, node), self.origins),
            )
        new = cast(cst.SimpleStatementLine, node)
        new = new.with_changes(body=[line.with_changes(value=value)])
        self.origins.inherit(new, node)
        self.segments.flush()
        if self._reads_items(new):
            raise Unfit(node, "one parameter's own is read outside of the loops")
        self._forget_changed(node)
        for name in bound_names(new):
            self.lists.known.pop(name, None)
        self.segments.out.append(new)

    def _refuse_iterators(self, value: cst.BaseExpression, node: Statement) -> None:
        """A list stands for a generator only where that is read to its end, at once."""
        read = {
            arg.value
            for made in calls(value)
            if dotted(made.func) in _READ_WHOLE
            for arg in made.args
        }
        for inner in walk(value):
            if isinstance(inner, cst.GeneratorExp) and inner not in read:
                if self.lists.comprehended(inner) is not None:
                    raise Unfit(node, "a generator over parameters is handed on")

    def _part(self, inner: cst.CSTNode, node: Statement) -> cst.CSTNode | None:
        """``[g.norm() for g in grads]`` becomes a list that the loop fills."""
        if not isinstance(inner, (cst.ListComp, cst.GeneratorExp)):
            return None
        found = self.lists.comprehended(cst.ListComp(inner.elt, inner.for_in))
        if found is None:
            return None
        part = self.lists.unused("part")
        bind = assign([cst.Name(part)], found[1])
        self.origins.inherit(bind, node)
        return self._filling(self.lists.unused("parts"), part, found[0], [bind], node)

    def _list(self, inner: cst.CSTNode, node: Statement) -> cst.CSTNode | None:
        """A list that is read as a whole is filled."""
        if not isinstance(inner, cst.Name) or inner.value not in self.lists.known:
            return None
        listed = self.lists.known[inner.value]
        if listed.variable == self.lists.item:
            raise Unfit(node, "a list of parameters is used as a whole")
        if self.segments.segment and self.segments.conflict(
            self.segments.segment.made_from, node
        ):
            self.segments.flush()
        name = inner.value
        if self.segments.stores.get(name) == name:
            name = self.lists.unused(name)
        return self._filling(name, listed.variable, listed.domain, [], node)

    def _filling(
        self,
        name: str,
        variable: str,
        domain: ParamDomain,
        before: list[Statement],
        node: Statement,
    ) -> cst.Name:
        new = [*before, appending(name, variable)]
        self.origins.inherit(new[-1], node)
        self.segments.join(domain, new, node)
        self.context.whole_lists.add(name)
        self.segments.out.append(assign([cst.Name(name)], expr("[]")))
        return cst.Name(name)

    def _inside(self, node: cst.If) -> None:
        """A branch with loops of its own: what it replaces is kept by position."""
        if self.lists.holds_any(node.test):
            raise Unfit(node, "a list of parameters is used as a whole")
        after = self.lists.needed
        self.lists.needed = after | read_names(node)
        replaced = [n for n in sorted(bound_names(node)) if n in self.lists.known]
        for name in replaced:
            listed = self.lists.known[name]
            self.turns.name_items(node)
            listed = self.lists.known[name]
            kept = expr(f"{self.segments.open_store(name)}[p_idx]")
            store = assign([kept], cst.Name(listed.variable))
            self.segments.kept.discard(name)
            self.segments.join(listed.domain, [store], node)
            self.segments.kept.add(name)
        self.segments.flush()
        outside, self.segments.out = self.segments.out, []
        self._each(statements(node.body), after | set(replaced))
        self.lists.needed = after | set(replaced)
        self.segments.flush()
        inside, self.segments.out = self.segments.out, outside
        self.segments.out.append(node.with_changes(body=block(inside)))
        self.origins.inherit(self.segments.out[-1], node)
        self.lists.needed = after

    def _reads_items(self, node: Statement) -> bool:
        own = {v.variable for v in self.lists.known.values()} - {self.lists.item}
        return bool(upward_exposed_uses([node]) & own)

    def _beside(self, node: Statement) -> None:
        """A statement that knows nothing of lists goes before the loop, if it may."""
        segment = self.segments.segment
        if segment is not None:
            if not self.dependence.may_move(node, segment.made_from):
                self.segments.flush()
        self._forget_changed(node)
        for name in bound_names(node):
            self.lists.known.pop(name, None)
        self.segments.out.append(node)
