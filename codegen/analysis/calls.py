"""What a call may yield: from the table of operations, from containers, from functions
with a source. What is in none of them yields anything at all.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import cast

import libcst as cst

from codegen import optable
from codegen.analysis.environment import Env
from codegen.analysis.expressions import Expressions, key_text
from codegen.analysis.indices import COUNT, FLAG
from codegen.analysis.keys import is_constant_key
from codegen.analysis.values import (
    ANY_ITEM,
    ANYTHING,
    CONTAINERS,
    MAY_HOLD_TENSORS,
    NOTHING,
    NUMBER,
    OTHER,
    SCALAR_OR_TENSOR,
    UNKNOWN,
    Kind,
    Place,
    Slot,
    Value,
    View,
    join,
    join_all,
)
from codegen.optable import Operation, Result
from codegen.syntax import code, dotted, positional

MODULES = ("torch", "ops", "math", "F", "operator", "copy", "itertools", "functools")


class Calls:
    """Evaluates calls; ``summaries`` tells what functions with a source return."""

    def __init__(self, expressions: Expressions) -> None:
        self.expressions = expressions
        expressions.calls = self

    def value(self, node: cst.Call, env: Env) -> Value:
        """What ``node`` may denote."""
        name = dotted(node.func) or ""
        root = name.partition(".")[0]
        if "." in name and root in MODULES and root not in env.names:
            return self._function(optable.function(name), node, env)
        if isinstance(node.func, cst.Attribute):
            return self._method(node, node.func, env)
        full = self.expressions.operations.get(name, "")
        if full.partition(".")[0] in MODULES and name not in env.names:
            return self._function(optable.function(full), node, env)
        if name and name not in env.names and name not in self.expressions.functions:
            builtin = self._builtin(name, node, env)
            if builtin is not None:
                return builtin
        return self._own_function(node, env)

    # --- operations of the table

    def _function(self, operation: Operation | None, node: cst.Call, env: Env) -> Value:
        bound = None if operation is None else operation.bind(node.args)
        if operation is None or bound is None:
            return self._unknown(node, env)
        receiver = self._argument(operation, bound)
        text = ""
        if receiver is not None and node.args and receiver is node.args[0].value:
            plain = (a.with_changes(comma=cst.MaybeSentinel.DEFAULT) for a in node.args)
            rest = ", ".join([*map(code, plain)][1:])
            method = operation.name.rpartition(".")[2]
            text = f".{method}({rest})"
        return self._result(operation, bound, node.args, receiver, text, env)

    def _argument(
        self, operation: Operation, bound: Mapping[str, cst.BaseExpression]
    ) -> cst.BaseExpression | None:
        """The argument that the result is, or shows."""
        if not operation.parameters:
            return None
        return bound.get(operation.parameters[operation.base].name)

    def _result(
        self,
        operation: Operation,
        bound: Mapping[str, cst.BaseExpression],
        args: Sequence[cst.Arg],
        receiver: cst.BaseExpression | None,
        text: str,
        env: Env,
    ) -> Value:
        result = operation.returned(bound)
        if result is Result.SAME and "out" in bound:
            receiver = bound["out"]
        if result is Result.NEW_OR_SEVERAL:
            result = self._one_or_several(bound[operation.several_if or ""], env)
        base = UNKNOWN if receiver is None else self._shown_argument(receiver, env)
        if operation.name in _COPIES:
            return self._copy(base, operation.name != "copy.copy", env)
        if result is Result.COMPUTED:
            values = [self._scalar(a.value, env) for a in args]
            return self.expressions.fresh(self.expressions.arithmetic(values))
        if result in (Result.ITEMS, Result.ONE_OF):
            return self._of_items(result, args, env)
        return self._shown(operation, result, base, text)

    def _copy(self, base: Value, deep: bool, env: Env) -> Value:
        """``copy.copy`` of a tensor shows its memory; of a container, what it holds."""
        made = self.expressions.new()
        if base.kind is Kind.TENSOR:
            return Value(Kind.TENSOR, frozenset({made})) if deep else base
        if base.kind not in (*CONTAINERS, Kind.UNKNOWN):
            return base
        item = env.contents(base)
        if deep:
            inside = self.expressions.new(" item'")
            places = frozenset({made})
            item = item and _held_in(item, inside)
        else:
            kept = base.places if base.kind is Kind.UNKNOWN else frozenset[Place]()
            places = kept | {made}
        return Value(base.kind, places, item)

    def _shown_argument(self, node: cst.BaseExpression, env: Env) -> Value:
        """What a result may show: of ``*tensors``, any of them."""
        if not isinstance(node, cst.Tuple):
            return self.expressions.value(node, env)
        values = [self.expressions.value(e.value, env) for e in node.elements]
        parts = (env.contents(v) if v.kind in CONTAINERS else v for v in values)
        return join_all(parts) or UNKNOWN

    def _one_or_several(self, given: cst.BaseExpression, env: Env) -> Result:
        """``torch.max(x, y)`` is one tensor, ``torch.max(x, 0)`` values and indices."""
        kind = self.expressions.kind(given, env)
        if kind is Kind.TENSOR:
            return Result.NEW
        return Result.SEVERAL if kind is Kind.NUMBER else Result.NEW_OR_SEVERAL

    def _shown(
        self, operation: Operation, result: Result, base: Value, text: str
    ) -> Value:
        """A result that doesn't depend on the kinds of arguments."""
        made = self.expressions.fresh(Kind.TENSOR)
        view = View(operation.how, text)
        if not base.places:
            base = replace(base, places=frozenset({ANYTHING}))  # of what isn't seen
        if result in (Result.NUMBER, Result.SCALAR_OR_TENSOR):
            return NUMBER if result is Result.NUMBER else SCALAR_OR_TENSOR
        if result is Result.METADATA:
            sizes = operation.name.endswith((".shape", ".size", ".stride"))
            return Value(Kind.SEQUENCE, item=COUNT) if sizes else OTHER
        if result is Result.NOTHING:
            return NOTHING
        if result is Result.SAME:
            return base
        if result is Result.VIEW:
            return base.through(view)
        if result is Result.MAYBE and base.kind in (Kind.NUMBER, Kind.SCALAR_OR_TENSOR):
            return made  # of a number; what is a tensor in its place is treated alike
        if result is Result.MAYBE:
            seen = base if operation.how == "itself" else base.through(view)
            places = seen.places
            if operation.name.endswith(".to_dense"):
                # of a sparse tensor it makes a copy
                places = frozenset(p for p in places if not _is_sparse(p))
            return Value(Kind.TENSOR, places | made.places)
        if result is Result.NEW_OR_SEVERAL:
            return Value(Kind.UNKNOWN, made.places)
        if result in (Result.SEVERAL, Result.VIEWS):
            self.expressions.tuples.add(self.expressions.new().obj)
            item = Value(Kind.TENSOR, frozenset({self.expressions.new(" item'")}))
            if result is Result.VIEWS:
                self.expressions.parted.add(self.expressions.new().obj)
                item = base.through(View("opaque", text and f"{text}{ANY_ITEM}"))
            return Value(Kind.SEQUENCE, frozenset({self.expressions.new()}), item)
        return made

    def _of_items(self, result: Result, args: Sequence[cst.Arg], env: Env) -> Value:
        """A container of what the arguments hold, or one of those."""
        values = [self.expressions.value(a.value, env) for a in args]
        held = join_all(env.contents(v) if v.kind in CONTAINERS else v for v in values)
        if result is Result.ITEMS:
            made = self.expressions.new()
            env.walk(made.obj, values, pairs=False)
            return Value(Kind.SEQUENCE, frozenset({made}), held)
        return held or UNKNOWN

    def _scalar(self, node: cst.BaseExpression, env: Env) -> Value:
        value = self.expressions.value(node, env)
        if value.kind is Kind.SEQUENCE:
            return env.contents(value) or value
        return value

    def _unknown(self, node: cst.Call, env: Env) -> Value:
        """Nobody knows what it yields: anything that it can reach."""
        values = [self.expressions.value(a.value, env) for a in node.args]
        if isinstance(node.func, cst.Attribute):
            values.append(self.expressions.value(node.func.value, env))
        places = frozenset[Place]().union(*(v.places for v in values))
        return Value(Kind.UNKNOWN, places | {self.expressions.new(), ANYTHING})

    def of_attribute(
        self, operation: Operation, node: cst.Attribute, base: Value
    ) -> Value:
        """``x.T``, ``x.shape`` of a tensor, or of something that may be one."""
        if base.kind is Kind.UNKNOWN and not base.places:
            if operation.result not in (Result.METADATA, Result.NUMBER):
                return UNKNOWN
        return self._shown(operation, operation.result, base, f".{node.attr.value}")

    # --- methods

    def _method(self, node: cst.Call, func: cst.Attribute, env: Env) -> Value:
        method = func.attr.value
        base = self.expressions.value(func.value, env)
        if base.kind in CONTAINERS:
            return self._container_method(method, base, node, env)
        if base.kind is Kind.OTHER and method in ("format", "join", "startswith"):
            return OTHER
        operation = optable.method(method)
        bound = None
        if operation is not None:
            bound = operation.bind(node.args, func.value)
        if operation is None or bound is None:
            return self._unknown(node, env)
        if operation.result is Result.SCALAR_OR_TENSOR:
            return SCALAR_OR_TENSOR
        if method in ("size", "stride") and node.args:
            return COUNT
        if method == "to" and _is_true(bound.get("copy")):
            return self.expressions.fresh(Kind.TENSOR)
        text = code(node)[len(code(func.value)) :]
        receiver = self._argument(operation, bound)
        return self._result(operation, bound, node.args, receiver, text, env)

    def _container_method(
        self, method: str, base: Value, node: cst.Call, env: Env
    ) -> Value:
        args = positional(node)
        if method in ("get", "pop", "setdefault") and args:
            if base.kind is Kind.MAPPING:
                return self._get(base, args, env)
        item = env.contents(base)
        made = frozenset({self.expressions.new()})
        if method in ("values", "items"):
            env.walk(self.expressions.new().obj, [base], method == "items")
        if method == "values":
            return Value(Kind.SEQUENCE, made, item or UNKNOWN)
        if method == "items":
            pair = Value(Kind.SEQUENCE, item=join(item or UNKNOWN, OTHER))
            return Value(Kind.SEQUENCE, made, pair)
        if method == "keys":
            return Value(Kind.SEQUENCE, made, OTHER)
        if method == "copy":
            if base.place is not None:
                env.copy_items(base.place.obj, self.expressions.new().obj)
            return Value(base.kind, made, item)
        if method in ("pop", "popleft", "popitem", "__getitem__"):
            return self._popped(base, args, env)
        if method in ("index", "count", "__len__"):
            return NUMBER
        return OTHER if optable.container_method(method) else UNKNOWN

    def _popped(
        self, base: Value, args: Sequence[cst.BaseExpression], env: Env
    ) -> Value:
        place = base.place
        length = -1 if place is None else env.exact.get(place.obj, -1)
        position = code(args[0]) if args else str(length - 1)
        if place is not None and length > 0 and position.isdigit():
            held = env.slots.get(Slot(place.obj, position))
            if held is not None:
                return held
        return env.contents(base) or UNKNOWN

    def _get(self, base: Value, args: Sequence[cst.BaseExpression], env: Env) -> Value:
        default = NOTHING
        if len(args) > 1:
            default = self.expressions.value(args[1], env)
        if base.place is None:
            return cast(Value, join(env.contents(base) or UNKNOWN, default))
        key = key_text(args[0], base.place.obj, env)
        slot = Slot(base.place.obj, key)
        if base.place == Place("group") and slot not in env.slots:
            if self.expressions.slot_kinds.get(slot) not in MAY_HOLD_TENSORS:
                return SCALAR_OR_TENSOR
        if slot not in env.slots:
            if slot.container in env.exact and is_constant_key(key):
                return default  # it isn't there
            env.possibly_absent.add(slot)  # that is why it is asked for with get
        sure = (
            slot in env.slots
            and slot not in env.possibly_absent
            and is_constant_key(key)
        )
        found = self.expressions.slot_value(slot, base, env)
        if sure:
            return replace(found, source=slot)
        return cast(Value, join(replace(found, source=slot), default))

    # --- functions

    def _builtin(self, name: str, node: cst.Call, env: Env) -> Value | None:
        """Python's own functions, as far as they are known."""
        args = positional(node)
        if name in ("max", "min", "sum", "abs", "round", "pow", "float", "complex"):
            return self._numeric(name, args, env)
        if name in ("list", "tuple", "sorted", "reversed", "deque", "zip", "iter"):
            fixed = any(a.keyword is not None for a in node.args)
            return self._copied(name, args, env, fixed)
        if name in ("dict", "defaultdict", "OrderedDict"):
            return self._new_dict(node, env)
        operation = optable.function(name)
        if operation is None:
            return None
        if name in ("isinstance", "hasattr", "bool"):
            return FLAG
        if name in ("len", "id", "hash", "int"):
            return COUNT
        if name == "range":
            return Value(Kind.SEQUENCE, frozenset({self.expressions.new()}), COUNT)
        if name == "getattr":
            return UNKNOWN
        bound = operation.bind(node.args)
        if bound is None:
            return self._unknown(node, env)
        receiver = self._argument(operation, bound)
        return self._result(operation, bound, node.args, receiver, "", env)

    def _numeric(
        self, name: str, args: Sequence[cst.BaseExpression], env: Env
    ) -> Value:
        values = [self._scalar(a, env) for a in args]
        found = self.expressions.fresh(self.expressions.arithmetic(values))
        if all(v.kind is Kind.NUMBER and v.selects for v in values):
            return COUNT
        if name == "sum" and any(
            v.kind in (Kind.SEQUENCE, Kind.UNKNOWN) for v in values
        ):
            # of lists: their items, one list after the other
            held = join_all(env.contents(v) for v in values)
            return replace(found, item=held)
        if name not in ("max", "min") or not any(v.places for v in values):
            return found
        # one of them, and no copy
        places = frozenset[Place]().union(*(v.places for v in values))
        return replace(found, places=places)

    def _copied(
        self, name: str, args: Sequence[cst.BaseExpression], env: Env, limited: bool
    ) -> Value:
        """Another container of the same items; ``limited`` by ``maxlen=`` or in another
        way."""
        made = self.expressions.new().obj
        if name == "tuple":
            self.expressions.tuples.add(made)
        values = [self.expressions.value(a, env) for a in args]
        if not values and name in ("list", "tuple", "deque"):
            if not limited:
                env.exact[made] = 0
            env.distinct |= {made}
            return Value(Kind.SEQUENCE, frozenset({Place(made)}))
        if not values:
            return OTHER
        items = [
            v.through(View("opaque", "")) if v.kind is Kind.TENSOR else env.contents(v)
            for v in values
        ]
        item = join_all(items)
        if name == "zip":
            item = Value(Kind.SEQUENCE, item=item)
        if name in ("zip", "reversed", "iter"):
            env.walk(made, values, name == "zip")
        place = values[0].place
        if name in ("list", "tuple") and place and values[0].kind is Kind.SEQUENCE:
            env.copy_items(place.obj, made)
        return Value(Kind.SEQUENCE, frozenset({Place(made)}), item)

    def _new_dict(self, node: cst.Call, env: Env) -> Value:
        made = self.expressions.new().obj
        item: Value | None = None
        whole = dotted(node.func) != "defaultdict"
        for arg in node.args:
            value = self.expressions.value(arg.value, env)
            if arg.keyword is None or arg.star:
                item, place = join(item, env.contents(value)), value.place
                whole = whole and place is not None and env.exact.get(place.obj) == -1
                if whole and place is not None:
                    env.copy_items(place.obj, made)
                continue
            item = join(item, value)
            slot = Slot(made, f'"{arg.keyword.value}"')
            env.slots[slot] = value
            env.possibly_absent.discard(slot)
        if whole:
            env.exact[made] = -1
        else:
            env.summarize(made, item)
        return Value(Kind.MAPPING, frozenset({Place(made)}), item)

    def _own_function(self, node: cst.Call, env: Env) -> Value:
        """What a function of the step or of its module returns: what its body tells."""
        return self.returned_by(node, env) or self._unknown(node, env)

    def returned_by(self, node: cst.Call, env: Env) -> Value | None:
        """What a function with a source returns; None if that can't be told."""
        return None


def _held_in(item: Value, place: Place) -> Value:
    """What a deep copy holds: items of its own, all in one place."""
    inner = item.item and _held_in(item.item, place)
    return Value(item.kind, frozenset({place}), inner)


_COPIES = frozenset({"copy.copy", "copy.deepcopy", "ops.deepcopy"})


def _is_sparse(place: Place) -> bool:
    return bool(place.views) and place.views[-1].how == "sparse"


def _is_true(node: cst.BaseExpression | None) -> bool:
    return isinstance(node, cst.Name) and node.value == "True"
