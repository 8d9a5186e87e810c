"""Alias analysis: which place each name denotes, at each statement.

    exp_avg = state["exp_avg"]        exp_avg → State("exp_avg")
    row = exp_avg.view(-1)            row → State("exp_avg") through .view(-1)
    grad = buf if nesterov else g     grad → buf's object or g's

A place is an object (made by one expression, or found in one slot) and the views
through which it is seen. Mutating a place changes every name and slot that holds
the object; rebinding a name changes that name alone. A table: it never rewrites.
"""

from __future__ import annotations

import enum
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import cast

import libcst as cst

from codegen.syntax import (
    all_params,
    all_statements,
    bare,
    code,
    dotted,
    index_of,
    is_name,
    keyword,
    orelse_statements,
    positional,
    read_names,
    small,
    statements,
    string_key,
)


class Kind(enum.Enum):
    """What sort of thing an expression yields, as far as the rules must know."""

    NONE = "None"
    NUMBER = "number"
    SETTING = "number that may be a tensor"
    TENSOR = "tensor"
    SEQUENCE = "list"
    MAPPING = "dict"
    OTHER = "other"
    UNKNOWN = "unknown"


@dataclass(frozen=True)
class View:
    """One step from an object to a part or another shape of it."""

    how: str
    """``transpose``, ``reshape``, ``index``, ``real``, ``complex`` or ``opaque``."""
    text: str
    """What is written after the base: ``.view(-1)``, ``[0]``."""
    index: cst.BaseExpression | None = None


@dataclass(frozen=True)
class Place:
    """An object seen through views."""

    obj: str
    views: tuple[View, ...] = ()


@dataclass(frozen=True)
class Value:
    """What a name may denote: its kind, its possible places, its items' value.

    ``source`` is the slot that it was got from, if that exists.
    """

    kind: Kind
    places: frozenset[Place] = frozenset()
    item: Value | None = None
    source: Slot | None = None

    @property
    def place(self) -> Place | None:
        """The one place that it surely denotes."""
        return next(iter(self.places)) if len(self.places) == 1 else None

    def objects(self) -> set[str]:
        return {place.obj for place in self.places}


NOTHING = Value(Kind.NONE)
NUMBER = Value(Kind.NUMBER)
SETTING = Value(Kind.SETTING)
OTHER = Value(Kind.OTHER)
UNKNOWN = Value(Kind.UNKNOWN)


ANYTHING = Place("anything")
"""Where something unknown may be, beside other places."""


def join_kind(a: Kind, b: Kind) -> Kind:
    if a is b or b is Kind.NONE:
        return a
    if a is Kind.NONE:
        return b
    if {a, b} == {Kind.NUMBER, Kind.SETTING}:
        return Kind.SETTING
    return Kind.UNKNOWN


def join(a: Value | None, b: Value | None) -> Value | None:
    """What a name may denote after two branches."""
    if a is None or b is None:
        return a or b
    item = join(a.item, b.item)
    sources = {v.source for v in (a, b) if v.kind is not Kind.NONE}
    source = sources.pop() if len(sources) == 1 else None
    places = a.places | b.places
    if any(v.kind is Kind.UNKNOWN and not v.places for v in (a, b)) and places:
        places |= {ANYTHING}
    return Value(join_kind(a.kind, b.kind), places, item, source)


@dataclass(frozen=True)
class Slot:
    """An item of a container: ``state["exp_avg"]``, ``bufs[0]``, ``param.data``."""

    container: str
    key: str


EARLIER_GROUP = "an earlier group"
_GROUP_BY_NUMBER = "which group it is"


@dataclass
class Env:
    """What names and slots denote before one statement.

    ``maybe`` are slots of a dict that exist on some way here and not on another.
    """

    names: dict[str, Value] = field(default_factory=dict)
    slots: dict[Slot, Value] = field(default_factory=dict)
    texts: dict[str, str] = field(default_factory=dict)
    maybe: set[Slot] = field(default_factory=set)

    def fork(self) -> Env:
        return Env(
            dict(self.names), dict(self.slots), dict(self.texts), set(self.maybe)
        )

    def joined(self, other: Env) -> Env:
        names = {
            n: cast(Value, join(self.names.get(n), other.names.get(n)))
            for n in [*self.names, *(k for k in other.names if k not in self.names)]
        }
        slots = {
            s: cast(Value, join(self.slots.get(s), other.slots.get(s)))
            for s in [*self.slots, *(k for k in other.slots if k not in self.slots)]
        }
        one_sided = {
            s for s in self.slots.keys() ^ other.slots.keys() if s.key[:1] in "\"'"
        }
        maybe = self.maybe | other.maybe | one_sided
        return Env(names, slots, {**other.texts, **self.texts}, maybe)

    def slot_text(self, slot: Slot) -> str | None:
        """How to write a slot here: through a name of its container, if there is one."""
        base = self.texts.get(slot.container)
        if slot.key.startswith("."):
            return None if base is None else f"{base}{slot.key}"
        for name, value in self.names.items():
            if value.place == Place(slot.container):
                return f"{name}[{slot.key}]"
        base = base or self._text_of(slot.container)
        return None if base is None else f"{base}[{slot.key}]"

    def _text_of(self, container: str) -> str | None:
        """How to write a container that itself lies in a slot."""
        for slot, value in self.slots.items():
            if value.place == Place(container) and slot.container != container:
                return self.slot_text(slot)
        return None


