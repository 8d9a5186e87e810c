"""What is adapted is carried back, and plain training goes on as if the inner steps had
been taken there."""

from __future__ import annotations

import copy
import gc
import inspect
from typing import Any

import higher
import pytest
import torch
from higher._generated import OPTIMIZERS
from torch import Tensor, nn

PATHS = sorted(set(OPTIMIZERS) - {"torch.optim.SparseAdam"})


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.norm = nn.Linear(3, 4, bias=False), nn.BatchNorm1d(4)
        self.frozen = nn.Linear(4, 4).requires_grad_(False)
        self.last = nn.Linear(4, 2, bias=False)
        self.register_buffer("total", None, persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        h = self.frozen(self.norm(self.first(x)).tanh())
        total = h.detach().sum(0)
        self.total = total if self.total is None else self.total + total
        out: Tensor = self.last(h)
        return out


def net(seed: int = 0) -> Net:
    torch.manual_seed(seed)
    return Net()


def data(steps: int = 6) -> list[Tensor]:
    generator = torch.Generator().manual_seed(1)
    return list(torch.randn(steps, 5, 3, generator=generator))


def loss_of(f: Any, x: Tensor) -> Tensor:
    loss: Tensor = (f(x) - x[:, :2].sin()).square().mean()
    return loss


def build(path: str, model: nn.Module, **kwargs: Any) -> torch.optim.Optimizer:
    cls: Any = getattr(torch.optim, path.rsplit(".", 1)[1], None)
    if cls is None:
        pytest.skip("this torch has no such optimizer")
    params = [p for p in model.parameters() if p.dim() == 2 or "Muon" not in path]
    if "momentum" in inspect.signature(cls).parameters and "Muon" not in path:
        kwargs["momentum"] = 0.9
    half = len(params) // 2
    groups = [{"params": params[:half]}, {"params": params[half:], "lr": 0.03}]
    opt: torch.optim.Optimizer = cls(groups, lr=0.02, **kwargs)
    return opt


def train(model: nn.Module, opt: torch.optim.Optimizer, batches: list[Tensor]) -> None:
    for x in batches:
        opt.zero_grad()
        loss_of(model, x).backward()
        opt.step()


def tensors(model: nn.Module, opt: torch.optim.Optimizer) -> list[Any]:
    buffers = [b for b in model.buffers()]
    state = [copy.deepcopy(dict(opt.state[p])) for p in opt.state]
    return [[p.detach() for p in model.parameters()], buffers, state]


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("used", [False, True])
def test_plain_training_goes_on_bit_for_bit(path: str, used: bool) -> None:
    plain, model = net(), net()
    plain_opt, opt = build(path, plain), build(path, model)
    for m, o in ((plain, plain_opt), (model, opt)):
        train(m, o, data()[:2] if used else [])
    train(plain, plain_opt, data()[2:4])
    with higher.innerloop_ctx(model, opt) as (f, d):
        for x in data()[2:4]:
            d.step(loss_of(f, x))
        higher.patch.write_back(f, model)
        higher.optim.write_back(d, opt)
    same(tensors(model, opt), tensors(plain, plain_opt), path)
    train(plain, plain_opt, data()[4:])
    train(model, opt, data()[4:])
    same(tensors(model, opt), tensors(plain, plain_opt), path)
    assert not any(t.requires_grad for s in opt.state.values() for t in _in(s))
    assert opt.state_dict()["param_groups"] == plain_opt.state_dict()["param_groups"]


def same(found: Any, wanted: Any, path: str) -> None:
    # its steps are upstream's to rounding
    exact = {} if "Adafactor" in path else {"rtol": 0, "atol": 0}
    torch.testing.assert_close(found, wanted, **exact)


def _in(slots: dict[str, Any]) -> list[Tensor]:
    return [v for v in slots.values() if isinstance(v, Tensor)]


@pytest.mark.parametrize("memory", ["full", "step"])
def test_after_an_unroll_with_learned_settings(memory: Any) -> None:
    model = net()
    opt = torch.optim.Adam(model.parameters(), lr=0.5)
    lr, beta = (torch.tensor(v, requires_grad=True) for v in (0.01, 0.8))
    override = {"lr": [lr], "betas": [(beta, 0.99)]}
    with higher.innerloop_ctx(model, opt, override=override) as (f, d):
        higher.unroll(f, d, loss_of, data(), memory=memory)
        weights = [p.detach().clone() for p in f.parameters()]
        state = d.state_dict()["state"]
        higher.patch.write_back(f, model)
        higher.optim.write_back(d, opt)
        loss_of(f, data()[0]).backward()  # the graph is as it was
    assert lr.grad is not None and lr.grad != 0
    assert opt.param_groups[0]["lr"] == 0.5
    higher.optim.write_back(d, opt, settings=True)
    group = opt.param_groups[0]
    assert group["lr"] == lr.item() and group["betas"] == (beta.item(), 0.99)
    torch.testing.assert_close(
        list(model.parameters()), weights, rtol=0, atol=0, check_stride=False
    )
    held = opt.state_dict()["state"]
    torch.testing.assert_close(held, state, rtol=0, atol=0)
    assert not any(t.requires_grad for s in held.values() for t in _in(s))
    train(model, opt, data())


def test_a_setting_that_is_a_tensor_stays_one() -> None:
    model = net()
    opt = torch.optim.SGD(model.parameters(), lr=torch.tensor(0.1))
    lr = torch.tensor(0.3, requires_grad=True)
    with higher.innerloop_ctx(model, opt, override={"lr": [lr]}) as (f, d):
        higher.optim.write_back(d, opt, settings=True)
    written = opt.param_groups[0]["lr"]
    assert isinstance(written, Tensor) and written == 0.3 and not written.requires_grad


class Counting(torch.optim.SGD):
    """Keeps a counter in its groups, and one of its own."""

    total = 0.0


class DifferentiableCounting(higher.optim.DifferentiableOptimizer):
    _carried = ("total",)

    def _update(self, grouped_grads: Any, **kwargs: Any) -> None:
        for group, grads in zip(self.param_groups, grouped_grads):
            group["count"] = group.get("count", 0) + 1
            self.shared["total"] = self.shared["total"] + group["lr"]
            self.shared["free"] = torch.ones(()) * group["count"]
            for i, (p, g) in enumerate(zip(group["params"], grads)):
                if g is not None:
                    group["params"][i] = p - group["lr"] * g
                    self.state[0][i]["same"] = group["params"][i]


def test_state_outside_the_parameters() -> None:
    model = nn.Linear(2, 1)
    opt = Counting(model.parameters(), lr=0.5)
    f = higher.monkeypatch(model)
    d = DifferentiableCounting(
        opt,
        model.parameters(),
        f,
        override={"lr": [torch.tensor(0.25, requires_grad=True)]},
    )
    for _ in range(2):
        d.step(f(torch.ones(1, 2)).sum())
    higher.patch.write_back(f, model)
    higher.optim.write_back(d, opt)
    state: Any = opt.state
    assert opt.param_groups[0]["count"] == 2 and opt.param_groups[0]["lr"] == 0.5
    assert opt.total == 0.5 and isinstance(opt.total, float) and state["free"] == 2
    same = state[model.weight]["same"]
    assert same is not model.weight and torch.equal(same, model.weight)
    # one that is a parameter by another name stays it
    state[model.weight]["same"] = model.weight
    higher.optim.write_back(d, opt)
    assert state[model.weight]["same"] is model.weight


def test_what_does_not_fit_is_refused() -> None:
    model = net()
    opt = torch.optim.SGD(model.parameters(), lr=0.1)
    with higher.innerloop_ctx(model, opt) as (f, d):
        with pytest.raises(ValueError, match="don't fit the module's 1 parameters"):
            higher.patch.write_back(f, nn.Linear(2, 1, bias=False))
        with pytest.raises(TypeError, match="update_params"):
            higher.patch.write_back(f, f)
        with pytest.raises(ValueError, match="groups have"):
            higher.optim.write_back(d, torch.optim.SGD([torch.ones(1)], lr=0.1))
    with higher.innerloop_ctx(model, opt, tasks=2) as (f, d):
        with pytest.raises(ValueError, match="don't fit"):
            higher.patch.write_back(f, model)
        with pytest.raises(ValueError, match="each task"):
            higher.optim.write_back(d, opt)


def test_state_dict_is_detached_copies() -> None:
    model = net()
    opt = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    lr = torch.tensor(0.1, requires_grad=True)
    with higher.innerloop_ctx(model, opt, override={"lr": [lr]}) as (f, d):
        for x in data():
            d.step(loss_of(f, x))
        present, copies = d.state_dict(keep_graph=True), d.state_dict()
        other = torch.optim.SGD(model.parameters(), lr=0.1)
        other.load_state_dict(copies)
        train(model, other, data())  # writes into what it loaded
        for i, slots in present["state"].items():
            mine = copies["state"][i]["momentum_buffer"]
            assert slots["momentum_buffer"] is d.state[0][i]["momentum_buffer"]
            assert slots["momentum_buffer"].requires_grad and not mine.requires_grad
        assert present["param_groups"][0]["lr"] is lr
        assert not copies["param_groups"][0]["lr"].requires_grad
        loss_of(f, data()[0]).backward()
    assert lr.grad is not None


def test_loaded_state_is_the_differentiable_optimizers_own() -> None:
    model = net()
    opt = torch.optim.Adam(model.parameters())
    train(model, opt, data()[:1])
    with higher.innerloop_ctx(model, opt) as (f, d):
        d.load_state_dict(opt.state_dict())
        then = d.state_dict()
        train(model, opt, data()[:1])
        torch.testing.assert_close(d.state_dict(), then, rtol=0, atol=0)


def test_loading_a_state_dict_in_each_outer_iteration_keeps_no_graph(
    only_new: None,
) -> None:
    model = nn.Linear(2, 1)
    opt = torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9)
    outer = torch.optim.SGD(model.parameters(), lr=0.01)
    counts = []
    for iteration in range(31):
        with higher.innerloop_ctx(model, opt, copy_initial_weights=False) as (f, d):
            for _ in range(3):
                d.step(f(torch.ones(1, 2)).square().sum())
            outer.zero_grad()
            f(torch.ones(1, 2)).sum().backward()
            outer.step()
            opt.load_state_dict(d.state_dict())
        if iteration in (10, 30):
            gc.collect()
            counts.append(sum(issubclass(type(o), Tensor) for o in gc.get_objects()))
    assert counts[1] <= counts[0]
