"""Differentiable optimizers as a user writes them by hand."""

from __future__ import annotations

from higher.optim import DifferentiableOptimizer, GroupedGrads


class HandSGD(DifferentiableOptimizer):
    """``torch.optim.SGD`` with momentum; ``_update`` takes no keyword arguments."""

    def _update(self, grouped_grads: GroupedGrads) -> None:  # type: ignore[override]
        groups = zip(self.param_groups, grouped_grads)
        for group_idx, (group, grads) in enumerate(groups):
            for p_idx, (p, g) in enumerate(zip(group["params"], grads)):
                if g is None:
                    continue
                if group["weight_decay"] != 0:
                    g = g + group["weight_decay"] * p
                if group["momentum"] != 0:
                    state = self.state[group_idx][p_idx]
                    if state.get("momentum_buffer") is not None:
                        g = group["momentum"] * state["momentum_buffer"] + g
                    state["momentum_buffer"] = g
                group["params"][p_idx] = p - group["lr"] * g


class HandAdam(DifferentiableOptimizer):
    """``torch.optim.Adam``."""

    def _update(self, grouped_grads: GroupedGrads, **kwargs: object) -> None:
        groups = zip(self.param_groups, grouped_grads)
        for group_idx, (group, grads) in enumerate(groups):
            beta1, beta2 = group["betas"]
            for p_idx, (p, g) in enumerate(zip(group["params"], grads)):
                if g is None:
                    continue
                state = self.state[group_idx][p_idx]
                step = state["step"] = float(state.get("step", 0)) + 1
                if group["weight_decay"] != 0:
                    g = g + group["weight_decay"] * p
                m = state["exp_avg"] = beta1 * state.get("exp_avg", 0) + (1 - beta1) * g
                v = beta2 * state.get("exp_avg_sq", 0) + (1 - beta2) * g * g
                state["exp_avg_sq"] = v
                denom = (v / (1 - beta2**step)).sqrt() + group["eps"]
                group["params"][p_idx] = p - group["lr"] / (1 - beta1**step) * m / denom
