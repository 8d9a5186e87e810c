"""The table of operations, held against what its operations do to small tensors."""

from __future__ import annotations

import itertools
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from codegen import optable
from codegen.optable import Operation, Parameter, Result
from higher import ops

_HOMES: dict[str, Any] = {
    "torch": torch,
    "method": Tensor,
    "F": F,
    "linalg": torch.linalg,
    "fft": torch.fft,
    "special": torch.special,
    "init": torch.nn.init,
    "ops": ops,
}

_SQUARE = torch.tensor([[2.0, 0.5, 0.25], [0.5, 3.0, 0.125], [0.25, 0.125, 1.5]])
_VALUES: dict[str, Callable[[], Any]] = {
    "dim": lambda: 0,
    "dim0": lambda: 0,
    "dim1": lambda: 1,
    "axis0": lambda: 0,
    "axis1": lambda: 1,
    "source": lambda: _square(),
    "dims": lambda: (0, 1),
    "index": lambda: torch.tensor([[0, 1, 2]] * 3),
    "indices": lambda: torch.tensor([[0, 1, 2]] * 3),
    "mask": lambda: _square() > 1,
    "condition": lambda: _square() > 1,
    "size": lambda: (3, 3),
    "shape": lambda: (9,),
    "sizes": lambda: (3, 1),
    "repeats": lambda: 2,
    "start_dim": lambda: 0,
    "end_dim": lambda: 1,
    "chunks": lambda: 3,
    "split_size": lambda: 1,
    "split_sizes": lambda: [1, 2],
    "indices_or_sections": lambda: [1],
    "start": lambda: 0,
    "length": lambda: 2,
    "step": lambda: 1,
    "dimension": lambda: 0,
    "stride": lambda: (3, 1),
    "kernel_size": lambda: 2,
    "output_size": lambda: 2,
    "upscale_factor": lambda: 1,
    "downscale_factor": lambda: 1,
    "groups": lambda: 1,
    "k": lambda: 1,
    "n": lambda: 1,
    "steps": lambda: 3,
    "shifts": lambda: 0,
    "equation": lambda: "ij->ji",
    "reduce": lambda: "sum",
    "pad": lambda: (0, 0),
    "dtype": lambda: torch.float32,
    "rounding_mode": lambda: None,
    "value": lambda: 0.5,
    "exponent": lambda: 2.0,
    "accumulate": lambda: False,
    "q": lambda: 0.5,
    "tensors": lambda: [_square()],
    "self": lambda: [_square(), _square()],
    "decimals": lambda: 1,
    "normalized_shape": lambda: (3,),
    "p": lambda: 0.5,
    "distribution": lambda: "normal_",
}
_AWKWARD: dict[str, Callable[[], list[Any]]] = {
    "float_power_": lambda: [_square().double(), 2.0],
    "index_put_": lambda: [_square(), (torch.tensor([0, 1]),), torch.tensor(0.5)],
    "index_reduce_": lambda: [_square(), 0, torch.arange(3), _square(), "prod"],
    "addmv_": lambda: [_square()[0], _square(), _square()[1]],
    "addr_": lambda: [_square(), _square()[0], _square()[1]],
    "addbmm_": lambda: [_square(), _square()[None], _square()[None]],
    "baddbmm_": lambda: [_square()[None], _square()[None], _square()[None]],
}
"""Arguments of other shapes or dtypes than most take."""


def _square() -> Tensor:
    return _SQUARE.clone()


def _value(operation: Operation, parameter: Parameter) -> Any:
    if operation.name.endswith(("where", "masked_fill")) and parameter.name == "input":
        return _square()
    if parameter.name in _VALUES and not parameter.number:
        return _VALUES[parameter.name]()
    if parameter.number:
        return 0.5
    return _square()


def _function(operation: Operation) -> Callable[..., Any] | None:
    where, _, name = operation.name.partition(".")
    home = _HOMES.get(where)
    return None if home is None else getattr(home, name, None)


