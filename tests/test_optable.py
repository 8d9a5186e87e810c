"""The table of operations, held against torch's own schemas and by running it."""

from __future__ import annotations

import builtins
import collections
import copy
import functools
import inspect
import itertools
import math
import operator
import warnings
from collections.abc import Iterator
from typing import Any

import pytest
import torch
import torch.nn.functional as F

from codegen import optable
from codegen.optable import OPTIONS, Operation, Result, Write

_HOMES: dict[str, Any] = {
    "torch": torch,
    "method": torch.Tensor,
    "attribute": torch.Tensor,
    "F": F,
    "nn": torch.nn,
    "init": torch.nn.init,
    "utils": torch.nn.utils,
    "linalg": torch.linalg,
    "fft": torch.fft,
    "special": torch.special,
    "sparse": torch.sparse,
    "math": math,
    "operator": operator,
    "builtins": builtins,
    "copy": copy,
    "itertools": itertools,
    "collections": collections,
    "functools": functools,
    "warnings": warnings,
}
_NOT_IN_EVERY_VERSION = frozenset({"cbrt", "exp2", "sumprod", "fma", "batched"})


def _schemas() -> dict[str, list[Any]]:
    found: dict[str, list[Any]] = collections.defaultdict(list)
    for schema in torch._C._jit_get_all_schemas():
        if schema.name.startswith("aten::") and _of_tensors(schema):
            found[schema.name.removeprefix("aten::")].append(schema)
    return found


def _of_tensors(schema: Any) -> bool:
    """No overload of TorchScript's for numbers, none for named dimensions."""
    kinds = [str(a.type) for a in [*schema.arguments, *schema.returns]]
    words = [a.name for a in schema.arguments]
    if "reverse" in words:
        return False
    named = any(str(a.type) == "str" and a.name == "dim" for a in schema.arguments)
    return (
        any("Tensor" in k for k in kinds)
        and "Dimname" not in str(schema)
        and not (named or "a" in words[:1] or "l" in words[:1] or "t" in words[:1])
    )


_PREFIXES = {"linalg": "linalg_", "fft": "fft_", "special": "special_"}
_PYTHON = frozenset(
    "method.dim_order method.unique torch.unique method.lu torch.lu method.to_sparse "
    "torch.tensor torch.as_tensor torch.scalar_tensor torch.tensordot F.elu_ "
    "method.where".split()
)
"""Written in Python or by hand: their schemas are not what is called."""


def _with_schemas() -> Iterator[tuple[Operation, list[Any]]]:
    known = _schemas()
    for key, operation in optable.TABLE.items():
        where, _, name = key.partition(".")
        if where not in ("torch", "method", "F", *_PREFIXES) or key in _PYTHON:
            continue
        if where == "F" and inspect.isfunction(getattr(F, name, None)):
            continue
        schemas = known.get(_PREFIXES.get(where, "") + name, [])
        schemas = [s for s in schemas if not _outs(s)]
        if schemas and hasattr(_HOMES[where], name):
            yield operation, schemas


def _outs(schema: Any) -> bool:
    return any(a.is_out for a in schema.arguments)


def _written(argument: Any) -> bool:
    return argument.alias_info is not None and argument.alias_info.is_write


def _described(schema: Any) -> list[Any]:
    return [a for a in schema.arguments if a.name not in OPTIONS]


def _mutating() -> list[Any]:
    return [o for o, _ in _with_schemas()]


def test_every_name_of_the_table_is_one_of_this_torch() -> None:
    missing = []
    for key, operation in optable.TABLE.items():
        where, _, name = key.partition(".")
        derived = operation.functional is not None and name.endswith("_")
        if where not in _HOMES or derived or name in _NOT_IN_EVERY_VERSION:
            continue
        if not hasattr(_HOMES[where], name):
            missing.append(key)
    assert set(missing) <= _OF_OTHER_VERSIONS


_OF_OTHER_VERSIONS = {"attribute.names", "method.has_names"}


def test_schemas_write_what_the_table_says() -> None:
    wrong = []
    for operation, schemas in _with_schemas():
        told = {
            i
            for i, p in enumerate(operation.parameters)
            if p.writes is not Write.NOTHING
        }
        for schema in schemas:
            writes = {i for i, a in enumerate(_described(schema)) if _written(a)}
            if writes != told:
                wrong.append(f"{operation.name}: {sorted(told)}, but {schema}")
    assert not wrong, "\n".join(wrong)


