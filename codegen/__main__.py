"""``python -m codegen``: exit codes 0 done, 1 drift or wrong, 2 refused or misused."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from codegen import console
from codegen.arguments import parse
from codegen.extra import MissingExtra, require

if TYPE_CHECKING:  # --help is quick: what it takes to translate is imported later
    from codegen.source_tree import SourceTree


def main(argv: Sequence[str] | None = None, prog: str = "python -m codegen") -> int:
    """Run one command; returns its exit code."""
    console.spell_out()
    arguments = parse(argv, prog)
    try:
        require()
        status = _guarded(arguments)
        sys.stdout.flush()
        return status
    except MissingExtra as error:
        print(error, file=sys.stderr)
        return 2
    except BrokenPipeError:
        return console.give_up()
    except KeyboardInterrupt as error:
        return console.interrupted(error)


def _guarded(arguments: argparse.Namespace) -> int:
    from codegen.diagnostics import CodegenError

    try:
        return _run(arguments)
    except CodegenError as error:
        print(error, file=sys.stderr)
        return 2


def _run(arguments: argparse.Namespace) -> int:
    from codegen import commands
    from codegen.source_tree import unpacked

    if arguments.command == "rules":
        return commands.rules(arguments.output)
    if arguments.command == "verify":
        return commands.verify(arguments.targets, arguments.output)
    if arguments.command == "survey":
        verified = not arguments.no_verify
        return commands.survey(arguments.targets, arguments.output, verified)
    if arguments.command == "drift":
        return commands.versions(arguments.targets, arguments.output)
    if arguments.source is None:
        return _run_on(arguments, None)
    with unpacked(arguments.source) as tree:
        return _run_on(arguments, tree)


def _run_on(arguments: argparse.Namespace, tree: SourceTree | None) -> int:
    """The commands that read optimizers: those installed, or those of ``tree``."""
    from codegen import commands
    from codegen.diagnostics import misuse

    targets: list[str] = arguments.targets
    if arguments.command == "check":
        return commands.check(targets, tree)
    if arguments.command == "list":
        return commands.list_all(tree)
    if arguments.command == "all":
        return commands.generate_all(verify=not arguments.no_verify, tree=tree)
    if not targets:
        raise misuse(
            "no optimizer named", "python -m codegen torch.optim.NAdam; see --help"
        )
    if arguments.output is not None and len(targets) > 1:
        raise misuse("-o takes one optimizer", "name one, or leave -o out")
    if arguments.command == "explain":
        form = arguments.form or "text"
        return commands.explain(targets, form, arguments.output, tree)
    for target in targets:
        output = arguments.output
        commands.generate(
            target,
            None if output is None else Path(output),
            verify=not arguments.no_verify,
            force=arguments.force,
            jumps=frozenset(filter(None, arguments.jumps.split(","))),
            tree=tree,
        )
    return 0


if __name__ == "__main__":
    console.leave(main())
