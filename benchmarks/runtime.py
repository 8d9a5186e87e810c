"""What the runtime costs beside torch's own work, and beside the classic library.

    python benchmarks/runtime.py

On a net of 68 modules and 62 parameters: entering a context, a forward, and a step
in test mode, the last two as ratios to the plain module's forward and to
``zero_grad``, ``backward`` and ``step`` of ``torch.optim``. A checkout of the classic
library, named by the environment variable ``HIGHER_CLASSIC``, is measured beside, in
processes of its own that take turns with ours. CPU seconds, medians, one thread.
"""

from __future__ import annotations

import json
import os
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

ROUNDS = 5
TARGETS = {"entry ms": None, "forward": 1.05, "step SGD": 1.2, "step Adam": 1.2}


def measure() -> dict[str, float]:
    """Figures of the library that can be imported as ``higher``, in this process."""
    import torch
    from torch import nn

    import higher

    torch.set_num_threads(1)
    torch.manual_seed(0)

    def block(layers: int) -> nn.Module:
        pairs = ((nn.Linear(32, 32), nn.Tanh()) for _ in range(layers))
        return nn.Sequential(*(m for pair in pairs for m in pair))

    # 6 containers, 31 layers, 31 activations
    net = nn.Sequential(*(block(n) for n in (6, 6, 6, 6, 7)))
    assert len(list(net.modules())) == 68 and len(list(net.parameters())) == 62
    x = torch.randn(16, 32)

    def optimizer(name: str) -> Any:
        settings = {"SGD": {"lr": 1e-3, "momentum": 0.9}, "Adam": {"lr": 1e-3}}
        return getattr(torch.optim, name)(net.parameters(), **settings[name])

    def entry() -> None:
        with higher.innerloop_ctx(net, opt):
            pass

    opt = optimizer("SGD")
    figures = {"entry ms": 1e3 * _medians(200, entry)[0]}

    with higher.innerloop_ctx(net, opt) as (fmodel, _):
        ours, plain = _medians(400, lambda: fmodel(x), lambda: net(x))
    figures["forward"] = ours / plain

    for name in ("SGD", "Adam"):
        opt = optimizer(name)
        with higher.innerloop_ctx(net, opt, track_higher_grads=False) as (f, diff):
            figures[f"step {name}"] = _step_ratio(f, diff, net, opt, x)
    return figures


def _step_ratio(fmodel: Any, diff: Any, net: Any, opt: Any, x: Any) -> float:
    ours, theirs = [], []
    for _ in range(150):
        loss = fmodel(x).square().mean()
        start = time.thread_time()
        diff.step(loss)
        ours.append(time.thread_time() - start)
        loss = net(x).square().mean()
        start = time.thread_time()
        opt.zero_grad()
        loss.backward()
        opt.step()
        theirs.append(time.thread_time() - start)
    return statistics.median(ours[20:]) / statistics.median(theirs[20:])


def _medians(count: int, *functions: Callable[[], Any]) -> list[float]:
    """Median seconds of each function, the functions taking turns."""
    times: list[list[float]] = [[] for _ in functions]
    for _ in range(count):
        for function, taken in zip(functions, times):
            start = time.thread_time()
            function()
            taken.append(time.thread_time() - start)
    return [statistics.median(taken[count // 10 :]) for taken in times]


def _in_a_process(checkout: str) -> dict[str, float]:
    """Figures of the library in ``checkout``."""
    result = subprocess.run(
        [sys.executable, "-W", "ignore", os.path.abspath(__file__), "--measure"],
        env={**os.environ, "PYTHONPATH": checkout, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
    )
    if result.returncode:
        raise SystemExit(f"measuring {checkout} failed:\n{result.stderr}")
    figures: dict[str, float] = json.loads(result.stdout.splitlines()[-1])
    return figures


def main() -> None:
    import torch

    checkouts = {"ours": str(Path(__file__).resolve().parent.parent)}
    if "HIGHER_CLASSIC" in os.environ:
        checkouts["classic"] = os.environ["HIGHER_CLASSIC"]
    runs: dict[str, list[dict[str, float]]] = {name: [] for name in checkouts}
    for _ in range(ROUNDS):
        for name, checkout in checkouts.items():
            runs[name].append(_in_a_process(checkout))
    print(f"torch {torch.__version__}, Python {platform.python_version()}, one thread;")
    print(f"medians (lowest to highest) of {ROUNDS} processes\n")
    print(
        f"{'':<12}" + "".join(f"{name:>27}" for name in checkouts) + f"{'target':>10}"
    )
    for key, target in TARGETS.items():
        cells = [_cell([run[key] for run in runs[name]]) for name in checkouts]
        print(f"{key:<12}{''.join(f'{c:>27}' for c in cells)}{target or '':>10}")


def _cell(values: list[float]) -> str:
    return f"{statistics.median(values):.3f} ({min(values):.3f} to {max(values):.3f})"


if __name__ == "__main__":
    if "--measure" in sys.argv:
        print(json.dumps(measure()))
    else:
        main()
