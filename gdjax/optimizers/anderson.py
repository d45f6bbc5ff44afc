"""Anderson acceleration of the steps of another optimizer."""

from typing import Annotated, Any, NamedTuple

import jax
import jax.numpy as jnp

from gdjax import numerics, tree
from gdjax.core import base, checks, meshes
from gdjax.core.base import GradientTransformation, transform
from gdjax.core.number_domains import ABOVE_0, SIZE
from gdjax.core.parts import holding
from gdjax.core.types import OptState, Params, Scalar, Transform, Updates
from gdjax.linalg import quasi_newton, vectors
from gdjax.linalg.quasi_newton import Vector
from gdjax.linalg.vectors import replaced, trained
from gdjax.linesearch.line import fit
from gdjax.numerics import Array, divide

__all__ = ["AndersonState", "anderson"]


class AndersonState(NamedTuple):
    """State of `anderson`; point j is in slot j modulo the size of the history."""

    count: Array  # () int32, points since the history last began anew
    norm: Array  # () |u| at the last update
    params_memory: Params  # x, like the parameters with a leading axis of slots
    updates_memory: Updates  # u, likewise
    inner_state: OptState


@transform
def anderson(
    inner: Transform, history: int = 5, *, ridge: Annotated[Scalar, SIZE] = 1e-6,
    max_growth: Annotated[Scalar, ABOVE_0] = 2.0,
) -> GradientTransformation:  # fmt: skip
    """Anderson acceleration: the next point is a mixture of where the last steps of another optimizer would have led.

        x_{t+1} = sum_j a_j (x_j + u_j)    over the last m + 1 points x_j, with the updates u_j of `inner` there
        a = argmin |sum_j a_j u_j|^2  with  sum_j a_j = 1

    For steps that are one map x -> x + u of the point, such as `sgd` and `proximal_gradient(rate, prox,
    accelerate=False)` with the gradient of all data: it ends where they end, in fewer steps. On a quadratic with
    gradient descent inside, each step is about one of GMRES without restarts. Momentum, moments and noise make each
    step another map; a line search inside leaves its value at another point.

    Args:
      inner: the optimizer.
      history: m, at least 1. The state holds 2 m copies of the parameters.
      ridge: is added to the diagonal of the matrix of the products of u_j - u_t over their norms, at least 0.
      max_growth: where |u_t| > max_growth |u_{t-1}|, the next point is x_{t-1} + u_{t-1}, the plain step of before, and
        the history begins anew; above 0, infinity for never.

    A mixture that is not finite gives way to u_t. A u_t that is not finite shows in the update and is not kept.

    Departs from JAXopt's `AndersonAcceleration`, whose ridge is a number beside |u|^2, so that the mixture ends in the
    mean once |u| is small, and which never goes back.

    Raises:
      ValueError: (in update) params is missing.

    Example:
      >>> import gdjax, jax.numpy as jnp
      >>> loss = lambda x: (x[0] ** 2 + 50 * x[1] ** 2) / 2
      >>> tx = gdjax.anderson(gdjax.sgd(0.02))
      >>> result = gdjax.minimize(loss, jnp.ones(2), tx, steps=10)
      >>> bool(jnp.abs(result.params).max() < 1e-3)  # 0.98 ** 10 = 0.8 without
      True

    Reference:
      Walker & Ni 2011, Anderson acceleration for fixed-point iterations, Algorithm AA,
      https://doi.org/10.1137/10078356X; the return to a plain step: Zhang, O'Donoghue & Boyd 2020, Globally convergent
      type-I Anderson acceleration for nonsmooth fixed-point iterations, https://arxiv.org/abs/1808.03971
    """
    label = "gdjax.anderson"
    base.check_transform(label, 0, inner)
    history = checks.structural(label, "history", history, 1)
    checks.unscheduled(label, {"ridge": ridge, "max_growth": max_growth})

    def init(params: Params) -> AndersonState:
        checks.leaves(label, "params", params)
        memory = lambda: jax.tree.map(lambda p: vectors.zeros_of(p, history), params)
        count, norm = jnp.zeros((), jnp.int32), jnp.zeros((), numerics.widest_real(params))
        return AndersonState(count, norm, memory(), memory(), inner.init(params))

    def update(
        updates: Updates, state: OptState, params: Params = None, **extra_args: Any
    ) -> tuple[Any, AndersonState]:
        checks.state(label, state, AndersonState)
        checks.params(label, params)
        us, inner_state = base.call_update(inner, updates, state.inner_state, params, extra_args)
        fit(label, "updates", us, params)
        of_slot = lambda memory: jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape[1:], x.dtype), memory)
        checks.slots(label, us, params=of_slot(state.params_memory))
        p, u = (numerics.widen(trained(label, x, us), state.norm.dtype) for x in (params, us))
        X, U = (trained(label, x, us) for x in (state.params_memory, state.updates_memory))
        memory = _Memory(state.count, state.norm, X, U)
        u, memory = meshes.partitioned(_step, (u, memory), memory, p, u, ridge, max_growth)
        new_state = AndersonState(
            memory.count,
            memory.norm,
            replaced(label, state.params_memory, us, memory.X),
            replaced(label, state.updates_memory, us, memory.U),
            inner_state,
        )
        return replaced(label, us, us, u), new_state

    return holding(init, update, like="params_memory updates_memory", inner_state=inner, growth="same")


