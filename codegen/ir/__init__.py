"""Control flow of a function's statements, and one solver over it."""
