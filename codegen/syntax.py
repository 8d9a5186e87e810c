"""Small helpers over LibCST: parsing fragments, asking about names, rewriting.

Nothing here knows about optimizers.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TypeAlias, cast

import libcst as cst
import libcst.matchers as m

from codegen.bindings import all_params as all_params
from codegen.bindings import bound_names as bound_names
from codegen.bindings import comprehension_names as comprehension_names
from codegen.bindings import dotted as dotted
from codegen.bindings import free_names as free_names
from codegen.bindings import lazy_parts as lazy_parts
from codegen.bindings import read_names as read_names
from codegen.bindings import surely_bound as surely_bound
from codegen.bindings import target_names as target_names
from codegen.diagnostics import Origins, is_node, parts, walk

Statement: TypeAlias = "cst.SimpleStatementLine | cst.BaseCompoundStatement"
Body: TypeAlias = "tuple[Statement, ...]"
FunctionLike: TypeAlias = "cst.FunctionDef | cst.Lambda"

_BLANK = cst.Module(body=[])


@functools.lru_cache(maxsize=1 << 14)
def code(node: cst.CSTNode) -> str:
    """Source text of a node."""
    return _BLANK.code_for_node(node)


def expr(text: str) -> cst.BaseExpression:
    return cst.parse_expression(text)


def stmt(text: str) -> Statement:
    return cst.parse_statement(text)


def same(a: cst.CSTNode, b: cst.CSTNode) -> bool:
    """Whether two expressions are the same code, but for layout and parentheses."""
    return code(bare(a)) == code(bare(b))


def bare(node: cst.CSTNode) -> cst.CSTNode:
    """An expression without its outer parentheses."""
    if isinstance(node, cst.Tuple) and not node.elements:
        return node
    if isinstance(node, cst.BaseExpression) and getattr(node, "lpar", None):
        return node.with_changes(lpar=(), rpar=())
    return node


def parenthesize(node: cst.BaseExpression) -> cst.BaseExpression:
    """Add parentheses where ``node`` is about to become an operand or receiver."""
    atoms = (cst.Name, cst.Attribute, cst.Subscript, cst.Call)
    if isinstance(node, atoms) or getattr(node, "lpar", None):
        return node
    if isinstance(node, (cst.List, cst.Dict, cst.Tuple, cst.SimpleString)):
        return node
    return node.with_changes(lpar=[cst.LeftParen()], rpar=[cst.RightParen()])


def operand(
    node: cst.BaseExpression, operator: type[cst.BaseBinaryOp]
) -> cst.BaseExpression:
    """An expression as it stands beside an operator: in parentheses if it must."""
    if isinstance(node, (cst.BinaryOperation, cst.UnaryOperation, cst.IfExp)):
        if isinstance(node, cst.BinaryOperation) and operator is cst.Add:
            if isinstance(node.operator, (cst.Multiply, cst.Divide)):
                return node
        return parenthesize(node)
    if isinstance(node, (cst.Integer, cst.Float)):
        return node
    return parenthesize(node)


def string_key(node: cst.CSTNode) -> str | None:
    """``"lr"`` for ``group["lr"]``; None for other expressions."""
    if not isinstance(node, cst.Subscript) or len(node.slice) != 1:
        return None
    index = node.slice[0].slice
    if not isinstance(index, cst.Index):
        return None
    if not isinstance(index.value, cst.SimpleString):
        return None
    return cast(str, index.value.evaluated_value)


def index_of(node: cst.Subscript) -> cst.BaseExpression | None:
    """``i`` for ``x[i]``; None for slices and several indices."""
    if len(node.slice) == 1 and isinstance(node.slice[0].slice, cst.Index):
        return node.slice[0].slice.value
    return None


# --- statements -------------------------------------------------------------


def dict_entries(node: cst.CSTNode) -> dict[str, cst.BaseExpression] | None:
    """What ``{"k": v}`` holds, where all keys are plain strings."""
    if not isinstance(node, cst.Dict):
        return None
    entries: dict[str, cst.BaseExpression] = {}
    for element in node.elements:
        if not isinstance(element, cst.DictElement):
            return None
        if not isinstance(element.key, cst.SimpleString):
            return None
        entries[str(element.key.evaluated_value)] = element.value
    return entries


def statements(body: cst.BaseSuite | Sequence[cst.CSTNode]) -> Body:
    """The statements of a block, each simple statement on a line of its own."""
    if isinstance(body, cst.SimpleStatementSuite):
        return tuple(cst.SimpleStatementLine([small]) for small in body.body)
    items = body.body if isinstance(body, cst.IndentedBlock) else body
    result: list[Statement] = []
    for item in cast(Iterable[cst.CSTNode], items):
        if isinstance(item, cst.SimpleStatementLine) and len(item.body) > 1:
            result.extend(_split(item))
        else:
            result.append(cast(Statement, item))
    return tuple(result)


def _split(line: cst.SimpleStatementLine) -> Iterator[cst.SimpleStatementLine]:
    for number, small in enumerate(line.body):
        small = small.with_changes(semicolon=cst.MaybeSentinel.DEFAULT)
        if number == 0:
            yield cst.SimpleStatementLine([small], leading_lines=line.leading_lines)
        else:
            yield cst.SimpleStatementLine([small])


def block(body: Sequence[cst.CSTNode]) -> cst.IndentedBlock:
    """An indented block; an empty one holds ``pass``."""
    items = list(body) or [stmt("pass")]
    return cst.IndentedBlock(body=cast("list[cst.BaseStatement]", items))


def small(node: cst.CSTNode) -> cst.BaseSmallStatement | None:
    """The one small statement of a line, else None."""
    if isinstance(node, cst.SimpleStatementLine) and len(node.body) == 1:
        return node.body[0]
    return None


def assignment(
    node: cst.CSTNode,
) -> tuple[cst.BaseExpression, cst.BaseExpression] | None:
    """(target, value) of a plain one-target assignment, annotated or not."""
    inner = small(node)
    if isinstance(inner, cst.Assign) and len(inner.targets) == 1:
        return inner.targets[0].target, inner.value
    if isinstance(inner, cst.AnnAssign) and inner.value is not None:
        return inner.target, inner.value
    return None


HAVE_VALUES = (cst.Assign, cst.AnnAssign, cst.AugAssign, cst.Expr, cst.Return)
"""Simple statements that evaluate one expression, unless they have none."""


def assign(
    targets: Sequence[cst.BaseExpression], value: cst.BaseExpression
) -> cst.SimpleStatementLine:
    """``a = b = value``."""
    return cst.SimpleStatementLine(
        [
            cst.Assign(
                [
                    cst.AssignTarget(cast(cst.BaseAssignTargetExpression, t))
                    for t in targets
                ],
                value,
            )
        ]
    )


def with_comments(node: Statement, like: Statement) -> Statement:
    """``node`` with the comment lines that stood above ``like`` (and beside it)."""
    node = node.with_changes(leading_lines=like.leading_lines)
    if isinstance(node, cst.SimpleStatementLine) and isinstance(
        like, cst.SimpleStatementLine
    ):
        node = node.with_changes(trailing_whitespace=like.trailing_whitespace)
    return node


def sub_bodies(node: cst.CSTNode) -> list[cst.BaseSuite]:
    """The blocks of a compound statement (of all its branches)."""
    result: list[cst.BaseSuite] = []
    if isinstance(node, (cst.If, cst.For, cst.While)):
        result.append(node.body)
        if isinstance(node.orelse, cst.If):
            result.extend(sub_bodies(node.orelse))
        elif node.orelse is not None:
            result.append(node.orelse.body)
    elif isinstance(node, cst.Try):
        result.append(node.body)
        result.extend(handler.body for handler in node.handlers)
        if node.orelse is not None:
            result.append(node.orelse.body)
        if node.finalbody is not None:
            result.append(node.finalbody.body)
    elif isinstance(node, (cst.With, cst.FunctionDef)):
        result.append(node.body)
    return result


def map_bodies(
    node: Statement, change: Callable[[Body], Sequence[Statement]]
) -> Statement:
    """A compound statement with ``change`` applied to each of its blocks."""

    def new(part: cst.BaseSuite) -> cst.IndentedBlock:
        return block(change(statements(part)))

    changes: dict[str, object] = {}
    if isinstance(
        node, (cst.If, cst.For, cst.While, cst.With, cst.Try, cst.FunctionDef)
    ):
        changes["body"] = new(node.body)
    orelse = getattr(node, "orelse", None)
    if isinstance(orelse, cst.If):
        changes["orelse"] = map_bodies(orelse, change)
    elif orelse is not None:
        changes["orelse"] = orelse.with_changes(body=new(orelse.body))
    if isinstance(node, cst.Try):
        changes["handlers"] = [h.with_changes(body=new(h.body)) for h in node.handlers]
        if node.finalbody is not None:
            changes["finalbody"] = node.finalbody.with_changes(
                body=new(node.finalbody.body)
            )
    return node.with_changes(**changes)


def all_statements(body: Iterable[cst.CSTNode]) -> Iterator[Statement]:
    """Every statement, those inside compound statements too; not nested functions'."""
    for node in body:
        yield cast(Statement, node)
        if not isinstance(node, (cst.FunctionDef, cst.ClassDef)):
            for inner in sub_bodies(node):
                yield from all_statements(statements(inner))


