"""R1: no closures."""

from __future__ import annotations

from collections.abc import Sequence

import libcst as cst

from codegen.context import Context
from codegen.diagnostics import walk
from codegen.rules.base import Example, Rule
from codegen.syntax import (
    Body,
    Statement,
    all_statements,
    assignment,
    is_name,
    map_bodies,
    read_names,
    small,
)


class NoClosures(Rule):
    """The ``closure`` argument, its call and the returned loss go.

    A differentiable step is handed the loss. An optimizer that needs its closure,
    or calls it several times, can't be translated.
    """

    name = "R1"
    title = "No closures"
    EXAMPLES = (
        Example(
            """
            loss = None
            for group in self.param_groups:
                lr = group["lr"]
            return loss
            """,
            """
            for group in self.param_groups:
                lr = group["lr"]
            """,
        ),
        Example(
            "if done:\n    return loss\nlr = 2\nreturn loss",
            "if done:\n    return\nlr = 2",
            "leaving early stays",
        ),
        Example("lr = lr * 0.5"),
    )

    def apply(self, body: Body) -> Body:
        refuse_closures(body, self.context)
        losses = self._loss_names(body)
        stripped = self._strip(body, losses)
        if stripped and isinstance(small(stripped[-1]), cst.Return):
            stripped.pop()
        return tuple(stripped)

    def _loss_names(self, body: Body) -> set[str]:
        """Variables that hold the loss: only ever None, and only returned."""
        returned: set[str] = set()
        for node in all_statements(body):
            inner = small(node)
            if isinstance(inner, cst.Return) and inner.value is not None:
                returned |= read_names(inner.value)
        used: set[str] = set()
        for node in all_statements(body):
            inner = small(node)
            if inner is not None and not isinstance(inner, cst.Return):
                used |= read_names(inner)
        return returned - used

    def _strip(self, body: Sequence[Statement], losses: set[str]) -> list[Statement]:
        result: list[Statement] = []
        for node in body:
            pair = assignment(node)
            inner = small(node)
            if pair is not None and isinstance(pair[0], cst.Name):
                if pair[0].value in losses and is_name(pair[1], "None"):
                    self.fired(node)
                    continue
            if isinstance(inner, cst.Return):
                self.fired(node)
                result.append(node.with_changes(body=[cst.Return()]))
                continue
            if inner is None and not isinstance(node, cst.FunctionDef):
                node = map_bodies(node, lambda part: self._strip(part, losses))
            result.append(node)
        return result


def refuse_closures(body: Body, context: Context) -> None:
    """An optimizer that needs its closure is refused wherever it does."""
    for statement in body:
        if isinstance(small(statement), cst.Raise):
            context.refuse(
                "R1",
                statement,
                "a call of this step without a closure only raises",
                "a differentiable step is handed one loss, and no closure",
            )
            return
    for statement in body:
        for node in walk(statement):
            if is_name(node, "closure"):
                context.refuse(
                    "R1",
                    node,
                    "the closure is needed here: this optimizer evaluates the loss "
                    "itself",
                    "a differentiable step is handed one loss; optimizers that "
                    "re-evaluate it (line searches, sharpness-aware steps) have no "
                    "single step to differentiate",
                )