VIEW_METHODS = {
    "t": "transpose",
    "transpose": "transpose",
    "swapaxes": "transpose",
    "swapdims": "transpose",
    "adjoint": "opaque",
    "view": "reshape",
    "view_as": "reshape",
    "reshape": "reshape",
    "reshape_as": "reshape",
    "flatten": "reshape",
    "unflatten": "reshape",
    "squeeze": "reshape",
    "unsqueeze": "reshape",
    "ravel": "reshape",
    "permute": "opaque",
    "movedim": "opaque",
    "expand": "opaque",
    "expand_as": "opaque",
    "narrow": "opaque",
    "select": "opaque",
    "diagonal": "opaque",
    "diag": "opaque",
    "unfold": "opaque",
    "as_strided": "opaque",
    "_values": "opaque",
    "values": "opaque",
    "_indices": "opaque",
    "indices": "opaque",
    "view_as_real": "real",
    "view_as_complex": "complex",
}
VIEW_ATTRIBUTES = {"T": "transpose", "mT": "transpose", "H": "opaque", "mH": "opaque"}
VIEW_ATTRIBUTES |= {"real": "opaque", "imag": "opaque"}
SPLITS = frozenset({"chunk", "split", "unbind", "tensor_split", "hsplit", "vsplit"})
MAYBE_COPIES = frozenset(
    "to type type_as float double half bfloat16 contiguous cpu cuda coalesce to_dense "
    "expand_as broadcast_to".split()
)
"""Methods that return their receiver itself where there is nothing to convert."""

NUMBER_METHODS = frozenset(
    "size numel dim ndimension element_size stride storage_offset nelement get_device "
    "is_contiguous is_floating_point is_complex item_size data_ptr index count".split()
)
NUMBER_ATTRIBUTES = frozenset("ndim is_sparse is_cuda requires_grad itemsize".split())
META_ATTRIBUTES = frozenset("shape dtype device layout grad_fn names".split())
NUMBER_FUNCTIONS = frozenset("len isinstance hasattr id hash bool int range".split())
SETTING_FUNCTIONS = frozenset("float max min abs sum round pow complex".split())


