"""The values of the heap analysis: objects, places, and what a name may denote.

An *object* is named by what makes it (an expression, a slot that holds it when the step
begins). A name ending in a prime stands for many: the objects that an expression made
in earlier turns of a loop. A *place* is an object seen through views.
"""

from __future__ import annotations

import enum
import functools
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace

import libcst as cst


class Kind(enum.Enum):
    """What sort of thing an expression yields, as far as the rules must know."""

    NONE = "None"
    NUMBER = "number"
    SCALAR_OR_TENSOR = "number that may be a tensor"
    TENSOR = "tensor"
    SEQUENCE = "list"
    MAPPING = "dict"
    OTHER = "other"
    UNKNOWN = "unknown"


ANY_ITEM = "[*]"

CONTAINERS = (Kind.SEQUENCE, Kind.MAPPING)
MAY_HOLD_TENSORS = (Kind.TENSOR, Kind.UNKNOWN, *CONTAINERS)


@dataclass(frozen=True)
class View:
    """One step from an object to a part or another shape of it."""

    how: str
    """``transpose``, ``reshape``, ``index``, ``real``, ``complex``, ``sparse`` (its
    values) or ``opaque``."""
    text: str
    """What is written after the base: ``.view(-1)``, ``[0]``; empty if not known, and
    ``.chunk(2)[*]`` for any item."""
    index: cst.BaseExpression | None = field(default=None, compare=False)

    @property
    def known(self) -> bool:
        return self.text != "" and not self.text.endswith(ANY_ITEM)

    @property
    def whole(self) -> bool:
        """Whether it shows all elements, in another shape or order."""
        return self.how in ("reshape", "transpose", "real", "complex")

    def dulled(self) -> View:
        """The view where what its text reads has changed: how to write it isn't known."""
        return View(self.how if self.whole else "opaque", "")


def as_index(node: cst.BaseSlice) -> cst.BaseExpression:
    """``slice(a, b)`` for ``a:b``."""
    if isinstance(node, cst.Index):
        return node.value
    assert isinstance(node, cst.Slice)
    bounds = [node.lower, node.upper]
    if node.step is not None:
        bounds.append(node.step)
    args = [cst.Arg(b if b is not None else cst.Name("None")) for b in bounds]
    return cst.Call(cst.Name("slice"), args)


@dataclass(frozen=True)
class Place:
    """An object seen through views."""

    obj: str
    views: tuple[View, ...] = ()

    @property
    def exact(self) -> bool:
        """Whether two expressions of this place surely denote the same memory."""
        return not is_many(self.obj) and all(v.known for v in self.views)


MANY = "'"
"""Ends the name of an object that stands for several."""


def is_many(obj: str) -> bool:
    return obj.endswith(MANY)


def several(obj: str) -> str:
    return obj if is_many(obj) else f"{obj}{MANY}"


TOLD = "setting "
"""Begins the name of what a group has been told, and no step or constructor made."""

ANYTHING = Place(f"anything{MANY}")
"""Where something unknown may be, beside other places."""

OF_ANOTHER = f" of another{MANY}"
"""Ends the name of what belongs to a parameter that was walked before."""


OF_GROUP = f" of another group{MANY}"
"""Ends the name of what belongs to a group that was walked before."""


def of_another(obj: str) -> str:
    return obj if obj.endswith((OF_ANOTHER, OF_GROUP)) else f"{_one(obj)}{OF_ANOTHER}"


def of_another_group(obj: str) -> str:
    return f"{_one(obj)}{OF_GROUP}"


def of_any(place: Place) -> Place:
    """The place without what tells apart whose it is."""
    one = _one(place.obj)
    return place if one == place.obj else replace(place, obj=one)


def _one(obj: str) -> str:
    for ending in (OF_GROUP, OF_ANOTHER, MANY):
        obj = obj.removesuffix(ending)
    return obj


REPEATS = "one of its items twice"
"""What a container may share with itself."""

VIEWED = "a part of what it shares"
"""What tells that a slot may hold a view of another one's tensor."""

ANY_PARAMETER = Place(f"a parameter{MANY}")

ANY_GRADIENT = Place(f"a gradient{MANY}")

ANOTHERS = Place(f"something that another parameter's state holds, too{MANY}")

PART = f" part{MANY}"
"""Ends the name of what lies in a container that isn't seen through."""

LONGEST_PATH = 4
"""Views of views beyond this are one view of unknown make."""

DEEPEST_ITEMS = 4
"""Items of items below this are not told apart."""


def seen_through(place: Place, view: View) -> Place:
    if len(place.views) < LONGEST_PATH:
        return showing(place, (*place.views, view))
    return showing(place, (View("opaque", ""),))


