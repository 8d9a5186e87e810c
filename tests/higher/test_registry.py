"""Which differentiable optimizer an optimizer gets."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from handwritten import HandSGD
from torch import nn

import higher
from higher._generated import OPTIMIZERS
from higher.optim import DifferentiableOptimizer, registry


@pytest.fixture(autouse=True)
def _own_registry(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registry, "_registered", dict(registry._registered))


class Mine(torch.optim.SGD):
    """A step of its own."""

    def step(self, closure: Any = None) -> Any:
        return super().step(closure)


def diff_type(opt_type: type[torch.optim.Optimizer], **kwargs: Any) -> type:
    params = [nn.Parameter(torch.ones(1))]
    return type(higher.get_diff_optim(opt_type(params, lr=0.1, **kwargs), params))


def test_a_registered_pair_is_found_and_the_latest_counts() -> None:
    with pytest.raises(ValueError, match="no differentiable version"):
        diff_type(Mine)
    higher.register_optim(Mine, HandSGD)
    assert diff_type(Mine) is HandSGD
    later = type("Later", (HandSGD,), {})
    higher.register_optim(Mine, later)
    assert diff_type(Mine) is later


@pytest.mark.parametrize(
    "pair",
    [
        (nn.Linear, HandSGD),
        (Mine, Mine),
        (Mine, HandSGD.step),
        (torch.optim.SGD([nn.Parameter(torch.ones(1))]), HandSGD),
    ],
)
def test_wrong_types_are_refused(pair: Any) -> None:
    with pytest.raises(TypeError, match="must be a subclass of"):
        higher.register_optim(*pair)


def test_subclasses_that_keep_the_step_use_their_base_s_version() -> None:
    class Defaults(torch.optim.SGD):
        def __init__(self, params: Any, lr: float) -> None:
            super().__init__(params, lr=2 * lr)

        def report(self) -> str:
            return "fine"

    class Grouped(torch.optim.SGD):
        def _init_group(self, *args: Any) -> Any:
            return super()._init_group(*args)

    higher.register_optim(torch.optim.SGD, HandSGD)
    assert diff_type(Defaults) is HandSGD
    with pytest.raises(ValueError, match="no differentiable version"):
        diff_type(Grouped)


def test_an_instance_s_wrapped_step_does_not_matter() -> None:
    """Schedulers and profilers wrap ``step``."""
    higher.register_optim(torch.optim.SGD, HandSGD)
    params = [nn.Parameter(torch.ones(1))]
    opt = torch.optim.SGD(params, lr=0.1)
    torch.optim.lr_scheduler.StepLR(opt, 1)
    assert type(higher.get_diff_optim(opt, params)) is HandSGD


def test_an_optimizer_is_made_from_a_type_and_groups() -> None:
    higher.register_optim(torch.optim.SGD, HandSGD)
    model = nn.Linear(3, 2)
    fmodel = higher.monkeypatch(model)
    for kwargs in (
        {"fmodel": fmodel},
        {"fmodel": fmodel, "params": model.parameters()},
        {
            "fmodel": fmodel,
            "params": [{"params": model.weight, "lr": 0.5}, {"params": [model.bias]}],
        },
    ):
        diff = higher.create_diff_optim(torch.optim.SGD, {"lr": 0.1}, **kwargs)
        before = fmodel.fast_params
        first, _ = diff.step(fmodel(torch.ones(1, 3)).sum())
        lr = diff.param_groups[0]["lr"]
        torch.testing.assert_close(first, before[0] - lr)
    assert [len(g["params"]) for g in diff.param_groups] == [1, 1]
    assert lr == 0.5


def test_an_optimizer_made_without_fmodel_steps_params() -> None:
    higher.register_optim(torch.optim.SGD, HandSGD)
    p = torch.ones(2, requires_grad=True) * 2
    diff = higher.create_diff_optim(
        torch.optim.SGD, {"lr": 0.1}, params=[p], override={"lr": [1.0]}
    )
    (new,) = diff.step(p.sum(), params=[p])
    torch.testing.assert_close(new, torch.ones(2))


def test_create_needs_shapes_and_a_type() -> None:
    with pytest.raises(ValueError, match="needs params or fmodel"):
        higher.create_diff_optim(torch.optim.SGD, {"lr": 0.1})
    with pytest.raises(TypeError, match="must be a subclass of Optimizer"):
        higher.create_diff_optim(nn.Linear, {"lr": 0.1}, params=[torch.ones(1)])


def test_names_of_compiled_classes_are_found_lazily() -> None:
    for path, target in registry._generated_optimizers().items():
        name = target.partition(":")[2]
        found = getattr(higher.optim, name)
        assert issubclass(found, DifferentiableOptimizer) and found.__name__ == name
        original = getattr(torch.optim, path.rpartition(".")[2], None)
        if original is not None:
            assert registry.find_diff_type(original) is found
    with pytest.raises(AttributeError, match="no attribute 'DifferentiableNothing'"):
        higher.optim.DifferentiableNothing  # noqa: B018
    with pytest.raises(AttributeError):
        higher.optim.nothing  # noqa: B018


def test_dir_lists_what_is_imported_on_first_use() -> None:
    names = {place.partition(":")[2] for place in OPTIMIZERS.values()}
    assert names and names <= set(dir(higher.optim))
    stub = Path(higher.optim.__file__).with_name("_compiled.pyi").read_text()
    assert names == set(re.findall(r"^class (\w+)", stub, re.M))


def test_a_star_brings_compiled_optimizers_too() -> None:
    names: dict[str, object] = {}
    exec("from higher.optim import *", names)
    assert names["DifferentiableAdam"] is higher.optim.DifferentiableAdam
    assert names["get_diff_optim"] is higher.get_diff_optim


def test_importing_loads_no_compiler_and_no_optimizer() -> None:
    script = (
        "import sys, torch; before = set(sys.modules); import higher;"
        "print(*(set(sys.modules) - before))"
    )
    out = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    )
    loaded = set(out.stdout.split())
    assert not {"libcst", "jinja2", "black", "codegen", "rich"} & loaded
    assert "higher._generated" not in loaded and "higher.optim" in loaded
