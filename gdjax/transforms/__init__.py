"""Transforms that are parts of optimizers. Import from `gdjax`."""