class Analysis:
    """Walks a function body once, noting the environment before each statement."""

    def __init__(
        self,
        slot_kinds: Mapping[Slot, Kind] | None = None,
        stored: Mapping[Slot, Value] | None = None,
        sources: Mapping[str, cst.FunctionDef] | None = None,
        depth: int = 0,
        first: bool = False,
    ) -> None:
        self.sources = dict(sources or {})
        self.depth = depth
        self.first = first
        self.before: dict[cst.CSTNode, Env] = {}
        self.slot_kinds: dict[Slot, Kind] = dict(slot_kinds or {})
        self.stored = dict(stored or {})
        self.sites: dict[cst.CSTNode | None, int] = {}
        self.site: cst.CSTNode | None = None
        self.functions: set[str] = set()

    # --- statements ---------------------------------------------------------

    def block(self, body: Sequence[cst.CSTNode], env: Env) -> Env:
        for node in body:
            self._note(node, env)
            env = self.statement(node, env.fork())
        return env

    def _note(self, node: cst.CSTNode, env: Env) -> None:
        known = self.before.get(node)
        self.before[node] = env.fork() if known is None else known.joined(env)

    def statement(self, node: cst.CSTNode, env: Env) -> Env:
        if isinstance(node, cst.If):
            body = self.block(statements(node.body), env.fork())
            rest = self.block(orelse_statements(node), env.fork())
            return _after_branches(node, body, rest)
        if isinstance(node, cst.For):
            return self._for(node, env)
        if isinstance(node, cst.While):
            return self._while(node, env)
        if isinstance(node, cst.With):
            return self.block(statements(node.body), env)
        if isinstance(node, cst.Try):
            return self._try(node, env)
        if isinstance(node, cst.FunctionDef):
            self._function(node, env)
            return env
        return self._simple(node, env)

    def _for(self, node: cst.For, env: Env) -> Env:
        for _ in range(2):
            inside = env.fork()
            self._bind_loop(node, inside)
            after = self.block(statements(node.body), inside)
            env = env.joined(after)
        if node.orelse is not None:
            env = self.block(statements(node.orelse.body), env)
        return env

    def _while(self, node: cst.While, env: Env) -> Env:
        for _ in range(2):
            env = env.joined(self.block(statements(node.body), env.fork()))
        return env

    def _try(self, node: cst.Try, env: Env) -> Env:
        after = env.joined(self.block(statements(node.body), env.fork()))
        for handler in node.handlers:
            after = after.joined(self.block(statements(handler.body), after.fork()))
        if node.orelse is not None:
            after = self.block(statements(node.orelse.body), after)
        if node.finalbody is not None:
            after = self.block(statements(node.finalbody.body), after)
        return after

    def _function(self, node: cst.FunctionDef, env: Env) -> None:
        """A nested function: its parameters are unknown, the rest is captured."""
        self.functions.add(node.name.value)
        inside = env.fork()
        for param in all_params(node.params):
            inside.names[param.name.value] = Value(
                Kind.UNKNOWN, frozenset({Place(f"argument {param.name.value}")})
            )
        self.block(statements(node.body), inside)
        env.names[node.name.value] = OTHER

    def _bind_loop(self, node: cst.For, env: Env) -> None:
        """Targets of the README's loops, and of loops over lists."""
        source = node.iter
        target: cst.BaseExpression = node.target
        if isinstance(source, cst.Call) and is_name(source.func, "enumerate"):
            if isinstance(target, cst.Tuple) and len(target.elements) == 2:
                self._bind(target.elements[0].value, NUMBER, env)
                source, target = source.args[0].value, target.elements[1].value
        if isinstance(source, cst.Call) and is_name(source.func, "zip"):
            if isinstance(target, cst.Tuple):
                lists = positional(source)
                for element, item in zip(target.elements, lists):
                    self._bind_item(element.value, item, env)
                return
        self._bind_item(target, source, env)

    def _bind_item(
        self, target: cst.BaseExpression, source: cst.BaseExpression, env: Env
    ) -> None:
        if string_key(source) == "params" and isinstance(target, cst.Name):
            _leave_item(env)
            param = Value(Kind.TENSOR, frozenset({Place("param")}))
            self._bind(target, param, env)
            env.slots[Slot("param", ".data")] = param
            env.texts["param"] = target.value
            env.texts["state"] = "self.state[group_idx][p_idx]"
        elif is_name(source) and cast(cst.Name, source).value in (
            "grads",
            "group_grads",
        ):
            grad = Value(Kind.TENSOR, frozenset({Place("grad")}))
            self._bind(target, grad, env)
            env.slots[Slot("grads", "p_idx")] = grad
            env.texts["grads"] = cast(cst.Name, source).value
        elif dotted(source) in ("self.param_groups", "grouped_grads"):
            _leave_group(env)
            self._bind(target, OTHER, env)
        else:
            value = self.value(source, env)
            item = value.item
            if isinstance(source, cst.Call) and is_name(source.func, "range"):
                item = NUMBER
            if item is None and value.kind is Kind.TENSOR:
                # a view that has no text: nobody could say where a new value goes
                item = Value(Kind.TENSOR)
            if item is not None and _is_opaque(item):
                item = Value(item.kind)
            self._bind(target, item or UNKNOWN, env)

    # --- simple statements

    def _simple(self, node: cst.CSTNode, env: Env) -> Env:
        inner = small(node)
        if isinstance(inner, cst.Assign):
            value = self.value(inner.value, env)
            for target in inner.targets:
                self._bind(target.target, value, env, inner.value)
        elif isinstance(inner, cst.AnnAssign) and inner.value is not None:
            self._bind(inner.target, self.value(inner.value, env), env, inner.value)
        elif isinstance(inner, cst.AugAssign):
            self._augmented(inner, env)
        elif isinstance(inner, cst.Del):
            for name in read_names(inner):
                env.names.pop(name, None)
        return env

    def _augmented(self, node: cst.AugAssign, env: Env) -> None:
        before = self.value(node.target, env)
        if before.kind in (Kind.TENSOR, Kind.SEQUENCE, Kind.MAPPING):
            return
        kind = self._arithmetic([before, self.value(node.value, env)])
        outer, self.site = self.site, node
        made = self._fresh(kind)
        self.site = outer
        self._bind(node.target, made, env)

    def _bind(
        self,
        target: cst.CSTNode,
        value: Value,
        env: Env,
        source: cst.BaseExpression | None = None,
    ) -> None:
        if isinstance(target, cst.Name):
            if is_name(target, "group") and source is not None:
                _leave_group(env)
                env.texts[_GROUP_BY_NUMBER] = code(source)
            _forget(env, target.value)
            env.names[target.value] = value
            self._bind_elements(value, env, source)
        elif isinstance(target, (cst.Tuple, cst.List)):
            self._bind_tuple(target, value, env, source)
        elif isinstance(target, cst.Subscript):
            slot = self.slot(target, env)
            if slot is not None:
                env.slots[slot] = value
                env.maybe.discard(slot)
                known = self.slot_kinds.get(slot, Kind.NONE)
                self.slot_kinds[slot] = join_kind(known, value.kind)
                self._bind_elements(value, env, source)

    def _bind_elements(
        self, value: Value, env: Env, source: cst.BaseExpression | None
    ) -> None:
        """``[a, b]`` holds a and b: remember each item's place."""
        if isinstance(source, (cst.List, cst.Tuple)) and value.place is not None:
            for number, element in enumerate(source.elements):
                slot = Slot(value.place.obj, str(number))
                env.slots[slot] = self.value(element.value, env)

    def _bind_tuple(
        self,
        target: cst.Tuple | cst.List,
        value: Value,
        env: Env,
        source: cst.BaseExpression | None,
    ) -> None:
        parts: Sequence[Value]
        if _starred(target) or _starred(source):
            parts = [UNKNOWN] * len(target.elements)
        elif isinstance(source, (cst.Tuple, cst.List)) and len(source.elements) == len(
            target.elements
        ):
            parts = [self.value(e.value, env) for e in source.elements]
        elif _holds_tensors(value):
            assert value.place is not None
            slots = [Slot(value.place.obj, str(i)) for i in range(len(target.elements))]
            parts = [self._slot_value(slot, value, env) for slot in slots]
        else:
            whole = value.item or self._parts_of(value)
            parts = [_numbered(whole, i) for i in range(len(target.elements))]
        for element, part in zip(target.elements, parts):
            self._bind(element.value, part, env)

    def _parts_of(self, value: Value) -> Value:
        """Items of a tuple of unknown make: settings' parts are settings."""
        if value.kind in (Kind.SETTING, Kind.NUMBER):
            return value
        if value.kind is Kind.TENSOR:
            return UNKNOWN  # rows, which are views
        return Value(Kind.UNKNOWN, value.places)

    # --- expressions --------------------------------------------------------

    def slot(self, node: cst.Subscript, env: Env) -> Slot | None:
        """The slot that ``container[key]`` is; None for a part of a tensor."""
        key = index_of(node)
        if key is None:
            return None
        if code(node.value) == "self.state[group_idx]" and code(key) == "p_idx":
            return None
        base = self.value(node.value, env)
        if base.kind not in (Kind.MAPPING, Kind.SEQUENCE) or base.place is None:
            return None
        return Slot(base.place.obj, code(key))

    def value(self, node: cst.BaseExpression, env: Env) -> Value:
        """What an expression may denote."""
        outer, self.site = self.site, node
        try:
            return self._value(node, env)
        finally:
            self.site = outer

    def _value(self, node: cst.BaseExpression, env: Env) -> Value:
        node = cast(cst.BaseExpression, bare(node))
        if isinstance(node, cst.Name):
            return self._name(node, env)
        if isinstance(node, (cst.Integer, cst.Float, cst.Imaginary, cst.Comparison)):
            return NUMBER
        if isinstance(node, (cst.SimpleString, cst.FormattedString, cst.Lambda)):
            return OTHER
        if isinstance(node, cst.Subscript):
            return self._subscript(node, env)
        if isinstance(node, cst.Attribute):
            return self._attribute(node, env)
        if isinstance(node, cst.Call):
            return self._call(node, env)
        if isinstance(node, (cst.BinaryOperation, cst.UnaryOperation)):
            return self._operation(node, env)
        if isinstance(node, (cst.IfExp, cst.BooleanOperation)):
            return self._either(node, env)
        return self._container(node, env)

    def _name(self, node: cst.Name, env: Env) -> Value:
        if node.value in ("True", "False"):
            return NUMBER
        if node.value == "None":
            return NOTHING
        if node.value == "group":
            return Value(Kind.MAPPING, frozenset({Place("group")}))
        if node.value not in env.names and node.value in self.sources:
            return OTHER
        return env.names.get(node.value, UNKNOWN)

    def _operation(
        self, node: cst.BinaryOperation | cst.UnaryOperation, env: Env
    ) -> Value:
        if isinstance(node, cst.UnaryOperation):
            if isinstance(node.operator, cst.Not):
                return NUMBER
            operands = [self.value(node.expression, env)]
        else:
            operands = [self.value(node.left, env), self.value(node.right, env)]
        return self._fresh(self._arithmetic(operands))

    def _arithmetic(self, operands: Iterable[Value]) -> Kind:
        kinds = {v.kind for v in operands}
        if self.first and Kind.NONE in kinds:
            return Kind.TENSOR if Kind.TENSOR in kinds else Kind.NONE
        for kind in (Kind.TENSOR, Kind.UNKNOWN, Kind.SEQUENCE, Kind.SETTING):
            if kind in kinds:
                return kind
        return Kind.NUMBER if kinds <= {Kind.NUMBER} else Kind.UNKNOWN

    def _either(self, node: cst.IfExp | cst.BooleanOperation, env: Env) -> Value:
        if isinstance(node, cst.IfExp):
            parts = node.body, node.orelse
        else:
            parts = node.left, node.right
        known, maybe = set(env.slots), set(env.maybe)
        pair = self.value(parts[0], env), self.value(parts[1], env)
        env.maybe = maybe | (env.slots.keys() - known)
        return cast(Value, join(*pair))

    def _container(self, node: cst.BaseExpression, env: Env) -> Value:
        if isinstance(node, (cst.List, cst.Tuple, cst.Set)):
            item: Value | None = None
            for element in node.elements:
                item = join(item, self.value(element.value, env))
            return Value(Kind.SEQUENCE, frozenset({self._new()}), item)
        if isinstance(node, (cst.ListComp, cst.GeneratorExp)):
            inside = env.fork()
            self._bind_comprehension(node.for_in, inside)
            item = self.value(node.elt, inside)
            return Value(Kind.SEQUENCE, frozenset({self._new()}), item)
        if isinstance(node, (cst.Dict, cst.DictComp)):
            return self._dict(node, env)
        return UNKNOWN

    def _dict(self, node: cst.Dict | cst.DictComp, env: Env) -> Value:
        item: Value | None = None
        if isinstance(node, cst.DictComp):
            inside = env.fork()
            self._bind_comprehension(node.for_in, inside)
            item = self.value(node.value, inside)
        else:
            for element in node.elements:
                if isinstance(element, cst.DictElement):
                    item = join(item, self.value(element.value, env))
        return Value(Kind.MAPPING, frozenset({self._new()}), item)

    def _bind_comprehension(self, node: cst.CompFor, env: Env) -> None:
        loop = cst.For(node.target, node.iter, cst.IndentedBlock([]))
        self._bind_loop(loop, env)
        if node.inner_for_in is not None:
            self._bind_comprehension(node.inner_for_in, env)

    def _subscript(self, node: cst.Subscript, env: Env) -> Value:
        if code(node) == "self.state[group_idx][p_idx]":
            return Value(Kind.MAPPING, frozenset({Place("state")}))
        if code(node) in ("grads[p_idx]", "group_grads[p_idx]"):
            return env.slots.get(Slot("grads", "p_idx"), UNKNOWN)
        base = self.value(node.value, env)
        if base.place == Place("group") and base.kind is Kind.MAPPING:
            return self._setting(node, env)
        slot = self.slot(node, env)
        if slot is not None:
            env.maybe.discard(slot)  # else this raised
            return self._slot_value(slot, base, env)
        if base.kind is Kind.SETTING:
            return base
        if base.kind is Kind.SEQUENCE:
            if index_of(node) is not None and base.item in (NUMBER, SETTING):
                return base.item
            return replace(base, places=frozenset({self._new()}))
        if base.kind is Kind.TENSOR:
            return self._part(node, base, env)
        if dotted(node.value) in ("self.defaults",):
            return SETTING
        return Value(Kind.UNKNOWN, base.places)

    def _setting(self, node: cst.Subscript, env: Env) -> Value:
        slot = Slot("group", code(cast(cst.CSTNode, index_of(node) or node)))
        env.maybe.discard(slot)  # else this raised
        if slot in env.slots:
            return env.slots[slot]
        if string_key(node) == "params":
            param = Value(Kind.TENSOR, frozenset({Place("a parameter")}))
            return Value(Kind.SEQUENCE, frozenset({Place("params")}), param)
        known = self.slot_kinds.get(slot)
        if known is Kind.TENSOR:
            return Value(known, frozenset({Place(f"group[{slot.key}]")}))
        return Value(Kind.SETTING, frozenset({Place(f"setting {string_key(node)}")}))

    def _slot_value(self, slot: Slot, base: Value, env: Env) -> Value:
        if slot in env.slots:
            return env.slots[slot]
        kind = self.slot_kinds.get(slot)
        if kind is None and base.item is not None:
            kind = base.item.kind
        elif kind is None:
            kind = Kind.NONE if self.first else Kind.UNKNOWN
        stored = self.stored.get(slot)
        item = stored.item if stored is not None and stored.kind is kind else None
        value = Value(kind, frozenset({Place(f"{slot.container}[{slot.key}]")}), item)
        if kind in (Kind.NUMBER, Kind.SETTING):
            value = SETTING
        env.slots[slot] = value
        text = env.slot_text(slot)
        if text is not None:
            env.texts.setdefault(f"{slot.container}[{slot.key}]", text)
        return value

    def _part(self, node: cst.Subscript, base: Value, env: Env) -> Value:
        """Basic indexing is a view; indexing with a tensor is a copy."""
        kinds = [self._index_kind(e.slice, env) for e in node.slice]
        if Kind.TENSOR in kinds:
            return self._fresh(Kind.TENSOR)
        text = code(node)[len(code(node.value)) :]
        index = cst.Tuple([cst.Element(_as_index(e.slice)) for e in node.slice])
        single = _as_index(node.slice[0].slice) if len(node.slice) == 1 else index
        view = View("index", text, single)
        return self._seen_through(base, view)

    def _index_kind(self, node: cst.BaseSlice, env: Env) -> Kind:
        if isinstance(node, cst.Index):
            kind = self.value(node.value, env).kind
            if isinstance(bare(node.value), cst.Comparison):
                return self._comparison_kind(
                    cast(cst.Comparison, bare(node.value)), env
                )
            return kind
        return Kind.NUMBER

    def _comparison_kind(self, node: cst.Comparison, env: Env) -> Kind:
        operands = [node.left, *(c.comparator for c in node.comparisons)]
        kinds = {self.value(o, env).kind for o in operands}
        return Kind.TENSOR if Kind.TENSOR in kinds else Kind.NUMBER

    def _attribute(self, node: cst.Attribute, env: Env) -> Value:
        name = node.attr.value
        if dotted(node) == "self.shared":
            return Value(Kind.MAPPING, frozenset({Place("shared")}))
        if (dotted(node) or "").startswith("self."):
            return UNKNOWN
        if (dotted(node) or "").startswith("torch.") and not name.endswith("_"):
            return OTHER
        base = self.value(node.value, env)
        if name == "data":
            return base
        if name in META_ATTRIBUTES:
            return Value(Kind.SEQUENCE, item=NUMBER) if name == "shape" else OTHER
        if name in NUMBER_ATTRIBUTES:
            return NUMBER
        views = base.kind is Kind.TENSOR or (base.kind is Kind.UNKNOWN and base.places)
        if name in VIEW_ATTRIBUTES and views:
            return self._seen_through(base, View(VIEW_ATTRIBUTES[name], f".{name}"))
        return UNKNOWN if base.kind is Kind.UNKNOWN else OTHER

    def _seen_through(self, base: Value, view: View) -> Value:
        places = frozenset(replace(p, views=(*p.views, view)) for p in base.places)
        return Value(Kind.TENSOR, places)

    # --- calls

    def _call(self, node: cst.Call, env: Env) -> Value:
        name = dotted(node.func) or ""
        args = positional(node)
        if name.startswith(("torch.", "ops.", "math.", "F.")):
            return self._library_call(name, node, args, env)
        if isinstance(node.func, cst.Attribute):
            return self._method(node, node.func, args, env)
        if name in NUMBER_FUNCTIONS:
            return NUMBER
        if name in SETTING_FUNCTIONS:
            values = [self._scalar(a, env) for a in args]
            found = self._fresh(self._arithmetic(values))
            if name not in ("max", "min") or not any(v.places for v in values):
                return found
            # one of them, and no copy
            return replace(
                found, places=frozenset[Place]().union(*(v.places for v in values))
            )
        if name in ("list", "tuple", "sorted", "reversed", "deque", "zip"):
            value = self.value(args[0], env) if args else OTHER
            return Value(Kind.SEQUENCE, frozenset({self._new()}), value.item)
        if name in ("dict", "defaultdict", "OrderedDict"):
            return Value(Kind.MAPPING, frozenset({self._new()}))
        return self._own_function(node, env)

    def _scalar(self, node: cst.BaseExpression, env: Env) -> Value:
        value = self.value(node, env)
        return value.item or value if value.kind is Kind.SEQUENCE else value

    def _own_function(self, node: cst.Call, env: Env) -> Value:
        """A helper may hand back an argument, or something new."""
        summary = self._summary(node, env)
        if summary is not None:
            return summary
        places = {self._new()}
        kinds = {Kind.NUMBER}
        for arg in node.args:
            value = self.value(arg.value, env)
            kinds.add(value.kind)
            places |= value.places
        if dotted(node.func) in self.functions:
            kinds.add(Kind.TENSOR)
        if Kind.TENSOR in kinds:
            return Value(Kind.UNKNOWN, frozenset(places))
        if kinds <= {Kind.NUMBER, Kind.SETTING, Kind.OTHER, Kind.SEQUENCE, Kind.NONE}:
            return SETTING
        return Value(Kind.UNKNOWN, frozenset(places))

    def _summary(self, node: cst.Call, env: Env) -> Value | None:
        """What a function with known source returns, given these arguments."""
        function = self.sources.get(dotted(node.func) or "")
        if function is None or self.depth > 3:
            return None
        names = [p.name.value for p in all_params(function.params)]
        names = names[1:] if names[:1] == ["self"] else names
        inside = Env()
        given = dict(zip(names, (a.value for a in node.args if a.keyword is None)))
        given |= {a.keyword.value: a.value for a in node.args if a.keyword is not None}
        for name in names:
            inside.names[name] = (
                self.value(given[name], env) if name in given else SETTING
            )
        inner = Analysis(sources=self.sources, depth=self.depth + 1)
        inner.sites = {None: len(self.sites) + 1000 * (self.depth + 1)}
        body = statements(function.body)
        inner.block(body, inside)
        result: Value | None = None
        for part in all_statements(body):
            returned = small(part)
            if isinstance(returned, cst.Return) and returned.value is not None:
                there = inner.before.get(part, Env())
                result = join(result, inner.value(returned.value, there))
        if result is None:
            return None
        if result.kind is Kind.OTHER and inner.functions:
            return UNKNOWN  # a function that a function makes
        site = self._new().obj
        outer = {p.obj for v in inside.names.values() for p in v.places}
        if result.kind in (Kind.SEQUENCE, Kind.MAPPING):
            return self._new_container(function, result, outer)
        places = frozenset(
            p if p.obj in outer else replace(p, obj=f"{site} of {p.obj}")
            for p in result.places
        )
        return replace(result, places=places)

    def _new_container(
        self, function: cst.FunctionDef, result: Value, outer: set[str]
    ) -> Value | None:
        """A list or dict that a function makes, of tensors that it makes as well."""
        from codegen.rules.r4_out_of_place.inplace import mutated_roots

        item = result.item
        if item is None or not item.places or item.kind is Kind.UNKNOWN:
            return None
        if (item.objects() | result.objects()) & outer:
            return None
        if any(True for _ in mutated_roots(function.body)):
            return None
        own = replace(item, places=frozenset({self._new(" item")}))
        return replace(result, places=frozenset({self._new()}), item=own)

    def _library_call(
        self, name: str, node: cst.Call, args: list[cst.BaseExpression], env: Env
    ) -> Value:
        method = name.rpartition(".")[2]
        if name.startswith("math."):
            kind = self._arithmetic(self.value(a, env) for a in args)
            return NUMBER if kind is Kind.NUMBER else SETTING
        if name.startswith("ops."):
            return self._runtime_call(method, args, env)
        if method in ("is_complex", "is_tensor", "is_floating_point", "numel"):
            return NUMBER
        if method in ("device", "finfo", "iinfo", "Size", "Generator") or (
            name.count(".") == 1 and method.islower() and method in _DTYPES
        ):
            return OTHER
        if method.startswith("_foreach_") or method in SPLITS:
            return self._tensors(args, method, env)
        if method in VIEW_METHODS and args:
            rest = ", ".join(code(a) for a in args[1:])
            return self._view(method, f".{method}({rest})", args[0], env)
        if method in (
            "svd",
            "eigh",
            "qr",
            "slogdet",
            "linalg_svd",
            "lu",
            "topk",
            "max",
        ):
            # of two tensors, the larger; along a dim, values and indices
            along = len(args) > 1 and self.value(args[1], env).kind is Kind.NUMBER
            if method != "max" or along:
                item = Value(Kind.TENSOR, frozenset({self._new(" item")}))
                return Value(Kind.SEQUENCE, frozenset({self._new()}), item)
        return self._fresh(Kind.TENSOR)

    def _runtime_call(
        self, method: str, args: list[cst.BaseExpression], env: Env
    ) -> Value:
        if method in ("scalar_dtype",):
            return OTHER
        if method == "value":
            return SETTING
        if method in ("sqrt", "exp", "log", "maximum", "minimum", "clamp", "pow"):
            return self._fresh(self._arithmetic(self.value(a, env) for a in args))
        if method == "deepcopy":
            value = self.value(args[0], env)
            return replace(value, places=frozenset({self._new()}))
        return self._fresh(Kind.TENSOR)

    def _tensors(self, args: list[cst.BaseExpression], method: str, env: Env) -> Value:
        item = Value(Kind.TENSOR, frozenset({self._new(" item")}))
        if method in SPLITS and args:
            base = self.value(args[0], env)
            item = self._seen_through(
                base, View("opaque", self._split_text(args, method))
            )
        return Value(Kind.SEQUENCE, frozenset({self._new()}), item)

    def _split_text(self, args: list[cst.BaseExpression], method: str) -> str:
        site = self.site
        if isinstance(site, cst.Call) and isinstance(site.func, cst.Attribute):
            if dotted(site.func.value) != "torch":
                return code(site)[len(code(site.func.value)) :]
        return f".{method}({', '.join(code(a) for a in args[1:])})"

    def _view(
        self, method: str, text: str, receiver: cst.BaseExpression, env: Env
    ) -> Value:
        base = self.value(receiver, env)
        return self._seen_through(base, View(VIEW_METHODS[method], text))

    def _method(
        self,
        node: cst.Call,
        func: cst.Attribute,
        args: list[cst.BaseExpression],
        env: Env,
    ) -> Value:
        method = func.attr.value
        base = self.value(func.value, env)
        if method == "get" and base.kind is Kind.MAPPING:
            return self._get(func.value, args, env)
        if method == "item":
            return SETTING
        if method in NUMBER_METHODS and base.kind is not Kind.MAPPING:
            return (
                NUMBER
                if args or method != "size"
                else Value(Kind.SEQUENCE, item=NUMBER)
            )
        if base.kind in (Kind.MAPPING, Kind.SEQUENCE):
            return self._container_method(method, base)
        if method == "data":
            return base
        if method in VIEW_METHODS:
            text = code(node)[len(code(func.value)) :]
            return self._view(method, text, func.value, env)
        if method in SPLITS:
            return self._tensors([func.value], method, env)
        if method in MAYBE_COPIES:
            copies = keyword(node, "copy")
            if is_name(copies, "True"):
                return self._fresh(Kind.TENSOR)
            return replace(base, kind=Kind.TENSOR, places=base.places | {self._new()})
        if method.endswith("_") and not method.startswith("_"):
            return base
        if base.kind in (Kind.UNKNOWN, Kind.OTHER) and not _tensor_method(method):
            return Value(Kind.UNKNOWN, base.places | {self._new()})
        return self._fresh(Kind.TENSOR)

    def _container_method(self, method: str, base: Value) -> Value:
        if method == "values":
            return Value(Kind.SEQUENCE, frozenset({self._new()}), base.item or UNKNOWN)
        if method in ("items", "keys", "copy"):
            return Value(Kind.SEQUENCE, frozenset({self._new()}), base.item)
        if method in ("pop", "popleft", "setdefault"):
            return base.item or UNKNOWN
        return OTHER

    def _get(
        self, container: cst.BaseExpression, args: list[cst.BaseExpression], env: Env
    ) -> Value:
        base = self.value(container, env)
        default = self.value(args[1], env) if len(args) > 1 else NOTHING
        if base.place is None:
            return UNKNOWN
        slot = Slot(base.place.obj, code(args[0]))
        if base.place == Place("group") and slot not in env.slots:
            if self.slot_kinds.get(slot) is not Kind.TENSOR:
                return SETTING
        if slot not in env.slots:
            env.maybe.add(slot)  # that is why it is asked for with get
        found = replace(self._slot_value(slot, base, env), source=slot)
        return cast(Value, join(found, default))

    # --- objects

    def _new(self, part: str = "") -> Place:
        """The object that the expression at hand makes: one name per expression."""
        site = self.sites.setdefault(self.site, len(self.sites) + 1)
        return Place(f"#{site}{part}")

    def _fresh(self, kind: Kind) -> Value:
        if kind in (Kind.NUMBER, Kind.SETTING):
            return NUMBER if kind is Kind.NUMBER else SETTING
        return Value(kind, frozenset({self._new()}))


