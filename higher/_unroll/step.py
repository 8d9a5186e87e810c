"""One inner step as a pure function, to be run as often as wanted."""

from __future__ import annotations

import copy
import weakref
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from operator import is_
from typing import Any

import torch
from torch import Tensor

from higher._carry import Carry, leaf_of, mapped, packed, tensors_in, unpacked
from higher._check import having
from higher._dtensor import norms_of, whole
from higher._frozen import address_of, lend, settle
from higher._second_order import math_attention
from higher._unroll.captured import Search
from higher._unroll.handed import Handed, Optimizers
from higher._unroll.held import FLAT_GROUPS, Buffers, Flags, Grads, Held, Played
from higher._unroll.overrides import Overrides
from higher._unroll.past import StepHistory
from higher._unroll.surroundings import (
    Autocast,
    Random,
    Tree,
    devices_of,
    hooks,
    hooks_counted,
)
from higher._weights import fast_weights
from higher.optim.arguments import GradCallback, called_back
from higher.optim.base import DifferentiableOptimizer
from higher.optim.flat_groups import flat_groups
from higher.optim.state import settings_of
from higher.patch import StatelessModule, _restored

LossFn = Callable[[Any, Any], Tensor]


class Inner:
    """The inner problem of one unroll.

    It is held by the graph that the unroll makes, which the stateless module holds in
    turn: so it refers to that module weakly, and has a copy for after its end.

    Attributes:
        count: the number of parameters.
        start: the time at which the unroll starts.
        steps: how many steps it has.
        largest: of all steps' norms, see :class:`Played`.
        eps: of the coarsest dtype.
        hooked: whether the last loss came with hooks.
        shadow: steps beside it until the unroll ends, but not when a step runs again.
        joins: how many elements a parameter may have to be joined to others, if it is not
            as many as elsewhere.
    """

    joins: int | None = None

    def __init__(
        self,
        fmodel: StatelessModule,
        diffopt: DifferentiableOptimizer,
        loss_fn: LossFn,
        batches: Sequence[Any],
        callback: GradCallback | None,
        order: int,
        overrides: Overrides,
    ) -> None:
        weights = fast_weights(fmodel)
        self._fmodel = weakref.ref(fmodel)
        plain = [leaf_of(w) for w in weights.installed]
        self._copy = _restored(fmodel, [plain], True, weights.tasks)
        fast_weights(self._copy).watched = weights.watched
        self._optimizer = _emptied(diffopt)
        self._handed = Handed(diffopt, self._optimizer)
        self._overrides = overrides
        self._callback = callback or diffopt._grad_callback
        self._loss_fn = loss_fn
        self._batches = batches
        self._order = order
        # a compiled update reads what it is handed, and no tensor besides
        self._compiled = type(diffopt).__module__.startswith("higher._generated.")
        self.shadow = diffopt._shadow
        self._trusted = self._compiled and not (self._callback or self.shadow)
        self._search = True
        self.hooked = False
        self._flags: dict[Any, Flags] = {}
        self.largest: list[Tensor] = []
        self.steps = len(batches)
        self.devices = devices_of([*weights.installed, *Tree(fmodel).buffers()])
        self._autocast = Autocast(self.devices)
        dtypes = [w.dtype for w in weights.installed] + self._autocast.dtypes()
        self.eps = max(torch.finfo(d).eps for d in dtypes if not _exact(d))
        self.count = len(weights.installed)
        self.start = len(weights.history or ()) - 1

    def module(self) -> StatelessModule:
        """The stateless module, or the copy if it is gone."""
        found = self._fmodel()
        return self._copy if found is None else found

    @contextmanager
    def surroundings(self) -> Iterator[None]:
        with torch.enable_grad(), math_attention, hooks_counted:
            with self._autocast.entered():
                yield

    def loss(
        self,
        tree: Tree,
        step: int,
        held: Held,
        params: list[Tensor],
        past: Mapping[int, Sequence[Tensor]],
        used: dict[int, Sequence[Tensor]],
    ) -> tuple[Tensor, Optimizers | None]:
        """The loss of a step on ``params``, which are those that are ``held`` and must
        still be the weights then; and what was written into the optimizer."""
        weights = tree.weights
        history = StepHistory(self.start + step, params, past, used)
        weights.history = history
        weights.exposed = False
        weights.install(params)
        module: Any = weights.root()
        before, memory = hooks.count, [address_of(p) for p in params]
        batch, override = self._batches[step], self._overrides.at(step)
        with self._handed.out(held.optimizer(params), params, override) as loan:
            loss = self._called(module, batch)
            written = loan.written()
        self.hooked = hooks.count > before
        # ``p.data = …`` leaves the object, and changes what it stands for
        kept = all(
            here == address_of(p) or not p.requires_grad
            for here, p in zip(memory, params)
        )
        if not kept or not all(map(is_, weights.installed, params)):
            raise RuntimeError(_ASSIGNED)
        return loss, written

    def _called(self, module: Any, batch: Any) -> Tensor:
        return self._loss_fn(module, batch)

    def whole(
        self,
        tree: Tree,
        step: int,
        start: Carry,
        past: Mapping[int, Sequence[Tensor]],
        keep_loss: bool = False,
    ) -> Played:
        """Runs a step and keeps all of its graph, which begins at ``start``.

        Args:
            tree: the module, with the step's modes and buffers.
            step: its number.
            start: parameters, settings, state and carried buffers, all leaves.
            past: earlier weights that the loss may ask for.
            keep_loss: for first order, too, the graph of the loss is needed.
        """
        held = Held.by(*lend(start, tree.weights.watched)[0])
        params = held.each()
        tree.set_buffers(held.buffers)
        loss, written = self.loss(tree, step, held, params, past, {})
        held = held.written(written, params)
        second = self._order == 2
        keep_loss |= bool(tree.carried_buffers())
        grads = self._optimizer._gradients(loss, params, second, second or keep_loss)
        if not second:
            grads = [g if g is None else leaf_of(g, False) for g in grads]
        made = self.updated(held, grads, tree.carried_buffers()).scheduled()
        norms = self.norms(loss, params, grads, made)
        return Played(packed([*made]), loss, norms, [])

    def draw(self, step: int) -> None:
        """Asks for the batch of a step."""
        self._batches[step]

    def check(
        self, tree: Tree, step: int, start: Carry, moment: Any, played: Played
    ) -> None:
        """Whether a step did what it should; a plain one does."""

    def gradients(self, loss: Tensor, params: list[Tensor]) -> list[Tensor | None]:
        """Gradients that can be differentiated."""
        return self._optimizer._gradients(loss, params, True)

    def updated(self, held: Held, grads: Grads, buffers: Buffers) -> Held:
        """What is held after an update by these gradients of the single parameters."""
        held, grads = self._called_back(held, grads)
        if self.shadow is None:
            return self._made(held, grads, buffers)
        each = held.each()
        self.shadow.begins(having(self._optimizer, held, each), each, grads)
        made = self._made(held, grads, buffers)
        each = made.each()
        self.shadow.ends(having(self._optimizer, made, each), each)
        return made

    def _called_back(self, held: Held, grads: Grads) -> tuple[Held, Grads]:
        """What the user's callback makes of gradients, and of the optimizer."""
        if self._callback is not None:
            # the callback may write into them; leaves don't allow that
            own = [g if g is None else g.clone() for g in grads]
            each = held.each()
            with self._handed.out(held.optimizer(each), each) as loan:
                grads = called_back(self._callback, own, self._optimizer._tasks)
                held = held.written(loan.written(), each)
        return held, grads

    def _made(self, held: Held, grads: Grads, buffers: Buffers) -> Held:
        params, joined = held.params, held.flat_groups
        optimizer = copy.copy(self._optimizer)
        optimizer.param_groups = [{**g, "params": []} for g in held.groups]
        optimizer.state, optimizer.shared = held.state, held.shared
        if optimizer._tasks is not None:
            new = optimizer._updated(params, grads, {})
            settings = [settings_of(g) for g in optimizer.param_groups]
            return held._replace(
                params=new,
                groups=settings,
                state=optimizer.state,
                shared=optimizer.shared,
                buffers=buffers,
            )
        if joined is not None and not joined.fit(grads):
            params = held.each()
            optimizer.state = joined.state_apart(held.state, held.params, params)
            joined = None
        if joined is None:
            joined = flat_groups(optimizer, params, grads, self.joins)
            if joined is not None:
                params = joined.joined(params)
                optimizer.state = joined.state(optimizer.state)
        if joined is not None:
            grads = joined.joined_grads(grads)
            optimizer = joined.optimizer(optimizer)
        new = optimizer._updated_as_is(params, grads, {})
        settings = [settings_of(g) for g in optimizer.param_groups]
        kept = optimizer.state, optimizer.shared
        return Held(new, settings, *kept, joined, held.schedule, buffers)

    def quick(
        self,
        tree: Tree,
        step: int,
        start: Carry,
        past: Mapping[int, Sequence[Tensor]],
        used: dict[int, Sequence[Tensor]],
        search: Search | None = None,
    ) -> Played:
        """Runs a step and drops its graph: the next carry's tensors are leaves that
        require grad where they would depend on something that does.

        Args:
            tree: as for :meth:`whole`.
            step: its number.
            start: as for :meth:`whole`.
            past: earlier weights that the loss may ask for.
            used: takes down which of them it did.
            search: takes down what the step captured.
        """
        start, lent = lend(start, tree.weights.watched)
        held = Held.by(*start)
        tree.set_buffers(held.buffers)
        if search is not None:
            guarded = search.begin(held.params, start.tensors)
            held = held._replace(params=guarded)
        params = held.each()
        loss, written = self.loss(tree, step, held, params, past, used)
        start = settle(start, lent)
        if search is None:
            grads = self._optimizer._gradients(loss, params, False)
        else:
            search.named.add(t for weights in used.values() for t in weights)
            grads = self._searched(loss, params, search)
        grads = [g if g is None else leaf_of(g, False) for g in grads]
        buffers = tree.carried_buffers()
        carry, roots, given = self._quick_update(start, grads, buffers, search, written)
        norms = []
        if search is not None:
            search.through(roots)
            norms = self.norms(loss, params, grads, Held.by(*carry))
            pairs = zip(self.largest or norms, norms)
            self.largest = [torch.maximum(a, b) for a, b in pairs]
        tree.set_buffers(unpacked(carry.layout[-1], carry.tensors))
        return Played(carry, leaf_of(loss, False), norms, given)

    @torch.no_grad()
    def norms(
        self,
        loss: Tensor,
        params: list[Tensor],
        grads: list[Tensor | None],
        made: Held,
    ) -> list[Tensor]:
        """See :class:`Played`."""
        found = [_norm([g for g in grads if g is not None], loss)]
        if not self._compiled or self._callback is not None:
            found.append(_norm([b - a for a, b in zip(params, made.each())], loss))
        return found

    def _searched(
        self, loss: Tensor, params: list[Tensor], search: Search
    ) -> list[Tensor | None]:
        """Gradients of the loss, and the search for what that captured.

        What only gradients depend on, by a hook or in the backward of somebody's own
        function, is looked for where there may be some; and once in any case, for a
        graph does not tell of all its hooks.
        """
        functions = search.through([loss]).functions
        deep = self._order == 2 and (self._search or functions or self.hooked)
        grads = self._optimizer._gradients(loss, params, deep)
        if deep:
            # backward runs in devices' own threads
            threads = bool(self.devices)
            search.through([g for g in grads if g is not None], threads)
            self._search = False
        return grads

    def _quick_update(
        self,
        start: Carry,
        grads: list[Tensor | None],
        buffers: dict[tuple[int, str], Tensor],
        search: Search | None,
        written: Optimizers | None,
    ) -> tuple[Carry, list[Tensor], list[tuple[Tensor, Tensor]]]:
        """The next carry, cut off, and the tensors by which the update may lead to
        something captured; the third as in :class:`Played`."""
        kept = {id(t) for t in start.tensors}
        if written is not None:
            held = Held.by(*start)
            start = packed([*held.written(written, held.each())])
        known_ones = all(id(t) in kept for t in start.tensors)
        before = [t.requires_grad for t in start.tensors]
        form = start.layout[FLAT_GROUPS] is None, _form(start.layout[1])
        key = tuple(before), tuple(g is None for g in grads), form
        if self._trusted and known_ones:
            known = self._flags.get(key) or self._flags_of(start, grads, buffers)
            found = self._untracked(start, grads, buffers, known)
            if found is not None:
                self._flags[key] = known
                return found[0], [*found[1], *buffers.values()], []
            self._trusted = False
        layout, tensors = self._tracked(start, grads, buffers, search)
        settled = [t if id(t) in kept else leaf_of(t) for t in tensors]
        users = {id(t) for t in start.tensors} - kept
        given = [(leaf, t) for leaf, t in zip(settled, tensors) if id(t) in users]
        return Carry(layout, settled), tensors, given

    def _tracked(
        self,
        start: Carry,
        grads: list[Tensor | None],
        buffers: dict[tuple[int, str], Tensor],
        search: Search | None = None,
    ) -> Carry:
        """The next carry, in the graph of the update."""
        # as in the whole graph, where updates and state depend on gradients
        if self._order == 2:
            grads = [g if g is None else g.requires_grad_() for g in grads]
        if search is not None:
            search.own.update(map(id, grads))
            if self._callback is not None:
                grads = search.guarded(grads)
        return packed([*self.updated(Held.by(*start), grads, buffers).scheduled()])

    def _flags_of(
        self,
        start: Carry,
        grads: list[Tensor | None],
        buffers: dict[tuple[int, str], Tensor],
    ) -> Flags:
        """Those of the next carry, which is thrown away: that all come by the same
        way keeps them equal to the last bit when they are computed again."""
        random = Random(self.devices)
        tensors = self._tracked(start, [*grads], buffers).tensors
        random.restore()
        return [(t.shape, t.requires_grad) for t in tensors]

    def _untracked(
        self,
        start: Carry,
        grads: list[Tensor | None],
        buffers: dict[tuple[int, str], Tensor],
        known: Flags,
    ) -> tuple[Carry, list[Tensor]] | None:
        """The next carry by an update without a graph, if ``known`` fits it; and what a
        scheduler made, with its graph."""
        settings = tensors_in(unpacked(start.layout[1], start.tensors))
        tracked = {id(t) for t in settings if _may_be_zero(t)}
        numbers = {id(t) for t in settings if t.dim() == 0} - tracked
        plain = [
            t if id(t) in tracked else t.item() if id(t) in numbers else t.detach()
            for t in start.tensors
        ]
        random = Random(self.devices)
        with torch.set_grad_enabled(bool(tracked)):
            held = Held.by(start.layout, plain)
            made = self.updated(held, grads, buffers)
        kept = {id(p): t for p, t in zip(plain, start.tensors)}
        groups = mapped(made.groups, float, lambda x: kept.get(id(x), x))
        layout, tensors = packed([*made._replace(groups=groups).scheduled()])
        if [t.shape for t in tensors] != [shape for shape, _ in known]:
            random.restore()
            return None
        kept.update((id(t), t) for t in start.tensors)
        roots = [t for t in tensors if t.grad_fn is not None and id(t) not in kept]
        settled = [
            kept[id(t)] if id(t) in kept else leaf_of(t, needs_grad or t.requires_grad)
            for t, (_, needs_grad) in zip(tensors, known)
        ]
        return Carry(layout, settled), roots if made.schedule is not None else []


