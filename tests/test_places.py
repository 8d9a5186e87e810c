"""Who shares memory with whom: what each mutation must rebind, and the same values.

The cases are in `places.txt`: statements of an in-place step, and what they become.
Both are run, for three steps, and must show and leave the same values; the second
must change no tensor that existed before.
"""

from __future__ import annotations

import re
import textwrap
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple

import black
import libcst as cst
import pytest
import torch
from higher import ops

from codegen.diagnostics import CodegenError
from codegen.analysis.environment import Env
from codegen.analysis.heap import analyse
from codegen.analysis.values import Place, Value
from codegen.rules.base import example_context
from codegen.rules.r4_out_of_place import OutOfPlace
from codegen.rules.r5_no_data import NoData
from codegen.rules.r6_write_back import WriteBack
from codegen.syntax import expr, statements
from codegen.tidy import tidy

SHELL = """\
for group_idx, (group, grads) in enumerate(zip(self.param_groups, grouped_grads)):
    for p_idx, (p, grad) in enumerate(zip(group["params"], grads)):
        state = self.state[group_idx][p_idx]
        if len(state) == 0:
            state["step"] = 0
            state["t"] = torch.tensor(0.0)
            state["m"] = torch.full_like(p, 0.5)
            state["v"] = torch.ones_like(p)
            state["bufs"] = [torch.full_like(p, 0.3), torch.ones_like(p)]
            state["deep"] = {"a": torch.full_like(p, 0.3)}
        state["step"] += 1
"""
FIRST = 'state["step"] = state["step"] + 1\n'
STEPS = 3


class Case(NamedTuple):
    """One entry of the table; ``after`` may be `refused: part of the message`."""

    title: str
    before: str
    after: str


def read_cases() -> Iterator[Case]:
    text = (Path(__file__).parent / "places.txt").read_text()
    for entry in text.split("\n== ")[1:]:
        title, _, rest = entry.partition("\n")
        before, _, after = rest.partition("\n--\n")
        yield Case(title, before.strip(), after.strip())


CASES = {case.title: case for case in read_cases()}


def in_loop(snippet: str) -> str:
    return SHELL + textwrap.indent(textwrap.dedent(snippet).strip() + "\n", " " * 8)


def translated(source: str) -> str:
    """A step in the README's shape, after the rules about mutation."""
    context = example_context()
    module = cst.parse_module(source)
    context.origins.read(module, "case.py")
    body = statements(module.body)
    for rule in (NoData, OutOfPlace, WriteBack):
        body = tidy(rule(context).apply(body), context)
        context.raise_if_refused()
    return cst.Module(body=list(body)).code


def snippet_of(source: str) -> str:
    """What a translated step became, without the shell around it."""
    return textwrap.dedent(source.partition(FIRST)[2])


def laid_out(snippet: str) -> str:
    # under a loop, for the sake of `continue`
    text = f"while 1:\n{textwrap.indent(snippet, '    ')}"
    return textwrap.dedent(black.format_str(text, mode=black.Mode()).partition("\n")[2])


class Run:
    """Three steps of a step's source: what it showed to `use`, what it left."""

    def __init__(self, source: str) -> None:
        self.seen: list[Any] = []
        params = [torch.arange(4.0).reshape(2, 2).sub(i).sin() for i in range(2)]
        self.optimizer = SimpleNamespace(
            param_groups=[{"params": params, "lr": 0.1}],
            state=[[{} for _ in params]],
            shared={},
        )
        self.mutated = False
        code = compile(source, "case", "exec")
        for step in range(STEPS):
            self.step(code, step)
        self.left = copied([self.optimizer.param_groups, self.optimizer.state])

    def step(self, code: Any, step: int) -> None:
        grads = [torch.arange(4.0).reshape(2, 2).add(step + i).cos() for i in range(2)]
        old = list(tensors([grads, self.optimizer.param_groups, self.optimizer.state]))
        versions = [t._version for t in old]
        names = {"self": self.optimizer, "torch": torch, "ops": ops, "use": self.use}
        exec(code, {**names, "grouped_grads": [grads]})
        self.mutated |= versions != [t._version for t in old]

    def use(self, *values: Any) -> None:
        self.seen.append(copied(values))


