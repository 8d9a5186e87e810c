"""A function of one task's tensors, mapped over all tasks by ``torch.func.vmap``.

What vmap can't do is an error that names the line of the program, and so is an operation
without a batching rule, which torch would run in a slow loop.
"""

from __future__ import annotations

import linecache
import re
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_flatten, tree_unflatten

from higher._carry import tensors_within
from higher._second_order import _ProcessWide

_functorch: Any = torch._C._functorch

no_fallback = _ProcessWide(
    lambda: (_functorch._is_vmap_fallback_enabled(),),
    _functorch._set_vmap_fallback_enabled,
    (False,),
)
"""While entered, operations without a batching rule are errors."""


def is_wrapped(t: Any) -> bool:
    """Whether ``t`` is a tensor that belongs to a transform of ``torch.func``."""
    return isinstance(t, Tensor) and _functorch.is_functorch_wrapped_tensor(t)


def level_of(t: Tensor) -> int:
    level: int = _functorch.maybe_get_level(t)
    return level


def one_of(stacked: Tensor, level: int) -> Tensor:
    """One task's part of a tensor, inside the mapping of that level."""
    part: Tensor = _functorch._add_batch_dim(stacked, 0, level)
    return part


def is_per_task(t: Tensor, level: int) -> bool:
    """Whether ``t`` differs from task to task inside the mapping of that level."""
    return bool(_functorch.is_batchedtensor(t)) and level_of(t) == level


def mapped(
    count: int,
    function: Callable[[list[Tensor], int], Any],
    tensors: Sequence[Tensor],
    per_task: Sequence[bool],
    what: str,
) -> Any:
    """The values of ``function`` for all tasks, their tensors stacked.

    Args:
        count: the number of tasks.
        function: of one task's tensors, and of the level of the mapping.
        tensors: stacked, or the same for all tasks.
        per_task: which of the two each is.
        what: what the function is, for errors.

    Raises:
        RuntimeError: it does what can't be mapped; the message names the line.
    """
    rest: list[Any] = []

    def one(number: Tensor, *own: Tensor) -> tuple[Tensor, ...]:
        leaves, form = tree_flatten(function(list(own), level_of(number)))
        places = [i for i, v in enumerate(leaves) if isinstance(v, Tensor)]
        for v in leaves:
            if not isinstance(v, Tensor) and any(map(is_wrapped, tensors_within(v))):
                raise TypeError(_HIDDEN.format(what=what, kind=type(v).__name__))
        rest[:] = leaves, form, places
        return tuple(leaves[i] for i in places)

    dims = (0, *(0 if own else None for own in per_task))
    # a tensor of the tasks' own in any case: vmap wants one, and it tells the level
    number = torch.empty(count, device=tensors[0].device if tensors else None)
    try:
        with no_fallback:
            stacked = torch.func.vmap(one, in_dims=dims, randomness="different")(
                number, *tensors
            )
    except (RuntimeError, NotImplementedError, ValueError) as error:
        reason = _reason(str(error))
        if reason is None:
            raise
        raise RuntimeError(f"{_place(error, what)} {reason}") from error
    leaves, form, places = rest
    for i, t in zip(places, stacked):
        leaves[i] = t
    return tree_unflatten(leaves, form)


_HIDDEN = (
    "{what} returns a {kind} that holds tensors, which can't be mapped over tasks. "
    "Return tensors, or tuples, lists and dicts of them; leave caches out "
    "(use_cache=False)."
)

_NO_RULE = re.compile(
    r"(aten::\S+) hit the vmap fallback|rule not implemented for (aten::\S+?)\.? |"
    r"(?:not yet support|vmap over) (aten::\S+?)\.? |(aten::\S+): .*randomness"
)
_REASONS = {
    "data-dependent control flow": "it branches on the values of a tensor, which differ "
    "from task to task. Use torch.where.",
    ".item() on a Tensor": "it reads the value of a tensor as a number, which differs "
    "from task to task. Compute with the tensor itself.",
    "dynamic shape": "the shape of its result would differ from task to task. Use a "
    "mask and torch.where.",
    "inplace arithmetic": "it writes what differs from task to task into a tensor that "
    "is shared by all. Make a new tensor instead, or register that one as a buffer.",
    "in-place": "it writes what differs from task to task into a tensor that is shared "
    "by all. Make a new tensor instead, or register that one as a buffer.",
}


def _reason(message: str) -> str | None:
    """Why it can't be mapped; None for other errors."""
    for key, reason in _REASONS.items():
        if key in message and "vmap" in message:
            return reason
    found = _NO_RULE.search(message)
    if found is not None:
        name = next(filter(None, found.groups())).rstrip(".")
        return (
            f"torch has no batching rule for {name}. Write it with other operations, "
            "or loop over the tasks without tasks=."
        )
    if "vmap" in message and not message.startswith("The size of tensor"):
        return message
    return None


_OWN = str(Path(__file__).resolve().parents[1])
_TORCH = str(Path(torch.__file__).resolve().parent)


def _place(error: BaseException, what: str) -> str:
    """The line of the program, and what of torch it calls."""
    frames = traceback.extract_tb(error.__traceback__)
    inside = [f for f in frames if f.filename.startswith(_TORCH + "/nn/modules")]
    layer = [f for f in inside if f.name == "forward"]
    by = f" (in torch.nn's {_named(layer[-1])})" if layer else ""
    return f"{program_line(error) or what}{by} can't be mapped over tasks:"


def program_line(error: BaseException) -> str | None:
    """The innermost line that is neither torch's nor ours, at which an error arose."""
    frames = traceback.extract_tb(error.__traceback__)
    outside = [f for f in frames if not f.filename.startswith((_OWN, _TORCH, "<"))]
    if not outside:
        return None
    last = outside[-1]
    line = linecache.getline(last.filename, last.lineno or 0).strip()
    return f"{last.filename}:{last.lineno}: `{line}`"


def _named(frame: traceback.FrameSummary) -> str:
    file = Path(frame.filename).stem
    line = linecache.getline(frame.filename, frame.lineno or 0).strip()
    return f"{file}.py:{frame.lineno}, `{line}`"
