"""What all passes share while one optimizer is translated."""

from __future__ import annotations

from collections import Counter
from collections.abc import Container, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

import libcst as cst

from codegen import optable
from codegen.analysis.dtypes import PARAMETER, UNKNOWN, Dtypes
from codegen.analysis.heap import Heap
from codegen.analysis.values import Slot, Value
from codegen.diagnostics import CodegenError, Diagnostic, Origin, Origins
from codegen.ir.solve import Unsolved
from codegen.syntax import dotted
from codegen.upstream import Definition, External, Resolved, SourceModule, Upstream


@dataclass(frozen=True)
class Change:
    """A rule fired on a line of upstream's."""

    rule: str
    origin: Origin | None
    before: str
    after: str


@dataclass
class Context:
    """What is known of the optimizer at hand, and what its translation has come to."""

    origins: Origins = field(default_factory=Origins)
    upstream: Upstream | None = None
    """The optimizer; None where a rule is run on a snippet."""
    diagnostics: list[Diagnostic] = field(default_factory=list)
    changes: list[Change] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    globals: dict[str, Resolved] = field(default_factory=dict)
    """What module-level names mean."""
    annotations: dict[str, str] = field(default_factory=dict)
    """Those of the function at hand."""
    arguments_are_local: bool = False
    """Nobody outside holds the annotated arguments (in examples)."""

    # what the constructor leaves behind
    attributes: frozenset[str] = frozenset()
    stored: dict[Slot, Value] = field(default_factory=dict)
    """What sort of thing it stores in the state and in ``attributes``."""
    dtypes: dict[Slot, str] = field(default_factory=dict)
    """Those of the tensors among them."""
    shared_before: dict[str, frozenset[str]] = field(default_factory=dict)
    """Slots that may hold one tensor, by name."""

    # settings
    constructor_settings: set[str] = field(default_factory=set)
    """Taken from the constructor's defaults whatever a group says."""
    float_settings: frozenset[str] = frozenset()
    discontinuous_at_zero: frozenset[str] = frozenset()
    """The update itself jumps where one of them is zero."""
    asked_settings: bool = False
    """Whether a setting was asked if it is a tensor."""

    # the step
    complex_as_real: bool = False
    """It sees complex numbers as pairs."""
    carried: set[str] = field(default_factory=set)
    """The optimizer's own attributes that it reads."""
    kept_tensors: set[str] = field(default_factory=set)
    """Keys under which it stores what may be a tensor."""
    whole_lists: set[str] = field(default_factory=set)
    """Lists that loops over parameters fill to be read as a whole."""
    converts: bool = False
    """It converts to short floats."""
    assumes_casts_copy: bool = False
    """These conversions are taken for copies."""

    # its text
    taken: set[str] = field(default_factory=set)
    """Variables, whose names no new one may get."""
    stands_for: dict[str, str] = field(default_factory=dict)
    """Variable of ours → the expression that it stands for."""
    asked_strides: int = 0
    """How often it asks for strides, which the functions that it calls then keep."""
    emits_identity_tests: bool = False
    """It asks which of its tensors are one, which the functions that it calls keep."""

    def dtypes_of(self, heap: Heap) -> Dtypes:
        """Those of a body's heap; what a snippet doesn't bind is as its parameters are."""
        free = PARAMETER if self.upstream is None else UNKNOWN
        return Dtypes(heap, self.dtypes, free)

    @property
    def optimizer(self) -> Upstream:
        """``upstream``, where there is one."""
        assert self.upstream is not None
        return self.upstream

    def sources(self) -> dict[str, cst.FunctionDef]:
        """Functions, by the name under which the step calls them."""
        return {
            name: found.node
            for name, found in self.globals.items()
            if isinstance(found, Definition) and isinstance(found.node, cst.FunctionDef)
        }

    def operations(self) -> dict[str, str]:
        """Names under which the step knows operations of the table, and theirs there."""
        found = {
            n: f for n, f in self.globals.items() if not isinstance(f, SourceModule)
        }
        return {
            name: f.full_name
            for name, f in found.items()
            if optable.function(f.full_name) is not None
        }

    def full_name(self, func: cst.CSTNode) -> str:
        """The dotted name of what is called, where it lies at module level."""
        root, dot, rest = (dotted(func) or "").partition(".")
        found = self.globals.get(root)
        if isinstance(found, SourceModule):
            return f"{found.name}{dot}{rest}"
        if isinstance(found, (Definition, External)):
            return f"{found.full_name}{dot}{rest}"
        return f"{root}{dot}{rest}"

    def name(self, found: Resolved, name: str, taken: Container[str] = ()) -> str:
        """The name under which a step reads something of upstream's module level: its
        own, or another where the step knows that for something else."""
        while name in taken or self.globals.setdefault(name, found) != found:
            name += "_"
        return name

    def fresh(self, name: str) -> str:
        """A name that nothing uses yet."""
        number = 1
        while f"{name}_{number}" in self.taken:
            number += 1
        self.taken.add(f"{name}_{number}")
        return f"{name}_{number}"

    def refuse(self, rule: str, node: cst.CSTNode, message: str, hint: str) -> None:
        """Collect a diagnostic at ``node``; ``raise_if_refused`` ends the pass."""
        self.refuse_at(rule, self.origins.of(node), message, hint)

    def refuse_at(
        self, rule: str, origin: Origin | None, message: str, hint: str
    ) -> None:
        """The same, at a place of upstream's."""
        line = self.origins.line(origin) if origin is not None else ""
        self.diagnostics.append(Diagnostic(rule, message, hint, origin, line))

    def where(self, node: cst.CSTNode) -> str:
        """at FILE:LINE, for a message that is about another place."""
        origin = self.origins.of(node)
        return f" at {origin.file}:{origin.line}" if origin is not None else ""

    @contextmanager
    def refusing_unsolved(self, body: Sequence[cst.CSTNode]) -> Iterator[None]:
        """Refuse ``body`` where an analysis of it comes to no end."""
        try:
            yield
        except Unsolved as unsolved:
            self.refuse(
                "R4",
                unsolved.statement or body[0],
                "what loops leave in containers here can't be told, turn by turn",
                "keep tensors in variables, or in containers that no loop fills",
            )
            self.raise_if_refused()

    def raise_if_refused(self) -> None:
        if self.diagnostics:
            raise CodegenError(self.diagnostics)

    def fired(
        self, rule: str, node: cst.CSTNode, before: str = "", after: str = ""
    ) -> None:
        """Note that ``rule`` changed ``node``: counted, and shown by ``--explain``."""
        self.changes.append(Change(rule, self.origins.of(node), before, after))

    def counts(self) -> Counter[str]:
        return Counter(change.rule for change in self.changes)
