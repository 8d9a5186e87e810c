"""What expressions denote, as regions, and what evaluating them reads and writes."""

from __future__ import annotations

import builtins
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import cast

import libcst as cst

from codegen import optable
from codegen.analysis.regions import ANY, ITEM, Region, unified
from codegen.context import Context
from codegen.optable import Result
from codegen.syntax import (
    all_params,
    bare,
    code,
    dict_entries,
    dotted,
    index_of,
    read_names,
    string_key,
)
from codegen.upstream import Definition, SourceModule

PLAIN = frozenset(dir(builtins)) | optable.MODULES
"""Names of values that have no memory of their own, where no variable is called so."""

DEEP = "**"
"""The elements of a region's tensors, and of those that lie in it as items."""

ELEMENTS = "[]"
"""A tensor's elements, or any item; not what lies under an attribute."""

STATE = ".state"
"""What a parameter leads to, as if it were an attribute."""

Access = tuple[Region, str]
"""A region, and the key of the part of it that is read or written."""


@dataclass
class Effects:
    """What statements do to memory. ``calls`` are functions, whose effects count, too;
    ``lists`` those that are read by the position of a turn. ``leaves`` says that they
    may end the loop that they stand in, or the step.
    """

    reads: set[Access] = field(default_factory=set)
    writes: set[Access] = field(default_factory=set)
    calls: set[str] = field(default_factory=set)
    lists: set[str] = field(default_factory=set)
    uses_rng: bool = False
    leaves: bool = False

    def add(self, other: Effects) -> None:
        self.reads |= other.reads
        self.writes |= other.writes
        self.calls |= other.calls
        self.lists |= other.lists
        self.uses_rng |= other.uses_rng
        self.leaves |= other.leaves


