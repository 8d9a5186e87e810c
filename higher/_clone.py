"""Structure-preserving clones of module trees.

Every submodule of the clone keeps its own class and its place in every list, dict,
hook, bound method, partial and closure of the tree. Parameters are replaced by fast
weights, buffers are copied, everything else is copied as ``copy.deepcopy`` would,
except for what a module refers to but does not own (``SHARED``, callables that don't
reach the tree, and whatever refuses to be copied).
"""

from __future__ import annotations

import copyreg
import functools
import types
import weakref
from collections import OrderedDict, defaultdict, deque
from collections.abc import Callable, Iterable, Sequence
from typing import Any, TypeAlias, cast

import torch
from torch import Tensor, nn

from higher import _fsdp
from higher._containers import Containers
from higher._object_graph import (
    ATOMIC,
    SHARED,
    Attributes,
    attributes_of,
    referents,
    slots_of,
)
from higher._refuse import refuse_holder
from higher._second_order import OwnForward
from higher._structure import Children, NoWeights
from higher._tree import modules_of
from higher._weights import BufferDict, FastWeights, ModuleDict, Unshare, WeightDict

Device: TypeAlias = "torch.device | str | None"

_internal_attrs: set[str] = {"_compiled_call_impl", "_higher"}
"""Names of attributes that are not carried over to a clone; may be added to.

A compiled call would run the module that it was compiled from."""

_OWN = frozenset(vars(nn.Module()))


