"""What to do about an optimizer that has no differentiable version."""

from __future__ import annotations

import inspect
import shlex
import sys
from typing import Any

import torch


def advice(optim_type: type[torch.optim.Optimizer]) -> str:
    """Why there is none for this class, and what to do instead."""
    path = f"{optim_type.__module__}.{optim_type.__qualname__}"
    if _needs_closure(optim_type):
        return (
            f"{path} has no differentiable version: it evaluates the loss itself, as "
            "often as it likes, so none of its steps can be differentiated. Take inner "
            "steps with another optimizer, such as SGD or Adam. Or solve the inner "
            f"problem with {optim_type.__name__} on the plain module, and differentiate "
            "the solution implicitly: docs/recipes.md shows how."
        )
    in_memory = (
        f"    higher.register_optim({optim_type.__name__}, "
        f"codegen.compile_optimizer({optim_type.__name__}))\n"
    )
    target = _target(optim_type)
    to_file = f"    python -m codegen {target} -o FILE.py\nor in memory with\n"
    return (
        f"{path} has no differentiable version. Compile it with\n"
        f"{to_file if target else ''}{in_memory}"
        "or write a subclass of higher.optim.DifferentiableOptimizer and register it."
    )


def _target(optim_type: type) -> str | None:
    """What the command line calls a class; None for one of a notebook or console."""
    name = optim_type.__qualname__
    if optim_type.__module__ != "__main__":
        return f"{optim_type.__module__}.{name}"
    script = getattr(sys.modules["__main__"], "__file__", None)
    return shlex.quote(f"{script}:{name}") if script else None


def advice_on_wrapper(opt: torch.optim.Optimizer) -> str | None:
    """The same for one that holds another one, which does the work; None for others."""
    found = _inside(opt)
    if found is None:
        return None
    name, inner = found
    path = f"{type(opt).__module__}.{type(opt).__qualname__}"
    return (
        f"{path} has no differentiable version: it is a wrapper around an optimizer of "
        f"type {type(inner).__name__}. Pass that one: opt.{name}. What the wrapper adds "
        "to a step (scaling of gradients, accumulation) belongs to the outer loop; if "
        "it changes the update itself, compile the wrapper's class: "
        f"python -m codegen {path} -o FILE.py"
    )


def _inside(opt: torch.optim.Optimizer) -> tuple[str, torch.optim.Optimizer] | None:
    """An optimizer of the same parameters that ``opt`` holds, and by which name."""
    own = _params(opt)
    for name, value in vars(opt).items():
        if isinstance(value, torch.optim.Optimizer) and _params(value) == own:
            return name, value
    return None


def _params(opt: Any) -> list[int]:
    return [id(p) for group in opt.param_groups for p in group["params"]]


def _needs_closure(optim_type: type[torch.optim.Optimizer]) -> bool:
    parameters = [*inspect.signature(optim_type.step).parameters.values()]
    return any(
        p.name == "closure" and p.default is inspect.Parameter.empty for p in parameters
    )
