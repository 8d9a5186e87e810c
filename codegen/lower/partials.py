"""``functools.partial`` unfolded: a call of it is a call of what it was made of.

scale = partial(torch.mul, other=2)    →    x = torch.mul(y, other=2)
x = scale(y)
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import cast

import libcst as cst

from codegen.context import Context
from codegen.lower.frame import Frame
from codegen.lower.kinds import learn
from codegen.syntax import (
    Body,
    Statement,
    all_statements,
    assign,
    assignment,
    bound_names,
    dotted,
    is_constant,
    replace_nodes,
    small,
    target_names,
)


class Partials:
    """The partials that variables hold, each bound by one statement of the step.

    ``bindings`` counts the statements that bind a name.
    """

    def __init__(self, context: Context) -> None:
        self.context = context
        self.origins = context.origins
        self.partials: dict[str, cst.Call] = {}
        self.bindings: Counter[str] = Counter()

    def count(self, body: Body) -> None:
        """Count the statements that bind each name; a loop binds its own again."""
        for node in all_statements(body):
            if isinstance(node, cst.For):
                self.bindings.update([*target_names(node.target)] * 2)
            elif small(node) or isinstance(node, cst.FunctionDef):
                self.bindings.update(bound_names(node))

    def unfold(self, node: Statement, frame: Frame) -> Statement:
        """``f = functools.partial(g, a)`` makes ``f(x)`` mean ``g(a, x)``."""

        def replace(inner: cst.CSTNode) -> cst.CSTNode | None:
            if not isinstance(inner, cst.Call) or not isinstance(inner.func, cst.Name):
                return None
            partial = self.partials.get(inner.func.value)
            if partial is None:
                return None
            given = {_keyword(a) for a in inner.args}
            func, *args = partial.args
            plain = [a for a in args if a.keyword is None]
            named = [a for a in args if a.keyword and _keyword(a) not in given]
            return inner.with_changes(
                func=func.value.deep_clone(),
                args=[
                    *(_clone(a) for a in (*plain,)),
                    *inner.args,
                    *map(_clone, named),
                ],
            )

        if not self.partials:
            return node
        return cast(Statement, replace_nodes(node, replace, self.origins))

    def note(self, node: Statement, frame: Frame) -> list[Statement] | None:
        """Remember a ``partial``, its arguments bound to variables of their own."""
        pair = assignment(node)
        for name in bound_names(node):
            self.partials.pop(name, None)
        if pair is None or not isinstance(pair[0], cst.Name):
            return None
        target, value = pair[0].value, pair[1]
        if not isinstance(value, cst.Call) or not value.args:
            return None
        made = frame.full_name(value.func) == "functools.partial"
        if not made or self._bound_again(target):
            return None
        binds: list[Statement] = []

        def kept(part: cst.BaseExpression, word: str) -> cst.BaseExpression:
            """A variable that keeps what ``part`` is now."""
            name = self.context.fresh(word)
            frame.local.add(name)
            binds.append(assign([cst.Name(name)], part))
            self.origins.inherit(binds[-1], node)
            return cst.Name(name)

        func = value.args[0]
        if func.star or any(arg.star for arg in value.args):
            return None
        args = [func.with_changes(value=self._captured(func.value, frame, kept))]
        for arg in value.args[1:]:
            if not is_constant(arg.value):
                arg = arg.with_changes(value=kept(arg.value, _keyword(arg) or target))
            args.append(arg.with_changes(comma=cst.MaybeSentinel.DEFAULT))
        self.partials[target] = value.with_changes(args=args)
        for bind in binds:
            learn(bind, frame)
        return binds

    def _captured(
        self,
        func: cst.BaseExpression,
        frame: Frame,
        kept: Callable[[cst.BaseExpression, str], cst.BaseExpression],
    ) -> cst.BaseExpression:
        """What is called, or whose method, as it is where the partial is made: names of
        the module and variables that are bound once stay as they are."""
        if isinstance(func, cst.Attribute):
            path = dotted(func.value) or ""
            if path and (path == "self" or path.split(".")[0] not in frame.local):
                return func
            return func.with_changes(value=kept(func.value, func.attr.value))
        if isinstance(func, cst.Name) and self._bound_again(func.value):
            return kept(func, func.value)
        return func

    def _bound_again(self, name: str) -> bool:
        """Whether several statements of the step bind a name."""
        return self.bindings.get(name, 0) > 1


def _keyword(arg: cst.Arg) -> str | None:
    return None if arg.keyword is None else arg.keyword.value


def _clone(arg: cst.Arg) -> cst.Arg:
    return arg.with_changes(value=arg.value.deep_clone())
