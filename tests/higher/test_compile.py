"""``unroll(compile=True)``, against the same unroll as it is.

Nearly all of it with torch's own kernels in the place of the C++ compiler's, so that a
test takes a second; that compiler has the last ones.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch._dynamo.utils import counters

import higher

STEPS, TASKS = 4, 3
Make = Callable[[nn.Module], torch.optim.Optimizer]
OPTIMIZERS: dict[str, dict[str, Any]] = {
    "SGD": dict(lr=0.1, momentum=0.9, weight_decay=0.1, nesterov=True),
    "Adam": dict(lr=0.05, amsgrad=True),
    "AdamW": dict(lr=0.05),
    "NAdam": dict(lr=0.05),
    "RAdam": dict(lr=0.05, betas=(0.9, 0.3)),
    "Adagrad": dict(lr=0.1),
    "Adadelta": dict(lr=1.0),
    "Adamax": dict(lr=0.05),
    "ASGD": dict(lr=0.1, lambd=0.1, t0=1),
    "RMSprop": dict(lr=0.01, centered=True, momentum=0.5),
    "Rprop": dict(lr=0.05),
    "Adafactor": dict(lr=0.1),
    "Muon": dict(lr=0.1),
}


@pytest.fixture
def plain_kernels(monkeypatch: pytest.MonkeyPatch) -> None:
    usual = torch.compile

    def compile(function: Any, **kwargs: Any) -> Any:
        del kwargs["options"]
        return usual(function, backend="aot_eager", **kwargs)

    monkeypatch.setattr(torch, "compile", compile)


@pytest.fixture(autouse=True)
def _fresh() -> Iterator[None]:
    yield
    torch._dynamo.reset()


def net() -> nn.Module:
    torch.manual_seed(0)
    layers = [
        nn.Linear(3, 6, bias=False),
        nn.BatchNorm1d(6, affine=False),
        nn.Tanh(),
        nn.Linear(6, 2, bias=False),
    ]
    return nn.Sequential(*layers).double()


def data(*tasks: int) -> list[tuple[Tensor, Tensor]]:
    g = torch.Generator().manual_seed(1)
    x, y = (torch.randn(STEPS + 1, *tasks, 5, n, generator=g).double() for n in (3, 2))
    return list(zip(x, y))


def loss_fn(f: Any, batch: Any) -> Tensor:
    return F.mse_loss(f(batch[0]), batch[1])


def optimizer(name: str) -> Make:
    return lambda m: getattr(torch.optim, name)(m.parameters(), **OPTIMIZERS[name])


def derivatives(
    make: Make,
    compile: bool,
    memory: Any = "full",
    model: nn.Module | None = None,
    loss_fn: Callable[..., Tensor] = loss_fn,
    sources: list[Tensor] = [],
    settings: bool = True,
    tasks: int | None = None,
    **kwargs: Any,
) -> list[Tensor]:
    """Losses, derivatives, weights, buffers and random state of one unroll."""
    model = net() if model is None else model
    *inner, outer = data() if tasks is None else data(tasks)
    lr = torch.tensor(0.05, dtype=torch.float64, requires_grad=True)
    override = {"lr": [lr]} if settings else None
    torch.manual_seed(3)
    with higher.innerloop_ctx(
        model, make(model), copy_initial_weights=False, override=override, tasks=tasks
    ) as (f, diffopt):
        losses = higher.unroll(
            f, diffopt, loss_fn, inner, memory=memory, compile=compile, **kwargs
        )
        last = higher.map_tasks(f, loss_fn, outer) if tasks else loss_fn(f, outer)
        total = (last + losses[-2] if "truncate" not in kwargs else last).sum()
        history = [w for w in f.parameters(time=2)] if "truncate" not in kwargs else []
        buffers = [b.clone() for b in f.buffers()]
    by = [*model.parameters(), *sources, *([lr] if settings else [])]
    grads = torch.autograd.grad(total, by, allow_unused=True)
    return [
        *(t.detach() for t in [*losses, last, *history, *f.parameters()]),
        *(g for g in grads if g is not None),
        *[*buffers, torch.rand(2)],
    ]


def assert_same(found: list[Tensor], wanted: list[Tensor], rtol: float = 1e-10) -> None:
    for i, (a, b) in enumerate(zip(found, wanted, strict=True)):
        assert a.shape == b.shape
        off = float((a - b).abs().max()) / max(float(b.abs().max()), 1e-6)
        assert off < rtol, f"{i}: {off}"


def graphs() -> int:
    return int(counters["stats"]["unique_graphs"])


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
def test_every_memory_mode(memory: Any, plain_kernels: None) -> None:
    make = optimizer("Adam")
    assert_same(derivatives(make, True, memory), derivatives(make, False))


@pytest.mark.parametrize("name", ["NAdam", "Adafactor"])
def test_settings_that_are_numbers(name: str, plain_kernels: None) -> None:
    make = optimizer(name)
    found = derivatives(make, True, settings=False)
    assert_same(found, derivatives(make, False, settings=False))


@pytest.mark.parametrize("options", [{"truncate": 2}, {"order": 1}])
def test_truncation_and_first_order(options: Any, plain_kernels: None) -> None:
    make = optimizer("SGD")
    found = derivatives(make, True, "low", **options)
    assert_same(found, derivatives(make, False, "low", **options))


@pytest.mark.parametrize(
    "name", ["Adam", pytest.param("Adafactor", marks=pytest.mark.slow)]
)
def test_many_tasks(name: str, plain_kernels: None) -> None:
    make = optimizer(name)
    found = derivatives(make, True, "low", tasks=TASKS)
    assert_same(found, derivatives(make, False, tasks=TASKS))


def test_dropout_draws_the_same_numbers(plain_kernels: None) -> None:
    def dropping() -> nn.Module:
        torch.manual_seed(0)
        layers = [nn.Linear(3, 6), nn.Tanh(), nn.Dropout(0.5), nn.Linear(6, 2)]
        return nn.Sequential(*layers).double()

    make = optimizer("Adam")
    found = derivatives(make, True, "step", model=dropping())
    assert_same(found, derivatives(make, False, model=dropping()))


def test_gradients_that_are_called_back(plain_kernels: None) -> None:
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


def branching(f: Any, batch: Any) -> Tensor:
    loss = loss_fn(f, batch)
    return loss * 2 if loss > 0 else loss  # a branch


def reading(f: Any, batch: Any) -> Tensor:
    return loss_fn(f, batch) * loss_fn(f, batch).item()  # a number


@pytest.mark.parametrize("function", [branching, reading])
def test_what_reads_values_is_refused_with_the_line(
    function: Any, plain_kernels: None
) -> None:
    with pytest.raises(RuntimeError, match=r"test_compile.py:\d+: `.*reads the value"):
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


def test_an_error_of_the_program_is_shown(plain_kernels: None) -> None:
    calls = []

    def broken(f: Any, batch: Any) -> Tensor:
        calls.append(0)
        if len(calls) > 1:
            raise KeyError("mine")
        return loss_fn(f, batch)

    with pytest.raises((RuntimeError, KeyError), match="mine"):
        derivatives(optimizer("SGD"), True, loss_fn=broken)


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


# torch's own
by_the_compiler = pytest.mark.filterwarnings("ignore")


@by_the_compiler
def test_compiled_by_the_compiler() -> None:
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
def test_every_optimizer_compiled_by_the_compiler(name: str) -> None:
    if name == "Muon":
        pytest.skip("rounds to bfloat16, which magnifies the order of sums")
    make = optimizer(name)
    assert_same(derivatives(make, True), derivatives(make, False))


@by_the_compiler
@pytest.mark.slow
def test_many_tasks_compiled_by_the_compiler() -> None:
    make = optimizer("Adam")
    found = derivatives(make, True, "low", tasks=TASKS)
    assert_same(found, derivatives(make, False, tasks=TASKS))
