"""Embeddings with max_norm: values of plain training, derivatives through it."""

from __future__ import annotations

from typing import Any

import higher
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

LR = 0.5
TOKENS = [
    torch.tensor(t) for t in ([[0, 1], [2, 1]], [[3, 4], [1, 1]], [[0, 5], [4, 2]])
]


class Net(nn.Module):
    """Looked up several times, and used as it is before and after that."""

    def __init__(self, kind: str = "embedding", norm_type: float = 2.0) -> None:
        super().__init__()
        torch.manual_seed(0)
        make: Any = nn.Embedding if kind == "embedding" else nn.EmbeddingBag
        self.words = make(6, 3, max_norm=1.2, norm_type=norm_type)
        self.out = nn.Linear(3, 2)
        self.double()

    def forward(self, tokens: Tensor) -> Tensor:
        tied = self.words.weight.sum() * 0.1  # what saves it torch refuses
        h = self.words(tokens[:1]).sum() + self.words(tokens[1:]).tanh().sum()
        rows: Tensor = self.words(tokens)
        return self.out(rows).square().sum() + (h + tied) * self.words.weight[0].sum()


def plain(net: Net, steps: int = 3) -> tuple[Tensor, list[Tensor]]:
    """Ordinary training: the loss afterwards, weights and rates."""
    opt = torch.optim.SGD(net.parameters(), lr=LR, momentum=0.9)
    for t in range(steps):
        opt.zero_grad()
        net(TOKENS[t]).backward()
        opt.step()
    with torch.no_grad():
        outer = net(TOKENS[0])
    return outer, [p.detach() for p in net.parameters()]


def train(net: Net, memory: Any = None, copy: bool = False) -> tuple[Tensor, Any]:
    opt = torch.optim.SGD(net.parameters(), lr=LR, momentum=0.9)
    with higher.innerloop_ctx(net, opt, copy_initial_weights=copy) as (f, d):
        if memory is None:
            for tokens in TOKENS:
                d.step(f(tokens))
        else:
            higher.unroll(f, d, lambda f, t: f(t), TOKENS, memory=memory)
        return f(TOKENS[0]), f


def slopes(norm_type: float) -> list[Tensor]:
    """Central differences of ordinary training by each element of the initial weights."""
    result = []
    for n, p in enumerate(Net().parameters()):
        grad = torch.zeros_like(p)
        for i in range(p.numel()):
            ends = []
            for sign in (1, -1):
                net = Net("embedding", norm_type)
                with torch.no_grad():
                    list(net.parameters())[n].view(-1)[i] += sign * 1e-6
                ends.append(plain(net)[0])
            grad.view(-1)[i] = (ends[0] - ends[1]) / 2e-6
        result.append(grad)
    return result


@pytest.mark.parametrize("memory", [None, "full"])
@pytest.mark.parametrize("norm_type", [2.0, 3.0])
def test_values_and_derivatives(norm_type: float, memory: Any) -> None:
    net = Net("embedding", norm_type)
    outer, f = train(net, memory)
    wanted, weights = plain(Net("embedding", norm_type))
    torch.testing.assert_close(outer.detach(), wanted, rtol=1e-12, atol=0)
    found = torch.autograd.grad(outer, list(net.parameters()))
    for g, slope in zip(found, slopes(norm_type)):
        torch.testing.assert_close(g, slope, rtol=1e-6, atol=1e-6)


def test_a_bag_of_which_torch_has_first_derivatives() -> None:
    net = Net("bag")
    opt = torch.optim.SGD(net.parameters(), lr=LR, momentum=0.9)
    with higher.innerloop_ctx(net, opt, copy_initial_weights=False, order=1) as (f, d):
        (found,) = torch.autograd.grad(f(TOKENS[1]), net.words.weight)
        f.update_params(list(higher.monkeypatch(net).parameters()))
        for tokens in TOKENS:
            d.step(f(tokens))
        outer = f(TOKENS[0])
    torch.testing.assert_close(outer.detach(), plain(Net("bag"))[0], rtol=1e-12, atol=0)
    for i in range(found.numel()):
        ends = []
        for sign in (1, -1):
            net = Net("bag")
            with torch.no_grad():
                net.words.weight.view(-1)[i] += sign * 1e-6
                ends.append(net(TOKENS[1]))
        slope = (ends[0] - ends[1]) / 2e-6
        torch.testing.assert_close(found.view(-1)[i], slope, rtol=1e-6, atol=1e-7)


