"""``python -m tests.fuzz --programs 2000 --seed 0``: every program and its outcome.

Failing ones are made smaller, and shown with how they fail. Exits with 1 if there is
one, or if too many are refused.
"""

from __future__ import annotations

import argparse
import collections
import json
import os
import re
import sys
import tempfile
import time
import warnings
from pathlib import Path

import torch

from .grammar import numbered
from .holding import Held, Outcome, hold
from .shrink import smaller

MOST_REFUSED = 0.25


def main() -> int:
    parser = argparse.ArgumentParser(prog="tests.fuzz", description=__doc__)
    parser.add_argument("--programs", type=int, default=2000)
    parser.add_argument("--first", type=int, default=0, help="number of the first")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--show", type=int, help="print the program of that number")
    parser.add_argument("--keep", type=Path, help="outcomes as JSON lines")
    parser.add_argument("--no-shrink", action="store_true")
    given = parser.parse_args()
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    if given.show is not None:
        program = numbered(given.seed, given.show)
        print(program.source)
        with tempfile.TemporaryDirectory() as folder:
            print(hold(program, Path(folder)))
        return 0
    started = time.process_time()
    counts: collections.Counter[Outcome] = collections.Counter()
    refusals: collections.Counter[str] = collections.Counter()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for number in range(given.first, given.first + given.programs):
            program = numbered(given.seed, number)
            held = hold(program, folder)
            counts[held.outcome] += 1
            keep(given.keep, number, held)
            if held.outcome is Outcome.REFUSED:
                refusals[general(held.message)] += 1
            if held.outcome is Outcome.WRONG:
                if not given.no_shrink:
                    program, held = smaller(program, held, folder)
                print(f"--- {number}: {held.message}\n" + "\n".join(program.lines))
                sys.stdout.flush()
    for message, count in refusals.most_common(25):
        print(f"{count:5}  {message}")
    told = sum(counts.values()) - counts[Outcome.VOID]
    share = counts[Outcome.REFUSED] / max(told, 1)
    figures = ", ".join(f"{o.value} {counts[o]}" for o in Outcome)
    seconds = time.process_time() - started
    print(f"{figures}; refused {share:.1%}; {seconds:.0f} CPU-s; pid {os.getpid()}")
    return int(counts[Outcome.WRONG] > 0 or share > MOST_REFUSED)


def general(message: str) -> str:
    """A refusal's message without the names in it."""
    rule, _, text = message.partition(": ")
    text = text.rpartition(": ")[0]
    return f"{rule}: " + re.sub(r"`[^`]*`|'[^']*'", "…", text)


def keep(path: Path | None, number: int, held: Held) -> None:
    if path is not None:
        with path.open("a") as file:
            entry = [number, held.outcome.name, held.message]
            file.write(json.dumps(entry) + "\n")


if __name__ == "__main__":
    sys.exit(main())
