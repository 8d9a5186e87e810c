"""``python -m codegen``: exit codes 0 done, 1 drift or wrong, 2 refused or misused."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from codegen.diagnostics import CodegenError, misuse
from codegen.source_tree import SourceTree, unpacked


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; returns its exit code."""
    arguments = _parser().parse_args(argv)
    try:
        return _run(arguments)
    except CodegenError as error:
        print(error, file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("interrupted: nothing was written", file=sys.stderr)
        return 130


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m codegen",
        description="Compile optimizers into differentiable, out-of-place classes.",
    )
    parser.add_argument(
        "targets",
        nargs="*",
        metavar="TARGET",
        help="torch.optim.NAdam, mypkg.optim.MyOpt or FILE.py:MyOpt "
        "(with --check: generated files)",
    )
    parser.add_argument(
        "-o",
        "--output",
        metavar="FILE",
        help="where to write; - prints (with --rules and --verify: a document whose "
        "section is renewed)",
    )
    parser.add_argument(
        "--source",
        metavar="PATH",
        help="read the original's package there, in place of the installed one: an "
        "unpacked tree, a wheel or an sdist, of which nothing is imported",
    )
    parser.add_argument("--no-verify", action="store_true", help="skip verification")
    parser.add_argument(
        "--force", action="store_true", help="overwrite a file of another make"
    )
    parser.add_argument(
        "--jumps",
        metavar="SETTINGS",
        default="",
        help="settings at whose zero the update jumps (verification finds them)",
    )
    mode = parser.add_mutually_exclusive_group()
    mode.add_argument(
        "--all", action="store_true", help="every optimizer of torch.optim"
    )
    mode.add_argument("--check", action="store_true", help="compare, write nothing")
    mode.add_argument(
        "--drift",
        action="store_true",
        help="compare what versions of torch translate to: targets are source trees, "
        "wheels or sdists (with -o: a document whose section is renewed)",
    )
    mode.add_argument(
        "--list", action="store_true", help="every optimizer and its state"
    )
    mode.add_argument("--rules", action="store_true", help="print the conversion rules")
    mode.add_argument("--verify", action="store_true", help="run against the originals")
    mode.add_argument(
        "--survey",
        action="store_true",
        help="every optimizer of the packages that are named: compiled, or refused "
        "where and why (with -o: a document whose section is renewed)",
    )
    mode.add_argument(
        "--explain",
        nargs="?",
        const="text",
        choices=("text", "html"),
        help="show upstream's lines beside the generated ones",
    )
    return parser


def _run(arguments: argparse.Namespace) -> int:
    from codegen import commands

    if arguments.rules:
        return commands.rules(arguments.output)
    if arguments.verify:
        return commands.verify(arguments.targets, arguments.output)
    if arguments.survey:
        verified = not arguments.no_verify
        return commands.survey(arguments.targets, arguments.output, verified)
    if arguments.drift:
        return commands.versions(arguments.targets, arguments.output)
    if arguments.source is None:
        return _run_on(arguments, None)
    with unpacked(arguments.source) as tree:
        return _run_on(arguments, tree)


def _run_on(arguments: argparse.Namespace, tree: SourceTree | None) -> int:
    """The commands that read optimizers: those installed, or those of ``tree``."""
    from codegen import commands

    targets: list[str] = arguments.targets
    if arguments.check:
        return commands.check(targets, tree)
    if arguments.list:
        return commands.list_all(tree)
    if arguments.all:
        return commands.generate_all(verify=not arguments.no_verify, tree=tree)
    if not targets:
        raise misuse(
            "no optimizer named", "python -m codegen torch.optim.NAdam; see --help"
        )
    if arguments.output is not None and len(targets) > 1:
        raise misuse("-o takes one optimizer", "name one, or leave -o out")
    if arguments.explain:
        return commands.explain(targets, arguments.explain, arguments.output, tree)
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
    sys.exit(main())