class Values(ABC):
    """Evaluates expressions of a step; ``now`` collects their effects.

    ``names`` are the regions of variables, with those of functions under the function's
    ``scope``; ``outer`` what can be reached before a turn of a loop begins. ``turn`` are
    the targets of the loop whose turn it is, ``positions`` those that count its turns,
    ``attributes`` are stored to by the step itself.
    """

    def __init__(self, context: Context) -> None:
        self.context = context
        self.names: dict[str, Region] = {}
        self.local = {"self"}
        self.attributes: set[str] = set()
        self.scope = ""
        self.item, self.group, self.own = Region(), Region(), self.name("self")
        unified([self.group.held("params").held(ITEM), self.item])
        self._of_groups = Region()
        unified([self._of_groups.held("some"), self.group])
        self.outer = [self.own, self.group]
        if any(name.startswith("state[") for name in context.shared_before):
            self.outer.append(self.item.held(STATE))
        self.all_items: list[Region] = []
        self.now = Effects()
        self.turn: frozenset[str] | None = None
        self.positions: frozenset[str] = frozenset()

    @abstractmethod
    def call(self, node: cst.Call) -> Region: ...

    @abstractmethod
    def comprehension(self, node: cst.BaseSimpleComp | cst.DictComp) -> Region: ...

    def name(self, name: str) -> Region:
        if f"{self.scope}{name}" in self.local:
            return self.names.setdefault(f"{self.scope}{name}", Region()).found()
        found = self.context.globals.get(name)
        if isinstance(found, Definition):
            plain = isinstance(found.node, (cst.FunctionDef, cst.ClassDef))
        else:
            plain = name in PLAIN or isinstance(found, SourceModule)
        if plain:
            return Region()
        shared = self.names.setdefault(f"global {name}", Region())
        self.outer.append(shared)
        return shared.found()

    def is_local(self, node: cst.CSTNode) -> bool:
        """Whether what a dotted name begins with is a variable."""
        root = (dotted(node) or "self").partition(".")[0]
        return f"{self.scope}{root}" in self.local

    def use(self, node: cst.BaseExpression) -> Region:
        """The region of a value whose elements are read."""
        value = self.value(node)
        self.touch(value, self.now.reads)
        return value

    def touch(self, region: Region, where: set[Access], key: str = DEEP) -> None:
        where.add((region, key))
        if self.turn is not None or self.scope:
            self.all_items.append(region)

    def value(self, node: cst.BaseExpression) -> Region:
        """The region of an expression's value, and of all that it may be part of."""
        node = cast(cst.BaseExpression, bare(node))
        if isinstance(node, cst.Name):
            return self.name(node.value)
        if isinstance(node, cst.Attribute):
            return self._attribute(node)
        if isinstance(node, cst.Subscript):
            base, key = self._slot(node)
            if key in (ANY, DEEP):
                return base.any_item()
            self.now.reads.add((base, key))
            return base.held(key)
        if isinstance(node, cst.Call):
            return self.call(node)
        if isinstance(node, (cst.IfExp, cst.BooleanOperation)):
            parts = [node.body, node.orelse] if isinstance(node, cst.IfExp) else []
            if isinstance(node, cst.IfExp):
                self.use(node.test)
            else:
                parts = [node.left, node.right]
            return unified([self.use(part) for part in parts])
        if isinstance(node, cst.NamedExpr):
            value = self.value(node.value)
            self.bind(node.target, value, None)
            return value
        if isinstance(node, (cst.BaseSimpleComp, cst.DictComp)):
            return self.comprehension(node)
        if isinstance(node, cst.Lambda):
            params = {p.name.value for p in all_params(node.params)}
            self.local |= {f"{self.scope}{name}" for name in params}
            outer = [self.name(n) for n in sorted(read_names(node))]
            return unified([self.unknown([self.value(node.body)]), *outer])
        return self._made(node)

    def _made(self, node: cst.BaseExpression) -> Region:
        """What displays hold, and what operators read."""
        if isinstance(node, cst.Dict):
            entries = dict_entries(node)
            made = Region()
            if entries is not None:
                for key, value in entries.items():
                    unified([made.held(key), self.value(value)])
                return made
        if isinstance(node, (cst.Tuple, cst.List, cst.Set, cst.Dict)):
            return self._display(node)
        reads = self.value if _asks_identity(node) else self.use
        operands = [reads(n) for n in heads(node, set())]
        if isinstance(node, cst.BinaryOperation) and _joins(node.operator):
            if any(r.is_container() for r in operands):
                return unified(operands).any_item()  # lists, of the same items
        return Region()

    def _display(self, node: cst.Tuple | cst.List | cst.Set | cst.Dict) -> Region:
        made = Region()
        plain = all(isinstance(e, cst.Element) for e in node.elements)
        for number, inner in enumerate(heads(node, set())):
            value = self.value(inner)
            unified([made.held(str(number)) if plain else made.any_item(), value])
        return made

    def added(self, operands: list[Region]) -> Region:
        """``x += y``: a list holds the items of both, a tensor is written into."""
        if any(r.is_container() for r in operands):
            return unified(operands).any_item()
        return operands[0]

    def _slot(self, node: cst.Subscript) -> Access:
        """Container and key: constant, or the position of this turn, or any."""
        index = index_of(node)
        if dotted(node.value) == "self.state" and index is not None:
            return self._state(index)
        if dotted(node.value) == "self.param_groups" and index is not None:
            self.use(index)
            return self._of_groups, "some"
        base, key = self.value(node.value), string_key(node)
        if key is not None:
            return base, key
        if isinstance(index, cst.Integer):
            return base, index.value
        if isinstance(index, cst.Name) and index.value in self.positions:
            self.note_list(node.value)
            return base, ITEM
        for part in node.slice:
            for inner in heads(part, set()):
                self.use(inner)
        return base, DEEP

    def _state(self, index: cst.BaseExpression) -> Access:
        """The state of the parameter whose turn it is, or of any."""
        name = index.value if isinstance(index, cst.Name) else ""
        if name in (self.turn or ()) and self.name(name) is self.item.found():
            return self.item, STATE
        self.use(index)
        unified([self.own.held(".state"), self.item.held(STATE)])
        self.outer.append(self.item.held(STATE))
        return self.item, STATE

    def _attribute(self, node: cst.Attribute) -> Region:
        name = node.attr.value
        root = (dotted(node) or "").partition(".")[0]
        if root in optable.MODULES and not self.is_local(node):
            return Region()
        base = self.value(node.value)
        if dotted(node) == "self.param_groups":
            return unified([self._of_groups, base.held(f".{name}")]).any_item()
        if name not in self.attributes:
            known = optable.attribute(name)
            if known is not None and name != "grad":
                numbers = known.result in (Result.METADATA, Result.NUMBER)
                return Region() if numbers else base
            if name == "data" or optable.method(name) or optable.container_method(name):
                return base
        self.now.reads.add((base, f".{name}"))
        return base.held(f".{name}")

    def note_list(self, node: cst.BaseExpression) -> None:
        """Whoever joins loops must know of these lists that they have an item each."""
        if string_key(node) != "params" and not isinstance(node, cst.ListComp):
            self.now.lists.add(code(node))

    def bind(
        self,
        target: cst.BaseExpression,
        value: Region,
        given: cst.BaseExpression | None,
    ) -> None:
        target = cast(cst.BaseExpression, bare(target))
        if isinstance(target, (cst.Tuple, cst.List)):
            parts = given.elements if isinstance(given, cst.Tuple) else ()
            if len(parts) == len(target.elements):
                values = [self.value(e.value) for e in parts]
                for element, one, part in zip(target.elements, values, parts):
                    self.bind(element.value, one, part.value)
                return
            starred = any(isinstance(e, cst.StarredElement) for e in target.elements)
            for number, element in enumerate(target.elements):
                item = value.any_item() if starred else value.held(str(number))
                self.bind(element.value, item, None)
        elif isinstance(target, cst.StarredElement):
            self.bind(target.value, value, None)
        elif isinstance(target, cst.Name):
            unified([self.name(target.value), value])
        else:
            unified([self.store(target), value])

    def store(self, target: cst.BaseExpression | cst.BaseDelTargetExpression) -> Region:
        """A slot that is stored to, or deleted."""
        if isinstance(target, cst.Subscript):
            base, key = self._slot(target)
            # of a tensor, these are elements; of a list, the item alone
            self.now.writes.add((base, key))
            return base.held(key) if key not in (ANY, DEEP) else base.any_item()
        if isinstance(target, cst.Attribute):
            base, key = self.value(target.value), f".{target.attr.value}"
            if key == ".data":
                self.now.writes.add((base, DEEP))
                return base
            self.now.writes.add((base, key))
            return base.held(key)
        if isinstance(target, cst.Name):
            return self.name(target.value)
        return self.unknown([self.value(n) for n in heads(target, set())])

    def unknown(self, regions: Sequence[Region]) -> Region:
        """Something that may do anything with what it is handed."""
        whole = unified([Region(), *regions]).any_item()
        self.touch(whole, self.now.reads, ANY)
        self.touch(whole, self.now.writes, ANY)
        self.now.uses_rng = self.now.uses_rng or bool(regions)
        return whole


def heads(node: cst.CSTNode, inside: set[cst.CSTNode]) -> Iterator[cst.BaseExpression]:
    """The outermost expressions below a node, blocks left out."""
    for child in node.children:
        if child in inside:
            continue
        if isinstance(child, cst.BaseExpression):
            yield child
        else:
            yield from heads(child, inside)


def _asks_identity(node: cst.CSTNode) -> bool:
    return isinstance(node, cst.Comparison) and all(
        isinstance(c.operator, (cst.Is, cst.IsNot)) for c in node.comparisons
    )


def _joins(operator: cst.BaseBinaryOp) -> bool:
    return isinstance(operator, (cst.Add, cst.Multiply, cst.BitOr))
