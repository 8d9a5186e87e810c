"""Folds expressions whose value the facts table or a local constant tells.

``if not torch.jit.is_scripting() and capturable:`` becomes ``if False:``.
"""

from __future__ import annotations

from typing import cast

import libcst as cst

from codegen.lower import facts
from codegen.lower.called import called, computes_the_same
from codegen.lower.frame import (
    NOT_KNOWN,
    Frame,
    Kind,
    Known,
    holds_settings,
    known,
    literal,
)
from codegen.lower.helpers import (
    function_statements,
    given_to,
    got_from_literal,
    item_of_display,
    none_test,
)
from codegen.lower.kinds import kind_of, share
from codegen.lower.literals import OperatorFolder, truth
from codegen.purity import pure
from codegen.syntax import (
    Body,
    call,
    comprehension_names,
    dict_entries,
    dotted,
    ends,
    is_name,
    orelse_statements,
    positional,
    small,
    statements,
    string_key,
)
from codegen.upstream import Definition


def asks_for_complex(node: cst.CSTNode) -> bool:
    """``torch.is_complex(x)``, ``x.is_complex()``, ``x.dtype.is_complex``."""
    if isinstance(node, cst.Call):
        name = dotted(node.func) or ""
        return name == "torch.is_complex" or name.endswith(".is_complex")
    return isinstance(node, cst.Attribute) and (dotted(node) or "").endswith(
        ".dtype.is_complex"
    )


