"""Ways to call a stateless module."""

from __future__ import annotations

import threading
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.func import functional_call
from unroll import fast_unroll, reference_unroll, regression

import higher


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(3, 4)
        self.second = nn.Linear(4, 2)
        self.double()

    def forward(self, x: Tensor) -> Tensor:
        return self.second(self.hidden(x))

    def hidden(self, x: Tensor) -> Tensor:
        return torch.tanh(self.first(x))


X = torch.linspace(-1, 1, 6, dtype=torch.float64).reshape(2, 3)


def _shifted(params: Any) -> list[Tensor]:
    return [p.detach() + 0.1 for p in params]


def test_params_reach_weights_that_are_read_without_a_call() -> None:
    class Attending(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.attention = nn.MultiheadAttention(4, 2, batch_first=True)
            self.scales = nn.ParameterList([torch.ones(4), torch.ones(4)])
            self.double()

        def forward(self, x: Tensor) -> Tensor:
            return self.attention(x, x, x * self.scales[1])[0] * self.scales[0]

    net = Attending()
    x = torch.randn(1, 3, 4, dtype=torch.float64)
    new = _shifted(net.parameters())
    named = dict(zip((n for n, _ in net.named_parameters()), new))
    fmodel = higher.monkeypatch(net)
    torch.testing.assert_close(fmodel(x, params=new), functional_call(net, named, (x,)))
    torch.testing.assert_close(fmodel(x), functional_call(net, named, (x,)))


def test_submodules_and_methods_called_directly_use_the_latest_weights() -> None:
    net = Net()
    fmodel = higher.monkeypatch(net)
    fmodel.update_params(_shifted(net.parameters()))
    first = nn.Linear(3, 4, dtype=torch.float64)
    first.load_state_dict({n: p + 0.1 for n, p in net.first.state_dict().items()})
    assert torch.equal(fmodel.first(X), first(X))
    assert torch.equal(fmodel.hidden(X), torch.tanh(first(X)))


def test_forward_called_by_name_takes_params() -> None:
    net = Net()
    fmodel = higher.monkeypatch(net)
    new = _shifted(net.parameters())
    assert torch.equal(fmodel.forward(X, params=new), fmodel(X))
    assert fmodel.fast_params == new


def test_params_may_be_an_iterator() -> None:
    net = Net()
    fmodel = higher.monkeypatch(net)
    assert torch.equal(fmodel(X, params=iter(list(net.parameters()))), net(X))


def test_without_fast_weights_asking_for_them_is_refused() -> None:
    fmodel = higher.patch.make_functional(Net())
    with pytest.raises(ValueError, match="no fast weights"):
        fmodel(X)
    with pytest.raises(ValueError, match="no fast weights"):
        fmodel.parameters()
    assert fmodel.fast_params is None


def test_a_wrong_number_of_params_is_refused_and_changes_nothing() -> None:
    fmodel = higher.monkeypatch(Net())
    before = fmodel(X)
    with pytest.raises(ValueError, match="1 fast weights given.*4 parameters"):
        fmodel(X, params=[torch.ones(1)])
    assert torch.equal(fmodel(X), before)


def test_an_exception_in_forward_leaves_a_usable_module() -> None:
    class Failing(Net):
        fail = True

        def forward(self, x: Tensor) -> Tensor:
            out = super().forward(x)
            if self.fail:
                raise RuntimeError("on purpose")
            return out

    net = Failing()
    backends = torch.backends.cuda.flash_sdp_enabled()
    opt = torch.optim.SGD(net.parameters(), lr=0.1)
    with higher.innerloop_ctx(net, opt, copy_initial_weights=False) as (fmodel, diff):
        with pytest.raises(RuntimeError, match="on purpose"):
            fmodel(X)
        fmodel.fail = False
        loss = fmodel(X).square().mean()
        torch.testing.assert_close(loss, Net.forward(net, X).square().mean())
        diff.step(loss)
        assert len(fmodel._fast_params) == 2
    assert torch.backends.cuda.flash_sdp_enabled() == backends


def test_an_exception_leaves_the_context_clean() -> None:
    net = Net()
    flags = torch.backends.cuda.flash_sdp_enabled()
    with pytest.raises(KeyError):
        with higher.innerloop_ctx(net, torch.optim.SGD(net.parameters(), lr=0.1)):
            assert not torch.backends.cuda.flash_sdp_enabled()
            raise KeyError
    assert torch.backends.cuda.flash_sdp_enabled() == flags


def test_a_context_inside_another_has_third_derivatives() -> None:
    """An inner loop on the fast weights of an outer one: third-order."""
    net = Net()
    loss = regression()

    def look_ahead(params: dict[str, Tensor]) -> dict[str, Tensor]:
        value = loss(lambda x: functional_call(net, params, (x,)))
        grads = torch.autograd.grad(value, list(params.values()), create_graph=True)
        return {n: p - 0.1 * g for (n, p), g in zip(params.items(), grads)}

    params = {n: p.clone() for n, p in net.named_parameters()}
    looked_ahead = look_ahead(params)
    outer_loss = loss(lambda x: functional_call(net, looked_ahead, (x,)))
    grads = torch.autograd.grad(outer_loss, list(params.values()), create_graph=True)
    stepped = {n: p - 0.1 * g for (n, p), g in zip(params.items(), grads)}
    final = loss(lambda x: functional_call(net, stepped, (x,)))
    wanted = torch.autograd.grad(final, list(net.parameters()))

    opt = torch.optim.SGD(net.parameters(), lr=0.1)
    with higher.innerloop_ctx(net, opt, copy_initial_weights=False) as (fouter, outer):
        # torch makes no optimizer of fast weights, which are no leaves
        finner = higher.monkeypatch(fouter, copy_initial_weights=False)
        inner = higher.create_diff_optim(torch.optim.SGD, {"lr": 0.1}, fmodel=finner)
        inner.step(loss(finner))
        outer.step(loss(finner))
        value = loss(fouter)
        torch.testing.assert_close(value, final)
        got = torch.autograd.grad(value, list(net.parameters()))
    torch.testing.assert_close(got, wanted)


def test_the_same_model_in_several_contexts_at_once() -> None:
    net = Net()
    loss = regression()
    wanted = reference_unroll(net, loss, steps=2)
    opt = torch.optim.SGD(net.parameters(), lr=0.1)
    with (
        higher.innerloop_ctx(net, opt, copy_initial_weights=False) as (f1, d1),
        higher.innerloop_ctx(net, opt, copy_initial_weights=False) as (f2, d2),
    ):
        d1.step(loss(f1))
        d2.step(loss(f2))
        d2.step(loss(f2))
        d1.step(loss(f1))
        for fmodel in (f1, f2):
            grads = torch.autograd.grad(loss(fmodel), list(net.parameters()))
            torch.testing.assert_close(list(grads), wanted[1])


def test_threads_get_the_same_and_leave_flags_as_they_were() -> None:
    class Attending(Net):
        def forward(self, x: Tensor) -> Tensor:
            h = self.hidden(x)
            h = nn.functional.scaled_dot_product_attention(h[None], h[None], h[None])
            return self.second(h[0])

    net = Attending()
    loss = regression()
    wanted = reference_unroll(net, loss, steps=4)
    results: list[Any] = []

    def run() -> None:
        for _ in range(3):
            results.append(fast_unroll(net, loss, steps=4))

    threads = [threading.Thread(target=run) for _ in range(4)]
    flags = torch.backends.cuda.flash_sdp_enabled()
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    assert len(results) == 12
    for result in results:
        torch.testing.assert_close(result, wanted)
    assert torch.backends.cuda.flash_sdp_enabled() == flags


def test_users_methods_and_attributes_work_on_the_stateless_module() -> None:
    net = Net()
    net.note = "mine"
    fmodel = higher.monkeypatch(net)
    fmodel.note += " too"
    fmodel.extra = [1]
    assert fmodel.note == "mine too" and net.note == "mine"
    assert fmodel.hidden(X).shape == (2, 4) and not hasattr(net, "extra")


def test_inside_another_module_it_is_an_ordinary_part() -> None:
    fmodel = higher.monkeypatch(Net())
    outer = nn.ModuleDict({"fast": fmodel, "plain": nn.Linear(2, 1).double()})
    assert len(list(outer.parameters())) == 6
    assert outer["plain"](outer["fast"](X)).shape == (2, 1)
    assert list(outer.state_dict())[0] == "fast.first.weight"


def test_stateless_version_of_a_module_that_holds_a_stateless_one() -> None:
    fmodel = higher.monkeypatch(Net())
    outer = nn.Sequential(fmodel, nn.Linear(2, 1).double())
    twice = higher.monkeypatch(outer, copy_initial_weights=False)
    assert type(twice[0]) is Net
    loss = twice(X).sum()
    assert all(g is not None for g in torch.autograd.grad(loss, fmodel.parameters()))
