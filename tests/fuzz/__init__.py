"""Random in-place optimizers, and what holds their translations to them."""
