"""Many inner loops at once: tasks as a leading dimension of weights and state.

Weights, buffers and optimizer state of all tasks are stacked. A forward, or a loss that is
written for one task, is mapped over them by ``torch.func.vmap``; gradients are taken
outside of it, where those of one task's loss by its own weights are those of the sum.
"""
