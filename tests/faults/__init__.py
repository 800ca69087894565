"""Faults made for real, against the real stack."""
