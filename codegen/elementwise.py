"""Whether an update treats each element of a parameter by itself.

Such an update comes to the same for parameters that are joined into one long tensor,
and the runtime may do that. So a claim must be right: whatever isn't known to work
element by element counts as not doing so. It is read off the translated step, which has
neither aliases nor mutation left, by an interpretation over a few kinds of values.
"""

from __future__ import annotations

import ast
from collections.abc import Iterable, Iterator, Sequence
from enum import Enum, auto
from typing import NamedTuple

from codegen import optable
from codegen.optable import OPTIONS, Operation, Result

_GROUPS = (
    "(group_idx, (group, grads))",
    "enumerate(zip(self.param_groups, grouped_grads))",
)
_PARAMS = "enumerate(zip(group['params'], grads))"
_PARAM = "group['params'][p_idx]"
_STATE = "self.state[group_idx][p_idx]"


class Kind(Enum):
    UNSEEN = auto()
    """A state slot that nothing was stored in as far as one has read."""
    NUMBER = auto()
    """The same for all joined parameters: a setting, a counter, or made of those; if
    it is a tensor, it has one element."""
    EACH = auto()
    """A tensor of the parameter's shape, made element by element."""
    MASK = auto()
    """The same, of booleans."""
    STATE = auto()
    """A parameter's state."""


class _Unknown(Exception):
    """Not known to work element by element."""


class _Bound(NamedTuple):
    """A variable, and the conditions under which it is surely bound."""

    kind: Kind
    under: frozenset[str] = frozenset()


_Names = dict[str, _Bound]


def is_elementwise(body: str, constants: Iterable[str] = ()) -> bool:
    """Whether this body of ``_update`` does; its module has such ``NAME = value``."""
    tree = ast.parse(body)
    update = _Update(dict(_numbers(constants)))
    try:
        while update.changed:
            update.changed = False
            update.whole(tree.body)
    except _Unknown:
        return False
    return Kind.UNSEEN not in update.slots.values()


def _numbers(constants: Iterable[str]) -> Iterator[tuple[str, _Bound]]:
    for node in (node for line in constants for node in ast.parse(line).body):
        match node:
            case ast.Assign([ast.Name(name)], ast.Constant(int() | float())):
                yield name, _Bound(Kind.NUMBER)


