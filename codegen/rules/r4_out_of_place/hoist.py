"""One mutation a statement, before any is rewritten.

    torch.maximum(u.mul_(b), g.abs(), out=u)   →   u.mul_(b)
                                                   torch.maximum(u, g.abs(), out=u)

A mutation inside an expression moves to a statement of its own in front; what it
stood for is its receiver. Mutations of temporaries (``(a / b).add_(eps)``) stay. What
takes an item out of a container moves likewise: ``x + bufs.pop(0)``.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import cast

import libcst as cst

from codegen import optable
from codegen.context import Context
from codegen.diagnostics import children, walk
from codegen.evaluation import Evaluation
from codegen.inplace import (
    chain_root,
    inplace_function,
    inplace_method,
    is_place,
    mutated,
    mutates_place,
    takes_item,
)
from codegen.ir.loops import Loop, Walk
from codegen.optable import Operation, Result
from codegen.rules.r4_out_of_place.aliases import may_alias_classes
from codegen.rules.r4_out_of_place.keys import acting_keys, keys_first
from codegen.syntax import (
    HAVE_VALUES,
    Body,
    Statement,
    all_statements,
    bare,
    block,
    dotted,
    index_of,
    is_constant,
    keyword,
    map_bodies,
    orelse_statements,
    read_names,
    small,
    statements,
    with_comments,
)


def hoist(body: Body, context: Context) -> Body:
    """``body`` with every mutation of a place a statement, or the right-hand side of
    one."""
    return _Hoist(context, may_alias_classes(body)).block(body)


class _Hoist:
    def __init__(
        self, context: Context, may_alias_classes: Mapping[str, frozenset[str]]
    ) -> None:
        self.context = context
        self.may_alias_classes = may_alias_classes

    def block(self, body: Sequence[Statement]) -> Body:
        return tuple(new for node in body for new in self._statement(node))

    def _statement(self, node: Statement) -> list[Statement]:
        if isinstance(node, cst.If):
            return self._if(node)
        if isinstance(node, cst.While) and _mutates_inside(node.test):
            self.context.refuse(
                "R4",
                node.test,
                "the condition of a loop mutates a tensor or a container",
                "compute the condition in a statement of its own",
            )
        if isinstance(node, cst.For):
            named, node = self._named_walk(node)
            if named:
                return [new for part in (*named, node) for new in self._statement(part)]
            prelude, iterated = self._extract(node.iter)
            node = node.with_changes(iter=iterated)
            return [*prelude, self._inside(node)]
        if isinstance(node, (cst.While, cst.With, cst.Try, cst.FunctionDef)):
            return [self._inside(node)]
        return self._simple(node)

    def _inside(self, node: Statement) -> Statement:
        return map_bodies(node, lambda part: self.block(part))

    def _if(self, node: cst.If) -> list[Statement]:
        prelude, test = self._extract(node.test)
        body = self.block(statements(node.body))
        new = node.with_changes(test=test, body=block(body))
        if isinstance(node.orelse, cst.If):
            rest = self._if(node.orelse)
            if len(rest) == 1:
                new = new.with_changes(orelse=rest[0])
            else:
                new = new.with_changes(orelse=cst.Else(block(rest)))
        elif node.orelse is not None:
            inner = self.block(orelse_statements(node))
            new = new.with_changes(orelse=node.orelse.with_changes(body=block(inner)))
        return [*prelude, new]

    def _named_walk(self, node: cst.For) -> tuple[list[Statement], cst.For]:
        """``for t in (a, b):`` → ``walked = (a, b)`` in front, where the body changes
        tensors: what is still to be walked is held."""
        if Loop.of(node).walk in (Walk.GROUPS, Walk.PARAMETERS, Walk.RANGE):
            return [], node
        body = node.with_changes(iter=cst.Name("walked"), orelse=None)
        if not any(True for s in all_statements([body]) for _ in mutated(s)):
            return [], node
        names = _Walked(self.context, node.iter)
        return names.prelude, node.with_changes(iter=names.visit(node.iter))

    def _simple(self, node: Statement) -> list[Statement]:
        inner = small(node)
        if isinstance(inner, (cst.Assign, cst.AnnAssign)) and inner.value is not None:
            branches = _as_branches(node, inner)
            if branches is not None:
                return list(self.block([branches]))
        for first in (keys_first(node, self.context), self._name_roots(node)):
            if len(first) > 1:
                return [new for part in first for new in self._statement(part)]
        if inner is None or not _mutates_inside(inner):
            return [node]
        if isinstance(inner, cst.Expr):
            prelude, value = self._extract(inner.value, whole=True)
            new: cst.BaseSmallStatement = inner.with_changes(value=value)
        elif isinstance(inner, cst.Assign) and _plain_targets(inner):
            prelude, value = self._extract(inner.value, whole=True)
            new = inner.with_changes(value=value)
        elif isinstance(inner, (cst.AugAssign, cst.AnnAssign, cst.Return, cst.Assign)):
            assert inner.value is not None
            self._refuse_late_target(inner)
            prelude, value = self._extract(inner.value, whole=takes_item(inner.value))
            new = inner.with_changes(value=value)
        elif isinstance(inner, cst.Assert):
            prelude, test = self._extract(inner.test)
            new = inner.with_changes(test=test)
        else:
            prelude, new = [], inner
        self._refuse_left(new)
        last = cst.SimpleStatementLine([new])
        if not prelude:
            return [with_comments(last, node)]
        prelude[0] = prelude[0].with_changes(leading_lines=node.leading_lines)
        return [*prelude, last]

    def _refuse_left(self, node: cst.BaseSmallStatement) -> None:
        """A target, a message or an index is no place for a mutation."""
        taken = (getattr(node, "value", None), getattr(node, "test", None))
        for inner in (n for c in children(node) if c not in taken for n in walk(c)):
            if mutates_place(inner) or takes_item(inner):
                self.context.refuse(
                    "R4",
                    inner,
                    "a tensor or a container is mutated inside a statement that does "
                    "something else",
                    "mutate it in a statement of its own",
                )

    def _refuse_late_target(self, node: cst.BaseSmallStatement) -> None:
        """``bufs[0] += bufs.pop()`` reads its target first."""
        if not isinstance(node, cst.AugAssign) or isinstance(node.target, cst.Name):
            return
        if any(map(takes_item, walk(node))):
            self.context.refuse(
                "R4",
                node,
                "an item is taken out of a container after the target was read",
                "take it out in a statement of its own",
            )

    def _name_roots(self, node: Statement) -> list[Statement]:
        """``state.get("m", z).mul_(b)`` → ``get_1 = state.get("m", z)`` in front: what
        is mutated may be held elsewhere."""
        inner = small(node)
        value = getattr(inner, "value", None)
        if not isinstance(inner, HAVE_VALUES) or value is None:
            return [node]
        roots = _Roots(self.context, value)
        new = roots.visit(value)
        if new is value:
            return [node]
        last = cst.SimpleStatementLine([inner.with_changes(value=new)])
        self.context.origins.inherit(last, node)
        return [with_comments(roots.prelude[0], node), *roots.prelude[1:], last]

    def _extract(
        self, node: cst.BaseExpression, whole: bool = False
    ) -> tuple[list[Statement], cst.BaseExpression]:
        """(mutations, expression); one that is the ``whole`` expression stays."""
        mutations = _Mutations(self.context, self.may_alias_classes, node)
        if whole and not takes_item(node):
            return mutations.prelude, mutations.chain(node)
        new = mutations.visit(node, whole=whole)
        return mutations.prelude, new


def _plain_targets(node: cst.Assign) -> bool:
    return all(isinstance(t.target, cst.Name) for t in node.targets)


def _as_branches(node: Statement, inner: cst.Assign | cst.AnnAssign) -> cst.If | None:
    """``y = x.mul_(a) if c else z`` → an ``if`` statement: only one side happens."""
    value = inner.value
    if not isinstance(value, cst.IfExp):
        return None
    sides = (value.body, value.orelse)
    if not any(_mutates_inside(s) or _binds_acting_view(s) for s in sides):
        return None

    def side(expression: cst.BaseExpression) -> cst.IndentedBlock:
        line = cst.SimpleStatementLine([inner.with_changes(value=expression)])
        return block([line])

    return cst.If(
        value.test,
        side(value.body),
        cst.Else(side(value.orelse)),
        leading_lines=node.leading_lines,
    )


def _binds_acting_view(node: cst.CSTNode) -> bool:
    """Whether a view is made under a key that does something."""
    return any(True for _ in acting_keys(node, frozenset()))


def _mutates_inside(node: cst.CSTNode) -> bool:
    return any(mutates_place(inner) or takes_item(inner) for inner in walk(node))


class _Roots(Evaluation):
    """What is written into, where that has no name."""

    def __init__(self, context: Context, node: cst.CSTNode) -> None:
        super().__init__(context)
        roots = (r for n in walk(node) if (r := _written(n)) is not None)
        held = _Held(context)
        self.roots = {r for r in roots if held.may_be(r)}

    def moves(self, node: cst.CSTNode) -> bool:
        return node in self.roots

    def leave_lazy(self, node: cst.CSTNode) -> None:
        _refuse_lazy(next(n for n in walk(node) if n in self.roots), self.context)

    def move(self, node: cst.BaseExpression) -> cst.BaseExpression:
        return self._keep(node)


class _Walked(Evaluation):
    """Containers without a name, among what a loop walks."""

    def __init__(self, context: Context, node: cst.BaseExpression) -> None:
        super().__init__(context)
        held = _Held(context)
        self.found = {n for n in walked(node) if _is_anonymous(n, held)}

    def moves(self, node: cst.CSTNode) -> bool:
        return node in self.found

    def move(self, node: cst.BaseExpression) -> cst.BaseExpression:
        return self._keep(node)


def walked(node: cst.BaseExpression) -> Iterator[cst.BaseExpression]:
    """What a loop walks, through ``zip`` and ``enumerate``."""
    if isinstance(node, cst.Call) and dotted(node.func) in _WALKING:
        for arg in node.args:
            yield from walked(arg.value)
    else:
        yield node


_WALKING = ("zip", "enumerate", "reversed", "iter")


def _is_anonymous(node: cst.BaseExpression, held: _Held) -> bool:
    """Whether an expression makes a container that may hold tensors."""
    node = cast(cst.BaseExpression, bare(node))
    if isinstance(node, cst.Call):
        name = node.func.attr.value if isinstance(node.func, cst.Attribute) else ""
        is_view = name in ("items", "values", "keys") and not node.args
        return not is_view and dotted(node.func) != "range" and not held.makes_new(node)
    if isinstance(node, (cst.List, cst.Tuple, cst.Set)):
        return not all(
            is_constant(e.value) or dotted(e.value) in held.sources
            for e in node.elements
        )
    slices = isinstance(node, cst.Subscript) and index_of(node) is None
    return slices or not is_place(node)


def _written(node: cst.CSTNode) -> cst.BaseExpression | None:
    """What a call writes into, if it does: one tensor."""
    if not isinstance(node, cst.Call):
        return None
    out = keyword(node, "out")
    if inplace_method(node) is not None:
        out = chain_root(node)
    elif out is None and inplace_function(node) is not None and node.args:
        out = node.args[0].value
    several = (cst.List, cst.Tuple, cst.ListComp, cst.Dict)
    return None if isinstance(out, several) else out


def _refuse_lazy(node: cst.CSTNode, context: Context) -> None:
    context.refuse(
        "R4",
        node,
        "a tensor or a container is mutated inside a conditional or repeated expression",
        "write it as a statement, in an if or a for",
    )


class _Held:
    """Which expressions, that are no places, may yield something that has one."""

    def __init__(self, context: Context) -> None:
        self.context = context
        self.sources = context.sources()
        self.asked = set[str]()

    def may_be(self, node: cst.BaseExpression) -> bool:
        node = cast(cst.BaseExpression, bare(node))
        if isinstance(node, cst.Call):
            return self.hands_out(node)
        if isinstance(node, (cst.Attribute, cst.Subscript)):
            return not is_place(node) and self.may_be(node.value)
        if isinstance(node, _MADE):
            return False
        return not is_place(node) and not is_constant(node)

    def hands_out(self, node: cst.Call) -> bool:
        """Whether a call may yield what was there before it. Those do that the table of
        operations doesn't know; a view does of what may."""
        if mutates_place(node):
            return False  # it moves to a statement of its own, and its receiver is left
        name = dotted(node.func) or ""
        if name in self.sources:
            return not self._returns_new(name)
        operation, bound = self._bound(node)
        if isinstance(node.func, cst.Attribute) and node.func.attr.value in _HAND_OUT:
            return True
        if operation is None or bound is None:
            # a function of torch's that isn't in the table is refused elsewhere
            return name.partition(".")[0] not in optable.MODULES
        if operation.returned(bound) in _NEW:
            return False
        base = bound.get(operation.parameters[operation.base].name)
        return base is None or operation.result in _HELD or self.may_be(base)

    def makes_new(self, node: cst.Call) -> bool:
        """Whether a call surely yields nothing that shows what was there before."""
        operation, bound = self._bound(node)
        if operation is None or bound is None:
            return False
        return operation.returned(bound) in _NEW

    def _bound(
        self, node: cst.Call
    ) -> tuple[Operation | None, dict[str, cst.BaseExpression] | None]:
        operation = optable.function(self.context.full_name(node.func))
        receiver = None
        if operation is None and isinstance(node.func, cst.Attribute):
            operation, receiver = optable.method(node.func.attr.value), node.func.value
        bound = None if operation is None else operation.bind(node.args, receiver)
        return operation, bound

    def _returns_new(self, name: str) -> bool:
        """Whether all that a function returns it surely made."""
        if name in self.asked:
            return False
        self.asked.add(name)
        body = all_statements(statements(self.sources[name].body))
        returned = [s for line in body if isinstance(s := small(line), cst.Return)]
        found = all(
            s.value is not None and not is_place(s.value) and not self.may_be(s.value)
            for s in returned
        )
        self.asked.discard(name)
        return found


