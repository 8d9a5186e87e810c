"""``fully_shard`` around a module whose forward runs inner loops."""

from __future__ import annotations

import gc
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
from torch.distributed._composable.replicate import replicate as by_reducer
from torch.distributed._composable.replicate_with_fsdp import (
    replicate as by_fully_shard,
)
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import (
    CPUOffloadPolicy,
    FSDPModule,
    FullyShardedDataParallel,
    MixedPrecisionPolicy,
    fully_shard,
)
from torch.distributed.tensor import DTensor
from torch.distributed.tensor.parallel import (
    ColwiseParallel,
    RowwiseParallel,
    parallelize_module,
)
from wrappers import fsdp, fsdp_layers, gather, mesh

import higher


def twice(wrapped: nn.Module, net: nn.Module | None = None, mine: Any = own) -> None:
    for seed in (2, 3):
        tasks = data(seed=seed)
        wrapped.zero_grad()
        wrapped(*mine(tasks)).backward()
        found = gradients(wrapped)
        assert_same(found, by_hand(net or Net(), *tasks)[1])
    assert all(isinstance(p, DTensor) for p in wrapped.parameters())


for wrapper, wrap in {"FSDP2": fsdp, "FSDP2 by layers": fsdp_layers}.items():
    for frozen in (False, True):

        def resharded(wrap: Any = wrap, frozen: bool = frozen) -> None:
            # frozen weights as large as that stay in the memory that is let go
            kinds = {"frozen": frozen, "width": 300 if frozen else 8}
            for unroll in (None, {"memory": "step"}):
                outer = Outer(Net(**kinds), unroll=unroll)
                twice(wrap(outer, reshard_after_forward=True), Net(**kinds))

        name = f"{wrapper}: resharded after forward{', frozen' * frozen}"
        feature = "`reshard_after_forward=True`"
        cell = None if frozen else (wrapper, feature, "right")
        add(Case(name, 2, resharded, cell))

    def accumulated(wrap: Any = wrap) -> None:
        wrapped: Any = wrap(Outer(Net()))
        first, last = data(seed=2), data(seed=3)
        wrapped.set_requires_gradient_sync(False)
        wrapped(*own(first)).backward()
        wrapped.set_requires_gradient_sync(True)
        wrapped(*own(last)).backward()
        wanted = [by_hand(Net(), *tasks)[1] for tasks in (first, last)]
        total = {name: wanted[0][name] + wanted[1][name] for name in wanted[0]}
        assert_same(gradients(wrapped), total)

    feature = "accumulated gradients"
    add(Case(f"{wrapper}: {feature}", 2, accumulated, (wrapper, feature, "right")))

    def stepped(wrap: Any = wrap) -> None:
        wrapped, alone = wrap(Outer(Net())), Outer(Net())
        opts = [torch.optim.Adam(m.parameters(), lr=0.01) for m in (wrapped, alone)]
        for seed in range(3):
            tasks = data(seed=seed)
            for m, opt, part in zip((wrapped, alone), opts, (own(tasks), tasks)):
                opt.zero_grad()
                m(*part).backward()
                opt.step()
        got = {n: p.detach().full_tensor() for n, p in wrapped.named_parameters()}
        assert_same(got, {n: p.detach() for n, p in alone.named_parameters()})

    add(Case(f"{wrapper}: outer steps", 2, stepped, (wrapper, "outer steps", "right")))
    feature = "ranks with different numbers of tasks"
    uneven = partial(lambda wrap: one_and_three_tasks(wrap), wrap)
    add(Case(f"{wrapper}: {feature}", 2, uneven, (wrapper, feature, "right")))
    four = partial(lambda wrap: twice(wrap(Outer(Net()))), wrap)
    add(Case(f"{wrapper}: four ranks", 4, four, (wrapper, "four ranks", "right")))


