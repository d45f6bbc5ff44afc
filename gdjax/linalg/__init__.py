"""Matrices: their axes, factors and roots."""
