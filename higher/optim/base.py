"""The base class of differentiable optimizers."""

from __future__ import annotations

import copy
import weakref
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, TypeAlias

import torch
from torch import Tensor, nn

from higher._apart import apart, test_mode_leaf
from higher._dtensor import refuse_loss_parallel
from higher._frozen import renew_buffers
from higher._structure import check_tree
from higher._tasks import optimizer as tasked
from higher._truncation import Truncation
from higher._weights import fast_weights
from higher._windows import detach
from higher.optim.arguments import GradCallback, called_back, positions_in
from higher.optim.copies import deep_copied
from higher.optim.dicts import load_state_dict, state_dict
from higher.optim.elements import check_elements
from higher.optim.flat_groups import by_element, flat_groups
from higher.optim.given_grads import checked_grads
from higher.optim.gradients import gradients
from higher.optim.original import OriginalSettings
from higher.optim.schedule import Schedule
from higher.optim.settings import apply_override, as_setting
from higher.optim.state import (
    Device,
    Mover,
    OptimizerState,
    branched_state,
    copied_settings,
    copy_structure,
    is_used,
    replaced,
    settings_of,
    shared_state,
)
from higher.optim.updates import updated_as_is

if TYPE_CHECKING:
    from higher._check import Shadow, Shadows

GroupedGrads: TypeAlias = "list[list[Tensor | None]]"
"""``grouped_grads[g][i]``: gradient of ``param_groups[g]["params"][i]``, or None."""