_NOT_RUN = frozenset(
    "resize_ resize_as_ share_memory_ record_stream set_ retain_grad no_grad enable_grad set_grad_enabled "
    "inference_mode random_like apply_ map_ map2_ cuda xpu pin_memory as_subclass "
    "setitem".split()
)


_REFUSALS = (
    RuntimeError,
    TypeError,
    ValueError,
    IndexError,
    AssertionError,
    AttributeError,
    KeyError,
    NotImplementedError,
)


def _calls(
    dtype: torch.dtype = torch.float32,
) -> Iterator[tuple[Operation, list[Any], Any]]:
    """(operation, arguments, result) of every operation that a simple call runs."""
    for operation in optable.TABLE.values():
        function = _function(operation)
        if function is None or operation.name.partition(".")[2] in _NOT_RUN:
            continue
        plain = [p for p in operation.parameters if not p.keyword_only]
        for count in range(1, len(plain) + 1):
            if plain[count - 1].inplace:
                break
            args = [_value(operation, p) for p in plain[:count]]
            args = [_converted(a, dtype) for a in args]
            ints = [torch.arange(1, 4) if isinstance(a, Tensor) else a for a in args]
            rows = [a[0] if isinstance(a, Tensor) else a for a in args]
            for given in (args, rows, ints):
                versions = [t._version for t in _tensors(given)]
                try:
                    with warnings.catch_warnings():
                        warnings.simplefilter("ignore")
                        result = function(*given)
                except _REFUSALS:
                    continue
                after = [t._version for t in _tensors(given)]
                yield operation, given, (result, versions != after)


def _converted(x: Any, dtype: torch.dtype) -> Any:
    if isinstance(x, list):
        return [_converted(y, dtype) for y in x]
    return x.to(dtype) if isinstance(x, Tensor) and x.is_floating_point() else x


def _tensors(x: Any) -> list[Tensor]:
    if isinstance(x, Tensor):
        return [x]
    if isinstance(x, (list, tuple)):
        return list(itertools.chain.from_iterable(map(_tensors, x)))
    return []


def _shares(result: Any, args: Any) -> bool:
    def storages(x: Any) -> set[int]:
        found = [t for t in _tensors(x) if t.layout == torch.strided]
        return {t.untyped_storage().data_ptr() for t in found} - {0}

    return bool(storages(result) & storages(args))


@pytest.fixture(scope="module")
def calls() -> list[tuple[Operation, list[Any], Any]]:
    torch.manual_seed(0)
    return list(_calls())


def test_most_of_the_table_is_run(
    calls: list[tuple[Operation, list[Any], Any]],
) -> None:
    ran = {operation.name for operation, _, _ in calls}
    there = {o.name for o in optable.TABLE.values() if _function(o) is not None}
    assert len(ran) > 0.8 * len(there), sorted(there - ran)


def test_operations_write_into_what_the_table_says(
    calls: list[tuple[Operation, list[Any], Any]],
) -> None:
    wrong = {
        f"{operation.name}{_shown(args)}: written is {written}"
        for operation, args, (_, written) in calls
        if written != operation.in_place and not operation.flag
    }
    assert not wrong, "\n".join(sorted(wrong))


def test_results_share_memory_where_the_table_says(
    calls: list[tuple[Operation, list[Any], Any]],
) -> None:
    may = (Result.VIEW, Result.MAYBE, Result.VIEWS, Result.SAME, Result.ITEMS)
    may += (Result.ONE_OF, Result.SCALAR_OR_TENSOR)
    wrong = set()
    for operation, args, (result, _) in calls:
        shares = _shares(result, args)
        if shares and operation.result not in may:
            wrong.add(f"{operation.name}{_shown(args)} shares memory")
        if operation.result is Result.SAME and not any(result is a for a in args):
            wrong.add(f"{operation.name}{_shown(args)} is another")
    assert not wrong, "\n".join(sorted(wrong))


