"""Folds expressions whose value the facts table or a local constant tells.

``if not torch.jit.is_scripting() and capturable:`` becomes ``if False:``.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TypeAlias, cast

import libcst as cst

from codegen.diagnostics import Origins
from codegen.lower import facts
from codegen.syntax import (
    Body,
    Rewriter,
    bare,
    call,
    comprehension_names,
    dict_entries,
    dotted,
    ends,
    is_constant,
    is_name,
    orelse_statements,
    positional,
    small,
    statements,
    string_key,
)
from codegen.upstream import Definition, External, Library, Resolved, SourceModule


class Unknown:
    """The value of an expression that isn't known before run time."""


UNKNOWN = Unknown()
Known: TypeAlias = "bool | None | Definition | Unknown"


@dataclass
class Frame:
    """What is known at one point of a function: constants, settings, scope.

    ``aliases`` are module-level names that go by another one here.
    """

    module: SourceModule
    library: Library
    owner: Definition | None = None
    constants: dict[str, Known] = field(default_factory=dict)
    settings: set[str] = field(default_factory=set)
    lists: set[str] = field(default_factory=set)
    local: set[str] = field(default_factory=set)
    absent: set[str] = field(default_factory=set)
    real_views: bool = False
    aliases: dict[str, str] = field(default_factory=dict)

    def fork(self) -> Frame:
        return Frame(
            self.module,
            self.library,
            self.owner,
            dict(self.constants),
            set(self.settings),
            set(self.lists),
            set(self.local),
            set(self.absent),
            self.real_views,
            dict(self.aliases),
        )

    def join(self, other: Frame) -> None:
        """Keep what both branches agree on."""
        self.constants = {
            name: value
            for name, value in self.constants.items()
            if name in other.constants and other.constants[name] == value
        }
        self.settings &= other.settings
        self.lists &= other.lists

    def forget(self, name: str) -> None:
        """``name`` is bound anew."""
        self.constants.pop(name, None)
        self.settings.discard(name)
        self.lists.discard(name)

    def share(self, other: Frame, value: cst.BaseExpression, name: str) -> None:
        """What ``other`` knows of ``value``, this one knows of ``name``."""
        if other.is_setting(value):
            self.settings.add(name)
        if isinstance(value, cst.Name) and value.value in other.lists:
            self.lists.add(name)

    def resolve(self, node: cst.CSTNode) -> Resolved | None:
        """What a (dotted) name means at module level; None for local variables."""
        name = dotted(node)
        if name is None:
            return None
        head, dot, rest = name.partition(".")
        if head in self.local:
            return None
        meant = self.aliases.get(head, head)
        return self.library.resolve(self.module, f"{meant}{dot}{rest}")

    def full_name(self, node: cst.CSTNode) -> str | None:
        found = self.resolve(node)
        if isinstance(found, (Definition, External)):
            return found.full_name
        return dotted(node) if found is None and isinstance(node, cst.Name) else None

    def is_setting(self, node: cst.CSTNode) -> bool:
        """``group["lr"]``, or a variable that holds such a value."""
        if isinstance(node, cst.Name):
            return node.value in self.settings
        if isinstance(node, cst.Subscript):
            key = string_key(node)
            if key is None:
                return self.is_setting(node.value)
            return key != "params" and _holds_settings(node.value)
        return False


def _holds_settings(node: cst.CSTNode) -> bool:
    return is_name(node, "group") or dotted(node) == "self.defaults"


def asks_for_complex(node: cst.CSTNode) -> bool:
    """``torch.is_complex(x)``, ``x.is_complex()``, ``x.dtype.is_complex``."""
    if isinstance(node, cst.Call):
        name = dotted(node.func) or ""
        return name == "torch.is_complex" or name.endswith(".is_complex")
    return isinstance(node, cst.Attribute) and (dotted(node) or "").endswith(
        ".dtype.is_complex"
    )


