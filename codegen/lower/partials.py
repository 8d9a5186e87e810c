"""``functools.partial`` unfolded: a call of it is a call of what it was made of.

scale = partial(torch.mul, other=2)    →    x = torch.mul(y, other=2)
x = scale(y)
"""

from __future__ import annotations

from collections import Counter
from typing import cast

import libcst as cst

from codegen.context import Context
from codegen.lower.kinds import learn
from codegen.lower.frame import Frame
from codegen.syntax import (
    Statement,
    assign,
    assignment,
    bound_names,
    is_constant,
    replace_nodes,
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
        args = [value.args[0]]
        for arg in value.args[1:]:
            if arg.star:
                return None
            if not is_constant(arg.value):
                word = _keyword(arg) or target
                name = self.context.fresh(word)
                frame.local.add(name)
                binds.append(assign([cst.Name(name)], arg.value))
                self.origins.inherit(binds[-1], node)
                arg = arg.with_changes(value=cst.Name(name))
            args.append(arg.with_changes(comma=cst.MaybeSentinel.DEFAULT))
        self.partials[target] = value.with_changes(args=args)
        for bind in binds:
            learn(bind, frame)
        return binds

    def _bound_again(self, name: str) -> bool:
        """Whether several statements of the step bind a name."""
        return self.bindings.get(name, 0) > 1


def _keyword(arg: cst.Arg) -> str | None:
    return None if arg.keyword is None else arg.keyword.value


def _clone(arg: cst.Arg) -> cst.Arg:
    return arg.with_changes(value=arg.value.deep_clone())