def test_results_are_as_many_as_the_table_says(
    calls: list[tuple[Operation, list[Any], Any]],
) -> None:
    several = (Result.SEVERAL, Result.VIEWS)
    tensors = (Result.NEW, Result.VIEW, Result.SAME)
    wrong = set()
    for operation, args, (result, _) in calls:
        if operation.result in several and isinstance(result, Tensor):
            wrong.add(f"{operation.name}{_shown(args)} is one tensor")
        listed = isinstance(result, list) and operation.result is Result.SAME
        one = operation.several_unless is None or len(args) > 1
        if operation.result in tensors and not isinstance(result, Tensor):
            if one and not listed:
                wrong.add(f"{operation.name}{_shown(args)} is {type(result)}")
        if operation.result is Result.NOTHING and result is not None:
            wrong.add(f"{operation.name}{_shown(args)} returns something")
    assert not wrong, "\n".join(sorted(wrong))


def test_results_have_the_dtype_that_the_table_says() -> None:
    """Of double-precision arguments: double precision, or integers and booleans."""
    told = (Result.SEVERAL, Result.NEW_OR_SEVERAL, Result.ITEMS, Result.ONE_OF)
    wrong, ran = set(), 0
    for operation, args, (result, _) in _calls(torch.float64):
        floats = [t for t in _tensors(args) if t.is_floating_point()]
        if not floats or operation.result in told or not isinstance(result, Tensor):
            continue
        if operation.own or operation.converts or torch.float32 in args:
            continue
        if operation.name.endswith("where") and not isinstance(args[-1], Tensor):
            continue
        ran += 1
        whole = not (result.is_floating_point() or result.is_complex())
        if whole is not operation.whole and result.dtype is not torch.float64:
            wrong.add(f"{operation.name}{_shown(args)} gives {result.dtype}")
    assert not wrong, "\n".join(sorted(wrong))
    assert ran > 1000


def _shown(args: list[Any]) -> str:
    words = [str(tuple(a.shape)) if isinstance(a, Tensor) else str(a) for a in args]
    return f"({', '.join(words)})"


def test_elementwise_operations_treat_each_element_by_itself() -> None:
    """On a whole and on its halves they come to the same."""
    wrong, ran = [], 0
    for operation in optable.TABLE.values():
        function = _function(operation)
        if (
            function is None
            or not operation.elementwise
            or operation.result is (Result.SEVERAL)
        ):
            continue
        for whole in _elements(operation):
            parts = [[_cut(a, half) for a in whole] for half in (slice(2), slice(2, 6))]
            try:
                halves = [function(*p) for p in parts]
                expected = function(*whole)
            except _REFUSALS:
                continue
            if not isinstance(expected, Tensor):
                continue
            ran += 1
            if not torch.equal(_plain(torch.cat(halves)), _plain(expected)):
                wrong.append(f"{operation.name}{_shown(whole)}")
            break
        else:
            wrong.append(f"{operation.name} could not be run")
    assert not wrong, "\n".join(wrong)
    assert ran > 300


_LINE = torch.tensor([0.5, -0.25, 0.75, 1.5, -2.0, 3.0])


def test_what_is_computed_of_a_transposed_tensor_is_transposed() -> None:
    """Element by element, but for what the table calls contiguous."""
    wrong, ran = [], 0
    for operation in optable.TABLE.values():
        if not operation.elementwise or not operation.in_place:
            continue
        plain = _variant(operation)
        for args in _arguments(operation) if plain is not None else ():
            if not isinstance(args[0], Tensor) or args[0].dim() != 2:
                continue
            args[0] = args[0].T.clone()
            try:
                result = plain(*args)
            except _REFUSALS:
                continue
            ran += 1
            if (result.stride() == args[0].stride()) is operation.contiguous:
                wrong.append(f"{operation.name}{_shown(args)}")
    assert not wrong, "\n".join(wrong)
    assert ran > 100


