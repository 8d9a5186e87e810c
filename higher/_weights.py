"""The fast weights of a stateless module and the places in its tree that hold them."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from operator import is_
from typing import Any

from torch import Tensor, nn

from higher._apart import given
from higher._carry import leaf_of
from higher._dropped import drop
from higher._frozen import Watched
from higher._tree import modules_of
from higher.utils import detached_copy

Place = tuple[Any, Any]
"""A dict or list, and the key or index at which it holds a fast weight."""


class FastWeights:
    """Fast weights, their history, and where the module's tree holds them.

    Attributes:
        history: the weights after each step, ``history[0]`` the initial ones; only
            the latest in test mode; None while there are none.
        track: whether the history is kept.
        installed: the weights that the tree holds now. Never changed in place.
        places: for each weight, where the tree holds it.
        rewrites: called after each change, for holders that can't be assigned to.
        root: the stateless module, which holds these; not held in turn, so that
            weights and graphs go with the last reference to it.
        replaying: whether a part of the module runs again on earlier weights.
        saved_buffers: copies of buffers, for that.
        thread: the thread that used the module last.
        origins: what each weight stands for, in the module that was made stateless.
        tasks: size of the leading dimension of tasks, if the weights have one.
        mapping: the level of ``torch.func.vmap`` at which the module runs on one
            task's weights; None outside.
        exposed: whether somebody was handed ``history`` or a list in it, and may
            have changed it.
        watched: frozen weights whose memory is the original's.
        added: where parameters were put that the module did not have.
        earlier: weights by their position that were replaced since the last step, and
            that its loss may have been computed with.
        first: the initial weights, where others have superseded them.
        stepping: whether a step takes its gradient.
    """

    __slots__ = (
        *("history", "track", "installed", "places", "rewrites", "root"),
        *("replaying", "saved_buffers", "thread", "exposed", "origins"),
        *("watched", "added", "earlier", "first", "stepping"),
        *("tasks", "mapping", "__weakref__"),
    )

    def __init__(
        self, originals: Sequence[Tensor], track: bool, tasks: int | None = None
    ) -> None:
        self.tasks = tasks
        self.mapping: int | None = None
        self.history: list[list[Tensor]] | None = None
        self.track = track
        self.installed = list(originals)
        self.places: list[list[Place]] = [[] for _ in originals]
        self.rewrites: list[Callable[[Sequence[Tensor]], None]] = []
        self.root: Callable[[], nn.Module | None] = lambda: None
        self.replaying = False
        self.saved_buffers: dict[Any, Any] = {}
        self.thread = 0
        self.exposed = False
        self.origins: list[list[weakref.ref[Tensor]]] = [[] for _ in originals]
        self.watched = Watched()
        self.added: list[tuple[dict[str, Any], str]] = []
        self.earlier: list[tuple[int, Tensor]] = []
        self.first: list[Tensor] | None = None
        self.stepping = False

    def modules(self) -> list[nn.Module]:
        """Every module of the tree."""
        root = self.root()
        return [] if root is None else modules_of(root)

    def present(self) -> bool:
        """Whether there are weights; a history of ``[[]]`` says that there are none."""
        if not self.history:
            return False
        last = self.history[-1]
        return not (self.installed and isinstance(last, list) and not last)

    def latest(self) -> list[Tensor] | None:
        if self.replaying:
            return self.installed
        return self.history[-1] if self.history and self.present() else None

    def at(self, time: int | None) -> list[Tensor]:
        """The weights after step ``time``; the latest for None."""
        if not self.history or not self.present():
            raise ValueError(_NO_WEIGHTS)
        if not self.track and time not in (None, 0, -1):
            raise ValueError(
                "With track_higher_grads=False only the latest fast weights are "
                f"kept: time can be 0 or -1, not {time}."
            )
        if self.replaying and time is None:
            return self.installed
        if time == 0 and self.first is not None and self.track:
            return self.first
        try:
            return self.history[-1 if time is None else time]
        except IndexError:
            last = len(self.history) - 1
            raise IndexError(
                f"There are fast weights for time 0 to {last}, not {time}."
            ) from None

    def given(self, params: Iterable[Tensor]) -> list[Tensor]:
        """Weights that come from outside, apart from what they were made from."""
        if not self.track:
            return self._checked(params)
        known = [w for w in self.history or () if isinstance(w, list)]
        return given(self._checked(params), [self.installed, *known])

    def update(self, params: Iterable[Tensor]) -> None:
        """Makes ``params`` the latest fast weights."""
        latest = self._checked(params)
        if not self.replaying:
            if self.history is None:
                self.history = []
            if not self.track or not self.present():
                self.history.clear()
            self.history.append(latest)
            self.earlier = []
        self.install(latest)

    def replace(self, params: Iterable[Tensor]) -> None:
        """Puts ``params`` in the place of the latest fast weights."""
        latest = self._checked(params)
        if self.history and not self.replaying:
            self.history[-1] = latest
        self.earlier = [
            (k, t) for k, t in self.earlier if latest[k] is self.installed[k]
        ]
        self.install(latest)

    def supersede(self, index: int, weight: Tensor) -> None:
        """Puts what the forward has made of a weight in its place; a loss may have been
        computed with both."""
        old = self.installed[index]
        if self.history and len(self.history) == 1 and self.first is None:
            self.first = list(self.history[0])
        earlier = [*self.earlier, (index, old)]
        self.assign(index, weight)
        self.earlier = earlier

    @contextmanager
    def taking_step(self) -> Iterator[None]:
        """A step takes its gradient."""
        self.stepping = True
        try:
            yield
        finally:
            self.stepping = False

    def detach(self) -> None:
        """The latest ones as leaves; of earlier times the first are kept."""
        if self.history:
            drop(self.history, len(self.history) - 2, _DETACHED)
        self.replace([leaf_of(w) for w in self.installed])

    def assign(self, index: int, weight: Any) -> None:
        """Replaces one of the latest fast weights."""
        if not isinstance(weight, Tensor):
            raise TypeError(
                "Only a tensor can be assigned to the name of a parameter of a "
                f"stateless module, not {type(weight).__name__}."
            )
        latest = list(self.installed)
        latest[index] = weight
        self.replace(latest)

    def install(self, params: Sequence[Tensor]) -> None:
        """Writes ``params`` into the tree."""
        write = dict.__setitem__
        for new, old, places in zip(params, self.installed, self.places):
            if new is not old:
                for holder, key in places:
                    if type(holder) is WeightDict:
                        write(holder, key, new)
                    else:
                        holder[key] = new
        self.installed = list(params)
        for rewrite in self.rewrites:
            rewrite(self.installed)

    def sync(self) -> None:
        """Takes in what was written into ``history`` directly."""
        if not self.history or not self.present():
            raise ValueError(_NO_WEIGHTS)
        if self.exposed and not self.replaying:
            latest = self._checked(self.history[-1])
            if not all(map(is_, latest, self.installed)):
                self.install(latest)

    def fits(self, params: object) -> bool:
        """Whether ``params`` looks like a list of these weights."""
        return (
            isinstance(params, (list, tuple))
            and len(params) == len(self.installed)
            and all(
                isinstance(p, Tensor) and p.shape == q.shape
                for p, q in zip(params, self.installed)
            )
        )

    def _checked(self, params: Iterable[Tensor]) -> list[Tensor]:
        checked = list(params)
        if len(checked) != len(self.installed):
            raise ValueError(
                f"{len(checked)} fast weights given; the module has "
                f"{len(self.installed)} parameters."
            )
        return checked


_DETACHED = "The fast weights of times before detach_() are not kept, but the first."
_NO_WEIGHTS = (
    "This stateless module has no fast weights: pass fmodel(..., params=...), or "
    "fmodel.update_params(params) first."
)


def fast_weights(module: nn.Module) -> FastWeights:
    """Those of a stateless module."""
    weights: FastWeights = module.__dict__["_higher"]
    return weights


class WeightDict(dict[str, Any]):
    """A module's ``_parameters``: assigning to a name assigns a fast weight."""

    __slots__ = ("weights", "index")

    def __init__(
        self, weights: FastWeights, index: dict[str, int], held: dict[str, Any]
    ) -> None:
        super().__init__(held)
        self.weights = weakref.ref(weights)
        self.index = index

    def __setitem__(self, name: str, value: Any) -> None:
        weights = self.weights()
        if weights is not None and name in self.index:
            weights.assign(self.index[name], value)
        else:
            if weights is not None:
                weights.added.append((self, name))
            super().__setitem__(name, value)

    def __delitem__(self, name: str) -> None:
        if name in self.index:
            raise TypeError(
                f"{name!r} is a fast weight and can't be deleted. Change the "
                "module's structure before making it stateless."
            )
        super().__delitem__(name)

    def __reduce__(self) -> Any:
        return dict, (dict(self),)