class Folder(Rewriter):
    """Replaces known expressions by their value, bottom up."""

    def __init__(self, origins: Origins, frame: Frame) -> None:
        super().__init__(origins)
        self.frame = frame
        self.hidden: list[dict[str, Known]] = []
        """Constants that comprehensions around have variables named like."""

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
        value = original_node.value.visit(Folder(self.origins, self.frame))
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
            own = comprehension_names(node) & self.frame.constants.keys()
            hidden = {name: self.frame.constants.pop(name) for name in own}
            self.hidden.append(hidden)
        return super().on_visit(node)

    def on_leave(
        self, original_node: cst.CSTNodeT, updated_node: cst.CSTNodeT
    ) -> cst.CSTNodeT | cst.RemovalSentinel | cst.FlattenSentinel[cst.CSTNodeT]:
        if isinstance(original_node, cst.BaseComp):
            self.frame.constants.update(self.hidden.pop())
        return super().on_leave(original_node, updated_node)

    def visit_Lambda(self, node: cst.Lambda) -> bool:
        return False

    def visit_FunctionDef(self, node: cst.FunctionDef) -> bool:
        return False

    def leave_Name(
        self, original_node: cst.Name, updated_node: cst.Name
    ) -> cst.BaseExpression:
        value = self.frame.constants.get(original_node.value, UNKNOWN)
        return literal(value) or updated_node

    def leave_Subscript(
        self, original_node: cst.Subscript, updated_node: cst.Subscript
    ) -> cst.BaseExpression:
        if string_key(original_node) in facts.FALSE_SETTINGS and _holds_settings(
            original_node.value
        ):
            return cst.Name("False")
        item = _item(updated_node)
        if item is not None:
            return item
        entries = dict_entries(updated_node.value)
        key = string_key(updated_node)
        if entries is not None and key is not None and key in entries:
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
        if self._asks_for_tensor_setting(name, original_node):
            return cst.Name("False")
        asked = self._predicate(updated_node, args)
        if asked is not None:
            return asked
        if dotted(original_node.func) == "group.get" and args:
            return self._get_setting(updated_node, args)
        known_result = self._helper_result(original_node, updated_node)
        if known_result is not None:
            return known_result
        return _got_from_literal(updated_node, args) or updated_node

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
        return cast(cst.BaseExpression, test.visit(Folder(self.origins, self.frame)))

    def _helper_result(
        self, original: cst.Call, updated: cst.Call
    ) -> cst.BaseExpression | None:
        """What a helper returns where tests of what is known alone decide it:
        ``exists(closure)``, ``resolve_foreach(foreach, params)``."""
        helper = self.frame.resolve(original.func)
        if not isinstance(helper, Definition):
            return None
        node = helper.node
        if not isinstance(node, cst.FunctionDef) or node.decorators:
            return None
        given = given_to(node, updated)
        if given is None:
            return None
        body = _statements(node)
        inner = Frame(helper.module, self.frame.library, helper)
        inner.local = set(given)
        for name, arg in given.items():
            constant = known(cast(cst.BaseExpression, self._absent(arg)), self.frame)
            if constant is not UNKNOWN:
                inner.constants[name] = constant
            inner.share(self.frame, arg, name)
        return literal(_result(body, inner, self.origins))

    def _asks_for_tensor_setting(self, name: str | None, node: cst.Call) -> bool:
        args = positional(node)
        if name == "torch.is_tensor" and len(args) == 1:
            number = isinstance(args[0], (cst.Integer, cst.Float))
            return number or self.frame.is_setting(args[0])
        if name != "isinstance" or len(args) != 2:
            return False
        if isinstance(args[0], (cst.Integer, cst.Float)):
            return self._is_tensor_type(args[1])
        return self.frame.is_setting(args[0]) and self._is_tensor_type(args[1])

    def _is_tensor_type(self, node: cst.BaseExpression) -> bool:
        if isinstance(node, cst.Tuple):
            return all(self._is_tensor_type(e.value) for e in node.elements)
        return self.frame.full_name(node) in facts.TENSOR_TYPES

    def _get_setting(
        self, node: cst.Call, args: list[cst.BaseExpression]
    ) -> cst.BaseExpression:
        key = args[0]
        if isinstance(key, cst.SimpleString):
            if key.evaluated_value in facts.FALSE_SETTINGS:
                return cst.Name("False")
        return node

    def leave_UnaryOperation(
        self, original_node: cst.UnaryOperation, updated_node: cst.UnaryOperation
    ) -> cst.BaseExpression:
        if isinstance(updated_node.operator, cst.Not):
            inside = self._absent(updated_node.expression)
            value = truth(inside)
            if value is not None:
                return cst.Name(str(not value))
            return _other_way(bare(updated_node.expression)) or updated_node
        return updated_node

    def leave_BooleanOperation(
        self, original_node: cst.BooleanOperation, updated_node: cst.BooleanOperation
    ) -> cst.BaseExpression:
        left, right = updated_node.left, updated_node.right
        conjunction = isinstance(updated_node.operator, cst.And)
        value = truth(left)
        if value is not None:
            return right if value == conjunction else left
        other = truth(right)
        if other is not None and other == conjunction:
            return left
        if other is not None and _is_test(left):
            return right
        return updated_node

    def leave_Comparison(
        self, original_node: cst.Comparison, updated_node: cst.Comparison
    ) -> cst.BaseExpression:
        if len(updated_node.comparisons) != 1:
            return updated_node
        target = updated_node.comparisons[0]
        left, right = self._absent(updated_node.left), bare(target.comparator)
        equal = _equal_literals(left, right)
        if is_name(right, "None") and self._is_list(left):
            equal = False
        if equal is None:
            return updated_node
        if isinstance(target.operator, (cst.Is, cst.Equal)):
            return cst.Name(str(equal))
        if isinstance(target.operator, (cst.IsNot, cst.NotEqual)):
            return cst.Name(str(not equal))
        return updated_node

    def _is_list(self, node: cst.CSTNode) -> bool:
        return isinstance(node, cst.Name) and node.value in self.frame.lists

    def _absent(self, node: cst.BaseExpression) -> cst.CSTNode:
        """``closure`` is None where it is asked for; calls of it are refused (R1)."""
        if isinstance(node, cst.Name) and node.value in self.frame.absent:
            return cst.Name("None")
        return bare(node)

    def leave_IfExp(
        self, original_node: cst.IfExp, updated_node: cst.IfExp
    ) -> cst.BaseExpression:
        value = truth(updated_node.test)
        if value is None:
            return updated_node
        kept = updated_node.body if value else updated_node.orelse
        if updated_node.lpar and not getattr(kept, "lpar", ()):
            kept = kept.with_changes(lpar=updated_node.lpar, rpar=updated_node.rpar)
        return kept


