"""The linear assignment problem."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from gdjax.core.types import Array


class _Matching(NamedTuple):
    """A matching of rows to columns with the dual variables that prove it optimal."""

    u: Array  # (n,) of the rows
    v: Array  # (m,) of the columns
    row_of: Array  # (m,) int, the row matched to a column, -1 for none
    column_of: Array  # (n,) int, the column matched to a row, -1 for none


class _Search(NamedTuple):
    """Shortest alternating paths from one row; the length of a pair is its reduced cost, C[i, j] - u[i] - v[j]."""

    length: Array  # (m,) of the shortest path to a column so far
    before: Array  # (m,) int, the row before a column on it
    settled: Array  # (m,) bool, the columns whose length is final
    row: Array  # () int, the row to go on from; -1 at the end
    column: Array  # () int, the column settled last


def hungarian_algorithm(cost_matrix: ArrayLike) -> tuple[Array, Array]:
    """Assigns rows to columns at the least total cost, each to at most one, min(n, m) pairs in all.

        minimize sum_ij C_ij X_ij  over X_ij in {0, 1},  sum_i X_ij <= 1,  sum_j X_ij <= 1,  sum_ij X_ij = min(n, m)

    Rows are added one by one, each by a shortest augmenting path in the reduced costs: O(min(n, m)^2 max(n, m)) in all.

    Args:
      cost_matrix: C, (n, m), computed in float32 or wider. A pair that costs infinity or NaN is forbidden; where no
        assignment does without forbidden pairs, the result has as few of them as possible.

    Returns:
      Rows and columns of the pairs, two vectors of min(n, m) integers, the rows ascending; `cost_matrix[i, j].sum()` is
      the cost. Runs under `jit` and `vmap`.

    Raises:
      ValueError: the costs are not a matrix of real numbers.

    Departures: Optax's function of this name returns the pairs of a rectangular matrix in no order, and
    `base_hungarian_algorithm`, a second implementation there, does not end where infinite costs leave no assignment.

    Example:
      >>> import gdjax, jax.numpy as jnp
      >>> cost = jnp.array([[4.0, 1.0, 3.0], [2.0, 0.0, 5.0]])
      >>> i, j = gdjax.assignment.hungarian_algorithm(cost)
      >>> print(i, j, cost[i, j].sum())
      [0 1] [1 0] 3.0

    Reference:
      Crouse 2016, On implementing 2D rectangular assignment algorithms, section II,
      https://doi.org/10.1109/TAES.2016.140952
    """
    cost = jnp.asarray(cost_matrix)
    if cost.ndim != 2 or jnp.issubdtype(cost.dtype, jnp.complexfloating):
        raise ValueError(
            f"gdjax.hungarian_algorithm: cost_matrix has shape {cost.shape} and dtype {cost.dtype}, "
            "expected a matrix of real numbers"
        )
    if cost.size == 0:
        return jnp.zeros(0, int), jnp.zeros(0, int)
    if cost.shape[0] > cost.shape[1]:
        columns = _columns(_finite(cost.T))
        order = jnp.argsort(columns)
        return columns[order], order
    return jnp.arange(cost.shape[0], dtype=int), _columns(_finite(cost))


base_hungarian_algorithm = hungarian_algorithm


def _finite(cost: Array) -> Array:
    """The costs in float32 or wider; a forbidden pair costs more than any assignment without one."""
    with jax.numpy_dtype_promotion("standard"):
        cost = jax.lax.stop_gradient(cost.astype(jnp.promote_types(cost.dtype, jnp.float32)))
    known = jnp.isfinite(cost)
    spread = jnp.max(cost, where=known, initial=0) - jnp.min(cost, where=known, initial=0)
    far = (min(cost.shape) + 1) * (spread + 1)
    return jnp.where(known, cost, jnp.where(cost == -jnp.inf, -far, far))


def _columns(cost: Array) -> Array:
    """The column of each row, for a matrix that has at least as many columns."""
    n, m = cost.shape
    none = jnp.full(m, -1), jnp.full(n, -1)
    empty = _Matching(jnp.zeros(n, cost.dtype), jnp.zeros(m, cost.dtype), *none)
    return jax.lax.fori_loop(0, n, lambda row, matching: _add_row(cost, matching, row), empty).column_of


def _add_row(cost: Array, old: _Matching, row: Array) -> _Matching:
    m = cost.shape[1]
    start = _Search(jnp.full(m, jnp.inf, cost.dtype), jnp.full(m, -1), jnp.zeros(m, bool), row, jnp.asarray(-1))
    end = jax.lax.while_loop(lambda s: s.row >= 0, lambda s: _settle(cost, old, s), start)
    # The duals that make the pairs on the shortest paths cost nothing.
    shift = jnp.where(end.settled, end.length[end.column] - end.length, 0)
    u = old.u.at[row].add(end.length[end.column])
    u = u.at[jnp.where(old.row_of >= 0, old.row_of, len(u))].add(shift, mode="drop")

    def flip(carry: tuple[Array, Array, Array, Array]) -> tuple[Array, Array, Array, Array]:
        row_of, column_of, column, _ = carry
        i = end.before[column]
        return row_of.at[column].set(i), column_of.at[i].set(column), column_of[i], i != row

    path = old.row_of, old.column_of, end.column, jnp.asarray(True)
    row_of, column_of, _, _ = jax.lax.while_loop(lambda carry: carry[3], flip, path)
    return _Matching(u, old.v - shift, row_of, column_of)


def _settle(cost: Array, matching: _Matching, s: _Search) -> _Search:
    """Goes on from the last row, and settles the nearest column."""
    so_far = jnp.where(s.column >= 0, s.length[s.column], 0)
    length = so_far + cost[s.row] - matching.u[s.row] - matching.v
    nearer = ~s.settled & (length < s.length)
    length, before = jnp.where(nearer, length, s.length), jnp.where(nearer, s.row, s.before)
    column = jnp.argmin(jnp.where(s.settled, jnp.inf, length))
    return _Search(length, before, s.settled.at[column].set(True), matching.row_of[column], column)
