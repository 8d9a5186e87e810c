"""Layers and parameters that are put into a stateless module: they are fast weights, or
refused with the way to do it."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable
from typing import Any

import higher
import pytest
import torch
from torch import nn

HEAD: Callable[[], nn.Module] = lambda: nn.Linear(4, 3)


def model() -> nn.Sequential:
    return nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 2), nn.ModuleList())


def put(f: Any, way: str) -> None:
    if way == "index":
        f[2] = HEAD()
    elif way == "attribute":
        f.head = HEAD()
    elif way == "method":
        f.add_module("head", HEAD())
    elif way == "append":
        f.append(HEAD())
    elif way == "list":
        f[3].append(HEAD())
    elif way == "of a leaf":
        f[1].head = HEAD()
    elif way == "nested":
        f[2] = nn.Sequential(f[2], nn.ReLU(), HEAD())


WAYS = ["index", "attribute", "method", "append", "list", "of a leaf", "nested"]


@pytest.mark.parametrize("way", WAYS)
def test_refused(way: str) -> None:
    f = higher.monkeypatch(model())
    names = [n for n, _ in f.named_parameters()]
    with pytest.raises(TypeError, match=r"copy\.deepcopy\(model\).*innerloop_ctx"):
        put(f, way)
    assert [n for n, _ in f.named_parameters()] == names
    listed = zip(f.parameters(), f.named_parameters(), strict=True)
    assert all(p is q for p, (_, q) in listed)


@pytest.mark.parametrize("at", [[], [1], [2]])
def test_a_new_parameter_is_refused_at_the_next_step(at: list[int]) -> None:
    m = model()
    with higher.innerloop_ctx(m, torch.optim.SGD(m.parameters(), lr=0.1)) as (f, d):
        module: Any = f
        for i in at:
            module = module[i]
        module.scale = nn.Parameter(torch.ones(()))
        x = torch.ones(1, 3)
        with pytest.raises(TypeError, match=r"'scale' is a new.*copy\.deepcopy"):
            d.step((f[:3](x) * module.scale).sum())
        module.scale.requires_grad_(False)
        d.step((f[:3](x) * module.scale).sum())


def test_refused_at_the_next_step_where_a_container_was_changed_before() -> None:
    m = model()
    with higher.innerloop_ctx(m, torch.optim.SGD(m.parameters(), lr=0.1)) as (f, d):
        del f[3], f[2]
        f.append(HEAD())
        with pytest.raises(TypeError, match="a stateless module has parameters"):
            d.step(f(torch.ones(1, 3)).sum())


def test_the_way_that_is_told_trains_the_head() -> None:
    m = model()
    adapted: Any = copy.deepcopy(m)
    adapted[2], adapted[3] = HEAD(), nn.Identity()
    opt = torch.optim.SGD(adapted.parameters(), lr=0.1)
    with higher.innerloop_ctx(adapted, opt, copy_initial_weights=False) as (f, d):
        before = f[2].weight
        d.step(f(torch.ones(1, 3)).square().sum())
        assert f[2].weight.shape == (3, 4) and not torch.equal(f[2].weight, before)


def test_what_needs_no_training_is_taken() -> None:
    m = model()
    f: Any = higher.monkeypatch(m)
    f[1] = nn.ReLU()
    f[3] = nn.Identity()
    frozen = HEAD().requires_grad_(False)
    f.teacher = frozen
    f[0].norm = None
    f.swapped = f[2]  # a layer of its own in another place
    assert torch.equal(f.swapped.weight, m[2].weight) and f.teacher is frozen
    f[0].register_parameter("empty", None)
    f.scale = torch.ones(2)
    f.register_buffer("held", torch.ones(2))
    x = torch.ones(1, 3)
    wanted = m[2](m[0](x).relu())
    del f.teacher, f.swapped
    torch.testing.assert_close(f(x), wanted)


def test_copies_and_pickles_of_submodules_take_anything() -> None:
    f: Any = higher.monkeypatch(model())
    for layer in (copy.deepcopy(f[1]), pickle.loads(pickle.dumps(f[2]))):
        layer.head = HEAD()
        layer.scale = nn.Parameter(torch.ones(()))
    again: Any = copy.deepcopy(f)
    with pytest.raises(TypeError, match="parameters of its own"):
        again[1].head = HEAD()
