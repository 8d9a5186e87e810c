"""MAML on several processes: each adapts to tasks of its own, gradients are averaged.

    torchrun --nproc-per-node 2 examples/maml_ddp.py
    torchrun --nproc-per-node 2 examples/maml_ddp.py --shard      # fully_shard, not DDP

On GPUs by nccl, without them by gloo. The inner loop runs in the forward of a module
that returns the outer loss; that module is what DDP wraps, or fully_shard is given.
Tasks are sines of different amplitude and phase, as in Finn et al., "Model-Agnostic
Meta-Learning for Fast Adaptation of Deep Networks" (arXiv:1703.03400); the inner
learning rate is learned, too. First of all the meta-gradient is compared with that of
one process on the tasks of all. With --checkpoint a run that was killed goes on.
"""

from __future__ import annotations

import argparse
import math
import os
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import torch.distributed.checkpoint as dcp
from torch import Tensor, nn
from torch.distributed.checkpoint.state_dict import get_state_dict, set_state_dict
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor
from torch.nn.parallel import DistributedDataParallel

import higher

Tasks = tuple[Tensor, Tensor]


class Adaptation(nn.Module):
    """The outer loss: that of the net after an inner loop, on average over tasks.

    Attributes:
        net: whose initial weights are learned.
        settings: the inner optimizer's, learned as well.
    """

    def __init__(self, net: nn.Module, steps: int = 3) -> None:
        super().__init__()
        self.net, self.steps = net, steps
        dtype = next(net.parameters()).dtype
        inner = self.inner_optimizer()
        self.settings = higher.optim.Settings(inner, ["lr"], dtype=dtype)

    def inner_optimizer(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.net.parameters(), lr=0.02)

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        """
        Args:
            x: inputs of some tasks, (tasks, examples, 1). On the first half of the
                examples the net is adapted, on the second it is tested.
            y: what it is to say, of the same shape.
        """
        return torch.stack([self.adapted(*task) for task in zip(x, y)]).mean()

    def adapted(self, x: Tensor, y: Tensor) -> Tensor:
        (x, x_test), (y, y_test) = x.chunk(2), y.chunk(2)
        # here, not outside: fully_shard has gathered the weights by now
        inner = self.inner_optimizer()
        with higher.innerloop_ctx(
            self.net, inner, copy_initial_weights=False, override=self.settings
        ) as (fnet, diffopt):
            for _ in range(self.steps):
                diffopt.step((fnet(x) - y).square().mean())
            return (fnet(x_test) - y_test).square().mean()


def draw(count: int, generator: torch.Generator) -> Tasks:
    """Inputs and targets (count, 20, 1) of sines."""
    x = torch.rand(count, 20, 1, generator=generator, dtype=torch.float64) * 10 - 5
    amplitude, phase = torch.rand(2, count, 1, 1, generator=generator).double()
    return x, (0.1 + 4.9 * amplitude) * torch.sin(x + math.pi * phase)


def make_net() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(1, 40), nn.Tanh(), nn.Linear(40, 1)).double()


@contextmanager
def all_or_none() -> Iterator[None]:
    """If the block raises on some rank, it raises on all, and none waits for another."""
    error = None
    try:
        yield
    except Exception as e:
        error = e
    told: list[Any] = [None] * dist.get_world_size()
    dist.all_gather_object(told, error and f"{type(error).__name__}: {error}")
    failed = [f"rank {rank}: {what}" for rank, what in enumerate(told) if what]
    if failed:
        raise RuntimeError("This step failed on " + "; ".join(failed)) from error


# --- checkpoints --------------------------------------------------------------------


def present(outer: nn.Module, opt: torch.optim.Optimizer) -> dict[str, Any]:
    """Weights, learned settings, the outer optimizer and this rank's random state."""
    model, optimizer = get_state_dict(outer, opt)
    random = torch.get_rng_state()
    return {"model": model, "optimizer": optimizer, f"random_{dist.get_rank()}": random}


def save(path: Path, outer: nn.Module, opt: torch.optim.Optimizer, step: int) -> None:
    dcp.save({**present(outer, opt), "step": step}, checkpoint_id=path / f"{step}")
    if dist.get_rank() == 0:
        # only now that it is whole
        (path / "latest.tmp").write_text(f"{step}")
        os.replace(path / "latest.tmp", path / "latest")


