"""What holds after each pass: asserted in tests, listed beside the pass.

Each is a function from a body to the nodes that break it; where it finds none, the pass
kept its promise. They ask the text alone, so that a fault in what a pass believes shows.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator
from typing import TypeAlias

import libcst as cst

from codegen import optable
from codegen.analysis.liveness import liveness
from codegen.context import Context
from codegen.diagnostics import children, walk
from codegen.inplace import inplace_function, inplace_method, mutated_roots
from codegen.ir.loops import Loop
from codegen.layout import strings_inside_fstrings
from codegen.lower.conversions import short_float
from codegen.lower.facts import FALSE_SETTINGS
from codegen.lower.items import without_positions
from codegen.lower.literals import truth
from codegen.lower.names import WRITTEN, walks_group
from codegen.purity import iterators, pure, pure_functions
from codegen.rules.r3_indexed_state import KNOWN_ATTRIBUTES
from codegen.syntax import (
    Body,
    Statement,
    all_statements,
    assignment,
    bound_names,
    calls,
    code,
    dotted,
    index_of,
    is_name,
    keyword,
    positional,
    read_names,
    same,
    small,
    statements,
    string_key,
    sub_bodies,
    target_names,
)

Postcondition: TypeAlias = "Callable[[Body, Context], Iterator[cst.CSTNode]]"


class BrokenPostcondition(Exception):
    """A pass did not keep its promise: a fault of the compiler's own."""


def _nodes(body: Body) -> Iterator[cst.CSTNode]:
    return (node for statement in body for node in walk(statement))


def _outside_functions(node: cst.CSTNode) -> Iterator[cst.CSTNode]:
    """A node and what is in it, but for functions: what they are handed isn't known."""
    if not isinstance(node, (cst.Lambda, cst.FunctionDef)):
        yield node
        for child in children(node):
            yield from _outside_functions(child)


def _blocks(body: Body) -> Iterator[Body]:
    yield body
    for node in all_statements(body):
        yield from (statements(part) for part in sub_bodies(node))


# --- one function in upstream's terms


def dispatch_is_folded(body: Body, context: Context) -> Iterator[cst.CSTNode]:
    """No branch asks what is known, and nothing reads a setting that only chooses an
    implementation."""
    for node in (n for s in body for n in _outside_functions(s)):
        if isinstance(node, (cst.If, cst.IfExp)) and truth(node.test) is not None:
            yield node
        if isinstance(node, cst.Subscript) and string_key(node) in FALSE_SETTINGS:
            if is_name(node.value, "group") or dotted(node.value) == "self.defaults":
                yield node


def nothing_is_dead(body: Body, context: Context) -> Iterator[cst.CSTNode]:
    """Every variable that is assigned may be read, unless its value has an effect."""
    yield from _dead(body, ())


def no_call_is_dead(body: Body, context: Context) -> Iterator[cst.CSTNode]:
    """Every variable that is assigned may be read, unless its value has an effect: no
    helper of upstream's has one that draws nothing."""
    yield from _dead(body, pure_functions(context.sources()))


def _dead(body: Body, helpers: Collection[str]) -> Iterator[cst.CSTNode]:
    live, walked = liveness(body), iterators(body)
    # whether it raises may be what a statement in a ``try`` is there for
    tried = {
        inner
        for node in all_statements(body)
        if isinstance(node, cst.Try)
        for inner in all_statements([node])
    }
    for node in all_statements(body):
        pair = assignment(node)
        if node in tried or pair is None or not isinstance(pair[0], cst.Name):
            continue
        after = live.after.get(node)
        if after is not None and pair[0].value not in after:
            if pure(pair[1], helpers) and not read_names(pair[1]) & walked:
                yield node


def no_closure_is_read(body: Body, context: Context) -> Iterator[cst.CSTNode]:
    """No name ``closure`` is left."""
    yield from (n for n in _nodes(body) if is_name(n, "closure"))


def reserved_names_are_free(body: Body, context: Context) -> Iterator[cst.CSTNode]:
    """No variable is called like what the rules write."""
    for node in all_statements(body):
        if small(node) is not None and bound_names(node) & WRITTEN:
            yield node
        if isinstance(node, cst.For) and WRITTEN & set(target_names(node.target)):
            yield node.target


def casts_are_copies(body: Body, context: Context) -> Iterator[cst.CSTNode]:
    """Where casts to short floats are assumed to copy, each says so."""
    if context.assumes_casts_copy:
        yield from (n for n in _nodes(body) if short_float(n) is not None)


# --- one loop over the parameters of each group


def parallel_lists_are_gone(body: Body, context: Context) -> Iterator[cst.CSTNode]:
    """What a loop over parameters fills is walked, or read by the parameter's number,
    in no later loop of the same block, but for lists that are read as a whole."""
    for part in _blocks(body):
        filled: set[str] = set()
        for loop in (n for n in part if isinstance(n, cst.For)):
            walked = Loop.of(loop)
            sources = [i.source for i in walked.items]
            yield from (s for s in sources if is_name(s) and code(s) in filled)
            for node in walk(loop.body):
                if isinstance(node, cst.Subscript) and code(node.value) in filled:
                    index = index_of(node)
                    if walked.position is not None and index is not None:
                        if same(index, walked.position):
                            yield node
            if walks_group(loop.iter):
                filled |= {*_appended(loop)} - context.whole_lists