def _other_way(node: cst.CSTNode) -> cst.Comparison | None:
    """``x is None`` for ``x is not None``."""
    if not isinstance(node, cst.Comparison) or len(node.comparisons) != 1:
        return None
    target = node.comparisons[0]
    turned = {cst.Is: cst.IsNot, cst.IsNot: cst.Is}.get(type(target.operator))
    if turned is None:
        return None
    return node.with_changes(comparisons=[target.with_changes(operator=turned())])


def _statements(node: cst.FunctionDef) -> Body:
    body = statements(node.body)
    if body and isinstance(small(body[0]), cst.Expr):
        return body[1:]  # the docstring
    return body


def given_to(
    node: cst.FunctionDef, made: cst.Call
) -> dict[str, cst.BaseExpression] | None:
    """Parameter → argument or default, of a call without stars."""
    params = node.params
    plain = [p.name.value for p in (*params.posonly_params, *params.params)]
    if params.star_kwarg is not None or isinstance(params.star_arg, cst.Param):
        return None
    given: dict[str, cst.BaseExpression] = {
        p.name.value: p.default
        for p in (*params.posonly_params, *params.params, *params.kwonly_params)
        if p.default is not None
    }
    for number, arg in enumerate(made.args):
        if arg.star or (arg.keyword is None and number >= len(plain)):
            return None
        name = plain[number] if arg.keyword is None else arg.keyword.value
        given[name] = arg.value
    return given


def _result(body: Body, frame: Frame, origins: Origins) -> Known:
    """What a function returns, if tests of what is known alone decide it."""
    for node in body:
        inner = small(node)
        if isinstance(node, cst.If):
            test = truth(fold(node.test, frame, origins))
            if test is None:
                return UNKNOWN
            chosen = statements(node.body) if test else orelse_statements(node)
            if chosen and ends(chosen[-1]):
                return _result(chosen, frame, origins)
            if chosen:
                return UNKNOWN
        elif isinstance(inner, cst.Return) and inner.value is not None:
            value = fold(inner.value, frame, origins)
            return known(value, frame)
        else:
            return UNKNOWN
    return UNKNOWN


