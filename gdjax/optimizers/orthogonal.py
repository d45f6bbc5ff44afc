"""What Muon and the like share: the arguments of Newton-Schulz."""

from collections.abc import Mapping
from typing import Any

import jax.numpy as jnp

from gdjax.core.types import DTypeLike, Scalar
from gdjax.lift.slots import Whole
from gdjax.linalg.polar import coefficients
from gdjax.numerics import Array


def refuse_complex(ns_dtype: DTypeLike | None, g: Array) -> None:
    """Raises for complex numbers where factors are rounded."""
    if ns_dtype is not None and jnp.iscomplexobj(g):
        raise TypeError(f"ns_dtype {jnp.dtype(ns_dtype)} does not support complex numbers ({g.dtype})")


def _coefficients(arguments: Mapping[str, Any]) -> Array:
    return coefficients(arguments["label"], arguments["ns_coeffs"], arguments["ns_steps"])


# The slot of the coefficients of Newton-Schulz.
NS_COEFFS = Whole(lambda _, arguments: _coefficients(arguments), "ns_coeffs", seen=True, check=_coefficients)


def by_shape(rows: int, columns: int, consistent_rms: Scalar | None) -> Any:
    if consistent_rms is None:
        return max(1, columns / max(rows, 1)) ** 0.5
    return max(rows, columns) ** 0.5 * consistent_rms
