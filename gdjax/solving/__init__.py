"""Minima as functions: `solve`, its derivatives, constraints."""