def own_statements(body: Iterable[cst.CSTNode]) -> Iterator[Statement]:
    """Statements of a loop's body whose ``break`` or ``continue`` is that loop's: what
    inner loops repeat is left out, their ``else`` is not."""
    for node in body:
        yield cast(Statement, node)
        if isinstance(node, (cst.For, cst.While)):
            if node.orelse is not None:
                yield from own_statements(statements(node.orelse.body))
        elif not isinstance(node, (cst.FunctionDef, cst.ClassDef)):
            for inner in sub_bodies(node):
                yield from own_statements(statements(inner))


# --- branches ----------------------------------------------------------------


def ends(node: cst.CSTNode) -> bool:
    """Whether nothing after this statement runs."""
    inner = small(node)
    if isinstance(inner, (cst.Return, cst.Raise, cst.Continue, cst.Break)):
        return True
    if isinstance(node, cst.If) and isinstance(node.orelse, cst.Else):
        body, orelse = statements(node.body), statements(node.orelse.body)
        return bool(body and orelse) and ends(body[-1]) and ends(orelse[-1])
    return False


def orelse_statements(node: cst.If) -> Body:
    if isinstance(node.orelse, cst.If):
        return (node.orelse,)
    return () if node.orelse is None else statements(node.orelse.body)


def rebuild_if(
    node: cst.If, test: cst.BaseExpression, body: Body, orelse: Body
) -> cst.If:
    """An ``if`` with new branches; an empty branch is dropped, ``elif`` kept."""
    if not body:
        test = negate(test)
        body, orelse = orelse, ()
    new_else: cst.If | cst.Else | None = None
    if len(orelse) == 1 and isinstance(orelse[0], cst.If):
        new_else = orelse[0]
    elif orelse:
        old = node.orelse
        lines = old.leading_lines if isinstance(old, cst.Else) else ()
        new_else = cst.Else(block(orelse), leading_lines=lines)
    return node.with_changes(test=test, body=block(body), orelse=new_else)


