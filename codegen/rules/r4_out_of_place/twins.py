"""``x.op_(…)`` → ``x.op(…)``, link by link of an in-place chain."""

from __future__ import annotations

import libcst as cst

from codegen.rules.base import Rule
from codegen.rules.r4_out_of_place.inplace import (
    FLAGS,
    RANDOM,
    TWINS,
    chain_links,
    inplace_method,
)
from codegen.rules.r4_out_of_place.hoist import is_place
from codegen.syntax import call, keyword, method


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
    if name[:-1] in TWINS:
        return method(receiver, name[:-1], args)
    if name == "copy_":
        return call("ops.copy", receiver, link.args[0].value)
    if name == "fill_":
        return call("ops.full_like", receiver, link.args[0].value)
    if name == "zero_":
        return call("torch.zeros_like", receiver)
    if name in FLAGS:
        return receiver
    if name in RANDOM:
        text = cst.SimpleString(f'"{name}"')
        random = call("ops.random_like", receiver, text)
        return random.with_changes(args=[*random.args, *args])
    rule.refuse(
        link,
        f"no out-of-place twin is known for .{name}()",
        "write the update with an operation that returns a new tensor",
    )
    return receiver


class Temporaries(cst.CSTTransformer):
    """In-place calls on temporaries: ``(a / b).add_(eps)`` → ``(a / b).add(eps)``."""

    def __init__(self, rule: Rule) -> None:
        super().__init__()
        self.rule = rule

    def leave_Call(
        self, original_node: cst.Call, updated_node: cst.Call
    ) -> cst.BaseExpression:
        out = keyword(updated_node, "out")
        if out is not None and not is_place(out):
            return self._into_new(original_node, updated_node, out)
        name = inplace_method(updated_node)
        if name is None:
            return updated_node
        assert isinstance(updated_node.func, cst.Attribute)
        new = twin(name, updated_node.func.value, updated_node, self.rule)
        return self._replaced(original_node, new)

    def _into_new(
        self, old: cst.Call, node: cst.Call, out: cst.BaseExpression
    ) -> cst.BaseExpression:
        """``torch.eye(n, out=x.new(n, n))``: values in the new tensor's dtype."""
        if isinstance(out, cst.Tuple):
            self.rule.refuse(old, "several results are stored here", "store each")
        return self._replaced(old, call("ops.copy", out, without_out(node)))

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


def replace_temporaries(node: cst.CSTNodeT, rule: Rule) -> cst.CSTNodeT:
    new = node.visit(Temporaries(rule))
    rule.context.origins.inherit(new, node)  # type: ignore[arg-type]
    return new  # type: ignore[return-value]
