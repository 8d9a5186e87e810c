"""Fast weights that are DTensors."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from problem import Net, Outer, assert_same, by_hand, data, gradients, mse, whole
from problem import sgd as problem_sgd
from ranks import Case, add, case
from torch import Tensor, nn
from torch.distributed.tensor import (
    DTensor,
    Partial,
    Replicate,
    Shard,
    distribute_tensor,
)
from torch.distributed.tensor.parallel import (
    ColwiseParallel,
    RowwiseParallel,
    SequenceParallel,
    loss_parallel,
    parallelize_module,
)
from wrappers import MAPPED, mesh, tensor_parallel

import higher
from higher._dtensor import norms_of

OPTIMIZERS: dict[str, tuple[Callable[..., torch.optim.Optimizer], tuple[str, ...]]] = {
    "SGD": (
        partial(torch.optim.SGD, momentum=0.9, weight_decay=0.1),
        ("lr", "momentum", "dampening", "weight_decay"),
    ),
    "Adam": (
        partial(torch.optim.Adam, amsgrad=True, weight_decay=0.1),
        ("lr", "betas", "eps", "weight_decay"),
    ),
    "AdamW": (torch.optim.AdamW, ("lr", "betas", "eps", "weight_decay")),
    "NAdam": (torch.optim.NAdam, ("lr", "betas", "eps", "momentum_decay")),
    "RAdam": (torch.optim.RAdam, ("lr", "betas", "eps")),
    "Adamax": (torch.optim.Adamax, ("lr", "betas", "eps")),
    "Adadelta": (torch.optim.Adadelta, ("lr", "rho", "eps")),
    "Adagrad": (torch.optim.Adagrad, ("lr", "lr_decay", "eps")),
    "ASGD": (torch.optim.ASGD, ("lr", "lambd", "alpha")),
    "RMSprop": (
        partial(torch.optim.RMSprop, momentum=0.9, centered=True),
        ("lr", "alpha", "eps", "momentum"),
    ),
    "Rprop": (torch.optim.Rprop, ("etas",)),
    "Adafactor": (torch.optim.Adafactor, ("lr", "beta2_decay", "d")),
    "Muon": (torch.optim.Muon, ("lr", "momentum")),
}


def parallel(net: nn.Module) -> nn.Module:
    parallelize_module(net, mesh(), {"0": ColwiseParallel(), "2": RowwiseParallel()})
    return net


def meta_gradients(
    net: nn.Module, name: str, used: int = 0, **unroll: Any
) -> dict[str, Tensor]:
    """Of initial weights and settings, whole.

    Args:
        net: is stepped ``used`` times before, so that the optimizer has state.
        name: of the optimizer.
        used: see above.
        unroll: arguments for ``higher.unroll``.
    """
    make, learn = OPTIMIZERS[name]
    x, y = (t[0] for t in data())
    stepped = [p for p in net.parameters() if name != "Muon" or p.dim() == 2]
    opt = make(stepped)
    for _ in range(used):
        mse(net, (x, y)).backward()
        opt.step()
        opt.zero_grad()
    settings = higher.optim.Settings(opt, learn, dtype=torch.float64)
    with higher.innerloop_ctx(
        net, opt, copy_initial_weights=False, override=settings
    ) as (fnet, diffopt):
        # RAdam's first five steps are without some of its settings
        steps = 7 if name == "RAdam" else 3
        higher.unroll(fnet, diffopt, mse, [(x, y)] * steps, **unroll)
        mse(fnet, (x, y)).backward()
    named = {**dict(net.named_parameters()), **dict(settings.named_parameters())}
    assert all(type(p.grad) is Tensor for p in settings.parameters())
    return {n: whole(p.grad) for n, p in named.items() if p.grad is not None}


def same(name: str, **kwargs: Any) -> None:
    # ASGD keeps its step size in the default dtype
    torch.set_default_dtype(torch.float64)
    try:
        wanted = meta_gradients(Net(), name, **kwargs)
        got = meta_gradients(parallel(Net()), name, **kwargs)
    finally:
        torch.set_default_dtype(torch.float32)
    # Muon computes in bfloat16, where the order of a sum tells
    assert_same(got, wanted, *([1e-2] if name == "Muon" else []))


for optimizer in OPTIMIZERS:
    cell = ("tensor parallel", "an inner loop outside of forward", "right")
    add(Case(f"DTensor: {optimizer}", 2, partial(same, optimizer), cell))
for optimizer in ("SGD", "Adam"):
    run = partial(same, optimizer, used=2, memory="step")
    add(Case(f"DTensor: a used {optimizer}", 2, run))


@case()
def an_update_without_a_rule_for_dtensors_is_refused_by_the_optimizer_s_name() -> None:
    class Orthogonal(higher.optim.DifferentiableOptimizer):
        def _update(self, grouped_grads: Any, **kwargs: Any) -> None:
            for group, grads in zip(self.param_groups, grouped_grads):
                for i, (p, g) in enumerate(zip(group["params"], grads)):
                    group["params"][i] = p - torch.linalg.qr(g).Q if p.dim() == 2 else p

    net = parallel(Net())
    fnet = higher.monkeypatch(net)
    opt = Orthogonal(problem_sgd(net.parameters()), net.parameters(), fnet)
    x, y = (t[0] for t in data())
    with pytest.raises(RuntimeError, match="Orthogonal can't step.*DTensor(.|\n)*DDP"):
        opt.step(mse(fnet, (x, y)))


@case(cell=("tensor parallel", "`truncate=2`", "refused"))
def a_plain_loop_that_truncates_on_dtensors_is_refused() -> None:
    net = parallel(Net())
    with pytest.raises(ValueError, match="Pass truncate to higher.unroll"):
        with higher.innerloop_ctx(net, problem_sgd(net.parameters()), truncate=2):
            pass


def under_loss_parallel(net: nn.Module, order: int) -> dict[str, Tensor]:
    x, y = data()[0][0], torch.arange(10) % 2
    with higher.innerloop_ctx(
        net, problem_sgd(net.parameters()), copy_initial_weights=False, order=order
    ) as (fnet, diffopt):
        for _ in range(2):
            diffopt.step(F.cross_entropy(fnet(x), y))
        F.cross_entropy(fnet(x), y).backward()
    return {n: whole(p.grad) for n, p in net.named_parameters()}


@case(cell=("tensor parallel", "inner steps under `loss_parallel`", "refused"))
def inner_steps_under_loss_parallel_are_refused_and_of_first_order_right() -> None:
    plan = {"4": ColwiseParallel(use_local_output=False)}
    with loss_parallel():
        with pytest.raises(RuntimeError, match="outputs whole on each rank"):
            under_loss_parallel(parallelize_module(Net(), mesh(), plan), 2)
        got = under_loss_parallel(parallelize_module(Net(), mesh(), plan), 1)
    assert_same(got, under_loss_parallel(Net(), 1))


@case(cell=("tensor parallel", MAPPED, "refused"))
def tasks_of_dtensors_are_refused() -> None:
    net = parallel(Net())
    with pytest.raises(ValueError, match="dimension of tasks.*vmap has no rules"):
        with higher.innerloop_ctx(net, problem_sgd(net.parameters()), tasks=2):
            pass


@case(cell=("tensor parallel", '`mode="forward"`', "refused"))
def forward_mode_on_dtensors_is_refused() -> None:
    net = parallel(Net())
    with higher.innerloop_ctx(net, problem_sgd(net.parameters())) as (fnet, diffopt):
        with pytest.raises(ValueError, match="no forward-mode rules"):
            higher.unroll(fnet, diffopt, mse, [data()] * 2, mode="forward")


@case()
def a_layer_in_parallel_between_two_plain_ones() -> None:
    """Its input has a gradient of its own, which is differentiated again."""
    outers = [Outer(Net()), Outer(Net())]
    plan = ColwiseParallel(output_layouts=Replicate())
    parallelize_module(outers[0].net[2], mesh(), plan)
    for outer in outers:
        outer(*data()).backward()
    assert_same(*map(gradients, outers))


@case()
def dtensors_and_plain_parameters_in_one_group() -> None:
    def make(split: bool) -> nn.Module:
        net = Net()
        if split:
            parallelize_module(
                net[2], mesh(), ColwiseParallel(output_layouts=Replicate())
            )
        return net

    assert_same(meta_gradients(make(True), "Adam"), meta_gradients(make(False), "Adam"))


@case()
def a_net_whose_parameters_are_all_sharded_and_whose_inputs_are_dtensors() -> None:
    """Of uneven parts, and a loss that is a DTensor, too."""
    x, y = (t[0] for t in data())
    found = []
    for part in (False, True):
        net = nn.Sequential(nn.Linear(3, 5), nn.Tanh(), nn.Linear(5, 2)).double()
        net.load_state_dict(found[0][1] if part else net.state_dict())
        values = {n: p.detach().clone() for n, p in net.state_dict().items()}
        if part:
            for m in net[::2]:
                for n, p in list(m.named_parameters()):
                    shards = nn.Parameter(distribute_tensor(p, mesh(), [Shard(0)]))
                    m.register_parameter(n, shards)
        a, b = (
            distribute_tensor(t, mesh(), [Replicate()]) if part else t for t in (x, y)
        )
        settings = higher.optim.Settings(problem_sgd(net.parameters()), ["lr"])
        with higher.innerloop_ctx(
            net,
            problem_sgd(net.parameters()),
            copy_initial_weights=False,
            override=settings,
        ) as (fnet, diffopt):
            higher.unroll(fnet, diffopt, mse, [(a, b)] * 3, memory="step")
            mse(fnet, (a, b)).backward()
        assert all(isinstance(p, DTensor) == part for p in fnet.parameters())
        grads = [*net.parameters(), *settings.parameters()]
        found.append(({f"{i}": whole(p.grad) for i, p in enumerate(grads)}, values))
    assert_same(found[1][0], found[0][0])


class Block(nn.Module):
    """A transformer's: attention and a feed-forward net around a residual stream."""

    def __init__(self) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(8), nn.LayerNorm(8)
        self.q, self.k, self.v = (nn.Linear(8, 8, bias=False) for _ in range(3))
        self.out = nn.Linear(8, 8)
        self.up, self.down = nn.Linear(8, 16), nn.Linear(16, 8)

    def forward(self, x: Tensor) -> Tensor:
        h = self.norm1(x)
        q, k, v = (m(h).unflatten(-1, (-1, 4)).transpose(1, 2) for m in self.qkv())
        attention = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        x = x + self.out(attention.transpose(1, 2).flatten(2))
        return x + self.down(F.gelu(self.up(self.norm2(x))))

    def qkv(self) -> tuple[nn.Module, ...]:
        return self.q, self.k, self.v


