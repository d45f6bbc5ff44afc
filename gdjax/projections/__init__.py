"""Euclidean projections, the names of `optax.projections`: the nearest point of a set to a tree of arrays.

    projection(x) = argmin_y |x - y|^2  subject to  y in the set

The leaves of a tree count as one long vector. Results have the dtypes of the leaves, or floating ones for whole numbers
where the set has others; 16-bit leaves are computed in float32. Sizes may be traced. An empty tree stays as it is.
"""

from gdjax.projections.balls import (
    projection_l1_ball,
    projection_l1_sphere,
    projection_l2_ball,
    projection_l2_sphere,
    projection_simplex,
)
from gdjax.projections.boxes import (
    projection_box,
    projection_halfspace,
    projection_hypercube,
    projection_hyperplane,
    projection_linf_ball,
    projection_non_negative,
    projection_vector,
)

__all__ = [
    "projection_box",
    "projection_halfspace",
    "projection_hypercube",
    "projection_hyperplane",
    "projection_l1_ball",
    "projection_l1_sphere",
    "projection_l2_ball",
    "projection_l2_sphere",
    "projection_linf_ball",
    "projection_non_negative",
    "projection_simplex",
    "projection_vector",
]
