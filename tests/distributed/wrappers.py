"""What is done to the outer module, and what every wrapper is asked for."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import torch.distributed as dist
from problem import Net, Outer, assert_same, by_hand, data, gradients, own
from ranks import Case, add
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FSDPModule, fully_shard
from torch.distributed.tensor.parallel import (
    ColwiseParallel,
    RowwiseParallel,
    parallelize_module,
)
from torch.nn.parallel import DistributedDataParallel


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
    "frozen weights": {"net": {"frozen": True}},
    "buffers (BatchNorm)": {"net": {"norm": True}},
}


REFUSED = {
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
