"""``track_higher_grads=False``: nothing grows with the number of steps."""

from __future__ import annotations

import gc
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from unroll import regression

import higher
from higher.optim.registry import _generated_optimizers, find_diff_type

# momentum and weight decay wherever there are any
SETTINGS: dict[str, dict[str, Any]] = {
    "ASGD": {"weight_decay": 0.1, "t0": 2},
    "Adadelta": {"weight_decay": 0.1},
    "Adafactor": {"weight_decay": 0.1},
    "Adagrad": {"weight_decay": 0.1},
    "Adam": {"weight_decay": 0.1, "amsgrad": True},
    "AdamW": {"weight_decay": 0.1, "amsgrad": True},
    "Adamax": {"weight_decay": 0.1},
    "Muon": {"weight_decay": 0.1, "momentum": 0.9},
    "NAdam": {"weight_decay": 0.1},
    "RAdam": {"weight_decay": 0.1},
    "RMSprop": {"weight_decay": 0.1, "momentum": 0.9, "centered": True},
    "Rprop": {},
    "SGD": {"weight_decay": 0.1, "momentum": 0.9},
}


def optimizer(name: str, model: nn.Module) -> torch.optim.Optimizer:
    cls = getattr(torch.optim, name, None)
    if cls is None:
        pytest.skip(f"torch {torch.__version__} has no {name}")
    try:
        find_diff_type(cls)
    except ValueError:
        pytest.skip(f"{name} is not compiled")
    params = [p for p in model.parameters() if name != "Muon" or p.dim() == 2]
    return cls(params, lr=1e-3, **SETTINGS[name])


def _nodes(tensors: list[Tensor]) -> int:
    """Number of graph nodes reached from the tensors."""
    seen, todo = set(), [t.grad_fn for t in tensors if t.grad_fn is not None]
    while todo:
        node = todo.pop()
        if node is not None and node not in seen:
            seen.add(node)
            todo.extend(n for n, _ in node.next_functions)
    return len(seen)


def _live_tensors() -> tuple[int, int]:
    gc.collect()
    tensors = [o for o in gc.get_objects() if issubclass(type(o), Tensor)]
    return len(tensors), sum(t.numel() for t in tensors)


def _tensors(state: Any) -> list[Tensor]:
    if isinstance(state, Tensor):
        return [state]
    if isinstance(state, dict):
        state = list(state.values())
    if isinstance(state, (list, tuple)):
        return [t for s in state for t in _tensors(s)]
    return []


@pytest.mark.parametrize("name", SETTINGS)
def test_steps_in_test_mode_keep_no_tensor_and_no_graph(
    name: str, only_new: None
) -> None:
    model = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 2)).double()
    loss = regression()
    with higher.innerloop_ctx(
        model, optimizer(name, model), track_higher_grads=False
    ) as (fmodel, diff):
        counts = []
        for step in range(200):
            diff.step(loss(fmodel))
            if step in (4, 199):
                counts.append(_live_tensors())
                assert _nodes([*fmodel.parameters(), *_tensors(diff.state)]) == 0
        assert counts[0] == counts[1]
        assert all(p.is_leaf and p.requires_grad for p in fmodel.parameters())
        assert len(fmodel._fast_params) == 1


@pytest.mark.parametrize("copy", [True, False])
def test_steps_in_test_mode_follow_the_original_optimizer(copy: bool) -> None:
    model = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 2)).double()
    loss = regression()
    opt = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9, weight_decay=0.1)
    with higher.innerloop_ctx(
        model, opt, copy_initial_weights=copy, track_higher_grads=False
    ) as (fmodel, diff):
        for _ in range(5):
            diff.step(loss(fmodel))
    for _ in range(5):
        opt.zero_grad()
        loss(model).backward()
        opt.step()
    torch.testing.assert_close(
        [p.detach() for p in fmodel.parameters()],
        [p.detach() for p in model.parameters()],
    )


def test_weights_without_gradient_are_cut_from_the_graph_too() -> None:
    model = nn.Sequential(nn.Linear(3, 2), nn.Linear(3, 2)).double()
    opt = torch.optim.SGD(model.parameters(), lr=0.1)
    with higher.innerloop_ctx(
        model, opt, copy_initial_weights=False, track_higher_grads=False
    ) as (fmodel, diff):
        diff.step(regression()(fmodel[0]))
        assert all(p.is_leaf and p.requires_grad for p in fmodel.parameters())