_DTYPES = frozenset(
    "float float16 float32 float64 double half bfloat16 int int32 int64 long bool "
    "uint8 complex64 complex128 preserve_format contiguous_format strided".split()
)


def _tensor_method(method: str) -> bool:
    from codegen.rules.r4_out_of_place.inplace import TWINS

    return method in TWINS or method in (
        "clone mean sum std var norm new_zeros new_ones new_full new_empty new_tensor "
        "matmul mm bmm dot outer max min amax amin any all sparse_mask cholesky svd "
        "prod median sort argmax nonzero softmax repeat masked_select gather".split()
    )


def _as_index(node: cst.BaseSlice) -> cst.BaseExpression:
    if isinstance(node, cst.Index):
        return node.value
    assert isinstance(node, cst.Slice)
    bounds = [node.lower, node.upper]
    if node.step is not None:
        bounds.append(node.step)
    args = [cst.Arg(b if b is not None else cst.Name("None")) for b in bounds]
    return cst.Call(cst.Name("slice"), args)


def _starred(node: cst.CSTNode | None) -> bool:
    """Whether a tuple or list leaves open how many items it has."""
    if not isinstance(node, (cst.Tuple, cst.List)):
        return False
    return any(isinstance(e, cst.StarredElement) for e in node.elements)