def resume(path: Path, outer: nn.Module, opt: torch.optim.Optimizer) -> int:
    """The step to go on with; 0 if there is no checkpoint."""
    if not (path / "latest").exists():
        return 0
    state = {**present(outer, opt), "step": 0}
    dcp.load(state, checkpoint_id=path / (path / "latest").read_text())
    set_state_dict(
        outer,
        opt,
        model_state_dict=state["model"],
        optim_state_dict=state["optimizer"],
    )
    torch.set_rng_state(state[f"random_{dist.get_rank()}"])
    return int(state["step"])


# --- the run ------------------------------------------------------------------------


def whole(grad: Tensor | None) -> Tensor:
    assert grad is not None
    return grad.full_tensor() if isinstance(grad, DTensor) else grad


def difference_from_one_process(outer: nn.Module, tasks: Tasks) -> float:
    """The largest between the averaged meta-gradient and one of all tasks together."""
    alone = Adaptation(make_net()).to(tasks[0].device)
    joined: list[Tensor] = []
    for t in tasks:
        parts = [torch.empty_like(t) for _ in range(dist.get_world_size())]
        dist.all_gather(parts, t)
        joined.append(torch.cat(parts))
    alone(*joined).backward()
    outer(*tasks).backward()
    pairs = zip(outer.parameters(), alone.parameters(), strict=True)
    worst = max((whole(p.grad) - whole(q.grad)).abs().max().item() for p, q in pairs)
    outer.zero_grad()
    return worst


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description="MAML on several processes")
    parser.add_argument("--steps", type=int, default=60, help="outer steps")
    parser.add_argument("--tasks", type=int, default=4, help="tasks a rank and step")
    parser.add_argument("--shard", action="store_true", help="fully_shard, not DDP")
    parser.add_argument("--checkpoint", type=Path, help="a folder; resumes from there")
    args = parser.parse_args(arguments)

    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if device.type == "cuda":
        device = torch.device("cuda", int(os.environ["LOCAL_RANK"]))
        torch.cuda.set_device(device)
    # a rank that hangs is noticed by the others after that long
    backend = "nccl" if device.type == "cuda" else "gloo"
    dist.init_process_group(backend, timeout=timedelta(minutes=2))
    torch.set_num_threads(1)
    train(args, device)
    dist.barrier()  # an end that is not a failure, to none of them
    dist.destroy_process_group()


def train(args: argparse.Namespace, device: torch.device) -> None:
    rank, first = dist.get_rank(), dist.get_rank() == 0
    adaptation = Adaptation(make_net()).to(device)
    ids = [device.index] if device.type == "cuda" else None
    outer: Any = (
        fully_shard(adaptation)
        if args.shard
        else DistributedDataParallel(adaptation, device_ids=ids)
    )
    opt = torch.optim.Adam(outer.parameters(), lr=3e-3)

    def tasks_of(step: int) -> Tasks:
        # of a rank and a step alone, so that a run that resumes has the same
        seed = 1000 * step + rank
        x, y = draw(args.tasks, torch.Generator().manual_seed(seed))
        return x.to(device), y.to(device)

    worst = difference_from_one_process(outer, tasks_of(0))
    if first:
        print(
            f"meta-gradient of {dist.get_world_size()} processes and of one on the "
            f"joined tasks: largest difference {worst:.1e}"
        )
    if worst > 1e-10:
        raise RuntimeError("The meta-gradient is not that of one process.")

    begin = resume(args.checkpoint, outer, opt) if args.checkpoint else 0
    for step in range(begin, args.steps):
        opt.zero_grad()
        with all_or_none():
            loss = outer(*tasks_of(step))
        loss.backward()
        opt.step()
        mean = loss.detach()
        dist.all_reduce(mean)
        if first and (step % 10 == 0 or step == args.steps - 1):
            print(f"step {step:3d}  loss {mean.item() / dist.get_world_size():.3f}")
        if args.checkpoint and (step + 1) % 10 == 0:
            save(args.checkpoint, outer, opt, step + 1)
    lr = whole(next(adaptation.settings.parameters()).detach())
    if first:
        print(f"learned inner learning rate {lr.item():.4f}, at first 0.02")


if __name__ == "__main__":
    main()