class Folder(OperatorFolder):
    """Replaces known expressions by their value, bottom up."""

    def __init__(self, frame: Frame) -> None:
        super().__init__(frame)
        self.hidden: list[Frame] = []
        """What is known outside the comprehensions around."""

    # names and attributes that are not variables must not be replaced
    def leave_Attribute(
        self, original_node: cst.Attribute, updated_node: cst.Attribute
    ) -> cst.BaseExpression:
        if dotted(original_node) in {f"self.{k}" for k in facts.FALSE_SETTINGS}:
            return cst.Name("False")
        if self.frame.real_views and asks_for_complex(original_node):
            return cst.Name("False")
        return updated_node.with_changes(attr=original_node.attr)

    def leave_Arg(self, original_node: cst.Arg, updated_node: cst.Arg) -> cst.Arg:
        return updated_node.with_changes(keyword=original_node.keyword)

    def leave_AssignTarget(
        self, original_node: cst.AssignTarget, updated_node: cst.AssignTarget
    ) -> cst.AssignTarget:
        if isinstance(original_node.target, (cst.Name, cst.Tuple, cst.List)):
            return updated_node.with_changes(target=original_node.target)
        return updated_node

    def visit_AugAssign(self, node: cst.AugAssign) -> bool:
        return False

    def leave_AugAssign(
        self, original_node: cst.AugAssign, updated_node: cst.AugAssign
    ) -> cst.AugAssign:
        value = original_node.value.visit(Folder(self.frame))
        return updated_node.with_changes(value=value)

    def visit_AnnAssign_annotation(self, node: cst.AnnAssign) -> None:
        """Annotations are dropped with the statement (see tidy)."""

    def visit_For(self, node: cst.For) -> bool:
        return True

    def leave_For(self, original_node: cst.For, updated_node: cst.For) -> cst.For:
        return updated_node.with_changes(target=original_node.target)

    def leave_CompFor(
        self, original_node: cst.CompFor, updated_node: cst.CompFor
    ) -> cst.CompFor:
        return updated_node.with_changes(target=original_node.target)

    def on_visit(self, node: cst.CSTNode) -> bool:
        if isinstance(node, cst.BaseComp):
            self.hidden.append(self.frame.fork())
            for name in comprehension_names(node):
                self.frame.forget(name)
        return super().on_visit(node)

    def on_leave(
        self, original_node: cst.CSTNodeT, updated_node: cst.CSTNodeT
    ) -> cst.CSTNodeT | cst.RemovalSentinel | cst.FlattenSentinel[cst.CSTNodeT]:
        if isinstance(original_node, cst.BaseComp):
            self.frame.__dict__.update(self.hidden.pop().__dict__)
        return super().on_leave(original_node, updated_node)

    def visit_Lambda(self, node: cst.Lambda) -> bool:
        return False

    def visit_FunctionDef(self, node: cst.FunctionDef) -> bool:
        return False

    def leave_Name(
        self, original_node: cst.Name, updated_node: cst.Name
    ) -> cst.BaseExpression:
        value = self.frame.constants.get(original_node.value, NOT_KNOWN)
        return literal(value) or updated_node

    def leave_Subscript(
        self, original_node: cst.Subscript, updated_node: cst.Subscript
    ) -> cst.BaseExpression:
        if string_key(original_node) in facts.FALSE_SETTINGS and holds_settings(
            original_node.value
        ):
            return cst.Name("False")
        item = item_of_display(updated_node)
        if item is not None:
            return item
        entries = dict_entries(updated_node.value)
        key = string_key(updated_node)
        if entries is not None and key is not None and key in entries:
            if all(pure(v) for k, v in entries.items() if k != key):
                return entries[key]
        return updated_node

    def leave_Call(
        self, original_node: cst.Call, updated_node: cst.Call
    ) -> cst.BaseExpression:
        name = self.frame.full_name(original_node.func)
        args = positional(updated_node)
        if name in facts.FALSE_CALLS:
            return cst.Name("False")
        if name == "getattr" and len(args) >= 2 and is_name(args[0], "self"):
            text = args[1]
            if isinstance(text, cst.SimpleString):
                if text.evaluated_value in facts.NONE_ATTRIBUTES:
                    return cst.Name("None")
        if name == "hasattr" and len(args) == 2:
            if isinstance(args[1], cst.SimpleString):
                if args[1].evaluated_value in facts.FALSE_PARAMETER_MARKS:
                    return cst.Name("False")
        if self.frame.real_views and asks_for_complex(original_node):
            return cst.Name("False")
        if name in facts.IDENTITY_CALLS:
            return args[facts.IDENTITY_CALLS[name]]
        if name in facts.RUNTIME_CALLS:
            twin, count = facts.RUNTIME_CALLS[name]
            return call(twin, *args[:count])
        asked_kind = self._is_instance(name, original_node)
        if asked_kind is not None:
            return cst.Name(str(asked_kind))
        asked = self._predicate(updated_node, args)
        if asked is not None:
            return asked
        if dotted(original_node.func) == "group.get" and args:
            return self._get_setting(updated_node, args)
        known_result = self._helper_result(original_node, updated_node)
        if known_result is not None:
            return known_result
        return got_from_literal(updated_node, args) or updated_node

    def _predicate(
        self, node: cst.Call, args: list[cst.BaseExpression]
    ) -> cst.BaseExpression | None:
        """``exists(x)`` → ``x is not None``, for a function that says only that."""
        found = self.frame.resolve(node.func)
        if not isinstance(found, Definition) or len(args) != 1 or len(node.args) != 1:
            return None
        asked = none_test(found.node)
        if asked is None or not isinstance(args[0], (cst.Name, cst.Attribute)):
            return None
        test = asked.with_changes(left=args[0])
        self.origins.inherit(test, node)
        return cast(cst.BaseExpression, test.visit(Folder(self.frame)))

    def _helper_result(
        self, original: cst.Call, updated: cst.Call
    ) -> cst.BaseExpression | None:
        """What a helper returns where tests of what is known alone decide it:
        ``exists(closure)``, ``resolve_foreach(foreach, params)``."""
        helper = called(original, self.frame)
        node = helper.node if helper is not None else None
        if helper is None or not isinstance(node, cst.FunctionDef):
            return None
        if helper.full_name in self.frame.callers:
            return None  # it calls itself
        inner = self.frame.of(helper)
        given = given_to(node, updated, helper.is_method)
        if given is None or not computes_the_same(node, inner):
            return None
        body = function_statements(node)
        inner.local = set(given)
        inner.callers = self.frame.callers | {helper.full_name}
        for name, arg in given.items():
            constant = known(cast(cst.BaseExpression, self._absent(arg)), self.frame)
            if constant is not NOT_KNOWN:
                inner.constants[name] = constant
            share(inner, self.frame, arg, name)
        return literal(_result(body, inner))

    def _is_instance(self, name: str | None, node: cst.Call) -> bool | None:
        """What ``isinstance(x, torch.Tensor)`` says, where the kind of x is known."""
        args = positional(node)
        if name == "torch.is_tensor" and len(args) == 1:
            asked: list[cst.BaseExpression] = [cst.parse_expression("torch.Tensor")]
        elif name == "isinstance" and len(args) == 2:
            whole = args[1]
            asked = [whole]
            if isinstance(whole, cst.Tuple):
                asked = [e.value for e in whole.elements]
        else:
            return None
        kind = kind_of(args[0], self.frame)
        types = {self.frame.full_name(x) for x in asked}
        if kind is Kind.PLAIN and types <= facts.TENSOR_TYPES:
            self.frame.context.asked_settings = True
            return False
        if kind is Kind.TENSOR and "torch.Tensor" in types:
            return True
        return False if kind is Kind.TENSOR and types <= facts.NO_TENSOR_TYPES else None

    def _get_setting(
        self, node: cst.Call, args: list[cst.BaseExpression]
    ) -> cst.BaseExpression:
        key = args[0]
        if isinstance(key, cst.SimpleString):
            if key.evaluated_value in facts.FALSE_SETTINGS:
                return cst.Name("False")
        return node


def _result(body: Body, frame: Frame) -> Known:
    """What a function returns, if tests of what is known alone decide it."""
    for node in body:
        inner = small(node)
        if isinstance(node, cst.If):
            test = truth(fold(node.test, frame, asked=True))
            if test is None:
                return NOT_KNOWN
            chosen = statements(node.body) if test else orelse_statements(node)
            if chosen and ends(chosen[-1]):
                return _result(chosen, frame)
            if chosen:
                return NOT_KNOWN
        elif isinstance(inner, cst.Return) and inner.value is not None:
            value = fold(inner.value, frame)
            return known(value, frame)
        else:
            return NOT_KNOWN
    return NOT_KNOWN


def fold(node: cst.CSTNodeT, frame: Frame, asked: bool = False) -> cst.CSTNodeT:
    """``node`` with everything known replaced by its value; of one that is ``asked``
    nothing but its truth matters."""
    folder = Folder(frame)
    if asked and isinstance(node, cst.BaseExpression):
        folder.ask(node)
    return cast(cst.CSTNodeT, node.visit(folder))
