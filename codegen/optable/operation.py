"""What is known of one operation: its parameters, what it writes, what it returns."""

from __future__ import annotations

import enum
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import libcst as cst


class Result(enum.Enum):
    """What an operation returns, as far as memory and derivatives are concerned."""

    NEW = "a new tensor"
    VIEW = "a view of an argument"
    MAYBE = "a view of an argument, a copy of it, or that argument itself"
    SAME = "an argument itself"
    SEVERAL = "several new tensors"
    VIEWS = "several views of arguments"
    NEW_OR_SEVERAL = "a new tensor, or several, depending on an argument"
    NUMBER = "a number, a truth value or a string: without a derivative"
    SCALAR_OR_TENSOR = "a number that may be a tensor"
    COMPUTED = "a number, or a new tensor where an operand is one"
    ITEMS = "a container, or an iterator, of what the arguments hold"
    ONE_OF = "one of the arguments, or of what they hold"
    METADATA = "neither a tensor nor a number: a dtype, a device, a size"
    NOTHING = "None"


class Write(enum.Enum):
    """What of an argument an operation writes into."""

    NOTHING = "nothing"
    ITSELF = "the tensor"
    ITEMS = "every tensor of the list"
    GRADS = "the gradient of every tensor of the list"


OPTIONS = frozenset(
    "dtype layout device pin_memory requires_grad memory_format generator non_blocking "
    "names out_dtype".split()
)
"""Keywords that say where and of what make a result is. Any operation may take them."""

ALIASES = {"axis": "dim", "keepdims": "keepdim", "x": "input", "a": "input"}
ALIASES |= {"x1": "input", "x2": "other", "self": "input"}
"""NumPy's words for parameters, which torch takes as well."""


@dataclass(frozen=True)
class Parameter:
    """``names`` has more than one where overloads disagree (``torch.max``).

    ``number``: a tensor there loses its gradient, or raises. ``scalar``: a tensor is
    taken, but one without dimensions raises or changes the result's dtype. ``alike``:
    those of them that are given are all numbers or all tensors.
    """

    names: tuple[str, ...]
    number: bool = False
    scalar: bool = False
    alike: bool = False
    keyword_only: bool = False
    variadic: bool = False
    writes: Write = Write.NOTHING
    inplace: bool = False
    """A switch: the first parameter is written into where it is true."""

    @property
    def name(self) -> str:
        return self.names[0]


@dataclass(frozen=True)
class Written:
    """An argument that a call writes into; ``unless_false`` decides, if it is there."""

    argument: cst.BaseExpression
    what: Write
    unless_false: cst.BaseExpression | None = None


