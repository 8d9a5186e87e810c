"""Inner steps as graphs that ``torch.compile`` makes.

A compiled function can't be differentiated twice. So a whole step is one: forward, inner
gradient and update together, which is differentiated once, from outside. torch traces it
as it runs, under its own tensors without values, autograd included: ``no_grad``, hooks and
functions with a backward of their own mean what they mean in eager steps.
"""
