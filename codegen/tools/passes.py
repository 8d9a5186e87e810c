"""The passes in the order in which they run, as CONTRIBUTING lists them.

Order, names and places are read from the two functions that call the passes; what each
does is its docstring and that of its module.

    python -m codegen.tools.passes          # print
    python -m codegen.tools.passes FILE     # renew the section of FILE
"""

from __future__ import annotations

import ast
import inspect
import itertools
import re
import sys
import textwrap
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

from codegen import lower, pipeline
from codegen.rules import RULES, Rule
from codegen.tools.sections import must_hold, renew

_SUBJECTS = {"Body", "Statement", "Lowered", "None"}
"""What a pass returns: code, or nothing where it only refuses."""
_RULE = "rule(context).apply"
_REFUSAL = "context.raise_if_refused"


def passes_text() -> str:
    """Markdown: a numbered list, each pass with its place and its before and after.

    A module is described where its first pass stands. Where the compiler stops with all
    that was refused so far, the list says so: what comes after relies on it.
    """
    seen: set[str] = set()
    lines, number = [], 0
    for found, _ in itertools.groupby(_all_passes()):
        if found is None:
            lines.append(_STOP)
        else:
            number += 1
            lines.append(f"{number}. {_entry(found, seen)}")
    return "\n".join(lines)


_STOP = (
    "\n    *What was refused so far is told here; what follows relies on the rest.*\n"
)


def _entry(found: Any, seen: set[str]) -> str:
    module = sys.modules[found.__module__]
    entry = f"`{found.__name__}` (`{_place(module)}`)"
    if inspect.isclass(found) and issubclass(found, Rule):
        entry = f"{found.name}, {entry}"
    summary = " ".join((inspect.getdoc(found) or "").partition("\n\n")[0].split())
    if summary:
        entry += ": " + re.sub(r":\w+:(?=`)", "", summary).replace("``", "`")
    head, _, details = (inspect.getdoc(module) or "").partition("\n")
    if module.__name__ in seen or not details.strip():
        return entry
    seen.add(module.__name__)
    text = textwrap.dedent(details.strip("\n"))
    return f"{entry}\n\n" + textwrap.indent(f"```text\n{text}\n```\n", "    ")


def _place(module: ModuleType) -> str:
    file = Path(module.__file__ or "")
    return file.relative_to(Path(pipeline.__file__).parent.parent).as_posix()


def _all_passes() -> Iterator[Any]:
    """Functions and classes; None where the compiler stops if anything was refused."""
    for found in _passes_of(pipeline.run):
        if found is lower.lower:
            yield from _passes_of(lower.lower)
        else:
            yield found


def _passes_of(function: Callable[..., Any]) -> Iterator[Any]:
    names = vars(sys.modules[function.__module__])
    for call in _calls(ast.parse(textwrap.dedent(inspect.getsource(function)))):
        word = ast.unparse(call)
        if word == _RULE:
            yield from RULES
        elif word == _REFUSAL:
            yield None
        elif (found := _resolved(call, names)) is not None:
            yield found


def _calls(node: ast.AST) -> Iterator[ast.expr]:
    """What is called, in the order in which Python evaluates it."""
    for child in ast.iter_child_nodes(node):
        yield from _calls(child)
    if isinstance(node, ast.Call):
        yield node.func


def _resolved(call: ast.expr, names: dict[str, Any]) -> Any:
    """The pass that is called; None for all else."""
    if isinstance(call, ast.Attribute) and isinstance(call.value, ast.Call):
        # Walker(…).method(body): the class is the pass
        call = call.value.func
        returned = "Body"
    elif isinstance(call, ast.Attribute) and isinstance(call.value, ast.Name):
        module = names.get(call.value.id)
        names = vars(module) if isinstance(module, ModuleType) else {}
        call, returned = ast.Name(call.attr), None
    else:
        returned = None
    found = names.get(call.id) if isinstance(call, ast.Name) else None
    if not getattr(found, "__module__", "").startswith("codegen."):
        return None
    if inspect.isfunction(found):
        returned = found.__annotations__.get("return")
    return found if returned in _SUBJECTS else None


def main() -> None:
    """Print the list, or renew the section ``passes`` of a document."""
    if len(sys.argv) > 1:
        must_hold(Path(sys.argv[1]), "passes")
        renew(Path(sys.argv[1]), "passes", passes_text())
    else:
        print(passes_text())


if __name__ == "__main__":
    main()
