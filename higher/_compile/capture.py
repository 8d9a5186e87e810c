"""What a step reads besides what it is handed, and what it decides by values."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import torch
import torch._subclasses.functional_tensor
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_map_only

from higher._tasks.mapping import is_wrapped
from higher._unroll.captured import now


def _tensors(values: Iterable[Any]) -> list[Tensor]:
    """Those among ``values`` and in containers as torch's functions take and return
    them; pytrees would take longer than most functions."""
    found: list[Tensor] = []
    for value in values:
        if isinstance(value, Tensor):
            found.append(value)
        elif isinstance(value, (tuple, list)):
            found += _tensors(value)
        elif isinstance(value, dict):
            found += _tensors(value.values())
    return found


class Recorded(TorchFunctionMode):
    """While entered, takes down tensors that torch's functions are given, unless they
    come from others of its functions.

    Attributes:
        found: these tensors, each once.
    """

    def __init__(self, known: Iterable[Tensor]) -> None:
        super().__init__()
        # held: their ids must stay taken
        self._known = {id(t): t for t in known}
        self.found: list[Tensor] = []
        self._since = now()

    def _is_new(self, t: Tensor) -> bool:
        """Whether it was made meanwhile, not by a function that was seen."""
        node: Any = t.grad_fn
        return node is not None and node._sequence_nr() >= self._since

    def __torch_function__(
        self, function: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        kwargs = kwargs or {}
        for t in _tensors((*args, kwargs)):
            if id(t) not in self._known:
                self._known[id(t)] = t
                if not (is_wrapped(t) or self._is_new(t)):
                    self.found.append(t)
        result = function(*args, **kwargs)
        self._known.update((id(t), t) for t in _tensors((result,)))
        return result


class Read(RuntimeError):
    """A value was asked for that a trace doesn't have."""


_names = ("__bool__", "__float__", "__int__", "__index__", "__complex__", "item")
_READS: frozenset[Any] = frozenset(
    getattr(Tensor, name) for name in (*_names, "tolist", "numpy", "__array__")
)


class Lifted(TorchFunctionMode):
    """While entered, torch's functions are given others for some tensors; no value can
    be read."""

    def __init__(self, tensors: Sequence[Tensor], stands: Sequence[Tensor]) -> None:
        super().__init__()
        self._held = tensors
        self._stands = {id(t): s for t, s in zip(tensors, stands)}

    def _lifted(self, t: Tensor) -> Tensor:
        return self._stands.get(id(t), t)

    def __torch_function__(
        self, function: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        if function in _READS:
            raise Read(
                "it reads the value of a tensor: a branch on it, .item() or float(...). "
                "Use torch.where, or compute with the tensor itself."
            )
        if self._stands:
            args, kwargs = tree_map_only(Tensor, self._lifted, (args, kwargs or {}))
        return function(*args, **(kwargs or {}))


_bool: Any = Tensor.__bool__
_functional: Any = torch._subclasses.functional_tensor.FunctionalTensor


class Decided(TorchFunctionMode):
    """While entered, takes down each tensor's truth that is asked for.

    Attributes:
        answers: in the order of the questions.
        changing: whether one of them depends on ``state``.
    """

    def __init__(self, state: Iterable[Tensor]) -> None:
        super().__init__()
        self._changing = {id(t): t for t in state}
        self.answers: list[bool] = []
        self.changing = False

    def __torch_function__(
        self, function: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        result = function(*args, **(kwargs or {}))
        if any(id(t) in self._changing for t in _tensors((*args, kwargs))):
            self._changing.update((id(t), t) for t in _tensors((result,)))
            self.changing |= function is _bool
        if function is _bool:
            self.answers.append(result)
        return result


class Answered(TorchFunctionMode):
    """While entered, a tensor's truth is what it was when it was taken down."""

    def __init__(self, answers: Iterable[bool]) -> None:
        super().__init__()
        self._left = iter(answers)
        self._usual: Any = None

    def __enter__(self) -> Any:
        # these have a truth of their own, which asks for the value
        self._usual = _functional.__bool__
        _functional.__bool__ = lambda t: _bool(t)
        return super().__enter__()  # type: ignore[no-untyped-call]

    def __exit__(self, *error: Any) -> None:
        _functional.__bool__ = self._usual
        super().__exit__(*error)  # type: ignore[no-untyped-call]

    def __torch_function__(
        self, function: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        if function is _bool:
            answer = next(self._left, None)
            if answer is not None:
                return answer
        if getattr(function, "__name__", "") in _ARITHMETIC and len(args) == 2:
            args = _as_with_numbers(*args)
        return function(*args, **(kwargs or {}))


_ARITHMETIC = frozenset(
    f"{way}{name}{end}"
    for name in ("add", "sub", "mul", "div", "truediv", "pow")
    for way, end in (("", ""), ("__", "__"), ("__r", "__"))
)


def _as_with_numbers(a: Any, b: Any) -> tuple[Any, Any]:
    """A counter and what is a number in a plain step: that takes the counter's dtype,
    not the other way round."""
    if isinstance(a, Tensor) and isinstance(b, Tensor) and not (a.dim() or b.dim()):
        if (a.dtype, b.dtype) == _COUNTER_AND_NUMBER and not b.requires_grad:
            return a, b.float()
        if (b.dtype, a.dtype) == _COUNTER_AND_NUMBER and not a.requires_grad:
            return a.float(), b
    return a, b


_COUNTER_AND_NUMBER = torch.float32, torch.float64


def is_traced(t: object) -> bool:
    """Whether it is a tensor without values, left over from a trace."""
    fake: Any = torch._subclasses.fake_tensor.FakeTensor
    if not isinstance(t, Tensor):
        return False
    functional: Any = torch._is_functional_tensor
    return (
        isinstance(t, fake) or type(t).__name__ == "FunctionalTensor" or functional(t)
    )


def check_attributes(modules: Sequence[nn.Module]) -> None:
    """
    Raises:
        RuntimeError: one of them has kept a tensor of a trace.
    """
    for m in modules:
        for name, value in vars(m).items():
            if isinstance(value, Tensor) and is_traced(value):
                del m.__dict__[name]
                raise RuntimeError(
                    f"compile=True: {type(m).__name__} keeps a tensor in its attribute "
                    f"{name!r} from call to call. Make it a buffer: "
                    f"register_buffer({name!r}, ...)."
                )