def negate(test: cst.BaseExpression) -> cst.BaseExpression:
    """``not test``, written as a person would."""
    if isinstance(test, cst.UnaryOperation) and isinstance(test.operator, cst.Not):
        return test.expression
    if isinstance(test, cst.Comparison) and len(test.comparisons) == 1:
        target = test.comparisons[0]
        opposite = {
            cst.Is: cst.IsNot,
            cst.IsNot: cst.Is,
            cst.Equal: cst.NotEqual,
            cst.NotEqual: cst.Equal,
            cst.In: cst.NotIn,
            cst.NotIn: cst.In,
        }.get(type(target.operator))
        if opposite is not None:
            return test.with_changes(
                comparisons=[target.with_changes(operator=opposite())]
            )
    if isinstance(test, cst.BooleanOperation) and not test.lpar:
        test = test.with_changes(lpar=[cst.LeftParen()], rpar=[cst.RightParen()])
    return cst.UnaryOperation(cst.Not(), test)


# --- names ------------------------------------------------------------------


def is_name(node: cst.CSTNode | None, name: str | None = None) -> bool:
    return isinstance(node, cst.Name) and (name is None or node.value == name)


def calls(node: cst.CSTNode) -> Iterator[cst.Call]:
    return (n for n in walk(node) if isinstance(n, cst.Call))


def keyword(call: cst.Call, name: str) -> cst.BaseExpression | None:
    """Value of a keyword argument."""
    for arg in call.args:
        if arg.keyword is not None and arg.keyword.value == name:
            return arg.value
    return None


def positional(call: cst.Call) -> list[cst.BaseExpression]:
    return [arg.value for arg in call.args if arg.keyword is None and not arg.star]


