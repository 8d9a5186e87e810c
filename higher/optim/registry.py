"""Which differentiable optimizer belongs to which optimizer."""

from __future__ import annotations

import importlib
import inspect
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, MutableMapping
from typing import Any

import torch
from torch import Tensor, nn

from higher._object_graph import code_names
from higher._weights import fast_weights
from higher.optim.advice import advice, advice_on_wrapper
from higher.optim.base import DifferentiableOptimizer

_registered: dict[type[torch.optim.Optimizer], type[DifferentiableOptimizer]] = {}


def register_optim(
    optim_type: type[torch.optim.Optimizer],
    diff_optim_type: type[DifferentiableOptimizer],
) -> None:
    """Makes ``diff_optim_type`` the differentiable version of ``optim_type``.

    A later pair for the same type replaces the earlier one.

    Raises:
        TypeError: the first is no ``torch.optim.Optimizer`` class or the second
            no ``DifferentiableOptimizer`` class.

    Examples:
        >>> class Mine(torch.optim.SGD):
        ...     pass
        >>> higher.register_optim(Mine, higher.optim.DifferentiableSGD)
        >>> params = [torch.zeros(2, requires_grad=True)]
        >>> type(higher.get_diff_optim(Mine(params, lr=0.1), params)).__name__
        'DifferentiableSGD'
    """
    _check_subclass(optim_type, torch.optim.Optimizer, "optim_type")
    _check_subclass(diff_optim_type, DifferentiableOptimizer, "diff_optim_type")
    _registered[optim_type] = diff_optim_type


def get_diff_optim(
    opt: torch.optim.Optimizer,
    reference_params: Iterable[Tensor],
    fmodel: nn.Module | None = None,
    device: torch.device | str | None = None,
    override: Mapping[str, Any] | None = None,
    track_higher_grads: bool = True,
    **kwargs: Any,
) -> DifferentiableOptimizer:
    """The differentiable version of ``opt``, continuing from its present state.

    Args:
        opt: an optimizer; it is not changed.
        reference_params: the parameters that ``step`` takes and returns, in this
            order; all parameters of ``opt`` are among them.
        fmodel: the stateless module whose fast weights ``step`` updates.
        device: where the optimizer's state goes; by default it stays.
        override: as in ``higher.innerloop_ctx``.
        track_higher_grads: ``False`` keeps no graph across steps.
        **kwargs: passed to the differentiable optimizer.

    Raises:
        ValueError: the type is unknown; the message says how to compile it.

    Examples:
        >>> w = torch.tensor([1.0, 2.0], requires_grad=True)
        >>> diffopt = higher.get_diff_optim(torch.optim.SGD([w], lr=0.5), [w])
        >>> (new,) = diffopt.step(w.square().sum(), params=[w])
        >>> new.tolist(), new.requires_grad
        ([0.0, 0.0], True)
    """
    if not isinstance(opt, torch.optim.Optimizer):
        raise TypeError(
            f"opt must be a torch.optim.Optimizer, not {type(opt).__name__}."
        )
    try:
        diff_type = find_diff_type(type(opt))
    except ValueError:
        wrapped = advice_on_wrapper(opt)
        if wrapped is None:
            raise
        raise ValueError(wrapped) from None
    return diff_type(
        opt,
        reference_params,
        fmodel=fmodel,
        device=device,
        override=override,
        track_higher_grads=track_higher_grads,
        **kwargs,
    )


def create_diff_optim(
    opt_type: type[torch.optim.Optimizer],
    opt_kwargs: Mapping[str, Any] | None = None,
    params: Iterable[Any] | None = None,
    fmodel: nn.Module | None = None,
    device: torch.device | str | None = None,
    override: Mapping[str, Any] | None = None,
    track_higher_grads: bool = True,
    **kwargs: Any,
) -> DifferentiableOptimizer:
    """A differentiable optimizer with fresh state, from an optimizer's type.

    Args:
        opt_type: the optimizer's class.
        opt_kwargs: its settings.
        params: tensors, or parameter groups as ``opt_type`` takes them; only
            their shapes matter. Default: the fast weights of ``fmodel``.
        fmodel: as for ``get_diff_optim``, like those below.
        device: where the state goes.
        override: settings, tensors perhaps.
        track_higher_grads: False for a step without a graph.
        **kwargs: the others of ``get_diff_optim``.

    Raises:
        ValueError: neither ``params`` nor ``fmodel`` is given, or the type is
            unknown.

    Examples:
        >>> w = torch.tensor([1.0], requires_grad=True)
        >>> diffopt = higher.create_diff_optim(torch.optim.SGD, {"lr": 0.5}, params=[w])
        >>> (new,) = diffopt.step((2 * w).sum(), params=[w])
        >>> new.tolist()
        [0.0]
    """
    _check_subclass(opt_type, torch.optim.Optimizer, "opt_type")
    if params is None:
        if fmodel is None:
            raise ValueError("create_diff_optim needs params or fmodel for the shapes.")
        params = fmodel.parameters()
        if fast_weights(fmodel).tasks is not None:
            params = [w[0] for w in params]
    groups, reference = _stand_ins(list(params))
    return get_diff_optim(
        opt_type(groups, **dict(opt_kwargs or {})),
        reference,
        fmodel=fmodel,
        device=device,
        override=override,
        track_higher_grads=track_higher_grads,
        **kwargs,
    )