class DifferentiableOptimizer:
    """An optimizer whose steps are part of the autograd graph.

    Subclasses override ``_update``. It must be out-of-place on tensors and
    write only into ``self.param_groups``, ``self.state`` and ``self.shared``.

    Attributes:
        param_groups: settings of each group, and its ``"params"``: fast weights.
        state: ``state[g][i]`` is a dict, the state of ``param_groups[g]["params"][i]``.
        shared: state that belongs to no parameter.
        defaults: the original optimizer's default settings.

    Examples:
        >>> class Half(higher.optim.DifferentiableOptimizer):
        ...     def _update(self, grouped_grads, **kwargs):
        ...         for group, grads in zip(self.param_groups, grouped_grads):
        ...             for i, (p, g) in enumerate(zip(group["params"], grads)):
        ...                 if g is not None:
        ...                     group["params"][i] = p - group["lr"] / 2 * g
        >>> w = torch.ones(2, requires_grad=True)
        >>> diffopt = Half(torch.optim.SGD([w], lr=1.0), [w])
        >>> diffopt.step(w.sum(), params=[w])[0].tolist()
        [0.5, 0.5]
    """

    _group_defaults: ClassVar[Mapping[str, Any]] = {}
    """Settings that an optimizer made by an older torch may lack."""
    _choices: ClassVar[Mapping[str, tuple[str, ...]]] = {}
    """Words that a setting may be. A newer torch may know more: they are refused."""
    _constructor_settings: ClassVar[tuple[str, ...]] = ()
    """Settings that are the constructor's, whatever an original's group says."""
    _complex_as_real: ClassVar[bool] = False
    """Whether ``_update`` is handed complex tensors as pairs of reals."""
    _elementwise: ClassVar[bool] = False
    """Whether ``_update``, that of the very class, treats each element of a parameter
    by itself: small parameters may then be updated as one."""
    _state_from_constructor: ClassVar[bool] = False
    """Whether the original's constructor fills its state already. An override made
    before the first step then starts from fresh state."""
    _order: int = 2
    """1 if inner gradients are constants of the outer problem."""
    _truncation: Truncation | None = None
    scheduler: Schedule | None = None
    """The branch of a scheduler that ``innerloop_ctx`` was given."""
    _told: OriginalSettings | None = None
    _steps_made: int = 0
    """Before there was a truncation."""
    _tasks: int | None = None
    """Size of the leading dimension of tasks of weights and state, if they have one."""
    _shadow: Shadow | Shadows | None = None
    """The original optimizer beside this one (``check=True``)."""
    _carried: ClassVar[tuple[str, ...]] = ()
    """Attributes of the original optimizer that ``_update`` finds in ``shared``."""

    param_groups: list[dict[str, Any]]
    state: list[defaultdict[int, dict[str, Any]]]
    shared: dict[str, Any]
    defaults: dict[str, Any]

    def __init__(
        self,
        other: torch.optim.Optimizer,
        reference_params: Iterable[Tensor],
        fmodel: nn.Module | None = None,
        device: Device = None,
        override: Mapping[str, Any] | None = None,
        grad_callback: GradCallback | None = None,
        track_higher_grads: bool = True,
        **kwargs: Any,
    ) -> None:
        """Branches off the present state of ``other``, which is not changed.

        Args:
            other: the original optimizer.
            reference_params: parameters in the order in which ``step`` takes and
                returns them; those of ``other`` must be among them.
            fmodel: the stateless module whose fast weights ``step`` updates.
            device: where state goes; by default it stays where it is.
            override: setting name -> list of one value, or of one per group.
            grad_callback: maps the list of gradients (None where there is none)
                to the list that is used.
            track_higher_grads: ``False`` keeps no graph across steps.
            **kwargs: for subclasses.

        Raises:
            ValueError: ``other`` holds a parameter that is not a reference one,
                or ``override`` does not fit.
        """
        reference = list(reference_params)
        self._original: Callable[[], torch.optim.Optimizer | None] = weakref.ref(other)
        self._reference_count = len(reference)
        self._group_to_param_list = positions_in(other, reference)
        self._kept_in_groups: set[str] = set()  # what steps write there
        self._fmodel = fmodel
        self._grad_callback = grad_callback
        self._track_higher_grads = track_higher_grads
        self._tasks = None if fmodel is None else fast_weights(fmodel).tasks
        self.defaults = dict(other.defaults)
        held = None if fmodel is None else fast_weights(fmodel).latest()
        places = [k for positions in self._group_to_param_list for k in positions]
        params = (p for g in other.param_groups for p in g["params"])
        weights = held or reference
        move = Mover(device, params, (weights[k] for k in places))
        self.param_groups = self._branched_groups(other, weights, move)
        if override is not None:
            self._apply_override(override)
        self.state = branched_state(other, move)
        if override and self._state_from_constructor and not is_used(self.state):
            self.state = [defaultdict(dict) for _ in self.param_groups]
        self.shared = shared_state(other, self._carried, move)
        if self._tasks is not None:
            tasked.stack_state(self, self._tasks, override or ())

    def __repr__(self) -> str:
        """Its groups and their settings, as torch shows them."""
        return torch.optim.Optimizer.__repr__(self)  # type: ignore[arg-type]

    def __deepcopy__(self, memo: dict[int, Any]) -> DifferentiableOptimizer:
        """A copy with its own module, whose tensors are detached leaves."""
        copied: DifferentiableOptimizer = deep_copied(self, memo)
        return copied

    def _update(self, grouped_grads: GroupedGrads, **kwargs: Any) -> None:
        """Replaces ``self.param_groups[g]["params"][i]`` by the updated parameters.

        Args:
            grouped_grads: ``grouped_grads[g][i]`` is the gradient of
                ``self.param_groups[g]["params"][i]``, or None: then it is skipped.
            **kwargs: what ``step`` was given beyond its own arguments.
        """
        raise NotImplementedError(
            f"{type(self).__name__} must override _update(self, grouped_grads)."
        )

    def step(
        self,
        loss: Tensor | None = None,
        params: Iterable[Tensor] | None = None,
        override: Mapping[str, Any] | None = None,
        grad_callback: GradCallback | None = None,
        *,
        grads: Iterable[Tensor | None] | None = None,
        **kwargs: Any,
    ) -> list[Tensor]:
        """Takes one step down the gradient of ``loss``.

        Args:
            loss: a scalar that depends on the parameters; with ``tasks=``, one for
                each task, of shape (tasks,).
            params: the parameters to update, in the order of the reference
                parameters. Default: the latest fast weights of ``fmodel``.
            override: settings from this step on, as at construction.
            grad_callback: used instead of the one given at construction.
            grads: instead of ``loss``, gradients by the parameters in their order (None
                where there is none), such as the sum of those of several losses, with
                their graph (``create_graph=True``).
            **kwargs: passed to ``_update``.

        Returns:
            The updated parameters in the same order, each with its ``grad_fn``
            (leaves in test mode). ``fmodel``'s fast weights are these from now on.

        Raises:
            ValueError: there is no ``fmodel`` and no ``params``, ``override`` or
                ``grads`` do not fit, or there is not one loss for each task.
            RuntimeError: the loss does not depend on any of the parameters, or
                ``grads`` carry no graph.
        """
        if (loss is None) == (grads is None):
            raise ValueError("step needs a loss or grads=..., one of the two.")
        if self._told is not None:
            self._told.look()
        if override is not None:
            self._apply_override(override)
        old = self._latest(params)
        second = self._track_higher_grads and self._order == 2
        if second:
            refuse_loss_parallel()
        truncation = self._truncation if self._track_higher_grads else None
        gated = truncation is not None and truncation.steps is not None
        if truncation is not None and gated:
            truncation.step_begins([old, self._held()])
        # of first order, the loss may still be part of the outer one
        retain = True if self._track_higher_grads else None
        with torch.set_grad_enabled(self._track_higher_grads):
            if loss is not None:
                earlier = self._earlier() if params is None else ()
                found = self._gradients(loss, old, second, retain, earlier)
            else:
                found = checked_grads(grads or (), old, second, self._earlier())
            if not second:
                found = [g if g is None else g.detach() for g in found]
            callback = grad_callback or self._grad_callback
            if callback is not None:
                found = called_back(callback, found, self._tasks)
            if self._shadow is not None:
                self._shadow.begins(self, old, found)
            new = self._updated(old, found, kwargs)
            if self._shadow is not None:
                self._shadow.ends(self, new, kwargs)
            if truncation is not None and gated:
                new, held = truncation.step_taken([new, self._held()])
                self._hold(new, held)
            elif truncation is not None:
                truncation.bare_steps(1)
            else:
                self._steps_made += 1
            if self._track_higher_grads:
                # behind a boundary, or made by itself, what has changed is apart already
                alone = gated or by_element(self)
                only = {id(p) for p in old} if alone else None
                made, new = new, apart(new, only)
                self._renew(made, new)
        if not self._track_higher_grads:
            made, new = new, [test_mode_leaf(n, o) for n, o in zip(new, old)]
            self._renew(made, new)
        if self._fmodel is not None:
            weights = fast_weights(self._fmodel)
            check_tree(weights)
            weights.watched.check()
            if self._track_higher_grads:
                renew_buffers(weights.modules())
                made, new = new, weights.watched.renewed(new)
                self._renew(made, new)
            fast_weights(self._fmodel).update(new)
            if truncation is not None:
                truncation.forget(fast_weights(self._fmodel).history or [])
        return new

    def _renew(self, old: list[Tensor], new: list[Tensor]) -> None:
        """New tensors for parameters, also where the state holds the very same."""
        for group, positions in zip(self.param_groups, self._group_to_param_list):
            group["params"] = [new[k] for k in positions]
        renewed = {id(o): n for o, n in zip(old, new) if n is not o}
        if renewed:
            for states in self.state:
                for i, slots in states.items():
                    states[i] = replaced(slots, renewed)
            self.shared = replaced(self.shared, renewed)

    def update(
        self,
        params: Sequence[Tensor],
        grads: Sequence[Tensor | None],
        state: OptimizerState,
        **kwargs: Any,
    ) -> tuple[list[Tensor], OptimizerState]:
        """One update as a pure function: nothing that is passed or held changes.

        Args:
            params: parameters in the order of the reference parameters.
            grads: their gradients, or None.
            state: settings and state before the update, see ``snapshot``.
            **kwargs: passed to ``_update``.

        Returns:
            The updated parameters, and settings and state after the update.
        """
        twin = copy.copy(self)
        twin.restore(state)
        new = twin._updated(list(params), list(grads), kwargs)
        return new, OptimizerState(
            [settings_of(g) for g in twin.param_groups], twin.state, twin.shared
        )

    def snapshot(self) -> OptimizerState:
        """Settings and state as they are now: containers copied, tensors shared."""
        seen: dict[int, Any] = {}
        return OptimizerState(
            [copy_structure(settings_of(g), seen) for g in self.param_groups],
            [copy_structure(s, seen) for s in self.state],
            copy_structure(self.shared, seen),
        )

    def restore(self, state: OptimizerState) -> None:
        """Goes back to what ``snapshot`` returned, which stays as it is."""
        seen: dict[int, Any] = {}
        self.param_groups = [
            {**copy_structure(settings, seen), "params": list(group["params"])}
            for settings, group in zip(state.groups, self.param_groups)
        ]
        self.state = [copy_structure(s, seen) for s in state.state]
        self.shared = copy_structure(state.shared, seen)

    def _held(self) -> list[Any]:
        return [[settings_of(g) for g in self.param_groups], self.state, self.shared]

    def _hold(self, params: list[Tensor], held: list[Any]) -> None:
        """Takes over parameters, and what ``_held`` returns."""
        groups, self.state, self.shared = held
        self.param_groups = [
            {**settings, "params": [params[k] for k in positions]}
            for settings, positions in zip(groups, self._group_to_param_list)
        ]

    def detach_(self) -> DifferentiableOptimizer:
        """Begins a new window, together with ``fmodel.detach_()``: state and settings
        keep their values, and nothing flows back through them into earlier steps.

        Settings that are leaves (a learned ``lr``) stay as they are. One that was
        computed (``raw.exp()``) is a constant from now on: give it anew in ``override``.

        Returns:
            The optimizer itself.
        """
        detach(self)
        return self

    def _earlier(self) -> list[tuple[int, Tensor]]:
        weights = None if self._fmodel is None else fast_weights(self._fmodel)
        found = [] if weights is None else weights.earlier
        return [(k, t) for k, t in found if t.requires_grad]

    def state_dict(self, keep_graph: bool = False) -> dict[str, Any]:
        """Settings and state in the form of ``torch.optim.Optimizer.state_dict``, for an
        original optimizer or a differentiable one to load.

        There is a key ``"shared"`` beside torch's two if the optimizer keeps state
        outside its parameters.

        Args:
            keep_graph: the present tensors, with their graphs, instead of detached
                copies.
        """
        return state_dict(self, keep_graph)

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Takes over settings and state, also from an original optimizer's
        ``state_dict``.

        Raises:
            ValueError: the groups differ in number or size, or the number of tasks.
        """
        load_state_dict(self, state_dict)

    def _branched_groups(
        self, other: torch.optim.Optimizer, weights: Sequence[Tensor], move: Mover
    ) -> list[dict[str, Any]]:
        """``other``'s groups, with the latest weights for its parameters."""
        copied = copied_settings(other.param_groups, other.defaults, move.copy)
        return [
            {
                **self._group_defaults,
                **settings,
                **self._told_to_constructor(),
                "params": [weights[k] for k in positions],
            }
            for settings, positions in zip(copied, self._group_to_param_list)
        ]

    def _told_to_constructor(self) -> dict[str, Any]:
        return {
            name: as_setting(self.defaults[name])
            for name in self._constructor_settings
            if name in self.defaults
        }

    def _apply_override(self, override: Mapping[str, Any]) -> None:
        check_elements(self, override)
        apply_override(self.param_groups, override, self._group_defaults)
        if self._tasks is not None:
            for name in override:
                values = [group[name] for group in self.param_groups]
                tasked.check_setting(name, values, self._tasks)
        for name, values in override.items():
            if name in self.defaults and len(values) == 1:
                self.defaults[name] = self.param_groups[0][name]

    def _latest(self, params: Iterable[Tensor] | None) -> list[Tensor]:
        if params is None and self._fmodel is not None:
            params = fast_weights(self._fmodel).latest()
        if params is None:
            raise ValueError(
                "step needs params: this optimizer has no fmodel, or one without "
                "fast weights. Pass step(loss, params=...)."
            )
        latest = list(params)
        if len(latest) != self._reference_count:
            raise ValueError(
                f"step was given {len(latest)} parameters; its reference "
                f"parameters are {self._reference_count}."
            )
        return latest

    def _gradients(
        self,
        loss: Tensor,
        params: list[Tensor],
        create_graph: bool,
        retain_graph: bool | None = None,
        earlier: Sequence[tuple[int, Tensor]] = (),
    ) -> list[Tensor | None]:
        """Gradient of ``loss`` with respect to each parameter that requires grad, also
        where it was ``earlier`` another tensor."""
        return gradients(self, loss, params, create_graph, retain_graph, earlier)

    def _updated(
        self,
        params: list[Tensor],
        grads: list[Tensor | None],
        kwargs: Mapping[str, Any],
    ) -> list[Tensor]:
        """Runs ``_update`` on the given parameters; the new ones in their order."""
        held = list(params)
        for group, positions in zip(self.param_groups, self._group_to_param_list):
            for k, p in zip(positions, group["params"]):
                held[k] = p
        self._renew(held, params)
        if self._tasks is not None:
            return tasked.updated(
                *(self, params, grads, kwargs),
                lambda optimizer: optimizer._updated_at_once(params, grads, kwargs),
            )
        return self._updated_at_once(params, grads, kwargs)

    def _updated_at_once(
        self,
        params: list[Tensor],
        grads: list[Tensor | None],
        kwargs: Mapping[str, Any],
    ) -> list[Tensor]:
        """The same, small parameters being joined."""
        joined = flat_groups(self, params, grads)
        if joined is not None:
            return joined.updated(self, params, grads, kwargs)
        return self._updated_as_is(params, grads, kwargs)

    def _updated_as_is(
        self,
        params: list[Tensor],
        grads: list[Tensor | None],
        kwargs: Mapping[str, Any],
    ) -> list[Tensor]:
        """The same without joining any, for parameters as they are."""
        return updated_as_is(self, params, grads, kwargs)
