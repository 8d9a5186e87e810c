"""Which function a call is of, and whether its body must stand in the call's place."""

from __future__ import annotations

from typing import cast

import libcst as cst

from codegen.context import Context
from codegen.diagnostics import walk
from codegen.evaluation import Evaluation
from codegen.inplace import may_mutate
from codegen.lower.blocks import NESTED, WHOLE
from codegen.lower.called import called
from codegen.lower.callees import calls_argument, returns_parts, walks_parameters
from codegen.lower.frame import Frame, Kind
from codegen.lower.helpers import given_to
from codegen.lower.kinds import kind_of
from codegen.lower.own import SelfResolver
from codegen.syntax import all_params, assign, calls, dotted
from codegen.upstream import Definition


class Callees:
    """Judges the functions that a step calls, as far as their source is at hand."""

    def __init__(self, context: Context, own: SelfResolver) -> None:
        self.context = context
        self.own = own

    def must_inline(self, call: cst.Call, definition: Definition, frame: Frame) -> bool:
        if definition.name.startswith(NESTED):
            return True
        if definition.is_method and not self.own.needs_no_self(definition):
            return True
        return (
            returns_parts(definition)
            or self._asks_about_kind(call, definition, frame)
            or calls_argument(definition)
            or walks_parameters(definition)
            or any(dotted(a.value) in (*WHOLE, "self") for a in call.args)
            or self.mutates_arguments(definition)
        )

    def _asks_about_kind(
        self, call: cst.Call, definition: Definition, frame: Frame
    ) -> bool:
        """Whether a function asks if something is a tensor, and that is known here."""
        node = cast(cst.FunctionDef, definition.node)
        given = given_to(node, call, definition.is_method) or {}
        asked = {
            dotted(n.args[0].value)
            for n in calls(node.body)
            if dotted(n.func) in ("isinstance", "torch.is_tensor") and n.args
        }
        kinds = (kind_of(v, frame) for n, v in given.items() if n in asked)
        return any(k in (Kind.PLAIN, Kind.TENSOR) for k in kinds)

    def changes_something(self, definition: Definition) -> bool:
        """Whether a call may be seen in what is computed after it."""
        body = cast(cst.FunctionDef, definition.node).body
        stores = any(
            isinstance(n, (cst.AssignTarget, cst.AugAssign, cst.Del))
            and not isinstance(n.target, (cst.Name, cst.Tuple))
            for n in walk(body)
        )
        asks = any((dotted(c.func) or "").startswith("self.") for c in calls(body))
        return stores or asks or self.mutates_arguments(definition)

    def mutates_arguments(self, definition: Definition) -> bool:
        """Whether a function may change what it is handed (judged by its syntax)."""
        node = cast(cst.FunctionDef, definition.node)
        params = {p.name.value for p in all_params(node.params)}
        return may_mutate(node, params)


class CallExtractor(Evaluation):
    """Calls to be inlined; ``effects`` once one changes something."""

    def __init__(self, callees: Callees, frame: Frame) -> None:
        super().__init__(callees.context)
        self.callees = callees
        self.frame = frame
        self.effects = False

    def moves(self, node: cst.CSTNode) -> bool:
        return self._definition(node) is not None

    def _definition(self, node: cst.CSTNode) -> Definition | None:
        if not isinstance(node, cst.Call):
            return None
        found = called(node, self.frame)
        if found is None or not self.callees.must_inline(node, found, self.frame):
            return None
        self.effects |= self.callees.changes_something(found)
        return found

    def is_steady(self, node: cst.BaseExpression) -> bool:
        return not self.effects or super().is_steady(node)

    def move(self, node: cst.BaseExpression) -> cst.BaseExpression:
        found = cast(Definition, self._definition(node))
        theirs = cast(cst.FunctionDef, found.node).name.value
        name = self.context.fresh(theirs.strip("_"))
        self.frame.local.add(name)
        bind = assign([cst.Name(name)], node)
        self.context.origins.inherit(bind, node)
        self.prelude.append(bind)
        return cst.Name(name)