def _numbered(value: Value, number: int) -> Value:
    """Items unpacked from one sequence are different objects, or parts of one."""
    if value.kind in (Kind.SETTING, Kind.NUMBER):
        return value
    if not all(p.views or p.obj.startswith("#") for p in value.places):
        return UNKNOWN  # held by something that is not seen through
    places = frozenset(
        (
            replace(
                p,
                views=(
                    *p.views[:-1],
                    replace(p.views[-1], text=f"{p.views[-1].text}[{number}]"),
                ),
            )
            if p.views
            else replace(p, obj=f"{p.obj} {number}")
        )
        for p in value.places
    )
    return replace(value, places=places)


def _is_opaque(value: Value) -> bool:
    return any(view.how == "opaque" for p in value.places for view in p.views)


def _leave_item(env: Env) -> None:
    """What names hold of the last parameter is none of the next one's."""

    def earlier(value: Value) -> Value:
        places = frozenset(
            replace(p, obj=f"earlier {p.obj}") if _of_item(p.obj) else p
            for p in value.places
        )
        return replace(value, places=places)

    env.names = {n: earlier(v) for n, v in env.names.items()}
    for slot in [s for s in env.slots if _of_item(s.container)]:
        del env.slots[slot]
        env.maybe.discard(slot)


def _of_item(obj: str) -> bool:
    return obj in ("param", "grad", "state") or obj.startswith("state[")