def _got_from_literal(
    node: cst.Call, args: list[cst.BaseExpression]
) -> cst.BaseExpression | None:
    """``{"k": v}.get("k", d)`` is ``v``: keywords that went through ``**kwargs``."""
    func = node.func
    if not isinstance(func, cst.Attribute) or func.attr.value != "get":
        return None
    entries = dict_entries(func.value)
    if entries is None or not args or not isinstance(args[0], cst.SimpleString):
        return None
    default = args[1] if len(args) > 1 else cst.Name("None")
    return entries.get(str(args[0].evaluated_value), default)


def _item(node: cst.Subscript) -> cst.BaseExpression | None:
    """``a`` of ``(a, b)[0]``."""
    index = node.slice[0].slice if len(node.slice) == 1 else None
    if not isinstance(node.value, (cst.Tuple, cst.List)):
        return None
    if not isinstance(index, cst.Index):
        return None
    items = [e.value for e in node.value.elements if isinstance(e, cst.Element)]
    if len(items) != len(node.value.elements) or not isinstance(
        index.value, cst.Integer
    ):
        return None
    number = index.value.evaluated_value
    return items[number] if number < len(items) else None


def _is_test(node: cst.CSTNode) -> bool:
    return isinstance(node, (cst.Comparison, cst.UnaryOperation, cst.BooleanOperation))


def _equal_literals(left: cst.CSTNode, right: cst.CSTNode) -> bool | None:
    if not (is_constant(left) and is_constant(right)):
        return None
    singletons = {"True", "False", "None"}
    a, b = _text(left), _text(right)
    if a in singletons or b in singletons:
        return a == b
    if isinstance(left, cst.SimpleString) and isinstance(right, cst.SimpleString):
        return left.evaluated_value == right.evaluated_value
    return True if a == b else None


def _text(node: cst.CSTNode) -> str:
    from codegen.syntax import code

    return code(node)


def truth(node: cst.CSTNode) -> bool | None:
    """Truth of a literal; None where it isn't known."""
    node = bare(node)
    if isinstance(node, cst.Name):
        return {"True": True, "False": False, "None": False}.get(node.value)
    if isinstance(node, cst.BooleanOperation):
        decisive = not isinstance(node.operator, cst.And)
        if decisive in (truth(node.left), truth(node.right)):
            return decisive
    return None


def none_test(node: cst.CSTNode) -> cst.Comparison | None:
    """``x is not None`` of ``def exists(x): return x is not None``."""
    if not isinstance(node, cst.FunctionDef) or node.decorators:
        return None
    params = [p.name.value for p in node.params.params]
    body = statements(node.body)
    inner = small(body[0]) if len(body) == 1 else None
    if len(params) != 1 or not isinstance(inner, cst.Return):
        return None
    test = inner.value
    if not isinstance(test, cst.Comparison) or len(test.comparisons) != 1:
        return None
    (part,) = test.comparisons
    asks = isinstance(part.operator, (cst.Is, cst.IsNot))
    if asks and is_name(test.left, params[0]) and is_name(part.comparator, "None"):
        return cast(cst.Comparison, bare(test))
    return None


def literal(value: Known) -> cst.Name | None:
    if value is None or isinstance(value, bool):
        return cst.Name(str(value))
    return None


def known(node: cst.CSTNode, frame: Frame) -> Known:
    """The constant that an expression is: a singleton or a function."""
    node = bare(node)
    if isinstance(node, cst.Name) and node.value in ("True", "False", "None"):
        return {"True": True, "False": False, "None": None}[node.value]
    if isinstance(node, cst.Name) and node.value in frame.constants:
        return frame.constants[node.value]
    if isinstance(node, (cst.Name, cst.Attribute)):
        found = frame.resolve(node)
        if isinstance(found, Definition) and isinstance(found.node, cst.FunctionDef):
            return found
    return UNKNOWN


def fold(node: cst.CSTNodeT, frame: Frame, origins: Origins) -> cst.CSTNodeT:
    """``node`` with everything known replaced by its value."""
    return cast(cst.CSTNodeT, node.visit(Folder(origins, frame)))