def _form(groups: list[dict[str, Any]]) -> tuple[Any, ...]:
    """Which settings are tensors."""
    return tuple(
        (name, tuple(map(type, value)) if isinstance(value, tuple) else type(value))
        for group in groups
        for name, value in group.items()
        if type(value) not in (int, float, bool, str, type(None))
    )


def _exact(dtype: torch.dtype) -> bool:
    return not (dtype.is_floating_point or dtype.is_complex)


def _norm(tensors: list[Tensor], like: Tensor) -> Tensor:
    """That of all of them together, but for sparse ones."""
    dense = [t for t in tensors if t.layout is torch.strided]
    if not dense:
        return like.new_zeros(())
    like = whole(like)
    norms = [n.to(like) for n in norms_of(dense)]
    total: Tensor = torch.linalg.vector_norm(torch.stack(norms))
    return total


def _may_be_zero(setting: Tensor) -> bool:
    """Whether it must stay tracked: then zero does not mean off."""
    return setting.device.type != "cpu" or not bool(setting.all())


def _emptied(diffopt: DifferentiableOptimizer) -> DifferentiableOptimizer:
    """A copy without parameters, state or module."""
    twin = copy.copy(diffopt)
    twin._fmodel = None
    twin._truncation = None
    twin._shadow = twin.scheduler = twin._told = None
    twin.param_groups = []
    twin.state = [defaultdict(dict)]
    twin.shared = {}
    return twin


_ASSIGNED = (
    "loss_fn changed the fast weights: it assigned to a parameter, called the module "
    "with params=, or looked up rows of an embedding with max_norm that had become too "
    "long. A step of this unroll can't be run again. Use "
    "memory='full', or pass such weights to the layers as arguments."
)
