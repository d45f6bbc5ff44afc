"""Spectral normalization: the update of each matrix gets the largest singular value that suits its shape."""

from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from gdjax import numerics
from gdjax.core import meshes
from gdjax.core.base import MaskedNode
from gdjax.core.growth import of_roles
from gdjax.core.types import OptState, Params, Roles
from gdjax.leaf_roles.plan import Leaf, of_leaf, plan_of, routing
from gdjax.lift.leafwise import Hyper, hyper
from gdjax.lift.slots import Planned
from gdjax.lift.wrapper import wrapper
from gdjax.linalg.matrices import highest
from gdjax.linalg.polar import over_norm
from gdjax.numerics import Array
from gdjax.numerics.bounds import as_added

__all__ = ["SpectralState", "spectral"]

ASIDE = 0.01  # how far beside the last vector an iteration starts: what is orthogonal to it is found too


class SpectralState(NamedTuple):
    """State of `spectral`."""

    inner_state: OptState  # of the optimizer
    # Of each matrix the first right singular vector, zeros before there is one: a list of (number, columns) for each
    # leaf; MaskedNode where there is no matrix.
    v: Params


def _zeros(params: Params, arguments: Mapping[str, Any]) -> list[Any]:
    leaves = plan_of("gdjax.spectral", params, routing(arguments["roles"])).leaves

    def of(p: Any, leaf: Leaf) -> Any:
        kind = numerics.widen(jnp.zeros((), jnp.result_type(p)), numerics.widest_real(p)).dtype
        return [jnp.zeros((number, columns), kind) for number, _, columns in leaf.sizes]

    pairs = zip(jax.tree.leaves(params), leaves, strict=True)
    return [of(p, leaf) if leaf.is_matrix else MaskedNode() for p, leaf in pairs]


def _normalized(U: Array, v: Array) -> tuple[Array, Array]:
    """U sqrt(columns / rows) / sigma(U) for each matrix of a stack, and the new v."""
    _, rows, columns = U.shape
    U = over_norm(U, (1, 2))
    aside = np.random.default_rng(0).standard_normal(columns)
    beside = v + jnp.asarray(ASIDE / np.linalg.norm(aside) * aside, v.dtype)[None]
    y = highest(U, beside[..., None])
    z = highest(U.mT.conj(), y)[..., 0]
    of_y, of_z = (numerics.sqrt(jnp.sum(numerics.abs_sq(x), 1)) for x in (y[..., 0], z))
    # |U| is 1: of k singular values the largest is no less than 1 / sqrt(k).
    sigma = jnp.maximum(of_z / jnp.where(of_y == 0, 1, of_y), max(min(rows, columns), 1) ** -0.5)
    v = jnp.where(of_z[:, None] > 0, z / jnp.where(of_z == 0, 1, of_z)[:, None].astype(z.dtype), v)
    return U * ((columns / max(rows, 1)) ** 0.5 / sigma)[:, None, None].astype(U.dtype), v


@wrapper(SpectralState, static={"roles": of_leaf(routing)}, v=Planned(_zeros), growth=of_roles(("matrix",), "fits"))
def spectral(
    u: Array, g: Array, s: SpectralState, p: Array, t: Array,
    learning_rate: hyper.Rate, roles: Roles = None,
    *, ascends: bool = False,
) -> tuple[Array, SpectralState]:  # fmt: skip
    """Makes the largest singular value of each weight matrix's update lr sqrt(outputs / inputs), for any optimizer.

        W_{t+1} = W_t + lr sqrt(outputs / inputs) U_t / sigma(U_t)

    for the update U_t of `inner`, of which only the direction counts. An update of that size changes the outputs of a
    layer by about lr times the size of its inputs, however wide the layer is: one rate suits all widths. The largest
    singular value is measured, by one step of power iteration on a stored vector:

        y = U_t (v_{t-1} + r),    z = U_t^T y,    sigma(U_t) = |z| / |y|,    v_t = z / |z|

    with v_0 = 0 and a fixed random r of length 0.01, which finds what the last vector is orthogonal to.

    Spectral SOAP and AdamW:

        by_soap = spectral(soap(adam_rate, adam_learning_rate=adam_rate), learning_rate)
        by_adamw = spectral(adamw(adam_rate, weight_decay=0.0), learning_rate)

    `inner` is a whole optimizer: what is no hidden matrix (embeddings, heads, norms, biases) moves as it says, at its
    own rate. Of a matrix its rate does not matter, as long as it is not 0. Its weight decay would be a part of U_t:
    put `with_weight_decay` around `spectral`.

    Args:
      inner: the optimizer, whose updates are added to the parameters.
      learning_rate: lr, a scalar or a schedule. As in Muon, some 2^-4 to 2^-2 for a small model.
      roles: which leaves are matrices, and how, if their names do not say it: a dict from pattern to role or `Matrix`,
        a tree of these, or a function from the parameters to one. Along the axes that are neither rows nor columns, and
        where columns are cut (q, k, v), lie matrices each with a singular value of its own.
      ascends: `inner` goes up the gradient, as `scale_by_soap()` alone does. What is no matrix then moves by -lr times
        its updates.

    The measured value is a lower bound, and counts as |U_t| / sqrt(min(inputs, outputs)) at least, which is one too. In
    the first steps it is 0.4 to 1 of the true one, later 0.9 to 1, and less for a moment where the update turns, as
    without momentum. Zeros give zeros, and leave v as it is. The state has one number for each output.

    Raises:
      ValueError: (in update) the state is of other matrices.
      TypeError: `inner` is no transform.

    Example:
      >>> import gdjax, jax.numpy as jnp
      >>> params = {"kernel": jnp.zeros((2, 8)), "bias": jnp.zeros(8)}
      >>> grads = {"kernel": jnp.ones((2, 8)), "bias": jnp.ones(8)}
      >>> tx = gdjax.spectral(gdjax.adamw(1e-3, weight_decay=0.0), learning_rate=0.1)
      >>> u, _ = tx.update(grads, tx.init(params), params)
      >>> singular_values = jnp.linalg.svd(u["kernel"], compute_uv=False)
      >>> round(float(singular_values[0]), 4), round(float(u["bias"][0]), 6)
      (0.2, -0.001)

    Reference:
      Qiu et al. 2025, Hyperparameter transfer enables consistent gains of matrix-preconditioned optimizers across
      scales, https://arxiv.org/abs/2512.05620 (explicit spectral normalization)
    """
    leaf: Leaf = roles
    u = -as_added(u, p) if ascends else as_added(u, p)
    if not leaf.is_matrix:
        return learning_rate * u if ascends else u, s
    vs = jax.tree.leaves(s.v)  # Flax's nnx keeps lists as dicts
    if [x.shape for x in vs] != [(number, columns) for number, _, columns in leaf.sizes]:
        raise ValueError("the state has vectors of other matrices; make it anew with init(params)")

    def of_stacks(u: Array, vs: list[Array], lr: Hyper) -> tuple[Array, list[Array]]:
        pairs = [_normalized(U, v) for U, v in zip(leaf.split(u), vs, strict=True)]
        return lr * leaf.joined([U for U, _ in pairs]), [v for _, v in pairs]

    u, vs = meshes.partitioned(of_stacks, (u, [None] * len(vs)), u, vs, learning_rate)
    return u, s._replace(v=jax.tree.unflatten(jax.tree.structure(s.v), vs))
