"""DistributedDataParallel around a module whose forward runs inner loops."""

from __future__ import annotations

import warnings
from functools import partial
from typing import Any

import pytest
import torch
import torch.distributed as dist
from problem import (
    Net,
    Outer,
    assert_same,
    by_hand,
    data,
    gradients,
    mse,
    own,
    sgd,
)
from ranks import Case, add, case
from torch import Tensor, nn
from torch.distributed.algorithms.join import Join
from torch.nn.parallel import DistributedDataParallel as DDP

import higher


def same(outer: Outer | None = None, **options: Any) -> None:
    """Twice: what DDP has learned of the first backward, it uses in the second."""
    wrapped = DDP(Outer(Net()) if outer is None else outer, **options)
    for seed in (2, 3):
        tasks = data(seed=seed)
        wrapped.zero_grad()
        wrapped(*own(tasks)).backward()
        assert_same(gradients(wrapped), by_hand(Net(), *tasks)[1])


OPTIONS: dict[str, dict[str, Any]] = {
    "`find_unused_parameters`": {"find_unused_parameters": True},
    "`static_graph`": {"static_graph": True},
    "small buckets": {"bucket_cap_mb": 1e-4, "gradient_as_bucket_view": True},
}

for feature, options in OPTIONS.items():
    add(Case(f"DDP: {feature}", 2, partial(same, **options), ("DDP", feature, "right")))
    low = partial(same, Outer(Net(), unroll={"memory": "step"}), **options)
    add(Case(f"DDP: {feature}, in little memory", 2, low))


@case(cell=("DDP", "accumulated gradients", "right"))
def ddp_accumulates_without_synchronizing_until_the_last() -> None:
    wrapped = DDP(Outer(Net()))
    first, last = data(seed=2), data(seed=3)
    with wrapped.no_sync():
        wrapped(*own(first)).backward()
    wrapped(*own(last)).backward()
    wanted = [by_hand(Net(), *tasks)[1] for tasks in (first, last)]
    total = {name: wanted[0][name] + wanted[1][name] for name in wanted[0]}
    assert_same(gradients(wrapped), total)


@case(cell=("DDP", "four ranks", "right"), world=4)
def ddp_on_four_ranks() -> None:
    same()


@case(cell=("DDP", "outer steps", "right"))
def ddp_ranks_stay_together_over_outer_steps() -> None:
    torch.manual_seed(dist.get_rank())
    wrapped, alone = DDP(Outer(Net(norm=True))), Outer(Net(norm=True))
    outers = [wrapped, alone]
    opts = [torch.optim.Adam(m.parameters(), lr=0.01) for m in outers]
    for seed in range(3):
        tasks = data(seed=seed)
        for m, opt, part in zip(outers, opts, (own(tasks), tasks)):
            opt.zero_grad()
            m(*part).backward()
            opt.step()
    got = {n: p.detach() for n, p in wrapped.module.named_parameters()}
    assert_same(got, {n: p.detach() for n, p in alone.named_parameters()})


@case(cell=("DDP", "ranks with different numbers of tasks", "right"))
def ddp_with_one_and_three_tasks() -> None:
    """DDP averages over ranks: each weighs its mean by its part of all tasks."""
    tasks = data(tasks=4)
    part = slice(0, 1) if dist.get_rank() == 0 else slice(1, 4)
    x, y = (t[part] for t in tasks)
    count = torch.tensor(len(x))
    dist.all_reduce(count)
    wrapped = DDP(Outer(Net()))
    loss = wrapped(x, y) * (len(x) * dist.get_world_size() / count.item())
    loss.backward()
    assert_same(gradients(wrapped), by_hand(Net(), *tasks)[1])


@case(cell=("DDP", "a rank that has no task left", "right"))
def ddp_with_ranks_that_end_early() -> None:
    wrapped = DDP(Outer(Net()))
    batches = [data(2, seed) for seed in range(3)]
    mine = batches[:1] if dist.get_rank() == 0 else batches[1:]
    opt = torch.optim.SGD(wrapped.parameters(), lr=0.01)
    with Join([wrapped]):
        for tasks in mine:
            opt.zero_grad()
            wrapped(*tasks).backward()
            opt.step()
    alone = Outer(Net())
    opt = torch.optim.SGD(alone.parameters(), lr=0.01)
    # a rank that has ended counts with zeros, and steps no more by itself
    for together in ([batches[0], batches[1]], [batches[2]]):
        opt.zero_grad()
        for tasks in together:
            (alone(*tasks) / 2).backward()
        opt.step()
    got = {n: p.detach() for n, p in wrapped.module.named_parameters()}
    assert_same(got, {n: p.detach() for n, p in alone.named_parameters()})


@case(cell=("DDP", "an inner loop outside of forward", "warned"))
def an_inner_loop_outside_of_ddp_s_forward_warns() -> None:
    net = Net()
    wrapped = DDP(net)
    x, y = (t[0] for t in own(data()))

    def run(model: nn.Module, **options: Any) -> Tensor:
        with higher.innerloop_ctx(model, sgd(net.parameters()), **options) as (f, d):
            d.step(mse(f, (x, y)))
            return mse(f, (x, y))

    with pytest.warns(UserWarning, match="inside DistributedDataParallel.*average"):
        loss = run(wrapped.module, copy_initial_weights=False)
    lr = torch.tensor(0.1, requires_grad=True)
    with pytest.warns(UserWarning, match="inside DistributedDataParallel"):
        run(wrapped.module, override={"lr": [lr]})
    with warnings.catch_warnings():
        # nothing of the outer model learns from these
        warnings.simplefilter("error")
        run(wrapped.module)
        run(wrapped.module, copy_initial_weights=False, track_higher_grads=False)
    loss.backward()
    # what the warning advises
    for p in net.parameters():
        dist.all_reduce(p.grad)
        p.grad /= dist.get_world_size()
    mean = {n: p.grad.clone() for n, p in net.named_parameters()}
    both = [torch.zeros_like(mean["0.weight"]) for _ in range(2)]
    dist.all_gather(both, mean["0.weight"])
    assert torch.equal(*both)
    assert_same(mean, _mean_of_both())


def _mean_of_both() -> dict[str, Tensor]:
    total: dict[str, Tensor] = {}
    x, y = data()
    for a, b in ((x[0], y[0]), (x[2], y[2])):
        net = Net()
        loss = _one_step_by_hand(net, a, b)
        grads = torch.autograd.grad(loss, list(net.parameters()))
        for (n, _), g in zip(net.named_parameters(), grads):
            total[n] = total.get(n, 0) + g / 2
    return total


def _one_step_by_hand(net: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    params = dict(net.named_parameters())
    loss = mse(net, (x, y))
    grads = torch.autograd.grad(loss, list(params.values()), create_graph=True)
    new = {n: p - 0.1 * g for (n, p), g in zip(params.items(), grads)}
    return mse(lambda a: torch.func.functional_call(net, new, (a,)), (x, y))


@case(cell=("DDP", "passed to innerloop_ctx itself", "refused"))
def ddp_itself_is_refused() -> None:
    net = Net()
    wrapped = DDP(net)
    with pytest.raises(TypeError, match=r"in its own forward(.|\n)*average"):
        with higher.innerloop_ctx(wrapped, sgd(net.parameters())):
            pass
