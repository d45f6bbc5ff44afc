"""Proximal maps: the step that a penalty h, which need not be smooth, makes beside a gradient step.

    prox(x, step) = argmin_y  step h(y) + |y - x|^2 / 2

Each function here takes weights and returns such a map of trees. Both optimizers that take one are
`gdjax.proximal_gradient`, which has its own step size, and `gdjax.proximal`, a wrapper around another optimizer.

A weight is a number, an array that broadcasts to each leaf (or to its groups), or a tree of these like the parameters
or a prefix of it; it may be traced, and has a derivative. A leaf whose weight is the number 0 is left as it is. `step`
is a scalar, or such a tree: one number for each element is the metric of an optimizer such as Adam.

Results have the dtypes of the leaves; 16-bit leaves are computed in float32. Equal calls make equal maps, which hash
and print by the call. Any function `(tree, step) -> tree` of yours may stand in the place of a map.
"""

from gdjax.prox import groups, separable, sets, variation
from gdjax.prox.groups import *
from gdjax.prox.separable import *
from gdjax.prox.sets import *
from gdjax.prox.variation import *

__all__ = sorted(groups.__all__ + separable.__all__ + sets.__all__ + variation.__all__)
