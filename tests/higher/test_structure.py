"""Every submodule keeps its class and its place in whatever refers to it."""

from __future__ import annotations

import abc
import copy
import functools
import types
import weakref
from collections import deque
from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor, nn
from unroll import assert_same_unroll, fast_unroll, reference_unroll, regression

import higher


class Base(nn.Module):
    """Two layers; subclasses say how they are reached."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__()
        self.first = nn.Linear(3, 4)
        self.second = nn.Linear(4, 2)
        self.build(**kwargs)
        self.double()

    def build(self) -> None: ...

    def forward(self, x: Tensor) -> Tensor:
        return self.second(torch.tanh(self.first(x)))


X = torch.ones(1, 3, dtype=torch.float64)


def test_slices_of_containers_run_on_fast_weights() -> None:
    class Sliced(Base):
        def build(self) -> None:
            self.layers = nn.ModuleList(nn.Linear(3, 3) for _ in range(3))
            self.tail = nn.Sequential(nn.Tanh(), nn.Linear(3, 3), nn.Tanh())

        def forward(self, x: Tensor) -> Tensor:
            for layer in self.layers[:2]:
                x = layer(x)
            return super().forward(self.tail[1:](x) + self.tail[:2](x))

    assert_same_unroll(Sliced(), regression())


def test_a_plain_module_that_holds_others_runs_on_fast_weights() -> None:
    class Contained(Base):
        def build(self) -> None:
            self.box = nn.Module()
            self.box.layer = nn.Linear(3, 3)
            self.box.scale = nn.Parameter(torch.tensor(2.0))

        def forward(self, x: Tensor) -> Tensor:
            return super().forward(self.box.layer(x) * self.box.scale)

    assert_same_unroll(Contained(), regression())


def test_a_users_metaclass_does_not_hear_of_the_stateless_class() -> None:
    made: list[type] = []

    class Registering(type):
        def __new__(meta, name: str, bases: Any, namespace: Any) -> Any:
            made.append(super().__new__(meta, name, bases, namespace))
            return made[-1]

        def __init__(cls, name: str, bases: Any, namespace: Any) -> None:
            namespace["forward"]

    class Registered(Base, metaclass=Registering):
        def forward(self, x: Tensor) -> Tensor:
            return super().forward(x)

    assert_same_unroll(Registered(), regression())
    assert made == [Registered]


def test_init_subclass_with_required_keywords() -> None:
    class Demanding(Base):
        def __init_subclass__(cls, *, size: int) -> None:
            cls.size = size

    class Sized(Demanding, size=3):
        pass

    assert_same_unroll(Sized(), regression())
    assert higher.monkeypatch(Sized()).size == 3


def test_a_module_that_mixes_in_an_abstract_class_stays_one() -> None:
    class Shape(abc.ABC):
        @abc.abstractmethod
        def area(self) -> int: ...

    class Shaped(Base, Shape):
        def area(self) -> int:
            return 3

    fmodel = higher.monkeypatch(Shaped())
    assert isinstance(fmodel, Shape) and fmodel.area() == 3
    assert not isinstance(Shaped(), type(fmodel))
    assert_same_unroll(Shaped(), regression())


def test_slots_are_carried_along() -> None:
    class Slotted(Base):
        __slots__ = ("factor", "unset")

        def build(self) -> None:
            object.__setattr__(self, "factor", 3.0)

        def forward(self, x: Tensor) -> Tensor:
            return super().forward(x) * self.factor

    assert_same_unroll(Slotted(), regression())


def test_a_forward_of_the_instances_own_runs_on_fast_weights() -> None:
    """A method, a lambda that closes over the model, a partial of a function."""

    def doubled(self: Base, x: Tensor) -> Tensor:
        return 2 * Base.forward(self, x)

    reference = Base()
    by_method, by_closure, by_partial = (copy.deepcopy(reference) for _ in range(3))
    by_method.forward = types.MethodType(doubled, by_method)
    by_closure.forward = lambda x: 2 * by_closure.second(
        torch.tanh(by_closure.first(x))
    )
    by_partial.forward = functools.partial(doubled, by_partial)
    reference.register_forward_hook(lambda module, args, out: 2 * out)
    wanted = reference_unroll(reference, regression())
    for net in (by_method, by_closure, by_partial):
        torch.testing.assert_close(fast_unroll(net, regression()), wanted)


def test_stored_methods_and_partials_run_on_fast_weights() -> None:
    class Stored(Base):
        def build(self) -> None:
            self.act = functools.partial(self.scaled, by=2.0)
            self.steps = [self.first.forward, self.act, self.second]
            self.table = {"twice": functools.partial(nn.Module.__call__, self.second)}

        def scaled(self, x: Tensor, by: float) -> Tensor:
            return torch.tanh(x) * by * self.first.bias

        def forward(self, x: Tensor) -> Tensor:
            h = self.steps[1](self.steps[0](x))
            return self.steps[2](h) + self.table["twice"](h)

    assert_same_unroll(Stored(), regression())


def test_a_cached_method_is_computed_anew_for_the_copy() -> None:
    class Cached(Base):
        def build(self) -> None:
            self.bias = functools.lru_cache(maxsize=1)(self.own_bias)

        def own_bias(self) -> nn.Module:
            return self.first

    fmodel = higher.monkeypatch(Cached())
    assert fmodel.bias() is fmodel.first


def test_modules_in_plain_lists_and_dicts() -> None:
    class Listed(Base):
        def build(self) -> None:
            self.order = [self.first, nn.Tanh(), self.second]
            self.by_name = {"a": (self.first, self.second)}
            self.queue = deque([self.second])

        def forward(self, x: Tensor) -> Tensor:
            for module in self.order:
                x = module(x)
            return x + self.queue[0](
                self.by_name["a"][0](torch.ones_like(x[:, :1]) * 1 + torch.zeros(3))
            )

    assert_same_unroll(Listed(), regression())


def test_modules_outside_the_tree_keep_their_weights_and_get_buffers_of_their_own() -> (
    None
):
    class Helped(Base):
        def build(self) -> None:
            self.helper = [nn.BatchNorm1d(3, dtype=torch.float64)]

        def forward(self, x: Tensor) -> Tensor:
            return super().forward(self.helper[0](x))

    net = Helped()
    fmodel = higher.monkeypatch(net)
    fmodel(torch.randn(4, 3, dtype=torch.float64)).sum().backward()
    assert net.helper[0].num_batches_tracked == 0
    assert fmodel.helper[0].num_batches_tracked == 1
    assert net.helper[0].weight.grad is not None


def test_lists_and_dicts_of_parameters_hold_fast_weights() -> None:
    class Raw(Base):
        def build(self) -> None:
            self.list = nn.ParameterList([torch.ones(4), torch.ones(4) / 2])
            self.dict = nn.ParameterDict({"shift": nn.Parameter(torch.zeros(2))})

        def forward(self, x: Tensor) -> Tensor:
            h = self.first(x) * self.list[0]
            for p in self.list[1:]:
                h = h + p
            return self.second(torch.tanh(h)) + self.dict["shift"]

    assert_same_unroll(Raw(), regression())


def test_weights_held_outside_parameters_follow_updates() -> None:
    """In lists, dicts, tuples, sets, partials and objects."""

    class Named(NamedTuple):
        weight: Tensor
        other: int

    class Holder:
        def __init__(self, weight: Tensor) -> None:
            self.weight = weight

    class Held(Base):
        def build(self) -> None:
            w = self.gain = nn.Parameter(torch.ones(4))
            self.held_list = [w]
            self.held_dict = {"w": w}
            self.held_tuple = (w, (w, 1))
            self.held_set = {w}
            self.held_named = Named(w, 1)
            self.held_deque = deque([w])
            self.held_object = Holder(w)
            self.held_partial = functools.partial(torch.mul, w)
            self.held_default = lambda x, w=w: x * w
            object.__setattr__(self, "alias", w)

    fmodel = higher.monkeypatch(Held().requires_grad_())
    for value in (2.0, 3.0):
        new = torch.full((4,), value)
        fmodel.gain = new
        assert fmodel.held_list[0] is new
        assert fmodel.held_dict["w"] is new
        assert fmodel.held_tuple[0] is new and fmodel.held_tuple[1][0] is new
        assert fmodel.held_set == {new}
        assert fmodel.held_named.weight is new and type(fmodel.held_named) is Named
        assert fmodel.held_deque[0] is new
        assert fmodel.held_object.weight is new
        assert fmodel.alias is new
        assert fmodel.held_partial(torch.ones(4))[0] == value
        assert fmodel.held_default(torch.ones(4))[0] == value


def test_shared_submodule_and_one_set_of_buffers() -> None:
    class Shared(Base):
        def build(self) -> None:
            self.norm = self.same_norm = nn.BatchNorm1d(4)

        def forward(self, x: Tensor) -> Tensor:
            return self.second(self.same_norm(torch.tanh(self.norm(self.first(x)))))

    net = Shared()
    fmodel = higher.monkeypatch(net)
    assert fmodel.norm is fmodel.same_norm
    fmodel(torch.randn(4, 3, dtype=torch.float64))
    assert fmodel.norm.num_batches_tracked == 2
    assert net.norm.num_batches_tracked == 0
    assert_same_unroll(net, regression())


def test_shared_weight_is_one_fast_weight() -> None:
    class Tied(Base):
        def build(self) -> None:
            self.encoder = nn.Linear(3, 3)
            self.decoder = nn.Linear(3, 3)
            self.decoder.weight = self.encoder.weight

        def forward(self, x: Tensor) -> Tensor:
            return super().forward(self.decoder(torch.tanh(self.encoder(x))))

    net = Tied()
    assert_same_unroll(net, regression())
    fmodel = higher.monkeypatch(net)
    assert len(list(fmodel.parameters())) == len(list(net.parameters())) == 7
    fmodel.decoder.weight = new = torch.zeros(3, 3, dtype=torch.float64)
    assert fmodel.encoder.weight is new


def test_forward_with_an_argument_named_params() -> None:
    class Taking(Base):
        def forward(self, x: Tensor, params: Any = None) -> Tensor:
            return super().forward(x) * (1 if params is None else params["scale"])

    net = Taking()
    fmodel = higher.monkeypatch(net)
    assert torch.equal(fmodel(X, params={"scale": 3}), 3 * net(X))
    assert torch.equal(fmodel(X, {"scale": 3}), 3 * net(X))
    zeros = [torch.zeros_like(p) for p in net.parameters()]
    assert fmodel(X, params=zeros).abs().max() == 0
    assert fmodel.fast_params == zeros


def test_tensors_in_plain_attributes_are_copied_with_their_graph() -> None:
    """A leaf, a non-leaf whose graph goes on, and one that forward writes into."""

    class Plain(Base):
        def build(self) -> None:
            self.hyper = torch.tensor(2.0, requires_grad=True)
            self.scale = self.hyper * 3
            self.calls = torch.zeros(())
            self.cache: dict[str, Any] = {"x": [torch.zeros(())]}

        def forward(self, x: Tensor) -> Tensor:
            self.calls += 1
            self.cache["x"][0] += 1
            return super().forward(x) * self.scale

    net = Plain()
    fmodel = higher.monkeypatch(net)
    fmodel(X).sum().backward()
    assert net.hyper.grad is not None and net.hyper.grad != 0
    assert net.calls == 0 and fmodel.calls == 1
    assert net.cache["x"][0] == 0 and fmodel.cache["x"][0] == 1
    assert_same_unroll(net, regression())


def test_modules_that_define_deepcopy_are_copied_by_it() -> None:
    class Stubborn(nn.Linear):
        def __deepcopy__(self, memo: Any) -> Any:
            raise RuntimeError("not to be copied")

    class Partly(Base):
        def build(self) -> None:
            self.first = Stubborn(3, 4)

    assert_same_unroll(Partly(), regression())
    assert type(higher.monkeypatch(Partly()).first) is Stubborn


def test_what_refuses_to_be_copied_is_shared() -> None:
    import threading

    class Locked(Base):
        def build(self) -> None:
            self.lock = threading.Lock()
            self.generator = torch.Generator()
            self.opt = torch.optim.SGD(self.first.parameters(), lr=1.0)
            self.items = (i for i in range(3))

    net = Locked()
    fmodel = higher.monkeypatch(net)
    for name in ("lock", "generator", "opt", "items"):
        assert getattr(fmodel, name) is getattr(net, name)


def test_objects_and_references_back_to_the_module() -> None:
    class Helper:
        def __init__(self, owner: nn.Module) -> None:
            self.owner = owner
            self.ref = weakref.ref(owner)

    class Pair(NamedTuple):
        module: nn.Module

    class Helped(Base):
        def build(self) -> None:
            self.helper = Helper(self)
            object.__setattr__(self, "me", self)
            self.pair = Pair(self.first)

    fmodel = higher.monkeypatch(Helped())
    assert fmodel.helper.owner is fmodel and fmodel.helper.ref() is fmodel
    assert fmodel.me is fmodel
    assert fmodel.pair.module is fmodel.first and type(fmodel.pair) is Pair


def test_classes_and_names_stay_the_same() -> None:
    net = nn.Sequential(Base(), nn.ModuleDict({"a": nn.Conv2d(1, 1, 1)}))
    fmodel = higher.monkeypatch(net)
    for (name, m), (fname, fm) in zip(
        net.named_modules(), fmodel.named_modules(), strict=True
    ):
        assert name == fname and isinstance(fm, type(m))
        assert fm is fmodel or type(fm) is type(m)
    assert type(fmodel).__name__ == "Sequential"
    assert isinstance(fmodel, nn.Sequential) and isinstance(fmodel[0], Base)


def test_a_module_made_by_fx_runs_on_fast_weights() -> None:
    traced = torch.fx.symbolic_trace(Base())
    assert_same_unroll(traced, regression())


def test_weights_that_parameters_leaves_out_stay_the_originals() -> None:
    """A module that shows only some of its weights has only those as fast ones."""

    class Partial(Base):
        def parameters(self, recurse: bool = True) -> Any:
            return self.second.parameters(recurse)

    net = Partial()
    fmodel = higher.monkeypatch(net)
    assert len(list(fmodel.parameters())) == 2
    assert fmodel.first.weight is net.first.weight
    assert fmodel.second.weight is not net.second.weight


@pytest.mark.parametrize("kind", [nn.ParameterList, nn.ModuleList, nn.ModuleDict])
def test_bare_containers_are_copied_with_all_their_parameters(
    kind: type[nn.Module],
) -> None:
    net = nn.Module()
    net.box = (
        kind([nn.Parameter(torch.ones(1))])
        if kind is nn.ParameterList
        else kind(
            {"0": nn.Linear(1, 1)} if kind is nn.ModuleDict else [nn.Linear(1, 1)]
        )
    )
    fmodel = higher.monkeypatch(net)
    assert len(list(fmodel.parameters())) == len(list(net.parameters()))
    assert all(a is not b for a, b in zip(fmodel.parameters(), net.parameters()))


def test_a_slice_of_the_stateless_module_runs_on_fast_weights() -> None:
    model = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 2)).double()
    x = torch.ones(2, 3, dtype=torch.float64)
    with higher.innerloop_ctx(model, torch.optim.SGD(model.parameters(), lr=0.1)) as (
        f,
        diff,
    ):
        diff.step(f(x).square().sum())
        head = f[2:]
        assert type(head) is nn.Sequential and head[0] is f[2]
        torch.testing.assert_close(head(f[:2](x)), f(x))
        diff.step(f[:2](x).square().sum() + f[2].weight.sum())
        assert not torch.equal(f[0].weight, model[0].weight)


def test_another_module_of_the_class_is_an_ordinary_one() -> None:
    class Net(nn.Module):
        def __init__(self, width: int) -> None:
            super().__init__()
            self.layer = nn.Linear(width, 1)

    other = type(higher.monkeypatch(Net(3)))(5)
    assert type(other) is Net and isinstance(other.layer.weight, nn.Parameter)
