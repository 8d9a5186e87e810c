"""Frozen weights that a stateless module may write into, unlike the original.

Some modules keep running statistics or memory banks in parameters that don't require
grad. A stateless module has copies of small ones. Large ones share their memory until
somebody writes (torch's copy-on-write storage). Those of torch's own layers, of which a
frozen backbone is made, and which never write, are the original's own memory, unless a
module around them looks as if it did; if the user writes there all the same, it is an
error.
"""

from __future__ import annotations

import functools
import sys
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from higher._carry import Carry
from higher._fsdp import gathered
from higher._tree import modules_of
from higher._writers import may_write

SMALL = 1 << 16
"""Elements up to which a tensor is copied; ``batch_norm`` writes into statistics
without raising their version."""

_C: Any = torch._C
_is_copy_on_write: Any = getattr(_C, "_is_cow_tensor", lambda t: False)
_address: Any = getattr(_C, "_data_address", Tensor.data_ptr)


def address_of(t: Tensor) -> int:
    """``t.data_ptr()``, which would end copy-on-write."""
    return int(_address(t))


def own(t: Tensor) -> Tensor:
    """The values of ``t``, which is not written into when the result is; an alias where
    that can't be had."""
    # a subclass may carry more than its values, a quantized weight its scales
    if type(t) not in (nn.Parameter, Tensor):
        return t
    with torch.no_grad():
        if t.numel() <= SMALL:
            return t.detach().clone()
        return _lazy_copy(t)


def _lazy_copy(t: Tensor) -> Tensor:
    try:
        return torch._lazy_clone(t.detach())
    except (RuntimeError, NotImplementedError):
        return t.detach() if t.numel() > SMALL else t.detach().clone()


def own_unless_layers(
    weights: Sequence[Tensor], root: nn.Module
) -> tuple[list[Tensor], Watched]:
    """Frozen weights for a stateless version of ``root``, in place of those that are
    the original's; the others as they are."""
    frozen = {id(w) for w in weights if not w.requires_grad}
    if not frozen:
        return list(weights), Watched()
    writers = may_write(root)
    # what fully_shard has gathered, it lets go of and gathers again in the same memory
    frozen -= {
        id(p)
        for m in modules_of(root)
        if writers or not _is_torchs(m) or hasattr(m, "max_norm")
        for p in m._parameters.values()
    } - gathered()
    held = [
        (
            w
            if w.requires_grad
            else w.detach() if id(w) in frozen and w.numel() > SMALL else own(w)
        )
        for w in weights
    ]
    layers = [w for w, p in zip(held, weights) if id(p) in frozen]
    return held, Watched(held, weights, layers)


def _is_torchs(module: nn.Module) -> bool:
    return type(module).__module__.startswith("torch.nn.")


class Watched:
    """Frozen weights whose memory is the original's, and must not be written into; and
    those of torch's ``layers``, which no forward writes into."""

    def __init__(
        self,
        held: Sequence[Tensor] = (),
        originals: Sequence[Tensor] = (),
        layers: Sequence[Tensor] = (),
    ) -> None:
        pairs = zip(held, originals)
        found = [w for w, p in pairs if not p.requires_grad and _is_alias(w, p)]
        self._versions = [(w, w._version) for w in found]
        self._layers = layers  # held: their storages must stay taken
        self._held = {*map(_place_of, found), *map(_place_of, layers)}

    def check(self) -> None:
        """
        Raises:
            RuntimeError: one was written into.
        """
        for weight, version in self._versions:
            if weight._version != version:
                raise RuntimeError(_WRITTEN.format(tuple(weight.shape)))

    def renewed(self, weights: Sequence[Tensor]) -> list[Tensor]:
        """Weights for the next step: in place of frozen ones that were written into
        others, so that the graphs of steps keep what they have saved."""
        return [
            w.clone() if not w.requires_grad and was_written(w) and self._own(w) else w
            for w in weights
        ]

    def _own(self, t: Tensor) -> bool:
        return type(t) is Tensor and not (self._held and _place_of(t) in self._held)

    def lent(self, t: Tensor) -> Tensor:
        """As :meth:`own`, for one that is no original's: no copy before it is written."""
        if (
            type(t) not in (nn.Parameter, Tensor)
            or self._held
            and (_place_of(t) in self._held)
        ):
            return t
        with torch.no_grad():
            return _lazy_copy(t)

    def own(self, t: Tensor) -> Tensor:
        """As :func:`own`, but for these, which stay as they are."""
        return t if self._held and _place_of(t) in self._held else own(t)


