"""R7: settings stay differentiable."""

from __future__ import annotations

import libcst as cst

from codegen.places import Env, Kind
from codegen.rules.base import Example
from codegen.rules.typed import TypedRule
from codegen.syntax import (
    TIGHT_EQUAL,
    bare,
    call,
    dotted,
    expr,
    is_constant,
    keyword,
    positional,
)

_SCALED = {
    "add": "alpha",
    "sub": "alpha",
    "subtract": "alpha",
    "addcmul": "value",
    "addcdiv": "value",
}
_SCALED_PRODUCTS = frozenset({"addmm", "addmv", "addr", "baddbmm", "addbmm"})
_MATH = frozenset("sqrt exp log log1p expm1 cos sin tanh fabs pow".split())
_MATH_OF_ANYTHING = frozenset("ceil floor isfinite isinf isnan prod trunc".split())
"""Those that have no gradient to lose, or hand the work to their arguments."""

_FILLS = {
    "torch.full_like": "ops.full_like",
    "torch.full": "ops.full",
    "torch.tensor": "ops.tensor",
    "torch.as_tensor": "ops.tensor",
    "torch.scalar_tensor": "ops.tensor",
}
_DECISIONS = frozenset({"allclose", "isclose"})
_SIMILARITIES = frozenset(
    f"{module}.cosine_similarity" for module in ("F", "torch", "torch.nn.functional")
)
_BUILTINS = {"max": "ops.maximum", "min": "ops.minimum"}


