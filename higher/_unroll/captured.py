"""Which tensors from outside a step's graph leads to.

A step starts on detached weights, state and settings. Walking back from what it
computes, every leaf that is none of these was captured by the user's code, and the
unroll owes it a gradient. A node that is older than the step belongs to a tensor that
was computed before: its gradient can only be handed on if the tensor is known.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any, NamedTuple, cast

import torch
from torch import Tensor
from torch.autograd.function import BackwardCFunction
from torch.autograd.graph import GradientEdge, get_gradient_edge

_Node: Any = Any  # torch's nodes have attributes that its types don't know


class Named:
    """Non-leaf tensors that a step may capture, found by their place in the graph."""

    def __init__(self, tensors: Iterable[Tensor] = ()) -> None:
        self._known: dict[tuple[int, int], tuple[Tensor, Any]] = {}
        self.add(tensors)

    def add(self, tensors: Iterable[Tensor]) -> None:
        for t in tensors:
            node: _Node = t.grad_fn
            if node is not None:
                # the node too: its id must stay taken
                self._known[id(node), t.output_nr] = t, node

    def find(self, node: _Node, output: int) -> Tensor | None:
        found = self._known.get((id(node), output))
        return None if found is None else found[0]


def now() -> int:
    """A number between those of the nodes made before and after."""
    node: _Node = torch.zeros((), requires_grad=True).view(()).grad_fn
    return int(node._sequence_nr())


class Found(NamedTuple):
    """Captured tensors by their ids, and whether somebody's own ``autograd.Function``
    is between: its backward may use more than its forward."""

    tensors: dict[int, Tensor]
    functions: bool


def captured(
    roots: Iterable[Tensor], own: set[int], since: int | None, named: Named
) -> Found:
    """Tensors from outside that ``roots`` depend on.

    Args:
        roots: what a step computed.
        own: ids of the step's own leaves and guards.
        since: :func:`now` at the start of the step; None where nodes are numbered by
            several threads.
        named: non-leaf tensors that may be captured.

    Raises:
        RuntimeError: another tensor that was computed before the step.
    """
    found: dict[int, Tensor] = {}
    seen: dict[int, _Node] = {}
    functions = False
    # other numbers are those of another time, or of another thread
    made = None if since is None else range(since, now())
    edges = [_edge(t) for t in roots if t.requires_grad]
    while edges:
        node, output = edges.pop()
        if id(node) in own:
            continue
        if _is_leaf(node):
            if id(node.variable) not in own:
                found[id(node.variable)] = node.variable
            continue
        known = named.find(node, output)
        if known is not None:
            found[id(known)] = known
        elif id(node) not in seen:
            before = made is not None and node._sequence_nr() not in made
            if before and node.name() != _NO_DERIVATIVE:
                raise RuntimeError(_unnamed(node, output))
            seen[id(node)] = node
            functions |= isinstance(node, BackwardCFunction)
            edges.extend(edge for edge in node.next_functions if edge[0] is not None)
    return Found(found, functions)


def leaves_of(roots: Iterable[Tensor]) -> set[int]:
    """The ids of all leaves that ``roots`` depend on."""
    found: set[int] = set()
    seen: dict[int, _Node] = {}
    nodes: list[_Node] = [_edge(t)[0] for t in roots if t.requires_grad]
    while nodes:
        node = nodes.pop()
        if node is None or id(node) in seen:
            continue
        seen[id(node)] = node
        if _is_leaf(node):
            found.add(id(node.variable))
        nodes.extend(following for following, _ in node.next_functions)
    return found


class Search:
    """The search for what the steps of a segment, which begins at ``sources``, capture.

    Attributes:
        named: non-leaf tensors that may be captured.
        found: those that were, by their ids.
        own: ids of the present step's own leaves and guards.
    """

    def __init__(self, named: Named, sources: Sequence[Tensor]) -> None:
        self.named = named
        self.found: dict[int, Tensor] = {}
        self.own: set[int] = set()
        self._sources = sources
        self._since = 0
        self._guards: list[_Node] = []

    def begin(self, params: list[Tensor], start: Sequence[Tensor]) -> list[Tensor]:
        """Begins a step, on ``params`` of the carry ``start``; guarded ones."""
        self._guards = []
        self.own = {id(t) for t in start}
        result = cast("list[Tensor]", self.guarded(params))
        self._since = now()
        return result

    def guarded(self, tensors: Sequence[Tensor | None]) -> list[Tensor | None]:
        """The same tensors behind a node that a step's own gradients end at, and at
        which others meet an error."""
        result = list(tensors)
        places = [i for i, t in enumerate(result) if t is not None and t.requires_grad]
        if places:
            sources = [*self._sources, *self.found.values()]
            node: _Node = _Guard
            marked = node.apply(len(places), *(result[i] for i in places), *sources)
            for i, t in zip(places, marked):
                result[i] = t
            self._guards.append(marked[0].grad_fn)
            self.own.add(id(marked[0].grad_fn))
        return result

    def through(self, roots: Iterable[Tensor], threads: bool = False) -> Found:
        """What ``roots`` depend on; errors are those of :func:`captured`.

        Args:
            roots: what the step computed.
            threads: whether several threads made their graph.
        """
        since = None if threads else self._since
        found = captured(roots, self.own, since, self.named)
        self.found.update(found.tensors)
        return found


class _Guard(torch.autograd.Function):
    """Inputs: their number, what is guarded, what it depends on in the outer graph."""

    @staticmethod
    def forward(ctx: Any, count: int, *tensors: Tensor) -> tuple[Tensor, ...]:
        return tuple(t.detach() for t in tensors[:count])

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Any:
        raise RuntimeError(
            "A tensor that loss_fn or grad_callback made in a step of unroll is used "
            "outside of it, and what a step computes is not kept. Compute it from "
            "fmodel and its parameters(time=t) after unroll, detach it, or use "
            "memory='full' without truncate."
        )


_NO_DERIVATIVE = "torch::autograd::NotImplemented"
"""What stands in the graph for a backward without one: torch says so when it runs."""


def _is_leaf(node: _Node) -> bool:
    return type(node).__name__ == "AccumulateGrad"


def _edge(t: Tensor) -> tuple[_Node, int]:
    edge = get_gradient_edge(t)
    return edge.node, edge.output_nr


def _unnamed(node: _Node, output: int) -> str:
    try:
        shape = f" of shape {tuple(node._input_metadata[output].shape)}"
    except (AttributeError, IndexError):
        shape = ""
    return (
        f"A step of this unroll uses a tensor{shape} that was computed before it, by "
        f"{node.name()}, and requires grad. Its gradient would be lost. Name it: "
        "unroll(..., meta_params=[tensor]); compute it inside loss_fn; detach it, if "
        "it is a constant; or use memory='full'."
    )


def edges_of(tensors: Sequence[Tensor]) -> list[GradientEdge]:
    return [get_gradient_edge(t) for t in tensors]


def nested(edges: Sequence[GradientEdge]) -> list[GradientEdge]:
    """Those edges of non-leaf tensors that were computed from others of them."""
    inner = [e for e in edges if not _is_leaf(e.node)]
    if not inner or len(edges) == 1:
        return []
    targets = {id(e.node) for e in edges}
    return [e for e in inner if _reaches(e.node, targets)]


def _reaches(start: _Node, targets: set[int]) -> bool:
    seen: dict[int, _Node] = {}
    nodes = [start]
    while nodes:
        for node, _ in nodes.pop().next_functions:
            if node is not None and id(node) not in seen:
                if id(node) in targets:
                    return True
                seen[id(node)] = node
                nodes.append(node)
    return False


@contextmanager
def cut(edges: Sequence[GradientEdge]) -> Iterator[None]:
    """Backward stops at these edges: what lies behind is the outer graph's affair."""
    with ExitStack() as stack:
        for node in {id(e.node): e.node for e in edges}.values():
            hook = node.register_prehook(lambda grads: (None,) * len(grads))
            stack.callback(hook.remove)
        yield


@contextmanager
def silenced(tensors: Iterable[Tensor]) -> Iterator[None]:
    """Hooks and ``retain_grad`` of these don't see the gradients of single steps: the
    outer graph hands them the sum."""
    with ExitStack() as stack:
        for t in tensors:
            hooks: Any = t._backward_hooks
            if hooks:
                stack.callback(hooks.update, dict(hooks))
                hooks.clear()
            if t.retains_grad:
                stack.callback(setattr, t, "grad", t.grad)
        yield
