"""What a tensor *is* differs in a differentiable step: there a parameter is a plain
tensor, and a state has a gradient. Who asks is told what the original would be told, or
is refused.
"""

from __future__ import annotations

from collections.abc import Callable

import libcst as cst

from codegen.analysis.environment import Env
from codegen.analysis.heap import Heap
from codegen.analysis.values import Kind
from codegen.context import Context
from codegen.diagnostics import walk
from codegen.inplace import mutated, mutated_roots
from codegen.rules.r4_out_of_place.hoist import walked
from codegen.rules.r4_out_of_place.strides import refuse_memory
from codegen.syntax import (
    Statement,
    all_statements,
    bound_names,
    code,
    dotted,
    positional,
    small,
    statements,
)

Refuse = Callable[[cst.CSTNode, str, str], None]

_MODES = ("torch.is_grad_enabled", "torch.is_inference_mode_enabled")
_TENSORS = (Kind.TENSOR, Kind.UNKNOWN)
_MAY_BE_TENSORS = (*_TENSORS, Kind.SEQUENCE)
_BY_IDENTITY = (cst.Is, cst.IsNot, cst.In, cst.NotIn)


class Questions:
    """Refuses those that nothing answers; ``order`` are the statements of the body."""

    def __init__(
        self, context: Context, heap: Heap, refuse: Refuse, order: list[Statement]
    ) -> None:
        self.context = context
        self.heap = heap
        self.refuse = refuse
        self.emits_identity_tests = False
        self.written = {
            n for s in order if small(s) is not None for n in mutated_roots(s)
        }

    def check(self, node: cst.CSTNode, env: Env) -> None:
        for inner in walk(node):
            if isinstance(inner, cst.Attribute) and inner.attr.value == "requires_grad":
                self._requires_grad(inner, env)
            elif isinstance(inner, cst.Comparison):
                self._identity(inner, env)
            elif isinstance(inner, cst.Call):
                self._call(inner, env)
                refuse_memory(inner, self.context)

    def refuse_walked(self, node: cst.For, env: Env) -> None:
        """A tensor that is walked row by row must not change meanwhile: the rows that
        are still to come would be those of its old value."""
        for source in walked(node.iter):
            rows = self.heap.value(source, env)
            if rows.kind not in (Kind.TENSOR, Kind.UNKNOWN):
                continue
            for statement in all_statements(statements(node.body)):
                inside = self.heap.before.get(statement, env)
                changed = mutated(statement) if small(statement) else ()
                if any(
                    inside.may_alias(self.heap.value(c, inside), rows) for c in changed
                ):
                    self.refuse(
                        statement,
                        f"mutates what may be walked row by row, `{code(source)}`",
                        "walk its indices, and read each row where it is needed",
                    )

    def refuse_captured(self, node: cst.FunctionDef) -> None:
        own = bound_names(node.body) | {p.name.value for p in node.params.params}
        for inner in walk(node.body):
            for name in mutated_roots(inner) if isinstance(inner, cst.Call) else ():
                if name not in own:
                    self.refuse(
                        inner,
                        f"a nested function mutates {name!r} of the function around it",
                        "return the new value and assign it there",
                    )

    def _requires_grad(self, node: cst.Attribute, env: Env) -> None:
        value = self.heap.value(node.value, env)
        untouched = value.parameter and dotted(node.value) not in self.written
        if value.kind in _TENSORS and not untouched:
            self.refuse(
                node,
                "whether a tensor requires a gradient is another question in a "
                "differentiable step",
                "leave it out: in the original, nothing that a step computes does",
            )

    def _identity(self, node: cst.Comparison, env: Env) -> None:
        operators = [c.operator for c in node.comparisons]
        sides = [node.left, *(c.comparator for c in node.comparisons)]
        if any(isinstance(o, _BY_IDENTITY) for o in operators):
            kinds = [self.heap.value(s, env).kind for s in sides]
            self.emits_identity_tests |= sum(k in _MAY_BE_TENSORS for k in kinds) > 1

    def _call(self, node: cst.Call, env: Env) -> None:
        name, args = self.context.full_name(node.func), positional(node)
        if name in _MODES:
            self.refuse(
                node,
                "a differentiable step runs with gradients enabled, the original's "
                "without",
                "write the branch that the original takes",
            )
        asked = name == "type" and len(args) == 1
        if name == "isinstance" and len(args) == 2:
            asked = any(map(self._is_parameter_type, walk(args[1])))
        if asked and self.heap.value(args[0], env).kind in _TENSORS:
            self.refuse(
                node,
                "in a differentiable step a parameter is a plain tensor, which this "
                "tells apart",
                "ask isinstance(x, torch.Tensor), or leave it out",
            )

    def _is_parameter_type(self, node: cst.CSTNode) -> bool:
        """``nn.Parameter``, ``nn.Buffer`` and their like."""
        if not isinstance(node, (cst.Name, cst.Attribute)):
            return False
        return self.context.full_name(node).startswith("torch.nn.")