class _Memory(NamedTuple):
    count: Array
    norm: Array
    X: Vector
    U: Vector


def _step(memory: _Memory, p: Vector, u: Vector, ridge: Scalar, max_growth: Scalar) -> tuple[Vector, _Memory]:
    """The update, and the memory with the point p and its u."""
    if not u:
        return u, memory
    count, norm, slots = memory.count, tree.global_norm(u).astype(memory.norm.dtype), len(memory.X[0])
    finite = jnp.isfinite(norm)
    grown = finite & (count > 0) & (norm > jnp.asarray(max_growth).astype(norm.dtype) * memory.norm)
    X, U = numerics.widen((memory.X, memory.U), norm.dtype)
    known = jnp.arange(slots, dtype=count.dtype) < count
    less = lambda M, v: [jnp.where(known.reshape(-1, *[1] * y.ndim), x - y[None], 0) for x, y in zip(M, v, strict=True)]
    as_kept = tree.cast_like(tree.cast_like(u, memory.U), u)
    weights = _weights(less(U, as_kept), as_kept, ridge)
    ends, end = ([x + y for x, y in zip(*xs, strict=True)] for xs in ((X, U), (p, u)))
    mixture = lambda e: jnp.tensordot(weights.astype(e.dtype), e, 1, precision="highest")
    mixed = [v + mixture(e) for v, e in zip(u, less(ends, end), strict=True)]
    usable = jnp.isfinite(tree.global_norm(mixed))
    back = [e[(count - 1) % slots] - x for e, x in zip(ends, p, strict=True)]
    new = tree.where(grown, back, tree.where(usable, mixed, u))

    kept = finite & ~grown
    at = count % slots
    pushed = lambda M, v: [jnp.where(kept, m.at[at].set(x.astype(m.dtype)), m) for m, x in zip(M, v, strict=True)]
    count = jnp.where(grown, 0, jnp.where(finite, numerics.safe_increment(count), count))
    return new, _Memory(count, jnp.where(finite, norm, memory.norm), pushed(memory.X, p), pushed(memory.U, u))


def _weights(D: Vector, u: Vector, ridge: Scalar) -> Array:
    """The w that makes |u + sum_j w_j D_j| least, but for the ridge; about 0 for a D_j that is rounding."""
    unit = quasi_newton.unit([*D, *u])
    D, u = quasi_newton.over(D, unit), quasi_newton.over(u, unit)
    products = jax.vmap(jax.vmap(quasi_newton.dot, (None, 0)), (0, None))(D, D)
    sizes, least = numerics.sqrt(jnp.diagonal(products)), 16 * float(jnp.finfo(products.dtype).eps)
    sizes = jnp.where(sizes > least * numerics.sqrt(quasi_newton.square(u)), sizes, 0)
    products = divide(divide(products, sizes[:, None]), sizes[None])
    right = divide(jax.vmap(quasi_newton.dot, (0, None))(D, u), sizes)
    ridge = jnp.where(sizes == 0, 1, jnp.asarray(ridge).astype(sizes.dtype))
    return divide(-jnp.linalg.solve(products + jnp.diag(ridge), right), sizes)
