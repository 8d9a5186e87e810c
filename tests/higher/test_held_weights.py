"""What holds weights, and what is held by them: kept up to date, or refused."""

from __future__ import annotations

import copy
import dataclasses
import functools
import threading
import types
import weakref
from collections import OrderedDict, UserDict, deque
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor, nn
from unroll import assert_same_unroll, fast_unroll, regression

import higher


class Net(nn.Module):
    """One layer, whose weight ``get`` takes from what ``hold`` made of it."""

    def __init__(
        self,
        hold: Callable[[Any], Any] = lambda net: None,
        get: Callable[[Any, Any], Tensor] = lambda held, net: net.weight,
    ) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        self.weight = nn.Parameter(torch.randn(3, 2, generator=generator).double())
        self.bias = nn.Parameter(torch.randn(2, generator=generator).double())
        self.get = get
        self.held = hold(self)

    def forward(self, x: Tensor) -> Tensor:
        return torch.tanh(x @ self.get(self.held, self) + self.bias)


class Slots:
    __slots__ = ("weight", "__own")

    def __init__(self, weight: Any) -> None:
        self.weight = weight
        self.__own = weight

    def own(self) -> Tensor:
        return self.__own


@dataclasses.dataclass(slots=True, frozen=True)
class Frozen:
    weight: Any


class Helper:
    def __init__(self, weight: Any) -> None:
        self.weight = weight

    def apply(self) -> Tensor:
        return self.weight


class WithState(Helper):
    def __getstate__(self) -> Any:
        return dict(self.__dict__)

    def __setstate__(self, state: Any) -> None:
        self.__dict__.update(state)


class Pair(NamedTuple):
    weight: Any
    other: Any


def closure_over(value: Any, get: Callable[[Any], Tensor]) -> Callable[[], Tensor]:
    return lambda: get(value)


def first(values: Any) -> Any:
    return next(iter(values))


