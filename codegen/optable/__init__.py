"""Every operation that a step may call, once: the one table of their names.

    optable.method("mul_")         the operation of ``x.mul_(…)``
    optable.function("torch.mul")  of ``torch.mul(…)``, ``F.relu(…)``, ``math.sqrt(…)``
    optable.attribute("T")         of ``x.T``

None means *unknown*: nobody may take that for harmless. The data are text in the
notation of :mod:`codegen.optable.notation`, sorted by theme; they don't depend on the
torch at hand, for sources of other versions are translated too, but a test holds them
against its schemas.
"""

from __future__ import annotations

import libcst as cst

from codegen.optable import (
    creation,
    linear_algebra,
    lists,
    networks,
    plain,
    pointwise,
    reduction,
    runtime,
    shape,
)
from codegen.optable.notation import Table, read
from codegen.optable.operation import (
    OPTIONS,
    Operation,
    Parameter,
    Result,
    Write,
    Written,
)

_MODULES = {
    "torch": "torch",
    "torch.Tensor": "method",
    "Tensor": "method",
    "torch._C._nn": "F",
    "torch.functional": "torch",
    "torch._VF": "torch",
    "torch.nn.functional": "F",
    "torch.nn.utils": "utils",
    "torch.nn.utils.clip_grad": "utils",
    "torch.nn.init": "init",
    "torch.nn": "nn",
    "nn": "nn",
    "torch.linalg": "linalg",
    "torch.fft": "fft",
    "torch.special": "special",
    "torch.sparse": "sparse",
    "nn.functional": "F",
    "nn.utils": "utils",
    "nn.init": "init",
    "F": "F",
    "linalg": "linalg",
    "fft": "fft",
    "special": "special",
    "init": "init",
    "math": "math",
    "cmath": "cmath",
    "operator": "operator",
    "itertools": "itertools",
    "functools": "functools",
    "collections": "collections",
    "copy": "copy",
    "warnings": "warnings",
    "builtins": "builtins",
    "ops": "ops",
    "": "builtins",
}
"""Where a dotted name leads to in the table."""

MODULES = frozenset(name.partition(".")[0] for name in _MODULES if name)
"""First words of dotted names that are modules'."""


def _read() -> Table:
    table: Table = {}
    for theme in (
        pointwise,
        shape,
        reduction,
        creation,
        linear_algebra,
        networks,
        lists,
        plain,
        runtime,
    ):
        for key, operation in read(theme.TABLE):
            if key in table:
                raise ValueError(f"twice in the table: {key}")
            table[key] = operation
    return table


TABLE = _read()
"""All of it, by place and name: ``method.mul_``, ``F.relu``, ``torch.add``."""


def method(name: str) -> Operation | None:
    """The operation of ``x.name(…)``, x a tensor."""
    return TABLE.get(f"method.{name}")


def function(dotted: str) -> Operation | None:
    """The operation of ``dotted(…)``; a name without a dot is a builtin function's."""
    module, _, name = dotted.rpartition(".")
    where = _MODULES.get(module)
    return None if where is None else TABLE.get(f"{where}.{name}")


def attribute(name: str) -> Operation | None:
    """What ``x.name`` does, x a tensor."""
    return TABLE.get(f"attribute.{name}")


def container_method(name: str) -> Operation | None:
    """The operation of ``x.name(…)``, x a list, tuple, dict, set or deque."""
    return TABLE.get(f"container.{name}")


_SIZES = frozenset(
    "numel nelement dim ndimension element_size is_floating_point is_complex "
    "is_contiguous get_device".split()
)
"""Methods that return numbers, which depend on a tensor's shape, strides and dtype alone."""


def is_metadata(name: str) -> bool:
    """Whether an attribute or a method of a tensor tells nothing of its elements."""
    found, called = attribute(name), method(name)
    if found is not None:
        return found.result in (Result.METADATA, Result.NUMBER)
    asked = called is not None and called.result is Result.METADATA
    return asked or name in _SIZES


def spelled(node: cst.Call) -> Operation | None:
    """The operation of a call as it is spelled: a function's, or else a method's."""
    func = node.func
    found = function(_dotted(func) or "")
    if found is None and isinstance(func, cst.Attribute):
        return method(func.attr.value)
    return found


def _dotted(node: cst.CSTNode) -> str | None:
    if isinstance(node, cst.Name):
        return node.value
    if isinstance(node, cst.Attribute):
        base = _dotted(node.value)
        return None if base is None else f"{base}.{node.attr.value}"
    return None


__all__ = [
    "MODULES",
    "OPTIONS",
    "TABLE",
    "Operation",
    "Parameter",
    "Result",
    "Write",
    "Written",
    "attribute",
    "container_method",
    "function",
    "is_metadata",
    "method",
    "spelled",
]
