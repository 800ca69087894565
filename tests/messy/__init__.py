"""Files as they are met in the world, each with where it is from and what has to come of it."""