KEPT: dict[str, tuple[Any, Any]] = {
    "slots": (lambda n: Slots(n.weight), lambda h, n: h.weight),
    "private slot": (lambda n: Slots(n.weight), lambda h, n: h.own()),
    "tuple in a slot": (lambda n: Slots((n.weight,)), lambda h, n: h.weight[0]),
    "frozen dataclass with slots": (
        lambda n: Frozen(n.weight),
        lambda h, n: h.weight,
    ),
    "__setstate__": (lambda n: WithState(n.weight), lambda h, n: h.weight),
    "tuple by __setstate__": (
        lambda n: WithState((1, n.weight)),
        lambda h, n: h.weight[1],
    ),
    "list by __setstate__": (
        lambda n: WithState([n.weight]),
        lambda h, n: h.weight[0],
    ),
    "closure over a list": (
        lambda n: closure_over([n.weight], first),
        lambda h, n: h(),
    ),
    "closure over a dict": (
        lambda n: closure_over({"w": n.weight}, lambda d: d["w"]),
        lambda h, n: h(),
    ),
    "closure over an OrderedDict": (
        lambda n: closure_over(OrderedDict(w=n.weight), lambda d: d["w"]),
        lambda h, n: h(),
    ),
    "closure over a deque": (
        lambda n: closure_over(deque([n.weight]), first),
        lambda h, n: h(),
    ),
    "closure over a set": (
        lambda n: closure_over({n.weight}, first),
        lambda h, n: h(),
    ),
    "closure over a namedtuple": (
        lambda n: closure_over(Pair(n.weight, 1), lambda p: p.weight),
        lambda h, n: h(),
    ),
    "closure over an object": (
        lambda n: closure_over(Helper(n.weight), lambda o: o.weight),
        lambda h, n: h(),
    ),
    "closure over an object with slots": (
        lambda n: closure_over(Slots(n.weight), lambda o: o.weight),
        lambda h, n: h(),
    ),
    "closure over a tuple of lists": (
        lambda n: closure_over(([n.weight], n.bias), lambda t: t[0][0]),
        lambda h, n: h(),
    ),
    "closure over objects in objects": (
        lambda n: closure_over(
            Helper(Helper(Helper(Helper([{"w": n.weight}])))),
            lambda h: h.weight.weight.weight.weight[0]["w"],
        ),
        lambda h, n: h(),
    ),
    "closure over a long list": (
        lambda n: closure_over([*([0] * 3000), n.weight], lambda ws: ws[-1]),
        lambda h, n: h(),
    ),
    "default": (lambda n: lambda ws=[n.weight]: ws[0], lambda h, n: h()),
    "keyword default": (lambda n: lambda *, ws=[n.weight]: ws[0], lambda h, n: h()),
    "partial of a list": (
        lambda n: functools.partial(first, [n.weight]),
        lambda h, n: h(),
    ),
    "partial of a keyword": (
        lambda n: functools.partial(lambda *, ws: ws["w"], ws={"w": n.weight}),
        lambda h, n: h(),
    ),
    "bound method of a helper": (lambda n: Helper(n.weight).apply, lambda h, n: h()),
    "bound method of the weight": (
        lambda n: n.weight.norm,
        lambda h, n: h().expand(3, 2),
    ),
    "builtin method of the weight": (lambda n: n.weight.mul, lambda h, n: h(1.0)),
    "partial of a method of the weight": (
        lambda n: functools.partial(n.weight.mul, 2),
        lambda h, n: h(),
    ),
    "cached function": (
        lambda n: functools.lru_cache(closure_over(n.weight, lambda w: w)),
        lambda h, n: h(),
    ),
    "MappingProxyType": (
        lambda n: types.MappingProxyType({"w": n.weight}),
        lambda h, n: h["w"],
    ),
    "frozenset": (lambda n: frozenset([n.weight]), lambda h, n: first(h)),
    "list of a frozenset": (
        lambda n: [frozenset([n.weight])],
        lambda h, n: first(h[0]),
    ),
    "weakref": (lambda n: weakref.ref(n.weight), lambda h, n: h()),
    "tuple of a weakref": (lambda n: (weakref.ref(n.weight),), lambda h, n: h[0]()),
    "WeakValueDictionary": (
        lambda n: weakref.WeakValueDictionary(w=n.weight),
        lambda h, n: h["w"],
    ),
    "UserDict": (lambda n: UserDict(w=n.weight), lambda h, n: h["w"]),
}


@pytest.mark.parametrize("kind", KEPT)
def test_holders_have_the_latest_weights(kind: str) -> None:
    hold, get = KEPT[kind]
    # functional_call knows only weights that are found by their names
    direct = Net(get=_DIRECT.get(kind, lambda held, net: net.weight))
    assert_same_unroll(Net(hold, get), regression(), 3, reference=direct)


_DIRECT: dict[str, Any] = {
    "bound method of the weight": lambda held, net: net.weight.norm().expand(3, 2),
    "partial of a method of the weight": lambda held, net: net.weight * 2,
}


def test_slots_of_a_module() -> None:
    class Slotted(Net):
        __slots__ = ("kept",)

        def forward(self, x: Tensor) -> Tensor:
            return torch.tanh(x @ self.kept[0] + self.bias)

    net = Slotted()
    object.__setattr__(net, "kept", [net.weight])
    assert_same_unroll(net, regression(), reference=Net())


def test_module_outside_the_tree_in_a_closure() -> None:
    def hold(net: Net) -> Any:
        other = nn.Linear(3, 2, bias=False).double()
        other.weight = net.weight
        return lambda: other.weight

    assert_same_unroll(Net(hold, lambda h, n: h()), regression(), reference=Net())


def test_weak_method_of_the_module() -> None:
    class Calling(Net):
        def own(self) -> Tensor:
            return self.weight

    net = Calling(lambda n: weakref.WeakMethod(n.own), lambda h, n: h()())
    assert_same_unroll(net, regression(), reference=Net())


