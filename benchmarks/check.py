"""What ``check=True`` costs in test mode, where a step is cheapest.

    python benchmarks/check.py

CPU seconds of inner steps (forward, gradient, update) with the original beside them,
as a ratio to the same loop without, for nets of few and of many parameters and for long
vectors. Medians of loops that take turns, one thread.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

import higher

ROUNDS, STEPS = 9, 30
TARGET = 2.0

OPTIMIZERS: dict[str, dict[str, float]] = {
    "SGD": {"lr": 1e-3, "momentum": 0.9},
    "Adam": {"lr": 1e-3},
    "NAdam": {"lr": 1e-3},
    "Adafactor": {"lr": 1e-3},
}


def mlp(width: int, layers: int) -> nn.Module:
    pairs = ((nn.Linear(width, width), nn.Tanh()) for _ in range(layers))
    return nn.Sequential(*(m for pair in pairs for m in pair))


NETS: dict[str, tuple[Callable[[], nn.Module], Callable[[], Tensor]]] = {
    "3 layers of 64, batch 64": (lambda: mlp(64, 3), lambda: torch.randn(64, 64)),
    "31 layers of 32, batch 64": (lambda: mlp(32, 31), lambda: torch.randn(64, 32)),
    "2 layers of 1024, batch 64": (lambda: mlp(1024, 2), lambda: torch.randn(64, 1024)),
}


def seconds(
    net: nn.Module, opt: torch.optim.Optimizer, x: Tensor, check: bool
) -> float:
    """Of one step, after two that make the state."""
    context: Any = higher.innerloop_ctx(net, opt, track_higher_grads=False, check=check)
    with context as (fmodel, diffopt):
        for step in range(STEPS + 2):
            if step == 2:
                start = time.process_time()
            diffopt.step(fmodel(x).square().mean())
    return (time.process_time() - start) / STEPS


def main() -> None:
    torch.set_num_threads(1)
    print(f"torch {torch.__version__}, one thread, medians of {ROUNDS} loops")
    print(f"{'':<28}{'':<12}{'plain ms':>10}{'check ms':>10}{'ratio':>8}")
    for title, (make, batch) in NETS.items():
        for name, settings in OPTIMIZERS.items():
            torch.manual_seed(0)
            net, x = make(), batch()
            opt = getattr(torch.optim, name)(net.parameters(), **settings)
            runs = [
                (seconds(net, opt, x, False), seconds(net, opt, x, True))
                for _ in range(ROUNDS)
            ]
            plain, checked = (1e3 * statistics.median(times) for times in zip(*runs))
            ratio = checked / plain
            print(f"{title:<28}{name:<12}{plain:>10.3f}{checked:>10.3f}{ratio:>8.2f}")
    print(f"\nat most {TARGET} is wanted")


if __name__ == "__main__":
    main()
