"""What is done to the outer module, and what every wrapper is asked for."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import torch.distributed as dist
from problem import Net, Outer, assert_same, by_hand, data, gradients, own
from ranks import Case, add
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FSDPModule, fully_shard
from torch.distributed.tensor.parallel import (
    ColwiseParallel,
    RowwiseParallel,
    parallelize_module,
)
from torch.nn.parallel import DistributedDataParallel
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


def mesh() -> Any:
    return init_device_mesh("cpu", (dist.get_world_size(),))


def ddp(outer: Outer, **options: Any) -> nn.Module:
    return DistributedDataParallel(outer, **options)


def fsdp(outer: Outer, **options: Any) -> nn.Module:
    return fully_shard(outer, mesh=mesh(), **options)


def fsdp_layers(outer: Outer, **options: Any) -> nn.Module:
    for layer in outer.net:
        if any(True for _ in layer.parameters()):
            fully_shard(layer, mesh=mesh(), **options)
    outer.gather = partial(gather, outer.net)
    return fully_shard(outer, mesh=mesh(), **options)


def gather(net: nn.Module) -> None:
    for m in net.modules():
        if isinstance(m, FSDPModule):
            m.unshard()


def tensor_parallel(outer: Outer) -> nn.Module:
    plan = {"0": ColwiseParallel(), "2": RowwiseParallel()}
    parallelize_module(outer.net, mesh(), plan)
    return outer


Wrapper = Callable[..., nn.Module]

WRAPPERS: dict[str, Wrapper] = {
    "DDP": ddp,
    "FSDP2": fsdp,
    "FSDP2 by layers": fsdp_layers,
    "tensor parallel": tensor_parallel,
}

FEATURES: dict[str, dict[str, Any]] = {
    "a plain loop": {},
    '`memory="step"`': {"unroll": {"memory": "step"}},
    '`memory="low"`': {"unroll": {"memory": "low"}, "steps": 20},
    "`memory=3`": {"unroll": {"memory": 3}, "steps": 7},
    '`mode="forward"`': {
        "unroll": {"mode": "forward"},
        "context": {"copy_initial_weights": True},
    },
    "`truncate=2`": {"context": {"truncate": 2}},
    "`unroll(truncate=2)`": {"unroll": {"truncate": 2, "memory": "step"}},
    "`order=1`": {"context": {"order": 1}},
    "`tasks=`": {"together": True},
    '`tasks=`, `memory="step"`': {"together": True, "unroll": {"memory": "step"}},
    '`tasks=`, `memory="low"`': {
        "together": True,
        "unroll": {"memory": "low"},
        "steps": 20,
    },
    "`tasks=`, frozen weights": {"together": True, "net": {"frozen": True}},
    "`tasks=`, BatchNorm": {"together": True, "net": {"norm": True}},
    "frozen weights": {"net": {"frozen": True}},
    "buffers (BatchNorm)": {"net": {"norm": True}},
}


MAPPED = tuple(
    feature for feature, options in FEATURES.items() if "together" in options
)
REFUSED = {
    *(("tensor parallel", feature) for feature in MAPPED),
    ("tensor parallel", '`mode="forward"`'),
    ("tensor parallel", "`truncate=2`"),
}
"""Cases of their own."""


def check(wrap: Wrapper, options: Mapping[str, Any], shared: bool) -> None:
    """Meta-gradients equal those of one process on all tasks.

    Args:
        wrap: the wrapper.
        options: of a feature.
        shared: whether ranks compute the same together, not each its own tasks.
    """
    options = dict(options)
    kinds = options.pop("net", {})
    outer = Outer(Net(**kinds), **options)
    unroll, context = options.get("unroll") or {}, options.get("context", {})
    forward = unroll.get("mode") == "forward"
    # what has no gradient at all, DDP has to be told of
    cut = unroll.get("truncate", context.get("truncate"))
    unused = forward or cut is not None
    extra = {"find_unused_parameters": True} if wrap is ddp and unused else {}
    wrapped = wrap(outer, **extra)
    wrapped(*(data() if shared else own(data()))).backward()
    steps = options.get("steps", 4)
    order = context.get("order", 2)
    _, wanted = by_hand(Net(**kinds), *data(), steps, order, cut, not forward)
    assert_same(gradients(wrapped), wanted)


for wrapper, wrap in WRAPPERS.items():
    for feature, options in FEATURES.items():
        name = f"{wrapper}: {feature}"
        shared = wrap is tensor_parallel
        run = partial(check, wrap, options, shared)
        if (wrapper, feature) not in REFUSED:
            add(Case(name, 2, run, (wrapper, feature, "right")))


class Collectives(TorchDispatchMode):
    """Counts collectives and the bytes that each is given."""

    def __init__(self) -> None:
        super().__init__()
        self.bytes: dict[str, list[int]] = {}

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        if func.namespace == "c10d":
            given = sum(t.nbytes for t in tree_leaves(args[0]) if isinstance(t, Tensor))
            self.bytes.setdefault(func.__name__, []).append(given)
        return func(*args, **(kwargs or {}))


def communicates_once(wrap: Wrapper) -> None:
    """Whatever the number of inner steps: weights are gathered, gradients reduced."""
    found = []
    for steps in (2, 5):
        wrapped = wrap(Outer(Net(), steps=steps, unroll={"memory": "step"}))
        tasks = own(data())
        wrapped(*tasks).backward()
        with Collectives() as counted:
            wrapped(*tasks).backward()
        found.append(counted.bytes)
    assert found[0] == found[1]
    size = sum(p.numel() * p.element_size() for p in Outer(Net()).parameters())
    if wrap is ddp:
        assert found[0]["allreduce_.default"] == [size]
    else:
        # what FSDP pads to parts of one size
        gathered = found[0]["_allgather_base_.default"]
        assert size <= sum(gathered) <= size + 64
        assert len(found[0]["_reduce_scatter_base_.default"]) == len(gathered)


for wrapper, wrap in WRAPPERS.items():
    if wrap is not tensor_parallel:
        feature = "no communication between inner steps"
        run = partial(communicates_once, wrap)
        add(Case(f"{wrapper}: {feature}", 2, run, (wrapper, feature, "right")))