def test_what_is_held_twice_stays_one() -> None:
    def hold(net: Net) -> Any:
        shared = [net.weight]
        view = {"list": shared}
        return shared, lambda: shared, types.MappingProxyType(view), Slots(shared)

    shared, function, proxy, slots = higher.monkeypatch(Net(hold)).held
    assert shared is function() is proxy["list"] is slots.weight


def test_copies_and_plain_modules_hold_theirs() -> None:
    """Of a stateless module: stateless versions, copies and pickles."""
    net = Net(lambda n: Slots(n.weight), lambda h, n: h.weight)
    fmodel = higher.monkeypatch(net)
    for again in (higher.monkeypatch(fmodel), copy.deepcopy(fmodel)):
        new = [torch.ones(3, 2).double(), torch.ones(2).double()]
        again.update_params(new)
        assert again.held.weight is new[0] and net.held.weight is net.weight
        assert fmodel.held.weight is fmodel.weight
    functional = higher.patch.make_functional(net)
    functional.update_params(new)
    assert functional.held.weight is new[0]


class MakesItself:
    """Pickled by arguments, which it keeps in a list of its own."""

    def __init__(self, *weights: Any) -> None:
        self.weights = list(weights)

    def __reduce__(self) -> Any:
        return MakesItself, tuple(self.weights)


class Hidden:
    """Copies itself, with the same weight inside."""

    def __init__(self, weight: Any) -> None:
        self.box = Helper([weight])

    def __deepcopy__(self, memo: Any) -> Hidden:
        return Hidden(self.box.weight[0])


class Ids(set[Any]):
    """A set of a class of its own."""


def generate(weight: Tensor) -> Iterator[Tensor]:
    while True:
        yield weight


def started(weight: Tensor) -> Iterator[Tensor]:
    generator = generate(weight)
    next(generator)
    return generator


REFUSED: dict[str, Any] = {
    "dict keyed by a weight": lambda n: {n.weight: 0.5},
    "OrderedDict keyed by a weight": lambda n: OrderedDict({n.weight: 0.5}),
    "UserDict keyed by a weight": lambda n: UserDict({n.weight: 0.5}),
    "dict keyed by an id": lambda n: {id(n.weight): 0.5},
    "dict keyed by a tuple": lambda n: {(n.weight, "x"): 0.5},
    "set of ids": lambda n: {id(n.weight)},
    "frozenset of ids": lambda n: frozenset([id(n.weight)]),
    "closure over such a dict": lambda n: closure_over({n.weight: 1}, first),
    "closure over ids": lambda n: closure_over({id(n.weight): 1}, first),
    "WeakKeyDictionary": lambda n: weakref.WeakKeyDictionary({n.weight: 1}),
    "WeakSet": lambda n: weakref.WeakSet([n.weight]),
    "set of a class of its own": lambda n: Ids([n.weight]),
    "made by arguments": lambda n: MakesItself(n.weight),
    "__deepcopy__": lambda n: Hidden(n.weight),
    "generator": lambda n: started(n.weight),
}


@pytest.mark.parametrize("kind", REFUSED)
@pytest.mark.parametrize("patch", [higher.monkeypatch, higher.patch.make_functional])
def test_other_holders_are_refused(kind: str, patch: Any) -> None:
    with pytest.raises(TypeError, match=r"^0\.held.* holds a parameter of Sequen"):
        patch(nn.Sequential(Net(REFUSED[kind])))


def test_the_path_and_the_way_out_are_told() -> None:
    net = Net(lambda n: Helper({"masks": [{n.weight: 0.5}]}))
    with pytest.raises(TypeError, match=r"^held.weight\['masks'\]\[0\] \(dict\).*name"):
        higher.monkeypatch(net)
    net = Net(lambda n: MakesItself(n.weight))
    with pytest.raises(
        TypeError, match=r"^held \(MakesItself\).*getattr\(module, name"
    ):
        higher.monkeypatch(net)


