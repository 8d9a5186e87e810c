"""Each public name says what it is, with an example that runs."""

from __future__ import annotations

import doctest
import inspect
from typing import Any

import codegen
import higher
import pytest
import torch
from higher._generated import OPTIMIZERS
from higher.optim import registry

WITHOUT = {
    "Diagnostic",  # parts of an error and of a result: their owners have the example
    "GroupedGrads",
    "StatelessModule",
    "CheckError",
    "Settings",  # has one that takes a loop of the reader's own
}
"""Names whose docstring has no example."""


def public() -> dict[str, Any]:
    modules = higher, higher.patch, higher.optim, higher.utils, codegen
    compiled = {place.partition(":")[2] for place in OPTIMIZERS.values()}
    return {
        f"{module.__name__}.{name}": getattr(module, name)
        for module in modules
        for name in getattr(module, "__all__", ("flatten", "get_func_params"))
        if not name.startswith("_") and name not in compiled
        if not inspect.ismodule(getattr(module, name))
    }


NAMES = public()


@pytest.mark.parametrize("name", NAMES)
def test_the_example_of_a_public_name_gives_what_it_says(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(registry, "_registered", dict(registry._registered))
    text = inspect.getdoc(NAMES[name]) or ""
    given = {"torch": torch, "higher": higher, "codegen": codegen}
    example = doctest.DocTestParser().get_doctest(text, given, name, None, None)
    assert len(text.splitlines()) > 2 or name.rpartition(".")[2] in WITHOUT
    assert bool(example.examples) == (name.rpartition(".")[2] not in WITHOUT)
    said: list[str] = []
    doctest.DocTestRunner(verbose=False).run(example, out=said.append)
    assert not said, "".join(said)
