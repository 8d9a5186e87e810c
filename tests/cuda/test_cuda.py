"""The same code on a GPU: trajectory, hypergradients, and no waiting for the device."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
import torch
from codegen.verify.problem import Problem
from codegen.verify.settings import sampled
from codegen.verify.configuration import Configuration
from codegen.verify.surroundings import unrounded
from compiled import PATHS, build, compiled, seeded
from torch import Tensor

pytestmark = [
    pytest.mark.cuda,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU"),
]
DENSE = [p for p in PATHS if p != "torch.optim.SparseAdam"]
STEPS = 6


@pytest.mark.parametrize("path", DENSE)
def test_the_trajectory_is_that_of_the_original_on_the_gpu(path: str) -> None:
    """Ours on the GPU against the original's default on the GPU."""
    shape, start = (37, 29), seeded(37, 29).cuda()
    theirs, ours = (start.clone().requires_grad_() for _ in range(2))
    original = build(path, [theirs])
    diffopt = compiled(path).differentiable(build(path, [ours]), [ours])
    fast = [start.clone().requires_grad_()]
    for t in range(STEPS):
        grad = seeded(*shape, seed=t).cuda()
        theirs.grad = grad.clone()
        original.step()
        fast = diffopt.step((fast[0] * grad).sum(), params=fast)
    # Muon's bfloat16 products may be summed in another order
    limit = 1e-2 if path.endswith("Muon") else 1e-9
    torch.testing.assert_close(fast[0], theirs, rtol=limit, atol=limit)


@pytest.mark.parametrize("path", DENSE)
def test_hypergradients_equal_those_on_the_cpu(path: str) -> None:
    found = compiled(path)
    conf = Configuration(found.layout, sampled(found.settings, found.runs))
    with unrounded():
        results = [_derivatives(path, conf, device) for device in ("cpu", "cuda")]
    for on_cpu, on_gpu in zip(*results):
        torch.testing.assert_close(on_gpu.cpu(), on_cpu, rtol=1e-7, atol=1e-10)


def _derivatives(path: str, conf: Configuration, device: str) -> list[Tensor]:
    """To the learning rate and to the initial weights."""
    found, problem = compiled(path), Problem(conf.layout, torch.float64)
    params = [p.detach().to(device).requires_grad_() for p in problem.initial()]
    opt = found.build(params, conf.layout, conf.settings)
    lr = torch.tensor(0.02, dtype=torch.float64, device=device, requires_grad=True)
    diffopt = found.differentiable(opt, params, override={"lr": [lr]})
    fast = [p.detach().clone().requires_grad_() for p in params]
    start = fast
    for step in range(STEPS):
        loss = problem.loss([p.cpu() for p in fast], step)
        fast = diffopt.step(loss, params=fast)
    outer = problem.outer([p.cpu() for p in fast])
    return list(torch.autograd.grad(outer, [lr, *start]))


@pytest.mark.parametrize("track", [True, False], ids=["tracked", "test mode"])
@pytest.mark.parametrize("path", DENSE)
def test_a_step_waits_for_the_device_no_more_than_the_original(
    path: str, track: bool
) -> None:
    start = seeded(8, 4).cuda()
    theirs, ours = (start.clone().requires_grad_() for _ in range(2))
    original = build(path, [theirs])
    diffopt = compiled(path).differentiable(
        build(path, [ours]), [ours], track_higher_grads=track
    )
    fast, grad = [start.clone().requires_grad_()], seeded(8, 4, seed=1).cuda()
    for waits in ([0, 0], [0, 0], [0, 0]):  # the first two make state
        theirs.grad = grad.clone()
        loss = (fast[0] * grad).sum()
        with _counted(waits, 0):
            original.step()
        with _counted(waits, 1):
            fast = diffopt.step(loss, params=fast)
    assert waits[1] <= waits[0]


@contextmanager
def _counted(waits: list[int], at: int) -> Iterator[None]:
    """Adds to `waits[at]` how often the host waits for the device."""
    torch.cuda.set_sync_debug_mode("warn")
    try:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            yield
    finally:
        torch.cuda.set_sync_debug_mode("default")
    waits[at] += sum("synchroniz" in str(w.message) for w in caught)
