"""The passes in the order in which they run, as CONTRIBUTING lists them.

The list is ``pipeline.PASSES``, with its reasons and postconditions; what each pass does
is its docstring and that of its module.

    python -m codegen.tools.passes          # print
    python -m codegen.tools.passes FILE     # renew the section of FILE
"""

from __future__ import annotations

import inspect
import re
import sys
import textwrap
from pathlib import Path
from types import ModuleType

from codegen.pipeline import PASSES, Pass
from codegen.rules.base import Rule
from codegen.tools.sections import must_hold, renew

_ROOT = Path(__file__).parent.parent.parent
_STOP = (
    "\n    *What was refused so far is told here; what follows relies on the rest.*\n"
)


def passes_text() -> str:
    """Markdown: a numbered list, each pass with its place and its before and after.

    A module is described where its first pass stands. Where the compiler stops with all
    that was refused so far, the list says so: what comes after relies on it.
    """
    seen: set[str] = set()
    lines: list[str] = []
    for number, each in enumerate(PASSES, 1):
        lines.append(f"{number}. {_entry(each, seen)}")
        if each.stops:
            lines.append(_STOP)
    return "\n".join(lines)


def _entry(each: Pass, seen: set[str]) -> str:
    found = each.transform
    module = sys.modules[found.__module__]
    entry = f"`{each.name}` (`{_place(module)}`)"
    if isinstance(found, type) and issubclass(found, Rule):
        entry = f"{found.name}, {entry}"
    first = each.name not in seen
    seen.add(each.name)
    if not first:
        return f"{entry}, again"
    summary = _plain((inspect.getdoc(found) or "").partition("\n\n")[0])
    lines = [f"{entry}: {summary}", "", f"    *Why here:* {each.why}."]
    if each.after is not None:
        held = _plain(inspect.getdoc(each.after) or "")
        lines += ["", f"    *Afterwards* (`{each.after.__name__}`): {held}"]
    head, _, details = (inspect.getdoc(module) or "").partition("\n")
    if module.__name__ not in seen and details.strip():
        seen.add(module.__name__)
        text = textwrap.dedent(details.strip("\n"))
        lines += ["", textwrap.indent(f"```text\n{text}\n```", "    ")]
    return "\n".join(lines) + "\n"


def _plain(text: str) -> str:
    """Prose in one line, its code as Markdown has it."""
    return re.sub(r":\w+:(?=`)", "", " ".join(text.split())).replace("``", "`")


def _place(module: ModuleType) -> str:
    return Path(module.__file__ or "").relative_to(_ROOT).as_posix()


def main() -> None:
    """Print the list, or renew the section ``passes`` of a document."""
    if len(sys.argv) > 1:
        must_hold(Path(sys.argv[1]), "passes")
        renew(Path(sys.argv[1]), "passes", passes_text())
    else:
        print(passes_text())


if __name__ == "__main__":
    main()
