"""What the compiler knows of an optimizer's surroundings: one table.

Optimizers choose between implementations of one algorithm (a loop, ``foreach``,
fused and capturable kernels, TorchScript). All compute the same; the loop over
single tensors is the one that is translated, and it is torch's default on CPU.
"""

from __future__ import annotations

import re

from codegen.syntax import Statement

FALSE_SETTINGS = frozenset(
    {
        "foreach",
        "fused",
        "capturable",
        "differentiable",
        "compile",
        "compiled",
        "triton",
        "use_foreach",
        "use_fused",
        "use_triton",
        "fsdp_in_use",
        "gradient_release",
        "optimizer_accumulation",
    }
)
"""Settings (``group[k]``, ``self.k``, ``self.defaults[k]``) that only choose an
implementation. A user may set them; they change nothing here."""

FALSE_CALLS = frozenset(
    {
        "torch.jit.is_scripting",
        "torch.jit.is_tracing",
        "torch.compiler.is_compiling",
        "torch._utils.is_compiling",
        "torch._dynamo.is_compiling",
        "torch.compiler.is_dynamo_compiling",
        "torch.distributed.is_initialized",
        "torch.distributed.is_available",
    }
)

FALSE_PARAMETER_MARKS = frozenset({"_fsdp_flattened", "is_cpu_offloaded"})
"""Attributes that sharding wrappers put on parameters; refused at the runtime."""

NONE_ATTRIBUTES = frozenset({"grad_scale", "found_inf"})
"""Set by AMP's GradScaler on fused optimizers alone."""

TENSOR_TYPES = frozenset({"torch.Tensor", "torch.nn.Parameter", "Tensor"})

NO_TENSOR_TYPES = frozenset(
    "int float complex bool str bytes list tuple dict set frozenset "
    "collections.abc.Sequence collections.abc.Mapping numbers.Number".split()
)
"""No tensor is an instance of these."""

NO_EFFECT_METHODS = frozenset(
    {
        "_cuda_graph_capture_health_check",
        "_accelerator_graph_capture_health_check",
        "_optimizer_step_code",
        "profile_hook_step",
    }
)
"""Methods of the base optimizer that only check or announce."""

NO_EFFECT_CALLS = frozenset({"torch._dynamo.graph_break", "warnings.warn", "print"})

IDENTITY_CALLS = {
    "typing.cast": 1,
    "torch.optim.optimizer._to_scalar": 0,
    "torch.optim.optimizer._stack_if_compiling": 0,
}
"""Functions that return an argument as it is, and which one. Tensor settings are
0-dim here already, so ``_to_scalar`` has nothing to do."""

RUNTIME_CALLS = {
    "torch.optim.optimizer._get_value": ("ops.value", 1),
    "torch.optim.optimizer._get_scalar_dtype": ("ops.scalar_dtype", 0),
    "copy.deepcopy": ("ops.deepcopy", 1),
}
"""Functions with a twin in the runtime, and how many of their arguments it takes."""

STEP_DECORATORS = frozenset(
    {
        "torch.no_grad",
        "torch.inference_mode",
        "torch.enable_grad",
        "torch.optim.optimizer._use_grad_for_differentiable",
        "torch.optim.optimizer._disable_dynamo_if_unsupported",
        "torch._disable_dynamo",
        "torch._disable_dynamo_if_unsupported",
        "torch._dynamo.disable",
        "torch.compiler.disable",
        "torch.jit.ignore",
        "typing.override",
        "typing_extensions.override",
        "typing.overload",
        "torch.compile",
        "torch.compiler.allow_in_graph",
        "torch.jit.script",
        "torch.jit.script_if_tracing",
        "torch.jit.unused",
        "torch.jit.export",
        "torch.autograd.no_grad",
        "torch.set_grad_enabled",
        "torch.profiler.record_function",
        "torch.autograd.profiler.record_function",
        "torch.optim.Optimizer.profile_hook_step",
        "torch.optim.optimizer.Optimizer.profile_hook_step",
        "typing.final",
        "typing_extensions.final",
        "typing_extensions.deprecated",
        "warnings.deprecated",
        "abc.abstractmethod",
        "contextlib.contextmanager",
        "property",
        "staticmethod",
        "classmethod",
        "functools.wraps",
    }
)
"""Decorators under which a function computes the same."""

MEMOS = frozenset({"functools.lru_cache", "functools.cache"})
"""Decorators that keep what a function returned, and return that once more."""

DISPATCH_COMMENT = re.compile(
    r"\b(jit|jitscript|torchscript|script\w*|compil\w*|capturable|foreach|fused|mypy"
    r"|dynamo|cuda ?graphs?|graph break)\b|nested if|kernel launches|device hosting",
    re.IGNORECASE,
)
"""Comments about the dispatch that is folded away."""


def without_dispatch_comments(node: Statement) -> Statement:
    """The statement without comments on which implementation is chosen."""
    kept = [
        line
        for line in node.leading_lines
        if line.comment is None or not DISPATCH_COMMENT.search(line.comment.value)
    ]
    return node.with_changes(leading_lines=kept)