class DifferentiableSettings(TypedRule):
    """Any float setting may be a tensor that requires grad; no operation may drop its
    gradient silently (``alpha=``, ``value=``, ``math.sqrt``, ``float()``,
    ``full_like`` do).

    The functions of ``higher.ops`` call the very same kernel where the setting is a
    plain number.
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
        Example("p = p.sub(d_p, alpha=2)", None, "a constant has no gradient"),
        Example('p = p.mul(1 - group["lr"])'),
    )

    def replace(self, node: cst.CSTNode, env: Env) -> cst.CSTNode | None:
        if isinstance(node, cst.Comparison):
            return self._switch(node, env)
        if isinstance(node, cst.IfExp):
            test = self.condition(node.test, env)
            return None if test is node.test else node.with_changes(test=test)
        if not isinstance(node, cst.Call):
            return None
        name = dotted(node.func) or ""
        if name.startswith("math."):
            return self._math(node, name[5:], env)
        if name in _FILLS:
            return self._fill(node, _FILLS[name], env)
        if name in ("float", "complex", *_BUILTINS):
            return self._builtin(node, name, env)
        if name.rpartition(".")[2] in _DECISIONS:
            return self._decision(node, env)
        if name in _SIMILARITIES:
            eps = keyword(node, "eps")
            if eps is not None and self._may_differ(eps, env):
                return node.with_changes(func=expr("ops.cosine_similarity"))
            return None
        if isinstance(node.func, cst.Attribute) and not name.startswith("ops."):
            return self._tensor_op(node, node.func, name, env)
        return None

    def _may_differ(self, node: cst.BaseExpression, env: Env) -> bool:
        """Whether a gradient may flow into an expression."""
        kinds = (Kind.NUMBER, Kind.OTHER, Kind.NONE)
        return not is_constant(bare(node)) and self.kind(node, env) not in kinds

    def _decision(self, node: cst.Call, env: Env) -> cst.CSTNode | None:
        """``allclose(a, b, rtol=eps)`` wants numbers, and hands no gradient on."""
        args = [
            (
                a.with_changes(value=call("ops.number", a.value))
                if a.keyword is not None
                and a.keyword.value in ("rtol", "atol")
                and self._may_differ(a.value, env)
                and dotted(getattr(a.value, "func", None)) != "ops.number"
                else a
            )
            for a in node.args
        ]
        if all(new is old for new, old in zip(args, node.args)):
            return None
        return node.with_changes(args=args)

    # --- settings that are off at zero

    def _is_float_setting(self, node: cst.BaseExpression, env: Env) -> bool:
        value = self.places.value(node, env)
        if value.kind is not Kind.SETTING or value.place is None:
            return False
        name = value.place.obj.removeprefix("setting ")
        return name in self.context.float_settings - self.context.jumps

    def _switch(self, node: cst.Comparison, env: Env) -> cst.CSTNode | None:
        """``weight_decay != 0``: at zero, too, the derivative is that of the branch."""
        if len(node.comparisons) != 1 or not self._is_float_setting(node.left, env):
            return None
        operator, right = node.comparisons[0].operator, node.comparisons[0].comparator
        if not isinstance(right, (cst.Integer, cst.Float)):
            return None
        zero = float(right.value) == 0
        if isinstance(operator, cst.GreaterThan) and zero:
            return call("ops.is_positive", node.left)
        if isinstance(operator, cst.LessThan) and float(right.value) == 1:
            return call("ops.is_below_one", node.left)
        if isinstance(operator, (cst.Equal, cst.NotEqual)):
            off = {} if zero else {"off": right}
            used = call("ops.is_used", node.left, **off)
            if isinstance(operator, cst.NotEqual):
                return used
            return cst.UnaryOperation(cst.Not(), used)
        return None

    def condition(self, node: cst.BaseExpression, env: Env) -> cst.BaseExpression:
        """``if weight_decay:`` asks the same."""
        if isinstance(node, cst.UnaryOperation) and isinstance(node.operator, cst.Not):
            inner = self.condition(node.expression, env)
            return (
                node
                if inner is node.expression
                else node.with_changes(expression=inner)
            )
        if isinstance(node, cst.BooleanOperation):
            left, right = self.condition(node.left, env), self.condition(
                node.right, env
            )
            if left is node.left and right is node.right:
                return node
            return node.with_changes(left=left, right=right)
        if isinstance(node, (cst.Name, cst.Subscript)) and self._is_float_setting(
            node, env
        ):
            new = call("ops.is_used", node)
            self.fired(node, new)
            return new
        return node

    # --- tensor methods and functions

    def _tensor_op(
        self, node: cst.Call, func: cst.Attribute, name: str, env: Env
    ) -> cst.CSTNode | None:
        method = func.attr.value
        if name.startswith("torch."):
            if name.count(".") > 1:
                return None
            args = list(node.args)
        elif self.kind(func.value, env) in (Kind.MAPPING, Kind.SEQUENCE, Kind.OTHER):
            return None
        else:
            args = [cst.Arg(func.value), *node.args]
        if not self._needs_help(method, node, args, env):
            return None
        if method in ("clamp_min", "clamp_max") and len(args) == 2:
            bound = cst.Arg(args[1].value, cst.Name(method[-3:]), equal=TIGHT_EQUAL)
            return cst.Call(expr("ops.clamp"), [args[0], bound])
        twin = {"subtract": "sub", "clip": "clamp"}.get(method, method)
        return cst.Call(expr(f"ops.{twin}"), args)

    def _needs_help(
        self, method: str, node: cst.Call, args: list[cst.Arg], env: Env
    ) -> bool:
        if method in _SCALED:
            factor = keyword(node, _SCALED[method])
            return factor is not None and self._may_differ(factor, env)
        if method in _SCALED_PRODUCTS:
            factors = [keyword(node, k) for k in ("alpha", "beta")]
            return any(f is not None and self._may_differ(f, env) for f in factors)
        if method == "lerp":
            weight = args[2].value if len(args) > 2 else keyword(node, "weight")
            return weight is not None and self.kind(weight, env) in (
                Kind.SETTING,
                Kind.UNKNOWN,
            )
        if method in ("clamp", "clip", "clamp_min", "clamp_max"):
            return any(self._may_differ(a.value, env) for a in args[1:])
        return False

    # --- numbers

    def _math(self, node: cst.Call, function: str, env: Env) -> cst.CSTNode | None:
        args = positional(node)
        if not any(self._may_differ(a, env) for a in args):
            return None
        if function in _MATH:
            return node.with_changes(func=expr(f"ops.{function}"))
        if function not in _MATH_OF_ANYTHING:
            self.refuse(
                node,
                f"math.{function} drops the gradient of its argument",
                "use the torch function of that name",
            )
        return None

    def _builtin(self, node: cst.Call, name: str, env: Env) -> cst.CSTNode | None:
        args = positional(node)
        if name == "float":
            if args and self._may_differ(args[0], env):
                if isinstance(bare(args[0]), cst.SimpleString):
                    return None
                return call("ops.value", args[0])
            return None
        if name == "complex":
            if any(self._may_differ(a, env) for a in args):
                return node.with_changes(func=expr("ops.complex"))
            return None
        if len(node.args) != len(args) or not self._any_may_differ(args, env):
            return None
        return node.with_changes(func=expr(_BUILTINS[name]))

    def _any_may_differ(self, args: list[cst.BaseExpression], env: Env) -> bool:
        for arg in args:
            value = self.places.value(arg, env)
            if value.kind is Kind.SEQUENCE:
                if value.item is None or value.item.kind is not Kind.NUMBER:
                    return True
            elif self._may_differ(arg, env):
                return True
        return False

    def _fill(self, node: cst.Call, twin: str, env: Env) -> cst.CSTNode | None:
        args = positional(node)
        position = 1 if "full" in twin else 0
        fill = args[position] if len(args) > position else keyword(node, "fill_value")
        if fill is None or not self._may_differ(fill, env):
            return None
        kept = [
            a
            for a in node.args
            if not (a.keyword and a.keyword.value == "requires_grad")
        ]
        return node.with_changes(func=expr(twin), args=kept)
