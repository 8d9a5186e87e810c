"""Runs that are killed and go on from a checkpoint, and ranks that fail."""

from __future__ import annotations

import argparse
import contextlib
import importlib.util
import io
import os
import signal
import time
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from problem import Gradients, Net, Outer, assert_same, by_hand, data, gradients, own
from ranks import COLLECTIVE, Case, add, case
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from wrappers import WRAPPERS, Wrapper, ddp, fsdp

EXAMPLES = Path(__file__).resolve().parent.parent.parent / "examples"


def example() -> Any:
    """``examples/maml_ddp.py``, which saves and resumes."""
    spec = importlib.util.spec_from_file_location("maml_ddp", EXAMPLES / "maml_ddp.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def folder(name: str) -> Path:
    found = Path(os.environ["RANKS_FOLDER"]) / name
    found.mkdir(exist_ok=True)
    return found


class Noisy(Outer):
    """On tasks with noise."""

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        return super().forward(x + 0.1 * torch.randn_like(x), y)


Run = tuple[nn.Module, torch.optim.Optimizer]


def made(wrap: Wrapper) -> Run:
    wrapped = wrap(Noisy(Net(), learn=("lr",)))
    return wrapped, torch.optim.Adam(wrapped.parameters(), lr=0.01)


def step(run: Run, number: int, shared: bool) -> Gradients:
    """One outer step, and its meta-gradient."""
    outer, opt = run
    opt.zero_grad()
    tasks = data(seed=number)
    outer(*(tasks if shared else own(tasks))).backward()
    opt.step()
    return gradients(outer)


def seeded(shared: bool) -> None:
    torch.manual_seed(0 if shared else dist.get_rank())


def killed(wrapper: str) -> None:
    """Two steps, a checkpoint, and the end in the midst of the third."""
    wrap, shared = WRAPPERS[wrapper], wrapper == "tensor parallel"
    seeded(shared)
    run = made(wrap)
    for number in range(2):
        step(run, number, shared)
    example().save(folder(wrapper), *run, 2)
    dist.barrier()
    run[0](*(data() if shared else own(data())))
    os.kill(os.getpid(), signal.SIGKILL)


def resumed(wrapper: str, other: Wrapper | None = None) -> None:
    """The third and fourth steps are those of a run that was never killed.

    Args:
        wrapper: around the run that was killed.
        other: around the one that goes on; by default the same.
    """
    wrap, shared = WRAPPERS[wrapper], wrapper == "tensor parallel"
    seeded(shared)
    whole = made(wrap)
    for number in range(2):
        step(whole, number, shared)
    # what comes of drawing here must not matter to the one that resumes
    wanted = [step(whole, number, shared) for number in (2, 3)]
    run = made(other or wrap)
    with torch.no_grad():
        for p in run[0].parameters():
            p.mul_(0.5)
    assert example().resume(folder(wrapper), *run) == 2
    for number, grads in zip((2, 3), wanted):
        assert_same(step(run, number, shared), grads, 1e-12)


for wrapper in WRAPPERS:
    feature = "a run that was killed resumes"
    before = partial(killed, wrapper)
    run = partial(resumed, wrapper)
    cell = (wrapper, feature, "right")
    add(Case(f"{wrapper}: {feature}", 2, run, cell, before=before))


def saved_sharded() -> None:
    killed("FSDP2")


def resumed_whole() -> None:
    resumed("FSDP2", ddp)


add(
    Case(
        "a sharded checkpoint resumes under DDP", 2, resumed_whole, before=saved_sharded
    )
)


@case()
def the_example_sharded_goes_on_from_its_checkpoint() -> None:
    maml = example()
    args = argparse.Namespace(tasks=2, shard=True, checkpoint=folder("example"))
    told = []
    for steps, keep in ((12, True), (12, True), (12, False)):
        args.steps = steps
        args.checkpoint = args.checkpoint if keep else None
        with contextlib.redirect_stdout(io.StringIO()) as out:
            maml.train(args, torch.device("cpu"))
        told.append(out.getvalue().splitlines())
    if dist.get_rank() == 0:
        first, resumed, alone = told
        # from the tenth of its steps on, and to the same end
        assert [line[:8] for line in resumed[1:-1]] == ["step  10", "step  11"]
        assert first[2:] == alone[2:] == resumed[1:]


# --- ranks that fail --------------------------------------------------------------------


def _ends_with(error: str, seconds: float, work: Any) -> None:
    start = time.perf_counter()
    with pytest.raises((RuntimeError, dist.DistError), match=error):
        work()
    assert time.perf_counter() - start < seconds


def dying(wrap: Wrapper) -> None:
    wrapped = wrap(Outer(Net()))
    wrapped(*own(data())).backward()
    if dist.get_rank() == 1:
        os._exit(1)

    def step() -> None:
        wrapped(*own(data())).backward()

    _ends_with("onnection|reset|Broken pipe", COLLECTIVE.seconds / 2, step)


for wrapper, wrap in {"DDP": ddp, "FSDP2": fsdp}.items():
    feature = "a rank that dies: the others end with an error"
    cell = (wrapper, feature, "right")
    run = partial(dying, wrap)
    add(Case(f"{wrapper}: {feature}", 2, run, cell, reporters=(0,)))


@case(reporters=(0,))
def a_rank_that_does_not_come_is_waited_for_no_longer_than_the_time_out() -> None:
    group = dist.new_group(timeout=timedelta(seconds=2))
    wrapped = DistributedDataParallel(Outer(Net()), process_group=group)
    if dist.get_rank() == 1:
        time.sleep(4)
        os._exit(1)
    loss = wrapped(*own(data()))
    _ends_with("[Tt]imed out", 5, loss.backward)


def failed_together(wrap: Wrapper) -> None:
    """All ranks learn which one failed, and why; the next step is right."""
    maml = example()
    wrapped: Any = wrap(Outer(Net()))
    x, y = own(data())
    broken = x[:, :, :2] if dist.get_rank() == 1 else x
    with pytest.raises(RuntimeError, match="failed on rank 1: RuntimeError: mat1 and"):
        with maml.all_or_none():
            wrapped(broken, y)
    if wrap is not ddp:
        wrapped.reset_iter_state()
    with maml.all_or_none():
        loss = wrapped(x, y)
    loss.backward()
    assert_same(gradients(wrapped), by_hand(Net(), *data())[1])


for wrapper, wrap in {"DDP": ddp, "FSDP2": fsdp}.items():
    cell = (wrapper, "a rank that fails, told to all before backward", "right")
    add(Case(f"{wrapper}: failed together", 2, partial(failed_together, wrap), cell))
