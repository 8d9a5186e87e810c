"""Whether a module's code looks as if it wrote into tensors."""

from __future__ import annotations

import functools
import inspect
import types
from typing import Any

from torch import Tensor, nn

from higher._object_graph import code_names
from higher._tree import modules_of


def may_write(root: nn.Module) -> bool:
    """Whether a forward in the tree, but for those of torch's own layers, names something
    that writes in place: ``lerp_``, ``data``, ``torch._foreach_mul_``."""
    classes: set[Any] = {type(m) for m in modules_of(root)}
    return any(map(_class_may_write, classes))


@functools.lru_cache(maxsize=1024)
def _class_may_write(cls: type) -> bool:
    return not cls.__module__.startswith("torch.") and _writes(cls)


def _writes(cls: type) -> bool:
    waiting: list[Any] = [inspect.unwrap(getattr(cls, "forward", _nothing))]
    seen = {id(waiting[0])}
    while waiting:
        function = waiting.pop()
        code = getattr(function, "__code__", None)
        if code is None:
            continue
        names = code_names(code)
        if any(map(_is_in_place, names)):
            return True
        namespace = function.__globals__
        for name in names:
            # of the class, or a function beside it
            found = getattr(cls, name, None) or namespace.get(name)
            found = inspect.unwrap(found) if callable(found) else None
            own = isinstance(found, (types.FunctionType, types.MethodType))
            if own and id(found) not in seen and not _is_torchs(found):
                seen.add(id(found))
                waiting.append(found)
    return False


def _nothing() -> None: ...


def _is_torchs(function: Any) -> bool:
    return (function.__module__ or "").split(".")[0] == "torch"


def _is_in_place(name: str) -> bool:
    if name == "data" or name.startswith("_foreach_") and name.endswith("_"):
        return True
    method = name.endswith("_") and not name.startswith("_")
    return method and name != "requires_grad_" and hasattr(Tensor, name)
