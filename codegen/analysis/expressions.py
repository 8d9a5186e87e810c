"""What an expression may denote in an environment.

m = state["m"]      the object in the slot "m" of the state
m[0]                the same, through a view
m + 1               an object of its own, named by this expression
m if c else v       one of two
"""

from __future__ import annotations

import re
from collections.abc import Container, Iterable, Mapping
from dataclasses import replace
from typing import Protocol, cast

import libcst as cst

from codegen import optable
from codegen.analysis.displays import Displays
from codegen.analysis.environment import Env
from codegen.analysis.indices import COUNT, FLAG, bounds, computed
from codegen.analysis.keys import is_constant_key, variables
from codegen.analysis.store import keys_of
from codegen.analysis.values import (
    CONTAINERS,
    GRADIENTS,
    MAY_HOLD_TENSORS,
    NOTHING,
    NUMBER,
    OTHER,
    PARAMETERS,
    REPEATS,
    REST,
    SCALAR_OR_TENSOR,
    TOLD,
    UNKNOWN,
    VIEWED,
    Kind,
    Place,
    Slot,
    Value,
    View,
    any_of,
    as_index,
    join,
    join_all,
    join_kind,
    numbered,
    of_any,
    several,
)
from codegen.syntax import bare, code, dotted, index_of, is_name, string_key

CURRENT_STATE = "self.state[group_idx][p_idx]"
CURRENT_GRADS = ("grads[p_idx]", "group_grads[p_idx]")


class CallValues(Protocol):
    """What calls, and attributes that the table of operations knows, may denote."""

    def value(self, node: cst.Call, env: Env) -> Value: ...

    def of_attribute(
        self, operation: optable.Operation, node: cst.Attribute, base: Value
    ) -> Value: ...


