"""Functions of trees: the names of `optax.tree`, `global_norm` and `pairwise_sum`."""

from gdjax.tree import arithmetic, norms, states
from gdjax.tree.arithmetic import *
from gdjax.tree.norms import *
from gdjax.tree.states import *

__all__ = sorted(arithmetic.__all__ + norms.__all__ + states.__all__)
