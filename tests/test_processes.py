"""Processes that a survey starts: they answer in order, and end when it is given up."""

from __future__ import annotations

import multiprocessing
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from codegen.tools.processes import in_processes


def test_answers_come_in_order_and_processes_end() -> None:
    assert list(in_processes(abs, [-3, -2, -1], 2)) == [3, 2, 1]
    assert not multiprocessing.active_children()


def test_an_error_is_raised_here_and_processes_end() -> None:
    with pytest.raises(RuntimeError, match="x: (?s:.*)ValueError: could not convert"):
        list(in_processes(float, ["1", "x"], 1))
    assert not multiprocessing.active_children()


def test_a_process_that_dies_is_an_error() -> None:
    with pytest.raises(RuntimeError, match="7: its process died"):
        list(in_processes(os._exit, [7], 1))


INTERRUPTED = """
import signal, time
from codegen.console import interrupted, leave
from codegen.tools.processes import in_processes
if __name__ == "__main__":
    # a shell's background jobs, and what they start, are born deaf
    signal.signal(signal.SIGINT, signal.default_int_handler)
    work = in_processes(time.sleep, [0, 600, 600], 2)
    try:
        next(work)
        print("at work", flush=True)
        {wait}
    except KeyboardInterrupt as error:
        leave(interrupted(error))
"""


@pytest.mark.parametrize("wait", ["next(work)", "time.sleep(600)"])
def test_an_interrupt_ends_all_processes_at_once_and_without_a_traceback(
    tmp_path: Path, wait: str
) -> None:
    """Also where it comes while nobody waits for the processes."""
    script = tmp_path / "script.py"
    script.write_text(INTERRUPTED.format(wait=wait))
    with subprocess.Popen(
        [sys.executable, script],
        env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,  # a group of its own, as a terminal makes one
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "at work\n"
        os.killpg(process.pid, signal.SIGINT)
        # the processes hold the pipe, too: it ends when they do
        told, _ = process.communicate(timeout=300)
        assert told == "interrupted: what was being made was not written\n"
        assert process.returncode == 130
