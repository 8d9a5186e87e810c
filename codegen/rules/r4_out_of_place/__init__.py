"""R4: out-of-place.

``hoist`` makes every mutation a statement, the heap tells what it changes,
``chains`` and ``twins`` give the operation that returns the new value, ``propagate``
hands it to every name and slot that must see it.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import cast

import libcst as cst

from codegen.analysis.environment import Env
from codegen.analysis.expressions import may_be_left_tensor
from codegen.analysis.heap import analyse
from codegen.analysis.liveness import Liveness, liveness
from codegen.analysis.values import Kind, Place, Value, as_index
from codegen.diagnostics import walk
from codegen.inplace import inplace_method, mutated, mutates_place
from codegen.purity import effects, pure_functions
from codegen.rules.base import Example
from codegen.rules.r4_out_of_place.chains import ChainRule
from codegen.rules.r4_out_of_place.hoist import hoist
from codegen.rules.r4_out_of_place.opaque import Opaque
from codegen.rules.r4_out_of_place.parts import Scope, names_walked
from codegen.rules.r4_out_of_place.propagate import Propagation
from codegen.rules.r4_out_of_place.questions import Questions
from codegen.rules.r4_out_of_place.strides import Asked, asked
from codegen.syntax import (
    Body,
    Statement,
    all_statements,
    assign,
    block,
    bound_names,
    call,
    code,
    index_of,
    is_name,
    map_bodies,
    method,
    operand,
    orelse_statements,
    read_names,
    replace_nodes,
    small,
    statements,
    with_comments,
)

_BINARY: dict[type[cst.BaseAugOp], type[cst.BaseBinaryOp]] = {
    cst.AddAssign: cst.Add,
    cst.SubtractAssign: cst.Subtract,
    cst.MultiplyAssign: cst.Multiply,
    cst.DivideAssign: cst.Divide,
    cst.FloorDivideAssign: cst.FloorDivide,
    cst.ModuloAssign: cst.Modulo,
    cst.PowerAssign: cst.Power,
    cst.BitAndAssign: cst.BitAnd,
    cst.BitOrAssign: cst.BitOr,
    cst.BitXorAssign: cst.BitXor,
    cst.LeftShiftAssign: cst.LeftShift,
    cst.RightShiftAssign: cst.RightShift,
}


class OutOfPlace(ChainRule):
    """Every in-place op becomes its out-of-place twin, rebound:
    ``t.add_(x).mul_(y)`` → ``t = t.add(x).mul(y)``.

    Where the mutated tensor also lives in a dict, a list, a view or under another
    name, each of them is rebound too, at the point of mutation: later steps read
    the new value, earlier steps' graphs keep the old one.
    """

    name = "R4"
    title = "Out-of-place"
    EXAMPLES = (
        Example("t.add_(x).mul_(y)\nuse(t)", "t = t.add(x).mul(y)\nuse(t)"),
        Example(
            """
            state = self.state[group_idx][p_idx]
            buf = state["buf"]
            buf.mul_(momentum).add_(d_p)
            d_p = buf
            use(d_p)
            """,
            """
            state = self.state[group_idx][p_idx]
            buf = state["buf"]
            state["buf"] = buf = buf.mul(momentum).add(d_p)
            d_p = buf
            use(d_p)
            """,
            "a tensor in the state is written back where it changes",
        ),
        Example(
            "torch.maximum(u.mul_(b), g.abs().add_(eps), out=u)\nuse(u)",
            "u = u.mul(b)\nu = torch.maximum(u, g.abs().add(eps))\nuse(u)",
            "nested mutation and `out=`",
        ),
        Example(
            "row = x[0]\nrow.zero_()\nuse(x)",
            "row = x[0]\nx = ops.setitem(x, 0, torch.zeros_like(row))\nuse(x)",
            "a view writes through",
        ),
        Example(
            "x = torch.zeros_like(p)\nx[mask > 0] = 1\nuse(x)",
            "x = torch.zeros_like(p)\nx = ops.setitem(x, mask > 0, 1)\nuse(x)",
        ),
        Example("x = x * 2\nuse(x)", None, "rebinding is no mutation"),
    )

    def apply(self, body: Body) -> Body:
        body = hoist(body, self.context)
        self.context.raise_if_refused()
        self.places = analyse(
            body,
            self.context.annotations,
            self.context.sources(),
            self.context.stored,
            self.context.shared_before,
            self.context.operations(),
        )
        self.opaque = Opaque(self.context, self.places, self.refuse)
        self.order = list(all_statements(body))
        self.walked = names_walked(body)
        self.questions = Questions(self.context, self.places, self.refuse, self.order)
        self.dtypes = self.context.dtypes_of(self.places)
        self.live: Liveness = liveness(body)
        self.asked_unbound = {}
        found = asked([*body, *self.context.sources().values()], self.context)
        self.asked = Asked(max(found, self.context.asked_strides))
        before = len(self.context.changes)
        self.exact = self.asked is Asked.STRIDES
        new = self._bound_first(self._block(body))
        if self.wrote_through and self.asked is Asked.MAYBE_VIEWS:
            # what is written through is a view or a copy, as the strides are
            del self.context.changes[before:]
            self.context.raise_if_refused()
            self.exact = True
            self.asked = Asked.STRIDES
            new = self._bound_first(self._block(body))
        self.context.asked_strides = self.asked
        self.context.emits_identity_tests |= self.questions.emits_identity_tests
        emits_identity_tests = (
            self.emits_identity_tests or self.context.emits_identity_tests
        )
        return self._distinct_copies(new) if emits_identity_tests else new

    def _distinct_copies(self, body: Body) -> Body:
        """``x.copy_(y)`` leaves two tensors; where ``is`` is asked they must not be one."""

        def clone(node: cst.CSTNode) -> cst.CSTNode | None:
            if isinstance(node, cst.Call) and code(node.func) == "ops.copy":
                return method(node, "clone")
            return None

        origins = self.context.origins
        return tuple(cast(Statement, replace_nodes(s, clone, origins)) for s in body)

    def _bound_first(self, body: Body, own: Iterable[str] | None = None) -> Body:
        """Names are bound that are asked for where they may not be; ``own`` are those
        of a nested function."""
        names = [n for n in self.asked_unbound if own is None or n in own]
        self.asked_unbound = {n: None for n in self.asked_unbound if n not in names}
        if not names:
            return body
        return (assign([*map(cst.Name, names)], cst.Name("None")), *body)

    # --- blocks

    def _block(self, body: Sequence[Statement]) -> Body:
        result: list[Statement] = []
        for node in body:
            new = self._statement(node)
            for part in new:
                self.context.origins.inherit(part, node)
            result.extend(_take_comments(node, new))
        return tuple(result)

    def _statement(self, node: Statement) -> list[Statement]:
        if small(node) is not None:
            return self._simple(node)
        if isinstance(node, cst.If) and node in self.places.before:
            for taken, other in _ways(node):
                if taken and taken[0] not in self.places.before:
                    return list(self._block(other))  # the heap knows how the test ends
        if isinstance(node, cst.FunctionDef):
            self.questions.refuse_captured(node)
        env = self.places.before.get(node, Env())
        if isinstance(node, cst.For):
            self.questions.refuse_walked(node, env)
        if isinstance(node, cst.Try):
            self.opaque.check_handlers(node)
        new = map_bodies(node, self._block)
        if isinstance(new, cst.FunctionDef):
            inside = self._bound_first(statements(new.body), _own_names(new))
            new = new.with_changes(body=block(inside))
        return [self._heads(new, env)]

    def _heads(self, node: Statement, env: Env) -> Statement:
        """Tests and iterables mutate temporaries at most."""
        for field in ("test", "iter"):
            head = getattr(node, field, None)
            if isinstance(head, cst.BaseExpression):
                self.opaque.check(head, env)
                self.questions.check(head, env)
                node = node.with_changes(**{field: self.without_temporaries(head, env)})
        if isinstance(node, cst.If) and isinstance(node.orelse, cst.If):
            node = node.with_changes(orelse=self._heads(node.orelse, env))
        return node

    # --- simple statements

    def _simple(self, node: Statement) -> list[Statement]:
        inner = small(node)
        env = self.places.before.get(node, Env())
        if inner is not None and not isinstance(inner, cst.Raise):
            self.opaque.check(inner, env)
            self.questions.check(inner, env)
        if isinstance(inner, cst.Expr):
            return self._expression(node, inner.value, env)
        if isinstance(inner, cst.Assign):
            return self._assign(node, inner, env)
        if isinstance(inner, cst.AugAssign):
            return self._augmented(node, inner, env)
        return [self.without_temporaries(node, env)]

    def propagation(self, node: Statement, env: Env) -> Propagation:
        live = self.live.after.get(node, frozenset())
        later = tuple(self._mutated_later(node))
        return Propagation(
            self,
            Scope(env, live, self._grads_read_later(node), later, self.walked),
            node,
        )

    def _grads_read_later(self, node: Statement) -> bool:
        """Whether gradients that a statement may write are read after it: by their
        index, by another walk, or in the next round of a loop that it stands in. A
        walk over the groups has other gradients in its next round."""
        start = self.order.index(node) + 1 if node in self.order else 0
        for loop in self.order[:start]:
            if not isinstance(loop, (cst.For, cst.While)):
                continue
            inside = list(all_statements([loop]))[1:]
            if not any(node is s for s in inside):
                continue
            if isinstance(loop, cst.For) and code(loop.target).startswith("group_idx"):
                if any("grouped_grads" in read_names(s) for s in inside):
                    return True
            else:
                start = min(start, self.order.index(loop) + 1)
        return any(read_names(s) & _GRADIENTS for s in self.order[start:])

    def _mutated_later(self, node: Statement) -> Iterator[Value]:
        """What is mutated after a statement, or in the next round of a loop that it
        stands in."""
        # statements of nested functions are not in the order: all counts as later
        start = self.order.index(node) + 1 if node in self.order else 0
        for loop in self.order[:start]:
            rounds = isinstance(loop, cst.While) or (
                isinstance(loop, cst.For) and not code(loop.target).startswith(_WALKS)
            )
            if rounds and any(node is s for s in all_statements([loop])):
                start = min(start, self.order.index(loop) + 1)
        for later in self.order[start:]:
            inner = small(later)
            if inner is not None and later is not node:
                env = self.places.before.get(later, Env())
                for found in mutated(inner):
                    yield self.places.value(found, env)

    def _expression(
        self, node: Statement, value: cst.BaseExpression, env: Env
    ) -> list[Statement]:
        if not mutates_place(value):
            if isinstance(value, cst.Call) and inplace_method(value):
                # a temporary is mutated and thrown away
                self.fired(node)
                return self.left_of(self.without_temporaries(value, env))
            return [self.without_temporaries(node, env)]
        return self.mutation(node, cast(cst.Call, value), env, ())

    def _assign(self, node: Statement, inner: cst.Assign, env: Env) -> list[Statement]:
        target = inner.targets[0].target
        if isinstance(target, cst.Attribute) and target.attr.value == "data":
            return self._data_store(node, target, inner.value, env)
        if len(inner.targets) == 1 and isinstance(target, cst.Subscript):
            stored = self._item_store(node, target, inner.value, env)
            if stored is not None:
                return stored
        if mutates_place(inner.value):
            targets = tuple(cast(cst.BaseExpression, t.target) for t in inner.targets)
            return self.mutation(node, cast(cst.Call, inner.value), env, targets)
        if len(inner.targets) == 1 and isinstance(target, cst.Name):
            named = self.named_first(node, target, inner.value, env)
            if named is not None:
                return named
        return [self.without_temporaries(node, env)]

    def _data_store(
        self,
        node: Statement,
        target: cst.Attribute,
        value: cst.BaseExpression,
        env: Env,
    ) -> list[Statement]:
        """``p.data = x``: from now on p and x are one memory. Where nothing else shows
        x, or what p showed before, p gets its values."""
        held = self.places.value(target.value, env)
        if not held.parameter:
            self.refuse(
                target,
                f"`{code(target.value)}` is no parameter of the loop around it",
                "write x.copy_(y)",
            )
            return []
        given = self.places.value(value, env)
        write = self.propagation(node, env)
        if (
            not self.asked
            and write.seen_by(given) is None
            and not write.shows_memory(held)
        ):
            copy = method(target.value, "copy_", [cst.Arg(value)])
            return self.mutation(node, copy, env, ())
        names = [
            cst.Name(n)
            for n, v in env.names.items()
            if v.parameter and v.places == held.places and n in write.live
        ]
        result: list[Statement] = [assign([target, *names], value)]
        self.fire(node, result)
        return result

    # --- augmented assignment

    def _augmented(
        self, node: Statement, inner: cst.AugAssign, env: Env
    ) -> list[Statement]:
        target = cast(cst.BaseExpression, inner.target)
        value = self.places.value(target, env)
        right = self.without_temporaries(inner.value, env)
        if value.kind is Kind.NUMBER and is_name(target):
            return [node]
        if value.kind in (Kind.SEQUENCE, Kind.MAPPING):
            return [node]
        operator = _BINARY.get(type(inner.operator))
        if operator is None:
            self.refuse(inner, "this augmented assignment isn't known", "write it out")
            return [node]
        new = cst.BinaryOperation(
            operand(target, operator), operator(), operand(right, operator)
        )
        if isinstance(target, cst.Subscript) and self._is_copied(target, value, env):
            return self._item_store(node, target, new, env) or [node]
        if value.kind in (Kind.NUMBER, Kind.SCALAR_OR_TENSOR):
            if may_be_left_tensor(value, self.places.expressions.tensors_left):
                self._refuse_number_or_tensor(inner)
            result: list[Statement] = [assign([target], new)]
        else:
            result = self._augmented_tensor(node, inner, value, new, env)
        self.fire(node, result)
        return result

    def _is_copied(self, target: cst.Subscript, value: Value, env: Env) -> bool:
        """Whether ``x[i]`` may be a copy of a part of x, which ``x[i] += y`` stores."""
        base = self.places.value(target.value, env)
        if base.kind is not Kind.TENSOR or self.places.slot(target, env) is not None:
            return False
        return any(place not in _shown(base, value) for place in value.places)

    def left_of(self, value: cst.BaseExpression) -> list[Statement]:
        """What computing a value does that nobody needs: it may draw."""
        return effects(value, pure_functions(self.context.sources()))

    def _augmented_tensor(
        self,
        node: Statement,
        inner: cst.AugAssign,
        value: Value,
        new: cst.BaseExpression,
        env: Env,
    ) -> list[Statement]:
        write = self.propagation(node, env)
        target = cast(cst.BaseExpression, inner.target)
        if value.kind is Kind.TENSOR:
            new = self.in_dtype_of(target, [inner.value], new, node, env)
            new = self.laid_out(target, new, [])
        result = write.rebind(target, value, new) or self.left_of(new)
        others = [
            s for s in result if code(s).strip() != code(assign([target], new)).strip()
        ]
        if value.kind is Kind.UNKNOWN and others and is_name(target):
            self._refuse_number_or_tensor(inner)
        return result

    def _refuse_number_or_tensor(self, inner: cst.AugAssign) -> None:
        self.refuse(
            inner,
            f"`{code(inner.target)}` may be a number (then only this name changes) or a "
            "tensor (then what it was read from changes too)",
            "write `x = x + y` or `x.add_(y)`",
        )

    # --- item stores

    def _item_store(
        self,
        node: Statement,
        target: cst.Subscript,
        value: cst.BaseExpression,
        env: Env,
    ) -> list[Statement] | None:
        """``x[i] = v`` on a tensor; None where x is a container."""
        if _is_container_store(target) or self.places.slot(target, env) is not None:
            return None
        base = self.places.value(target.value, env)
        if base.kind in (
            Kind.SEQUENCE,
            Kind.MAPPING,
            Kind.OTHER,
            Kind.SCALAR_OR_TENSOR,
        ):
            return None
        if base.kind is not Kind.TENSOR:
            self.refuse(
                target,
                f"`{code(target.value)}` may be a list or a tensor: what storing an "
                "item changes can't be known",
                "make it where the compiler sees it: a list display, torch.zeros_like …",
            )
            return None
        value = self.without_temporaries(value, env)
        if code(target).endswith(("[:]", "[...]")):
            new: cst.BaseExpression = call("ops.copy", target.value, value)
        else:
            index = _index_expression(target)
            new = call("ops.setitem", target.value, index, value)
            new = self.laid_out(target.value, new, [])
        result = self.propagation(node, env).rebind(target.value, base, new)
        self.fire(node, result)
        return result


def _ways(node: cst.If) -> tuple[tuple[Body, Body], ...]:
    body, orelse = statements(node.body), orelse_statements(node)
    return (body, orelse), (orelse, body)


def _own_names(node: cst.FunctionDef) -> set[str]:
    """Variables of a nested function's, and not of the one around it."""
    others = (n.names for n in walk(node.body) if isinstance(n, cst.Nonlocal))
    return bound_names(node.body) - {i.name.value for names in others for i in names}


def _shown(base: Value, part: Value) -> set[Place]:
    """The places of ``part`` that are views of ``base``."""
    return {p for p in part.places if p.views and p.obj in base.objects}


_WALKS = ("group_idx, (", "p_idx, (")
"""How the targets of the README's loops begin: no round sees another's views."""


_GRADIENTS = frozenset({"grads", "group_grads", "grouped_grads"})


def _is_container_store(target: cst.Subscript) -> bool:
    text = code(target.value)
    return text in (
        "state",
        "group",
        "self.shared",
        "grads",
        "group_grads",
    ) or text.endswith("[group_idx][p_idx]")


def _index_expression(target: cst.Subscript) -> cst.BaseExpression:
    index = index_of(target)
    if index is not None:
        return index
    parts = [as_index(e.slice) for e in target.slice]
    if len(parts) == 1:
        return parts[0]
    return cst.Tuple(
        [cst.Element(p) for p in parts], lpar=[cst.LeftParen()], rpar=[cst.RightParen()]
    )


def _take_comments(old: Statement, new: list[Statement]) -> list[Statement]:
    if new and new[0] is not old and not new[0].leading_lines:
        new = [with_comments(new[0], old), *new[1:]]
    return new