def _appended(node: cst.For) -> Iterator[str]:
    for call in calls(node.body):
        if isinstance(call.func, cst.Attribute) and call.func.attr.value == "append":
            if isinstance(call.func.value, cst.Name):
                yield call.func.value.value


# --- one spelling for each operation


def signatures_are_of_today(body: Body, context: Context) -> Iterator[cst.CSTNode]:
    """No number stands in front of the tensors (``x.add_(0.1, y)``), no ``nn.init``
    function is called, and ``out=`` is one tensor wherever that is a statement."""
    for call in (c for s in body for c in calls(s)):
        operation = optable.function(dotted(call.func) or "")
        if operation is not None and operation.means is not None and call.args:
            if call.args[0].keyword is None:
                yield call
        if _number_first(call):
            yield call
    for node in all_statements(body):
        inner = small(node)
        if isinstance(inner, cst.Expr) and isinstance(inner.value, cst.Call):
            if isinstance(keyword(inner.value, "out"), cst.Tuple):
                yield node


def _number_first(call: cst.Call) -> bool:
    func = call.func
    if not isinstance(func, cst.Attribute) or any(a.star for a in call.args):
        return False
    known = optable.method(func.attr.value)
    if known is None or sum(p.keyword_only and p.number for p in known.parameters) != 1:
        return False
    places = sum(not p.keyword_only for p in known.parameters)
    receiver = 0 if is_name(func.value, "torch") else 1
    return len(positional(call)) + receiver == places + 1


def items_are_not_mutated(body: Body, context: Context) -> Iterator[cst.CSTNode]:
    """No loop over one list (not over parameters) mutates its variable."""
    unlisted = without_positions(body)
    for node in all_statements(body):
        if not isinstance(node, cst.For) or not isinstance(node.iter, cst.Name):
            continue
        if node.iter.value in unlisted:
            continue
        if isinstance(node.target, cst.Name):
            if node.target.value in mutated_roots(node.body):
                yield node


def strings_are_double_quoted(body: Body, context: Context) -> Iterator[cst.CSTNode]:
    """Every string is in double quotes, unless it holds some, or a backslash."""
    for statement in body:
        inside = strings_inside_fstrings(statement)
        for node in walk(statement):
            if isinstance(node, cst.SimpleString) and node not in inside:
                if node.quote == "'" and not {'"', "\\"} & set(node.raw_value):
                    yield node


def groups_tell_their_defaults(body: Body, context: Context) -> Iterator[cst.CSTNode]:
    """A loop over the groups reads no setting of ``self.defaults``."""
    for loop in body:
        if isinstance(loop, cst.For) and "group" in target_names(loop.target):
            for node in walk(loop):
                if isinstance(node, cst.Subscript) and string_key(node) is not None:
                    if dotted(node.value) == "self.defaults":
                        yield node


def grad_is_free(body: Body, context: Context) -> Iterator[cst.CSTNode]:
    """Outside the loops over parameters nothing is called ``grad``."""
    for node in body:
        if isinstance(node, cst.For):
            if not walks_group(node.iter):
                yield from grad_is_free(statements(node.body), context)
        elif small(node) is not None:
            if "grad" in bound_names(node) | read_names(node):
                yield node


# --- the rules


def nothing_is_foreign(body: Body, context: Context) -> Iterator[cst.CSTNode]:
    """No call of ``torch.distributed`` or of autograd."""
    foreign = ("torch.distributed", "dist.", "torch.autograd.grad")
    for call in (c for s in body for c in calls(s)):
        if (dotted(call.func) or "").startswith(foreign):
            yield call


def nothing_is_returned(body: Body, context: Context) -> Iterator[cst.CSTNode]:
    """No ``return`` of the step's own has a value, and no name ``closure`` is left."""
    for node in all_statements(body):
        inner = small(node)
        if isinstance(inner, cst.Return) and inner.value is not None:
            yield node
    yield from no_closure_is_read(body, context)


def gradients_are_items(body: Body, context: Context) -> Iterator[cst.CSTNode]:
    """In a loop over parameters the gradient is an item of the loop beside them: no
    ``p.grad`` of its own parameter is read in it."""
    for node in all_statements(body):
        if isinstance(node, cst.For) and dotted(node.iter) == "self.param_groups":
            yield node
        if isinstance(node, cst.For) and code(node.target).startswith("p_idx, ("):
            item = Loop.of(node).items[0].target
            for inner in walk(node.body):
                if isinstance(inner, cst.Attribute) and inner.attr.value == "grad":
                    if same(inner.value, item):
                        yield inner


