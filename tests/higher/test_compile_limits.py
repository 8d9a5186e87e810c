"""What ``unroll(compile=True)`` refuses, and how it says so."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from compiled_steps import STEPS, data, derivatives, loss_fn, net, optimizer
from compiled_steps import use_plain_kernels
from torch import Tensor, nn

import higher
from higher._tracing import is_tracing


@pytest.fixture
def plain_kernels(monkeypatch: pytest.MonkeyPatch) -> None:
    use_plain_kernels(monkeypatch)


@pytest.fixture(autouse=True)
def _fresh() -> Iterator[None]:
    yield
    torch._dynamo.reset()


def branching(f: Any, batch: Any) -> Tensor:
    loss = loss_fn(f, batch)
    return loss * 2 if loss > 0 else loss  # a branch


def reading(f: Any, batch: Any) -> Tensor:
    return loss_fn(f, batch) * loss_fn(f, batch).item()  # a number


@pytest.mark.parametrize("function", [branching, reading])
def test_what_reads_values_is_refused_with_the_line(
    function: Any, plain_kernels: None
) -> None:
    with pytest.raises(
        RuntimeError, match=r"test_compile_limits.py:\d+: `.*reads the value"
    ):
        derivatives(optimizer("SGD"), True, loss_fn=function)


def test_what_is_not_the_same_each_time_is_an_error(plain_kernels: None) -> None:
    calls = [0.0]

    def counting(f: Any, batch: Any) -> Tensor:
        calls[0] += 1
        return loss_fn(f, batch) * calls[0]

    with pytest.raises(RuntimeError, match="last step's loss differs"):
        derivatives(optimizer("SGD"), True, loss_fn=counting)


def test_a_callback_that_is_not_the_same_each_time_is_an_error(
    plain_kernels: None,
) -> None:
    calls = [0.0]

    def counting(grads: list[Tensor]) -> list[Tensor]:
        calls[0] += 1
        return [g * calls[0] for g in grads]

    with pytest.raises(RuntimeError, match="differs"):
        derivatives(optimizer("SGD"), True, grad_callback=counting)


def test_a_tensor_in_an_attribute_is_an_error(plain_kernels: None) -> None:
    def keeping(f: Any, batch: Any) -> Tensor:
        f.kept = f[0].weight * 2
        return loss_fn(f, batch)

    with pytest.raises(RuntimeError, match="'kept'.*register_buffer"):
        derivatives(optimizer("SGD"), True, loss_fn=keeping)


def test_assigned_weights_and_earlier_ones_are_errors(plain_kernels: None) -> None:
    def assigning(f: Any, batch: Any) -> Tensor:
        f[0].weight = f[0].weight * 2
        return loss_fn(f, batch)

    def looking_back(f: Any, batch: Any) -> Tensor:
        return loss_fn(f, batch) + sum(w.sum() for w in f.parameters(time=0))

    with pytest.raises(RuntimeError, match="changed? the fast weights"):
        derivatives(optimizer("SGD"), True, loss_fn=assigning)
    with pytest.raises(RuntimeError, match="weights of time 0"):
        derivatives(optimizer("SGD"), True, loss_fn=looking_back)


def test_sparse_gradients_are_refused_by_name() -> None:
    model = nn.Embedding(5, 3, sparse=True)
    opt = torch.optim.SparseAdam(model.parameters())
    with higher.innerloop_ctx(model, opt) as (f, diffopt):
        with pytest.raises(RuntimeError, match="sparse=False"):
            batches = [torch.tensor([0, 1])] * 3
            higher.unroll(
                f, diffopt, lambda f, x: f(x).square().sum(), batches, compile=True
            )


def test_what_asks_for_memory_is_refused() -> None:
    model = nn.Linear(3, 2, bias=False, dtype=torch.bfloat16)
    opt = torch.optim.Muon(model.parameters())
    batches = [(x.bfloat16(), y.bfloat16()) for x, y in data()]
    with higher.innerloop_ctx(model, opt) as (f, diffopt):
        with pytest.raises(RuntimeError, match="muon.py:.*share memory"):
            higher.unroll(f, diffopt, loss_fn, batches, compile=True)


def test_an_error_of_the_program_is_shown(plain_kernels: None) -> None:
    calls = []

    def broken(f: Any, batch: Any) -> Tensor:
        calls.append(0)
        if len(calls) > 1:
            raise KeyError("mine")
        return loss_fn(f, batch)

    with pytest.raises((RuntimeError, KeyError), match="mine") as raised:
        derivatives(optimizer("SGD"), True, loss_fn=broken)
    assert "tlparse" not in str(raised.value)


def test_other_modes_are_refused() -> None:
    make = optimizer("SGD")
    with pytest.raises(ValueError, match="forward"):
        derivatives(make, True, mode="forward")
    model = net()
    with higher.innerloop_ctx(model, make(model), track_higher_grads=False) as (f, d):
        with pytest.raises(ValueError, match="track_higher_grads"):
            higher.unroll(f, d, loss_fn, data(), compile=True)
    with higher.innerloop_ctx(model, make(model)) as (f, d):
        with pytest.raises(ValueError, match="same settings"):
            rates = [{"lr": [0.1]}] * (STEPS + 1)
            higher.unroll(f, d, loss_fn, data(), override=rates, compile=True)


def test_without_a_compiler_the_error_says_so() -> None:
    import torch._inductor.config as config

    with config.patch({"cpp.cxx": ("no-such-compiler",)}):
        with pytest.raises(RuntimeError, match="needs a C.. compiler"):
            derivatives(optimizer("SGD"), True)


class Doubled(torch.autograd.Function):
    """Computes something else where it is traced, as a compiler that errs would."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return x.clone()

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        return grad * (2 if is_tracing() else 1)


def test_a_graph_with_other_gradients_than_the_step_is_an_error(
    plain_kernels: None,
) -> None:
    def doubled(f: Any, batch: Any) -> Tensor:
        return Doubled.apply(loss_fn(f, batch))

    for memory in ("full", "low"):
        with pytest.raises(RuntimeError, match="something else than the step does"):
            derivatives(optimizer("SGD"), True, memory, loss_fn=doubled)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # the compiler's own
def test_what_the_compiler_gets_wrong_is_an_error() -> None:
    # torch 2.13 does on a CPU; where it does not, all is as in plain steps
    torch.manual_seed(0)
    layers = [
        *(nn.Conv2d(1, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU()),
        *(nn.MaxPool2d(2), nn.Flatten(), nn.Linear(64, 5)),
    ]
    model = nn.Sequential(*layers).double()
    batches = [torch.rand(6, 1, 8, 8).double()] * 3

    def unrolled(compile: bool) -> Tensor:
        opt = torch.optim.SGD(model.parameters(), lr=0.1)
        with higher.innerloop_ctx(model, opt) as (f, diffopt):
            loss = lambda f, x: f(x).square().mean()
            return higher.unroll(f, diffopt, loss, batches, compile=compile)[-1]

    try:
        found = unrolled(True)
    except RuntimeError as error:
        assert "something else than the step does" in str(error)
    else:
        torch.testing.assert_close(found, unrolled(False))
