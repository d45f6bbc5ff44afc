"""Hyperball: weights keep the norm that they start with, and updates have a length of their own."""

from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from gdjax import numerics
from gdjax.core import meshes
from gdjax.core.base import MaskedNode
from gdjax.core.growth import of_roles, relative
from gdjax.core.types import OptState, Params, Roles
from gdjax.leaf_roles.plan import Leaf, of_leaf, plan_of, routing
from gdjax.lift.leafwise import Hyper, hyper
from gdjax.lift.slots import Planned
from gdjax.lift.wrapper import wrapper
from gdjax.numerics import Array, below_overflow
from gdjax.numerics.bounds import as_added

__all__ = ["HyperballState", "hyperball"]

KEPT = "matrix", "head"  # the roles of the leaves whose norms are kept, as in the authors' code


class HyperballState(NamedTuple):
    """State of `hyperball`."""

    inner_state: OptState  # of the optimizer
    # For each matrix () its first norm: a list of (number,) for each leaf; MaskedNode where none is kept.
    radius: Params


def _norms(x: Array) -> tuple[Array, Array]:
    """`unit_and_norm` of each matrix of a stack."""
    return numerics.unit_and_norm(x, (1, 2))


def _first(params: Params, arguments: Mapping[str, Any]) -> list[Any]:
    """The norms of the matrices, a list for each leaf."""
    radii: list[Any] = []
    leaves = plan_of("gdjax.hyperball", params, routing(arguments["roles"])).leaves
    for p, leaf in zip(jax.tree.leaves(params), leaves, strict=True):
        real = numerics.widest_real(p)

        def norms(p: Array, leaf: Leaf = leaf, real: np.dtype = real) -> list[Array]:
            return [
                below_overflow(unit * norm)[:, 0, 0] for unit, norm in map(_norms, leaf.split(numerics.widen(p, real)))
            ]

        if leaf.role not in KEPT:
            radii.append(MaskedNode())
        elif isinstance(p, jax.ShapeDtypeStruct):
            radii.append([jnp.zeros(number, real) for number, _, _ in leaf.sizes])
        else:
            radii.append(meshes.partitioned(norms, [None] * len(leaf.sizes), jnp.asarray(p)))
    return radii


def _on_the_sphere(p: Array, u: Array, R: Array, lr: Hyper) -> Array:
    """R (p + lr R u / |u|) / |...| - p for each matrix of a stack."""
    unit, norm = _norms(u)
    R, known = R[:, None, None], norm > 0
    step = lr * (u * (1 / unit).astype(u.dtype) / jnp.where(norm == 0, 1, norm).astype(u.dtype))
    scale = jnp.where(R == 0, 1, R)
    new = p / scale.astype(p.dtype) + step
    unit, norm = _norms(new)
    new = new * (scale / unit / jnp.where(norm == 0, 1, norm)).astype(new.dtype)
    new = jnp.where((norm == 0) | ~known & ~jnp.isnan(norm), p, new)
    return jnp.where(R == 0, u, new - p)


@wrapper(HyperballState, static={"roles": of_leaf(routing)}, radius=Planned(_first), growth=of_roles(KEPT, relative))
def hyperball(
    u: Array, g: Array, s: HyperballState, p: Array, t: Array,
    learning_rate: hyper.Rate, roles: Roles = None,
    *, ascends: bool = False,
) -> tuple[Array, HyperballState]:  # fmt: skip
    """Keeps the norm of each weight matrix, and moves it by a fixed share of that norm in the direction of `inner`.

        W_{t+1} = R V / |V|    with V = W_t - lr R U_t / |U_t|,    R = |W_0|

    with Frobenius norms of each matrix. U_t is the direction of `inner`, of which only the direction counts: the length
    of the step is lr R, about the angle by which W turns. There is nothing for weight decay to do. It is written where
    W is scale-invariant or nearly so, as in front of a norm.

    AdamH and MuonH:

        adamh = hyperball(adamw(adam_rate, weight_decay=0.0), learning_rate)
        by_role = matrices_by_role()
        inner = muon(adam_rate, adam_learning_rate=adam_rate, muon_weight_dimension_numbers=by_role)
        muonh = hyperball(inner, learning_rate)

    `inner` is a whole optimizer: the leaves whose norms are not kept (embeddings, norms, biases) move as it says, at
    its own rate. Of a matrix its rate does not matter, as long as it is not 0. The wrapper must be the last to change
    the updates. For a matrix a learning rate of about sqrt(lr weight_decay) of a run with weight decay is a good start.

    Args:
      inner: the optimizer, whose updates are added to the parameters.
      learning_rate: lr, a scalar or a schedule.
      roles: which leaves keep their norms, and how they are matrices. None takes those that are hidden matrices or
        heads by role; a dict from pattern to role or `Matrix` corrects what roles find. Or a tree of `Matrix`, and of
        None for a leaf whose norm is not kept, a prefix of the parameters; or a function from these to one. Along the
        axes that are neither rows nor columns, and where columns are cut (q, k, v), lie matrices each with a norm of
        its own. A head has one norm.
      ascends: `inner` goes up the gradient, as `scale_by_adam()` alone does. The leaves whose norms are not kept then
        move by -lr times its updates.

    A matrix without a direction (U = 0) does not move. One that starts as zeros has no norm to keep: its update is that
    of `inner`. Weight decay in `inner` only mixes W into U, whose length is then changed and whose direction hardly is.
    The state keeps R, so that the rounding of 16-bit parameters does not add up.

    Departures: the authors' JAX code takes the norm of W_t for R, which rounding moves; divides by at least 1e-10; and
    gives NaN for a matrix of zeros.

    Raises:
      ValueError: (in update) params is missing; the state is of other matrices.
      TypeError: `inner` is no transform.

    Example:
      >>> import gdjax, jax.numpy as jnp
      >>> params = {"kernel": jnp.diag(jnp.array([3.0, 4.0])), "scale": jnp.ones(2)}
      >>> grads = {"kernel": jnp.ones((2, 2)), "scale": jnp.ones(2)}
      >>> tx = gdjax.hyperball(gdjax.adamw(1e-3, weight_decay=0.0), learning_rate=0.1)
      >>> u, _ = tx.update(grads, tx.init(params), params)
      >>> norm = jnp.linalg.norm(params["kernel"] + u["kernel"])
      >>> round(float(norm), 3), round(float(u["scale"][0]), 6)  # the scale is left to adamw
      (5.0, -0.001)

    Reference:
      Wen, Dang, Lyu, Ma & Liang 2026, Fantastic pretraining optimizers and where to find them II: hyperball
      optimization, section 2, https://arxiv.org/abs/2606.16899
    """
    leaf: Leaf = roles
    prescribed, R = leaf.role in KEPT, jax.tree.leaves(s.radius)  # Flax's nnx keeps lists as dicts
    if [(number,) for number, _, _ in leaf.sizes if prescribed] != [r.shape for r in R]:
        raise ValueError("the state has norms of other matrices; make it anew with init(params)")
    u = -as_added(u, p) if ascends else as_added(u, p)
    if not prescribed:
        return learning_rate * u if ascends else u, s

    def turned(p: Array, u: Array, R: list[Array], lr: Hyper) -> Array:
        stacks = zip(leaf.split(p), leaf.split(u), R, strict=True)
        return leaf.joined([_on_the_sphere(*xs, lr) for xs in stacks])

    return meshes.partitioned(turned, p, p, u, R, learning_rate), s
