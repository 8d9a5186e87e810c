"""Calls of functions with a source, analysed with the arguments at hand."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace

import libcst as cst

from codegen.analysis.calls import Calls
from codegen.analysis.environment import Env
from codegen.analysis.expressions import Expressions
from codegen.analysis.keys import is_constant_key
from codegen.analysis.values import (
    ANY,
    CONTAINERS,
    NOTHING,
    SCALAR_OR_TENSOR,
    Kind,
    Place,
    Slot,
    Value,
)
from codegen.bindings import walrus_names
from codegen.diagnostics import Origins, walk
from codegen.ir.cfg import evaluated_at
from codegen.substitution import substitute
from codegen.syntax import all_params, bound_names, code, dotted, is_constant

DEEPEST = 3
"""Calls within calls beyond this are not looked into."""


@dataclass(frozen=True)
class Frame:
    """The expressions of a body that made objects, by number, and the environment before
    each of its statements."""

    sites: Mapping[cst.CSTNode | None, int]
    before: Mapping[cst.CSTNode, Env]
    _numbered: dict[int, cst.CSTNode] = field(default_factory=dict, compare=False)
    _around: dict[cst.CSTNode, Env] = field(default_factory=dict, compare=False)

    def node(self, number: int) -> cst.CSTNode | None:
        """The expression that makes the objects of a number."""
        if len(self._numbered) < len(self.sites):  # more may have been evaluated
            self._numbered.update(
                {k: n for n, k in self.sites.items() if n is not None}
            )
        return self._numbered.get(number)

    def at(self, node: cst.CSTNode) -> Env | None:
        """What holds in the statement where an expression is evaluated, but for names
        that it binds."""
        if not self._around:
            for statement, env in self.before.items():
                head = evaluated_at(statement)
                if head is not None:
                    env = _before_walrus(head, env)
                    self._around.update(dict.fromkeys(walk(head), env))
        return self._around.get(node)


def _before_walrus(node: cst.CSTNode, env: Env) -> Env:
    """What holds while ``node`` is evaluated, before and after it binds a name."""
    bound = walrus_names(node)
    names = {n: v for n, v in env.names.items() if n not in bound}
    return replace(env, names=names) if bound else env


@dataclass(frozen=True)
class Ended:
    """The environment in which a function ends, what it returned, and what was found
    inside."""

    env: Env
    returned: Value | None
    frame: Frame


@dataclass(frozen=True)
class Summary:
    """What a call returned, and what is known of the heap afterwards: what the function
    made, what it found in containers of its caller, and what is in those that it
    ``changed``."""

    returned: Value | None
    slots: dict[Slot, Value]
    possibly_absent: frozenset[Slot]
    exact: dict[str, int]
    distinct: frozenset[str]
    origins: dict[str, frozenset[str]]
    found: dict[str, Slot]
    changed: dict[str, Value | None]
    frame: Frame

    def show(self, env: Env) -> None:
        """Tell the caller's environment."""
        for obj, more in self.changed.items():
            env.summarize(obj, more)
        new = {s: v for s, v in self.slots.items() if s not in env.slots}
        env.slots.update(new)
        env.possibly_absent |= self.possibly_absent & new.keys()
        env.exact.update(self.exact)
        env.distinct |= self.distinct
        env.learn_origins(self.origins)
        env.found.update(self.found)


@dataclass
class Functions:
    """Functions with a source, and what is known of calls of them: ``frames`` by the
    prefix of what the last analysis of a call made."""

    sources: Mapping[str, cst.FunctionDef] = field(default_factory=dict)
    known: dict[object, Summary] = field(default_factory=dict)
    frames: dict[str, Frame] = field(default_factory=dict)
    _specialised: dict[object, cst.FunctionDef] = field(default_factory=dict)

    def specialised(
        self, function: cst.FunctionDef, constants: Mapping[str, cst.BaseExpression]
    ) -> cst.FunctionDef:
        """``function`` with constants in place of the parameters that are handed them."""
        steady = {
            n: v for n, v in constants.items() if n not in bound_names(function.body)
        }
        key = (function, *((n, code(v)) for n, v in steady.items()))
        if key not in self._specialised:
            body = substitute(function.body, steady, Origins()) if steady else None
            new = function.with_changes(body=body) if body is not None else function
            self._specialised[key] = new
        return self._specialised[key]


