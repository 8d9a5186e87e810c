"""A step as a graph: what it was traced from, and how it is called."""

from __future__ import annotations

import warnings
import weakref
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from typing import Any, NamedTuple

import torch
import torch._functorch.config
from torch import Tensor

from higher._compile.compiler import Flat, compiled, errors, refusal


class Form(NamedTuple):
    """What a traced step returns.

    Attributes:
        layout: of the next carry.
        kept: for each of its tensors the number of the one of the carry before that it
            is; None for those that the step made, which come in this order.
        buffers: names of buffers that were replaced; they follow. The loss is the last.
    """

    layout: Any
    kept: list[int | None]
    buffers: list[str]


Trace = Callable[[Sequence[Tensor]], "tuple[Form, list[Tensor]]"]


class Graph:
    """One step, compiled when it is called for the first time.

    Attributes:
        facts: what it was traced from.
        needs: which of its inputs require grad.
        is_checked: whether it was compared with a step as it is.
    """

    def __init__(self, facts: Any) -> None:
        self.facts = facts
        self.needs: list[bool] = []
        self.is_checked = False
        self._form: Form | None = None
        self._writes: set[int] | None = None
        # only while it is called: the graph outlives what it was traced from
        self._trace: Trace | None = None
        self._left_by: tuple[Exception, str] | None = None
        this = weakref.ref(self)

        def flat(*tensors: Tensor) -> tuple[Tensor, ...]:
            graph = this()
            assert graph is not None and graph._trace is not None
            try:
                graph._form, outputs = graph._trace(tensors)
            except Exception as error:
                # torch adds to what the error says on its way out
                graph._left_by = error, str(error)
                raise
            return tuple(outputs)

        self._call: Flat = compiled(flat)

    @property
    def is_traced(self) -> bool:
        return self._form is not None

    def fresh(self, buffers: Sequence[Tensor]) -> list[Tensor]:
        """The same, but copies of those that the step may write into."""
        writes = self._writes
        return [
            b.clone() if writes is None or i in writes else b
            for i, b in enumerate(buffers)
        ]

    def written(
        self, buffers: Sequence[Tensor], fresh: Sequence[Tensor]
    ) -> list[Tensor]:
        """After a call on ``fresh`` ones: those that it has written into, else
        ``buffers``."""
        if self._writes is None:
            self._writes = {i for i, b in enumerate(fresh) if b._version}
        return [
            f if i in self._writes else b
            for i, (b, f) in enumerate(zip(buffers, fresh))
        ]

    def __call__(
        self, inputs: Sequence[Tensor], trace: Trace
    ) -> tuple[Form, tuple[Tensor, ...]]:
        """Runs the step on ``inputs``; ``trace`` runs it while it is compiled."""
        wanted = [t.requires_grad for t in inputs]
        known = self.needs or wanted
        # one graph for all steps: a gradient that nobody asks for does no harm
        self.needs = [a or b for a, b in zip(known, wanted)]
        given = [
            t if t.requires_grad == need else t.detach().requires_grad_()
            for t, need in zip(inputs, self.needs)
        ]
        self._trace = trace
        try:
            first = self._form is None
            with torch.enable_grad(), _compiling() if first else nullcontext():
                outputs = self._call(*given)
        except errors() as error:
            raise refusal(error, self._left_by) from error
        finally:
            self._trace = self._left_by = None
        assert self._form is not None
        return self._form, outputs


@contextmanager
def _compiling() -> Iterator[None]:
    settings: Any = torch._functorch.config
    if hasattr(settings, "donated_buffer"):
        # for good: torch asks again when backward comes, which may come twice
        settings.donated_buffer = False
    with warnings.catch_warnings():
        # torch looks for ``grad`` of what has none, and shows nobody that it warns
        warnings.filterwarnings("ignore", message="The .grad attribute of a Tensor")
        yield


MOST = 32
"""How many graphs are kept, the last used."""


class Cache:
    """Graphs that may be used again in later unrolls of the same model."""

    def __init__(self) -> None:
        self._graphs: OrderedDict[int, tuple[Graph, list[Any]]] = OrderedDict()

    def find(self, facts: Any, origins: Sequence[Any]) -> Graph | None:
        """One of a step with the same ``facts``, of the model with these parameters."""
        for number, (graph, known) in reversed(self._graphs.items()):
            if len(known) == len(origins) and all(
                a() is b for a, b in zip(known, origins)
            ):
                if graph.facts == facts:
                    self._graphs.move_to_end(number)
                    return graph
        return None

    def add(self, graph: Graph, origins: Sequence[Any]) -> None:
        self._graphs[id(graph)] = graph, [weakref.ref(p) for p in origins]
        gone = [
            number
            for number, (_, known) in self._graphs.items()
            if any(ref() is None for ref in known)
        ]
        for number in gone:
            del self._graphs[number]
        while len(self._graphs) > MOST:
            self._graphs.popitem(last=False)


cache = Cache()