def _leave_group(env: Env) -> None:
    """What the last group holds is not the next one's: it can be written to only if
    that was ``self.param_groups[0]``, or another by number."""
    earlier = env.texts.pop(_GROUP_BY_NUMBER, EARLIER_GROUP)
    if earlier != EARLIER_GROUP:
        env.texts[earlier] = earlier
    own = {s for s in env.slots if s.container == "group"}
    objects = set().union(*(env.slots[s].objects() for s in own), set())

    def renamed(value: Value) -> Value:
        places = (
            replace(p, obj=f"earlier {p.obj}") if p.obj in objects else p
            for p in value.places
        )
        return replace(value, places=frozenset(places))

    env.names = {n: renamed(v) for n, v in env.names.items()}
    env.slots = {
        replace(s, container=earlier) if s in own else s: renamed(v)
        for s, v in env.slots.items()
    }
    env.maybe -= own


def _holds_tensors(value: Value) -> bool:
    """A list whose items are tensors of their own, not parts of one."""
    item = value.item
    if value.kind is not Kind.SEQUENCE or value.place is None or item is None:
        return False
    return item.kind is Kind.TENSOR and not any(p.views for p in item.places)


def _forget(env: Env, name: str) -> None:
    """Slots whose key reads a variable that is now another's."""
    for slot in [s for s in env.slots if name in _words(s.key)]:
        del env.slots[slot]