def test_the_initial_weights_are_those_before_any_lookup() -> None:
    net = Net()
    before = net.words.weight.detach().clone()
    outer, f = train(net, copy=True)
    initial = list(f.parameters(time=0))
    torch.testing.assert_close(initial[0].detach(), before, rtol=0, atol=0)
    found = torch.autograd.grad(outer, initial)
    wanted = slopes(2.0)
    torch.testing.assert_close(list(found), wanted, rtol=1e-6, atol=1e-6)
    assert torch.equal(net.words.weight, before)


def test_a_lookup_without_gradients_counts() -> None:
    """As in plain training, where evaluation renormalizes, too."""

    def run(net: Any, step: Any) -> Tensor:
        for tokens in TOKENS:
            step(net(tokens))
            with torch.no_grad():
                net(torch.tensor([[5, 4], [3, 2]]))
        out: Tensor = net(TOKENS[0])
        return out

    def by_hand(shift: float) -> Tensor:
        net = Net()
        with torch.no_grad():
            net.words.weight[5, 0] += shift
        opt = torch.optim.SGD(net.parameters(), lr=LR)

        def step(loss: Tensor) -> None:
            opt.zero_grad()
            loss.backward()
            opt.step()

        return run(net, step).detach()

    net = Net()
    opt = torch.optim.SGD(net.parameters(), lr=LR)
    with higher.innerloop_ctx(net, opt, copy_initial_weights=False) as (f, d):
        outer = run(f, d.step)
    torch.testing.assert_close(outer.detach(), by_hand(0.0), rtol=1e-12, atol=0)
    slope = (by_hand(1e-6) - by_hand(-1e-6)) / 2e-6
    (found,) = torch.autograd.grad(outer, net.words.weight)
    torch.testing.assert_close(found[5, 0], slope, rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize("memory", ["step", 2])
def test_low_memory_is_refused_where_rows_are_too_long(memory: Any) -> None:
    with pytest.raises(RuntimeError, match="max_norm.*memory='full'"):
        train(Net(), memory)


def test_low_memory_works_where_none_is() -> None:
    def run(memory: Any) -> list[Tensor]:
        net = Net()
        net.words.max_norm = 1e6
        outer, _ = train(net, memory)
        return list(torch.autograd.grad(outer, list(net.parameters())))

    torch.testing.assert_close(run("step"), run(None), rtol=1e-9, atol=0)


def test_the_function_is_refused_where_it_would_write() -> None:
    class Functional(Net):
        def forward(self, tokens: Tensor) -> Tensor:
            words = self.words.weight
            rows = F.embedding(tokens, words, max_norm=self.limit)
            bags = F.embedding_bag(tokens, words, max_norm=self.limit)
            return self.out(rows).sum() + bags.sum()

        limit = 1.2

    net = Functional()
    opt = torch.optim.SGD(net.parameters(), lr=LR)
    with higher.innerloop_ctx(net, opt) as (f, d):
        with pytest.raises(RuntimeError, match="writes into a fast weight"):
            f(TOKENS[0])
        f.limit = 1e6
        d.step(f(TOKENS[0]))
    before = net.words.weight.detach().clone()
    net(TOKENS[0])  # torch's own way, outside
    assert not torch.equal(net.words.weight, before)


@pytest.mark.parametrize("track", [True, False])
def test_frozen_or_in_test_mode(track: bool) -> None:
    net = Net()
    net.words.weight.requires_grad_(not track)
    before = net.words.weight.detach().clone()
    opt = torch.optim.SGD(net.parameters(), lr=LR, momentum=0.9)
    with higher.innerloop_ctx(net, opt, track_higher_grads=track) as (f, d):
        for tokens in TOKENS:
            d.step(f(tokens))
        weights = [p.detach() for p in f.parameters()]
    assert torch.equal(net.words.weight, before)
    other = Net()
    other.words.weight.requires_grad_(not track)
    opt = torch.optim.SGD(other.parameters(), lr=LR, momentum=0.9)
    for tokens in TOKENS:
        opt.zero_grad()
        other(tokens).backward()
        opt.step()
    torch.testing.assert_close(
        weights, [p.detach() for p in other.parameters()], rtol=1e-12, atol=0
    )


def test_gradients_that_are_handed_over() -> None:
    net = Net()
    opt = torch.optim.SGD(net.parameters(), lr=LR)
    with higher.innerloop_ctx(net, opt) as (f, d):
        loss = f(TOKENS[0])
        grads = torch.autograd.grad(loss, list(f.parameters()), create_graph=True)
        with pytest.raises(RuntimeError, match="sum of the losses"):
            d.step(grads=grads)
        d.step(loss)
