"""One mutation a statement, before any is rewritten.

    torch.maximum(u.mul_(b), g.abs(), out=u)   →   u.mul_(b)
                                                   torch.maximum(u, g.abs(), out=u)

A mutation inside an expression moves to a statement of its own in front; what it
stood for is its receiver. Mutations of temporaries (``(a / b).add_(eps)``) stay.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import cast

import libcst as cst

from codegen.context import Context
from codegen.diagnostics import walk
from codegen.evaluation import Evaluation
from codegen.rules.r4_out_of_place.inplace import (
    VIEWS,
    chain_root,
    inplace_function,
    inplace_method,
)
from codegen.syntax import (
    HAVE_VALUES,
    Body,
    Statement,
    all_statements,
    bare,
    block,
    bound_names,
    dotted,
    is_constant,
    is_name,
    keyword,
    map_bodies,
    orelse_statements,
    read_names,
    small,
    statements,
    string_key,
    target_names,
    with_comments,
)


def is_place(node: cst.BaseExpression) -> bool:
    """Whether an expression names something that exists: a variable, an item, a view."""
    if isinstance(node, cst.Name):
        return True
    if isinstance(node, (cst.Attribute, cst.Subscript)):
        return is_place(node.value)
    if isinstance(node, cst.Call) and isinstance(node.func, cst.Attribute):
        if dotted(node.func) in ("torch.view_as_real", "torch.view_as_complex"):
            return is_place(node.args[0].value)
        return node.func.attr.value in VIEWS and is_place(node.func.value)
    return False


def mutates_place(node: cst.CSTNode) -> bool:
    """``x.mul_(…)``, ``torch.add(…, out=x)``, ``torch.relu_(x)`` on a place."""
    if not isinstance(node, cst.Call):
        return False
    if inplace_method(node) is not None:
        return is_place(chain_root(node))
    out = keyword(node, "out")
    if out is not None:
        return is_place(out)
    return inplace_function(node) is not None


def hoist(body: Body, context: Context) -> Body:
    """``body`` with every mutation of a place a statement, or the right-hand side of
    one."""
    return _Hoist(context, _kin(body)).block(body)


class _Hoist:
    def __init__(self, context: Context, kin: Mapping[str, frozenset[str]]) -> None:
        self.context = context
        self.kin = kin

    def block(self, body: Sequence[Statement]) -> Body:
        return tuple(new for node in body for new in self._statement(node))

    def _statement(self, node: Statement) -> list[Statement]:
        if isinstance(node, cst.If):
            return self._if(node)
        if isinstance(node, cst.While) and _mutates_inside(node.test):
            self.context.refuse(
                "R4",
                node.test,
                "the condition of a loop mutates a tensor",
                "compute the condition in a statement of its own",
            )
        if isinstance(node, cst.For):
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

    def _simple(self, node: Statement) -> list[Statement]:
        named = self._name_roots(node)
        if len(named) > 1:
            return [new for part in named for new in self._statement(part)]
        inner = small(node)
        if isinstance(inner, (cst.Assign, cst.AnnAssign)) and inner.value is not None:
            branches = _as_branches(node, inner)
            if branches is not None:
                return list(self.block([branches]))
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
            prelude, value = self._extract(inner.value)
            new = inner.with_changes(value=value)
        else:
            return [node]
        last = cst.SimpleStatementLine([new])
        if not prelude:
            return [with_comments(last, node)]
        prelude[0] = prelude[0].with_changes(leading_lines=node.leading_lines)
        return [*prelude, last]

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
        mutations = _Mutations(self.context, self.kin, node)
        new = mutations.chain(node) if whole else mutations.visit(node)
        return mutations.prelude, new


def _plain_targets(node: cst.Assign) -> bool:
    return all(isinstance(t.target, cst.Name) for t in node.targets)


def _as_branches(node: Statement, inner: cst.Assign | cst.AnnAssign) -> cst.If | None:
    """``y = x.mul_(a) if c else z`` → an ``if`` statement: only one side happens."""
    value = inner.value
    if not isinstance(value, cst.IfExp):
        return None
    if not (_mutates_inside(value.body) or _mutates_inside(value.orelse)):
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


def _mutates_inside(node: cst.CSTNode) -> bool:
    return any(mutates_place(inner) for inner in walk(node))


class _Roots(Evaluation):
    """What in-place methods are called on, where that has no name."""

    def __init__(self, context: Context, node: cst.CSTNode) -> None:
        super().__init__(context)
        mutations = (n for n in walk(node) if inplace_method(n) is not None)
        roots = (chain_root(cast(cst.Call, n)) for n in mutations)
        self.roots = {r for r in roots if _may_be_held(r)}

    def moves(self, node: cst.CSTNode) -> bool:
        return node in self.roots

    def move(self, node: cst.BaseExpression) -> cst.BaseExpression:
        return self._keep(node)


def _may_be_held(node: cst.BaseExpression) -> bool:
    """Whether an expression that is no place may yield something that has one."""
    node = cast(cst.BaseExpression, bare(node))
    if isinstance(node, cst.Call) and isinstance(node.func, cst.Attribute):
        return node.func.attr.value in _HAND_OUT
    if is_place(node):
        return False
    if isinstance(node, (cst.IfExp, cst.BooleanOperation, cst.NamedExpr)):
        return True
    if isinstance(node, cst.Subscript):
        return isinstance(node.value, (cst.List, cst.Tuple, cst.Dict))
    func = node.func if isinstance(node, cst.Call) else None
    return isinstance(func, cst.Name) and func.value in _PICK


_PICK = ("max", "min", "next", "getattr")
_HAND_OUT = ("get", "pop", "popleft", "setdefault")


class _Mutations(Evaluation):
    """Mutations of places, each a statement of its own."""

    def __init__(
        self, context: Context, kin: Mapping[str, frozenset[str]], node: cst.CSTNode
    ) -> None:
        super().__init__(context)
        changed = {n for call in walk(node) for n in _mutated_names(call)}
        self.changed = changed.union(*(kin.get(name, ()) for name in changed))

    def moves(self, node: cst.CSTNode) -> bool:
        return mutates_place(node)

    def is_steady(self, node: cst.BaseExpression) -> bool:
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
        self.context.refuse(
            "R4",
            next(inner for inner in walk(node) if mutates_place(inner)),
            "a tensor is mutated inside a conditional or repeated expression",
            "write it as a statement, in an if or a for",
        )

    def move(self, node: cst.BaseExpression) -> cst.BaseExpression:
        assert isinstance(node, cst.Call)
        line = cst.SimpleStatementLine([cst.Expr(node)])
        self.context.origins.inherit(line, node)
        self.prelude.append(line)
        return _mutated(node).deep_clone()


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


# --- which variables may share memory ------------------------------------------


def _kin(body: Body) -> dict[str, frozenset[str]]:
    """Variable → those that may be, hold or belong to the same tensors, by syntax."""
    families: dict[str, set[str]] = {}
    for node in all_statements(body):
        for names in _related(node):
            merged = set(names).union(*(families.get(name, ()) for name in names))
            families.update(dict.fromkeys(merged, merged))
    return {name: frozenset(family) for name, family in families.items()}


def _related(node: Statement) -> Iterator[set[str]]:
    inner = small(node)
    if isinstance(node, cst.For):
        yield set(target_names(node.target)) | read_names(node.iter)
    elif isinstance(inner, (cst.Assign, cst.AnnAssign)) and inner.value is not None:
        made = _is_new(inner.value) or _is_setting(inner.value)
        targets = bound_names(inner) | (read_names(inner) - read_names(inner.value))
        yield targets if made else targets | read_names(inner.value)
    elif isinstance(inner, cst.Expr) and not mutates_place(inner.value):
        yield read_names(inner)


def _is_new(node: cst.BaseExpression) -> bool:
    """Whether an expression surely makes an object of its own."""
    if isinstance(node, (cst.BinaryOperation, cst.UnaryOperation, cst.Comparison)):
        return True
    if not isinstance(node, cst.Call) or not isinstance(node.func, cst.Attribute):
        return is_constant(node)
    name = node.func.attr.value
    return name not in VIEWS and not name.endswith("_") and keyword(node, "out") is None


def _is_setting(node: cst.BaseExpression) -> bool:
    key = string_key(node)
    held = isinstance(node, cst.Subscript) and is_name(node.value, "group")
    return held and key is not None and key != "params"
