"""The inner problem of an unroll whose steps are compiled."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from contextlib import ExitStack, nullcontext
from typing import Any

import torch
from torch import Tensor

from higher._carry import (
    Carry,
    leaf_of,
    mapped,
    packed,
    tensors_in,
    tensors_within,
    unpacked,
)
from higher._compile.agreement import check_alike, close, derivatives
from higher._compile.capture import Answered, Lifted, Recorded, check_attributes
from higher._compile.compiler import check_compiler
from higher._compile.facts import (
    Facts,
    facts_of,
    facts_of_modules,
    facts_of_surroundings,
    kind_of,
)
from higher._compile.graph import Form, Graph, cache
from higher._compile.settings import floats, same_leaves, tensor, with_numbers
from higher._compile.tensors import in_slots, put, repeated, split
from higher._compile.update import decisions, first_state
from higher._frozen import lend, settle
from higher._tasks.module import Buffers
from higher._tracing import is_tracing, tracing
from higher._unroll.captured import Search, leaves_of
from higher._unroll.handed import Optimizers
from higher._unroll.held import FLAT_GROUPS, Held, Played
from higher._unroll.past import StepHistory
from higher._unroll.step import Inner
from higher._unroll.surroundings import Random, Tree
from higher._weights import fast_weights
from higher.optim.flat_groups import flat_groups, is_elementwise


class CompiledInner(Inner):
    """Its steps are one graph. The first runs as it is, where no graph is known yet or
    the update that makes the optimizer's state isn't one like the others: it tells what
    a step reads besides what it is handed."""

    # a graph is smaller by each update that it needn't have by itself
    joins = 1 << 18

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        check_compiler(w.device for w in fast_weights(self.module()).installed)
        self._recorded: Recorded | None = None
        self._outside: list[Tensor] = []
        self._missing: list[bool] = []
        self._graph: Graph | None = None
        self._used: list[Graph] = []
        self._answers: list[bool] | None = None
        self._answers_change = False
        self._static: list[Any] | None = None
        self._read: list[Tensor] = []
        self._by_element = is_elementwise(self._optimizer)
        self._user_updates = not self._trusted
        self._plain_first: bool | None = None

    def loss(
        self,
        tree: Tree,
        step: int,
        held: Held,
        params: list[Tensor],
        past: Mapping[int, Sequence[Tensor]],
        used: dict[int, Sequence[Tensor]],
    ) -> tuple[Tensor, Optimizers | None]:
        if step > 0:
            return super().loss(tree, step, held, params, past, used)
        batch = tensors_within(self._batches[step])
        self._recorded = Recorded([*params, *tree.buffers(), *batch])
        result = super().loss(tree, step, held, params, past, used)
        if self._static is None:
            self._outside = self._recorded.found
        self._recorded = None
        return result

    def _called(self, module: Any, batch: Any) -> Tensor:
        # nothing but the user's code: what we ask of tensors is no use of them
        with self._recorded or nullcontext():
            return super()._called(module, batch)

    def _called_back(
        self, held: Held, grads: list[Tensor | None]
    ) -> tuple[Held, list[Tensor | None]]:
        if self._callback is None or is_tracing():
            return super()._called_back(held, grads)
        # a setting may be a tensor that the callback holds
        known = [*tensors_in([held.params, held.state]), *held.each()]
        known += [g for g in grads if g is not None]
        with Recorded(known) as recorded:
            result = super()._called_back(held, grads)
        if self._static is None:
            self._outside += recorded.found
        return result

    def _made(
        self,
        held: Held,
        grads: list[Tensor | None],
        buffers: dict[tuple[int, str], Tensor],
    ) -> Held:
        if not is_tracing():
            if any(g is not None and g.layout is not torch.strided for g in grads):
                raise RuntimeError(_SPARSE)
            self._missing = [g is None for g in grads]
            return super()._made(held, grads, buffers)
        with Answered(self._answers or ()):
            return super()._made(held, grads, buffers)

    def whole(
        self,
        tree: Tree,
        step: int,
        start: Carry,
        past: Mapping[int, Sequence[Tensor]],
        keep_loss: bool = False,
    ) -> Played:
        begun = self._begun(tree, step, start)
        if begun is None:
            return super().whole(tree, step, start, past, keep_loss)
        carry, loss, _ = self._play(tree, step, begun)
        return Played(carry, loss, [], [])

    def quick(
        self,
        tree: Tree,
        step: int,
        start: Carry,
        past: Mapping[int, Sequence[Tensor]],
        used: dict[int, Sequence[Tensor]],
        search: Search | None = None,
    ) -> Played:
        begun = self._begun(tree, step, start)
        if begun is None:
            return super().quick(tree, step, start, past, used, search)
        given = {id(t) for t in start.tensors}
        carry, loss, outside = self._play(tree, step, begun)
        if search is not None:
            search.found.update((id(t), t) for t in outside if t.requires_grad)
        settled = [t if id(t) in given else leaf_of(t) for t in carry.tensors]
        carry = Carry(carry.layout, settled)
        tree.set_buffers(Held.by(*carry).buffers)
        return Played(carry, leaf_of(loss, False), [], [])

    def _begun(self, tree: Tree, step: int, start: Carry) -> Carry | None:
        """What a compiled step begins with; None for a plain one."""
        if step > 0:
            return start
        if self._plain_first is None:
            begun = self._probed(tree, start)
            self._plain_first = begun is None
            if begun is None:
                # it tells itself
                self._static, self._answers = None, None
                self._read, self._outside = [], []
            return begun
        return None if self._plain_first else self._with_state(start)

    def _with_state(self, start: Carry) -> Carry | None:
        """With the state that the first update would make, if that is proven."""
        if not all(type(t) is Tensor and t.is_contiguous() for t in start.tensors):
            return None
        held = Held.by(*start)
        state = first_state(self._optimizer, held, self._missing)
        if state is None:
            return None
        return self._joined(packed([*held._replace(state=state)]))

    def _probed(self, tree: Tree, start: Carry) -> Carry | None:
        """What the first step begins with, if it is like later ones and those have a
        graph from an earlier unroll. What it reads is told by a forward alone."""
        if not self._by_element or self._callback is not None:
            return None
        moment = tree.moment(Random(self.devices))
        with tree.kept():
            leaves = Carry(start.layout, [leaf_of(t) for t in start.tensors])
            held = Held.by(*lend(leaves, tree.weights.watched)[0])
            tree.set_buffers(held.buffers)
            params = held.each()
            loss, written = self.loss(tree, 0, held, params, {}, {})
        tree.go_to(moment)
        if written is not None or self._handed.asked or not isinstance(loss, Tensor):
            return None
        reached = leaves_of([loss])
        self._missing = [id(p) not in reached for p in params]
        begun = None if all(self._missing) else self._with_state(start)
        if begun is not None:
            form_of_batch = facts_of(self._batches[0], [])
            facts = self._facts_of(tree, begun, form_of_batch)
            if self._known(tree, facts) is not None:
                return begun
        return None

    def _play(
        self, tree: Tree, step: int, start: Carry
    ) -> tuple[Carry, Tensor, list[Tensor]]:
        """The next carry and the loss, in the graph, and what was captured."""
        begun, lent = lend(start, tree.weights.watched)
        usable = self._joined(begun)
        tree.set_buffers(unpacked(usable.layout[-1], usable.tensors))
        batch = self._batches[step]
        given: list[Tensor] = []
        form_of_batch = facts_of(batch, given)
        buffers = Buffers.of(tree.modules)
        numbers = self._numbers(usable)
        graph = self._find(tree, self._facts_of(tree, usable, form_of_batch))
        read, constants = self._read, self._outside
        # written into by this step, after others have saved them
        fresh = graph.fresh(buffers.tensors)
        parts = [usable.tensors, numbers, fresh, given, read, constants]
        inputs = [t for part in parts for t in part]
        sizes = [len(part) for part in parts]

        def trace(tensors: Sequence[Tensor]) -> tuple[Form, list[Tensor]]:
            own = list(split(tensors, sizes))
            outside = [*given, *read, *constants]
            stands = [*own[3], *own[4], *own[5]]
            with ExitStack() as stack:
                stack.enter_context(tracing())
                stack.enter_context(Lifted(outside, stands))
                lifted = {id(t): s for t, s in zip(outside, stands)}
                return self._traced(
                    tree, step, usable.layout, own, buffers, put(batch, lifted)
                )

        traced = graph.is_traced
        form, outputs = graph(inputs, trace)
        if not traced:
            check_attributes(tree.modules)
        made = iter(outputs)
        layout = list(form.layout)
        # plain numbers are not part of the graph
        left = iter(floats(usable.layout[1]))
        layout[1] = mapped(layout[1], float, lambda x: next(left))
        settled = settle(begun, lent).tensors
        back = {id(one.tensor): settled[one.at] for one in lent}
        kept = [back.get(id(t), t) for t in usable.tensors]
        carry = Carry(layout, [next(made) if k is None else kept[k] for k in form.kept])
        buffers.put(graph.written(buffers.tensors, fresh))
        buffers.take({name: next(made) for name in form.buffers})
        loss = next(made)
        return carry, loss, [*given, *read, *constants]

    def _joined(self, start: Carry) -> Carry:
        """Small parameters joined from the first compiled step on."""
        if start.layout[FLAT_GROUPS] is not None or self._optimizer._tasks is not None:
            return start
        held = Held.by(*start)
        optimizer = copy.copy(self._optimizer)
        optimizer.param_groups = [{**g, "params": []} for g in held.groups]
        optimizer.state, optimizer.shared = held.state, held.shared
        grads = [None if m else p for m, p in zip(self._missing, held.params)]
        joined = flat_groups(optimizer, held.params, grads, self.joins)
        if joined is None:
            return start
        params, state = joined.joined(held.params), joined.state(held.state)
        return packed([*held._replace(params=params, state=state, flat_groups=joined)])

    def _numbers(self, carry: Carry) -> list[Tensor]:
        """Settings that are plain numbers, as tensors: others need no other graph."""
        found: list[Tensor] = []
        if self._by_element:
            found = [tensor(x) for x in floats(carry.layout[1])]
        return found

    def _facts_of(self, tree: Tree, carry: Carry, form_of_batch: Any) -> Facts:
        """What the graph of a step from this carry on is made from."""
        numbers = self._numbers(carry)
        if self._static is None:
            self._static = self._facts(tree)
        if self._answers is None or self._answers_change:
            self._decide(carry, numbers)
        layout = carry.layout
        form = mapped(layout[1], float, lambda x: None) if numbers else layout[1]
        facts = [
            self._static,
            *(form_of_batch, self._answers, self._missing, facts_of_surroundings()),
            [layout[0], form, *layout[2:4], *layout[5:]],
            [kind_of(t)[:4] for t in carry.tensors],
            [kind_of(t) for t in in_slots(layout[1], carry.tensors)],
            [kind_of(b) for b in tree.buffers()],
            repeated([*carry.tensors, *self._read, *self._outside]),
        ]
        return Facts(facts, layout[FLAT_GROUPS])

    def _known(self, tree: Tree, facts: Facts) -> Graph | None:
        """The graph of steps like this, if there is one already."""
        if self._graph is None or self._graph.facts != facts:
            return cache.find(facts, _origins(tree))
        return self._graph

    def _find(self, tree: Tree, facts: Facts) -> Graph:
        """The graph of a step."""
        graph = self._known(tree, facts)
        if graph is None:
            graph = Graph(facts)
            cache.add(graph, _origins(tree))
        self._graph = graph
        if graph not in self._used:
            self._used.append(graph)
        if len(self._used) > _MOST:
            raise RuntimeError(_OTHER_FORM)
        return graph

    def _facts(self, tree: Tree) -> list[Any]:
        """What stays the same for the whole unroll."""
        optimizer = self._optimizer
        facts = [
            facts_of([self._loss_fn, self._callback], self._read),
            facts_of_modules(tree.modules, self._read),
            *(type(optimizer), optimizer._group_to_param_list, optimizer._tasks),
            self._order,
        ]
        read = {id(t) for t in self._read}
        # by the order in which the first step came to them
        self._outside = [t for t in self._outside if id(t) not in read]
        return [*facts, [kind_of(t) for t in self._outside]]

    def _decide(self, carry: Carry, numbers: list[Tensor]) -> None:
        """Takes down what the update decides by the values of settings and counters.
        Where it treats each element by itself, one element of each parameter tells."""
        self._answers, self._answers_change = [], False
        held = Held.by(carry.layout, [t.detach() for t in carry.tensors])
        settings = with_numbers(Held.by(*carry).groups, numbers)
        common = all(t.dim() == 0 for t in tensors_in([settings, held.shared]))
        if self._by_element and common:
            self._answers, self._answers_change = decisions(
                self._optimizer, held, settings, self._missing
            )

    def _traced(
        self,
        tree: Tree,
        step: int,
        layout: Any,
        own: list[list[Tensor]],
        buffers: Buffers,
        batch: Any,
    ) -> tuple[Form, list[Tensor]]:
        """Runs the step on what stands for its tensors; what it returns."""
        carry, numbers, buffer_stands = own[:3]
        held = Held.by(layout, carry)
        groups = with_numbers(held.groups, numbers)
        held = held._replace(groups=groups)
        params = held.each()
        weights = tree.weights
        before = weights.history, weights.installed, weights.exposed
        own_buffers = buffers.tensors
        try:
            weights.history = StepHistory(self.start + step, params, {}, {})
            weights.exposed = False
            weights.install(params)
            buffers.put(buffer_stands)
            tree.set_buffers(held.buffers)
            loss = self._traced_loss(tree, held, params, batch)
            second = self._order == 2
            grads = self._optimizer._gradients(loss, params, second, True)
            if not second:
                grads = [g if g is None else g.detach() for g in grads]
            made = self.updated(held, grads, tree.carried_buffers())
            carried = {f"{i}:{name}" for i, name in made.buffers}
            replaced = buffers.changed(buffer_stands)
        finally:
            weights.history, installed, weights.exposed = before
            weights.install(installed)
            buffers.put(own_buffers)
        replaced = {k: b for k, b in replaced.items() if k not in carried}
        if not same_leaves(made.groups, groups):
            raise RuntimeError(
                "This optimizer changes its settings as it goes, which can't be compiled."
            )
        made = made._replace(groups=Held.by(layout, carry).groups)
        form, tensors = packed([*made])
        known = {id(t): i for i, t in enumerate(carry)}
        kept = [known.get(id(t)) for t in tensors]
        outputs = [t for t, k in zip(tensors, kept) if k is None]
        return Form(form, kept, list(replaced)), [*outputs, *replaced.values(), loss]

    def _traced_loss(
        self, tree: Tree, held: Held, params: list[Tensor], batch: Any
    ) -> Tensor:
        module: Any = tree.weights.root()
        with self._handed.out(held.optimizer(params), params) as loan:
            loss = self._loss_fn(module, batch)
            written = loan.written()
        if written is not None:
            raise RuntimeError("loss_fn writes into the optimizer.")
        if any(a is not b for a, b in zip(tree.weights.installed, params)):
            raise RuntimeError("loss_fn changes the fast weights.")
        return loss

    def check(
        self, tree: Tree, step: int, start: Carry, moment: Any, played: Played
    ) -> None:
        """Compares a compiled step with the same as it is: its loss and, if the user's
        code has a part in the update, its weights.

        Raises:
            RuntimeError: they differ.
        """
        if step == 0 and self._plain_first:
            return
        loss, params = played.loss, Held.by(*played.carry).each()
        with tree.kept():
            tree.go_to(moment)
            if self._user_updates:
                leaves = [leaf_of(t) for t in start.tensors]
                again = super().quick(tree, step, Carry(start.layout, leaves), {}, {})
                plain, wanted = again.loss, Held.by(*again.carry).each()
            else:
                held = Held.by(*lend(start, tree.weights.watched)[0])
                tree.set_buffers(held.buffers)
                with torch.no_grad():
                    plain, _ = super().loss(tree, step, held, held.each(), {}, {})
                wanted = []
        pairs = [(loss, plain)]
        if self._user_updates:
            pairs += zip(params, wanted)
        if not all(close(a.detach(), b.detach(), self.eps) for a, b in pairs):
            raise RuntimeError(_STALE)
        if self._graph is not None and not self._graph.is_checked:
            self._check_graph(tree, step, start, moment)
            self._graph.is_checked = True

    def _check_graph(self, tree: Tree, step: int, start: Carry, moment: Any) -> None:
        """Compares a new graph's loss and its derivatives, and what it adds to weights,
        with those of the same step as it is: compilers err. Derivatives of an update are
        left out: where a moment is near zero they are rounding errors.

        Raises:
            RuntimeError: they differ by more than rounding.
        """
        eps = self.eps if self._by_element else max(self.eps, _COARSE)
        sides = []
        with tree.kept():
            for whole in (self.whole, super().whole):
                tree.go_to(moment)
                leaves = Carry(start.layout, [leaf_of(t) for t in start.tensors])
                played = whole(tree, step, leaves, {}, True)
                pairs = zip(Held.by(*played.carry).each(), Held.by(*leaves).each())
                moves = [new - old for new, old in pairs]
                by = [p for p in Held.by(*leaves).params if p.requires_grad]
                sides.append([[played.loss], moves, derivatives([played.loss], by)])
        check_alike(sides[0], sides[1], eps**0.125)


def _origins(tree: Tree) -> list[Any]:
    """The model's own parameters."""
    return [refs[0]() for refs in tree.weights.origins if refs]


_MOST = 4
"""Graphs of one unroll: an update may branch on its counters."""

_OTHER_FORM = (
    "compile=True: batches or the optimizer's state change their form from step to "
    f"step, so that each of more than {_MOST} steps would be compiled by itself. What "
    "differs in batches should be tensors of the same shapes. Leave out compile=True."
)
_SPARSE = (
    "compile=True: this model has sparse gradients, and torch's compiler has no sparse "
    "tensors. Make its embeddings with sparse=False, or leave out compile=True."
)
_COARSE = torch.finfo(torch.bfloat16).eps
"""Some updates round to that."""

_STALE = (
    "compile=True: the last step's loss differs from that of the same step as it is. "
    "loss_fn is traced once: it must do the same each time, and what differs from step "
    "to step belongs into batches. No counters, no next(iterator), no objects that hold "
    "other tensors than they did."
)
