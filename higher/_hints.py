"""What torch's errors mean in an inner loop, and what to do about them."""

from __future__ import annotations

_COPIED = (
    "with copy_initial_weights=True the fast weights start as detached copies, so "
    "nothing flows back to model.parameters(). Pass copy_initial_weights=False to "
    "innerloop_ctx to differentiate with respect to them, or differentiate with "
    "respect to fmodel.parameters(time=0)."
)

_FIRST_ORDER = (
    "torch has no second derivative of this operation, and a gradient through inner "
    "steps needs one. {instead}With order=1 in innerloop_ctx or unroll, inner gradients "
    "are constants (first-order MAML), and none is needed."
)

_FROZEN = (
    "after a step, fast weights are results of it, not leaves. To step one no longer, "
    "put None in the place of its gradient: diffopt.step(loss, grad_callback=lambda "
    "grads: [None if frozen else g for ...]). To unfreeze one, requires_grad_() works."
)

_INSTEAD = {
    "_cdist_backward": "torch.cdist has one for Euclidean distances with "
    "compute_mode='use_mm_for_euclid_dist'; others can be written out: "
    "(a.unsqueeze(-2) - b.unsqueeze(-3)).norm(p, dim=-1). ",
    "_pdist_backward": "Distances within a set can be written with torch.cdist(x, x, "
    "compute_mode='use_mm_for_euclid_dist') and torch.triu_indices. ",
    "_embedding_bag_backward": "nn.EmbeddingBag can be written as nn.Embedding followed "
    "by sum, mean or amax over each bag. ",
    "multi_margin_loss_backward": "nn.MultiMarginLoss can be written out: "
    "(margin - x.gather(1, y[:, None]) + x).clamp(min=0), without the target's own "
    "column, which is constant. ",
    "multilabel_margin_loss_backward": "nn.MultiLabelMarginLoss can be written out: "
    "the sum of (1 - (x[target] - x[other])).clamp(min=0). ",
    "_segment_reduce_backward": "torch.segment_reduce can be written with "
    "Tensor.index_add or scatter_reduce. ",
    "attention": "Call attention as torch.nn.functional.scaled_dot_product_attention "
    "(not by a name imported before), or inside torch.nn.attention.sdpa_kernel("
    "torch.nn.attention.SDPBackend.MATH). ",
    "_cudnn_rnn_backward": "Recurrent layers have one without cuDNN: "
    "torch.backends.cudnn.flags(enabled=False). ",
}
"""By a part of the name of the backward that has no derivative."""


def add_hint(error: RuntimeError, copied: bool) -> None:
    """Says, below what torch does, why it does and what to do.

    Args:
        error: raised in an inner loop.
        copied: whether the fast weights started as copies.
    """
    hint = _hint(str(error.args[0]), copied) if error.args else ""
    if hint:
        error.args = (f"{error.args[0]}\nHint: {hint}", *error.args[1:])


def _hint(message: str, copied: bool) -> str:
    if "Hint: " in message:
        return ""  # of a context within this one
    if copied and "used in the graph" in message:
        return _COPIED
    if "change requires_grad flags of leaf" in message:
        return _FROZEN
    if "derivative for" not in message or "is not implemented" not in message:
        return ""
    fits = (text for name, text in _INSTEAD.items() if name in message)
    return _FIRST_ORDER.format(instead=next(fits, ""))
