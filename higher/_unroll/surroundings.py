"""What a step reads besides tensors that it is handed: random state, autocast, train
and eval modes, buffers, numbers and tensors that modules have as attributes. A step that
runs again finds them as they were."""

from __future__ import annotations

import functools
import threading
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from higher._carry import mapped
from higher._checkpointing import _saved
from higher._second_order import _ProcessWide
from higher._weights import FastWeights, fast_weights


class Autocast:
    """The autocast state of now, to be entered later.

    Without its cache, which would hold the casts of every step's weights until the
    outermost context is left.
    """

    def __init__(self, devices: Iterable[torch.device]) -> None:
        types = {"cpu"} | {d.type for d in devices}
        self._states = [
            (t, torch.is_autocast_enabled(t), torch.get_autocast_dtype(t))
            for t in sorted(types)
            if torch.amp.is_autocast_available(t)
        ]

    def dtypes(self) -> list[torch.dtype]:
        return [dtype for _, enabled, dtype in self._states if enabled]

    @contextmanager
    def entered(self) -> Iterator[None]:
        with ExitStack() as stack:
            for device_type, enabled, dtype in self._states:
                if enabled or torch.is_autocast_enabled(device_type):
                    stack.enter_context(
                        torch.autocast(device_type, dtype, enabled, cache_enabled=False)
                    )
            yield


class _Hooks(threading.local):
    """How many hooks this thread has registered on tensors while they are counted."""

    count = 0


hooks = _Hooks()
_register_hook: Any = Tensor.register_hook


@functools.wraps(_register_hook)
def _counted(tensor: Tensor, hook: Any) -> Any:
    hooks.count += 1
    return _register_hook(tensor, hook)


hooks_counted = _ProcessWide(
    lambda: (Tensor.register_hook,),
    lambda function: setattr(Tensor, "register_hook", function),
    (_counted,),
)
"""While entered, :data:`hooks` counts: no graph tells of its hooks."""


class Random:
    """The state of torch's own random generators, the CPU's and some devices'."""

    def __init__(self, devices: Iterable[torch.device]) -> None:
        self._cpu = torch.get_rng_state()
        self._states = [(d, _module_of(d).get_rng_state(d)) for d in devices]

    def restore(self) -> None:
        torch.set_rng_state(self._cpu)
        for device, state in self._states:
            _module_of(device).set_rng_state(state, device)


def _module_of(device: torch.device) -> Any:
    return torch.get_device_module(device)


def devices_of(tensors: Iterable[Tensor]) -> list[torch.device]:
    """Those besides the CPU on which random numbers may be drawn."""
    found = {t.device for t in tensors if t.device.type not in ("cpu", "meta")}
    return sorted(found, key=str)


class _BufferThen(NamedTuple):
    tensor: Tensor | None
    """None where a version does not tell whether it is as it was."""
    version: int
    values: Tensor


