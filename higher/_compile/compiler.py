"""``torch.compile`` for a function that runs whole steps."""

from __future__ import annotations

import functools
import types
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor

from higher._tasks.mapping import program_line

Flat = Callable[..., tuple[Tensor, ...]]


def check_compiler(devices: Iterable[torch.device]) -> None:
    """
    Raises:
        RuntimeError: there is no C++ compiler, which graphs on a CPU need.
    """
    if all(d.type != "cpu" for d in devices):
        return
    from torch._inductor import cpp_builder

    try:
        compiler: Any = cpp_builder.get_cpp_compiler
        compiler()
    except Exception as error:
        raise RuntimeError(
            "compile=True needs a C++ compiler, and torch finds none: install g++ or "
            "clang++, or name one by the environment variable CXX. Without, leave out "
            "compile=True."
        ) from error


def compiled(function: Flat) -> Flat:
    """``function``, of tensors, as a graph; it is traced as it runs."""
    # as one operation for the front end, which needn't read what runs inside
    allow: Any = torch.compiler.allow_in_graph
    whole: Flat = allow(function)

    def call(*tensors: Tensor) -> tuple[Tensor, ...]:
        return whole(*tensors)

    # code of its own: what torch keeps of a code, and how often it compiles it, is
    # counted for all functions that share it
    own = types.FunctionType(
        call.__code__.replace(co_name=f"step_{next(_numbers)}"),
        call.__globals__,
        None,
        None,
        call.__closure__,
    )
    made: Flat = torch.compile(
        own, fullgraph=True, dynamic=False, options={"fallback_random": True}
    )
    return made


def _count() -> Any:
    number = 0
    while True:
        yield number
        number += 1


_numbers = _count()


def refusal(
    error: BaseException, first: tuple[BaseException, str] | None
) -> RuntimeError:
    """Why a step is not compiled, in short.

    Args:
        error: torch's.
        first: what the trace was left by, and what that said then.
    """
    if first is not None:
        place = program_line(first[0])
        where = "" if place is None else f"{place}: "
        return RuntimeError(
            f"compile=True: this step can't be traced. {where}{first[1]}"
        )
    while error.__cause__ is not None:
        error = error.__cause__
    lines = [line for line in str(error).splitlines() if line.strip()]
    short = "\n".join(lines[:8])
    return RuntimeError(
        f"compile=True: torch can't compile this step. It says: {short}"
    )


@functools.cache
def errors() -> tuple[type[BaseException], ...]:
    """Those with which torch says that it can't compile."""
    import torch._dynamo.exc as dynamo
    import torch._inductor.exc as inductor
    from torch._subclasses import fake_tensor

    found: list[Any] = [
        *(getattr(dynamo, "TorchDynamoException", None),),
        *(getattr(inductor, "InductorError", None),),
        *(getattr(fake_tensor, "DataDependentOutputException", None),),
        *(getattr(fake_tensor, "DynamicOutputShapeException", None),),
    ]
    return tuple(e for e in found if e is not None)
