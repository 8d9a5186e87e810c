"""Records of tensors, as dicts, and named tuples, as lists: a translation replaces
items, and copies containers.

    @dataclass                               if "s" not in state:
    class Slots:                                 state["s"] = {"m": torch.zeros_like(p), "n": 0}
        m: Tensor                        →   s = state["s"]
        n: int = 0                           s["n"] += 1
                                             s["m"].add_(grad)
    if "s" not in state:
        state["s"] = Slots(torch.zeros_like(p))
    s = state["s"]
    s.n += 1
    s.m.add_(grad)

    class Pair(NamedTuple):                  pair = [p, grad]
        first: Tensor                    →   pair[0].add_(pair[1])
        second: Tensor                       x, y = pair

    pair = Pair(p, grad)
    pair.first.add_(pair.second)
    x, y = pair

A dataclass, or a named tuple, is a record if its body is fields alone, named like
nothing that tensors have, and a step does nothing with it but make instances and use
their fields, or their items.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from typing import cast

import libcst as cst

from codegen import optable
from codegen.context import Context
from codegen.diagnostics import walk
from codegen.syntax import (
    Body,
    Statement,
    all_statements,
    assignment,
    block,
    bound_names,
    calls,
    code,
    comprehension_names,
    dotted,
    is_constant,
    replace_nodes,
    small,
    statements,
)
from codegen.upstream import Definition, External


@dataclass(frozen=True)
class Record:
    """Fields in order, with the constants that they are by default; those of a named
    tuple are items, too."""

    fields: Mapping[str, cst.BaseExpression | None]
    is_tuple: bool = False

    def made(self, call: cst.Call) -> cst.Dict | cst.List | None:
        """An instance as a dict, or as a list; None where the arguments don't fit."""
        if any(a.star for a in call.args):
            return None
        given = {n: v for n, v in self.fields.items() if v is not None}
        plain = [a.value for a in call.args if a.keyword is None]
        if len(plain) > len(self.fields):
            return None
        given.update(zip(self.fields, plain))
        named = {a.keyword.value: a.value for a in call.args if a.keyword is not None}
        given.update(named)
        twice = named.keys() & {*[*self.fields][: len(plain)]}
        if twice or given.keys() != self.fields.keys():
            return None
        if self.is_tuple:
            return cst.List([cst.Element(given[name]) for name in self.fields])
        return cst.Dict(
            [cst.DictElement(_key(name), given[name]) for name in self.fields]
        )

    def key(self, name: str) -> cst.BaseExpression:
        """Where a field is found."""
        if self.is_tuple:
            return cst.Integer(str([*self.fields].index(name)))
        return _key(name)


def records_as_dicts(body: Body, context: Context) -> Body:
    """Rewrite where records are made and their fields used; others stay as they are."""
    records = dict(_records(body, context))
    if not records:
        return body
    fields: dict[str, cst.BaseExpression] = {}
    for record in records.values():
        for name in record.fields:
            key = record.key(name)
            if code(fields.setdefault(name, key)) != code(key):
                return body  # of which of them a field is can't be told
    local = _variables(body) - set(_others(body, fields, records, context))

    def replace(node: cst.CSTNode) -> cst.CSTNode | None:
        if isinstance(node, cst.Call) and dotted(node.func) in records:
            return records[cast(str, dotted(node.func))].made(node)
        if isinstance(node, cst.Attribute) and node.attr.value in fields:
            if _root(node) not in {"self", *local}:
                return None  # of a module, or of something else that has such a field
            if (dotted(node) or "").startswith("self."):
                return None
            key = fields[node.attr.value].deep_clone()
            index = cst.SubscriptElement(cst.Index(key))
            return cst.Subscript(node.value, [index])
        return None

    return tuple(
        cast(Statement, replace_nodes(s, replace, context.origins)) for s in body
    )


def _variables(body: Body) -> set[str]:
    """What a step binds, in itself and in the scopes inside it."""
    names = bound_names(block(body))
    for node in (n for s in body for n in walk(s)):
        if isinstance(node, cst.BaseComp):
            names |= comprehension_names(node)
        elif isinstance(node, cst.Param):
            names.add(node.name.value)
    return names


