"""What a data set holds, and what is worth a warning before one trains on it."""