@case(cell=("FSDP2", "an inner loop outside of forward", "refused"))
def an_inner_loop_on_sharded_weights_is_refused() -> None:
    outer = Outer(Net())
    fully_shard(outer, mesh=mesh())
    with pytest.raises(TypeError, match=r"'0.weight' is sharded(.|\n)*in the forward"):
        higher.monkeypatch(outer.net)
    with pytest.raises(TypeError, match="'net.0.weight' is sharded"):
        higher.monkeypatch(outer)
    with pytest.raises(TypeError, match="'0.weight' is sharded"):
        higher.patch.make_functional(outer.net)


@case(cell=("FSDP2 by layers", "an inner loop outside of forward", "refused"))
def layers_that_are_not_gathered_are_refused() -> None:
    outer = Outer(Net())
    wrapped = fsdp_layers(outer)
    outer.gather = lambda: None
    with pytest.raises(TypeError, match=r"'0.weight' is sharded(.|\n)*unshard\(\)"):
        wrapped(*own(data()))


@case()
def an_optimizer_of_sharded_weights_is_refused() -> None:
    net = Net()
    outer = Outer(net)
    fully_shard(outer, mesh=mesh())
    opt = sgd(net.parameters())
    outer.opt = lambda params: opt
    with pytest.raises(ValueError, match="Make the inner optimizer in forward"):
        outer(*own(data()))


@case()
def a_module_that_ran_sharded_before_is_refused_again() -> None:
    outer = Outer(Net())
    wrapped = fsdp(outer)
    wrapped(*own(data())).backward()
    with pytest.raises(TypeError, match="is sharded"):
        higher.monkeypatch(outer.net)


@case()
def the_older_fsdp_is_refused() -> None:
    module = FullyShardedDataParallel.__new__(FullyShardedDataParallel)
    nn.Module.__init__(module)
    with pytest.raises(TypeError, match="flat tensors(.|\n)*fully_shard"):
        higher.monkeypatch(module)


@case()
def fast_weights_run_without_hooks_or_class_of_fully_shard() -> None:
    seen: list[nn.Module] = []

    class Looking(Outer):
        def forward(self, x: Tensor, y: Tensor) -> Tensor:
            self.gather()
            with higher.innerloop_ctx(self.net, sgd(self.net.parameters())) as (f, _):
                seen.append(f)
            return super().forward(x, y)

    fsdp_layers(Looking(Net()))(*own(data()))
    for m in seen[0].modules():
        assert not isinstance(m, FSDPModule)
        assert not m._forward_pre_hooks and not m._forward_hooks
        assert not m._state_dict_pre_hooks
    assert type(seen[0][0]) is nn.Linear
    fnet = seen[0]
    fnet.load_state_dict(Net().state_dict())
    x, y = data()
    assert torch.equal(fnet(x), Net()(x))


@case()
def writing_back_into_sharded_weights_is_refused() -> None:
    caught: list[str] = []

    class Writing(Outer):
        def forward(self, x: Tensor, y: Tensor) -> Tensor:
            fnet = higher.monkeypatch(self.net)
            with pytest.raises(TypeError, match="what is written then is lost"):
                higher.patch.write_back(fnet, self.net)
            caught.append("gathered")
            self.fnet = fnet
            return super().forward(x, y)

    outer = Writing(Net())
    wrapped = fsdp(outer)
    wrapped(*own(data())).backward()
    with pytest.raises(TypeError, match="can't be written back: they are parts"):
        higher.patch.write_back(outer.fnet, outer.net)
    assert caught == ["gathered"]


def live_bytes() -> int:
    """Memory of all tensors of this process."""
    gc.collect()
    storages = {
        t.untyped_storage().data_ptr(): t.untyped_storage().nbytes()
        for t in map(_local, gc.get_objects())
        if t is not None
    }
    return sum(storages.values())


def _local(value: Any) -> Tensor | None:
    if not issubclass(type(value), Tensor):
        return None
    local = value._local_tensor if isinstance(value, DTensor) else value
    return local if type(local) in (Tensor, nn.Parameter) else None


