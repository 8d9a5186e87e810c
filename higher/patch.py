"""Stateless versions of modules."""

from __future__ import annotations

import copy
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any, TypeVar, cast

import torch
from torch import Tensor, nn

from higher import _fsdp
from higher._attention import attention_forward, twice_differentiable
from higher._checkpointing import watch
from higher._classic import _BufferType, _get_param_mapping, _modify_internally
from higher._clone import Cloner, Device, _internal_attrs
from higher._dropped import Dropped
from higher._dtensor import TASKS, differentiate_twice, refuse_distributed
from higher._embedding import EmbeddingForward, is_renormalized
from higher._embedding import watch as watch_embeddings
from higher._frozen import own_unless_layers
from higher._reference import origins_of
from higher._refuse import check_hooks, check_modules
from higher._second_order import math_attention, own_forward, own_hooks
from higher._stateless_class import stateless_class, take_params
from higher._tasks import module as tasked
from higher._tree import parameters_of
from higher._weights import FastWeights, ModuleDict, fast_weights
from higher._write_back import write_weights as write_back
from higher.utils import detached_copy

if TYPE_CHECKING:
    from typing_extensions import Self

__all__ = [
    "StatelessModule",
    "_BufferType",
    "_MonkeyPatchBase",
    "_internal_attrs",
    "_modify_internally",
    "buffer_sync",
    "make_functional",
    "monkeypatch",
    "write_back",
]


Model = TypeVar("Model", bound=nn.Module)