def call(
    function: str | cst.BaseExpression,
    *args: cst.BaseExpression,
    **keywords: cst.BaseExpression,
) -> cst.Call:
    """Build ``function(*args, **keywords)``."""
    func = expr(function) if isinstance(function, str) else function
    plain = [cst.Arg(a) for a in args]
    named = [
        cst.Arg(value, keyword=cst.Name(name), equal=TIGHT_EQUAL)
        for name, value in keywords.items()
    ]
    return cst.Call(func, [*plain, *named])


TIGHT_EQUAL = cst.AssignEqual(cst.SimpleWhitespace(""), cst.SimpleWhitespace(""))


def method(
    receiver: cst.BaseExpression, name: str, args: Sequence[cst.Arg] = ()
) -> cst.Call:
    """Build ``receiver.name(args)``."""
    return cst.Call(cst.Attribute(parenthesize(receiver), cst.Name(name)), list(args))


# --- rewriting --------------------------------------------------------------


class Rewriter(cst.CSTTransformer):
    """A transformer whose new nodes inherit the origin of those they replace."""

    def __init__(self, origins: Origins) -> None:
        super().__init__()
        self.origins = origins

    def on_leave(
        self, original_node: cst.CSTNodeT, updated_node: cst.CSTNodeT
    ) -> cst.CSTNodeT | cst.RemovalSentinel | cst.FlattenSentinel[cst.CSTNodeT]:
        result = super().on_leave(original_node, updated_node)
        if isinstance(result, cst.FlattenSentinel):
            for node in result:
                self.origins.inherit(node, original_node)
        elif isinstance(result, cst.CSTNode) and result is not original_node:
            self.origins.inherit(result, original_node)
        return result


def map_parts(
    node: cst.CSTNodeT, change: Callable[[cst.CSTNode], cst.CSTNode]
) -> cst.CSTNodeT:
    """A node with its parts changed; itself where none was."""
    changes: dict[str, object] = {}
    label = _LABELS.get(type(node))
    for name in parts(type(node)):
        if name == label:
            continue
        part = getattr(node, name)
        if isinstance(part, (list, tuple)):
            items = [change(i) if is_node(i) else i for i in part]
            if any(new is not old for new, old in zip(items, part)):
                changes[name] = type(part)(items)
        elif is_node(part):
            new = change(part)
            if new is not part:
                changes[name] = new
    return node.with_changes(**changes) if changes else node


class _Replacer:
    """Rebuilds the nodes above a replaced one, and no others."""

    def __init__(
        self,
        origins: Origins,
        replace: Callable[[cst.CSTNode], cst.CSTNode | None],
    ) -> None:
        self.origins = origins
        self.replace = replace

    def visit(self, node: cst.CSTNode) -> cst.CSTNode:
        updated = map_parts(node, self.visit)
        found = self.replace(updated)
        if found is not None:
            updated = _keep_parentheses(found, updated)
        if updated is not node:
            self.origins.inherit(updated, node)
        return updated


_LABELS: dict[type, str] = {
    cst.Attribute: "attr",
    cst.Arg: "keyword",
    cst.Param: "name",
}
"""Names that are no variables."""


def _keep_parentheses(new: cst.CSTNode, old: cst.CSTNode) -> cst.CSTNode:
    """An expression over several lines needs the parentheses of the one it replaces."""
    if not getattr(old, "lpar", None) or getattr(new, "lpar", None):
        return new
    if isinstance(new, cst.BaseExpression) and "\n" in code(new):
        return new.with_changes(lpar=[cst.LeftParen()], rpar=[cst.RightParen()])
    return new


def replace_nodes(
    node: cst.CSTNode,
    replace: Callable[[cst.CSTNode], cst.CSTNode | None],
    origins: Origins,
) -> cst.CSTNode:
    """Bottom-up: wherever ``replace`` returns a node, it takes the old one's place."""
    return _Replacer(origins, replace).visit(node)


def is_constant(node: cst.CSTNode) -> bool:
    """Literals: numbers (signed), strings, True, False, None, ``...``."""
    if isinstance(node, cst.UnaryOperation) and m.matches(node.operator, m.Minus()):
        return is_constant(node.expression)
    if isinstance(node, cst.Name):
        return node.value in ("True", "False", "None")
    return isinstance(
        node,
        (cst.Integer, cst.Float, cst.Imaginary, cst.SimpleString, cst.Ellipsis),
    )
