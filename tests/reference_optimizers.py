"""Differentiable SGD and Adam written by hand, in parts that a test can replace.

They exist to be broken: `verify` must pass them as they are and find every mutation.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from higher import ops
from higher.optim.base import DifferentiableOptimizer, GroupedGrads
from torch import Tensor

Group = Mapping[str, Any]
Slots = dict[str, Any]


def switched_on(setting: Any) -> bool:
    """Whether a setting takes part: zero does if it may carry a gradient."""
    return isinstance(setting, Tensor) or setting != 0


class ByParameter(DifferentiableOptimizer):
    """Calls `one` for each parameter that has a gradient."""

    def _update(self, grouped_grads: GroupedGrads, **kwargs: Any) -> None:
        for group_idx, (group, grads) in enumerate(
            zip(self.param_groups, grouped_grads)
        ):
            for p_idx, (param, grad) in enumerate(zip(group["params"], grads)):
                if grad is not None:
                    state = self.state[group_idx][p_idx]
                    group["params"][p_idx] = self.one(param, grad, state, group)

    def one(self, param: Tensor, grad: Tensor, state: Slots, group: Group) -> Tensor:
        """The updated parameter; `state` is updated, too."""
        raise NotImplementedError


class ReferenceSGD(ByParameter):
    """torch.optim.SGD."""

    def one(self, param: Tensor, grad: Tensor, state: Slots, group: Group) -> Tensor:
        if group["maximize"]:
            grad = -grad
        grad = self.decayed(param, grad, group)
        momentum = group["momentum"]
        if switched_on(momentum):
            buf = state.get("momentum_buffer")
            if buf is None:
                buf = self.first(grad)
            else:
                buf = ops.add(buf * momentum, grad, alpha=1 - group["dampening"])
            state["momentum_buffer"] = buf
            grad = ops.add(grad, buf, alpha=momentum) if group["nesterov"] else buf
        return ops.add(param, grad, alpha=-group["lr"])

    def decayed(self, param: Tensor, grad: Tensor, group: Group) -> Tensor:
        """The gradient with weight decay."""
        if switched_on(group["weight_decay"]):
            return ops.add(grad, param, alpha=group["weight_decay"])
        return grad

    def first(self, grad: Tensor) -> Tensor:
        """The momentum buffer at the first step."""
        return grad.clone()


class ReferenceAdam(ByParameter):
    """torch.optim.Adam."""

    _group_defaults = {"decoupled_weight_decay": False}  # torch 2.6 lacks it

    def one(self, param: Tensor, grad: Tensor, state: Slots, group: Group) -> Tensor:
        grad = self.signed(grad, group)
        if not state:
            self.start(param, state, group)
        state["step"] = state["step"] + 1
        if switched_on(group["weight_decay"]):
            param, grad = self.decayed(param, grad, group)
        if not param.is_complex():
            return self.moved(param, grad, state, group)
        pairs = {k: _pairs(v) for k, v in state.items()}
        param = self.moved(_pairs(param), _pairs(grad), pairs, group)
        state.update(
            (k, v if k == "step" else torch.view_as_complex(v))
            for k, v in pairs.items()
        )
        return torch.view_as_complex(param)

    def signed(self, grad: Tensor, group: Group) -> Tensor:
        """Downhill is where the gradient goes, unless the aim is to maximize."""
        return -grad if group["maximize"] else grad

    def start(self, param: Tensor, state: Slots, group: Group) -> None:
        """Fills the state before the first step."""
        state["step"] = torch.tensor(0.0, dtype=ops.scalar_dtype())
        state["exp_avg"] = torch.zeros_like(param)
        state["exp_avg_sq"] = torch.zeros_like(param)
        if group["amsgrad"]:
            state["max_exp_avg_sq"] = torch.zeros_like(param)

    def decayed(
        self, param: Tensor, grad: Tensor, group: Group
    ) -> tuple[Tensor, Tensor]:
        """The parameter (decoupled) or the gradient with weight decay."""
        if group["decoupled_weight_decay"]:
            return param * (1 - group["lr"] * group["weight_decay"]), grad
        return param, ops.add(grad, param, alpha=group["weight_decay"])

    def betas(self, group: Group) -> tuple[Any, Any]:
        """Decay rates of both moments."""
        return group["betas"][0], group["betas"][1]

    def moved(self, param: Tensor, grad: Tensor, state: Slots, group: Group) -> Tensor:
        """One step of real numbers."""
        beta1, beta2 = self.betas(group)
        state["exp_avg"] = ops.lerp(state["exp_avg"], grad, 1 - beta1)
        squares = ops.addcmul(state["exp_avg_sq"] * beta2, grad, grad, value=1 - beta2)
        state["exp_avg_sq"] = squares
        step = state["step"].item()
        step_size = group["lr"] / (1 - beta1**step)
        root = self.root(1 - beta2**step)
        if group["amsgrad"]:
            squares = torch.maximum(state["max_exp_avg_sq"], squares)
            state["max_exp_avg_sq"] = squares
        denom = self.denominator(squares, root, group["eps"])
        return ops.addcdiv(param, state["exp_avg"], denom, value=-step_size)

    def root(self, correction: Any) -> Any:
        """Square root of the second moment's bias correction."""
        return ops.sqrt(correction)

    def denominator(self, squares: Tensor, root: Any, eps: Any) -> Tensor:
        """What the first moment is divided by."""
        root_of_squares = ops.sqrt(squares)
        assert isinstance(root_of_squares, Tensor)
        denominator: Tensor = root_of_squares / root + eps
        return denominator


def _pairs(x: Tensor) -> Tensor:
    return torch.view_as_real(x) if x.is_complex() else x