class StatelessModule(nn.Module):
    """A module that runs on fast weights.

    Made by ``monkeypatch``, never directly. It is also an instance of the
    original module's class; its submodules are of their own classes. For type checkers
    it has the original's type: ``assert isinstance(fmodel, StatelessModule)`` tells
    them of ``fmodel.parameters(time=0)``, ``fmodel.fast_params`` and the others.
    """

    def __new__(cls, *args: Any, **kwargs: Any) -> Any:
        """An ordinary module of the original's class: a slice of a container, say, which
        makes another of its own type, around layers with fast weights."""
        return _original_class(cls)(*args, **kwargs)

    def __init_subclass__(cls, **kwargs: Any) -> None:
        """Nothing: the original's class may demand arguments here."""

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Runs the module on ``params`` if given, which become the latest fast
        weights, or on the latest fast weights.

        Raises:
            ValueError: there are no fast weights, or ``params`` has a wrong length.
        """
        weights: FastWeights = self.__dict__["_higher"]
        if "params" in kwargs:
            take_params(self, kwargs)
        weights.sync()
        if weights.tasks is not None and weights.mapping is None:
            return tasked.map_tasks(self, tasked.call, *args, **kwargs)
        if weights.thread != threading.get_ident():
            watch(weights)
        if torch.is_grad_enabled():
            with math_attention if weights.track else twice_differentiable:
                return super().__call__(*args, **kwargs)
        return super().__call__(*args, **kwargs)

    def parameters(
        self, recurse: bool = True, time: int | None = None
    ) -> Iterator[nn.Parameter]:
        """Fast weights in the order of the original's ``parameters()``: tensors, which
        type checkers are told are parameters, as those of any module.

        Args:
            recurse: ``False`` leaves out those of submodules.
            time: 0 for the initial ones, t for those after step t; by default
                the latest.

        Raises:
            ValueError: there are none, or with ``track_higher_grads=False`` a time
                other than 0 and -1, which are both the latest.
            IndexError: there was no such step.
        """
        chosen = fast_weights(self).at(time)
        if recurse:
            return iter(cast("list[nn.Parameter]", chosen))
        own = {id(p) for p in self._parameters.values()}
        found = zip(chosen, fast_weights(self).installed)
        return (cast(nn.Parameter, w) for w, p in found if id(p) in own)

    @property
    def fast_params(self) -> list[Tensor] | None:
        """The latest fast weights, or None. Assigning is ``update_params``."""
        weights = fast_weights(self)
        weights.exposed = True
        return weights.latest()

    @fast_params.setter
    def fast_params(self, params: Iterable[Tensor]) -> None:
        self.update_params(params)

    @property
    def init_fast_params(self) -> list[Tensor]:
        """The initial fast weights.

        Raises:
            ValueError: they are not kept (``track_higher_grads=False``).
        """
        weights = fast_weights(self)
        if not weights.track:
            raise ValueError(
                "With track_higher_grads=False the initial fast weights are not kept."
            )
        weights.exposed = True
        return weights.at(0)

    @property
    def _fast_params(self) -> list[list[Tensor]] | None:
        weights = fast_weights(self)
        weights.exposed = True
        return weights.history

    @_fast_params.setter
    def _fast_params(self, history: list[list[Tensor]] | None) -> None:
        weights = fast_weights(self)
        weights.history = history
        weights.exposed = True
        if weights.present():
            weights.sync()

    @_fast_params.deleter
    def _fast_params(self) -> None:
        self._fast_params = None

    @property
    def _param_mapping(self) -> list[int]:
        return _get_param_mapping(self, [], [])

    @property
    def _track_higher_grads(self) -> bool:
        return self.track_higher_grads

    @_track_higher_grads.setter
    def _track_higher_grads(self, value: bool) -> None:
        self.track_higher_grads = value

    @property
    def track_higher_grads(self) -> bool:
        """Whether fast weights of all steps are kept, with their graph."""
        return fast_weights(self).track

    @track_higher_grads.setter
    def track_higher_grads(self, value: bool) -> None:
        if not isinstance(value, bool):
            raise ValueError(f"track_higher_grads must be a bool, not {value!r}.")
        fast_weights(self).track = value

    def update_params(self, params: Iterable[Tensor]) -> None:
        """Makes ``params`` the latest fast weights.

        Args:
            params: tensors in the order of the original's ``parameters()``.

        Raises:
            ValueError: there are too few or too many.
        """
        weights = fast_weights(self)
        weights.update(weights.given(params))

    def load_state_dict(
        self, state_dict: Mapping[str, Any], strict: bool = True, assign: bool = False
    ) -> Any:
        """Copies ``state_dict`` into fresh fast weights, detached leaves, and into
        the buffers; ``assign`` is ignored."""
        weights = fast_weights(self)
        weights.replace([detached_copy(w) for w in weights.installed])
        return super().load_state_dict(state_dict, strict)

    def _of_task(self, task: int) -> StatelessModule:
        """``fmodel.task(i)``: a stateless module that is one task's part of this one,
        as it is now. Its weights are in the graph of this one's, its buffers are views.

        Raises:
            ValueError: this module has no tasks.
            IndexError: there is no such task.
        """
        weights = fast_weights(self)
        i = tasked.checked_task(weights.tasks, task)
        weights.at(None)
        history = tasked.history_of_task(weights.history or [], i)
        one = _stateless(self, None, history, weights.track)
        own = zip(fast_weights(one).modules(), weights.modules())
        for m, stacked in own:
            for name, b in stacked._buffers.items():
                if b is not None:
                    dict.__setitem__(m._buffers, name, b[i])
        return one

    def requires_grad_(self, requires_grad: bool = True) -> Self:
        """Detaches the fast weights, or makes leaves that require grad of those
        that don't."""
        weights = fast_weights(self)
        weights.replace(
            [
                (
                    w
                    if w.requires_grad == requires_grad
                    else detached_copy(w).requires_grad_(requires_grad)
                )
                for w in weights.installed
            ]
        )
        return self

    def detach_(self) -> StatelessModule:
        """Begins a new window, together with ``diffopt.detach_()``: the latest fast
        weights become leaves with the same values, and buffers stay, without a graph.
        Weights of earlier times are let go, but for the initial ones.

        Returns:
            The module itself.
        """
        weights = fast_weights(self)
        weights.detach()
        for module in weights.modules():
            for name, b in module._buffers.items():
                if b is not None and b.requires_grad:
                    dict.__setitem__(module._buffers, name, b.detach())
        return self

    def zero_grad(self, set_to_none: bool = True) -> None:
        """Clears ``grad`` of the fast weights that are leaves; others have none."""
        for w in fast_weights(self).installed:
            if w.is_leaf and w.grad is not None:
                w.grad = None if set_to_none else torch.zeros_like(w)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        """``to``, ``double``, ``cuda``: moves the fast weights within the graph."""
        weights = fast_weights(self)
        weights.replace([fn(w) for w in weights.installed])
        for module in weights.modules():
            for name, buffer in module._buffers.items():
                if buffer is not None:
                    module._buffers[name] = fn(buffer)
        return self

    def __copy__(self) -> StatelessModule:
        new = object.__new__(type(self))
        object.__setattr__(new, "__dict__", ModuleDict(self.__dict__))
        return new

    def __deepcopy__(self, memo: dict[int, Any]) -> StatelessModule:
        """A copy whose fast weights, at all times, are detached leaves."""
        weights = fast_weights(self)
        kept = [p for p in weights.history or () if not isinstance(p, Dropped)]
        for t in [t for params in kept for t in params]:
            if id(t) not in memo:
                memo[id(t)] = detached_copy(t)
        history = copy.deepcopy(weights.history, memo)
        return _restored(self, history, weights.track, weights.tasks)

    def __reduce_ex__(self, protocol: Any) -> Any:
        """Pickled like its plain module; fast weights become leaves."""
        weights = fast_weights(self)
        return _restored, (
            _plain(self),
            weights.history,
            weights.track,
            weights.tasks,
        )


