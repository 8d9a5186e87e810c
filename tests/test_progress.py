"""Long commands say how far they are, on a terminal alone."""

from __future__ import annotations

import io

from rich.console import Console

from codegen.tools.progress import followed


def shown(terminal: bool) -> str:
    told = io.StringIO()
    console = Console(file=told, force_terminal=terminal, width=80)
    assert list(followed(iter("ab"), ["one.A", "one.B"], console)) == ["a", "b"]
    return told.getvalue()


def test_a_terminal_shows_a_bar() -> None:
    bar = shown(terminal=True)
    assert "2/2" in bar
    assert "one.B" in bar


def test_a_pipe_shows_nothing() -> None:
    assert shown(terminal=False).strip() == ""


def test_results_are_handed_on_as_they_come() -> None:
    taken: list[int] = []
    results = (taken.append(n) or n for n in range(3))  # type: ignore[func-returns-value]
    first = next(iter(followed(results, ["a", "b", "c"], Console(file=io.StringIO()))))
    assert (first, taken) == (0, [0])
