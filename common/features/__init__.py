"""Columns to a float32 matrix and back: fitted on training rows only, and part of every model."""
