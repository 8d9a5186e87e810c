"""What shares memory while a step runs must be what the heap says may share it.

The body that the analysis was handed, an in-place step in the README's shape, is run on
real tensors with a probe before each statement. There, whatever tensors are at hand
(variables, items of containers, the parameter, its gradient, its state) are compared in
pairs: where two overlap, the heap must say that they may; where the heap is sure that
two are one, they must be.
"""

from __future__ import annotations

import builtins
import inspect
import itertools
import sys
import types
from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import codegen
import libcst as cst
import torch
from codegen.analysis.environment import Env
from codegen.analysis.heap import Heap
from codegen.analysis.values import ANYTHING, Kind, Value
from codegen.rules import r4_out_of_place
from codegen.syntax import bound_names, code, expr, read_names, statements
from higher import ops
from torch import Tensor

PROBE = "_probe_"
DEEPEST = 2
_SHELL = ("self", "group", "grads")


@dataclass(frozen=True)
class Leak:
    """Two names of one memory that the heap takes for two, or the other way round."""

    statement: str
    names: tuple[str, str]
    what: str

    def __str__(self) -> str:
        return f"{' and '.join(self.names)} {self.what}, before `{self.statement}`"


@dataclass
class Analysed:
    """A body, and the heap of it."""

    body: tuple[cst.CSTNode, ...]
    heap: Heap
    globals: dict[str, Any] = field(default_factory=dict)


class _Analysed(Exception):
    """The step is analysed: what becomes of it need not be known."""


def analysed(target: str) -> Analysed | None:
    """The step of a translation's that was analysed; None if none was."""
    found: list[Analysed] = []
    original = r4_out_of_place.analyse

    def analyse(body: Any, *rest: Any) -> Heap:
        heap = original(body, *rest)
        if "param_groups" in cst.Module(body).code:
            found.append(Analysed(tuple(body), heap))
            raise _Analysed
        return heap

    r4_out_of_place.analyse = analyse  # type: ignore[assignment]
    try:
        codegen.translate(target)
    except (codegen.CodegenError, _Analysed):
        pass
    finally:
        r4_out_of_place.analyse = original
    return next(iter(found), None)


class _Probes(cst.CSTTransformer):
    """A call of the probe before each statement of which the heap knows anything."""

    def __init__(self, heap: Heap) -> None:
        super().__init__()
        self.numbers = {node: n for n, node in enumerate(heap.before)}

    def _before(self, old: cst.CSTNode, new: Any) -> Any:
        if old not in self.numbers:
            return new
        call = cst.parse_statement(f"{PROBE}({self.numbers[old]}, locals())")
        return cst.FlattenSentinel([call, new])

    def leave_SimpleStatementLine(
        self, original_node: cst.SimpleStatementLine, updated_node: Any
    ) -> Any:
        return self._before(original_node, updated_node)

    def leave_For(self, original_node: cst.For, updated_node: Any) -> Any:
        return self._before(original_node, updated_node)

    def leave_While(self, original_node: cst.While, updated_node: Any) -> Any:
        return self._before(original_node, updated_node)

    def visit_FunctionDef(self, node: cst.FunctionDef) -> bool:
        return False  # its variables are another call's

    def visit_Lambda(self, node: cst.Lambda) -> bool:
        return False