class Expressions:
    """Evaluates expressions; it adds to an environment what reading a slot shows.

    ``slot_kinds`` are kinds of what slots hold when a step begins, ``stored`` what a
    constructor leaves there, ``sharing`` which of them may be one tensor (see ``heap``),
    ``constructed`` which a constructor left so, ``viewed`` which may be a part of another,
    ``tuples`` objects and slots that may be tuples, whose items can't be replaced,
    ``parted`` those that hold the parts of one tensor, as an operation made them;
    ``operations`` names that mean some of the table; ``order`` numbers expressions, so
    that what one makes is called alike in each round.
    """

    calls: CallValues

    def __init__(
        self,
        slot_kinds: Mapping[Slot, Kind],
        stored: Mapping[Slot, Value],
        sharing: Mapping[str, frozenset[str]],
        functions: Iterable[str],
        first: bool = False,
        order: Mapping[cst.CSTNode, int] | None = None,
    ) -> None:
        self.slot_kinds = dict(slot_kinds)
        self.tensors_left: set[Slot] = set()
        self.stored = stored
        self.sharing = sharing
        self.constructed: Mapping[str, frozenset[str]] = {}
        self.viewed: set[str] = set()
        self.functions = frozenset(functions)
        self.first = first
        self.order = order or {}
        self.displays = Displays(self)
        self.tuples: set[str] = set()
        self.parted: set[str] = set()
        self.operations: dict[str, str] = {}
        self.sites: dict[cst.CSTNode | None, int] = {}
        self.site: cst.CSTNode | None = None
        self.prefix = "#"

    def value(self, node: cst.BaseExpression, env: Env) -> Value:
        """What an expression may denote."""
        outer, self.site = self.site, node
        try:
            return self._value(node, env)
        finally:
            self.site = outer

    def kind(self, node: cst.BaseExpression, env: Env) -> Kind:
        return self.value(node, env).kind

    def _value(self, node: cst.BaseExpression, env: Env) -> Value:
        node = cast(cst.BaseExpression, bare(node))
        if isinstance(node, cst.Name):
            return self._name(node, env)
        if isinstance(node, cst.Integer):
            return COUNT
        if isinstance(node, (cst.Float, cst.Imaginary)):
            return NUMBER
        if isinstance(node, cst.Comparison):
            return self._comparison(node, env)
        if isinstance(node, (cst.SimpleString, cst.FormattedString, cst.Lambda)):
            return OTHER
        if isinstance(node, cst.Subscript):
            return self._subscript(node, env)
        if isinstance(node, cst.Attribute):
            return self._attribute(node, env)
        if isinstance(node, cst.Call):
            return self.calls.value(node, env)
        if isinstance(node, (cst.BinaryOperation, cst.UnaryOperation)):
            return self._operation(node, env)
        if isinstance(node, (cst.IfExp, cst.BooleanOperation)):
            return self._either(node, env)
        if isinstance(node, cst.NamedExpr):
            return self.value(node.value, env)
        return self.displays.value(node, env)

    def _name(self, node: cst.Name, env: Env) -> Value:
        if node.value in ("True", "False"):
            return FLAG
        if node.value == "None":
            return NOTHING
        if node.value == "group":
            return Value(Kind.MAPPING, frozenset({Place("group")}))
        if node.value not in env.names and node.value in self.functions:
            return OTHER
        return env.names.get(node.value, UNKNOWN)

    # --- operators ----------------------------------------------------------

    def _operation(
        self, node: cst.BinaryOperation | cst.UnaryOperation, env: Env
    ) -> Value:
        if isinstance(node, cst.UnaryOperation):
            if isinstance(node.operator, cst.Not):
                return FLAG
            operands = [self.value(node.expression, env)]
            if isinstance(node.operator, cst.Plus):
                # torch hands out the very tensor
                return replace(operands[0], selects=computed(node, operands))
        else:
            operands = [self.value(node.left, env), self.value(node.right, env)]
        made = self.fresh(self.arithmetic(operands))
        made = replace(made, selects=computed(node, operands))
        if made.kind is Kind.SEQUENCE:
            return replace(made, item=join_all(env.contents(v) for v in operands))
        return made

    def arithmetic(self, operands: Iterable[Value]) -> Kind:
        """The kind of a result of operators and of functions like ``max``."""
        kinds = {v.kind for v in operands}
        if self.first and Kind.NONE in kinds:
            return Kind.TENSOR if Kind.TENSOR in kinds else Kind.NONE
        for kind in (Kind.TENSOR, Kind.UNKNOWN, Kind.SEQUENCE, Kind.SCALAR_OR_TENSOR):
            if kind in kinds:
                return kind
        return Kind.NUMBER if kinds <= {Kind.NUMBER} else Kind.UNKNOWN

    def _comparison(self, node: cst.Comparison, env: Env) -> Value:
        """Tensors are compared element by element; identity and membership are not."""
        by_element = (
            cst.Equal,
            cst.NotEqual,
            cst.LessThan,
            cst.LessThanEqual,
            cst.GreaterThan,
            cst.GreaterThanEqual,
        )
        if not all(isinstance(c.operator, by_element) for c in node.comparisons):
            return FLAG
        operands = [node.left, *(c.comparator for c in node.comparisons)]
        kinds = {self.kind(o, env) for o in operands}
        if Kind.TENSOR in kinds:
            return replace(self.fresh(Kind.TENSOR), selects=False)
        return FLAG

    def _either(self, node: cst.IfExp | cst.BooleanOperation, env: Env) -> Value:
        if isinstance(node, cst.IfExp):
            parts = node.body, node.orelse
        else:
            parts = node.left, node.right
        known, maybe = set(env.slots), set(env.possibly_absent)
        pair = self.value(parts[0], env), self.value(parts[1], env)
        env.possibly_absent = maybe | (env.slots.keys() - known)
        return cast(Value, join(*pair))

    # --- what is walked ----------------------------------------------------

    def item_of(self, source: cst.BaseExpression, env: Env) -> Value:
        """Any item of what a loop walks."""
        if string_key(source) == "params":
            return cast(Value, PARAMETERS.item)
        if is_name(source, "grouped_grads"):
            return GRADIENTS
        value = self.value(source, env)
        if isinstance(source, cst.Call) and dotted(source.func) == "range":
            return COUNT
        if value.kind is Kind.TENSOR:
            # rows: views without a text, nobody can say where a new value goes
            return value.through(View("opaque", ""))
        if value.kind is Kind.MAPPING:
            return OTHER
        found = env.contents(value)
        if found is None:
            return UNKNOWN
        return any_of(found) if found.places else found

    # --- slots --------------------------------------------------------------

    def slot(self, node: cst.Subscript, env: Env) -> Slot | None:
        """The slot that ``container[key]`` is; None for a part of a tensor."""
        key = index_of(node)
        if key is None:
            return None
        if code(node) == CURRENT_STATE:
            return None
        base = self.value(node.value, env)
        if base.kind not in CONTAINERS or base.place is None:
            return None
        return Slot(base.place.obj, key_text(key, base.place.obj, env))

    def _subscript(self, node: cst.Subscript, env: Env) -> Value:
        if code(node) == CURRENT_STATE:
            return Value(Kind.MAPPING, frozenset({Place("state")}))
        if code(node) in CURRENT_GRADS:
            return env.slots.get(Slot("grads", "p_idx"), UNKNOWN)
        base = self.value(node.value, env)
        if base.place == Place("group") and base.kind is Kind.MAPPING:
            return self._setting(node, base, env)
        slot = self.slot(node, env)
        if slot is not None:
            env.possibly_absent.discard(slot)  # else this raised
            return self.slot_value(slot, base, env)
        if string_key(node) == "params":
            return PARAMETERS
        if base.kind is Kind.SCALAR_OR_TENSOR:
            return base
        if base.kind is Kind.SEQUENCE:
            return self._of_sequence(node, base, env)
        if base.kind is Kind.TENSOR:
            return self._part(node, base, env)
        if base.kind is Kind.MAPPING:
            return env.contents(base) or UNKNOWN
        if dotted(node.value) == "self.defaults":
            return SCALAR_OR_TENSOR
        # an item, if it is a container, or a part, if it is a tensor
        held = env.contents(replace(base, kind=Kind.SEQUENCE))
        places = base.places | base.through(View("opaque", "")).places
        return Value(Kind.UNKNOWN, places if held is None else places | held.places)

    def _of_sequence(self, node: cst.Subscript, base: Value, env: Env) -> Value:
        """An item of one of several lists, or a slice: a list of the same items."""
        item = env.contents(base)
        if index_of(node) is not None:
            return item or UNKNOWN
        made = self.new()
        chosen = bounds(node)
        if base.place is not None and chosen is not None:
            env.copy_items(base.place.obj, made.obj, chosen)
        return Value(Kind.SEQUENCE, frozenset({made}), item)

    def _setting(self, node: cst.Subscript, base: Value, env: Env) -> Value:
        slot = Slot("group", code(index_of(node) or node))
        env.possibly_absent.discard(slot)  # else this raised
        if slot in env.slots:
            return env.slots[slot]
        if string_key(node) == "params":
            return PARAMETERS
        kind = self.slot_kinds.get(slot, Kind.NONE)
        if slot not in self.stored:
            # nobody has stored it yet in the first step: it was told from outside
            kind = join_kind(kind, Kind.SCALAR_OR_TENSOR)
            self.slot_kinds[slot] = kind
        if kind in MAY_HOLD_TENSORS and kind is not Kind.UNKNOWN:
            return self.slot_value(slot, base, env)
        return Value(
            Kind.SCALAR_OR_TENSOR, frozenset({Place(f"{TOLD}{string_key(node)}")})
        )

    def slot_value(self, slot: Slot, base: Value, env: Env) -> Value:
        """What a slot holds; reading one makes it known."""
        if slot in env.slots:
            return env.slots[slot]
        rest = env.slots.get(Slot(slot.container, REST))
        value = self._found(slot, base, rest, env)
        env.slots[slot] = value
        text = env.slot_text(slot)
        if text is not None:
            env.texts.setdefault(f"{slot.container}[{slot.key}]", text)
        return value

    def _found(self, slot: Slot, base: Value, rest: Value | None, env: Env) -> Value:
        """What lies under a key that nothing was stored under here."""
        constant = is_constant_key(slot.key)
        if constant and not env.may_have(slot):
            return UNKNOWN
        held = (
            None if constant else join_all(v for _, v in env.slots_of(slot.container))
        )
        inside = join(rest, held)
        kind = self.slot_kinds.get(slot)
        if kind is None and (base.item or inside) is not None:
            kind = cast(Value, join(base.item, inside)).kind
        elif kind is None:
            kind = Kind.NONE if self.first else Kind.UNKNOWN
        if kind in (Kind.NUMBER, Kind.SCALAR_OR_TENSOR):
            return SCALAR_OR_TENSOR
        if kind is Kind.NONE:
            return NOTHING
        return self._object_in(slot, kind, base, inside, env)

    def _object_in(
        self, slot: Slot, kind: Kind, base: Value, inside: Value | None, env: Env
    ) -> Value:
        """The object under a key. Of what may be there it is one: its origins."""
        name = f"{slot.container}[{slot.key}]"
        begin = not slot.container.startswith(self.prefix)
        found = set(self.sharing.get(name, ()))
        parts = [p for v in (base.item, inside) if v is not None for p in v.places]
        if any(p.views for p in parts):
            # parts of one tensor
            part = Value(kind, frozenset(parts))
            return numbered(part, slot.key) if slot.key.isdigit() else any_of(part)
        found |= {p.obj for p in parts}
        env.found[name] = slot
        if not is_constant_key(slot.key):
            env.keyed[name] = frozenset(variables(slot.key))
            found.add(f"{slot.container}[{REST}]")
        elif begin:
            self._tell_keyed(slot.container, name, env)
        if kind in CONTAINERS and REPEATS not in found:
            env.distinct |= {name}
        env.learn_origins({name: frozenset(found - {name, REPEATS})})
        stored = self.stored.get(slot)
        item: Value | None = None
        if stored is not None and stored.kind is kind and stored.item is not None:
            held = frozenset({Place(several(f"{name} items"))})
            item = replace(stored.item, places=held)
        item = item or (base.item and base.item.item) or (inside and inside.item)
        value = Value(kind, frozenset({Place(name)}), item)
        if name in self.viewed:
            value = replace(value, places=value.places | value.through(_PART).places)
        if begin and kind in CONTAINERS:
            self.find_shared(value, env)
        shape = (env.shapes or {}).get(name)
        if begin and kind in CONTAINERS and shape is not None:
            # every step leaves it with the same items
            items = [Slot(name, key) for key in keys_of(shape)]
            env.possibly_absent -= {*items}
            env.slots.update({s: self._found(s, value, None, env) for s in items})
            env.exact[name] = shape if isinstance(shape, int) else -1
        return value

    def find_shared(self, container: Value, env: Env) -> None:
        """Slots of a container that may hold what another one does, whether they are
        read or not: who writes into the other must ask them."""
        for place in container.places:
            some = self.constructed.get(f"{place.obj}[{REST}]")
            if some is not None:
                items = Place(several(f"{place.obj}[{REST}]"))
                env.learn_origins({items.obj: some - {REPEATS, VIEWED}})
                rest = Slot(place.obj, REST)
                env.slots.setdefault(rest, replace(UNKNOWN, places=frozenset({items})))
            for name in sorted(self.sharing):
                if not name.startswith(f"{place.obj}["):
                    continue
                keys = _KEYS.findall(name.removeprefix(place.obj))
                slot = Slot(place.obj, keys[0] if keys else REST)
                nested = len(keys) > 1 and name not in self.constructed
                if nested or slot.key == REST or slot in env.slots:
                    continue
                value = self._found(slot, container, None, env)
                if value.kind in MAY_HOLD_TENSORS:
                    env.slots[slot] = value
                    env.possibly_absent.add(slot)

    def _tell_keyed(self, container: str, name: str, env: Env) -> None:
        """What was found under a key that isn't constant may be the item found now."""
        for obj, found in env.origins.items():
            if f"{container}[{REST}]" in found:
                env.origins[obj] = found | {name}

    # --- parts and attributes -----------------------------------------------

    def _part(self, node: cst.Subscript, base: Value, env: Env) -> Value:
        """Indexing with numbers and slices is a view; with lists and masks, a copy."""
        ways = {self._is_view(e.slice, env) for e in node.slice}
        if False in ways:
            return self.fresh(Kind.TENSOR)
        text = code(node)[len(code(node.value)) :]
        index = cst.Tuple([cst.Element(as_index(e.slice)) for e in node.slice])
        single = as_index(node.slice[0].slice) if len(node.slice) == 1 else index
        seen = base.through(View("index", text, single))
        if None in ways:
            return replace(seen, places=seen.places | {self.new()})
        return seen

    def _is_view(self, node: cst.BaseSlice, env: Env) -> bool | None:
        """Whether an index shows a part; None where it may also copy one."""
        if not isinstance(node, cst.Index):
            return True
        inner = bare(node.value)
        if isinstance(inner, (cst.List, cst.ListComp)):
            return False
        if isinstance(inner, cst.Ellipsis):
            return True
        return self.value(node.value, env).selects

    def _attribute(self, node: cst.Attribute, env: Env) -> Value:
        name, path = node.attr.value, dotted(node) or ""
        if path == "self.shared":
            return Value(Kind.MAPPING, frozenset({Place("shared")}))
        if path.startswith("self."):
            return UNKNOWN
        root = path.partition(".")[0]
        if root not in env.names and root in ("torch", "math", "F", "ops"):
            return OTHER
        base = self.value(node.value, env)
        if name == "data":
            return replace(base, parameter=False)
        known = optable.attribute(name)
        if base.kind is Kind.SEQUENCE:
            return env.contents(base) or UNKNOWN  # a field of a named tuple
        if base.kind not in (Kind.TENSOR, Kind.UNKNOWN) or known is None:
            return UNKNOWN if base.kind is Kind.UNKNOWN else OTHER
        return self.calls.of_attribute(known, node, base)

    # --- objects ------------------------------------------------------------

    def may_be_tuple(self, obj: str) -> bool:
        return of_any(Place(obj)).obj in self.tuples

    def new(self, part: str = "") -> Place:
        """The object that the expression at hand makes: one name per expression."""
        if self.site not in self.sites:
            known = None if self.site is None else self.order.get(self.site)
            later = len(self.order) + len(self.sites) + 1
            self.sites[self.site] = later if known is None else known
        site = self.sites[self.site]
        return Place(f"{self.prefix}{site}{part}")

    def fresh(self, kind: Kind) -> Value:
        """Something new, which nothing else shows."""
        if kind in (Kind.NUMBER, Kind.SCALAR_OR_TENSOR):
            return NUMBER if kind is Kind.NUMBER else SCALAR_OR_TENSOR
        return Value(kind, frozenset({self.new()}))


_PART = View("opaque", "")
_KEYS = re.compile(r"""\[("[^"]*"|\d+|\*)\]""")


def key_text(key: cst.BaseExpression, container: str, env: Env) -> str:
    """The text of a key; ``-1`` counted from the start, where that is known."""
    text = code(bare(key))
    length = env.exact.get(container, -1)
    if text.startswith("-") and text[1:].isdigit() and length >= int(text[1:]):
        return str(length - int(text[1:]))
    return text


def may_be_left_tensor(value: Value, tensors: Container[Slot]) -> bool:
    """Whether a setting is in one of these slots, in which a step leaves tensors."""
    told = (p.obj.partition(TOLD) for p in value.places)
    return any(
        Slot("group", f'"{key}"') in tensors for before, _, key in told if not before
    )
