"""How far a long command is, on a terminal; nothing anywhere else."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator
from typing import TypeVar

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
)

Each = TypeVar("Each")


def followed(
    results: Iterable[Each], names: Iterable[str], console: Console | None = None
) -> Iterator[Each]:
    """The results, one for each of ``names``, with a bar on standard error that says
    how many there are and which is waited for."""
    titles = list(names)
    console = console or Console(stderr=True)
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
    )
    shown = console.is_terminal and len(titles) > 1
    with Progress(
        *columns,
        console=console,
        transient=True,
        disable=not shown,
        # only what goes to the terminal may stand above the bar
        redirect_stdout=sys.stdout.isatty(),
        redirect_stderr=sys.stderr.isatty(),
    ) as progress:
        bar = progress.add_task(titles[0] if titles else "", total=len(titles))
        for done, result in enumerate(results, start=1):
            yield result
            waited = titles[done] if done < len(titles) else ""
            progress.update(bar, completed=done, description=waited, refresh=True)
