"""Euclidean projections, by the names of `optax.projections` and JAXopt: the nearest point of a set to a tree.

    projection(x) = argmin_y |x - y|^2  subject to  y in the set

The leaves of a tree count as one long vector. Results have the dtypes of the leaves, or floating ones for whole numbers
where the set has others; 16-bit leaves are computed in float32. Sizes may be traced. An empty tree stays as it is.
"""

from gdjax.projections import balls, boxes, polyhedra, transport
from gdjax.projections.balls import *
from gdjax.projections.boxes import *
from gdjax.projections.polyhedra import *
from gdjax.projections.transport import *

__all__ = sorted(balls.__all__ + boxes.__all__ + polyhedra.__all__ + transport.__all__)