def _words(text: str) -> set[str]:
    """Variables that a key reads: not ``.data``, nor words in strings."""
    return set(re.findall(r"(?<![\"'\w.])[A-Za-z_]\w*(?![\"'\w])", text))


def _after_branches(node: cst.If, body: Env, rest: Env) -> Env:
    from codegen.syntax import ends

    first, second = statements(node.body), orelse_statements(node)
    if first and ends(first[-1]):
        return rest
    if second and ends(second[-1]):
        return body
    return body.joined(rest)


def analyse(
    body: Sequence[cst.CSTNode],
    annotations: Mapping[str, str] | None = None,
    sources: Mapping[str, cst.FunctionDef] | None = None,
    stored: Mapping[Slot, Value] | None = None,
) -> Analysis:
    """The place table of a function body in the README's shape.

    ``annotations`` are those of the function's parameters, if it has any; ``sources``
    the functions that it calls; ``stored`` is what slots hold before.
    """
    start = Env(texts={"group": "group", "shared": "self.shared"})
    for name, annotation in (annotations or {}).items():
        start.names[name] = annotated(name, annotation)
    # what a step reads it has stored before: the first round looks at first stores alone
    told = {slot: value.kind for slot, value in (stored or {}).items()}
    first = Analysis(told, stored, sources, first=True)
    first.block(body, start.fork())
    found = first.slot_kinds.items()
    kinds: dict[Slot, Kind] = {s: k for s, k in found if k is not Kind.NONE}
    while True:
        analysis = Analysis(kinds, stored, sources)
        analysis.block(body, start.fork())
        if analysis.slot_kinds == kinds:
            return analysis
        kinds = analysis.slot_kinds


_ITERABLES = frozenset("List list Tuple tuple Sequence Iterable Size".split())


def annotated(name: str, annotation: str) -> Value:
    """What a parameter with that annotation may be."""
    place = frozenset({Place(f"argument {name}")})
    words = set(re.findall(r"\w+", annotation))
    if "Tensor" in words:
        return Value(Kind.TENSOR, place) if len(words - {"torch"}) == 1 else UNKNOWN
    items = words - _ITERABLES - {"Union", "torch"}
    if words & _ITERABLES and items <= {"int", "float"}:
        return Value(Kind.SEQUENCE, place, SETTING if "float" in items else NUMBER)
    if words and words <= {"int", "bool", "None"}:
        return NUMBER
    if words and words <= {"float", "int", "None"}:
        return SETTING
    if words and words <= {"str", "None"}:
        return OTHER
    return Value(Kind.UNKNOWN, place)