def _elements(operation: Operation) -> Iterator[list[Any]]:
    plain = [p for p in operation.parameters if not p.keyword_only]
    for count, line in itertools.product(
        range(1, len(plain) + 1), (_LINE, torch.arange(1, 7), _LINE > 0)
    ):
        if not plain[count - 1].inplace:
            yield [_element(p, line) for p in plain[:count]]
    yield [1, _LINE.abs()]
    yield [_LINE.double(), 2.0]


def _plain(x: Tensor) -> Tensor:
    x = torch.view_as_real(x) if x.is_complex() else x
    return x.double().nan_to_num()


def _element(parameter: Parameter, line: Tensor) -> Any:
    if parameter.number or parameter.name in (
        "value",
        "fill_value",
        "exponent",
        "max",
        "threshold",
    ):
        return 0.5
    if parameter.name in ("mask", "condition"):
        return line > 0
    if parameter.name in ("n", "p", "dtype"):
        return torch.float32 if parameter.name == "dtype" else 1
    return line.clone()


def _cut(value: Any, half: slice) -> Any:
    return value[half].clone() if isinstance(value, Tensor) else value


@pytest.mark.filterwarnings("ignore:index_reduce:UserWarning")
def test_functional_variants_compute_what_in_place_operations_leave() -> None:
    wrong, ran = [], 0
    for operation in optable.TABLE.values():
        where, _, name = operation.name.partition(".")
        if operation.functional is None or not name.endswith("_") or operation.uses_rng:
            continue
        function, variant = _function(operation), _variant(operation)
        if function is None or variant is None:
            continue
        for args in _arguments(operation):
            first = args[0].clone() if isinstance(args[0], Tensor) else args[0]
            try:
                left, expected = _both(function, variant, first, args)
            except _REFUSALS:
                continue
            ran += 1
            expected = expected.to(left.dtype) if operation.mask else expected
            if not torch.equal(_plain(left), _plain(expected)):
                wrong.append(f"{operation.name}{_shown(args)}")
            break
        else:
            wrong.append(f"{operation.name} could not be run")
    assert not wrong, "\n".join(wrong)
    assert ran > 150


def _both(
    function: Callable[..., Any],
    variant: Callable[..., Any],
    first: Any,
    args: list[Any],
) -> tuple[Tensor, Tensor]:
    """What is left in the first argument, and what the variant computes: of lists, the
    first items."""
    if isinstance(first, list):
        expected = variant(*args)[0]
        function(first, *args[1:])
        return first[0], expected
    return function(first, *args[1:]), variant(*args)


def _variant(operation: Operation) -> Callable[..., Any] | None:
    name = str(operation.functional)
    return _function(optable.function(name) or optable.method(name) or operation)


def _arguments(operation: Operation) -> Iterator[list[Any]]:
    name = operation.name.partition(".")[2]
    if name in _AWKWARD:
        yield _AWKWARD[name]()
    plain = [p for p in operation.parameters if not p.keyword_only]
    for count in range(1, len(plain) + 1):
        args = [_value(operation, p) for p in plain[:count]]
        if name.startswith("_foreach_"):
            args = [[a, a + 1] if isinstance(a, Tensor) else a for a in args]
        yield args
        yield [torch.arange(1, 4) if isinstance(a, Tensor) else a for a in args]
        yield [a[0] if isinstance(a, Tensor) else a for a in args]
    yield from _elements(operation)


def test_switches_for_in_place_write_into_the_first_argument() -> None:
    switched = [
        o for o in optable.TABLE.values() if any(p.inplace for p in o.parameters)
    ]
    for operation in switched:
        function = _function(operation)
        x = _square()[None] if operation.name.endswith("1d") else _square()[None, None]
        x = x[None] if operation.name.endswith("3d") else x
        numbers = [0.5] * sum(p.number for p in operation.parameters)
        assert function is not None
        training = {"training": True} if operation.parameter("training") else {}
        assert function(x, *numbers, inplace=True, **training) is x
        assert x._version > 0, operation.name
        assert function(x, *numbers) is not x or operation.result is Result.MAYBE
    assert len(switched) > 15