class Summaries(Calls):
    """Calls of functions with a source: their bodies are analysed with the arguments
    at hand, on the heap of the caller. ``nested`` are those of the body itself, which
    read variables around them as they are at the call.

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
        self.nested: dict[str, cst.FunctionDef] = {}

    def returned_by(self, node: cst.Call, env: Env) -> Value | None:
        function = self._function_at(node, env)
        deep = self.depth > DEEPEST
        if function is None or deep or any(a.star for a in node.args):
            if function is not None:
                self._lose_containers(node, env)
            return None
        names = [p.name.value for p in all_params(function.params)]
        names = names[1:] if names[:1] == ["self"] else names
        given = dict(zip(names, (a.value for a in node.args if a.keyword is None)))
        given |= {a.keyword.value: a.value for a in node.args if a.keyword is not None}
        inside = env.fork()
        inside.names = {
            name: (
                self.expressions.value(given[name], env)
                if name in given
                else SCALAR_OR_TENSOR
            )
            for name in names
        }
        if function in self.nested.values():
            own = bound_names(function.body) | {*names}
            captured = {n: v for n, v in env.names.items() if n not in own}
            inside.names = captured | inside.names
        inside.keep_reachable()
        constants = {n: v for n, v in given.items() if is_constant(v)}
        prefix = f"{self.expressions.new().obj}/"
        known = self.functions.known
        texts = tuple((n, code(v)) for n, v in constants.items())
        held = (*inside.slots.items(), *inside.exact.items())
        key = (prefix, function, texts, *inside.names.items(), *held)
        if key not in known:
            body = self.functions.specialised(function, constants)
            before = inside.fork()
            ended = self.enter(body, prefix, inside)
            known[key] = _summary(prefix, before, ended, names)
        summary = known[key]
        self.functions.frames[prefix] = summary.frame
        summary.show(env)
        return summary.returned

    def _lose_containers(self, node: cst.Call, env: Env) -> None:
        """A function that isn't looked into may change what it is handed."""
        for arg in node.args:
            value = self.expressions.value(arg.value, env)
            for obj in value.objects if value.kind in CONTAINERS else ():
                env.summarize(obj, ANY)

    def _function_at(self, node: cst.Call, env: Env) -> cst.FunctionDef | None:
        """The one function that is called."""
        name = dotted(node.func) or ""
        if name not in env.names:
            return self.functions.sources.get(name)
        place = env.names[name].place
        return None if place is None else self.nested.get(place.obj)


def _summary(prefix: str, before: Env, ended: Ended, names: Sequence[str]) -> Summary:
    """What the caller may know, who has no use for keys that read the callee's names."""
    env = ended.env
    changed = _changed(before, env)
    reads = {*names, *(n for reads in env.keyed.values() for n in reads)}
    closed = env.close(ended.returned or NOTHING, reads)
    returned = None if ended.returned is None else closed

    def own(obj: str) -> bool:
        return obj.startswith(prefix)

    slots = {
        s: v for s, v in env.slots.items() if own(s.container) or is_constant_key(s.key)
    }
    return Summary(
        returned,
        slots,
        frozenset(env.possibly_absent),
        {o: n for o, n in env.exact.items() if own(o)},
        frozenset(filter(own, env.distinct)),
        env.origins,
        env.found,
        changed,
        ended.frame,
    )


def _changed(before: Env, after: Env) -> dict[str, Value | None]:
    """Containers of the caller's that a function changed, and what may be in them."""
    lost = {s.container for s, v in before.slots.items() if after.slots.get(s) != v}
    lost |= {o for o, n in before.exact.items() if after.exact.get(o) != n}
    whole = {o: Value(Kind.SEQUENCE, frozenset({Place(o)})) for o in lost}
    return {o: after.contents(v) for o, v in whole.items()}