def find_diff_type(
    optim_type: type[torch.optim.Optimizer],
) -> type[DifferentiableOptimizer]:
    """The differentiable type for an optimizer's class.

    A subclass that changes nothing that ``step`` runs uses its base's version.
    """
    for base in optim_type.__mro__:
        if base is torch.optim.Optimizer:
            break
        found = _registered.get(base) or _load_generated(base)
        if found is not None:
            if base is optim_type or _same_step(optim_type, base):
                return found
            break
    raise ValueError(advice(optim_type))


class _Pairs(MutableMapping[Any, Any]):
    """The pairs of types as the classic library has them: a dict that programs read,
    and add to."""

    def __getitem__(self, optim_type: Any) -> type[DifferentiableOptimizer]:
        found = _registered.get(optim_type)
        if found is None and isinstance(optim_type, type):
            found = _load_generated(optim_type)
        if found is None:
            raise KeyError(optim_type)
        return found

    def __setitem__(self, optim_type: Any, diff_optim_type: Any) -> None:
        register_optim(optim_type, diff_optim_type)

    def __delitem__(self, optim_type: Any) -> None:
        del _registered[optim_type]

    def __iter__(self) -> Iterator[Any]:
        for path in _generated_optimizers():
            module, _, name = path.rpartition(".")
            # a module that is not loaded has none that somebody could mean
            found = vars(sys.modules.get(module, object)).get(name)
            if found is not None:
                self[found]
        return iter([*_registered])

    def __len__(self) -> int:
        return sum(1 for _ in self)


_opt_mapping = _Pairs()


def _check_subclass(given: object, wanted: type, name: str) -> None:
    if not (isinstance(given, type) and issubclass(given, wanted)):
        raise TypeError(f"{name} must be a subclass of {wanted.__name__}: {given!r}")


def _load_generated(cls: type) -> type[DifferentiableOptimizer] | None:
    """The compiled version of ``cls``; its module is imported on first use."""
    for path, target in _generated_optimizers().items():
        module, _, name = path.rpartition(".")
        # a module that is not loaded can't be where cls comes from
        if vars(sys.modules.get(module, object)).get(name) is cls:
            module, _, name = target.partition(":")
            found: type[DifferentiableOptimizer]
            found = getattr(importlib.import_module(module), name)
            _registered[cls] = found
            return found
    return None


def _generated_optimizers() -> dict[str, str]:
    """Dotted path of an optimizer -> ``module:class`` of its compiled version."""
    try:
        generated = importlib.import_module("higher._generated")
    except ModuleNotFoundError as error:
        if error.name != "higher._generated":
            raise
        return {}
    optimizers: dict[str, str] = getattr(generated, "OPTIMIZERS", {})
    return optimizers


def _same_step(cls: type, base: type) -> bool:
    """Whether ``cls`` runs the very step of ``base``, and all that step calls."""
    return all(
        _plain(getattr(cls, name)) is _plain(getattr(base, name))
        for name in _reached(base, "step", set())
    )


def _reached(cls: type, name: str, seen: set[str]) -> set[str]:
    """Names of the attributes of ``cls`` that its method ``name`` runs."""
    seen.add(name)
    code = getattr(_plain(getattr(cls, name)), "__code__", None)
    for other in code_names(code) if code is not None else ():
        if other not in seen and not other.startswith("__") and hasattr(cls, other):
            _reached(cls, other, seen)
    return seen


def _plain(function: Any) -> Any:
    # torch wraps step on the class when the first instance is made
    return inspect.unwrap(function) if isinstance(function, Callable) else function  # type: ignore[arg-type]


def _stand_ins(params: list[Any]) -> tuple[list[Any], list[nn.Parameter]]:
    """Leaves in the given tensors' place, in the same groups, and all of them."""
    reference: list[nn.Parameter] = []

    def stand_in(p: Tensor) -> nn.Parameter:
        reference.append(nn.Parameter(p.detach(), requires_grad=p.requires_grad))
        return reference[-1]

    def group(g: Mapping[str, Any]) -> dict[str, Any]:
        inside = g["params"]
        inside = [inside] if isinstance(inside, Tensor) else list(inside)
        return {**g, "params": [stand_in(p) for p in inside]}

    if params and isinstance(params[0], Mapping):
        return [group(g) for g in params], reference
    return [stand_in(p) for p in params], reference
