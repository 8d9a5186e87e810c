"""``unroll(compile=True)``, against the same unroll as it is.

Nearly all of it with torch's own kernels in the place of the C++ compiler's, so that a
test takes a second; that compiler has the last ones.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from compiled_steps import OPTIMIZERS, TASKS, assert_same, data, derivatives, graphs
from compiled_steps import loss_fn, net, optimizer, use_plain_kernels
from torch import Tensor, nn
from torch._subclasses.functional_tensor import FunctionalTensor

import higher
from higher import ops


@pytest.fixture
def plain_kernels(monkeypatch: pytest.MonkeyPatch) -> None:
    use_plain_kernels(monkeypatch)


@pytest.fixture(autouse=True)
def _fresh() -> Iterator[None]:
    yield
    torch._dynamo.reset()


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=[] if name in ("NAdam", "Muon") else pytest.mark.slow)
        for name in OPTIMIZERS
    ],
)
def test_every_optimizer_is_that_of_plain_steps(name: str, plain_kernels: None) -> None:
    make = optimizer(name)
    assert_same(derivatives(make, True), derivatives(make, False))


@pytest.mark.parametrize(
    "memory", ["low", *(pytest.param(m, marks=pytest.mark.slow) for m in ("step", 2))]
)
def test_compiled_steps_equal_plain_ones_in_every_memory_mode(
    memory: Any, plain_kernels: None
) -> None:
    make = optimizer("Adam")
    assert_same(derivatives(make, True, memory), derivatives(make, False))


@pytest.mark.parametrize("name", ["NAdam", "Adafactor"])
def test_compiled_steps_take_settings_that_are_numbers(
    name: str, plain_kernels: None
) -> None:
    make = optimizer(name)
    found = derivatives(make, True, settings=False)
    assert_same(found, derivatives(make, False, settings=False))


@pytest.mark.parametrize("options", [{"truncate": 2}, {"order": 1}])
def test_truncation_and_first_order_are_those_of_plain_steps(
    options: Any, plain_kernels: None
) -> None:
    make = optimizer("SGD")
    found = derivatives(make, True, "low", **options)
    assert_same(found, derivatives(make, False, "low", **options))


@pytest.mark.parametrize(
    "name", ["Adam", pytest.param("Adafactor", marks=pytest.mark.slow)]
)
def test_compiled_steps_of_many_tasks_equal_plain_ones(
    name: str, plain_kernels: None
) -> None:
    make = optimizer(name)
    found = derivatives(make, True, "low", tasks=TASKS)
    assert_same(found, derivatives(make, False, tasks=TASKS))


def test_dropout_draws_the_same_numbers_in_compiled_steps(plain_kernels: None) -> None:
    def dropping() -> nn.Module:
        torch.manual_seed(0)
        layers = [nn.Linear(3, 6), nn.Tanh(), nn.Dropout(0.5), nn.Linear(6, 2)]
        return nn.Sequential(*layers).double()

    make = optimizer("Adam")
    found = derivatives(make, True, "step", model=dropping())
    assert_same(found, derivatives(make, False, model=dropping()))


def test_what_a_callback_makes_of_gradients_holds_in_compiled_steps(
    plain_kernels: None,
) -> None:
    bound = torch.tensor(0.05, dtype=torch.float64, requires_grad=True)

    def clipped(grads: list[Tensor]) -> list[Tensor]:
        norm = torch.stack([g.square().sum() for g in grads]).sum().sqrt()
        return [g * (bound / norm).clamp(max=1.0) for g in grads]

    found, wanted = (
        derivatives(
            *(optimizer("SGD"), compile, "low"), grad_callback=clipped, sources=[bound]
        )
        for compile in (True, False)
    )
    assert_same(found, wanted)


class Halved(torch.autograd.Function):
    """Has a backward of its own."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return x.clone()

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        return grad * 0.5


