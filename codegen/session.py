"""The source of a class that was typed into a notebook or a console.

Its definition is found through ``linecache``, where sessions keep what was run, under
the file name of its code. What it uses may have come from any cell, and been defined
anew since: it is told from what the names mean now.

# cell 1                        # what is compiled, beside the lines of cell 3
import torch                    import torch
EPS = 1e-8                      EPS = 1e-08
# cell 2
def damp(x): ...                def damp(x): ...
# cell 3
class Mine(Optimizer): ...      class Mine(Optimizer): ...
"""

from __future__ import annotations

import ast
import inspect
import linecache
import sys
import types
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from codegen.diagnostics import misuse


def file_of(cls: type) -> str | None:
    """Where the functions of a class were compiled: a file, or a session's name for a
    cell; None for a class without any."""
    own = f"{cls.__qualname__}."  # torch puts a base's step into a class that has none
    functions = filter(None, map(_function, vars(cls).values()))
    return next(
        (f.__code__.co_filename for f in functions if f.__qualname__.startswith(own)),
        None,
    )


def source_of(cls: type) -> str | None:
    """The text of a module that has the class, on the lines of its cell, and what it
    uses; None where no session kept it."""
    chunk = _chunk_with(cls)
    if chunk is None:
        return None
    text, node = chunk
    _must_be_current(cls, node)
    first, last = _span(node)
    lines = text.splitlines()
    shown = [line if first <= i <= last else "" for i, line in enumerate(lines, 1)]
    return "\n".join([*shown, *_used(node, cls.__module__, {cls.__name__}), ""])


# --- cells -------------------------------------------------------------------------


def _chunk_with(thing: Any) -> tuple[str, ast.stmt] | None:
    """The text of the cell that defines a function or class, and the statement."""
    name = thing.__name__
    function = _function(thing)
    file = function.__code__.co_filename if function else file_of(thing)
    for each in [file] if file else _session_files():
        text = "".join(linecache.getlines(each))
        try:
            body = ast.parse(text).body
        except (SyntaxError, ValueError):
            continue
        for node in reversed(body):
            if isinstance(node, (ast.ClassDef, ast.FunctionDef)) and node.name == name:
                return text, node
    return None


def _session_files() -> list[str]:
    """Cells, the latest first."""
    return [f for f in reversed(list(linecache.cache)) if not Path(f).is_file()]


def _span(node: ast.stmt) -> tuple[int, int]:
    """First and last line of a definition, decorators included."""
    decorators = getattr(node, "decorator_list", [])
    first = min(n.lineno for n in [node, *decorators])
    return first, node.end_lineno or node.lineno


def _function(value: Any) -> types.FunctionType | None:
    """A function, whatever decorates it; None for anything else."""
    if isinstance(value, (staticmethod, classmethod)):
        value = value.__func__
    value = value.fget if isinstance(value, property) else value
    try:
        found = inspect.unwrap(value)
    except ValueError:  # wrapped in itself
        return None
    return found if isinstance(found, types.FunctionType) else None


# --- what is used ------------------------------------------------------------------


def _used(node: ast.stmt, session: str, known: set[str]) -> Iterator[str]:
    """Statements that bind the names that ``node`` reads, as they are bound now."""
    names = {n.id for n in ast.walk(node) if isinstance(n, ast.Name)} - known
    known |= names
    present = vars(sys.modules[session])
    for name in sorted(names & present.keys()):
        yield from _binding(name, present[name], session, known)


def _binding(name: str, value: Any, session: str, known: set[str]) -> Iterator[str]:
    """How ``name`` comes to mean ``value``; nothing where that can't be told."""
    if isinstance(value, types.ModuleType):
        yield f"import {value.__name__} as {name}"
    elif _is_constant(value):
        yield f"{name} = {value!r}"
    elif getattr(value, "__module__", None) == session:
        yield from _definition(name, value, session, known)
    elif home := _home(value):
        yield f"from {home} import {value.__name__} as {name}"


def _definition(name: str, value: Any, session: str, known: set[str]) -> Iterator[str]:
    """A function or class of the session's own, and what it uses in turn."""
    plain = isinstance(value, type) or _function(value) is not None
    chunk = _chunk_with(value) if plain else None
    if chunk is None:
        return
    text, node = chunk
    _must_be_current(value, node)
    first, last = _span(node)
    yield from _used(node, session, known | {value.__name__})
    yield from text.splitlines()[first - 1 : last]
    if value.__name__ != name:
        yield f"{name} = {value.__name__}"


# --- what was evaluated when it was defined ------------------------------------------


def _must_be_current(thing: Any, node: ast.stmt) -> None:
    """Refuse what was defined with values that its cell would no longer find.

    Bases, defaults of arguments and attributes of a class are what they were then.
    """
    present = vars(sys.modules[thing.__module__])
    for expression, then in _evaluated(thing, node):
        names = {n.id for n in ast.walk(expression) if isinstance(n, ast.Name)}
        if names & present.keys() and not _still(expression, then, present):
            raise misuse(
                f"{thing.__name__} was defined with another {ast.unparse(expression)} "
                "than that is now",
                f"run the cell that defines {thing.__name__} again",
            )


def _evaluated(thing: Any, node: ast.stmt) -> Iterator[tuple[ast.expr, Any]]:
    """Expressions that a definition evaluated, and to what."""
    function = _function(thing)
    if isinstance(node, ast.FunctionDef) and function is not None:
        arguments = node.args
        yield from zip(arguments.defaults, function.__defaults__ or ())
        named = function.__kwdefaults__ or {}
        for argument, default in zip(arguments.kwonlyargs, arguments.kw_defaults):
            if default is not None:
                yield default, named.get(argument.arg)
    if isinstance(node, ast.ClassDef):
        yield from zip(node.bases, thing.__bases__)
        for inner in node.body:
            if isinstance(inner, ast.FunctionDef):
                yield from _evaluated(vars(thing).get(inner.name), inner)
            elif isinstance(inner, ast.Assign) and isinstance(
                inner.targets[0], ast.Name
            ):
                yield inner.value, vars(thing).get(inner.targets[0].id)


_READING = (ast.Name, ast.Constant, ast.Attribute, ast.Tuple, ast.BinOp, ast.UnaryOp)
_INSIDE = (ast.expr_context, ast.operator, ast.unaryop)


def _still(expression: ast.expr, then: Any, present: dict[str, Any]) -> bool:
    """Whether an expression that does nothing but read has the value that it had."""
    if not all(isinstance(n, (*_READING, *_INSIDE)) for n in ast.walk(expression)):
        return False
    try:
        now = eval(compile(ast.Expression(expression), "<session>", "eval"), present)
    except Exception:
        return False
    return now is then or (_is_constant(now) and _is_constant(then) and now == then)


def _is_constant(value: Any) -> bool:
    if isinstance(value, tuple):
        return all(map(_is_constant, value))
    if isinstance(value, float):
        return value - value == 0  # neither inf nor nan, which have no literal
    return value is None or isinstance(value, (bool, int, str))


def _home(value: Any) -> str | None:
    """A module from which it can be imported by its own name."""
    name = getattr(value, "__name__", None)
    for home in (getattr(value, "__module__", None), "torch"):
        if name and vars(sys.modules.get(home or "", object)).get(name) is value:
            return home
    return None