def harmless(net: Net) -> Any:
    """What is like the above, without a weight in it."""
    opt = torch.optim.SGD(net.parameters(), lr=0.1, momentum=0.9)
    other = nn.Linear(2, 2)
    return {
        "keys": {nn.Parameter(torch.ones(1)): 1, 3: 4, (1, "x"): 2},
        "sets": (frozenset(["a", 1]), {1, 2}, Ids([3])),
        "weak": [weakref.ref(net), weakref.ref(other), weakref.WeakSet([other])],
        "alive": other,
        "view": types.MappingProxyType({"lr": 0.1}),
        "opaque": [threading.Lock(), iter([1, 2]), generate(torch.ones(1))],
        "objects": [MakesItself(1, 2), Hidden(3), Slots(4), Frozen(5), WithState(6)],
        "functions": [lambda: opt, functools.partial(print, opt), torch.add, len],
        "optimizer": opt,
        "by module": {net: 1},
        "weak keys": weakref.WeakKeyDictionary({other: 1}),
    }


def test_such_objects_without_weights_are_no_matter() -> None:
    net = Net(harmless)
    assert_same_unroll(net, regression(), reference=Net())
    fmodel = higher.monkeypatch(net)
    assert fmodel.held["weak"][0]() is fmodel
    assert fmodel.held["functions"][0]() is net.held["optimizer"]


def test_test_mode() -> None:
    net = Net(*KEPT["closure over an object"])
    opt = torch.optim.SGD(net.parameters(), lr=0.1)
    loss = regression()
    with higher.innerloop_ctx(net, opt, track_higher_grads=False) as (fmodel, diff):
        for _ in range(2):
            diff.step(loss(fmodel))
        value = loss(fmodel)
    torch.testing.assert_close(value, fast_unroll(Net(), loss)[0], check_dtype=False)


def mask(net: Net, how: str) -> Any:
    if how == "register_hook":
        return net.weight.register_hook(lambda g: g * 0)

    def clear(p: Tensor) -> None:
        p.grad = None

    return net.weight.register_post_accumulate_grad_hook(clear)


@pytest.mark.parametrize("how", ["register_hook", "post_accumulate"])
@pytest.mark.parametrize("copied", [True, False])
@pytest.mark.parametrize("track", [True, False])
def test_hooks_on_parameters_are_refused(how: str, copied: bool, track: bool) -> None:
    net = nn.Sequential(Net())
    handle = mask(net[0], how)
    opt = torch.optim.SGD(net.parameters(), lr=0.1)
    loop = higher.innerloop_ctx(
        net, opt, copy_initial_weights=copied, track_higher_grads=track
    )
    with pytest.raises(TypeError, match=r"'0\.weight' has a hook.*grad_callback"):
        loop.__enter__()
    handle.remove()
    higher.monkeypatch(net)


def test_the_hint_of_that_does_what_a_hook_would() -> None:
    net = Net()
    plain = copy.deepcopy(net)
    mask(plain, "register_hook")
    opt = torch.optim.SGD(plain.parameters(), lr=0.1)
    for _ in range(3):
        opt.zero_grad()
        regression()(plain).backward()
        opt.step()
    opt = torch.optim.SGD(net.parameters(), lr=0.1)
    with higher.innerloop_ctx(net, opt) as (fmodel, diff):
        for _ in range(3):
            diff.step(
                regression()(fmodel), grad_callback=lambda gs: [gs[0] * 0, *gs[1:]]
            )
    torch.testing.assert_close(list(fmodel.parameters()), list(plain.parameters()))


def test_hooks_that_act_on_no_inner_gradient_are_let_be() -> None:
    """On frozen parameters, registered later, or on weights of a stateless module."""
    net = Net()
    net.weight.register_hook(lambda g: g * 0)
    net.weight.requires_grad_(False)
    fmodel = higher.monkeypatch(net, copy_initial_weights=False)
    fmodel.bias.register_hook(lambda g: 3 * g)
    again = higher.monkeypatch(fmodel, copy_initial_weights=False)
    net.bias.register_hook(lambda g: 2 * g)
    again.bias.sum().backward()
    assert net.bias.grad.tolist() == [6.0, 6.0]