def was_written(t: Tensor) -> bool:
    """Whether there was a write into ``t`` since it was made."""
    return not t.is_inference() and t._version > 0


def renew_buffers(modules: Iterable[nn.Module]) -> None:
    """Gives buffers that were written into memory of their own: graphs of steps keep what
    they have saved. torch's own layers do without; those that somebody else holds, who
    would go on with the old ones, stay."""
    written, places = _written_buffers(modules)
    for key, holders in places.items():
        # its holders, the dict, the argument, and graphs as one
        count = sys.getrefcount(written[key]) - _graphs_count()
        if _is_saved(written[key]) and count <= len(holders) + 2:
            copy = written[key].clone()
            for held, name in holders:
                dict.__setitem__(held, name, copy)


_Places = dict[int, list[tuple[dict[str, Any], str]]]


def _written_buffers(modules: Iterable[nn.Module]) -> tuple[dict[int, Tensor], _Places]:
    written: dict[int, Tensor] = {}
    places: _Places = {}
    for module in modules:
        if not module._buffers or _is_torchs(module):
            continue
        for name, b in module._buffers.items():
            if b is not None and was_written(b):
                written[id(b)] = b
                places.setdefault(id(b), []).append((module._buffers, name))
    return written, places


def _is_saved(t: Tensor) -> bool:
    """Whether a graph may have saved it."""
    count: Any = getattr(t, "_use_count", None)
    return count is None or count() > 1


@functools.cache
def _graphs_count() -> int:
    """By how much a tensor's reference count is higher while a graph has it: versions of
    torch differ."""
    with torch.enable_grad():
        t, x = torch.zeros(()), torch.zeros((), requires_grad=True)
        before = sys.getrefcount(t)
        graph = x * t
        after = sys.getrefcount(t)
    del graph
    return after - before


def _memory_of(t: Tensor) -> int:
    try:
        return address_of(t)
    except (RuntimeError, NotImplementedError):  # sparse, say
        return id(t)


def _place_of(t: Tensor) -> tuple[Any, ...]:
    """The same for all aliases of ``t``, also when their storage is let go and filled
    again somewhere else, as by ``fully_shard``."""
    try:
        return t.untyped_storage()._cdata, t.storage_offset(), t.numel()
    except (RuntimeError, NotImplementedError):  # sparse, say
        return (id(t),)


def _is_alias(t: Tensor, original: Tensor) -> bool:
    if t is original:
        return True
    large = original.numel() > SMALL and not _is_copy_on_write(t)
    return large and _memory_of(t) == _memory_of(original)


_WRITTEN = (
    "A frozen parameter of shape {} was written into, whose memory is the original "
    "model's, which has changed. It is large, so stateless modules share it, where it "
    "belongs to a layer of torch's or can't be copied on write (mapped from a file, in "
    "shared memory, a subclass of Parameter). Let it require grad, or clone it before "
    "the write: fmodel.layer.weight = fmodel.layer.weight.clone()."
)


class Lent(NamedTuple):
    """A frozen weight of a carry, and what a step runs on in its place."""

    at: int
    weight: Tensor
    tensor: Tensor
    version: int


def lend(carry: Carry, watched: Watched) -> tuple[Carry, list[Lent]]:
    """``carry`` for a step that may write into frozen weights."""
    tensors = list(carry.tensors)
    lent: list[Lent] = []
    for at in (slot.at for slot in carry.layout[0]):
        weight = tensors[at]
        if not weight.requires_grad:
            tensors[at] = tensor = watched.lent(weight)
            lent.append(Lent(at, weight, tensor, tensor._version))
    return Carry(carry.layout, tensors), lent


def settle(carry: Carry, lent: Sequence[Lent]) -> Carry:
    """``carry`` with those weights back in their places that were not written into.

    Raises:
        RuntimeError: one was that can't be put back for a step that runs again.
    """
    tensors = list(carry.tensors)
    for one in lent:
        if not _was_written(one):
            tensors[one.at] = one.weight
    return Carry(carry.layout, tensors)


def _was_written(lent: Lent) -> bool:
    changed = lent.tensor._version != lent.version
    if _is_alias(lent.tensor, lent.weight):
        if changed:
            raise RuntimeError(_NOT_AGAIN.format(tuple(lent.weight.shape)))
        return False
    if not changed and _is_copy_on_write(lent.tensor):
        return False
    return changed or not torch.equal(lent.tensor, lent.weight)


_NOT_AGAIN = (
    "loss_fn wrote into a frozen weight of shape {}, of one of torch's own layers or "
    "large, so that the step can't be run again. Make it a buffer or a parameter of a "
    "module of your own, or use memory='full'."
)
