"""What a function does, by its syntax: whether its calls must be seen through."""

from __future__ import annotations

from typing import cast

import libcst as cst

from codegen.diagnostics import walk
from codegen.lower.blocks import without_docstring
from codegen.syntax import (
    all_params,
    all_statements,
    assignment,
    calls,
    dotted,
    small,
    statements,
    string_key,
)
from codegen.upstream import Definition


def is_torchs(found: Definition) -> bool:
    return found.module.name.partition(".")[0] == "torch"


def calls_through(decorator: cst.FunctionDef) -> bool:
    """Whether a decorator's function hands its arguments to what it decorates, as they
    are and once, does nothing else with them, and hands out what that returns."""
    inner = [n for n in statements(decorator.body) if isinstance(n, cst.FunctionDef)]
    params = [p.name.value for p in all_params(decorator.params)]
    if len(inner) != 1 or len(params) != 1:
        return False
    (wrapper,) = inner
    made = [n for n in calls(wrapper.body) if dotted(n.func) == params[0]]
    repeats = any(
        isinstance(n, (cst.For, cst.While, cst.If, cst.IfExp, cst.Try, cst.Lambda))
        for n in walk(wrapper.body)
    )
    if len(made) != 1 or repeats or not _hands_out(wrapper, made[0]):
        return False
    last = small(statements(decorator.body)[-1])
    if not isinstance(last, cst.Return) or dotted(last.value) != wrapper.name.value:
        return False
    contexts = [n.item for n in walk(wrapper.body) if isinstance(n, cst.WithItem)]
    if not all(isinstance(c, cst.Call) and dotted(c.func) in _QUIET for c in contexts):
        return False
    own = [p.name.value for p in all_params(wrapper.params)]
    handed = [n.value for n in made[0].args]
    if [dotted(value) for value in handed] != own:
        return False
    read = [n for n in walk(wrapper.body) if isinstance(n, cst.Name) and n.value in own]
    return all(any(n is value for value in handed) for n in read)


_QUIET = frozenset(
    "torch.no_grad torch.enable_grad torch.profiler.record_function".split()
)


def _hands_out(wrapper: cst.FunctionDef, made: cst.Call) -> bool:
    """Whether a function returns what a call in it returned, and leaves it alone."""
    returned = [n.value for n in walk(wrapper.body) if isinstance(n, cst.Return)]
    if len(returned) != 1:
        return False
    (value,) = returned
    if value is made:
        return True
    if not isinstance(value, cst.Name):
        return False
    named = [n for n in walk(wrapper.body) if dotted(n) == value.value]
    stored = [n for n in walk(wrapper.body) if assignment(n) is not None]
    pairs = [p for n in stored if (p := assignment(n)) is not None]
    return len(named) == 2 and any(
        dotted(target) == value.value and given is made for target, given in pairs
    )


def is_of_numbers(node: cst.FunctionDef) -> bool:
    """Whether a function takes whole numbers and words, by its annotations, and hands
    out no tensor or container: a memo of it can't be told from it."""
    params = all_params(node.params)
    kinds = [p.annotation and dotted(p.annotation.annotation) for p in params]
    returned = node.returns and dotted(node.returns.annotation)
    return (
        all(kind in ("int", "str", "bool") for kind in kinds)
        and returned in ("int", "str", "bool", "float")
        and not node.params.star_kwarg
        and not isinstance(node.params.star_arg, cst.Param)
    )


def calls_argument(definition: Definition) -> bool:
    """Whether a function calls one of its arguments: which shows at its own call."""
    node = cast(cst.FunctionDef, definition.node)
    params = {p.name.value for p in all_params(node.params)}
    return any(dotted(n.func) in params for n in calls(node.body))


def walks_parameters(definition: Definition) -> bool:
    """Whether a function reads gradients, or a group's parameters, by itself."""
    return any(
        isinstance(n, cst.Attribute)
        and n.attr.value == "grad"
        or string_key(n) == "params"
        for n in walk(cast(cst.FunctionDef, definition.node).body)
    )


def returns_parts(definition: Definition) -> bool:
    """Whether a function hands arguments back in a tuple: their aliases must be seen."""
    node = cast(cst.FunctionDef, definition.node)
    params = {p.name.value for p in all_params(node.params)}
    for inner in all_statements(statements(node.body)):
        returned = small(inner)
        if isinstance(returned, cst.Return) and isinstance(returned.value, cst.Tuple):
            for element in returned.value.elements:
                if (
                    isinstance(element.value, cst.Name)
                    and element.value.value in params
                ):
                    return True
    return False


def is_property(node: cst.FunctionDef) -> bool:
    """Whether a method runs where it is read; a cached one is kept, and carried."""
    return any(dotted(d.decorator) == "property" for d in node.decorators)


def only_return(definition: Definition) -> cst.BaseExpression | None:
    """What a function returns, where that is all it does."""
    body = statements(without_docstring(cast(cst.FunctionDef, definition.node).body))
    returned = small(body[0]) if len(body) == 1 else None
    return returned.value if isinstance(returned, cst.Return) else None


def is_classmethod(node: cst.FunctionDef) -> bool:
    return any(dotted(d.decorator) == "classmethod" for d in node.decorators)