class Cloner(Containers):
    """Clones one tree of modules.

    Args:
        weights: takes down the places of the weights that it holds.
        originals: the parameters that they stand for, in the same order.
        device: where buffers go; by default they stay.
        own_class: the class of a module's clone.
        plain: makes ordinary modules, whose weights don't change.
    """

    def __init__(
        self,
        weights: FastWeights,
        originals: Sequence[Tensor],
        device: Device,
        own_class: Callable[[nn.Module], type[nn.Module]],
        plain: bool = False,
    ) -> None:
        super().__init__(weights, originals)
        self.device = device
        self.own_class = own_class
        self.plain = plain
        self.slots: dict[type, list[str]] = {}

    def clone(self, root: nn.Module) -> nn.Module:
        tree = modules_of(root)
        # all shells first, so that whatever refers to a module finds its clone
        for module in tree:
            self.memo[id(module)] = _shell(self.own_class(module))
        for module in tree:
            self._fill(self.memo[id(module)], module)
        new = cast(nn.Module, self.memo[id(root)])
        self.weights.root = weakref.ref(new)
        if self.unreplaceable_holders and not self.plain:
            refuse_holder(root, self.unreplaceable_holders)
        return new

    def _module(self, module: nn.Module) -> nn.Module:
        """A module outside the tree: found in a plain list, say."""
        new = _shell(self.own_class(module))
        self.remember(module, new)
        self._fill(new, module)
        return new

    def _fill(self, new: nn.Module, module: nn.Module) -> None:
        source = _fsdp.own_attributes(module)
        has_weights = bool(source["_parameters"]) and not self.plain
        # what is atomic is there with this; only the rest is gone through
        state: dict[str, Any] = ModuleDict(source) if has_weights else dict(source)
        object.__setattr__(new, "__dict__", state)
        for name, value in source.items():
            kind = type(value)
            # most attributes of most modules: empty hooks, then flags and numbers
            if kind is OrderedDict and name in _OWN and not value:
                state[name] = OrderedDict()
            elif kind in ATOMIC:
                continue
            elif name == "_modules":
                state[name] = self._children(value)
            elif name == "_parameters":
                state[name] = self._parameters(value)
            elif name in _OWN and not value:
                state[name] = {} if kind is BufferDict else kind()
            elif name == "_buffers":
                state[name] = {k: self._buffer(b) for k, b in value.items()}
            elif name not in _internal_attrs:
                self._fill_attribute(state, name, value)
        for name in _internal_attrs:
            state.pop(name, None)
        if has_weights:
            weights = state["_parameters"]
            state["_buffers"] = BufferDict(weights, state["_buffers"])
            state["_load_state_dict_pre_hooks"]["higher"] = Unshare(weights)
        self._fill_slots(new, module)

    def _fill_attribute(self, state: dict[str, Any], name: str, value: Any) -> None:
        if type(value) is OrderedDict and name.endswith("_hooks"):
            state[name] = self._hooks(value)
        elif not isinstance(value, OwnForward):
            self.put(state, name, value)
        elif value.own is not None:
            self.put(state, name, value.own)
        else:
            del state[name]

    def _fill_slots(self, new: nn.Module, module: nn.Module) -> None:
        cls = type(module)
        names = self.slots.get(cls)
        if names is None:
            names = self.slots[cls] = slots_of(cls)
        for name in names:
            if hasattr(module, name):
                self.put(Attributes(new), name, getattr(module, name))

    def _children(self, modules: dict[str, Any]) -> dict[str, Any]:
        held = {k: self.copy(m) for k, m in modules.items()}
        return held if self.plain else Children(self.weights, held)

    def _parameters(self, params: dict[str, Any]) -> dict[str, Any]:
        held = {name: self.memo.get(id(p), p) for name, p in params.items()}
        if self.plain:
            return held
        if not held:
            return NoWeights(self.weights)
        index = {k: self.index[id(p)] for k, p in params.items() if id(p) in self.index}
        new = WeightDict(self.weights, index, held)
        for name, i in index.items():
            self.weights.places[i].append((new, name))
        return new

    def _hooks(self, hooks: dict[Any, Any]) -> dict[Any, Any]:
        kept = (item for item in hooks.items() if type(item[1]) is not Unshare)
        return OrderedDict((k, self.rebound(hook)) for k, hook in kept)

    def _buffer(self, buffer: Tensor | None) -> Tensor | None:
        if buffer is None:
            return None
        new = self.memo.get(id(buffer))
        if new is None:
            if self.device is None:
                new = buffer.clone()
            else:
                new = buffer.to(self.device, copy=True)
            self.remember(buffer, new)
        return cast(Tensor, new)

    def copy(self, value: Any) -> Any:
        """The value's counterpart in the clone."""
        kind = type(value)
        if kind in ATOMIC:
            return value
        if id(value) in self.memo:
            return self.memo[id(value)]
        copier = _COPIERS.get(kind)
        if copier is None:
            if isinstance(value, (type, *SHARED)):
                return value
            copier = Cloner._anything
        new = copier(self, value)
        if new is not value:
            self.remember(value, new)
        return new

    def _anything(self, value: Any) -> Any:
        if isinstance(value, nn.Module):
            return self._module(value)
        if isinstance(value, Tensor):
            return self._tensor(value)
        try:
            return self._object_copy(value)
        except Exception:
            # locks, files, process groups: not the module's own
            self.memo.pop(id(value), None)
            if self.is_stray(value):
                self.unreplaceable_holders.append(value)
            return value

    def _tensor(self, t: Tensor) -> Tensor:
        # a copy of one that carries gradient would cut it
        return t if t.requires_grad else t.clone()

    def _object_copy(self, value: Any) -> Any:
        """Any other object, by the means of ``copy.deepcopy``."""
        if hasattr(type(value), "__deepcopy__"):
            new = value.__deepcopy__(self.memo)
            self._take_in(new, value)
            return new
        reduce = copyreg.dispatch_table.get(type(value))
        reduced = reduce(value) if reduce else value.__reduce_ex__(4)
        return value if isinstance(reduced, str) else self._rebuilt(value, *reduced)

    def _rebuilt(
        self,
        value: Any,
        make: Callable[..., Any],
        args: tuple[Any, ...],
        state: Any = None,
        items: Iterable[Any] | None = None,
        pairs: Iterable[tuple[Any, Any]] | None = None,
        setter: Callable[[Any, Any], None] | None = None,
    ) -> Any:
        new = make(*map(self.copy, args))
        self.remember(value, new)
        own = setter is not None or hasattr(new, "__setstate__")
        if setter is not None:
            setter(new, self.copy(state))
        elif own:
            new.__setstate__(self.copy(state))
        if own or any(not isinstance(a, type) for a in args):
            self._take_in(new, value)
        if state is not None and not own:
            self._set_state(new, state)
        for i, v in enumerate(items or ()):
            new.append(None)
            self.put(new, i, v)
        self.put_pairs(new, value, pairs or ())
        return new

    def _take_in(self, new: Any, value: Any) -> None:
        """Takes down where a copy that was made by its own means holds weights."""
        if isinstance(new, tuple):
            # up to what holds it
            return
        places = [] if new is value else list(attributes_of(new))
        for name, v in places:
            if self.holds_weight(v):
                self.settle(Attributes(new), name, v, v)
        settled = {id(v) for _, v in places if self.holds_weight(v)}
        inside = (v for v in referents(new) if id(v) not in settled)
        if self.is_keyed(new) or any(map(self.is_stray, inside)):
            self.unreplaceable_holders.append(value)

    def _set_state(self, new: Any, state: Any) -> None:
        attributes, slots = state if isinstance(state, tuple) else (state, None)
        for name, v in (attributes or {}).items():
            self.put(new.__dict__, name, v)
        for name, v in (slots or {}).items():
            self.put(Attributes(new), name, v)


_COPIERS: dict[type, Callable[[Any, Any], Any]] = {
    dict: Cloner.dict_copy,
    OrderedDict: Cloner.dict_copy,
    defaultdict: Cloner.dict_copy,
    list: Cloner.list_copy,
    deque: Cloner.deque_copy,
    tuple: Cloner.tuple_copy,
    set: Cloner.set_copy,
    frozenset: Cloner.frozenset_copy,
    weakref.ref: Cloner.weakref_copy,
    weakref.WeakValueDictionary: Cloner.weak_values_copy,
    weakref.WeakMethod: Cloner.rebound,
    types.MappingProxyType: Cloner.rebound,
    Tensor: Cloner._tensor,
    types.FunctionType: Cloner.rebound,
    types.MethodType: Cloner.rebound,
    types.BuiltinMethodType: Cloner.rebound,
    functools.partial: Cloner.rebound,
    functools._lru_cache_wrapper: Cloner.rebound,
}


def _shell(cls: type[nn.Module]) -> nn.Module:
    try:
        return object.__new__(cls)
    except TypeError:  # a class that is also some C type
        return cls.__new__(cls)