_MonkeyPatchBase = StatelessModule


def monkeypatch(
    module: Model,
    device: Device = None,
    copy_initial_weights: bool = True,
    track_higher_grads: bool = True,
    tasks: int | None = None,
) -> Model:
    """A stateless version of ``module`` with its own fast weights and buffers.

    Args:
        module: any module; it is not changed, now or later.
        device: where fast weights and buffers go; by default each stays where it is.
        copy_initial_weights: whether the fast weights start as detached copies;
            ``False``: as copies in the graph of ``module.parameters()``. Parameters
            that don't require grad are copied if they are small; the memory of large
            ones is shared until they are written into.
        track_higher_grads: ``False`` keeps the latest fast weights only.
        tasks: as for ``higher.innerloop_ctx``: weights and buffers get a leading
            dimension of that size, and calls are mapped over it.

    Raises:
        ValueError: ``tasks`` is not a positive number.
        TypeError: a module that can't be made stateless, or a parameter with hooks;
            the message says what to do.

    Examples:
        >>> fmodel = higher.monkeypatch(torch.nn.Linear(3, 1))
        >>> zeros = [torch.zeros(1, 3), torch.ones(1)]
        >>> fmodel(torch.randn(2, 3), params=zeros)
        tensor([[1.],
                [1.]])
    """
    check_modules(module)
    if not isinstance(module, StatelessModule):
        check_hooks(module)
    if tasked.checked_tasks(tasks) is not None:
        refuse_distributed(_originals(module), TASKS)
    if isinstance(module, StatelessModule):
        tasked.check_no_tasks(fast_weights(module))
    held, watched = own_unless_layers(_originals(module), module)
    with torch.set_grad_enabled(not copy_initial_weights):
        initial = [
            _copied(p, device, tasks) if p.requires_grad else _frozen(p, device, tasks)
            for p in held
        ]
    fmodule = _stateless(module, device, [initial], track_higher_grads, tasks)
    fast_weights(fmodule).watched = watched
    if tasks is not None:
        tasked.stack_buffers(fast_weights(fmodule).modules(), tasks)
    return cast(Model, fmodule)  # of its class, too


def make_functional(
    module: Model,
    encapsulator: Callable[[Model, Model], Any] | None = None,
) -> Model:
    """A stateless version of ``module`` that has no fast weights yet.

    Args:
        module: any module; it is not changed, now or later.
        encapsulator: called once at the end, ``encapsulator(fmodule, module)``.

    Raises:
        TypeError: a module that can't be made stateless; the message says what to do.

    Examples:
        >>> fmodel = higher.patch.make_functional(torch.nn.Linear(1, 1, bias=False))
        >>> fmodel(torch.ones(1, 1), params=[torch.full((1, 1), 2.0)])
        tensor([[2.]])
    """
    check_modules(module)
    fmodule = cast(Model, _stateless(module, None, None, True))
    if encapsulator is not None:
        encapsulator(fmodule, module)
    return fmodule


