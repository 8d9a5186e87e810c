"""What an optimizer's constructor leaves behind for its first step to find."""

from __future__ import annotations

from collections.abc import Iterator
from typing import cast

import libcst as cst

from codegen.analysis import dtypes
from codegen.analysis.annotations import annotated
from codegen.analysis.environment import Env
from codegen.analysis.heap import analyse
from codegen.analysis.values import (
    MAY_HOLD_TENSORS,
    UNKNOWN,
    Kind,
    Place,
    Slot,
    Value,
    join,
)
from codegen.diagnostics import walk
from codegen.lower.blocks import group_loop_target
from codegen.lower.facts import FALSE_SETTINGS
from codegen.lower.states import display_entries
from codegen.syntax import (
    all_params,
    assignment,
    code,
    dotted,
    is_name,
    statements,
    string_key,
    target_names,
)
from codegen.upstream import Definition, Upstream


def stored_values(upstream: Upstream) -> dict[Slot, Value]:
    """Slot of the state, of a group, or of what all parameters share → what sort of thing the
    constructor stores there.

    A step that finds its state filled has no line that tells tensors from numbers.
    """
    found: dict[Slot, Value] = {}
    for init in _functions(upstream):
        env, values = _arguments(init), analyse(())
        for slot, node in _stores(init):
            value = _sort(values.value(node, env))
            found[slot] = cast(Value, join(found.get(slot), value))
    return {
        slot: v
        for slot, v in found.items()
        if v.kind is not Kind.UNKNOWN
        and (slot.container != "group" or v.kind in MAY_HOLD_TENSORS)
    }


def stored_dtypes(upstream: Upstream) -> dict[Slot, str]:
    """The dtypes of the tensors that the constructor stores (see ``analysis.dtypes``)."""
    known, found = dtypes.Dtypes(analyse(())), dict[Slot, str]()
    parameter = Value(Kind.TENSOR, frozenset({Place("param")}))
    for init in _functions(upstream):
        env = Env(dict.fromkeys(_walked_parameters(init), parameter))
        for slot, node in _stores(init):
            dtype = known.of(node, env)
            found[slot] = dtype if found.get(slot, dtype) == dtype else dtypes.UNKNOWN
    return found


def _walked_parameters(init: cst.FunctionDef) -> set[str]:
    """Names that stand for a parameter wherever they are bound."""
    bound: dict[str, set[bool]] = {}
    for node in walk(init):
        if isinstance(node, _BINDING):
            parameters = isinstance(node, cst.For) and string_key(node.iter) == "params"
            for name in target_names(node.target):
                bound.setdefault(name, set()).add(parameters)
    return {name for name, found in bound.items() if found == {True}}


_BINDING = (cst.AssignTarget, cst.AugAssign, cst.AnnAssign, cst.NamedExpr, cst.For)


def _sort(value: Value) -> Value:
    """What sort of thing a value is, and what its items are to begin with."""
    item = None if value.item is None else _sort(value.item)
    if item is not None and item.kind is Kind.NONE:
        item = UNKNOWN
    return Value(value.kind, item=item)


def attributes(upstream: Upstream) -> frozenset[str]:
    """Names that some constructor of the lineage gives to ``self``."""
    inits = (
        node
        for cls in upstream.lineage
        for node in walk(cls.node)
        if isinstance(node, cst.FunctionDef) and node.name.value == "__init__"
    )
    return frozenset(
        str(slot.key).strip('"')
        for init in inits
        for slot, _ in _stores(init)
        if slot.container == "shared"
    )


def attribute_function(upstream: Upstream, name: str) -> Definition | None:
    """The function of a module that a constructor gives to ``self.name``, for good."""
    found: list[Definition | None] = []
    for cls in upstream.lineage:
        for method in statements(cast(cst.ClassDef, cls.node).body):
            if not isinstance(method, cst.FunctionDef):
                continue
            own = {p.name.value for p in all_params(method.params)}
            for value, always in _given_to(method, name):
                meant = None
                if always and value is not None and value.partition(".")[0] not in own:
                    meant = upstream.library.resolve(cls.module, value)
                found.append(meant if isinstance(meant, Definition) else None)
    if len(found) != 1 or found[0] is None:
        return None
    return found[0] if isinstance(found[0].node, cst.FunctionDef) else None


def _given_to(method: cst.FunctionDef, name: str) -> Iterator[tuple[str | None, bool]]:
    """What a method assigns to ``self.name``, and whether a constructor always does;
    not where it chooses another implementation."""
    body = statements(method.body)
    skipped = {
        inner
        for node in body
        if isinstance(node, cst.If) and dotted(node.test) in FALSE_SETTINGS
        for inner in walk(node.body)
    }
    for node in walk(method.body):
        pair = assignment(node)
        if pair is not None and dotted(pair[0]) == f"self.{name}":
            if node not in skipped:
                always = method.name.value == "__init__" and node in body
                yield dotted(pair[1]), always


def constructors(upstream: Upstream) -> Iterator[Definition]:
    """Those of a class and of its bases, in the order of its lineage."""
    init = upstream.method("__init__")
    while init is not None:
        yield init
        owner = init.name.partition(".")[0]
        cls = next(c for c in upstream.lineage if c.name == owner)
        init = upstream.method("__init__", after=cls)


def _functions(upstream: Upstream) -> Iterator[cst.FunctionDef]:
    return (cast(cst.FunctionDef, init.node) for init in constructors(upstream))


def _arguments(init: cst.FunctionDef) -> Env:
    """What the constructor's arguments are, by annotation or by default."""
    names: dict[str, Value] = {}
    for param in all_params(init.params):
        name, default = param.name.value, param.default
        if param.annotation is not None:
            names[name] = annotated(name, code(param.annotation.annotation))
        elif isinstance(default, (cst.Integer, cst.Float)):
            names[name] = Value(Kind.SCALAR_OR_TENSOR)
    return Env(names)


def _stores(init: cst.FunctionDef) -> Iterator[tuple[Slot, cst.BaseExpression]]:
    """``state["k"] = v``, ``self.state[p]["k"] = v`` and ``self.state[p] = {"k": v}``;
    ``group["k"] = v``;
    ``self.state["k"] = v`` and ``self.k = v``, which all parameters share."""
    pairs = [
        (target.target, node.value)
        for node in walk(init)
        if isinstance(node, (cst.Assign, cst.AnnAssign)) and node.value is not None
        for target in (node.targets if isinstance(node, cst.Assign) else [node])
    ]
    groups = {group_loop_target(node) for node in walk(init)}
    names = {
        target.value
        for target, value in pairs
        if isinstance(target, cst.Name) and _is_state(value)
    }
    for target, value in pairs:
        key = string_key(target)
        for name, held in (display_entries(value) or {}).items():
            if _is_state(target):  # the whole of a parameter's state
                yield Slot("state", f'"{name}"'), held
        if isinstance(target, cst.Attribute) and is_name(target.value, "self"):
            yield Slot("shared", f'"{target.attr.value}"'), value
        elif key is not None:
            container = cast(cst.Subscript, target).value
            if dotted(container) == "self.state":
                yield Slot("shared", f'"{key}"'), value
            elif _is_state(container) or dotted(container) in names:
                yield Slot("state", f'"{key}"'), value
            elif _is_group(container) or dotted(container) in groups - {None}:
                yield Slot("group", f'"{key}"'), value


def _is_group(node: cst.CSTNode) -> bool:
    return isinstance(node, cst.Subscript) and dotted(node.value) == "self.param_groups"


def _is_state(node: cst.CSTNode) -> bool:
    return isinstance(node, cst.Subscript) and dotted(node.value) == "self.state"
