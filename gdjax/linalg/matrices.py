"""Arrays as matrices: which axes form one, and functions of matrices of one shape, or its transpose, together."""

import functools
import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from gdjax.core import base, meshes
from gdjax.linalg import stacks
from gdjax.numerics import Array
from gdjax.xla.write_order import LARGE, kept

__all__ = ["Matrix"]

highest = functools.partial(jnp.matmul, precision=jax.lax.Precision.HIGHEST)


class Matrix(NamedTuple):
    """How an array is a matrix, or several: which axes are its rows (inputs) and its columns (outputs).

    Along the axes not named lie independent matrices.

    Example:
      >>> import gdjax
      >>> torch = gdjax.Matrix(reduction_axis=1, output_axis=0)  # (outputs, inputs)
      >>> query = gdjax.Matrix(reduction_axis=0, output_axis=(1, 2))  # (inputs, heads, size)
      >>> numbers = gdjax.matrices_by_role({"linear/weight": torch, "query": query})
      >>> tx = gdjax.muon(1e-3, muon_weight_dimension_numbers=numbers)
    """

    reduction_axis: Sequence[int] | int = -2  # the inputs, one axis or several
    output_axis: Sequence[int] | int = -1  # the outputs
    parts: int | Sequence[int] = 1  # the outputs are of so many matrices alike, or of matrices of these sizes: q, k, v


class Axes(NamedTuple):
    """The axes of an array by their part in a matrix; along the batch axes lie independent matrices."""

    batch: tuple[int, ...]
    rows: tuple[int, ...]
    columns: tuple[int, ...]

    def sizes(self, shape: Sequence[int]) -> tuple[int, int, int]:
        batch, rows, columns = (math.prod(shape[i] for i in axes) for axes in self)
        return batch, rows, columns

    def to_matrices(self, x: Array) -> Array:
        """x as (batch, rows, columns)."""
        return x.transpose(sum(self, ())).reshape(self.sizes(x.shape))

    def from_matrices(self, matrices: Array, shape: Sequence[int]) -> Array:
        """The array of that shape that has these matrices."""
        order = sum(self, ())
        return matrices.reshape([shape[i] for i in order]).transpose(sorted(range(len(order)), key=order.__getitem__))


def axes_of(where: str, name: str, axis: int | Sequence[int], ndim: int) -> tuple[int, ...]:
    """One axis or several as a tuple of numbers from 0; errors begin with `where` and call them `name`."""
    given = (axis,) if isinstance(axis, int) else tuple(axis)
    if any(not -ndim <= i < ndim for i in given) or len({i % ndim for i in given}) < len(given):
        raise ValueError(f"{where}: {name} {axis} does not name different axes of an array with {ndim}")
    return tuple(i % ndim for i in given)


def matrix_axes(where: str, shape: Sequence[int], numbers: Any) -> Axes:
    """How the dimension numbers `(reduction_axis, output_axis)` make matrices of an array of that shape.

    Raises:
      ValueError: fewer than two axes; axes that are not there or named twice.
    """
    if len(shape) < 2:
        raise ValueError(f"{where}: shape {tuple(shape)} is no matrix")
    rows = axes_of(where, "reduction_axis", numbers.reduction_axis, len(shape))
    columns = axes_of(where, "output_axis", numbers.output_axis, len(shape))
    if set(rows) & set(columns):
        raise ValueError(f"{where}: reduction_axis {rows} and output_axis {columns} of shape {tuple(shape)} overlap")
    return Axes(tuple(i for i in range(len(shape)) if i not in rows + columns), rows, columns)


def is_numbers(x: object) -> bool:
    """Whether `x` says how an array is a matrix: a `Matrix`, or dimension numbers, of Optax too."""
    return getattr(x, "_fields", ())[:2] == ("reduction_axis", "output_axis")


def can_be_matrix(x: ArrayLike) -> bool:
    """Whether `x` is a floating array of two axes."""
    return np.ndim(x) == 2 and is_trained(x)


def is_trained(x: object) -> bool:
    """Whether `x` is a floating array or number."""
    known = hasattr(x, "dtype") or isinstance(x, float | complex)
    return known and not base.is_float0(x) and jnp.issubdtype(jnp.result_type(x), jnp.inexact)


def in_groups(f: Callable[[Array], Array], matrices: Sequence[Array], rounded: bool = False) -> list[Array]:
    """`gdjax.in_stacks` of one list, in which matrices of one shape and those of its transpose are alike.

    Args:
      f: from (n, rows, columns), or (rows, columns), to the same shape, for which f(X^T) = f(X)^T.
      matrices: each (batch, rows, columns), not divided along explicit axes. Tall ones are transposed, large ones on a
        GPU only.
      rounded: f rounds the factors of its products. A CPU is slow at a product with a factor that is rounded and
        transposed, as in X^T X: large tall matrices are then transposed there too.
    """
    if meshes.mesh() is not None:
        wide = [x.shape[1] <= x.shape[2] for x in matrices]
        ys = stacks.each_at_home(jax.jit(f), [x if w else x.mT for x, w in zip(matrices, wide, strict=True)])
        return [y if w else y.mT for y, w in zip(ys, wide, strict=True)]

    def on(most: float, wide: bool = False) -> Callable[[list[Array]], list[Array]]:
        # Matrices alike share one trace, on one kind of device.
        of = jax.jit(lambda x: f(kept(x) if x.shape[-1] * x.shape[-2] >= most else x))
        return functools.partial(_in_groups, of, most, wide)

    gpu = on(math.inf)
    return meshes.branches(list(matrices), cuda=gpu, rocm=gpu, cpu=on(LARGE, rounded), default=on(LARGE))


def _in_groups(f: Callable[[Array], Array], most: float, always_wide: bool, matrices: list[Array]) -> list[Array]:
    alone = [x.shape[1] * x.shape[2] >= most for x in matrices]
    turned = [x.shape[1] > x.shape[2] and (always_wide or not a) for x, a in zip(matrices, alone, strict=True)]
    ys = stacks.in_turn(f, most, [x.mT if t else x for x, t in zip(matrices, turned, strict=True)])
    return [y.mT if t else y for y, t in zip(ys, turned, strict=True)]