def buffer_sync(module: nn.Module, fmodule: nn.Module, device: Device = None) -> None:
    """Copies the buffers of ``module`` into ``fmodule``, once.

    Args:
        module: where from.
        fmodule: where to; a stateless version of it.
        device: where the copies go; by default they stay.

    Raises:
        KeyError: ``fmodule`` lacks a submodule or a buffer of ``module``.

    Examples:
        >>> norm = torch.nn.BatchNorm1d(3)
        >>> fmodel = higher.monkeypatch(norm)
        >>> _ = norm(torch.randn(8, 3))  # moves its running mean
        >>> higher.patch.buffer_sync(norm, fmodel)
        >>> bool((fmodel.running_mean == norm.running_mean).all())
        True
    """
    for name, buffer in module._buffers.items():
        if name not in fmodule._buffers:
            raise KeyError(f"{type(fmodule).__name__} has no buffer {name!r}.")
        if buffer is not None:
            buffer = buffer.clone() if device is None else buffer.to(device, copy=True)
        fmodule._buffers[name] = buffer
    for name, child in module._modules.items():
        if name not in fmodule._modules:
            raise KeyError(f"{type(fmodule).__name__} has no submodule {name!r}.")
        fchild = fmodule._modules[name]
        if child is not None and fchild is not None:
            buffer_sync(child, fchild, device)


def _stateless(
    module: nn.Module,
    device: Device,
    history: list[list[Tensor]] | None,
    track: bool,
    tasks: int | None = None,
) -> StatelessModule:
    """The stateless version of ``module`` with the given fast weights."""
    root_class = stateless_class(
        StatelessModule, _original_class(type(module)), tasks is not None
    )

    def own_class(m: nn.Module) -> type[nn.Module]:
        return root_class if m is module else _original_class(type(m))

    originals = _originals(module)
    if track:
        differentiate_twice(originals)
    weights = FastWeights(history[-1] if history else originals, track, tasks)
    weights.history = history
    weights.origins = origins_of(module)
    fmodule = Cloner(weights, originals, device, own_class).clone(module)
    fmodule.__dict__["_higher"] = weights
    for m in weights.modules():
        forward = own_forward(m, weights) or attention_forward(m, weights)
        if is_renormalized(m):
            forward = EmbeddingForward(m, weights)
        if tasks is not None and m is not fmodule:
            forward = tasked.Guard(m, weights, forward)
        if forward is not None:
            m.__dict__["forward"] = forward
        own_hooks(m)
    watch(weights)
    watch_embeddings(weights)
    return cast(StatelessModule, fmodule)


def _originals(module: nn.Module) -> list[Tensor]:
    if isinstance(module, StatelessModule):
        return fast_weights(module).installed
    return parameters_of(module)


def _plain(fmodule: StatelessModule) -> nn.Module:
    """The plain module that holds the latest fast weights."""
    installed = fast_weights(fmodule).installed
    cloner = Cloner(
        FastWeights(installed, True),
        installed,
        None,
        lambda m: _original_class(type(m)),
        plain=True,
    )
    return cloner.clone(fmodule)


def _restored(
    module: nn.Module,
    history: list[list[Tensor]] | None,
    track: bool,
    tasks: int | None = None,
) -> StatelessModule:
    return _stateless(module, None, history, track, tasks)


def _copied(p: Tensor, device: Device, tasks: int | None) -> Tensor:
    """The fast weight that a trainable parameter starts as: in its graph, or a leaf
    where gradients are off."""
    if tasks is not None:
        p, device = tasked.stacked(p if device is None else p.to(device), tasks), None
        return p if torch.is_grad_enabled() else p.requires_grad_()
    new = p.clone() if device is None else p.to(device, copy=True)
    return new if torch.is_grad_enabled() else new.requires_grad_()


def _frozen(p: Tensor, device: Device, tasks: int | None) -> Tensor:
    p = p if device is None else p.to(device)
    return p if tasks is None else tasked.shared(p, tasks)


def _original_class(cls: type[nn.Module]) -> type[nn.Module]:
    if issubclass(cls, StatelessModule):
        return cls.__bases__[1]
    return _fsdp.original_class(cls)
