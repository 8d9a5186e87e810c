"""What can't be right is refused, and the message says what to do instead."""

from __future__ import annotations

import sys
import types
import warnings
from typing import Any

import pytest
import torch
from torch import nn
from unroll import regression

import higher


def _sgd(model: nn.Module, **kwargs: Any) -> torch.optim.Optimizer:
    return torch.optim.SGD(model.parameters(), **{"lr": 0.1, **kwargs})


@pytest.mark.parametrize("wrap", [lambda m: m, lambda m: nn.Sequential(m)])
def test_script_modules_are_refused(wrap: Any) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        scripted = torch.jit.trace(nn.Linear(3, 2), torch.ones(1, 3))
    with pytest.raises(TypeError, match="Pass the Python module that it was made from"):
        higher.monkeypatch(wrap(scripted))


def test_uninitialized_lazy_modules_are_refused() -> None:
    model = nn.Sequential(nn.LazyLinear(2), nn.LazyBatchNorm1d())
    with pytest.raises(
        TypeError, match=r"'0.weight' is not initialized.*call the model"
    ):
        higher.monkeypatch(model)
    model(torch.ones(4, 3))
    assert higher.monkeypatch(model)(torch.ones(4, 3)).shape == (4, 2)


def test_distributed_data_parallel_is_refused_and_what_it_wraps_is_not(
    tmp_path: Any,
) -> None:
    torch.distributed.init_process_group(
        "gloo", init_method=f"file://{tmp_path}/store", rank=0, world_size=1
    )
    try:
        model = nn.parallel.DistributedDataParallel(nn.Linear(3, 2))
        with pytest.raises(TypeError, match=r"model\.module.*all_reduce"):
            higher.monkeypatch(model)
        assert higher.monkeypatch(model.module)(torch.ones(1, 3)).shape == (1, 2)
    finally:
        torch.distributed.destroy_process_group()


def test_compiled_modules_are_refused_and_their_originals_are_not() -> None:
    from torch._dynamo.eval_frame import OptimizedModule

    model = torch.compile(nn.Linear(3, 2), backend="eager")
    assert isinstance(model, OptimizedModule)
    with pytest.raises(TypeError, match=r"model\._orig_mod"):
        higher.monkeypatch(model)
    with pytest.raises(TypeError, match=r"The module '0' .*model\._orig_mod"):
        higher.monkeypatch(nn.Sequential(model))
    assert higher.monkeypatch(model._orig_mod)(torch.ones(1, 3)).shape == (1, 2)


def test_parameters_that_are_not_the_model_s() -> None:
    model = nn.Linear(3, 2)
    opt = torch.optim.SGD([model.weight, nn.Parameter(torch.ones(7))], lr=0.1)
    with pytest.raises(ValueError, match=r"Parameter 1 of group 0 .*\(7,\).*not among"):
        with higher.innerloop_ctx(model, opt):
            pass


OVERRIDES: list[tuple[dict[str, Any], type[Exception], str]] = [
    ({"learning_rate": [0.1]}, ValueError, "no setting.*Its settings:.* lr, "),
    ({"params": [[]]}, ValueError, "no setting"),
    ({"lr": [0.1, 0.2, 0.3]}, ValueError, "3 values for 2 parameter groups"),
    ({"lr": []}, ValueError, "0 values for 2 parameter groups"),
    ({"lr": 0.1}, TypeError, r"must be a list.*write \[lr\]"),
    ({"lr": torch.tensor(0.1)}, TypeError, "must be a list"),
    ({"betas": [0.9, 0.99]}, ValueError, "must be a tuple of 2"),
    ({"betas": [(0.9,)]}, ValueError, "must be a tuple of 2"),
]


@pytest.mark.parametrize(("override", "error", "message"), OVERRIDES)
def test_an_override_that_does_not_fit_is_refused(
    override: Any, error: type[Exception], message: str
) -> None:
    model = nn.Linear(3, 2)
    opt = torch.optim.Adam([{"params": [p]} for p in model.parameters()])
    with pytest.raises(error, match=message):
        with higher.innerloop_ctx(model, opt, override=override):
            pass
    with higher.innerloop_ctx(model, opt) as (fmodel, diff):
        with pytest.raises(error, match=message):
            diff.step(fmodel(torch.ones(1, 3)).sum(), override=override)


