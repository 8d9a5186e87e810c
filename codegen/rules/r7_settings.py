"""R7: settings stay differentiable."""

from __future__ import annotations

from collections.abc import Sequence

import libcst as cst

from codegen import optable
from codegen.analysis.dtypes import PARAMETER
from codegen.analysis.environment import Env
from codegen.analysis.values import Kind, Slot
from codegen.optable import Operation, Parameter, Result
from codegen.rules.base import Example
from codegen.rules.callables import arguments_of, called_parameters
from codegen.rules.numbers import refuse_differences
from codegen.rules.promoted import Promoted
from codegen.rules.switches import SwitchRule
from codegen.rules.typed import Called, is_users_function
from codegen.syntax import (
    TIGHT_EQUAL,
    Body,
    Statement,
    all_statements,
    bare,
    call,
    code,
    dotted,
    expr,
    index_of,
    is_constant,
    is_name,
    method,
    parenthesize,
    small,
)

_WITHOUT_DERIVATIVE = (Kind.NUMBER, Kind.OTHER, Kind.NONE)
_NOT_FOR_TWINS = frozenset({"requires_grad", "inplace", "copy"})
"""Arguments that the runtime's functions don't take: they say how, not what."""


class DifferentiableSettings(SwitchRule):
    """Any float setting may be a tensor that requires grad; no operation may drop its
    gradient silently (``alpha=``, ``value=``, ``math.sqrt``, ``float()``,
    ``full_like`` do).

    The functions of ``higher.ops`` call the very same kernel where the setting is a
    plain number. Where there is none for an argument that takes plain numbers alone, and
    where nobody knows what becomes of a tensor or a setting, the step is refused.
    """

    name = "R7"
    title = "Settings stay differentiable"
    EXAMPLES = (
        Example(
            'p = p.add(d_p, alpha=-group["lr"])',
            'p = ops.add(p, d_p, alpha=-group["lr"])',
        ),
        Example(
            'scale = math.sqrt(1 - group["beta"])',
            'scale = ops.sqrt(1 - group["beta"])',
        ),
        Example(
            'avg = avg.lerp(grad, 1 - group["beta"])',
            'avg = ops.lerp(avg, grad, 1 - group["beta"])',
        ),
        Example(
            'if group["weight_decay"] != 0:\n    p = p.mul(1 - group["weight_decay"])',
            'if ops.is_used(group["weight_decay"]):\n    p = p.mul(1 - group["weight_decay"])',
            "a setting that is off at zero has a derivative there",
        ),
        Example(
            'd_p = F.elu(d_p, alpha=group["beta"])',
            'd_p = ops.elu(d_p, alpha=group["beta"])',
        ),
        Example(
            'count = round(10 * group["beta"])',
            'count = round(ops.number(10 * group["beta"]))',
            "what is only counted has no derivative",
        ),
        Example("p = p.sub(d_p, alpha=2)", None, "a constant has no gradient"),
        Example('p = p.mul(1 - group["lr"])'),
    )

    def apply(self, body: Body) -> Body:
        self._counts: set[Slot] = set()
        return super().apply(body)

    def prepare(self, body: Body) -> None:
        """Finds the slots that hold counts: whatever is stored in them is made of
        numbers and of such slots."""
        stores: list[tuple[Slot, cst.BaseExpression, Env]] = []
        for node in all_statements(body):
            inner, env = small(node), self.places.before.get(node, Env())
            if isinstance(inner, cst.Assign):
                for target in inner.targets:
                    if isinstance(target.target, cst.Subscript):
                        slot = self.places.slot(target.target, env)
                        if slot is not None:
                            stores.append((slot, inner.value, env))
        before = {s for s, v in self.context.stored.items() if v.kind is Kind.NUMBER}
        self._counts = before | {s for s, _, _ in stores if s.container == "state"}
        self._counts -= self.context.stored.keys() - before
        self._promoted = Promoted(body)
        self._dtypes = self.context.dtypes_of(self.places)
        left = -1
        while left != len(self._counts):
            left = len(self._counts)
            for slot, value, env in stores:
                if self._has_derivative(value, env):
                    self._counts.discard(slot)
        refuse_differences(body, self.context, self.places, self._has_derivative)

    def _statement(self, node: Statement) -> Statement:
        """A slot that is new has the dtype that upstream gives it."""
        new = super()._statement(node)
        inner, env = small(new), self.places.before.get(node, Env())
        param = env.texts.get("param")
        if not isinstance(inner, cst.Assign) or param is None:
            return new
        slots = [
            self.places.slot(t.target, env)
            for t in inner.targets
            if isinstance(t.target, cst.Subscript)
        ]
        fresh = any(s and s.container == "state" and s not in env.slots for s in slots)
        if not fresh or not self._promoted.reaches(inner.value, node):
            return new
        tensor = self.kind(inner.value, env) is Kind.TENSOR
        if not tensor or self._dtypes.of(inner.value, env) != PARAMETER:
            return new
        dtype = cst.Arg(expr(f"{param}.dtype"))
        value = method(parenthesize(inner.value), "to", [dtype])
        self.fired(inner, value)
        line = cst.ensure_type(new, cst.SimpleStatementLine)
        line = line.with_changes(body=[inner.with_changes(value=value)])
        self.context.origins.inherit(line, node)
        return line

    def replace(self, node: cst.CSTNode, env: Env) -> cst.CSTNode | None:
        if isinstance(node, cst.Comparison):
            return self.switch(node, env)
        if isinstance(node, cst.IfExp):
            test = self.condition(node.test, env)
            return None if test is node.test else node.with_changes(test=test)
        if isinstance(node, cst.BinaryOperation):
            return self._floored(node, env)
        if isinstance(node, (cst.BooleanOperation, cst.UnaryOperation)):
            return self.asked(node, env)
        if isinstance(node, (cst.Set, cst.Dict, cst.Subscript)):
            self._refuse_hashed(node, env)
            return None
        if not isinstance(node, cst.Call):
            return None
        found = self.callees(node.func, node.args, env)
        if found is None:
            self._unknown(node, env)
            return None
        if None in found:
            self._translated(node, env)
        operations = [called for called in found if called is not None]
        for called in operations:
            self._refuse_writing(node, called)
        if len(operations) != 1 or len(found) != 1:
            self._several(node, operations, env)
            return None
        called = operations[0]
        if called.operation.name.startswith("builtins."):
            return self._builtin(node, called, env)
        return self._call(node, called, env)

    def _refuse_hashed(
        self, node: cst.Set | cst.Dict | cst.Subscript, env: Env
    ) -> None:
        """Numbers that are equal are one key, tensors are not."""
        keys: list[cst.BaseExpression] = []
        if isinstance(node, cst.Set):
            keys = [e.value for e in node.elements]
        elif isinstance(node, cst.Dict):
            keys = [e.key for e in node.elements if isinstance(e, cst.DictElement)]
        elif self.kind(node.value, env) is Kind.MAPPING:
            key = index_of(node)
            keys = [] if key is None else [key]
        for key in keys:
            if self.kind(key, env) is Kind.SCALAR_OR_TENSOR and self._has_derivative(
                key, env
            ):
                self.refuse(
                    key,
                    f"`{code(key)}` is a key, which a setting that is a tensor can't be",
                    "compare it with ==",
                )

    # --- calls

    def _may_differ(self, node: cst.BaseExpression, env: Env) -> bool:
        """Whether a gradient may flow into an expression, as far as its kind tells."""
        plain = is_constant(bare(node))
        return not plain and self.kind(node, env) not in _WITHOUT_DERIVATIVE

    def _has_derivative(self, node: cst.BaseExpression, env: Env) -> bool:
        """The same, and counts, flags and what is made of those are left out."""
        node = bare(node)  # type: ignore[assignment]
        if not self._may_differ(node, env):
            return False
        if isinstance(node, (cst.BinaryOperation, cst.BooleanOperation)):
            return any(self._has_derivative(x, env) for x in (node.left, node.right))
        if isinstance(node, cst.UnaryOperation):
            return self._has_derivative(node.expression, env)
        if isinstance(node, cst.IfExp):
            return any(self._has_derivative(x, env) for x in (node.body, node.orelse))
        if isinstance(node, (cst.Tuple, cst.List, cst.Set)):
            return any(self._has_derivative(e.value, env) for e in node.elements)
        if isinstance(node, cst.Subscript):
            if self.places.slot(node, env) in self._counts:
                return False
        value = self.places.value(node, env)
        if (
            value.kind in (Kind.SCALAR_OR_TENSOR, Kind.SEQUENCE)
            and value.place is not None
        ):
            name = value.place.obj
            if name.startswith("setting "):
                return name.removeprefix("setting ") in self.context.float_settings
        return True

    def _call(self, node: cst.Call, called: Called, env: Env) -> cst.CSTNode | None:
        """An operation whose numbers may be tensors: by its twin, or not at all."""
        operation = called.operation
        if called.bound is None:
            self._untold(node, called, env)
            return None
        needy = [
            (parameter, argument)
            for parameter, argument in operation.numbers(called.bound)
            if self._needs_help(parameter, argument, called, env)
        ]
        if not needy or _is_for_r8(operation, called):
            return None
        if operation.decides:
            return self._decided(node, [argument for _, argument in needy], env)
        if operation.twin is not None:
            return self._twin(called, operation.twin)
        for parameter, argument in needy:
            if self._has_derivative(argument, env):
                self._refuse_number(node, operation, parameter)
        return None

    def _needs_help(
        self,
        parameter: Parameter,
        argument: cst.BaseExpression,
        called: Called,
        env: Env,
    ) -> bool:
        kind = self.kind(argument, env)
        if parameter.scalar:
            others = (a for p, a in called.operation.numbers(called.bound or {}))
            return kind is Kind.SCALAR_OR_TENSOR and all(
                self.kind(x, env) in (Kind.SCALAR_OR_TENSOR, *_WITHOUT_DERIVATIVE)
                for x in others
            )
        if parameter.alike and len(called.args) == 3 and kind is Kind.TENSOR:
            return called.operation.twin == "ops.clamp"
        return self._may_differ(argument, env)

    def _decided(
        self, node: cst.Call, arguments: Sequence[cst.BaseExpression], env: Env
    ) -> cst.CSTNode | None:
        """``allclose(a, b, rtol=eps)`` wants numbers, and hands no gradient on."""
        wanted = [x for x in arguments if self._has_derivative(x, env)]
        wanted = [x for x in wanted if dotted(getattr(x, "func", None)) != "ops.number"]
        args = [
            (
                a.with_changes(value=call("ops.number", a.value))
                if any(a.value is x for x in wanted)
                else a
            )
            for a in node.args
        ]
        return node.with_changes(args=args) if wanted else None

    def _twin(self, called: Called, twin: str) -> cst.CSTNode:
        """The runtime's function in the place of an operation, with its arguments."""
        name = called.operation.name.partition(".")[2]
        if name in ("clamp_min", "clamp_max") and len(called.args) == 2:
            bound = cst.Arg(
                called.args[1].value, cst.Name(name[-3:]), equal=TIGHT_EQUAL
            )
            return cst.Call(expr(twin), [called.args[0], bound])
        kept = [
            self._renamed(a, called.operation, twin)
            for a in called.args
            if a.keyword is None or a.keyword.value not in _NOT_FOR_TWINS
        ]
        return cst.Call(expr(twin), kept)

    def _renamed(self, arg: cst.Arg, operation: Operation, twin: str) -> cst.Arg:
        """A keyword by the name that the runtime's function has for it."""
        theirs = optable.function(twin)
        if arg.keyword is None or theirs is None:
            return arg
        ours = operation.parameter(arg.keyword.value)
        found = theirs.parameter(arg.keyword.value)
        if found is None and ours in operation.parameters:
            found = theirs.parameters[operation.parameters.index(ours)]
        if found is None or found.name == arg.keyword.value:
            return arg
        return arg.with_changes(keyword=cst.Name(found.name))

    # --- refusals

    def _refuse_writing(self, node: cst.Call, called: Called) -> None:
        """R4 has written out every mutation that it knew for one: this is another."""
        operation = called.operation
        if called.bound is None or operation.name.startswith("container."):
            return
        if any(operation.written(called.bound)):
            self.context.refuse(
                "R4",
                node,
                f"{code(node.func)} writes into a tensor that it is handed",
                "write it as a method of that tensor, in a statement of its own",
            )

    def _refuse_number(
        self, node: cst.Call, operation: Operation, parameter: Parameter
    ) -> None:
        name = dotted(node.func) or code(node.func)
        self.refuse(
            node,
            f"{parameter.name!r} of {name} takes a plain number: a setting would lose "
            "its gradient there",
            "write it with operations on tensors, or hand it a constant",
        )

    def _untold(self, node: cst.Call, called: Called, env: Env) -> None:
        """Arguments that fit no overload, or are starred."""
        plain = any(p.number or p.alike for p in called.operation.parameters)
        handed = [a.value for a in node.args]
        if plain and any(self._is_setting(x, env) for x in handed):
            self.refuse(
                node,
                f"which parameters of {code(node.func)} these arguments are can't be "
                "told, and some take plain numbers alone",
                "write every argument out, by its name",
            )

    def _is_setting(self, node: cst.BaseExpression, env: Env) -> bool:
        kind = self.kind(node, env)
        return kind is not Kind.TENSOR and self._has_derivative(node, env)

    def _unknown(self, node: cst.Call, env: Env) -> None:
        """Default deny: nobody knows what becomes of a gradient in there."""
        name = dotted(node.func) or ""
        if name.startswith("self.") or is_users_function(node.func):
            return  # the fence speaks of the optimizer's own methods
        handed = [a.value for a in node.args]
        if isinstance(node.func, cst.Attribute):
            if isinstance(bare(node.func.value), cst.SimpleString):
                return
            if self.kind(node.func.value, env) in (Kind.TENSOR, Kind.SCALAR_OR_TENSOR):
                handed.append(node.func.value)
        if any(self._has_derivative(x, env) for x in handed):
            self.refuse(
                node,
                f"what {code(node.func)} does with a tensor or a setting is not known",
                "use torch's own operations, or a function whose source can be read",
            )

    def _floored(
        self, node: cst.BinaryOperation, env: Env
    ) -> cst.BinaryOperation | None:
        """``warmup // lr`` is a number: tensors have no derivative of it at all."""
        sides = {"left": node.left, "right": node.right}
        kinds = {self.kind(x, env) for x in sides.values()}
        if not isinstance(node.operator, cst.FloorDivide):
            return None
        if not kinds <= {Kind.SCALAR_OR_TENSOR, Kind.NUMBER}:
            return None
        changes = {
            side: call("ops.number", x)
            for side, x in sides.items()
            if self._has_derivative(x, env)
        }
        return node.with_changes(**changes) if changes else None

    def _several(self, node: cst.Call, operations: Sequence[Called], env: Env) -> None:
        """A variable that may hold this function or that: neither is written out."""
        for called in operations:
            numbers = called.operation.numbers(called.bound or {})
            for parameter, argument in numbers:
                if not self._needs_help(parameter, argument, called, env):
                    continue
                if self._has_derivative(argument, env):
                    self._refuse_number(node, called.operation, parameter)
                    return
            if called.bound is None:
                self._untold(node, called, env)

    def _translated(self, node: cst.Call, env: Env) -> None:
        """A function of the code's own that calls what it is handed."""
        function = self.context.sources().get(dotted(node.func) or "")
        if function is None:
            return
        given = arguments_of(function, node.args)
        for name in sorted(called_parameters(function) & given.keys()):
            if self.callees(given[name], (), env) is None:
                if not isinstance(given[name], cst.Lambda):
                    self.refuse(
                        given[name],
                        f"which function {name} is can't be told",
                        "hand on a function by its own name",
                    )

    # --- Python's functions of numbers

    def _builtin(self, node: cst.Call, called: Called, env: Env) -> cst.CSTNode | None:
        operation = called.operation
        if operation.name == "builtins.bool" and len(node.args) == 1:
            test = self.condition(node.args[0].value, env)
            if test is not node.args[0].value:
                return test
        if operation.result is Result.ONE_OF:
            plain = all(a.keyword is None and not a.star for a in node.args)
            args = [a.value for a in node.args]
            if operation.twin is None or not plain or not self._any_differs(args, env):
                return None
            return node.with_changes(func=expr(operation.twin))
        if any(isinstance(bare(a.value), cst.SimpleString) for a in node.args):
            return None
        return self._call(node, called, env)

    def _any_differs(self, args: Sequence[cst.BaseExpression], env: Env) -> bool:
        for arg in args:
            value = self.places.value(arg, env)
            if value.kind is Kind.SEQUENCE:
                if value.item is None or value.item.kind is not Kind.NUMBER:
                    return True
            elif self._may_differ(arg, env):
                return True
        return False


def _is_for_r8(operation: Operation, called: Called) -> bool:
    """Whether the next rule writes that operation out anyway: a norm."""
    if operation.twin is None or operation.twin != operation.stable:
        return False
    by_name = any(is_name(a.keyword, "ord") for a in called.args)
    return operation.name != "linalg.norm" or not by_name
