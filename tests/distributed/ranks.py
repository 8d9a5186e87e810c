"""Runs cases on several ranks: processes of this machine, joined by gloo on loopback.

    python tests/distributed/ranks.py RESULTS.jsonl

One process imports everything once, then forks the ranks, which run case after case. A
rank whose case fails ends, so that no other waits for it; the cases that are left run in
new ones. Every rank writes one line for each of its cases.
"""

from __future__ import annotations

import gc
import json
import os
import sys
import time
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from socket import create_server, socket
from typing import Any

import torch
import torch.distributed as dist

import higher

COLLECTIVE = timedelta(seconds=30)
"""How long a rank waits for the others in a collective."""
DEADLINE = 300.0
"""Seconds for all cases of one number of ranks."""


Cell = tuple[str, "str | tuple[str, ...]", str]
"""Wrapper, feature or features, outcome."""


@dataclass(frozen=True)
class Case:
    """What some ranks do together.

    Attributes:
        name: of the test.
        world: the number of ranks.
        run: raises if something is wrong.
        cell: where it is in the table of the docs.
        reporters: the ranks that live to tell; None: all.
        before: is run first, by ranks that don't live.
    """

    name: str
    world: int
    run: Callable[[], None]
    cell: Cell | None = None
    reporters: tuple[int, ...] | None = None
    before: Callable[[], None] | None = None

    @property
    def cells(self) -> list[tuple[str, str, str]]:
        """Each with one feature."""
        if self.cell is None:
            return []
        wrapper, features, outcome = self.cell
        each = (features,) if isinstance(features, str) else features
        return [(wrapper, feature, outcome) for feature in each]

    @property
    def told(self) -> tuple[int, ...]:
        return tuple(range(self.world)) if self.reporters is None else self.reporters


CASES: dict[str, Case] = {}


def case(
    world: int = 2, cell: Cell | None = None, **options: Any
) -> Callable[[Callable[[], None]], Callable[[], None]]:
    """Registers a function as a case of its name."""

    def register(run: Callable[[], None]) -> Callable[[], None]:
        add(Case(run.__name__, world, run, cell, **options))
        return run

    return register


def add(new: Case) -> None:
    assert new.name not in CASES, new.name
    CASES[new.name] = new


class Worlds:
    """Forks ranks for cases, and writes down what became of them."""

    def __init__(self, results: Path) -> None:
        self.results = results

    def run(self, cases: Sequence[Case]) -> None:
        """Runs cases of one number of ranks, in new ones after one that failed."""
        deadline = time.monotonic() + DEADLINE
        left = list(cases)
        while left and time.monotonic() < deadline:
            first = left[0]
            batch = [c for c in left if c.before is None and c.reporters is None]
            if first not in batch:
                batch = [first]
            if first.before is not None:
                doomed = Case(f"before {first.name}", first.world, first.before)
                self._together([doomed], deadline)
            self._together(batch, deadline)
            done = self._reached(batch)
            left = [c for c in left if c.name not in done]

    def _together(self, cases: Sequence[Case], deadline: float) -> None:
        # no store of this process: forks and threads don't go together
        listening = create_server(("127.0.0.1", 0))
        pids = []
        for rank in range(cases[0].world):
            pid = os.fork()
            if pid == 0:
                self._rank(rank, cases, listening)
            pids.append(pid)
        listening.close()
        while pids and time.monotonic() < deadline:
            pids = [p for p in pids if os.waitpid(p, os.WNOHANG) == (0, 0)]
            time.sleep(0.01)
        for pid in pids:
            os.kill(pid, 9)
            os.waitpid(pid, 0)

    def _reached(self, cases: Sequence[Case]) -> set[str]:
        """Those that some rank has told of; the first at least, or it goes on forever."""
        lines = self.results.read_text().splitlines() if self.results.exists() else []
        told = {json.loads(line)["case"] for line in lines}
        return {cases[0].name} | {c.name for c in cases if c.name in told}

    def _rank(self, rank: int, cases: Sequence[Case], listening: socket) -> None:
        try:
            world = cases[0].world
            store = _store(rank, listening)
            os.environ.update(
                RANK=f"{rank}", LOCAL_RANK=f"{rank}", WORLD_SIZE=f"{world}"
            )
            dist.init_process_group(
                "gloo", store=store, rank=rank, world_size=world, timeout=COLLECTIVE
            )
            for one in cases:
                self._one(rank, one, store)
            if len(cases[0].told) == world:
                dist.barrier()
            os._exit(0)
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(1)

    def _one(self, rank: int, one: Case, store: Any) -> None:
        start = time.perf_counter()
        torch.manual_seed(0)
        error = ""
        try:
            one.run()
        except Exception:
            error = traceback.format_exc()
        seconds = time.perf_counter() - start
        line = json.dumps(
            {"case": one.name, "rank": rank, "error": error, "seconds": seconds}
        )
        with self.results.open("a") as file:
            file.write(line + "\n")
        store.set(f"{one.name}/{rank}", error)
        for other in one.told:
            error = error or store.get(f"{one.name}/{other}").decode()
        if error:
            os._exit(1)


def _store(rank: int, listening: socket) -> Any:
    """The first rank has the server, on a socket that all know of."""
    port = listening.getsockname()[1]
    own = {"master_listen_fd": listening.detach()} if rank == 0 else {}
    return dist.TCPStore(
        "127.0.0.1", port, is_master=rank == 0, wait_for_workers=False, **own
    )


def outcome(results: Path) -> dict[str, str]:
    """What went wrong in each case that all its ranks told of; "" if nothing did."""
    told: dict[str, dict[int, str]] = {}
    for line in results.read_text().splitlines():
        one = json.loads(line)
        told.setdefault(one["case"], {})[one["rank"]] = one["error"]
    return {
        name: "".join(f"rank {r}: {e}" for r, e in sorted(told[name].items()) if e)
        for name, one in CASES.items()
        if told.get(name, {}).keys() >= set(one.told)
        or any(told.get(name, {}).values())
    }


def main(results: str, *names: str) -> None:
    """Runs all cases, or those of these names."""
    os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")
    os.environ.setdefault("RANKS_FOLDER", str(Path(results).parent))
    os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT="0")
    torch.set_num_threads(1)
    # what is imported now, ranks need not import
    assert higher.optim.DifferentiableAdam
    chosen = [c for n, c in CASES.items() if not names or n in names]
    # neither looked through nor copied by those that are forked
    gc.freeze()
    worlds = Worlds(Path(results))
    for world in sorted({c.world for c in chosen}):
        worlds.run([c for c in chosen if c.world == world])


if __name__ == "__main__":
    import cases

    cases.main(*sys.argv[1:])