def test_schemas_alias_what_the_table_says() -> None:
    shared = (Result.VIEW, Result.MAYBE, Result.VIEWS, Result.SAME)
    wrong = []
    for operation, schemas in _with_schemas():
        for schema in schemas:
            sets = [r.alias_info for r in schema.returns if r.alias_info is not None]
            if sets and operation.result not in shared:
                wrong.append(f"{operation.name} is {operation.result}, but {schema}")
            several = len(schema.returns) > 1 or "List" in str(schema.returns)
            told = operation.result in (
                Result.SEVERAL,
                Result.VIEWS,
                Result.NEW_OR_SEVERAL,
            )
            if several and not told and operation.result is not Result.NOTHING:
                wrong.append(f"{operation.name} is {operation.result}, but {schema}")
    assert not wrong, "\n".join(wrong)


_UNTOLD = frozenset("broadcast_tensors meshgrid unsafe_chunk unsafe_split".split())
"""They share memory with their arguments, whatever their schemas say."""


def test_views_of_the_table_are_views_of_schemas() -> None:
    wrong = []
    for operation, schemas in _with_schemas():
        if operation.result in (Result.VIEW, Result.VIEWS):
            for schema in schemas:
                hidden = operation.name.partition(".")[2] in _UNTOLD
                if all(r.alias_info is None for r in schema.returns) and not hidden:
                    wrong.append(f"{operation.name}, but {schema}")
    assert not wrong, "\n".join(wrong)


_NUMBERS = ("number", "float", "Optional[number]", "Optional[float]")
_NUMBERS += ("List[number]", "List[float]", "Optional[List[float]]")


def test_numbers_without_a_tensor_overload_are_marked() -> None:
    wrong = []
    for operation, schemas in _with_schemas():
        kinds: dict[str, set[str]] = collections.defaultdict(set)
        for schema in schemas:
            for place, argument in enumerate(_described(schema)):
                name = _parameter_of(operation, place, argument)
                if name is not None:
                    kinds[name].add(str(argument.type))
        for parameter in operation.parameters:
            types = kinds[parameter.name]
            number = bool(types & {*_NUMBERS})
            tensor = any("Tensor" in t for t in types)
            if number and not tensor and not parameter.number and not parameter.scalar:
                wrong.append(f"{operation.name}({parameter.name}): {types}")
            if parameter.number and (tensor or types and not number):
                wrong.append(f"{operation.name}({parameter.name}#): {types}")
    assert not wrong, "\n".join(wrong)


def _parameter_of(operation: Operation, place: int, argument: Any) -> str | None:
    if argument.kwarg_only or place >= len(operation.parameters):
        parameter = operation.parameter(argument.name)
        return None if parameter is None else parameter.name
    return operation.parameters[place].name


def test_every_parameter_of_a_schema_is_one_of_the_table() -> None:
    wrong = []
    for operation, schemas in _with_schemas():
        plain = [p for p in operation.parameters if not p.keyword_only]
        rest = any(p.variadic for p in plain)
        for schema in schemas:
            for place, argument in enumerate(_described(schema)):
                parameter = operation.parameter(argument.name)
                by_name = argument.kwarg_only or (parameter and parameter.keyword_only)
                known = place == 0 or rest or parameter is not None
                fits = by_name or rest or place < len(plain)
                if not known or not fits:
                    wrong.append(f"{operation.name} has no {argument.name}: {schema}")
    assert not wrong, "\n".join(wrong)


def test_functions_written_in_python_have_the_signatures_of_the_table() -> None:
    wrong, seen = [], 0
    for key, operation in optable.TABLE.items():
        where, _, name = key.partition(".")
        function = getattr(_HOMES.get(where), name, None)
        function = _DISPATCHED.get(name, function) if where == "F" else function
        if where not in ("F", "init", "utils") or not inspect.isfunction(function):
            continue
        seen += 1
        known = [n for p in operation.parameters for n in p.names]
        for word, parameter in inspect.signature(function).parameters.items():
            told = operation.parameter(word)
            if word in (*OPTIONS, "out") or parameter.kind is parameter.VAR_KEYWORD:
                continue
            if told is None or word not in known:
                wrong.append(f"{key} has no {word}")
            elif isinstance(parameter.default, float) and not told.number:
                wrong.append(f"{key}({word}) is a number")
        words = list(inspect.signature(function).parameters)
        order = [
            next((w for w in words if w in p.names), "") for p in operation.parameters
        ]
        if sorted(order, key=words.index) != order if all(order) else True:
            wrong.append(f"{key}: {order}, but {words}")
    assert not wrong, "\n".join(wrong)
    assert seen > 80


_DISPATCHED = {
    f"{kind}max_pool{n}d": getattr(F, f"{kind}max_pool{n}d_with_indices")
    for kind in ("", "adaptive_")
    for n in (1, 2, 3)
}
"""Functions that another is picked for at run time."""
