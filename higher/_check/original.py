"""The original optimizer once more, on parameters of its own.

Its ``__dict__`` is copied as ``copy.deepcopy`` would, so that whatever it keeps, and
whichever of it is one object or shares memory, is so in the copy. Constructors need not
be called for that. The user's hooks, and a ``step`` that a scheduler has wrapped, stay
behind: they are the user's.
"""

from __future__ import annotations

import copy
import inspect
from collections import OrderedDict
from collections.abc import Callable, Iterable, Mapping
from types import ModuleType
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.overrides import TorchFunctionMode

KERNELS: Mapping[str, bool] = {
    "capturable": False,
    "differentiable": False,
    "fused": False,
}
"""Settings by which an original picks other kernels for the same update, which round
otherwise: the copy takes those that the translation was made from."""


class CannotCheck(ValueError):
    """The original can't be made again, or can't be stepped as it is."""


def again(
    original: Optimizer, devices: Mapping[int, torch.device | None] = {}
) -> Optimizer:
    """A copy of ``original`` whose parameters are copies, too.

    Args:
        original: any optimizer; it is not changed.
        devices: where a parameter goes, by its ``id``; by default it stays. State
            follows the parameters if all go to one place.

    Raises:
        CannotCheck: something that it holds can't be copied, or its step asks for a
            closure.
    """
    refuse_closure(type(original))
    places = set(devices.values())
    copier = _Copier(places.pop() if len(places) == 1 else None)
    twin: Optimizer = object.__new__(type(original))
    memo: dict[int, Any] = {id(original): twin}
    for p in _params(original):
        memo[id(p)] = copier.param(p, devices.get(id(p)))
    with torch.no_grad(), _Copying(copier):
        for name, value in vars(original).items():
            if name in ("step", "zero_grad"):
                continue
            vars(twin)[name] = _copied(type(original), name, value, memo)
        for p in _params(original):
            # marks that somebody has put on a parameter, which a step may read
            for name, value in vars(p).items():
                mark = _copied(type(original), name, value, memo)
                setattr(memo[id(p)], name, mark)
    vars(twin)["_warned_capturable_if_run_uncaptured"] = True
    for settings in (*twin.param_groups, twin.defaults):
        settings.update({k: v for k, v in KERNELS.items() if k in settings})
    return twin


def refuse_closure(cls: type[Optimizer]) -> None:
    try:
        parameters = inspect.signature(cls.step).parameters
    except (TypeError, ValueError):
        return
    closure = parameters.get("closure")
    if closure is not None and closure.default is inspect.Parameter.empty:
        raise CannotCheck(
            f"check=True: {cls.__name__}.step needs a closure, which a differentiable "
            "step doesn't have: the original can't step beside it. Leave check out."
        )


def plain_step(cls: type[Optimizer]) -> Callable[..., Any]:
    """``step`` without the layer that runs the hooks of all optimizers."""
    step: Any = cls.step
    if getattr(step, "hooked", False) and hasattr(step, "__wrapped__"):
        step = step.__wrapped__
    found: Callable[..., Any] = step
    return found


def _params(optimizer: Optimizer) -> Iterable[Tensor]:
    return (p for group in optimizer.param_groups for p in group["params"])


def _copied(cls: type, name: str, value: Any, memo: dict[int, Any]) -> Any:
    if name.startswith("_optimizer_") and name.endswith("_hooks"):
        return OrderedDict()
    if isinstance(value, ModuleType):
        return value
    try:
        return copy.deepcopy(value, memo)
    except Exception as error:
        raise CannotCheck(
            f"check=True: {cls.__name__} can't be made again, for its attribute "
            f"{name!r} can't be copied ({type(error).__name__}: {error}). Give it a "
            "__deepcopy__, or leave check out."
        ) from error


class _Copying(TorchFunctionMode):
    """Within, tensors are copied by ``copier`` wherever ``deepcopy`` finds them."""

    def __init__(self, copier: _Copier) -> None:
        super().__init__()
        self._copier = copier

    def __torch_function__(
        self, func: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        if func is Tensor.__deepcopy__:
            return self._copier.tensor(args[0])
        return func(*args, **(kwargs or {}))


class _Copier:
    """Copies of tensors, detached. Those that share memory do so in the copies."""

    def __init__(self, device: torch.device | None) -> None:
        self._device = device
        self._storages: dict[int, tuple[Any, Any]] = {}

    def param(self, p: Tensor, device: torch.device | None) -> Tensor:
        if device is not None and device != p.device:
            data = p.detach().to(device, copy=True)
        else:
            data = self.tensor(p)
        if isinstance(p, nn.Parameter):
            return nn.Parameter(data, requires_grad=p.requires_grad)
        return data.requires_grad_(p.requires_grad)

    def tensor(self, t: Tensor) -> Tensor:
        t = t.detach()
        # torch, too, leaves step counters where they are
        if self._device is not None and t.dim() and t.device != self._device:
            return t.to(self._device, copy=True)
        plain = type(t) in (Tensor, nn.Parameter) and t.layout is torch.strided
        if not plain or t.is_quantized or t.is_conj() or t.is_neg() or t.is_meta:
            return t.clone()
        storage: Any = t.untyped_storage()
        key = storage.data_ptr()
        if not key:
            return t.clone()
        if key not in self._storages:
            # the original too: its address must stay taken
            self._storages[key] = storage.clone(), storage
        new = torch.empty(0, dtype=t.dtype, device=t.device)
        return new.set_(self._storages[key][0], t.storage_offset(), t.shape, t.stride())
