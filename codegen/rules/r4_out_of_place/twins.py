"""``x.op_(…)`` → ``x.op(…)``, link by link of an in-place chain."""

from __future__ import annotations

from collections.abc import Callable

import libcst as cst

from codegen import optable
from codegen.inplace import chain_links, inplace_method, is_place
from codegen.rules.base import Rule
from codegen.syntax import TIGHT_EQUAL, call, keyword, method

Pin = Callable[[cst.Call, cst.BaseExpression], cst.BaseExpression]


def out_of_place(
    chain: cst.BaseExpression, root: cst.BaseExpression, rule: Rule
) -> cst.BaseExpression:
    """The value that an in-place ``chain`` leaves in its receiver ``root``."""
    result = root
    for link in chain_links(chain):
        name = inplace_method(link)
        assert name is not None
        result = twin(name, result, link, rule)
        rule.context.origins.inherit(result, link)
    return result


def twin(
    name: str, receiver: cst.BaseExpression, link: cst.Call, rule: Rule
) -> cst.BaseExpression:
    args = [a.with_changes(comma=cst.MaybeSentinel.DEFAULT) for a in link.args]
    operation = optable.method(name)
    if operation is not None and operation.flag:
        return receiver
    if operation is None or operation.functional is None:
        rule.refuse(
            link,
            f"no out-of-place twin is known for .{name}()",
            "write the update with an operation that returns a new tensor",
        )
        return receiver
    variant = operation.functional
    if "." not in variant:
        new = method(receiver, variant, args)
        # the receiver keeps its dtype, where the plain comparison gives booleans
        return call("ops.copy", receiver, new) if operation.mask else new
    if operation.uses_rng:
        text = cst.SimpleString(f'"{name}"')
        random = call(variant, receiver, text)
        return random.with_changes(args=[*random.args, *args])
    bound, theirs = operation.bind(args, receiver), optable.function(variant)
    assert theirs is not None
    if bound is None:
        rule.refuse(link, f"what .{name}() is handed can't be told", "write it out")
        return receiver
    return call(variant, *[*bound.values()][: len(theirs.parameters)])


class Temporaries(cst.CSTTransformer):
    """In-place calls on temporaries: ``(a / b).add_(eps)`` → ``(a / b).add(eps)``.

    ``pin`` gives a new value, of a call, the dtype of what it replaces.
    """

    def __init__(self, rule: Rule, pin: Pin | None) -> None:
        super().__init__()
        self.rule = rule
        self.pin = pin

    def leave_Call(
        self, original_node: cst.Call, updated_node: cst.Call
    ) -> cst.BaseExpression:
        self.rule.context.origins.inherit(updated_node, original_node)
        out = keyword(updated_node, "out")
        if out is not None and not is_place(out):
            return self._into_new(original_node, updated_node, out)
        name = inplace_method(updated_node)
        if name is None:
            return updated_node
        assert isinstance(updated_node.func, cst.Attribute)
        new = twin(name, updated_node.func.value, updated_node, self.rule)
        if self.pin is not None:
            new = self.pin(original_node, new)
        return self._replaced(original_node, new)

    def _into_new(
        self, old: cst.Call, node: cst.Call, out: cst.BaseExpression
    ) -> cst.BaseExpression:
        """``torch.eye(n, out=x.new(n, n))``: values in the new tensor's dtype."""
        if isinstance(out, cst.Tuple):
            self.rule.refuse(old, "several results are stored here", "store each")
        new = without_out(node)
        if _of_numbers(new) and _rounds(new):
            return self._replaced(old, _like(new, out))
        return self._replaced(old, call("ops.copy", out, new))

    def _replaced(
        self, original_node: cst.Call, new: cst.BaseExpression
    ) -> cst.BaseExpression:
        self.rule.context.origins.inherit(new, original_node)
        self.rule.fired(original_node, new)
        return new


def without_out(node: cst.Call) -> cst.Call:
    """A call without its ``out=``."""
    args = [a for a in node.args if not (a.keyword and a.keyword.value == "out")]
    args[-1] = args[-1].with_changes(comma=cst.MaybeSentinel.DEFAULT)
    return node.with_changes(args=args)


def written_into(node: cst.Call, out: cst.BaseExpression) -> cst.Call:
    """What a call with ``out=`` computes; numbers alone make it in the dtype of out."""
    new = without_out(node)
    return _like(new, out) if _of_numbers(new) else new


def _of_numbers(node: cst.Call) -> bool:
    """``torch.randn(n)``: a result whose dtype no argument tells."""
    operation = optable.spelled(node)
    if operation is None:
        return False
    draws = operation.uses_rng and operation.parameters[0].name in ("n", "low", "mean")
    bound = operation.bind(node.args) or {}
    sized = operation.parameters[0].name != "mean" or "size" in bound
    return operation.own or (draws and sized)


def _rounds(node: cst.Call) -> bool:
    """Whether values that a call makes are others in another dtype: not those of eye."""
    operation = optable.spelled(node)
    return (
        operation is None
        or operation.uses_rng
        or any(p.number or p.scalar for p in operation.parameters)
    )


def _like(node: cst.Call, out: cst.BaseExpression) -> cst.Call:
    told = {a.keyword.value for a in node.args if a.keyword}
    args = [
        cst.Arg(
            cst.Attribute(out.deep_clone(), cst.Name(word)),
            cst.Name(word),
            equal=TIGHT_EQUAL,
        )
        for word in ("dtype", "device")
        if word not in told
    ]
    return node.with_changes(args=[*node.args, *args])


def replace_temporaries(
    node: cst.CSTNodeT, rule: Rule, pin: Pin | None = None
) -> cst.CSTNodeT:
    new = node.visit(Temporaries(rule, pin))
    rule.context.origins.inherit(new, node)  # type: ignore[arg-type]
    return new  # type: ignore[return-value]