@dataclass(frozen=True)
class Operation:
    """One function or method.

    ``base`` is the place of the parameter that the result is, or shows; ``how`` the way
    in which a view is undone: ``transpose``, ``reshape``, ``index``, ``real``,
    ``complex``, ``sparse`` or ``opaque``. ``functional`` is what computes the value that an
    operation leaves in what it writes: a function (with a dot) or a method, or the
    operation itself without ``inplace=`` or ``out=``; None if there is no such thing.
    Where it is a ``mask`` it gives booleans, and the receiver keeps its own dtype. ``twin`` keeps the gradients of settings, ``stable`` has
    finite derivatives at zero: both take the same arguments, the receiver first.
    """

    name: str
    parameters: tuple[Parameter, ...]
    result: Result
    base: int = 0
    how: str = "opaque"
    functional: str | None = None
    elementwise: bool = False
    mask: bool = False
    """Elementwise, and the result is of booleans."""
    uses_rng: bool = False
    """Two calls with the same arguments give two values."""
    decides: bool = False
    """No derivative goes through its numbers: those only decide something."""
    flag: bool = False
    """Changes how autograd or memory treat a tensor, not its value."""
    private: bool = False
    """What it writes into nobody else may see: to them it would not have changed."""
    cuts: bool = False
    """The result has no gradient whatever its arguments have."""
    picks: bool = False
    """Of some arguments' elements it lets nothing through, their derivatives aside."""
    own: bool = False
    """The result's dtype is the default or what it is told, not that of arguments."""
    converts: bool = False
    """The result has the dtype of the second argument, if that has or is one."""
    layout: bool = False
    """What it returns, or whether it raises, depends on strides."""
    memory: bool = False
    """It depends on where in memory its argument lies."""
    contiguous: bool = False
    """The result is contiguous, also where what it is computed of is transposed."""
    whole: bool = False
    """The result is of integers or booleans, whatever the arguments are of."""
    several_if: str | None = None
    """The parameter that, where it is given, makes the result several tensors."""
    several_unless: str | None = None
    """The parameter without which it is several tensors."""
    twin: str | None = None
    stable: str | None = None
    means: str | None = None
    """The tensor method that does the same, with its arguments where it takes others."""

    @property
    def in_place(self) -> bool:
        """Whether it writes whatever its arguments are."""
        return any(p.writes is not Write.NOTHING for p in self.parameters)

    def parameter(self, name: str) -> Parameter | None:
        name = ALIASES.get(name, name)
        for parameter in self.parameters:
            if name in parameter.names:
                return parameter
        for parameter in self.parameters:
            if name in (ALIASES.get(n) for n in parameter.names):
                return parameter
        return None

    def bind(
        self, args: Sequence[cst.Arg], receiver: cst.BaseExpression | None = None
    ) -> dict[str, cst.BaseExpression] | None:
        """Arguments by the name of their parameter; those of ``*size`` as a tuple.

        None where it can't be told: stars but for ``*size``, or arguments that no
        overload has.
        """
        if any(a.star == "**" for a in args):
            return None
        plain = [_element(a) for a in args if a.keyword is None]
        if receiver is not None:
            plain.insert(0, cst.Element(receiver))
        bound = self._by_position(plain)
        if bound is None:
            return None
        for arg in args:
            if arg.keyword is not None:
                name = arg.keyword.value
                parameter = self.parameter(name)
                if parameter is not None:
                    name = parameter.name
                elif name not in OPTIONS and name != "out":
                    return None
                bound[name] = arg.value
        return bound

    def _by_position(
        self, values: Sequence[cst.BaseElement]
    ) -> dict[str, cst.BaseExpression] | None:
        bound: dict[str, cst.BaseExpression] = {}
        left = list(values)
        for parameter in self.parameters:
            if parameter.keyword_only or not left:
                break
            if parameter.variadic:
                bound[parameter.name] = cst.Tuple(left)
                left = []
            elif isinstance(left[0], cst.StarredElement):
                return None
            else:
                bound[parameter.name] = left.pop(0).value
        return None if left else bound

    def written(self, bound: Mapping[str, cst.BaseExpression]) -> Iterator[Written]:
        """The arguments that a call writes into, ``out=`` and ``inplace=`` included."""
        if "out" in bound and not _is(bound["out"], "None"):
            yield Written(bound["out"], Write.ITSELF)
        for parameter in self.parameters:
            argument = bound.get(parameter.name)
            if argument is None:
                continue
            if parameter.writes is not Write.NOTHING:
                yield Written(argument, parameter.writes)
            elif parameter.inplace and not _is(argument, "False"):
                first = bound.get(self.parameters[0].name)
                condition = None if _is(argument, "True") else argument
                if first is not None:
                    yield Written(first, Write.ITSELF, condition)

    def returned(self, bound: Mapping[str, cst.BaseExpression]) -> Result:
        """What a call with these arguments returns (``SAME``, of ``out=`` as well)."""
        written = [w for w in self.written(bound) if w.what is Write.ITSELF]
        if any(w.unless_false is not None for w in written):
            return Result.MAYBE
        if written and self.result in (Result.NEW, Result.NEW_OR_SEVERAL):
            return Result.SAME
        if self.several_unless is not None and self.several_unless not in bound:
            return Result.SEVERAL
        if self.result is not Result.NEW_OR_SEVERAL or self.several_if is None:
            return self.result
        given = bound.get(self.several_if)
        if given is None or _is(given, "False"):
            return Result.NEW
        return Result.NEW_OR_SEVERAL

    def numbers(
        self, bound: Mapping[str, cst.BaseExpression]
    ) -> Iterator[tuple[Parameter, cst.BaseExpression]]:
        """Arguments in places where only plain numbers keep their meaning."""
        for parameter in self.parameters:
            plain = parameter.number or parameter.scalar or parameter.alike
            if plain and parameter.name in bound:
                yield parameter, bound[parameter.name]

    def with_writes(self, name: str, writes: Write) -> Operation:
        """The operation that writes its result into its first parameter."""
        first, *rest = self.parameters
        kept = [p for p in rest if not p.inplace]
        return replace(
            self,
            name=name,
            parameters=(replace(first, writes=writes), *kept),
            result=Result.SAME,
            base=0,
            several_if=None,
            stable=None,
        )


def _element(arg: cst.Arg) -> cst.BaseElement:
    if arg.star:
        return cst.StarredElement(arg.value, comma=cst.MaybeSentinel.DEFAULT)
    return cst.Element(arg.value)


def _is(node: cst.BaseExpression, word: str) -> bool:
    return isinstance(node, cst.Name) and node.value == word
