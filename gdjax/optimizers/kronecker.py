"""What the optimizers with Kronecker factors share."""

from typing import Any

from gdjax.lift.leafwise import Hyper
from gdjax.matrices.kronecker import adjoint, averaged, gram
from gdjax.numerics import Array


def with_factors(G: Array, s: Any, beta: Hyper) -> Any:  # noqa: N803
    """The state with new averages of G G^T and G^T G."""
    left, right = averaged(s.L, lambda: gram(G), beta), averaged(s.R, lambda: gram(adjoint(G)), beta)
    return s._replace(L=left, R=right)
