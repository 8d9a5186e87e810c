"""Users of the compiler, and no part of it: drift, versions, surveys, explanations."""
