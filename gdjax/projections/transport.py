"""Projections onto the matrices of transport plans."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from gdjax.core import meshes
from gdjax.core.types import ArrayLike
from gdjax.projections.balls import simplex
from gdjax.projections.common import Array, floating_dtype, wide

__all__ = ["projection_birkhoff", "projection_transport"]


def projection_transport(sim_matrix: ArrayLike, marginals: tuple[ArrayLike, ArrayLike]) -> Any:
    """The nearest matrix of numbers at least 0 with these sums of rows and of columns: a transport plan.

        P = max(S + f 1^T + 1 g^T, 0),  with f and g such that P 1 = a and P^T 1 = b

    f and g minimize the dual, |P|^2 / 2 - <a, f> - <b, g>, by Newton's method, with the lowest point along each step.
    Once the zeros of P are known, f and g come from linear equations, and so do the derivatives.

    Args:
      sim_matrix: S, (m, n), real; for a cost matrix -C. `jax.vmap` for several.
      marginals: a and b, (m,) and (n,), at least 0 and of equal sums. Otherwise the result is NaN, as it is where 500
        steps do not meet the sums to half the digits.

    A step solves m + n equations: it is for matrices of up to some hundreds. The larger S is beside P, the more steps
    it takes: about 10 to 70 where it is 100 times as large, for 20 to 60 rows.

    Raises:
      ValueError: shapes that do not fit.
      TypeError: a complex matrix.

    JAXopt solves the semi-dual by L-BFGS to 1e-3.

    Example:
      >>> import gdjax, jax.numpy as jnp
      >>> a, b = jnp.array([0.5, 0.5]), jnp.array([0.75, 0.25])
      >>> S = jnp.array([[1.0, 0.0], [0.0, 0.5]])
      >>> plan = gdjax.projections.projection_transport(S, (a, b))
      >>> print(plan.round(3))
      [[0.5  0.  ]
       [0.25 0.25]]

    Reference:
      Blondel, Seguy & Rolet 2018, Smooth and sparse optimal transport, equation 7, https://arxiv.org/abs/1710.06276;
      Newton's step: Lorenz, Manns & Meyer 2021, Quadratically regularized optimal transport, section 3,
      https://arxiv.org/abs/1903.01112
    """
    return _transport("gdjax.projection_transport", sim_matrix, *marginals)


def projection_birkhoff(sim_matrix: ArrayLike) -> Any:
    """The nearest matrix of numbers at least 0 whose rows and columns each sum to 1.

    It is `projection_transport` with marginals of ones.

    Args:
      sim_matrix: (n, n), real.

    Raises:
      ValueError: the matrix is not square.
      TypeError: a complex matrix.

    Example:
      >>> import gdjax, jax.numpy as jnp
      >>> print(gdjax.projections.projection_birkhoff(jnp.array([[2.0, 0.0], [0.5, 1.0]])))
      [[1. 0.]
       [0. 1.]]

    Reference:
      Blondel, Seguy & Rolet 2018, as for `projection_transport`.
    """
    label = "gdjax.projection_birkhoff"
    m, n = (*jnp.shape(sim_matrix), 0, 0)[:2]
    if jnp.ndim(sim_matrix) == 2 and m != n:
        raise ValueError(f"{label}: sim_matrix must be square, got shape {(m, n)}")
    return _transport(label, sim_matrix, jnp.ones(m), jnp.ones(n))


def _transport(label: str, sim_matrix: ArrayLike, a: ArrayLike, b: ArrayLike) -> Any:
    S = wide(sim_matrix)
    if S.ndim != 2 or not S.size:
        raise ValueError(f"{label}: sim_matrix must be a matrix, got shape {S.shape}")
    if jnp.iscomplexobj(S):
        raise TypeError(f"{label}: sim_matrix is complex ({S.dtype}), and has no order")
    for i, sums in enumerate((a, b)):
        if jnp.shape(sums) != (S.shape[i],):
            raise ValueError(
                f"{label}: marginals[{i}] shape {jnp.shape(sums)} does not match sim_matrix shape {S.shape}"
            )
    a, b = (jnp.asarray(x).astype(S.dtype) for x in (a, b))
    f, g = _dual(*jax.lax.stop_gradient((S, a, b)))
    above = S + f[:, None] + g[None] > 0
    f, g = _with_zeros_known(S, a, b, jax.lax.stop_gradient(above))
    plan = jnp.maximum(jnp.where(above, S + f[:, None] + g[None], 0), 0)
    rounding = float(jnp.finfo(S.dtype).eps) ** 0.5
    error = jnp.maximum(jnp.max(jnp.abs(plan.sum(1) - a)), jnp.max(jnp.abs(plan.sum(0) - b)))
    possible = error <= rounding * (jnp.max(a) + jnp.max(jnp.abs(S)) * float(jnp.finfo(S.dtype).eps) ** 0.25)
    return jnp.where(possible, plan, jnp.nan).astype(floating_dtype(sim_matrix))


class Potentials(NamedTuple):
    count: Array  # () int32
    f: Array  # (m,)
    g: Array  # (n,)
    error: Array  # () the largest error of a sum


MOST_STEPS = 500
SHARE = 1e-5  # of the identity in Newton's matrix, which is singular where the entries above 0 do not join all rows


def _dual(S: Array, a: Array, b: Array) -> tuple[Array, Array]:
    """The minimum of the dual."""
    eps = float(jnp.finfo(S.dtype).eps)
    tol = 4 * eps * max(S.shape) * (jnp.max(jnp.abs(S)) + jnp.max(a))

    def slopes(f: Array, g: Array) -> tuple[Array, Array, Array]:
        """The plan, and the slopes of the dual, the errors of its sums."""
        plan = jnp.maximum(S + f[:, None] + g[None], 0)
        return plan, plan.sum(1) - a, plan.sum(0) - b

    def step(s: Potentials) -> Potentials:
        f, g = s.f, s.g
        plan, df, dg = slopes(f, g)
        K = _matrix(plan > 0).astype(S.dtype)
        d = jnp.linalg.solve(K + SHARE * jnp.eye(len(K), dtype=K.dtype), -jnp.concatenate([df, dg]))
        df, dg = d[: a.size], d[a.size :]

        def narrowed(_: Any, ends: tuple[Array, Array]) -> tuple[Array, Array]:
            """Half of the interval that has the lowest point along the direction."""
            low, high = ends
            t = (low + high) / 2
            _, of_f, of_g = slopes(f + t * df, g + t * dg)
            falls = jnp.sum(of_f * df) + jnp.sum(of_g * dg) < 0
            return jnp.where(falls, t, low), jnp.where(falls, high, t)

        t, _ = meshes.fori_loop(24, narrowed, (jnp.zeros((), S.dtype), jnp.full((), 2, S.dtype)))
        f, g = f + t * df, g + t * dg
        _, df, dg = slopes(f, g)
        return Potentials(s.count + 1, f, g, jnp.max(jnp.abs(jnp.concatenate([df, dg]))))

    f = jax.vmap(_level)(S, a)
    g = jax.vmap(_level)(S.T + f[None], b)
    start = Potentials(jnp.zeros((), jnp.int32), f, g, jnp.full((), jnp.inf, S.dtype))
    end = meshes.while_loop(lambda s: (s.error > tol) & (s.count < MOST_STEPS), step, start)
    return end.f, end.g


def _level(v: Array, total: Array) -> Array:
    """The number to add to v, so that what is above 0 sums to the total."""
    return jnp.max(simplex(v, total)) - jnp.max(v)


def _matrix(support: Array) -> Array:
    """The second derivative of the dual, by f and g."""
    T = support.astype(jnp.result_type(float))
    return jnp.block([[jnp.diag(T.sum(1)), T], [T.T, jnp.diag(T.sum(0))]])


def _with_zeros_known(S: Array, a: Array, b: Array, support: Array) -> tuple[Array, Array]:
    """f and g, where the entries outside of the support are 0 and all others count."""
    K = _matrix(support).astype(S.dtype)
    known = jnp.where(support, S, 0)
    right = jnp.concatenate([a - known.sum(1), b - known.sum(0)])
    inverse = jnp.linalg.pinv(K, hermitian=True)
    x = jnp.matmul(inverse, right, precision="highest")
    x = x + jnp.matmul(inverse, right - jnp.matmul(K, x, precision="highest"), precision="highest")
    return x[: a.size], x[a.size :]