def test_what_a_loss_captures_cuts_off_and_redefines(plain_kernels: None) -> None:
    weight = torch.tensor([0.5, 2.0], dtype=torch.float64, requires_grad=True)
    teacher = net().eval().requires_grad_(False)

    def special(f: Any, batch: Any) -> Tensor:
        with torch.no_grad():
            target = teacher(batch[0]) + f(batch[0]).tanh()
        out = Halved.apply(f(batch[0]))
        return (scale * weight * (out - target).square()).mean() + f[
            0
        ].weight.detach().sum()

    results = []
    for compile, memory in ((True, "full"), (True, "low"), (False, "full")):
        scale = (weight * 2).sum()  # no leaf
        made = derivatives(
            *(optimizer("Adam"), compile, memory),
            loss_fn=special,
            sources=[weight],
            meta_params=[scale],
        )
        results.append(made)
    assert_same(results[0], results[2])
    assert_same(results[1], results[2])


def test_steps_and_later_unrolls_share_a_graph(plain_kernels: None) -> None:
    model = net()
    rates, counts = [0.1, 0.05, 0.02], []
    for lr in rates:
        results = []
        weight = torch.rand(2, dtype=torch.float64, requires_grad=True)
        batches = torch.randn(9, 5, 3, dtype=torch.float64)

        # another function each time, that captures other tensors
        def weighted(f: Any, x: Tensor) -> Tensor:
            return (weight * f(x).square()).mean()

        for compile in (True, False):
            before = graphs()
            opt = torch.optim.Adam(model.parameters(), lr=lr)
            with higher.innerloop_ctx(model, opt, copy_initial_weights=False) as (
                f,
                diffopt,
            ):
                higher.unroll(
                    *(f, diffopt, weighted, batches[:8]), memory="low", compile=compile
                )
                out = weighted(f, batches[8])
            grads = torch.autograd.grad(out, [weight, *model.parameters()])
            results.append([out.detach(), *grads])
            if compile:
                counts.append(graphs() - before)
        assert_same(*results)
    assert counts == [1, 0, 0]


def test_short_and_long_unrolls_share_a_graph(plain_kernels: None) -> None:
    model, opt_of = net(), optimizer("Adam")
    counts = []
    for steps in (4, 20):
        before = graphs()
        lr = torch.tensor(0.01, dtype=torch.float64, requires_grad=True)
        results = []
        for compile in (True, False):
            with higher.innerloop_ctx(model, opt_of(model), override={"lr": [lr]}) as (
                f,
                diffopt,
            ):
                batches = data()[:1] * steps
                higher.unroll(
                    *(f, diffopt, loss_fn, batches), memory="low", compile=compile
                )
                results.append(torch.autograd.grad(loss_fn(f, data()[-1]), [lr]))
        counts.append(graphs() - before)
        assert_same(*map(list, results))
    assert counts == [1, 0]


@pytest.mark.parametrize("memory", ["full", "low"])
def test_a_setting_that_loss_and_callback_hold(
    memory: str, plain_kernels: None
) -> None:
    class Held:
        rate: Tensor

    model, held = net(), Held()

    def weighed(f: Any, batch: Any) -> Tensor:
        return loss_fn(f, batch) * (1 + held.rate)

    def scaled(grads: list[Tensor]) -> list[Tensor]:
        return [g * (1 + 3 * held.rate) for g in grads]

    results = []
    for compile in (True, False):
        held.rate = torch.tensor(0.05, dtype=torch.float64, requires_grad=True)
        opt, batches = torch.optim.SGD(model.parameters()), data()
        with higher.innerloop_ctx(model, opt, override={"lr": [held.rate]}) as (f, d):
            higher.unroll(
                *(f, d, weighed, batches[:-1]),
                memory=memory,
                compile=compile,
                grad_callback=scaled,
            )
            results.append(
                list(torch.autograd.grad(loss_fn(f, batches[-1]), [held.rate]))
            )
    assert_same(*results)


