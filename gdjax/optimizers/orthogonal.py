"""What Muon and its kin share: the arguments of Newton-Schulz."""

from typing import Any

import jax.numpy as jnp

from gdjax.core import base
from gdjax.core.base import GradientTransformation
from gdjax.core.types import DTypeLike, Scalar
from gdjax.lift.leafwise import Hyper
from gdjax.lift.whole_tree import Whole
from gdjax.linalg.polar import Polar
from gdjax.linalg.polar_coefficients import Coefficients, coefficients
from gdjax.numerics import Array


def real_for(ns_dtype: DTypeLike | None, g: Array) -> None:
    """Raises for complex numbers where factors are rounded."""
    if ns_dtype is not None and jnp.iscomplexobj(g):
        raise TypeError(f"ns_dtype {jnp.dtype(ns_dtype)} does not support complex numbers ({g.dtype})")


# The slot of the coefficients of Newton-Schulz.
NS_COEFFS = Whole(
    lambda _, given: coefficients(given["label"], given["ns_coeffs"], given["ns_steps"]), "ns_coeffs", seen=True
)


def check_polar(
    label: str, ns_steps: Hyper, ns_coeffs: Coefficients, preconditioning: str, equilibrate: str | None = None,
    renormalize: str | None = None, **_: Any,
) -> None:  # fmt: skip
    """Raises unless these settings are some of Newton-Schulz."""
    coefficients(label, ns_coeffs, ns_steps)
    Polar(ns_steps, preconditioning, None, equilibrate, renormalize).checked(label)


def checked(label: str, rule: GradientTransformation) -> Any:
    """A rule with Newton-Schulz among its arguments, under this name."""
    part = base.part_of(rule)
    check_polar(label, **part.hyper, **part.settings)
    return part.labelled(label)


def by_shape(rows: int, columns: int, consistent_rms: Scalar | None) -> Any:
    if consistent_rms is None:
        return max(1, columns / max(rows, 1)) ** 0.5
    return max(rows, columns) ** 0.5 * consistent_rms