class _Update:
    """Readings of an update, repeated until the kinds of state slots settle."""

    def __init__(self, constants: _Names) -> None:
        self.slots: dict[str, Kind] = {}
        self.changed = True
        self._names = self._constants = constants
        self._under: list[str] = []
        """Conditions that hold where one reads."""
        self._rebound: set[str] = set()
        """Names that the present loop over parameters binds."""
        self._in_loop = False
        self._functions: dict[str, ast.FunctionDef] = {}

    # --- statements -------------------------------------------------------------

    def whole(self, body: Sequence[ast.stmt]) -> None:
        for node in body:
            if not isinstance(node, ast.For) or node.orelse:
                raise _Unknown
            if (_text(node.target), _text(node.iter)) != _GROUPS:
                raise _Unknown
            self._names = dict(self._constants)
            self._body(node.body)

    def _body(self, body: Sequence[ast.stmt]) -> bool:
        """Reads statements; whether what follows them is reached."""
        return all(self._reached_after(node) for node in body)

    def _reached_after(self, node: ast.stmt) -> bool:
        match node:
            case ast.Continue() | ast.Raise():
                return False
            case ast.Pass() | ast.Expr(ast.Constant()):
                pass
            case ast.Assign(targets, value):
                for target in targets:
                    self._assign(target, value)
            case ast.AnnAssign(ast.Name() as target, _, ast.expr() as value):
                self._assign(target, value)
            case ast.AugAssign(ast.Name() as target, op, value):
                self._store(target, self._arithmetic(op, target, value))
            case ast.If(test, body, orelse):
                return self._if(test, body, orelse)
            case ast.For(ast.Tuple(), loop, _, []) if _text(loop) == _PARAMS:
                self._params(node)
            case ast.FunctionDef(name):
                self._functions[name] = node
            case _:
                raise _Unknown
        return True

    def _params(self, node: ast.For) -> None:
        """A loop over the parameters. Nothing but state and parameters leaves it, and
        nothing goes from one turn to the next."""
        match node.target:
            case ast.Tuple([ast.Name("p_idx"), ast.Tuple([ast.Name(p), ast.Name(g)])]):
                pass
            case _:
                raise _Unknown
        if self._in_loop:
            raise _Unknown
        before = self._names
        self._rebound = {
            n.id
            for n in ast.walk(node)
            if isinstance(n, ast.Name) and isinstance(n.ctx, ast.Store)
        }
        self._names = {k: v for k, v in before.items() if k not in self._rebound}
        self._names.update({p: _Bound(Kind.EACH), g: _Bound(Kind.EACH)})
        self._in_loop = True
        self._body(node.body)
        self._in_loop = False
        self._names = {k: v for k, v in before.items() if k not in self._rebound}
        self._rebound = set()

    def _if(
        self, test: ast.expr, body: Sequence[ast.stmt], orelse: Sequence[ast.stmt]
    ) -> bool:
        if self._never(test):
            return self._body(orelse)
        self._test(test)
        condition = self._condition(test)
        before = self._names
        ends = []
        for holds, part in ((condition, body), (f"not {condition}", orelse)):
            self._names = dict(before)
            self._under.append(holds)
            if self._body(part):
                ends.append((holds, self._names))
            self._under.pop()
        if not ends:
            return False
        self._names = _met(*ends) if len(ends) == 2 else ends[0][1]
        return True

    def _condition(self, test: ast.expr) -> str:
        """A text that is the same only for a condition that comes out the same."""
        for node in ast.walk(test):
            changes = isinstance(node, ast.Name) and (
                node.id in self._rebound or node.id == "self"
            )
            if changes or isinstance(node, ast.NamedExpr):
                return f"at {id(test)}"
        return _text(test)

    def _never(self, test: ast.expr) -> bool:
        """Whether this is false for all parameters that are ever joined."""
        match test:
            case ast.Attribute(value, "is_sparse"):
                return self._kind(value) is Kind.EACH
            case ast.Call(ast.Attribute(ast.Name("torch"), "is_complex"), [value], []):
                return self._kind(value) is Kind.EACH
            case ast.Call(ast.Attribute(value, "is_complex"), [], []):
                return self._kind(value) is Kind.EACH
            case ast.BoolOp(ast.Or(), values):
                return all(map(self._never, values))
            case ast.BoolOp(ast.And(), values):
                return any(map(self._never, values))
        return False

    def _test(self, test: ast.expr) -> None:
        """Reads what decides, which must do so for all parameters alike."""
        match test:
            case ast.BoolOp(_, values):
                for value in values:
                    self._test(value)
            case ast.UnaryOp(ast.Not(), value):
                self._test(value)
            case ast.Compare(value, [ast.Is() | ast.IsNot()], [ast.Constant(None)]):
                self._kind(value)
            case ast.Compare(ast.Name("p_idx"), [ast.In() | ast.NotIn()], [where]) if (
                _text(where) == "self.state[group_idx]"
            ):
                pass
            case ast.Compare(ast.Constant(), [ast.In() | ast.NotIn()], [state]):
                if self._kind(state) is not Kind.STATE:
                    raise _Unknown
            case _ if self._never(test):
                pass
            case ast.Name() if self._kind(test) is Kind.STATE:
                pass
            case _:
                self._number(test)

    def _assign(self, target: ast.expr, value: ast.expr) -> None:
        match target, value:
            case ast.Tuple(targets), ast.Tuple(values) if len(targets) == len(values):
                kinds = [self._kind(v) for v in values]
                for one, kind in zip(targets, kinds):
                    self._store(one, kind)
            case ast.Tuple(targets), _:
                self._number(value)
                for one in targets:
                    self._store(one, Kind.NUMBER)
            case _:
                self._store(target, self._kind(value))

    def _store(self, target: ast.expr, kind: Kind) -> None:
        match target:
            case ast.Name(name):
                if name in _RESERVED or name in self._functions:
                    raise _Unknown
                under = self._under if self._in_loop else ()
                self._names[name] = _Bound(kind, frozenset(under))
            case ast.Subscript(ast.Name("group"), ast.Constant(str(key))):
                # in the loop it would happen once for each parameter
                if self._in_loop or key == "params" or kind is not Kind.NUMBER:
                    raise _Unknown
            case ast.Subscript() if _text(target) == _PARAM:
                if kind is not Kind.EACH or not self._in_loop:
                    raise _Unknown
            case ast.Subscript(state, ast.Constant(str(key))):
                if self._kind(state) is not Kind.STATE or kind is Kind.STATE:
                    raise _Unknown
                joined = _joined(self.slots.get(key, Kind.UNSEEN), kind)
                if self.slots.get(key) is not joined:
                    self.slots[key], self.changed = joined, True
            case _:
                raise _Unknown

    # --- expressions ------------------------------------------------------------

    def _number(self, node: ast.expr) -> Kind:
        kind = self._kind(node)
        if kind not in (Kind.NUMBER, Kind.UNSEEN):
            raise _Unknown
        return Kind.NUMBER

    def _kind(self, node: ast.expr) -> Kind:
        match node:
            case ast.Constant():
                return Kind.NUMBER
            case ast.Name(name):
                return self._read(name)
            case ast.Tuple(values) | ast.List(values):
                for value in values:
                    self._number(value)
                return Kind.NUMBER
            case ast.Attribute():
                return self._attribute(node)
            case ast.Subscript():
                return self._subscript(node)
            case ast.UnaryOp(ast.Not(), value):
                return self._number(value)
            case ast.UnaryOp(ast.Invert(), value):
                return self._kind(value)
            case ast.UnaryOp(_, value):
                return _value(self._kind(value))
            case ast.BinOp(left, op, right):
                return self._arithmetic(op, left, right)
            case ast.Compare(left, ops, rights):
                return self._compare(left, ops, rights)
            case ast.BoolOp(_, values):
                for value in values:
                    self._test(value)
                return Kind.NUMBER
            case ast.IfExp(test, body, orelse):
                if self._never(test):
                    return self._kind(orelse)
                self._test(test)
                return _joined(self._kind(body), self._kind(orelse))
            case ast.Call(func, args, keywords):
                return self._call(func, args, keywords)
        raise _Unknown

    def _read(self, name: str) -> Kind:
        bound = self._names.get(name)
        if bound is None or not bound.under <= {*self._under}:
            raise _Unknown
        return bound.kind

    def _attribute(self, node: ast.Attribute) -> Kind:
        match node:
            case ast.Attribute(ast.Name("torch" | "math")):
                return Kind.NUMBER
            case ast.Attribute(value, "dtype" | "device"):
                self._kind(value)
                return Kind.NUMBER
        raise _Unknown

    def _subscript(self, node: ast.Subscript) -> Kind:
        if _text(node) == _STATE and self._in_loop:
            return Kind.STATE
        if _text(node) == _PARAM and self._in_loop:
            return Kind.EACH
        match node:
            case ast.Subscript(ast.Name("group"), ast.Constant(str(key))):
                if key == "params":
                    raise _Unknown
                return Kind.NUMBER
            case ast.Subscript(value, index):
                kind = self._kind(value)
                if kind is Kind.STATE and isinstance(index, ast.Constant):
                    return self.slots.setdefault(str(index.value), Kind.UNSEEN)
                self._number(index)
                if kind is Kind.NUMBER:
                    return kind
        raise _Unknown

    def _arithmetic(self, op: ast.operator, *operands: ast.expr) -> Kind:
        kinds = [self._kind(o) for o in operands]
        if all(k is Kind.MASK for k in kinds) and isinstance(op, _LOGICAL):
            return Kind.MASK
        if isinstance(op, ast.MatMult):
            raise _Unknown
        return _value(_joined(*kinds))

    def _compare(
        self, left: ast.expr, ops: Sequence[ast.cmpop], rights: Sequence[ast.expr]
    ) -> Kind:
        kind = _joined(*(self._kind(v) for v in (left, *rights)))
        if kind in (Kind.NUMBER, Kind.UNSEEN):
            return kind
        # a chain asks for the truth of a tensor, and ``is`` for what it is
        if kind is Kind.STATE or len(ops) > 1 or not isinstance(ops[0], _ORDER):
            raise _Unknown
        return Kind.MASK

    def _call(
        self,
        func: ast.expr,
        args: Sequence[ast.expr],
        keywords: Sequence[ast.keyword],
    ) -> Kind:
        named = [self._kind(k.value) for k in keywords]
        match func:
            case ast.Name(name) if name in self._functions and not keywords:
                return self._own(self._functions[name], [self._kind(a) for a in args])
            case ast.Name("len") if [self._kind(a) for a in args] == [Kind.STATE]:
                return Kind.NUMBER
            case ast.Name("isinstance"):
                self._kind(args[0])
                return Kind.NUMBER
            case ast.Name(name) if name not in self._names:
                kinds = [self._kind(a) for a in args] + named
                return self._function(optable.function(name), kinds, keywords)
            case ast.Attribute(ast.Name("torch"), "zeros" | "ones"):
                if not args or _text(args[0]) not in ("()", "[]", "1", "(1,)", "[1]"):
                    raise _Unknown
                return self._all_numbers(named)
            case ast.Attribute(ast.Name("torch" | "ops" | "math" | "F")):
                if any(isinstance(a, (ast.List, ast.Tuple)) for a in args):
                    raise _Unknown  # a tensor of several elements
                kinds = [self._kind(a) for a in args] + named
                return self._function(optable.function(_text(func)), kinds, keywords)
            case ast.Attribute(value, "get") if self._kind(value) is Kind.STATE:
                match args:
                    case [ast.Constant(str(key)), *default]:
                        slot = self.slots.setdefault(key, Kind.UNSEEN)
                        return _joined(slot, *(self._kind(d) for d in default))
                raise _Unknown
            case ast.Attribute(value, name):
                kinds = [self._kind(v) for v in (value, *args)] + named
                return self._function(optable.method(name), kinds, keywords)
        raise _Unknown

    def _own(self, function: ast.FunctionDef, kinds: Sequence[Kind]) -> Kind:
        """A call of a function of the update's own, read where it is called."""
        params = function.args
        names = [a.arg for a in params.args]
        *body, last = function.body
        simple = not (params.defaults or params.kwonlyargs or params.posonlyargs)
        if params.vararg or params.kwarg or not simple or len(names) != len(kinds):
            raise _Unknown
        if not isinstance(last, ast.Return) or last.value is None:
            raise _Unknown
        before = self._names
        self._names = {**before, **{n: _Bound(k) for n, k in zip(names, kinds)}}
        if not self._body(body):
            raise _Unknown
        kind = self._kind(last.value)
        self._names = before
        return kind

    def _all_numbers(self, kinds: Iterable[Kind]) -> Kind:
        if any(k not in (Kind.NUMBER, Kind.UNSEEN) for k in kinds):
            raise _Unknown
        return Kind.NUMBER

    def _function(
        self,
        operation: Operation | None,
        kinds: Sequence[Kind],
        keywords: Sequence[ast.keyword],
    ) -> Kind:
        """The kind of what an operation makes of arguments of these kinds."""
        kind = _joined(*kinds)
        if operation is None or kind is Kind.STATE or operation.in_place:
            raise _Unknown
        if not all(_is_told(operation, k) for k in keywords):
            raise _Unknown
        if operation.name == "ops.setitem":
            if [*kinds[1:]] != [Kind.MASK, Kind.NUMBER]:
                raise _Unknown
            return kinds[0]
        if operation.name == "ops.copy" and kinds[0] is Kind.NUMBER is not kind:
            raise _Unknown
        if operation.several_unless is not None and len(kinds) < 3:
            raise _Unknown
        if operation.name.startswith(("math.", "builtins.")):
            if operation.result not in _OF_NUMBERS:
                raise _Unknown
            return self._all_numbers(kinds)
        if operation.mask:
            return Kind.MASK if kind in (Kind.EACH, Kind.MASK) else kind
        if operation.elementwise and not operation.uses_rng:
            return _value(kind)
        if operation.result in _OF_NUMBERS or operation.twin == "ops.tensor":
            return self._all_numbers(kinds)
        if operation.name in ("ops.tensor", "ops.scalar_dtype"):
            return self._all_numbers(kinds)
        raise _Unknown


