"""Which updates are found to treat each element of a parameter by itself."""

from __future__ import annotations

import importlib
import textwrap

import pytest

from codegen.elementwise import is_elementwise
from higher._generated import OPTIMIZERS
from higher.optim import DifferentiableOptimizer

LOOP = """\
for group_idx, (group, grads) in enumerate(zip(self.param_groups, grouped_grads)):
    lr = group["lr"]
    flag = group["flag"]
{before}
    for p_idx, (p, grad) in enumerate(zip(group["params"], grads)):
        if grad is None:
            continue
        state = self.state[group_idx][p_idx]
{inside}
{after}
"""
STEP = 'group["params"][p_idx] = ops.add(p, grad, alpha=-lr)'


def body(inside: str, before: str = "", after: str = "") -> str:
    return LOOP.format(
        inside=textwrap.indent(textwrap.dedent(inside), " " * 8),
        before=textwrap.indent(textwrap.dedent(before), " " * 4),
        after=textwrap.indent(textwrap.dedent(after), " " * 4),
    )


BY_ELEMENT = {
    "plain": STEP,
    "state of both kinds": """
        if len(state) == 0:
            state["step"] = 0
            state["m"] = torch.zeros_like(p)
        state["step"] = state["step"] + 1
        state["m"] = m = ops.lerp(state["m"], grad, 1 - lr ** state["step"])
        group["params"][p_idx] = p.sub(m * lr)
    """,
    "a slot that is read before it is filled": """
        m = state.get("m")
        if m is None:
            state["m"] = m = grad.clone()
        else:
            state["m"] = m = m.mul(0.9).add(grad)
        group["params"][p_idx] = p - lr * m
    """,
    "one condition, asked twice": """
        if flag:
            extra = grad.square()
        m = grad * 2
        if flag:
            m = m + extra
        group["params"][p_idx] = p - m
    """,
    "masks": """
        sign = grad.sign()
        sign = ops.setitem(sign, sign.gt(0) & (grad < lr), lr)
        group["params"][p_idx] = torch.where(sign == 0, p, p - sign)
    """,
    "what never happens to a dense real tensor": """
        if grad.is_sparse:
            grad = grad.coalesce()
        if torch.is_complex(p):
            p = torch.view_as_real(p)
        group["params"][p_idx] = p - lr * (grad.values() if grad.is_sparse else grad)
    """,
    "a function of its own": """
        def rate(x):
            y = x + 1
            return lr / y
        group["params"][p_idx] = p - rate(grad.abs()) * grad
    """,
    "raises": """
        if lr < 0:
            raise ValueError(f"{p.shape}")
        group["params"][p_idx] = p - lr * grad
    """,
}
NOT_BY_ELEMENT = {
    "a norm": 'group["params"][p_idx] = p - grad / grad.norm()',
    "a mean": 'group["params"][p_idx] = p - grad.mean() * lr',
    "a norm of ops": 'group["params"][p_idx] = p - grad / ops.norm(grad)',
    "the maximum": 'group["params"][p_idx] = p - grad / grad.max()',
    "a maximum along a dimension": 'group["params"][p_idx] = p - torch.max(grad, 0)',
    "a product": 'group["params"][p_idx] = p - grad @ grad',
    "the number of elements": 'group["params"][p_idx] = p - grad / grad.numel()',
    "the shape": 'group["params"][p_idx] = p - grad / p.shape[0]',
    "the number of dimensions": "if p.dim() > 1:\n    " + STEP,
    "a sum along a dimension": 'group["params"][p_idx] = p - grad.sum(dim=0)',
    "cumulation": 'group["params"][p_idx] = p - grad.cumsum(0)',
    "another shape": 'group["params"][p_idx] = p - grad.reshape(-1)[:1]',
    "transposition": 'group["params"][p_idx] = p - grad.t()',
    "an element": 'group["params"][p_idx] = p - grad[0]',
    "some elements": 'group["params"][p_idx] = p - grad * grad[grad > 0]',
    "which one it is": 'group["params"][p_idx] = p - grad * p_idx',
    "which group it is": 'group["params"][p_idx] = p - grad * group_idx',
    "another parameter": 'group["params"][p_idx] = p - group["params"][0]',
    "another's gradient": 'group["params"][p_idx] = p - grads[0]',
    "another's state": 'self.state[group_idx][0]["m"] = grad\n' + STEP,
    "how many there are": 'group["params"][p_idx] = p - grad * len(group["params"])',
    "random numbers": 'group["params"][p_idx] = p - grad * torch.rand_like(p)',
    "a random number": 'group["params"][p_idx] = p - grad * torch.rand(())',
    "a value that decides": "if bool((grad > 0).all()):\n    " + STEP,
    "a value that decides, unasked": "if grad > 0:\n    " + STEP,
    "an element's number": 'group["params"][p_idx] = p - ops.value(grad)',
    "a state slot of no kind": 'group["params"][p_idx] = p - state["m"]',
    "a counter in the group": 'group["k"] = group["k"] + 1\n' + STEP,
    "a setting that is changed": 'lr = lr * 0.5\ngroup["lr"] = lr\n' + STEP,
    "shared state": 'self.shared["k"] = self.shared["k"] + 1\n' + STEP,
    "an attribute": 'group["params"][p_idx] = p - grad * self.factor',
    "an unknown function": 'group["params"][p_idx] = p - squash(grad)',
    "an unknown method": 'group["params"][p_idx] = p - grad.softmax(0)',
    "an unknown keyword": 'group["params"][p_idx] = p - grad.add(1, out=p)',
    "masks of numbers": 'm = ops.setitem(grad, grad, 0)\ngroup["params"][p_idx] = p - m',
    "masked by its values": """
        m = ops.setitem(grad, grad > 0, p)
        group["params"][p_idx] = p - m
    """,
    "identity": "if p is grad:\n    " + STEP,
    "a chain of comparisons": 'group["params"][p_idx] = p - (0 < grad < 1)',
    "what an earlier turn left": """
        if flag:
            before = grad
        if not state:
            state["m"] = before
        group["params"][p_idx] = p - before
    """,
    "one condition, changed between": """
        k = lr
        if k:
            extra = grad.square()
        k = 1
        if k:
            group["params"][p_idx] = p - extra
    """,
    "only the first": "if first:\n    " + STEP + "\nfirst = False",
    "a stop": STEP + "\nbreak",
    "a condition on what is kept": """
        if "m" in state:
            extra = grad
        state["m"] = 1
        if "m" in state:
            group["params"][p_idx] = p - extra
    """,
    "a list": "kept = []\nkept.append(grad)\n" + STEP,
    "another loop": "for k in range(3):\n    " + STEP,
    "a walrus": 'group["params"][p_idx] = p - (m := grad)',
    "a view": 'group["params"][p_idx] = p - torch.view_as_real(grad)',
    "one argument": 'group["params"][p_idx] = p - torch.where(grad > 0)[0]',
    "a counter of several elements": 'state["k"] = torch.zeros(3)\n' + STEP,
    "a copy into a counter": 'k = ops.copy(lr, grad)\ngroup["params"][p_idx] = p - k',
    "its own name rebound": 'group = {}\ngroup["params"][p_idx] = p - grad',
    "a function redefined": "def f(x=grad):\n    return x\n"
    + 'group["params"][p_idx] = p - f()',
}


