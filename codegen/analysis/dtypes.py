"""Where an in-place operation pins a dtype that its twin would promote.

    total = torch.zeros(1)              float32, whatever the parameters are
    total.add_(grad.norm())             stays float32
    total = total.add(grad.norm())      would be float64 beside float64 parameters

A tensor keeps the dtype that it was made with: what an object of the heap has is what
the expression that made it computes, and what a slot holds when a step begins has the
dtype of whatever is stored there.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace

import libcst as cst

from codegen import optable
from codegen.analysis.environment import Env
from codegen.analysis.heap import Heap
from codegen.analysis.keys import is_constant_key
from codegen.analysis.summaries import Frame
from codegen.analysis.values import (
    MANY,
    OF_ANOTHER,
    OF_GROUP,
    REST,
    Kind,
    Place,
    Slot,
    Value,
    View,
    is_many,
)
from codegen.optable import Operation, Result
from codegen.syntax import bare, code, dotted, read_names

PARAMETER = "that of the parameter"
DEFAULT = "torch's default"
WHOLE = "that of integers or booleans"
"""It never promotes a floating-point tensor."""
NUMBER = "a number's"
"""It never promotes a tensor."""
UNKNOWN = "unknown"
"""Not even equal to itself."""
_NONE = "nothing has been stored"

_NAMES = {"float": "float32", "double": "float64", "half": "float16"}
_OWN = {"param", "grad"}
_OF_VARIABLE = "variable "
_KEPT = ("state[", "shared[", "group[", "#")
_DEFAULTS = frozenset("zeros ones empty rand randn eye".split())
_SHOWING = (Result.SAME, Result.VIEW, Result.MAYBE)
_SEVERAL = (Result.SEVERAL, Result.VIEWS, Result.NEW_OR_SEVERAL, Result.ITEMS)


class Dtypes:
    """Dtypes of what the expressions of a body yield: PARAMETER, DEFAULT, WHOLE, one by
    name (``torch.bfloat16``) or UNKNOWN.

    ``stored`` are those of what the constructor leaves in slots, ``free`` that of
    arguments, and of variables and slots that nothing is stored in.
    """

    def __init__(
        self,
        heap: Heap,
        stored: Mapping[Slot, str] | None = None,
        free: str = UNKNOWN,
    ) -> None:
        self.heap = heap
        self.free = free
        self._own = Frame(heap.expressions.sites, heap.before)
        self._known: dict[str, str] = {}
        self._stored: dict[str, set[Place]] = {}
        self._left = {_slot_name(s): d for s, d in (stored or {}).items()}
        for env in (*heap.before.values(), heap.ended):
            for slot, value in env.slots.items():
                self._stored.setdefault(_slot_name(slot), set()).update(value.places)

    def differ(
        self, root: cst.BaseExpression, operands: Iterable[cst.BaseExpression], env: Env
    ) -> bool:
        """Whether tensors among the operands may promote the dtype of ``root``."""
        operands = [*operands]
        env = self.with_own([root, *operands], env)
        own = self.of(root, env)
        found = {self.of(x, env) for x in operands if self._is_tensor(x, env)}
        if own != WHOLE:
            found.discard(WHOLE)
        found.discard(NUMBER)
        return bool(found) and (found != {own} or own in (UNKNOWN, WHOLE))

    def with_own(self, nodes: Iterable[cst.BaseExpression], env: Env) -> Env:
        """An environment in which a variable whose dtype isn't known has one of its own:
        wherever one statement reads it, it is the same."""
        names = dict(env.names)
        for name in {n for x in nodes for n in read_names(x)}:
            node = cst.Name(name)
            if self._is_tensor(node, env) and self.of(node, env) == UNKNOWN:
                names[name] = Value(
                    Kind.TENSOR, frozenset({Place(f"{_OF_VARIABLE}{name}")})
                )
        return replace(env, names=names)

    def of(self, node: cst.BaseExpression, env: Env) -> str:
        """The dtype of an expression's value."""
        found = self._of(node, env)
        while not self._is_fixpoint():
            found = self._of(node, env)
        return UNKNOWN if found == _NONE else found

    def _is_fixpoint(self) -> bool:
        """One round over the objects that have been met."""
        same = True
        for obj in [*self._known]:
            before, found = self._known[obj], self._computed(obj)
            if found != before:
                self._known[obj] = found if before == _NONE else UNKNOWN
            same &= before == self._known[obj]
        return same

    def text(self, dtype: str, env: Env) -> str | None:
        """How a dtype is written; None where that isn't known."""
        if dtype.startswith("torch."):
            return dtype
        if dtype == DEFAULT:
            return "torch.get_default_dtype()"
        if (
            dtype.startswith(_OF_VARIABLE)
            and dtype.removeprefix(_OF_VARIABLE) in env.names
        ):
            return f"{dtype.removeprefix(_OF_VARIABLE)}.dtype"
        tensor = env.texts.get("param" if dtype == PARAMETER else dtype)
        return tensor and f"{tensor}.dtype"

    # --- expressions

    def _of(self, node: cst.BaseExpression, env: Env) -> str:
        node = bare(node)  # type: ignore[assignment]
        if isinstance(node, cst.BinaryOperation):
            return self._arithmetic([node.left, node.right], env) or NUMBER
        if isinstance(node, cst.UnaryOperation):
            return self._of(node.expression, env)
        if isinstance(node, cst.Comparison):
            return WHOLE
        if isinstance(node, (cst.IfExp, cst.BooleanOperation)):
            pair = (
                (node.body, node.orelse)
                if isinstance(node, cst.IfExp)
                else (node.left, node.right)
            )
            return _either(self._of(x, env) for x in pair if self._is_tensor(x, env))
        if isinstance(node, cst.Name) and node.value not in env.names:
            return self.free
        if isinstance(node, cst.Call):
            operation = optable.spelled(node)
            if operation is not None:
                return self._computed_by(operation, node, env)
        return _either(map(self._at, self.heap.value(node, env).places))

    def _computed_by(self, operation: Operation, node: cst.Call, env: Env) -> str:
        receiver = None
        if operation.name.startswith("method."):
            receiver = cst.ensure_type(node.func, cst.Attribute).value
        bound = operation.bind(node.args, receiver)
        if bound is None:
            return UNKNOWN
        if operation.converts:
            return self._converted([*bound.values()], env)
        told = bound.get("dtype")
        if told is not None and code(told) != "None":
            return self._told(told, env)
        if operation.name.startswith(("math.", "cmath.")):
            return NUMBER
        if operation.own:
            return self._of_its_own(operation, bound)
        if "out" in bound:
            return self._of(bound["out"], env)
        if operation.whole:
            return WHOLE
        if operation.result in _SEVERAL:
            return UNKNOWN
        if operation.result in _SHOWING:
            shown = self._of(bound[operation.parameters[operation.base].name], env)
            # what a temporary becomes is converted only where one can say to what
            if not operation.in_place or self.text(shown, env) is not None:
                return shown
        found = self._arithmetic(promoting(operation, bound), env)
        return UNKNOWN if found in (None, NUMBER) else found

    def _of_its_own(
        self, operation: Operation, bound: Mapping[str, cst.BaseExpression]
    ) -> str:
        where, _, name = operation.name.rpartition(".")
        if where == "method":
            return UNKNOWN if name == "type" else f"torch.{_NAMES.get(name, name)}"
        given = bare(bound.get("data", cst.Name("None")))
        plain = name == "tensor" and isinstance(given, cst.Float)
        return DEFAULT if name in _DEFAULTS or plain else UNKNOWN

    def _converted(self, args: list[cst.BaseExpression], env: Env) -> str:
        """``x.to(y)``, ``x.to(torch.float32)``, ``x.to(device, torch.float32)``."""
        receiver, *targets = args
        for target in targets:
            if self.heap.value(target, env).kind is Kind.TENSOR:
                return self._of(target, env)
            text = dotted(target) or code(target)
            if text.endswith(".device") or isinstance(target, cst.SimpleString):
                continue
            return self._told(target, env)
        return self._of(receiver, env)

    def _told(self, node: cst.BaseExpression, env: Env) -> str:
        """The dtype that ``x.dtype`` or ``torch.float32`` denotes."""
        name = dotted(node) or ""
        home, _, last = name.rpartition(".")
        if home == "torch" and "torch" not in env.names:
            return f"torch.{_NAMES.get(last, last)}"
        if isinstance(node, cst.Attribute) and last == "dtype":
            return self._of(node.value, env)
        return UNKNOWN

    def _arithmetic(
        self, operands: Iterable[cst.BaseExpression], env: Env
    ) -> str | None:
        """That of the result of an operation: not known where promotion decides; None
        where no operand is a tensor."""
        found = {self._of(x, env) for x in operands if self._is_tensor(x, env)}
        strong = found - {_NONE, WHOLE, NUMBER}
        if found and not strong:
            # integers may be made floating-point numbers
            return UNKNOWN if WHOLE in found else _either(found)
        return _either(strong) if found else None

    def _is_tensor(self, node: cst.BaseExpression, env: Env) -> bool:
        """Whether an expression may yield a tensor that promotes others: a setting is a
        number, or a tensor without dimensions."""
        value = self.heap.value(node, env)
        if value.kind is Kind.TENSOR or not value.places:
            return value.kind in (Kind.TENSOR, Kind.UNKNOWN)
        settings = all(p.obj.startswith("setting ") for p in value.places)
        return value.kind is Kind.UNKNOWN and not settings

    # --- objects

    def _at(self, place: Place) -> str:
        for view in place.views:
            shown = _shown_by(view)
            if shown is not None:
                return shown
        if place.obj not in self._known:
            self._known[place.obj] = _NONE
            self._known[place.obj] = self._computed(place.obj)
        found = self._known[place.obj]
        # whatever it is, one object has one
        return place.obj if found == UNKNOWN and not is_many(place.obj) else found

    def _computed(self, obj: str) -> str:
        if obj in _OWN:
            return PARAMETER
        if obj.startswith("argument "):
            return self.free
        if obj.endswith((OF_ANOTHER, OF_GROUP)):
            return UNKNOWN  # the parameters of a group may be of several
        obj = obj.removesuffix(MANY)
        made = self._made(obj)
        if made is not None:
            node, env = made
            if isinstance(node, cst.AugAssign):
                return self._arithmetic([node.target, node.value], env) or NUMBER
            if isinstance(node, cst.Subscript):
                return self._of(node.value, env)  # a mask copies a part
            if isinstance(node, (cst.Call, cst.BinaryOperation, cst.UnaryOperation)):
                return self._of(node, env)
            return UNKNOWN
        container, _, key = obj.removesuffix("]").rpartition("[")
        if not obj.startswith(_KEPT) or not is_constant_key(key):
            return UNKNOWN
        held = {p for s, found in self._stored.items() if s == obj for p in found}
        for slot, places in self._stored.items():
            inside, _, other = slot.removesuffix("]").rpartition("[")
            if inside == container and (other == REST or not is_constant_key(other)):
                held |= places
        left = [self._left[obj]] if obj in self._left else []
        others = [self._at(p) for p in held if p != Place(obj)]
        return _either([*left, *others]) if left or others else self.free

    def _made(self, obj: str) -> tuple[cst.CSTNode, Env] | None:
        """The expression that makes an object, and what holds where it stands."""
        inside, slash, number = obj.rpartition("/")
        if slash:
            frame = self.heap.functions.frames.get(inside + slash)
        else:
            frame = self._own
            number = obj.removeprefix("#")
        if frame is None or not number.isdigit():
            return None
        node = frame.node(int(number))
        env = None if node is None else frame.at(node)
        return None if node is None or env is None else (node, env)


def promoting(
    operation: Operation, bound: Mapping[str, cst.BaseExpression]
) -> list[cst.BaseExpression]:
    """The arguments whose dtypes decide that of a result."""
    numbers = {p.name for p in operation.parameters if p.number}
    return [x for n, x in bound.items() if n != "condition" and n not in numbers]


def _slot_name(slot: Slot) -> str:
    return f"{slot.container}[{slot.key}]"


def _shown_by(view: View) -> str | None:
    """The dtype in which a view shows memory, where it may be another than its own:
    ``.view(torch.int32)``, ``.indices()``."""
    if "dtype" in view.text or "torch." in view.text or view == View("opaque", ""):
        return UNKNOWN
    operation = optable.method(view.text.partition("(")[0].lstrip("."))
    return WHOLE if operation is not None and operation.whole else None


def _either(found: Iterable[str]) -> str:
    known = {*found} - {_NONE}
    if len(known) == 1:
        return known.pop()
    return UNKNOWN if known else _NONE
