"""Transforms of the gradients of single examples: a list of Optax's `optax.experimental.aggregating`."""

from gdjax.experimental.aggregators import *
from gdjax.experimental.variance import *

__all__ = sorted(name for name in vars() if name[0] != "_")