@pytest.mark.parametrize("title", BY_ELEMENT)
def test_updates_that_treat_elements_alone_are_found(title: str) -> None:
    assert is_elementwise(body(BY_ELEMENT[title]))


@pytest.mark.parametrize("title", NOT_BY_ELEMENT)
def test_updates_that_mix_elements_are_not_claimed(title: str) -> None:
    assert not is_elementwise(body(NOT_BY_ELEMENT[title]))


def test_what_surrounds_the_loop() -> None:
    assert is_elementwise(body(STEP, before='group["k"] = group["k"] + lr'))
    carried = 'total = total + 1\ngroup["params"][p_idx] = p - grad / total'
    assert not is_elementwise(body(carried, before="total = 0"))
    assert not is_elementwise(body(STEP + "\nlast = grad", after='group["k"] = last'))
    assert not is_elementwise(body(STEP, before="self.count = self.count + 1"))
    assert not is_elementwise("self.shared['k'] = 1\n" + body(STEP))
    assert not is_elementwise("for group in self.param_groups:\n    pass")
    nested = body(body(STEP))
    assert not is_elementwise(nested)


def test_constants_of_the_module() -> None:
    scaled = body('group["params"][p_idx] = p - SCALE * grad')
    assert not is_elementwise(scaled)
    assert is_elementwise(scaled, ["SCALE = 0.5"])
    assert not is_elementwise(scaled, ["SCALE = torch.ones(3)"])


def test_torch_s_own() -> None:
    """By their formulas; the runtime's tests join them and compare."""
    found = set()
    for name, place in OPTIMIZERS.items():
        module, _, class_name = place.partition(":")
        cls: type[DifferentiableOptimizer] = getattr(
            importlib.import_module(module), class_name
        )
        if cls._elementwise:
            found.add(name.rpartition(".")[2])
    by_element = "ASGD Adadelta Adagrad Adam AdamW Adamax NAdam RAdam RMSprop Rprop SGD"
    assert found == {*by_element.split()}