class BufferDict(dict[str, Any]):
    """The ``_buffers`` of a module with parameters.

    ``nn.Module.__setattr__`` refuses to assign a tensor that is no ``Parameter`` to
    a parameter's name, but assigns any tensor to a buffer's. So fast weights pass
    for buffers, there and only there, and are passed on.
    """

    __slots__ = ("parameters",)

    def __init__(self, parameters: WeightDict, buffers: dict[str, Any]) -> None:
        super().__init__(buffers)
        self.parameters = parameters

    def __contains__(self, name: object) -> bool:
        return super().__contains__(name) or name in self.parameters.index

    def __setitem__(self, name: str, value: Any) -> None:
        if name in self.parameters.index:
            self.parameters[name] = value
        else:
            super().__setitem__(name, value)

    def __delitem__(self, name: str) -> None:
        if name not in self.parameters.index:
            super().__delitem__(name)

    def __reduce__(self) -> Any:
        return dict, (dict(self),)


class ModuleDict(dict[str, Any]):
    """The ``__dict__`` of a module with parameters.

    ``nn.Module.__setattr__`` asks it, and nobody else does, by ``get`` for
    ``_parameters``, only to know which names to refuse: see :class:`BufferDict`.
    """

    __slots__ = ()

    def get(self, key: str, default: Any = None) -> Any:
        if key == "_parameters":
            held = self["_parameters"]
            return {k: v for k, v in held.items() if k not in held.index}
        return super().get(key, default)

    def __reduce__(self) -> Any:
        return dict, (dict(self),)


class Unshare:
    """A hook before ``load_state_dict``, which writes into tensors: first gives the
    module's weights memory of their own."""

    __slots__ = ("parameters",)

    def __init__(self, parameters: WeightDict | None = None) -> None:
        self.parameters = parameters

    def __call__(self, *args: Any) -> None:
        if self.parameters is not None:
            for name in self.parameters.index:
                self.parameters[name] = detached_copy(self.parameters[name])

    def __reduce__(self) -> Any:
        return Unshare, ()