def tensors(value: Any) -> Iterator[torch.Tensor]:
    if isinstance(value, torch.Tensor):
        yield value
    elif isinstance(value, (list, tuple, dict)):
        for item in value.values() if isinstance(value, dict) else value:
            yield from tensors(item)


def copied(value: Any) -> Any:
    if isinstance(value, torch.Tensor):
        return value.tolist()
    if isinstance(value, dict):
        return {key: copied(item) for key, item in value.items()}
    return [copied(v) for v in value] if isinstance(value, (list, tuple)) else value


@pytest.mark.parametrize("case", CASES.values(), ids=lambda case: case.title)
def test_a_mutation_becomes_what_stands_beside_it(case: Case) -> None:
    if case.after.startswith("refused: "):
        with pytest.raises(CodegenError, match=case.after.removeprefix("refused: ")):
            translated(in_loop(case.before))
    else:
        after = snippet_of(translated(in_loop(case.before)))
        assert laid_out(after) == laid_out(case.after)


@pytest.mark.parametrize(
    "case",
    [c for c in CASES.values() if not c.after.startswith("refused: ")],
    ids=lambda case: case.title,
)
def test_what_it_becomes_has_the_same_values(case: Case) -> None:
    in_place = Run(in_loop(case.before))
    out_of_place = Run(translated(in_loop(case.before)))
    assert out_of_place.seen == in_place.seen
    assert out_of_place.left == in_place.left
    assert not out_of_place.mutated, "a tensor that existed before was changed"


def test_a_wrong_translation_would_show() -> None:
    right = Run(in_loop('state["m"].mul_(2)'))
    assert right.mutated
    assert Run(in_loop('state["m"] = state["m"] * 3')).left != right.left
    assert not Run(in_loop('state["m"] = state["m"] * 2')).mutated


def described(value: Value, env: Env) -> str:
    """``tensor state["m"] .view(-1)``, ``tensor new or param``."""
    slots = {held.place: env.slot_text(slot) for slot, held in env.slots.items()}

    def name(place: Place) -> str:
        made = re.sub(r"#\d+", "new", place.obj)
        obj = slots.get(Place(place.obj)) or made
        return " ".join([obj, *(view.text or view.how for view in place.views)])

    return f"{value.kind.value} {' or '.join(sorted(map(name, value.places)))}".strip()


TABLE = {
    "p": "tensor p.data",
    "p.data": "tensor p.data",
    "grad": "tensor grads[p_idx]",
    'state["m"]': 'tensor state["m"]',
    'state["step"]': "number",
    'group["lr"]': "number that may be a tensor setting lr",
    "m": 'tensor state["m"]',
    "m.T": 'tensor state["m"] .T',
    "m.view(-1)[0]": 'tensor state["m"] .view(-1) [0]',
    "m[0:1]": 'tensor state["m"] [0:1]',
    "m.mul_(2)": 'tensor state["m"]',
    "m if c else grad": 'tensor grads[p_idx] or state["m"]',
    "bufs": 'list state["bufs"]',
    "bufs[0]": "tensor bufs[0]",
    "[m, grad]": "list new",
    "m + 1": "tensor new",
    "m.clone()": "tensor new",
    "m[grad > 0]": "tensor new",
    "torch.zeros_like(p)": "tensor new",
    "m.float()": 'tensor new or state["m"]',
    "m.size(0)": "number",
    "len(bufs)": "number",
    'math.sqrt(group["lr"])': "number that may be a tensor",
    "2 * 0.5": "number",
    "None": "None",
    '"m"': "other",
    "p.dtype": "other",
}
BEFORE = 'm = state["m"]\nbufs = state["bufs"]\nc = len(bufs)\nhere = 1'


@pytest.mark.parametrize("source", TABLE)
def test_an_expression_denotes_what_stands_beside_it(source: str) -> None:
    module = cst.parse_module(in_loop(BEFORE))
    analysis = analyse(statements(module.body))
    env: Env = list(analysis.before.values())[-1]
    assert described(analysis.value(expr(source), env), env) == TABLE[source]