def test_a_loss_of_the_original_model() -> None:
    model = nn.Linear(3, 2)
    with higher.innerloop_ctx(model, _sgd(model)) as (fmodel, diff):
        with pytest.raises(RuntimeError, match=r"with the stateless module \(fmodel\)"):
            diff.step(model(torch.ones(1, 3)).sum())


def test_a_loss_of_earlier_weights() -> None:
    model = nn.Linear(3, 2)
    with higher.innerloop_ctx(model, _sgd(model)) as (fmodel, diff):
        loss = fmodel(torch.ones(1, 3)).sum()
        diff.step(loss)
        with pytest.raises(RuntimeError, match="after the previous step"):
            diff.step(loss)


def test_a_loss_without_graph_is_refused() -> None:
    model = nn.Linear(3, 2)
    with higher.innerloop_ctx(model, _sgd(model)) as (fmodel, diff):
        with torch.no_grad():
            loss = fmodel(torch.ones(1, 3)).sum()
        with pytest.raises(RuntimeError, match="with gradients enabled"):
            diff.step(loss)


def test_meta_gradient_of_copied_weights_hints_at_the_cause() -> None:
    model = nn.Linear(3, 2).double()
    loss = regression()
    with pytest.raises(RuntimeError, match="copy_initial_weights=False"):
        with higher.innerloop_ctx(model, _sgd(model)) as (fmodel, diff):
            diff.step(loss(fmodel))
            torch.autograd.grad(loss(fmodel), list(model.parameters()))
    with pytest.raises(RuntimeError) as caught:
        with higher.innerloop_ctx(model, _sgd(model), copy_initial_weights=False) as (
            fmodel,
            diff,
        ):
            torch.autograd.grad(loss(fmodel), [torch.ones(1, requires_grad=True)])
    assert "Hint" not in str(caught.value)


def test_step_without_fmodel_needs_params() -> None:
    model = nn.Linear(3, 2)
    diff = higher.get_diff_optim(_sgd(model), model.parameters())
    with pytest.raises(ValueError, match="step needs params"):
        diff.step(model(torch.ones(1, 3)).sum())
    with pytest.raises(ValueError, match="given 1 parameters; .* are 2"):
        diff.step(model(torch.ones(1, 3)).sum(), params=[model.weight])


def test_an_unknown_optimizer_is_refused_with_what_to_do() -> None:
    class Mine(torch.optim.Optimizer):
        def step(self, closure: Any = None) -> None: ...

    model = nn.Linear(3, 2)
    with pytest.raises(ValueError, match="python -m codegen") as caught:
        with higher.innerloop_ctx(model, Mine(model.parameters(), {})):
            pass
    assert "codegen.compile_optimizer(Mine)" in str(caught.value)
    assert "Mine -o FILE.py" in str(caught.value)


def test_an_unknown_optimizer_of_a_script_or_a_notebook_is_told_its_own_command(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    class Mine(torch.optim.Optimizer):
        def step(self, closure: Any = None) -> None: ...

    Mine.__module__, Mine.__qualname__ = "__main__", "Mine"
    main = types.ModuleType("__main__")
    monkeypatch.setitem(sys.modules, "__main__", main)
    opt = Mine(nn.Linear(3, 2).parameters(), {})
    with pytest.raises(ValueError, match="with\\n    higher.register_optim") as caught:
        higher.get_diff_optim(opt, [])
    assert "python -m codegen" not in str(caught.value)
    main.__file__ = "my script.py"
    with pytest.raises(ValueError, match="codegen 'my script.py:Mine' -o FILE.py"):
        higher.get_diff_optim(opt, [])


def test_something_else_than_an_optimizer() -> None:
    model = nn.Linear(3, 2)
    with pytest.raises(TypeError, match="must be a torch.optim.Optimizer"):
        higher.get_diff_optim(model, model.parameters())


def test_base_class_has_no_update() -> None:
    model = nn.Linear(3, 2)
    diff = higher.optim.DifferentiableOptimizer(_sgd(model), model.parameters())
    with pytest.raises(NotImplementedError, match="must override _update"):
        diff.step(model(torch.ones(1, 3)).sum(), params=model.parameters())


def test_grad_callback_of_wrong_length() -> None:
    model = nn.Linear(3, 2)
    diff = higher.get_diff_optim(_sgd(model), model.parameters())
    with pytest.raises(ValueError, match="returned 1 gradients for 2"):
        diff.step(
            model(torch.ones(1, 3)).sum(),
            params=model.parameters(),
            grad_callback=lambda grads: grads[:1],
        )