def test_distance_to_the_models_own_weights(plain_kernels: None) -> None:
    model = net()

    class Near:
        def __call__(self, f: Any, batch: Any) -> Tensor:
            pairs = zip(f.parameters(), model.parameters())
            return loss_fn(f, batch) + sum((p - q).square().sum() for p, q in pairs)

    for loss in (Near(), lambda f, batch: Near()(f, batch)):
        for memory in ("full", "low"):
            found, wanted = (
                derivatives(
                    *(optimizer("SGD"), compile, memory), model=model, loss_fn=loss
                )
                for compile in (True, False)
            )
            assert_same(found, wanted)


def test_tensors_that_an_object_holds_are_those_of_now(plain_kernels: None) -> None:
    class Holder:
        weight: Tensor

    model, holder = net(), Holder()

    def weighted(f: Any, batch: Any) -> Tensor:
        return holder.weight * loss_fn(f, batch)

    before = graphs()
    for value in (1.0, 1.0 + 1e-9, 3.0):
        holder.weight = torch.tensor(value, dtype=torch.float64, requires_grad=True)
        found, wanted = (
            derivatives(
                *(optimizer("SGD"), compile, memory),
                model=model,
                loss_fn=weighted,
                sources=[holder.weight],
            )
            for compile, memory in ((True, "low"), (False, "full"))
        )
        assert_same(found, wanted)
    assert graphs() == before + 1


def test_another_model_mode_or_constant_has_another_graph(plain_kernels: None) -> None:
    model = net()
    scale = 1.0

    def scaled(f: Any, batch: Any) -> Tensor:
        return scale * loss_fn(f, batch)

    make = optimizer("SGD")
    for change in range(3):
        if change == 1:
            scale = 2.0
        if change == 2:
            model.eval()
        before = graphs()
        found = derivatives(make, True, model=model, loss_fn=scaled)
        assert graphs() == before + 1
        assert_same(found, derivatives(make, False, model=model, loss_fn=scaled))


def test_branches_on_counters_have_a_graph_each(plain_kernels: None) -> None:
    before = graphs()
    model = net()
    opt = torch.optim.RAdam(model.parameters(), lr=0.05)
    batches = [data()[0]] * 8
    results = []
    for compile in (True, False):
        with higher.innerloop_ctx(model, opt, copy_initial_weights=False) as (f, d):
            higher.unroll(f, d, loss_fn, batches, compile=compile)
            loss = loss_fn(f, batches[0])
            grads = torch.autograd.grad(loss, list(model.parameters()))
        results.append([loss.detach(), *grads])
    assert graphs() == before + 2  # before and after the variance is rectified
    assert_same(*results)


# torch's own
by_the_compiler = pytest.mark.filterwarnings("ignore")


@by_the_compiler
def test_steps_by_the_real_compiler_equal_plain_ones() -> None:
    def dropping() -> nn.Module:
        torch.manual_seed(0)
        layers = [nn.Linear(3, 4), nn.Tanh(), nn.Dropout(0.5), nn.Linear(4, 2)]
        return nn.Sequential(*layers).double()

    make = optimizer("SGD")
    before = graphs()
    found = derivatives(make, True, "low", model=dropping())
    assert graphs() == before + 1
    assert_same(found, derivatives(make, False, model=dropping()))


@by_the_compiler
@pytest.mark.slow
@pytest.mark.parametrize("name", OPTIMIZERS)
def test_every_optimizer_compiled_by_the_compiler(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Muon rounds, and from then on the order of its sums would tell
    for kind in (Tensor, FunctionalTensor):
        monkeypatch.setattr(kind, "bfloat16", Tensor.clone)
    monkeypatch.setattr(ops, "write_through_all", lambda old, *_: old)
    make, model = optimizer(name), net()
    wanted = derivatives(make, False, model=model)
    # in the second unroll, steps that are alike are all compiled
    for _ in range(2):
        assert_same(derivatives(make, True, model=model), wanted)


@by_the_compiler
@pytest.mark.slow
def test_many_tasks_compiled_by_the_compiler() -> None:
    make = optimizer("Adam")
    found = derivatives(make, True, "low", tasks=TASKS)
    assert_same(found, derivatives(make, False, tasks=TASKS))
