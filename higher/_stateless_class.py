"""The class of a stateless module: a subclass of its original's own.

Only the root of a module has one. Its calls take ``params``, however ``forward`` is
reached, and with tasks it has ``task``.
"""

from __future__ import annotations

import abc
import functools
import inspect
import types
import weakref
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, cast

from torch import nn

from higher._tasks import module as tasked
from higher._weights import fast_weights

if TYPE_CHECKING:
    from higher.patch import StatelessModule

_made: weakref.WeakKeyDictionary[type, dict[bool, Any]]
_made = weakref.WeakKeyDictionary()


def stateless_class(
    base: type[nn.Module], cls: type[nn.Module], tasks: bool
) -> type[nn.Module]:
    """A subclass of ``base``, which is ``StatelessModule``, and of ``cls``, of the name
    of ``cls``: one for each class, and another for modules with ``tasks``."""
    known = _made.setdefault(cls, {}).get(tasks)
    found = known() if known is not None else None
    if found is None:
        meta = type(cls)
        # not meta(...): a metaclass of the user's need not hear of this class
        make = abc.ABCMeta.__new__ if issubclass(meta, abc.ABCMeta) else type.__new__
        namespace: dict[str, Any] = {
            "__module__": cls.__module__,
            "__qualname__": cls.__qualname__,
            "__doc__": cls.__doc__,
        }
        if isinstance(inspect.getattr_static(cls, "forward"), types.FunctionType):
            namespace["forward"] = _forward_with_params(cls.forward)
        if tasks:
            namespace["__getattr__"] = _getattr_with_task(cls)
        found = make(meta, cls.__name__, (base, cls), namespace)
        # weakly: the subclass refers to the class that it is stored for
        _made[cls][tasks] = weakref.ref(found)
    return cast("type[nn.Module]", found)


def _forward_with_params(forward: Callable[..., Any]) -> Callable[..., Any]:
    """``forward`` that takes ``params``, as ``fmodule(...)`` does."""

    @functools.wraps(forward)
    def wrapper(self: StatelessModule, *args: Any, **kwargs: Any) -> Any:
        if "params" in kwargs:
            take_params(self, kwargs)
        weights = fast_weights(self)
        if weights.tasks is not None and weights.mapping is None:
            return tasked.map_tasks(self, forward, *args, **kwargs)
        return forward(self, *args, **kwargs)

    return wrapper


def _getattr_with_task(cls: type[nn.Module]) -> Callable[[Any, str], Any]:
    """Finds ``task``, where the module has nothing of that name of its own."""
    usual: Callable[[Any, str], Any] = cls.__getattr__

    def __getattr__(self: StatelessModule, name: str) -> Any:
        try:
            return usual(self, name)
        except AttributeError:
            if name != "task":
                raise
            return self._of_task

    return __getattr__


def take_params(module: StatelessModule, kwargs: dict[str, Any]) -> None:
    """Takes ``params`` from a call's arguments and makes them the fast weights.

    A module's own argument of that name is left to it, unless it is given a list of
    tensors that fit the fast weights.
    """
    params, weights = kwargs["params"], fast_weights(module)
    if _has_params_argument(module.forward) and not weights.fits(params):
        return
    del kwargs["params"]
    if params is not None:
        module.update_params(params)


def _has_params_argument(forward: Callable[..., Any]) -> bool:
    code = getattr(inspect.unwrap(forward), "__code__", None)
    if code is None:
        return False
    return "params" in code.co_varnames[: code.co_argcount + code.co_kwonlyargcount]