def showing(place: Place, views: tuple[View, ...]) -> Place:
    """The object of ``place`` through other views. A view of an unknown part is one, too:
    paths that differ behind that would be told apart by the thousand."""
    unknown = View("opaque", "")
    if unknown in views:
        views = (*views[: views.index(unknown)], unknown)
    return place if views == place.views else replace(place, views=views)


@dataclass(frozen=True)
class Value:
    """What an expression may denote: its kind, its possible places, and a summary of
    the items that it had when it was made.

    ``source`` is the slot that it was got from, if that exists; ``parameter`` whether
    it is a parameter itself, and not just its memory; ``selects`` whether, as an index,
    it shows a part of a tensor or copies one (None where that isn't known).
    """

    kind: Kind
    places: frozenset[Place] = frozenset()
    item: Value | None = None
    source: Slot | None = None
    parameter: bool = False
    selects: bool | None = None

    @property
    def place(self) -> Place | None:
        """The one place that it surely denotes."""
        if len(self.places) != 1:
            return None
        (place,) = self.places
        return place if place.exact else None

    @functools.cached_property
    def objects(self) -> frozenset[str]:
        return frozenset(place.obj for place in self.places)

    def with_places(self, change: Callable[[Place], Place]) -> Value:
        """The value with its places, and those of its items, changed."""
        places = frozenset(map(change, self.places))
        item = self.item and self.item.with_places(change)
        if places == self.places and item == self.item:
            return self
        return replace(self, places=places, item=item)

    def through(self, view: View) -> Value:
        """A part, or another shape, of a tensor."""
        places = frozenset(seen_through(p, view) for p in self.places)
        return Value(Kind.TENSOR, places)


@dataclass(frozen=True)
class Slot:
    """An item of a container: ``state["exp_avg"]``, ``bufs[0]``, ``param.data``.

    ``key`` is the text of the key; ``*`` stands for all that have no slot of their own.
    """

    container: str
    key: str


REST = "*"

NOTHING = Value(Kind.NONE, selects=True)
NUMBER = Value(Kind.NUMBER)
SCALAR_OR_TENSOR = Value(Kind.SCALAR_OR_TENSOR)
OTHER = Value(Kind.OTHER)
UNKNOWN = Value(Kind.UNKNOWN)


GRADIENTS = Value(Kind.OTHER, item=Value(Kind.TENSOR, frozenset({ANY_GRADIENT})))
"""Those of a group, beside its parameters."""

PARAMETERS = Value(
    Kind.SEQUENCE,
    frozenset({Place("params")}),
    Value(Kind.TENSOR, frozenset({ANY_PARAMETER})),
)
"""Those of a group."""

ANY = Value(Kind.UNKNOWN, frozenset({ANYTHING}))
"""Whatever there is."""


def join_kind(a: Kind, b: Kind) -> Kind:
    if a is b or b is Kind.NONE:
        return a
    if a is Kind.NONE:
        return b
    if {a, b} == {Kind.NUMBER, Kind.SCALAR_OR_TENSOR}:
        return Kind.SCALAR_OR_TENSOR
    return Kind.UNKNOWN


def join(a: Value | None, b: Value | None) -> Value | None:
    """What a name may denote after two branches; None says that it isn't bound."""
    if a is None or b is None or a == b:
        return a or b
    sources = {v.source for v in (a, b) if v.kind is not Kind.NONE}
    places = a.places | b.places
    if any(v.kind is Kind.UNKNOWN and not v.places for v in (a, b)) and places:
        places |= {ANYTHING}
    return Value(
        join_kind(a.kind, b.kind),
        places,
        _shallow(join(a.item, b.item)),
        sources.pop() if len(sources) == 1 else None,
        a.parameter or b.parameter,
        a.selects if a.selects is b.selects else None,
    )


def _shallow(item: Value | None, depth: int = DEEPEST_ITEMS) -> Value | None:
    """An item whose items' items are known to that depth, and may be anything below: in
    a loop, ``xs = [xs]`` has ever more of them."""
    if item is None or item.item is None:
        return item
    inner = _shallow(item.item, depth - 1) if depth else ANY
    return item if inner is item.item else replace(item, item=inner)


def any_of(value: Value) -> Value:
    """One of several parts: which, isn't known."""

    def any_place(place: Place) -> Place:
        if not place.views:
            return place
        return showing(place, (*place.views[:-1], View("opaque", "")))

    return value.with_places(any_place)


def numbered(value: Value, number: str) -> Value:
    """The item at a position: of parts of one tensor, another part for each."""

    def at(place: Place) -> Place:
        if not place.views or not place.views[-1].text.endswith(ANY_ITEM):
            return place
        last = place.views[-1]
        text = f"{last.text.removesuffix(ANY_ITEM)}[{number}]"
        return replace(place, views=(*place.views[:-1], replace(last, text=text)))

    return value.with_places(at)


def join_all(values: Iterable[Value | None]) -> Value | None:
    found: Value | None = None
    for value in values:
        found = join(found, value)
    return found