class Tree:
    """The modules of a stateless module: their modes and buffers."""

    def __init__(self, module: nn.Module) -> None:
        self.weights: FastWeights = fast_weights(module)
        self._modules = self.weights.modules()
        # torch's own layers keep nothing there that changes
        own = [m for m in self._modules if not type(m).__module__.startswith("torch.")]
        self._attributes = [m.__dict__ for m in own]

    @property
    def modules(self) -> list[nn.Module]:
        return self._modules

    def buffers(self) -> list[Tensor]:
        return [b for m in self._modules for b in m._buffers.values() if b is not None]

    def carried_buffers(self) -> dict[tuple[int, str], Tensor]:
        """Buffers that carry gradient from step to step."""
        return {
            (i, name): b
            for i, m in enumerate(self._modules)
            for name, b in m._buffers.items()
            if b is not None and b.requires_grad
        }

    def set_buffers(self, buffers: dict[tuple[int, str], Tensor]) -> None:
        for (i, name), b in buffers.items():
            dict.__setitem__(self._modules[i]._buffers, name, b)

    def moment(self, random: Random) -> Moment:
        """Modes, plain buffers and attributes as they are now."""
        return Moment(
            [m.training for m in self._modules],
            [
                {
                    name: self._then(m._buffers, name, b)
                    for name, b in m._buffers.items()
                }
                for m in self._modules
            ],
            [
                {name: self._value(held, name, v) for name, v in _changing(held)}
                for held in self._attributes
            ],
            [frozenset(held) for held in self._attributes],
            random,
        )

    def _value(self, held: dict[str, Any], name: str, value: Any) -> Any:
        if isinstance(value, Tensor):
            return self._then(held, name, value)
        return mapped(value, Tensor, lambda t: t.detach().clone())

    def _then(
        self, holder: dict[str, Any], name: str, b: Tensor | None
    ) -> _BufferThen | None:
        if b is None or b.requires_grad:
            return None
        saved = _saved(self.weights, holder, name, b)
        tensor = saved.tensor if saved.version >= 0 else None
        return _BufferThen(tensor, saved.version, saved.values)

    def go_to(self, moment: Moment) -> None:
        for m, training, then in zip(self._modules, moment.modes, moment.buffers):
            m.training = training
            for name in [n for n in m._buffers if n not in then]:
                dict.__delitem__(m._buffers, name)
            for name, b in then.items():
                dict.__setitem__(m._buffers, name, _fresh(m._buffers.get(name), b))
        then_all = zip(self._attributes, moment.attributes, moment.names)
        for own, attributes, names in then_all:
            for name in [n for n, _ in _changing(own) if n not in names]:
                del own[name]
            for name, value in attributes.items():
                if isinstance(value, _BufferThen):
                    own[name] = _fresh(own.get(name), value)
                else:
                    own[name] = mapped(value, Tensor, torch.clone)
        moment.random.restore()

    @contextmanager
    def kept(self) -> Iterator[None]:
        """Leaves weights, modes, buffers, attributes and random state as they were."""
        weights = self.weights
        buffers = [dict(m._buffers) for m in self._modules]
        modes = [m.training for m in self._modules]
        attributes = [dict(_changing(held)) for held in self._attributes]
        random = Random(devices_of(weights.installed))
        before = weights.history, weights.installed, weights.exposed
        try:
            yield
        finally:
            weights.history = before[0]
            weights.install(before[1])
            weights.exposed = before[2]
            for m, held, training in zip(self._modules, buffers, modes):
                m.training = training
                for name in [n for n in m._buffers if n not in held]:
                    dict.__delitem__(m._buffers, name)
                for name, b in held.items():
                    dict.__setitem__(m._buffers, name, b)
            for own, values in zip(self._attributes, attributes):
                own.update(values)
            random.restore()


class Moment(NamedTuple):
    """Modes, buffers, attributes and random state at the start of a step."""

    modes: list[bool]
    buffers: list[dict[str, _BufferThen | None]]
    attributes: list[dict[str, Any]]
    names: list[frozenset[str]]
    random: Random


def _changing(held: dict[str, Any]) -> Iterator[tuple[str, Any]]:
    """Attributes of a module that a step may change and another can be put back to."""
    for name, value in held.items():
        if name not in _OWN and _is_plain(value):
            yield name, value


def _is_plain(value: Any) -> bool:
    """Numbers, tensors without a graph, and small containers of such."""
    kind = type(value)
    if kind is Tensor:
        return not value.requires_grad
    if kind in (list, tuple, dict):
        inside = value.values() if kind is dict else value
        return len(value) <= _SMALL and all(map(_is_plain, inside))
    return kind in _PLAIN


_SMALL = 64
_PLAIN = frozenset((int, float, complex, bool, str, type(None)))
_OWN = frozenset(vars(nn.Module()))


def _fresh(present: Tensor | None, then: _BufferThen | None) -> Tensor | None:
    """A copy, for the step may write into it; the tensor itself if it never did."""
    if then is None:
        return None
    # small ones have no version: batch_norm writes into them without raising it
    if present is not None and present is then.tensor:
        if present._version == then.version:
            return present
    return then.values.clone()
