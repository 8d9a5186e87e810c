"""What all passes share while one optimizer is translated."""

from __future__ import annotations

from collections import Counter
from collections.abc import Container
from dataclasses import dataclass, field

import libcst as cst

from codegen import optable
from codegen.analysis.dtypes import PARAMETER, UNKNOWN, Dtypes
from codegen.analysis.heap import Heap
from codegen.analysis.values import Slot, Value
from codegen.diagnostics import CodegenError, Diagnostic, Origin, Origins
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
    """Origins of nodes, diagnostics so far, and which rule fired where.

    ``upstream`` is the optimizer that is translated, None where a rule is run on a
    snippet; ``complex_as_real`` says that its step sees complex numbers as pairs.
    ``carried`` are the optimizer's own attributes that the step reads,
    ``constructor_settings`` those that it takes from the constructor's defaults
    whatever a group says, ``stored`` what the constructor leaves in the state and in
    ``attributes``, in which ``dtypes``, ``shared_before`` which of it may be one tensor, ``globals`` what module-level names mean, ``annotations`` those of the
    function at hand. ``discontinuous_at_zero`` are settings at whose zero the update itself jumps,
    ``whole_lists`` those that loops over parameters fill to be read as a whole,
    ``taken`` variables, whose names no new one may get, ``stands_for`` the expressions
    that variables of ours stand for, ``kept_tensors`` keys under which the step itself
    stores what may be one, ``asked_settings`` whether a setting was asked if it is one. ``arguments_are_local`` says
    that nobody outside holds the annotated arguments (in examples). ``converts`` says whether the
    step converts to short floats, ``assumes_casts_copy`` that these are taken for copies. ``asked_strides`` and ``emits_identity_tests`` are what the step asks of
    tensors, which the functions that it calls have to keep.
    """

    origins: Origins = field(default_factory=Origins)
    upstream: Upstream | None = None
    complex_as_real: bool = False
    diagnostics: list[Diagnostic] = field(default_factory=list)
    changes: list[Change] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    carried: set[str] = field(default_factory=set)
    constructor_settings: set[str] = field(default_factory=set)
    globals: dict[str, Resolved] = field(default_factory=dict)
    annotations: dict[str, str] = field(default_factory=dict)
    stored: dict[Slot, Value] = field(default_factory=dict)
    dtypes: dict[Slot, str] = field(default_factory=dict)
    shared_before: dict[str, frozenset[str]] = field(default_factory=dict)
    attributes: frozenset[str] = frozenset()
    float_settings: frozenset[str] = frozenset()
    discontinuous_at_zero: frozenset[str] = frozenset()
    whole_lists: set[str] = field(default_factory=set)
    taken: set[str] = field(default_factory=set)
    stands_for: dict[str, str] = field(default_factory=dict)
    kept_tensors: set[str] = field(default_factory=set)
    asked_settings: bool = False
    arguments_are_local: bool = False
    converts: bool = False
    assumes_casts_copy: bool = False
    asked_strides: int = 0
    emits_identity_tests: bool = False

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
