"""copy, pickle and state dicts."""

from __future__ import annotations

import copy
import io
import pickle
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from unroll import regression

import higher

X = torch.linspace(-1, 1, 12, dtype=torch.float64).reshape(4, 3)


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(3, 4)
        self.norm = nn.BatchNorm1d(4)
        self.rnn = nn.GRU(4, 2, batch_first=True)
        self.layers = [self.first, self.norm]
        self.double()

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.layers:
            x = layer(x)
        return self.rnn(x[:, None])[0][:, 0]


def stepped() -> Any:
    model = Net()
    opt = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    with higher.innerloop_ctx(model, opt) as (fmodel, diff):
        diff.step(regression()(fmodel))
        diff.step(regression()(fmodel))
    return fmodel, diff


def through_pickle(x: Any) -> Any:
    return pickle.loads(pickle.dumps(x))


def through_torch_save(x: Any) -> Any:
    file = io.BytesIO()
    torch.save(x, file)
    file.seek(0)
    return torch.load(file, weights_only=False)


@pytest.mark.parametrize("copied", [copy.deepcopy, through_pickle, through_torch_save])
def test_a_copied_stateless_module_has_weights_of_its_own(copied: Any) -> None:
    fmodel, _ = stepped()
    twin = copied(fmodel)
    assert isinstance(twin, Net) and type(twin) is type(fmodel)
    assert len(twin._fast_params) == 3 and twin.track_higher_grads
    for t in range(3):
        pairs = zip(fmodel.parameters(time=t), twin.parameters(time=t), strict=True)
        for p, q in pairs:
            assert torch.equal(p, q) and q.is_leaf and q.requires_grad
    fmodel.eval()
    twin.eval()
    out = twin(X)
    assert torch.equal(out, fmodel(X))
    # a working stateless module, apart from the first
    twin.update_params([p * 0 for p in twin.parameters()])
    assert twin.first.weight.abs().max() == 0 and fmodel.first.weight.abs().max() > 0
    assert not torch.equal(twin(X), fmodel(X))
    assert twin.layers[0] is twin.first


def test_deepcopy_of_something_that_holds_one() -> None:
    fmodel, _ = stepped()
    holder = copy.deepcopy({"a": fmodel, "b": [fmodel]})
    assert holder["a"] is holder["b"][0] and holder["a"] is not fmodel


def test_a_shallow_copy_shares_its_parts() -> None:
    fmodel, _ = stepped()
    twin = copy.copy(fmodel)
    assert type(twin) is type(fmodel) and twin.first is fmodel.first
    assert torch.equal(twin.eval()(X), fmodel.eval()(X))


def test_a_copy_without_fast_weights_takes_params() -> None:
    fmodel = copy.deepcopy(higher.patch.make_functional(Net()))
    assert fmodel.fast_params is None
    assert fmodel(X, params=list(Net().parameters())).shape == (4, 2)


def test_a_loaded_state_dict_gives_the_same_step() -> None:
    model, loss = Net(), regression()
    opt = torch.optim.Adam(model.parameters(), lr=0.01)
    with higher.innerloop_ctx(model, opt) as (fmodel, diff):
        diff.step(loss(fmodel))
        saved, weights = diff.state_dict(), list(fmodel.parameters())
        first = diff.step(loss(fmodel))
        fmodel.norm.reset_running_stats()
        diff.load_state_dict(saved)
        fmodel.update_params(weights)
        again = diff.step(loss(fmodel))
    torch.testing.assert_close(first, again, rtol=0, atol=0)


def test_optimizer_state_dict_is_a_snapshot() -> None:
    _, diff = stepped()
    saved = diff.state_dict()
    buffers = [saved["state"][i]["momentum_buffer"] for i in range(3)]
    diff.param_groups[0]["lr"] = 7.0
    diff.state[0][0]["momentum_buffer"] = None
    assert saved["param_groups"][0]["lr"] == 0.1
    assert saved["state"][0]["momentum_buffer"] is buffers[0] is not None
    assert saved["param_groups"][0]["params"] == list(range(len(diff.state[0])))


def test_optimizer_loads_what_torch_saved() -> None:
    model, loss = Net().eval(), regression()
    opt = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    loss(model).backward()
    opt.step()
    fresh = torch.optim.SGD(model.parameters(), lr=0.5)
    with (
        higher.innerloop_ctx(model, opt) as (f1, d1),
        higher.innerloop_ctx(model, fresh) as (f2, d2),
    ):
        d2.load_state_dict(opt.state_dict())
        torch.testing.assert_close(d1.step(loss(f1)), d2.step(loss(f2)))


def test_optimizer_refuses_a_state_dict_of_other_groups() -> None:
    _, diff = stepped()
    other = torch.optim.SGD([torch.ones(1)], lr=0.1).state_dict()
    with pytest.raises(ValueError, match=r"sizes \[1\]; this optimizer's are \[8\]"):
        diff.load_state_dict(other)


@pytest.mark.parametrize("kind", ["norm", "rnn"])
def test_a_copied_submodule_stands_alone(kind: str) -> None:
    """Of the kinds that have a ``forward`` of their own in stateless modules."""
    inner: nn.Module = nn.BatchNorm1d(3) if kind == "norm" else nn.RNN(3, 2)
    fmodel = higher.monkeypatch(nn.Sequential(inner)).eval()
    x = torch.randn(4, 3)
    for copied in (copy.deepcopy(fmodel[0]), pickle.loads(pickle.dumps(fmodel[0]))):
        wanted, found = fmodel[0](x), copied(x)
        assert torch.equal(*(t if kind == "norm" else t[0] for t in (wanted, found)))
        for p in copied.parameters():
            p.data.zero_()
        assert not torch.equal(copied(x)[0], wanted[0])
