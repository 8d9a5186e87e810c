"""One measurement, in a process of its own: ``measure.py WORKLOAD CONTESTANT``.

Prints a line of JSON: CPU seconds of one thread, peak memory in bytes, and a short
meta-gradient in float64 by which contestants are compared. Run as a script, so that
``higher`` is the one on PYTHONPATH.
"""

from __future__ import annotations

import ctypes
import gc
import json
import math
import sys
import time

import torch
from contestants import CONTESTANTS, meta_gradient
from workloads import WORKLOADS


def memory(field: str) -> int:
    """Bytes that this process holds (VmRSS) or has held at most (VmHWM); Linux."""
    with open("/proc/self/status") as status:
        line = next(line for line in status if line.startswith(field))
    return 1024 * int(line.split()[1])


def main() -> None:
    torch.set_num_threads(1)
    work, name = WORKLOADS[sys.argv[1]], sys.argv[2]
    # forward mode pays for each setting: it is measured with two
    settings = 2 if name == "ours, forward" else 1
    unroll = CONTESTANTS[name]
    try:
        meta_gradient(work, unroll, 1, torch.float32, settings)
    except (ImportError, NotImplementedError, RuntimeError, ValueError) as error:
        reason = f"{type(error).__name__}: {error}".splitlines()[0]
        print(json.dumps({"unable": reason[:200]}))
        return
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)  # what the warm-up has left counts as free
    before = memory("VmRSS")
    start = time.process_time()
    meta_gradient(work, unroll, work.steps, torch.float32, settings)
    seconds = time.process_time() - start
    peak = memory("VmHWM") - before
    exact = meta_gradient(work, unroll, 3, torch.float64, settings)
    norm = math.sqrt(sum(float(g.square().sum()) for g in exact[: len(exact)]))
    if settings == 2:
        norm = float(exact[0].abs())
    print(json.dumps({"seconds": seconds, "bytes": peak, "gradient": norm}))


if __name__ == "__main__":
    main()
