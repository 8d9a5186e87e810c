"""Adapted weights, buffers, state and settings, carried back to the originals: as if the
inner steps had been taken there."""

from __future__ import annotations

from collections.abc import Container
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from higher._carry import mapped
from higher._fsdp import refuse_written
from higher._tree import parameters_of
from higher._weights import fast_weights
from higher.optim.state import memory_of

if TYPE_CHECKING:
    from higher.optim.base import DifferentiableOptimizer


@torch.no_grad()
def write_weights(fmodel: nn.Module, module: nn.Module) -> None:
    """Writes the latest fast weights and the buffers of ``fmodel`` into ``module``.

    Copies without a graph, into the parameters that ``module`` has, so that its
    optimizers go on with them.

    Args:
        fmodel: a stateless module with fast weights.
        module: the one that it was made from, or another of the same structure.

    Raises:
        ValueError: ``fmodel`` has no fast weights, or weights differ in number or shape.
        TypeError: ``fmodel`` is not stateless, or ``module`` is, or it is sharded by
            ``fully_shard``.

    Examples:
        >>> model = torch.nn.Linear(3, 1)
        >>> opt = torch.optim.SGD(model.parameters(), lr=0.1)
        >>> with higher.innerloop_ctx(model, opt) as (fmodel, diffopt):
        ...     weights = diffopt.step(fmodel(torch.ones(2, 3)).sum())
        >>> higher.patch.write_back(fmodel, model)
        >>> bool((model.weight == weights[0]).all())
        True
    """
    if "_higher" not in fmodel.__dict__:
        raise TypeError(
            "write_back takes fast weights from a stateless module: the fmodel of "
            f"higher.innerloop_ctx, not a {type(fmodel).__name__}."
        )
    if "_higher" in module.__dict__:
        raise TypeError(
            "write_back writes into an ordinary module. Fast weights of a stateless one "
            "are replaced by its update_params."
        )
    latest, params = fast_weights(fmodel).at(None), parameters_of(module)
    if [w.shape for w in latest] != [p.shape for p in params]:
        raise ValueError(
            f"{len(latest)} fast weights of shapes {_shapes(latest)} don't fit the "
            f"module's {len(params)} parameters of shapes {_shapes(params)}."
        )
    refuse_written(params)
    for p, w in zip(params, latest):
        # a frozen one may be the very same
        if p.requires_grad or not torch.equal(p, w):
            p.copy_(w)
    _write_buffers(fmodel, module)


def _shapes(tensors: list[Tensor]) -> str:
    return ", ".join(str(tuple(t.shape)) for t in tensors[:8])


def _write_buffers(fmodel: nn.Module, module: nn.Module) -> None:
    there = dict(module.named_modules(remove_duplicate=False))
    for path, own in fmodel.named_modules():
        other = there.get(path)
        if other is None and own._buffers:
            raise ValueError(f"The module has no submodule {path!r}.")
        for name, value in own._buffers.items():
            assert other is not None
            held = other._buffers.get(name)
            if held is None or value is None or not _fits(held, value):
                new = None if value is None else value.detach().clone()
                persistent = name not in own._non_persistent_buffers_set
                if hasattr(other, name):
                    delattr(other, name)
                other.register_buffer(name, new, persistent)
            elif held is not value:
                held.copy_(value)


def _fits(held: Tensor, value: Tensor) -> bool:
    return held.shape == value.shape and held.dtype == value.dtype


@torch.no_grad()
def write_state(
    diffopt: DifferentiableOptimizer,
    opt: torch.optim.Optimizer,
    settings: bool = False,
) -> None:
    """Writes the state of ``diffopt`` into ``opt``: copies without a graph.

    Args:
        diffopt: a differentiable optimizer.
        opt: the one that it was made from, or another of the same type and groups.
        settings: whether the settings, too, are carried over: a learned ``lr``, say, as
            plain numbers where ``opt`` has numbers. What the steps themselves keep in
            the groups is state, and carried in any case.

    Raises:
        ValueError: the groups differ in number or size, or state has a dimension of
            tasks.

    Examples:
        >>> model = torch.nn.Linear(3, 1)
        >>> opt = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
        >>> with higher.innerloop_ctx(model, opt) as (fmodel, diffopt):
        ...     weights = diffopt.step(fmodel(torch.ones(2, 3)).sum())
        >>> higher.optim.write_back(diffopt, opt)
        >>> opt.state[model.bias]["momentum_buffer"]
        tensor([2.])
    """
    sizes = [len(g["params"]) for g in opt.param_groups]
    if sizes != [len(g["params"]) for g in diffopt.param_groups]:
        raise ValueError(
            f"The optimizer's groups have {sizes} parameters; the differentiable one's "
            f"{[len(g['params']) for g in diffopt.param_groups]}."
        )
    if diffopt._tasks is not None:
        raise ValueError(
            "This optimizer has a state for each task. Write back that of one: "
            "opt.load_state_dict of a state_dict whose tensors are indexed by the task."
        )
    params = {memory_of(p) for group in opt.param_groups for p in group["params"]}

    def back(value: Any, present: Any = None) -> Any:
        copied = mapped(value, Tensor, lambda t: t.detach().clone())
        return _like(present, copied, params)

    for group, own, states in zip(
        opt.param_groups, diffopt.param_groups, diffopt.state
    ):
        for i, p in enumerate(group["params"]):
            held = opt.state.pop(p, {})
            slots = states.get(i, {})
            if slots:
                opt.state[p] = {k: back(v, held.get(k)) for k, v in slots.items()}
        for name in own:
            if name != "params" and (settings or name in diffopt._kept_in_groups):
                group[name] = back(own[name], group.get(name))
    state: Any = opt.state
    for name, value in diffopt.shared.items():
        if name in diffopt._carried:
            setattr(opt, name, back(value, getattr(opt, name, None)))
        else:
            state[name] = back(value, state.get(name))


def _like(present: Any, value: Any, params: Container[Any]) -> Any:
    """``value`` as a number where one is there now: it may have become a tensor because
    a setting is one. What is a parameter by another name stays it."""
    if isinstance(present, Tensor) and memory_of(present) in params:
        return present
    if isinstance(present, (int, float)) and isinstance(value, Tensor):
        return value.item() if value.numel() == 1 else value
    if isinstance(present, (list, tuple)) and type(value) in (list, tuple):
        if len(present) == len(value):
            items = (_like(a, b, params) for a, b in zip(present, value))
            return type(value)(items)
    return value