def _is_told(operation: Operation, keyword: ast.keyword) -> bool:
    """Whether a keyword is a parameter's, or says of what make the result is."""
    if keyword.arg is None or keyword.arg in ("out", "generator"):
        return False
    return keyword.arg in OPTIONS or operation.parameter(keyword.arg) is not None


def _met(one: tuple[str, _Names], other: tuple[str, _Names]) -> _Names:
    """What is bound after a condition, from what is at the ends of its branches."""
    conditions = {one[0], other[0]}
    met = {**one[1], **other[1]}
    for name in one[1].keys() & other[1].keys():
        a, b = one[1][name], other[1][name]
        met[name] = _Bound(_joined(a.kind, b.kind), (a.under | b.under) - conditions)
    return met


def _joined(*kinds: Kind) -> Kind:
    """What is of one of these kinds, one doesn't know which."""
    found = {*kinds} - {Kind.UNSEEN}
    if len(found) <= 1:
        return found.pop() if found else Kind.UNSEEN
    if Kind.STATE in found:
        raise _Unknown
    return Kind.EACH


def _value(kind: Kind) -> Kind:
    """Of arithmetic with it."""
    if kind is Kind.STATE:
        raise _Unknown
    return Kind.EACH if kind is Kind.MASK else kind


def _text(node: ast.AST) -> str:
    return ast.unparse(node)


_RESERVED = frozenset("self group_idx group grads p_idx torch math ops".split())
_LOGICAL = (ast.BitAnd, ast.BitOr, ast.BitXor)
_ORDER = (ast.Lt, ast.LtE, ast.Gt, ast.GtE, ast.Eq, ast.NotEq)
_OF_NUMBERS = (Result.NUMBER, Result.SCALAR_OR_TENSOR, Result.COMPUTED, Result.ONE_OF)
"""What operations return that are the same for all joined parameters, if their arguments
are."""