def state_is_indexed(body: Body, context: Context) -> Iterator[cst.CSTNode]:
    """``self.state`` is looked up by ``group_idx``, and what else the optimizer has of
    its own in ``self.shared``."""
    called = {c.func for s in body for c in calls(s)}
    for node in _nodes(body):
        if isinstance(node, cst.Subscript) and dotted(node.value) == "self.state":
            if not is_name(index_of(node), "group_idx"):
                yield node
        if isinstance(node, cst.Attribute) and is_name(node.value, "self"):
            if node.attr.value not in KNOWN_ATTRIBUTES and node not in called:
                yield node


def nothing_is_detached(body: Body, context: Context) -> Iterator[cst.CSTNode]:
    """No ``.detach()`` or ``.item()``, no block without gradients, and ``.data`` only
    where a parameter gets another memory."""
    stores = any(_is_data(t) for n in _nodes(body) for t in _targets(n))
    for node in _nodes(body):
        if isinstance(node, cst.Call) and isinstance(node.func, cst.Attribute):
            if node.func.attr.value in ("detach", "detach_"):
                yield node
            elif node.func.attr.value == "item" and not node.args:
                yield node
        elif isinstance(node, cst.With):
            if all((_called(i.item) or "").endswith("_grad") for i in node.items):
                yield node
        elif _is_data(node) and not stores:
            yield node


def _called(node: cst.CSTNode) -> str | None:
    return dotted(node.func) if isinstance(node, cst.Call) else None


def _targets(node: cst.CSTNode | None) -> list[cst.BaseExpression]:
    return [t.target for t in node.targets] if isinstance(node, cst.Assign) else []


def _is_data(node: cst.CSTNode) -> bool:
    return isinstance(node, cst.Attribute) and node.attr.value == "data"


def nothing_is_in_place(body: Body, context: Context) -> Iterator[cst.CSTNode]:
    """No operation of the table that writes into its first argument is called, and none
    has ``out=``."""
    for call in (c for s in body for c in calls(s)):
        if inplace_method(call) or inplace_function(call) or keyword(call, "out"):
            yield call


def no_data_is_left(body: Body, context: Context) -> Iterator[cst.CSTNode]:
    """What a parameter holds is stored to ``group["params"]``: no ``.data`` is left."""
    yield from (n for n in _nodes(body) if _is_data(n))


def calls_are_known(body: Body, context: Context) -> Iterator[cst.CSTNode]:
    """No setting is handed, as a group tells it, to an argument that takes plain
    numbers alone."""
    for call in (c for s in body for c in calls(s)):
        operation = optable.function(dotted(call.func) or "")
        receiver = None
        if operation is None and isinstance(call.func, cst.Attribute):
            receiver = call.func.value
            operation = optable.method(call.func.attr.value)
        if operation is None or operation.decides or operation.stable:
            continue
        if operation.name.startswith(("ops.", "builtins.", "container.")):
            continue
        for parameter, argument in operation.numbers(
            operation.bind(call.args, receiver) or {}
        ):
            if parameter.number and isinstance(argument, cst.Subscript):
                known = context.float_settings - context.discontinuous_at_zero
                if is_name(argument.value, "group") and string_key(argument) in known:
                    yield call


def roots_are_stable(body: Body, context: Context) -> Iterator[cst.CSTNode]:
    """No square root whose derivative is infinite at zero is called."""
    for call in (c for s in body for c in calls(s)):
        name = dotted(call.func) or ""
        bare = isinstance(call.func, cst.Attribute) and not call.args
        if name in ("torch.sqrt", "torch.rsqrt") and len(call.args) == 1:
            yield call
        elif bare and not name.startswith(("ops.", "math.", "torch.")):
            assert isinstance(call.func, cst.Attribute)
            if call.func.attr.value in ("sqrt", "rsqrt"):
                yield call


# --- as a person would write it


def no_store_is_overwritten_next(body: Body, context: Context) -> Iterator[cst.CSTNode]:
    """No two statements in a row store the parameter where the second only reads what the
    first gave a name."""
    for part in _blocks(body):
        for first, second in zip(part, part[1:]):
            if _stores_parameter(first) and _stores_parameter(second):
                value = cst.ensure_type(small(second), cst.Assign).value
                if read_names(value) <= bound_names(first) | {"torch", "ops"}:
                    yield first


_PARAMETER = 'group["params"]'


def _stores_parameter(node: Statement) -> bool:
    return any(code(t) == f"{_PARAMETER}[p_idx]" for t in _targets(small(node)))


def fstrings_are_of_every_python(body: Body, context: Context) -> Iterator[cst.CSTNode]:
    """Inside an f-string in double quotes no string is in double quotes, too."""
    for string in _nodes(body):
        if isinstance(string, cst.FormattedString) and string.end == '"':
            for node in walk(string):
                if isinstance(node, cst.SimpleString) and node.quote == '"':
                    if not {"'", "\\"} & set(node.raw_value):
                        yield node


def blocks_start_tight(body: Body, context: Context) -> Iterator[cst.CSTNode]:
    """No block begins with a blank line."""
    for part in _blocks(body):
        lines = part[0].leading_lines if part else ()
        if lines and lines[0].comment is None:
            yield part[0]
