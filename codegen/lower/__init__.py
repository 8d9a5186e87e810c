"""Upstream's shape into the README's: one in-place loop over the parameters."""