_MADE = (cst.BinaryOperation, cst.UnaryOperation, cst.Comparison)
_NEW = (
    Result.NEW,
    Result.SEVERAL,
    Result.NEW_OR_SEVERAL,
    Result.COMPUTED,
    Result.NUMBER,
    Result.SCALAR_OR_TENSOR,
    Result.METADATA,
)
_HELD = (Result.ITEMS, Result.ONE_OF)
_HAND_OUT = ("get", "pop", "popleft", "setdefault")


class _Mutations(Evaluation):
    """Mutations of places, each a statement of its own."""

    def __init__(
        self,
        context: Context,
        may_alias_classes: Mapping[str, frozenset[str]],
        node: cst.CSTNode,
    ) -> None:
        super().__init__(context)
        changed = {n for call in walk(node) for n in _mutated_names(call)}
        self.changed = changed.union(
            *(may_alias_classes.get(name, ()) for name in changed)
        )
        self.takes = any(map(takes_item, walk(node)))

    def moves(self, node: cst.CSTNode) -> bool:
        return mutates_place(node) or takes_item(node)

    def is_steady(self, node: cst.BaseExpression) -> bool:
        if self.takes and any(isinstance(n, _READING) for n in walk(node)):
            return False
        return is_place(node) or not read_names(node) & self.changed

    def chain(self, node: cst.BaseExpression) -> cst.BaseExpression:
        """``x.mul_(a).add_(b)`` stays as it is, unless ``b`` mutates, too."""
        if not mutates_place(node):
            return self.visit(node)
        assert isinstance(node, cst.Call)
        further = any(_mutates_inside(arg) for arg in node.args)
        func = node.func
        if further or inplace_method(node) is None:
            return self.visit(node, whole=True)
        assert isinstance(func, cst.Attribute)
        receiver = self.chain(func.value)
        if receiver is func.value:
            return node
        return node.with_changes(func=func.with_changes(value=receiver))

    def leave_lazy(self, node: cst.CSTNode) -> None:
        _refuse_lazy(next(n for n in walk(node) if self.moves(n)), self.context)

    def move(self, node: cst.BaseExpression) -> cst.BaseExpression:
        assert isinstance(node, cst.Call)
        if takes_item(node):
            return self._keep(node)
        line = cst.SimpleStatementLine([cst.Expr(node)])
        self.context.origins.inherit(line, node)
        self.prelude.append(line)
        return _mutated(node).deep_clone()


_READING = (cst.Subscript, cst.Call, cst.StarredElement, cst.BaseComp)
"""What may read an item of a container."""


def _mutated(node: cst.Call) -> cst.BaseExpression:
    """What a mutation changes, and yields."""
    out = keyword(node, "out")
    if out is not None:
        return out
    if inplace_function(node) is not None:
        return node.args[0].value
    return chain_root(node)


def _mutated_names(node: cst.CSTNode) -> set[str]:
    if not isinstance(node, cst.Call) or not mutates_place(node):
        return set()
    return read_names(_mutated(node))