class Transformer(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(12, 8)
        self.blocks = nn.Sequential(Block(), Block())
        self.norm = nn.LayerNorm(8)
        self.head = nn.Linear(8, 12)

    def forward(self, ids: Tensor) -> Tensor:
        return self.head(self.norm(self.blocks(self.embed(ids))))


BLOCK = {
    **{name: ColwiseParallel() for name in ("q", "k", "v", "up")},
    **{name: RowwiseParallel() for name in ("out", "down")},
}
SEQUENCE = {
    "norm1": SequenceParallel(),
    "norm2": SequenceParallel(),
    "q": ColwiseParallel(input_layouts=Shard(1)),
    "k": ColwiseParallel(input_layouts=Shard(1)),
    "v": ColwiseParallel(input_layouts=Shard(1)),
    "up": ColwiseParallel(input_layouts=Shard(1)),
    "out": RowwiseParallel(output_layouts=Shard(1)),
    "down": RowwiseParallel(output_layouts=Shard(1)),
}


def split_by_heads(model: Transformer) -> None:
    for block in model.blocks:
        parallelize_module(block, mesh(), BLOCK)
    ends = {
        "embed": RowwiseParallel(input_layouts=Replicate()),
        "head": ColwiseParallel(output_layouts=Replicate()),
    }
    parallelize_module(model, mesh(), ends)


def split_by_heads_and_sequence(model: Transformer) -> None:
    for block in model.blocks:
        parallelize_module(block, mesh(), SEQUENCE)
    ends = {
        "embed": RowwiseParallel(input_layouts=Replicate(), output_layouts=Shard(1)),
        "norm": SequenceParallel(),
        "head": ColwiseParallel(input_layouts=Shard(1), output_layouts=Replicate()),
    }
    parallelize_module(model, mesh(), ends)


def transformer(split: Callable[[Transformer], None]) -> None:
    """Meta-gradients of two steps of AdamW, in parallel and on one process."""
    ids = torch.randint(0, 12, (2, 7), generator=torch.Generator().manual_seed(1))

    def loss(model: nn.Module) -> Tensor:
        return F.cross_entropy(
            model(ids[:, :-1])[..., :-1, :].flatten(0, 1), ids[:, 2:].flatten()
        )

    found = []
    for part in (False, True):
        torch.manual_seed(0)
        model = Transformer().double()
        if part:
            split(model)
        # with the usual eps a gradient near zero makes much of its rounding
        opt = torch.optim.AdamW(model.parameters(), lr=0.1, eps=1e-3)
        with higher.innerloop_ctx(model, opt, copy_initial_weights=False) as (f, d):
            for _ in range(2):
                d.step(loss(f))
            loss(f).backward()
        assert all(p.grad is not None for p in model.parameters())
        found.append({n: whole(p.grad) for n, p in model.named_parameters()})
    assert_same(found[1], found[0])


for split in (split_by_heads, split_by_heads_and_sequence):
    cell = (
        "tensor parallel",
        f"a transformer, {split.__name__.replace('_', ' ')}",
        "right",
    )
    add(Case(f"transformer_{split.__name__}", 2, partial(transformer, split), cell))


@case(world=4, cell=("tensor parallel", "four ranks", "right"))
def tensor_parallel_on_four_ranks() -> None:
    wrapped = tensor_parallel(Outer(Net(), unroll={"memory": "step"}))
    wrapped(*data()).backward()
    assert_same(gradients(wrapped), by_hand(Net(), *data())[1])


@case(cell=("tensor parallel", ("outer steps", "accumulated gradients"), "right"))
def tensor_parallel_over_outer_steps() -> None:
    """Of two backwards each."""
    outers = [tensor_parallel(Outer(Net())), Outer(Net())]
    opts = [torch.optim.Adam(m.parameters(), lr=0.01) for m in outers]
    for seed in range(3):
        for m, opt in zip(outers, opts):
            opt.zero_grad()
            for part in (0, 1):
                m(*data(seed=10 * seed + part)).backward()
            opt.step()
    found = [{n: whole(p.detach()) for n, p in m.named_parameters()} for m in outers]
    assert_same(*found)


@case()
def norms_of_dtensors_are_those_of_the_whole_tensors() -> None:
    """Sharded evenly or not, replicated, a sum in parts, complex, and plain ones."""
    torch.manual_seed(0)
    full = [torch.randn(4, 3), torch.randn(5), torch.randn(1, 2), torch.randn(3)]
    full += [torch.randn(4, dtype=torch.complex64)]
    placements = [[Shard(0)], [Shard(0)], [Shard(0)], [Replicate()], [Shard(0)]]
    tensors = [distribute_tensor(t, mesh(), p) for t, p in zip(full, placements)]
    parts = DTensor.from_local(torch.ones(3), mesh(), [Partial()])
    with torch.no_grad():
        found = norms_of([*tensors, parts, torch.ones(4)])
    wanted = [torch.linalg.vector_norm(t) for t in full]
    wanted += [torch.full((3,), 2.0).norm(), torch.tensor(2.0)]
    for got, norm in zip(found, wanted, strict=True):
        torch.testing.assert_close(got.float(), norm)
