"""What the columns of a stored table hold."""
