"""Reads the table's notation: one line for operations that are alike.

    torch,method (input, other, *, alpha#) each inplace ops: add sub

says of ``torch.add``, ``x.add``, ``torch.sub`` and ``x.sub``: their parameters; that
they work element by element; that there are ``x.add_`` and ``torch.add_``, and an
``ops.add`` that keeps the gradients of settings. Names may go on in indented lines.

Parameters: ``alpha#`` takes plain numbers only; ``src~`` takes tensors, yet none without
dimensions; ``min&`` and its like are all numbers or all tensors; ``input!`` is written into; ``inplace?`` decides whether the first one is;
``self[]!`` is a list whose tensors are written into, ``params.grad!`` one whose gradients
are; ``dim/other`` has two names; ``*size`` takes the rest.

Words: a result (``new``, if nothing is said; ``view:HOW``, ``maybe:HOW``, ``same``,
``several``, ``views``, ``several_if:PARAMETER``, ``several_unless=PARAMETER``, ``number``, ``setting``, ``computed``,
``items``, ``one_of``, ``meta``, ``nothing``), with ``of:N`` for another parameter than the first;
``each`` and ``mask`` (elementwise), ``inplace``, ``random``, ``decides``, ``flag``,
``cuts``, ``picks``, ``own``, ``converts``, ``whole``,
``layout``, ``memory``, ``contiguous``; ``ops`` or ``ops=NAME`` (twin), ``stable`` or ``stable=NAME``,
``functional=NAME``; ``means=METHOD`` or ``means=METHOD:ARGUMENT``.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import replace

from codegen.optable.operation import Operation, Parameter, Result, Write

Table = dict[str, Operation]
"""Operations by where they are and their name: ``torch.add``, ``method.add``."""

_LINE = re.compile(
    r"(?P<where>\S+) \((?P<params>[^)]*)\)(?P<words>[^:]*(?::\w[^:]*)*): "
)
_FLAGS = frozenset(
    "decides flag cuts picks own converts whole layout memory contiguous private".split()
)
_RESULTS = {
    "new": Result.NEW,
    "same": Result.SAME,
    "several": Result.SEVERAL,
    "views": Result.VIEWS,
    "number": Result.NUMBER,
    "setting": Result.SCALAR_OR_TENSOR,
    "computed": Result.COMPUTED,
    "items": Result.ITEMS,
    "one_of": Result.ONE_OF,
    "meta": Result.METADATA,
    "nothing": Result.NOTHING,
}


def read(text: str) -> Iterator[tuple[str, Operation]]:
    """(key, operation) of each name in a table's text."""
    for line in re.sub(r"\n +", " ", text.strip()).splitlines():
        if not line or line.startswith("#"):
            continue
        match = _LINE.match(line)
        if match is None:
            raise ValueError(f"not in the table's notation: {line}")
        params = tuple(_parameters(match["params"]))
        words = match["words"].split()
        for name in line[match.end() :].split():
            for where in match["where"].split(","):
                yield from _operations(where, name, params, words)


def _operations(
    where: str, name: str, params: tuple[Parameter, ...], words: list[str]
) -> Iterator[tuple[str, Operation]]:
    key = f"{where}.{name}"
    operation = _described(Operation(key, params, Result.NEW), name, words)
    if any(p.inplace for p in params):
        operation = replace(operation, functional=key)
    yield key, operation
    if "inplace" not in words:
        return
    writes = Write.ITEMS if name.startswith("_foreach_") else Write.ITSELF
    functional = name if where == "method" else key
    written = operation.with_writes(f"{key}_", writes)
    yield f"{key}_", replace(written, functional=functional)


def _described(operation: Operation, name: str, words: list[str]) -> Operation:
    for word in words:
        operation = _told(operation, name, word)
    return operation


def _told(operation: Operation, name: str, word: str) -> Operation:
    if word in _RESULTS:
        return replace(operation, result=_RESULTS[word])
    key, _, value = word.replace("=", ":").partition(":")
    if key in ("view", "maybe"):
        result = Result.VIEW if key == "view" else Result.MAYBE
        return replace(operation, result=result, how=value or "opaque")
    if key == "several_if":
        return replace(operation, result=Result.NEW_OR_SEVERAL, several_if=value)
    if key == "of":
        return replace(operation, base=int(value))
    if key == "each":
        return replace(operation, elementwise=True)
    if key == "mask":
        return replace(operation, elementwise=True, mask=True, whole=True)
    if key == "ops":
        return replace(operation, twin=f"ops.{value or name}")
    if key == "stable":
        return replace(operation, stable=f"ops.{value or name}")
    if key in ("functional", "means", "several_unless"):
        return replace(operation, **{key: value})  # type: ignore[arg-type]
    if key == "random":
        return replace(operation, uses_rng=True)
    if key in _FLAGS:
        return replace(operation, **{key: True})  # type: ignore[arg-type]
    if key == "inplace":
        return operation
    raise ValueError(f"not a word of the table's notation: {word}")


def _parameters(text: str) -> Iterator[Parameter]:
    keyword_only = False
    for part in filter(None, (p.strip() for p in text.split(","))):
        if part == "*":
            keyword_only = True
            continue
        names, marks = re.fullmatch(r"\*?([\w/]+)(\S*)", part).groups()  # type: ignore[union-attr]
        yield Parameter(
            tuple(names.split("/")),
            number="#" in marks,
            scalar="~" in marks,
            alike="&" in marks,
            keyword_only=keyword_only,
            variadic=part.startswith("*"),
            writes=_writes(marks),
            inplace="?" in marks,
        )


def _writes(marks: str) -> Write:
    if "!" not in marks:
        return Write.NOTHING
    if ".grad" in marks:
        return Write.GRADS
    return Write.ITEMS if "[]" in marks else Write.ITSELF
