"""Work spread over processes that end when the work does, or is given up."""

from __future__ import annotations

import contextlib
import multiprocessing
import signal
import threading
import traceback
from collections.abc import Callable, Iterator, Sequence
from multiprocessing.connection import Connection, wait
from typing import Any, TypeVar

Job = TypeVar("Job")
Found = TypeVar("Found")


def in_processes(
    look: Callable[[Job], Found], jobs: Sequence[Job], workers: int
) -> Iterator[Found]:
    """``map(look, jobs)``, by so many processes.

    Raises:
        RuntimeError: ``look`` raised an error, or its process died.
    """
    with _workers(look, workers) as idle:
        busy: dict[Connection, int] = {}
        done: dict[int, Found] = {}
        begun = 0
        for turn in range(len(jobs)):
            while turn not in done:
                while idle and begun < len(jobs):
                    worker = idle.pop()
                    worker.send(jobs[begun])
                    busy[worker] = begun
                    begun += 1
                for ready in wait(list(busy)):
                    assert isinstance(ready, Connection)
                    index = busy.pop(ready)
                    done[index] = _answer(ready, jobs[index])
                    idle.append(ready)
            yield done.pop(turn)


@contextlib.contextmanager
def _workers(look: Callable[[Any], Any], count: int) -> Iterator[list[Connection]]:
    """Connections to as many processes; whatever happens, they are ended."""
    spawn = multiprocessing.get_context("spawn")
    pairs = [spawn.Pipe() for _ in range(count)]
    processes = [  # daemons: ended with this one, where nobody closes the generator
        spawn.Process(target=_work, args=(look, end), daemon=True) for _, end in pairs
    ]
    try:
        with _deaf():  # the processes are, too, and for good: Ctrl-C is for this one
            for process in processes:
                process.start()
        for _, end in pairs:
            end.close()
        yield [begin for begin, _ in pairs]
    finally:
        for process in processes:
            if process.pid is not None:
                process.terminate()
                process.join()


def _work(look: Callable[[Any], Any], connection: Connection) -> None:
    """What a process does: answer, job by job."""
    with contextlib.suppress(EOFError):  # whoever asked has gone
        while True:
            job = connection.recv()
            try:
                answer = True, look(job)
            except Exception:
                answer = False, traceback.format_exc()
            connection.send(answer)


def _answer(connection: Connection, job: object) -> Any:
    try:
        good, found = connection.recv()
    except (EOFError, ConnectionError):
        good, found = False, "its process died; it may have run out of memory"
    if not good:
        raise RuntimeError(f"{job}: {found}")
    return found


@contextlib.contextmanager
def _deaf() -> Iterator[None]:
    """Ctrl-C is not heard, where it is this thread's to say so."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    heard = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, heard)
