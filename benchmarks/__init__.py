"""Time and memory of meta-gradients, side by side; see README.md here."""