def outer_state(world: int) -> None:
    """Weights, their gradients and Adam's two averages: a quarter of each on four."""

    class Wide(nn.Sequential):
        def __init__(self) -> None:
            super().__init__(nn.Linear(3, 4096), nn.Linear(4096, 4), nn.Linear(4, 2))
            self.double()

    net = Wide()
    size = sum(p.numel() * p.element_size() for p in net.parameters())
    x, y = own(data())
    before = live_bytes() - size
    outer = Outer(net, learn=("lr",))
    wrapped = fully_shard(outer, mesh=mesh())
    opt = torch.optim.Adam(wrapped.parameters())
    for _ in range(2):
        opt.zero_grad()
        wrapped(x, y).backward()
        opt.step()
    held = live_bytes() - before
    # what is beside them: counters, the setting, communication's small buffers
    # less if something of earlier cases has gone meanwhile
    assert 0.98 <= held / (4 * size / world) <= 1.1, held / size


for world in (2, 4):
    cell = (
        ("FSDP2", "memory of the outer state is 1/n", "right") if world == 4 else None
    )
    name = f"FSDP2: outer state on {world} ranks"
    add(Case(name, world, partial(outer_state, world), cell))


def one_and_three_tasks(wrap: Any) -> None:
    tasks = data(tasks=4)
    part = slice(0, 1) if dist.get_rank() == 0 else slice(1, 4)
    x, y = (t[part] for t in tasks)
    wrapped = wrap(Outer(Net(), unroll={"memory": "step"}))
    loss = wrapped(x, y) * (len(x) * dist.get_world_size() / 4)
    loss.backward()
    assert_same(gradients(wrapped), by_hand(Net(), *tasks)[1])


@case()
def fully_shard_in_mixed_precision() -> None:
    """Weights are gathered in the dtype of the policy, and adapted in it."""
    policy = MixedPrecisionPolicy(param_dtype=torch.float32, reduce_dtype=torch.float64)
    wrapped = fsdp(Outer(Net()), mp_policy=policy)
    tasks = data()
    wrapped(*own(tasks)).backward()
    assert_same(gradients(wrapped), by_hand(Net(), *tasks)[1], 1e-4)


@case(cell=("FSDP2", "CPU offload", "right"))
def fully_shard_with_cpu_offload() -> None:
    policy = CPUOffloadPolicy(pin_memory=False)
    twice(fsdp(Outer(Net(), unroll={"memory": "step"}), offload_policy=policy))


@case(cell=("FSDP2 by layers", "several layers in one group", "right"))
def fully_shard_of_several_layers_together() -> None:
    outer = Outer(Net(), unroll={"memory": "step"})
    fully_shard([outer.net[0], outer.net[2]], mesh=mesh())
    outer.gather = partial(gather, outer.net)
    twice(fully_shard(outer, mesh=mesh()))


@case()
def replicate_as_a_function_is_like_ddp() -> None:
    """Both of torch's: by DDP's reducer, and by what ``fully_shard`` is made of."""
    for replicate in (by_reducer, partial(by_fully_shard, mesh=mesh())):
        outer = Outer(Net(), unroll={"memory": "step"})
        replicate(outer)
        outer(*own(data())).backward()
        assert_same(gradients(outer), by_hand(Net(), *data())[1])


@case(world=4, cell=("FSDP2", "replicated groups of shards (HSDP)", "right"))
def replicated_groups_of_shards() -> None:
    two = init_device_mesh("cpu", (2, 2), mesh_dim_names=("replicate", "shard"))
    twice(fully_shard(Outer(Net()), mesh=two))


@case(world=4, cell=("FSDP2", "with tensor parallel", "right"))
def sharded_over_two_and_tensor_parallel_over_two() -> None:
    two = init_device_mesh("cpu", (2, 2), mesh_dim_names=("data", "tensor"))
    outer = Outer(Net(), unroll={"memory": "step"})
    plan = {"0": ColwiseParallel(), "2": RowwiseParallel()}
    parallelize_module(outer.net, two["tensor"], plan)

    def mine(tasks: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
        x, y = (t.chunk(2)[dist.get_rank() // 2] for t in tasks)
        return x, y

    twice(fully_shard(outer, mesh=two["data"]), mine=mine)
