"""What is known about a body, statement by statement. Nothing here rewrites."""
