"""Activation checkpointing inside the model: what is run again finds the weights,
buffers and modes that the first run found."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint, checkpoint_sequential
from unroll import Loss, assert_same_unroll, fast_unroll, reference_unroll, regression

import higher


class Block(nn.Module):
    def __init__(self, width: int = 4) -> None:
        super().__init__()
        self.linear = nn.Linear(width, width)
        self.norm = nn.BatchNorm1d(width)

    def forward(self, x: Tensor) -> Tensor:
        return x + torch.tanh(self.norm(self.linear(x)))


class Net(nn.Module):
    def __init__(self, reentrant: bool | None) -> None:
        super().__init__()
        self.reentrant = reentrant
        self.inlet = nn.Linear(3, 4)
        self.blocks = nn.ModuleList(Block() for _ in range(2))
        self.outlet = nn.Linear(4, 2)
        self.double()

    def forward(self, x: Tensor) -> Tensor:
        x = self.inlet(x)
        for block in self.blocks:
            if self.reentrant is None:
                x = block(x)
            else:
                x = checkpoint(block, x, use_reentrant=self.reentrant)
        return self.outlet(x)


def twins(reentrant: bool) -> tuple[nn.Module, nn.Module]:
    net, plain = Net(reentrant), Net(None)
    plain.load_state_dict(net.state_dict())
    return net, plain


@pytest.mark.parametrize("reentrant", [True, False])
@pytest.mark.parametrize("training", [True, False])
def test_the_meta_gradient_through_a_checkpoint_is_that_without(
    reentrant: bool, training: bool
) -> None:
    net, plain = twins(reentrant)
    net.train(training)
    plain.train(training)
    assert_same_unroll(net, regression(), steps=3, reference=plain)


def test_torch_alone_gets_it_wrong() -> None:
    """The reason for all this; should this test fail one day, rejoice."""
    net, plain = twins(False)
    _, wanted = reference_unroll(plain, regression(), steps=2)
    try:
        _, got = reference_unroll(net, regression(), steps=2)
    except RuntimeError:
        return
    assert not all(torch.allclose(g, w) for g, w in zip(got, wanted))


def _outer(net: nn.Module, loss: Loss, change: Any) -> list[Tensor]:
    opt = torch.optim.SGD(net.parameters(), lr=0.1)
    with higher.innerloop_ctx(net, opt, copy_initial_weights=False) as (fmodel, diff):
        for _ in range(2):
            diff.step(loss(fmodel))
        outer = loss(fmodel)
        change(fmodel)
        # backward outside of the context, after changes
    return list(torch.autograd.grad(outer, list(net.parameters())))


@pytest.mark.parametrize(
    "change",
    [
        lambda fmodel: fmodel.eval(),
        lambda fmodel: fmodel.update_params(map(torch.zeros_like, fmodel.fast_params)),
        lambda fmodel: higher.patch.buffer_sync(Net(None), fmodel),
        lambda fmodel: fmodel(torch.full((9, 3), 7.0, dtype=torch.float64)),
    ],
    ids=["eval", "weights", "buffers", "statistics"],
)
def test_changes_before_backward_don_t_matter(change: Any) -> None:
    net, plain = twins(False)
    wanted = _outer(plain, regression(), lambda fmodel: None)
    torch.testing.assert_close(_outer(net, regression(), change), wanted)


def test_statistics_advance_once_per_forward() -> None:
    net, plain = twins(False)
    counts = []
    for model in (net, plain):
        opt = torch.optim.SGD(model.parameters(), lr=0.1)
        with higher.innerloop_ctx(model, opt) as (fmodel, diff):
            for _ in range(3):
                diff.step(regression()(fmodel))
            counts.append(fmodel.state_dict())
    torch.testing.assert_close(*counts)
    assert counts[0]["blocks.0.norm.num_batches_tracked"] == 3


def test_spectral_norm_s_vectors_are_put_back() -> None:
    net, plain = twins(False)
    for model in (net, plain):
        torch.manual_seed(0)
        for block in model.blocks:
            nn.utils.parametrizations.spectral_norm(block.linear)
    plain.load_state_dict(net.state_dict())
    assert_same_unroll(net, regression(), reference=plain)


def test_dropout_repeats_itself() -> None:
    class Dropping(Net):
        def __init__(self, reentrant: bool | None) -> None:
            super().__init__(reentrant)
            self.blocks[0].norm = nn.Dropout(0.5)
            self.blocks[1].norm = nn.Dropout(0.5)

    net, plain = Dropping(False), Dropping(None)
    plain.load_state_dict(net.state_dict())
    results = []
    for model in (net, plain):
        torch.manual_seed(3)
        results.append(fast_unroll(model, regression()))
    torch.testing.assert_close(*results)


def test_attention_is_run_again_on_the_same_backend() -> None:
    class Attending(nn.Module):
        def __init__(self, wrapped: bool) -> None:
            super().__init__()
            self.project = nn.Linear(4, 12)
            self.wrapped = wrapped
            self.double()

        def attend(self, x: Tensor) -> Tensor:
            q, k, v = self.project(x).chunk(3, -1)
            return nn.functional.scaled_dot_product_attention(q, k, v)

        def forward(self, x: Tensor) -> Tensor:
            if self.wrapped:
                return checkpoint(self.attend, x, use_reentrant=False)
            return self.attend(x)

    generator = torch.Generator().manual_seed(1)
    x = torch.randn(3, 5, 4, generator=generator, dtype=torch.float64)
    loss = lambda model: model(x).square().mean()  # noqa: E731
    net, plain = Attending(True), Attending(False)
    plain.load_state_dict(net.state_dict())
    wanted = _outer(plain, loss, lambda fmodel: None)
    torch.testing.assert_close(_outer(net, loss, lambda fmodel: None), wanted)


def test_the_meta_gradient_through_checkpoint_sequential_is_right() -> None:
    class Sequential(nn.Sequential):
        def forward(self, x: Tensor) -> Tensor:
            return checkpoint_sequential(list(self), 2, x, use_reentrant=False)

    layers = [nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 2), nn.Tanh()]
    net = Sequential(*layers).double()
    assert_same_unroll(net, regression(), reference=nn.Sequential(*layers))


def test_the_stateless_module_itself_is_checkpointed() -> None:
    _, plain = twins(False)
    loss = regression()
    wanted = reference_unroll(plain, loss)
    opt = torch.optim.SGD(plain.parameters(), lr=0.1)
    with higher.innerloop_ctx(plain, opt, copy_initial_weights=False) as (fmodel, diff):

        def again(x: Tensor) -> Tensor:
            return checkpoint(fmodel, x, use_reentrant=False)

        for _ in range(2):
            diff.step(loss(again))
        outer = loss(again)
        assert len(fmodel._fast_params) == 3
        meta = torch.autograd.grad(outer, list(plain.parameters()))
        assert len(fmodel._fast_params) == 3
    torch.testing.assert_close((outer.detach(), list(meta)), wanted)


def test_params_given_to_a_checkpointed_call_are_kept_once() -> None:
    plain = nn.Linear(3, 2).double()
    fmodel = higher.monkeypatch(plain, copy_initial_weights=False)
    doubled = [2 * p for p in plain.parameters()]
    x = torch.ones(1, 3, dtype=torch.float64)
    out = checkpoint(fmodel, x, params=doubled, use_reentrant=False)
    fmodel.update_params([torch.zeros_like(p) for p in doubled])
    (out.square().sum() / 2).backward()
    assert len(fmodel._fast_params) == 3
    torch.testing.assert_close(plain.bias.grad, 4 * plain(x)[0].detach())


def test_direct_calls_of_submodules_without_a_context() -> None:
    net = Block().double().eval()
    fmodel = higher.monkeypatch(net, copy_initial_weights=False)
    x = torch.randn(5, 4, dtype=torch.float64)
    out = checkpoint(fmodel.linear, x, use_reentrant=False).square().sum()
    fmodel.update_params([torch.zeros_like(p) for p in net.parameters()])
    x.requires_grad_()
    (got,) = torch.autograd.grad(out, [net.linear.weight])
    (wanted,) = torch.autograd.grad(net.linear(x).square().sum(), [net.linear.weight])
    torch.testing.assert_close(got, wanted)


def test_models_outside_are_left_alone() -> None:
    """With a stateless module alive, another model's checkpointing is torch's own."""
    alive = higher.monkeypatch(Net(False))
    for reentrant in (True, False):
        net, plain = twins(reentrant)
        loss = regression()
        loss(net).backward()
        loss(plain).backward()
        for p, q in zip(net.parameters(), plain.parameters()):
            torch.testing.assert_close(p.grad, q.grad)
    assert alive is not None


def test_an_unknown_torch_is_warned_of(monkeypatch: pytest.MonkeyPatch) -> None:
    from higher import _checkpointing

    monkeypatch.delattr(torch.utils.checkpoint, "_CheckpointFrame")
    with pytest.warns(UserWarning, match="Switch it off"):
        _checkpointing._wrap_torch.__wrapped__()