def _root(node: cst.CSTNode) -> str | None:
    """The variable that an expression starts from."""
    while isinstance(node, (cst.Attribute, cst.Subscript, cst.Call)):
        node = node.func if isinstance(node, cst.Call) else node.value
    return node.value if isinstance(node, cst.Name) else None


def _others(
    body: Body, fields: Collection[str], records: Collection[str], context: Context
) -> Iterator[str]:
    """Variables of what is no record, and has, or may have, a field called like one's."""
    for node in all_statements(body):
        pair = assignment(node)
        if pair is None or not isinstance(pair[0], cst.Name):
            continue
        for made in calls(pair[1]):
            name = dotted(made.func) or ""
            found = context.globals.get(name)
            node_ = found.node if isinstance(found, Definition) else None
            named = {a.keyword.value for a in made.args if a.keyword is not None}
            is_class = isinstance(node_, cst.ClassDef)
            if name not in records and (is_class or named & {*fields}):
                yield pair[0].value


def _records(body: Body, context: Context) -> Iterator[tuple[str, Record]]:
    made: dict[str, list[cst.Call]] = {}
    uses: dict[str, int] = {}
    for node in (n for s in body for n in walk(s)):
        if isinstance(node, cst.Call) and isinstance(node.func, cst.Name):
            made.setdefault(node.func.value, []).append(node)
        if isinstance(node, cst.Name):
            uses[node.value] = uses.get(node.value, 0) + 1
    for name, calls in made.items():
        found = context.globals.get(name)
        record = _record(found, context) if isinstance(found, Definition) else None
        if record is None or uses[name] != len(calls):
            continue
        if record.is_tuple and _asks_for_tuples(body):
            continue
        if all(record.made(call) is not None for call in calls):
            yield name, record


def _asks_for_tuples(body: Body) -> bool:
    """Whether anything tells a tuple from a list, or calls a method of named tuples."""
    nodes = [n for s in body for n in walk(s)]
    methods = (n.attr.value for n in nodes if isinstance(n, cst.Attribute))
    asked = (dotted(c.func) for n in nodes for c in calls(n))
    return bool({"type", "isinstance"} & {*asked} or _OF_NAMED_TUPLES & {*methods})


_OF_NAMED_TUPLES = {"_replace", "_asdict", "_fields", "_make", "_field_defaults"}


def _is_named_tuple(
    node: cst.ClassDef, definition: Definition, context: Context
) -> bool:
    if node.decorators or len(node.bases) != 1 or node.keywords:
        return False
    base = dotted(node.bases[0].value) or ""
    found = context.optimizer.library.resolve(definition.module, base)
    return isinstance(found, External) and found.full_name == "typing.NamedTuple"


def _is_dataclass(node: cst.ClassDef) -> bool:
    if node.bases or len(node.decorators) != 1:
        return False
    decorator = node.decorators[0].decorator
    func = decorator.func if isinstance(decorator, cst.Call) else decorator
    return (dotted(func) or "").rpartition(".")[2] == "dataclass"


def _record(definition: Definition, context: Context) -> Record | None:
    node = definition.node
    if not isinstance(node, cst.ClassDef):
        return None
    is_tuple = _is_named_tuple(node, definition, context)
    if not is_tuple and not _is_dataclass(node):
        return None
    fields: dict[str, cst.BaseExpression | None] = {}
    for statement in statements(node.body):
        line = small(statement)
        if isinstance(line, cst.Expr) and isinstance(line.value, cst.BaseString):
            continue
        if not isinstance(line, cst.AnnAssign) or not isinstance(line.target, cst.Name):
            return None
        if line.value is not None and not is_constant(line.value):
            return None
        name = line.target.value
        if optable.attribute(name) or optable.method(name):
            return None
        fields[name] = line.value
    return Record(fields, is_tuple) if fields else None


def _key(name: str) -> cst.SimpleString:
    return cst.SimpleString(f'"{name}"')
