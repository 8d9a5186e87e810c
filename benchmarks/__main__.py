"""Meta-gradients side by side: time and memory of each contestant on each workload.

    python -m benchmarks                      # all of it; tens of minutes
    python -m benchmarks --rounds 1 maml wide # some workloads, once
    python -m benchmarks --write docs         # the table and the plot, for the docs

Every measurement has a process of its own; contestants take turns. A checkout of the
classic library, named by the environment variable HIGHER_CLASSIC, takes part.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
# as measure.py, a script, finds them
sys.path.insert(0, str(HERE))

from contestants import CONTESTANTS  # noqa: E402
from report import caption, svg, table  # noqa: E402
from workloads import WORKLOADS  # noqa: E402

Runs = dict[str, dict[str, list[dict[str, Any]]]]
"""Workload -> contestant -> what its processes printed."""


def main() -> None:
    parser = argparse.ArgumentParser(prog="benchmarks", description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("workloads", nargs="*", help=", ".join(WORKLOADS))
    parser.add_argument("--rounds", type=int, default=3, help="processes for each")
    parser.add_argument("--only", action="append", help="a contestant; may be repeated")
    parser.add_argument("--write", type=Path, help="folder for benchmarks.md and .svg")
    parser.add_argument("--runs", type=Path, help="file of raw figures, added to")
    args = parser.parse_args()
    unknown = [w for w in args.workloads if w not in WORKLOADS]
    unknown += [c for c in args.only or () if c not in CONTESTANTS]
    if unknown:
        parser.error(
            f"unknown: {', '.join(unknown)}; there are {', '.join(WORKLOADS)}, and "
            f"{'; '.join(CONTESTANTS)}"
        )
    runs: Runs = {}
    if args.runs and args.runs.exists():
        runs = json.loads(args.runs.read_text())
    for name in args.workloads or ([] if args.rounds == 0 else list(WORKLOADS)):
        _measure(name, args.only or list(CONTESTANTS), args.rounds, runs)
        if args.runs:
            args.runs.write_text(json.dumps(runs))
    text = f"{caption(runs)}\n\n{table(runs, WORKLOADS)}"
    print(f"\n{text}")
    if args.write:
        (args.write / "benchmarks.svg").write_text(svg(runs, WORKLOADS))
        (args.write / "benchmarks.md").write_text(_page(text))


def _page(text: str) -> str:
    return (
        "# Time and memory of meta-gradients\n\n"
        "Written by `make bench ARGS='--write docs'`; `benchmarks/README.md` says "
        "what is measured and how.\n\n![Memory and time as ratios](benchmarks.svg)\n\n"
        f"{text}\n"
    )


def _measure(name: str, contestants: list[str], rounds: int, runs: Runs) -> None:
    found = runs.setdefault(name, {})
    for contestant in contestants:
        found[contestant] = []
    with tempfile.TemporaryDirectory() as cache:
        for contestant in rounds * contestants:
            if any("unable" in run for run in found[contestant]):
                continue
            result = _in_a_process(name, contestant, cache)
            found[contestant].append(result)
            print(f"{name}: {contestant}: {result}", file=sys.stderr, flush=True)
    _compare(name, found)


def _in_a_process(name: str, contestant: str, cache: str) -> dict[str, Any]:
    checkout = str(HERE.parent)
    if contestant == "classic":
        if "HIGHER_CLASSIC" not in os.environ:
            return {"unable": "HIGHER_CLASSIC names no checkout"}
        checkout = os.environ["HIGHER_CLASSIC"]
    paths = [checkout, os.environ.get("PYTHONPATH", "")]
    result = subprocess.run(
        [sys.executable, "-W", "ignore", str(HERE / "measure.py"), name, contestant],
        env={
            **os.environ,
            "PYTHONPATH": os.pathsep.join(filter(None, paths)),
            "OMP_NUM_THREADS": "1",
            "TORCHINDUCTOR_CACHE_DIR": cache,
        },
        capture_output=True,
        text=True,
    )
    if result.returncode:
        last = (result.stderr.strip().splitlines() or ["no message"])[-1]
        return {"unable": f"failed: {last}"[:200]}
    printed: dict[str, Any] = json.loads(result.stdout.splitlines()[-1])
    return printed


def _compare(name: str, found: dict[str, list[dict[str, Any]]]) -> None:
    """Says whose meta-gradient differs from that of our plain loop."""
    norms = {c: r[0]["gradient"] for c, r in found.items() if r and "gradient" in r[0]}
    ours = norms.get("ours")
    for contestant, norm in norms.items():
        # two settings are not comparable with one, the first of them is
        if ours is not None and abs(norm - ours) > 1e-8 * abs(ours):
            off = abs(norm / ours - 1)
            print(
                f"{name}: {contestant}: its gradient after three steps in float64 "
                f"differs from ours by {off:.0e}",
                file=sys.stderr,
            )


if __name__ == "__main__":
    main()
