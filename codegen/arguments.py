"""The command line's words: commands, and the flags that stand for them, too."""

from __future__ import annotations

import argparse
import importlib.metadata
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple


class Command(NamedTuple):
    """What a command does, which options it takes, and how many of which targets."""

    text: str
    options: str = ""
    how_many: str | None = None
    metavar: str = "TARGET"
    targets: str = "torch.optim.NAdam, mypkg.optim.MyOpt or FILE.py:MyOpt"


COMMANDS = {
    "compile": Command(
        "translate optimizers, verify them against the originals, write them",
        "output source no-verify force jumps",
        "+",
    ),
    "explain": Command(
        "show upstream's lines beside the generated ones", "html output source", "+"
    ),
    "check": Command(
        "compare generated files with what would be written now",
        "source",
        "*",
        "FILE",
        "generated files; without any: all of generated/, in a checkout",
    ),
    "all": Command(
        "compile every optimizer of torch.optim into generated/, in a checkout",
        "source no-verify",
    ),
    "list": Command(
        "name every optimizer of torch.optim, and whether its file is current",
        "source",
    ),
    "verify": Command(
        "run the compiled optimizers of torch.optim against their originals",
        "document",
        "*",
        targets="torch.optim.NAdam; without any: all",
    ),
    "survey": Command(
        "try every optimizer of packages: compiled, or refused where and why",
        "document no-verify",
        "+",
        "PACKAGE",
        "torch.optim, mypkg",
    ),
    "drift": Command(
        "compare what versions of torch translate to",
        "document",
        "+",
        "PATH",
        "torch's source trees, wheels or sdists",
    ),
    "rules": Command("print the conversion rules", "document"),
}

_OUTPUT = {"flags": ("-o", "--output"), "metavar": "FILE"}
_OPTIONS: dict[str, dict[str, Any]] = {
    "output": _OUTPUT | {"help": "where to write; - prints"},
    "document": _OUTPUT | {"help": "a document whose section is renewed; - prints"},
    "source": {
        "flags": ("--source",),
        "metavar": "PATH",
        "help": "read the original's package there, in place of the installed one: an "
        "unpacked tree, a wheel or an sdist, of which nothing is imported",
    },
    "no-verify": {
        "flags": ("--no-verify",),
        "action": "store_true",
        "help": "skip verification",
    },
    "force": {
        "flags": ("--force",),
        "action": "store_true",
        "help": "overwrite a file of another make",
    },
    "jumps": {
        "flags": ("--jumps",),
        "metavar": "SETTINGS",
        "help": "settings at whose zero the update jumps (verification finds them)",
    },
    "html": {
        "flags": ("--html",),
        "dest": "form",
        "action": "store_const",
        "const": "html",
        "help": "write a page, not text",
    },
}
_DEFAULTS: dict[str, Any] = {
    "command": "compile",
    "targets": [],
    "output": None,
    "source": None,
    "no_verify": False,
    "force": False,
    "jumps": "",
    "form": None,
}

_EPILOG = """\
commands (each but compile is a flag, too: --check FILE; without any, targets are compiled):
{commands}

examples:
  {prog} torch.optim.NAdam -o -                    print what NAdam translates to
  {prog} mypkg.optim.MyOpt -o diff_myopt.py        write a module to keep and import
  {prog} 'my experiments/opt.py:MyOpt' -o diff_myopt.py
  {prog} explain torch.optim.Adam
  {prog} check diff_myopt.py
  {prog} COMMAND --help                            what a command takes

exit codes:
  0    done; what was compared is current, what was run is right
  1    drift, or wrong
  2    refused or misused; the message says where, why and what to do
  130  interrupted
"""


def parse(argv: Sequence[str] | None, prog: str) -> argparse.Namespace:
    """What is asked for, ``command`` among it; exits where the words make no sense."""
    words = _explained(sys.argv[1:] if argv is None else argv)
    found = argparse.Namespace(**_DEFAULTS)
    if words and words[0] in COMMANDS:
        found.command = words[0]
        return _parser_of(words[0], prog).parse_args(words[1:], found)
    return _parser_of_flags(prog).parse_args(words, found)


def _explained(argv: Sequence[str]) -> list[str]:
    """``--explain TARGET`` as ``--explain=text TARGET``: a flag's word is its form."""
    words = list(argv)
    for at, word in enumerate(words[:-1]):
        after = words[at + 1]
        if word == "--explain" and after not in ("text", "html") and after[0:1] != "-":
            words[at] = "--explain=text"
    return words


def _parser_of(name: str, prog: str) -> argparse.ArgumentParser:
    command = COMMANDS[name]
    parser = argparse.ArgumentParser(
        prog=f"{prog} {name}", description=f"{command.text.capitalize()}."
    )
    if command.how_many is not None:
        parser.add_argument(
            "targets",
            nargs=command.how_many,
            metavar=command.metavar,
            help=command.targets,
        )
    _add(parser, command.options)
    return parser


def _parser_of_flags(prog: str) -> argparse.ArgumentParser:
    """Everything in one, commands as flags."""
    listed = "\n".join(f"  {name:<8} {c.text}" for name, c in COMMANDS.items())
    parser = argparse.ArgumentParser(
        prog=prog,
        usage=f"{prog} [COMMAND] [TARGET...] [options]",
        description="Compile optimizers into differentiable, out-of-place classes.",
        epilog=_EPILOG.format(commands=listed, prog=prog),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "targets", nargs="*", metavar="TARGET", help=COMMANDS["compile"].targets
    )
    _add(parser, COMMANDS["compile"].options)
    parser.add_argument("--version", action="version", version=_version())
    modes = parser.add_mutually_exclusive_group()
    for name in COMMANDS.keys() - {"compile", "explain"}:
        modes.add_argument(
            f"--{name}",
            dest="command",
            action="store_const",
            const=name,
            help=argparse.SUPPRESS,
        )
    modes.add_argument(
        "--explain", action=_Explain, dest="form", nargs="?", help=argparse.SUPPRESS
    )
    return parser


class _Explain(argparse.Action):
    """``--explain`` or ``--explain=html``."""

    def __call__(
        self,
        parser: argparse.ArgumentParser,
        namespace: argparse.Namespace,
        values: Any,
        option_string: str | None = None,
    ) -> None:
        if values not in (None, "text", "html"):
            parser.error(f"--explain={values}: text and html are what there is")
        namespace.command = "explain"
        namespace.form = values


def _add(parser: argparse.ArgumentParser, options: str) -> None:
    for name in options.split():
        details = dict(_OPTIONS[name])
        parser.add_argument(*details.pop("flags"), default=argparse.SUPPRESS, **details)


def _version() -> str:
    """What is running, and where it lies."""
    own, torch = (_installed(name) for name in ("higher-codegen", "torch"))
    return f"higher-codegen {own} ({Path(__file__).resolve().parent}), torch {torch}"


def _installed(distribution: str) -> str:
    try:
        return importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError:
        return "not installed"
