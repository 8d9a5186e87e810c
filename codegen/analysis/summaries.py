"""Calls of functions with a source, analysed with the arguments at hand."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import libcst as cst

from codegen.analysis.calls import Calls
from codegen.analysis.environment import Env
from codegen.analysis.expressions import Expressions
from codegen.analysis.values import SETTING, Slot, Value
from codegen.syntax import all_params, dotted

DEEPEST = 3
"""Calls within calls beyond this are not looked into."""


@dataclass(frozen=True)
class Ended:
    """The environment in which a function ends, and what it returned."""

    env: Env
    returned: Value | None


@dataclass(frozen=True)
class Summary:
    """What a call returned, and what it left on the heap of its own."""

    returned: Value | None
    slots: dict[Slot, Value]
    exact: dict[str, int]
    distinct: frozenset[str]


@dataclass
class Functions:
    """Functions with a source, and what is known of calls of them."""

    sources: Mapping[str, cst.FunctionDef] = field(default_factory=dict)
    known: dict[object, Summary] = field(default_factory=dict)


class Summaries(Calls):
    """Calls of functions with a source: their bodies are analysed with the arguments
    at hand, on the heap of the caller.

    ``enter`` analyses a function's body, whose objects get a prefix, from an environment.
    """

    def __init__(
        self,
        expressions: Expressions,
        functions: Functions,
        depth: int,
        enter: Callable[[cst.FunctionDef, str, Env], Ended],
    ) -> None:
        super().__init__(expressions)
        self.functions = functions
        self.depth = depth
        self.enter = enter

    def returned_by(self, node: cst.Call, env: Env) -> Value | None:
        function = self.functions.sources.get(dotted(node.func) or "")
        deep = self.depth > DEEPEST
        if function is None or deep or any(a.star for a in node.args):
            return None
        names = [p.name.value for p in all_params(function.params)]
        names = names[1:] if names[:1] == ["self"] else names
        given = dict(zip(names, (a.value for a in node.args if a.keyword is None)))
        given |= {a.keyword.value: a.value for a in node.args if a.keyword is not None}
        inside = env.fork()
        inside.names = {
            name: self.expressions.value(given[name], env) if name in given else SETTING
            for name in names
        }
        inside.keep_reachable()
        prefix = f"{self.expressions.new().obj}/"
        known = self.functions.known
        key = (prefix, function, *inside.names.items(), *inside.slots.items())
        if key not in known:
            known[key] = _summary(prefix, self.enter(function, prefix, inside))
        summary = known[key]
        env.slots.update(summary.slots)
        env.exact.update(summary.exact)
        env.distinct |= summary.distinct
        return summary.returned


def _summary(prefix: str, ended: Ended) -> Summary:
    def own(obj: str) -> bool:
        return obj.startswith(prefix)

    return Summary(
        ended.returned,
        {s: v for s, v in ended.env.slots.items() if own(s.container)},
        {o: n for o, n in ended.env.exact.items() if own(o)},
        frozenset(filter(own, ended.env.distinct)),
    )