class Sanitizer:
    """Runs an analysed body in place of an optimizer's step, and keeps what it finds."""

    def __init__(self, found: Analysed, names: Mapping[str, Any]) -> None:
        self.heap = found.heap
        self.order = list(found.heap.before.items())
        self.leaks: dict[tuple[str, str, str], Leak] = {}
        self.probes = self.pairs = 0
        module = cst.Module(body=list(found.body))  # type: ignore[arg-type]
        probed = module.visit(_Probes(found.heap))
        lines = cst.Module(
            body=[
                cst.parse_statement(
                    "def step(self, grouped_grads):\n    pass\n"
                ).with_changes(
                    body=cst.IndentedBlock(list(statements(probed.body)))  # type: ignore[arg-type]
                )
            ]
        )
        self.names = {"torch": torch, "ops": ops, **names, PROBE: self._probe}
        exec(compile(lines.code, "<lowered>", "exec"), self.names)

    def run(
        self, groups: list[dict[str, Any]], loss: Any, steps: int, own: Any
    ) -> None:
        """Train ``groups`` by the body."""
        params = [p for g in groups for p in g["params"]]
        shell = types.SimpleNamespace(**own)
        shell.param_groups = groups
        shell.state = [defaultdict(dict) for _ in groups]
        for step in range(steps):
            for p in params:
                p.grad = None
            loss(params, step).backward()
            grads = [[p.grad for p in g["params"]] for g in groups]
            with torch.no_grad():
                self.names["step"](shell, grads)

    # --- at a statement

    def _probe(self, number: int, names: dict[str, Any]) -> None:
        statement, env = self.order[number]
        env = env.fork()
        self.probes += 1
        found = list(self._at_hand(names, env, self._live(statement)))
        for (one, x, a), (two, y, b) in itertools.combinations(found, 2):
            self.pairs += 1
            if a.kind not in (Kind.TENSOR, Kind.UNKNOWN, Kind.SCALAR_OR_TENSOR):
                self._tell(statement, (one, one), "is a tensor, and taken for none")
            elif overlap(x, y):
                if not _may_share(a, b, env):
                    self._tell(statement, (one, two), "share memory")
            elif a.place is not None and a.place == b.place:
                self._tell(statement, (one, two), "are two, and taken for one")

    def _tell(self, statement: cst.CSTNode, names: tuple[str, str], what: str) -> None:
        line = code(statement).strip().partition("\n")[0]
        self.leaks.setdefault((*names, what), Leak(line, names, what))

    def _live(self, statement: cst.CSTNode) -> set[str]:
        """Variables that are read here or later: of others nothing needs to be known."""
        live = self.heap.live
        if isinstance(statement, (cst.For, cst.While)):
            head = statement.iter if isinstance(statement, cst.For) else statement.test
            return {*live.at_head.get(statement, ()), *read_names(head)}
        later = live.after.get(statement, frozenset()) - bound_names(statement)
        return {*later, *live.reads(statement)}

    def _at_hand(
        self, names: dict[str, Any], env: Env, live: set[str]
    ) -> Iterator[tuple[str, Tensor, Value]]:
        """(how it is read, a tensor, what the heap says of it)."""
        for name in env.names:
            if name in names and name in live and name not in _SHELL:
                yield from self._inside(name, names[name], env, DEEPEST)
        if "p_idx" in names and "grad" in names:
            state = names["self"].state[names["group_idx"]][names["p_idx"]]
            text = "self.state[group_idx][p_idx]"
            yield from self._inside(text, state, env, DEEPEST)

    def _inside(
        self, text: str, value: Any, env: Env, depth: int
    ) -> Iterator[tuple[str, Tensor, Value]]:
        if isinstance(value, Tensor):
            yield text, value, self.heap.value(expr(text), env)
        elif depth and isinstance(value, (list, tuple)):
            for number, item in enumerate(value):
                yield from self._inside(f"{text}[{number}]", item, env, depth - 1)
        elif depth and isinstance(value, dict):
            for key, item in value.items():
                if isinstance(key, str):
                    inside = f'{text}["{key}"]'
                    yield from self._inside(inside, item, env, depth - 1)


def _may_share(a: Value, b: Value, env: Env) -> bool:
    """What is unknown may be anything; nobody may take it for nothing."""
    unknown = any(not v.places or ANYTHING in v.places for v in (a, b))
    return unknown or env.may_alias(a, b)


def overlap(x: Tensor, y: Tensor) -> bool:
    """Whether a write into one shows in the other."""
    if x is y:
        return True
    if x.layout is not torch.strided or y.layout is not torch.strided:
        return False
    if x.numel() == 0 or y.numel() == 0:
        return False
    if x.untyped_storage().data_ptr() != y.untyped_storage().data_ptr():
        return False
    return bool(_cells(x) & _cells(y))


def _cells(x: Tensor) -> set[int]:
    """Where a tensor's elements lie in its storage, in bytes."""
    cells = {x.storage_offset()}
    for size, stride in zip(x.shape, x.stride()):
        cells = {c + n * stride for c in cells for n in range(size)}
    size = x.element_size()
    return {c * size + byte for c in cells for byte in range(size)}


def names_of(module: types.ModuleType) -> dict[str, Any]:
    return {k: v for k, v in vars(module).items() if k != "__builtins__"} | {
        "__builtins__": builtins
    }


def check(
    found: Analysed, kind: Any, groups: Any, loss: Any, steps: int, **settings: Any
) -> Sanitizer:
    """Run the body that an optimizer's step was lowered to."""
    optimizer = kind(groups, **settings)
    module = sys.modules[inspect.unwrap(kind.__init__).__module__]
    sanitizer = Sanitizer(found, names_of(module))
    own = {
        k: v
        for k, v in vars(optimizer).items()
        if k not in ("param_groups", "state") and not k.startswith("_")
    }
    own["shared"] = dict(own)
    sanitizer.run(optimizer.param_groups, loss, steps, own)
    return sanitizer
