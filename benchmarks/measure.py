"""One measurement, in a process of its own: ``measure.py WORKLOAD CONTESTANT``.

Prints a line of JSON: CPU seconds of one thread, peak memory in bytes, CPU seconds that
compiling took, those of the C++ compiler with them, and a short meta-gradient in float64
by which contestants are compared. Run as a script, so that ``higher`` is the one on
PYTHONPATH.
"""

from __future__ import annotations

import ctypes
import gc
import json
import math
import os
import statistics
import sys
import time

import torch
from contestants import CONTESTANTS, MetaGradient
from workloads import WORKLOADS


def memory(field: str) -> int:
    """Bytes that this process holds (VmRSS) or has held at most (VmHWM); Linux."""
    with open("/proc/self/status") as status:
        line = next(line for line in status if line.startswith(field))
    return 1024 * int(line.split()[1])


def spent() -> float:
    """CPU seconds of this process and of those that it started and that ended."""
    times = os.times()
    return sum(times[:4])


ENOUGH, MOST = 2.0, 15
"""CPU seconds that a measurement should have, and how many runs it takes at most."""


def timed(run: MetaGradient, steps: int) -> float:
    start = time.process_time()
    run(steps)
    return time.process_time() - start


def main() -> None:
    torch.set_num_threads(1)
    work, name = WORKLOADS[sys.argv[1]], sys.argv[2]
    # forward mode pays for each setting: it is measured with two
    settings = 2 if name == "ours, forward" else 1
    unroll = CONTESTANTS[name]
    compiled = "compiled" in name
    run = MetaGradient(work, unroll, torch.float32, settings)
    warm_up = spent()
    try:
        # a compiled unroll's first step is a plain one
        run(3 if compiled else 1)
    except (ImportError, NotImplementedError, RuntimeError, ValueError) as error:
        reason = f"{type(error).__name__}: {error}".splitlines()[0]
        print(json.dumps({"unable": reason[:200]}))
        return
    gc.collect()
    warm_up = spent() - warm_up
    ctypes.CDLL(None).malloc_trim(0)  # what the warm-up has left counts as free
    with open("/proc/self/clear_refs", "w") as peak_of_now:
        peak_of_now.write("5")
    before = memory("VmRSS")
    seconds = timed(run, work.steps)
    peak = memory("VmHWM") - before
    if seconds < ENOUGH:
        # much of a short run goes into memory that is asked for for the first time
        count = min(MOST, math.ceil(ENOUGH / seconds))
        seconds = statistics.median(timed(run, work.steps) for _ in range(count))
    exact = MetaGradient(work, unroll, torch.float64, settings)(3)
    if settings == 2:
        del exact[1:]
    norm = math.sqrt(sum(float(g.square().sum()) for g in exact))
    found = {"seconds": seconds, "bytes": peak, "gradient": norm}
    if compiled:
        found["compile"] = warm_up
    print(json.dumps(found))


if __name__ == "__main__":
    main()
