"""APOLLO: gradients scaled as Adam would scale random projections of them."""

from collections.abc import Mapping
from typing import Annotated, Any, Literal, NamedTuple

import jax
import jax.numpy as jnp

from gdjax.core import meshes
from gdjax.core.base import GradientTransformation, transform
from gdjax.core.number_domains import FROM_1
from gdjax.core.types import (
    Count,
    Decay,
    KeyLike,
    Mask,
    Params,
    Rate,
    Roles,
    ScalarOrSchedule,
    Size,
    Squares,
    Steps,
    Transform,
)
from gdjax.leaf_roles.plan import MATRICES, Leaf, plan_of, routing
from gdjax.lift.leafwise import Hyper, hyper, leafwise
from gdjax.lift.slots import Key, Planned
from gdjax.linalg.matrices import Matrix
from gdjax.numerics import Array, abs_sq, bounded, divide, one_minus_pow, shrinking, sqrt, sum_sq, widest_real
from gdjax.numerics import complex_dtype as complex_of
from gdjax.optimizers.with_adam import with_adam

__all__ = ["ScaleByApolloState", "apollo", "scale_by_apollo"]

ScaleType = Literal["channel", "tensor"]


class ScaleByApolloState(NamedTuple):
    """State of `scale_by_apollo`."""

    count: Array  # () int32, updates made so far
    mu: Params  # of each matrix its axes of layers, the rank and its longer side: first moment of R, float32 at least
    nu: Params  # the same of the second moment
    norm: Params  # of each matrix (layers): the norm of its last direction
    key: Params  # () for each leaf, of the projections


def _channels(leaf: Leaf) -> tuple[int, ...]:
    """The axes of the longer side, along which each place has a scale."""
    return leaf.axes.columns if leaf.columns >= leaf.rows else leaf.axes.rows


def _sizes(leaf: Leaf, rank: int) -> tuple[int, int, int, int]:
    """Of a leaf as matrices how many, the shorter and the longer side, and the rank."""
    short, long = sorted((leaf.rows, leaf.columns))
    return leaf.batch, short, long, min(rank, short)


def _first(kind: str) -> Planned:
    def init(params: Params, arguments: Mapping[str, Any]) -> list[Array]:
        leaves = plan_of("gdjax.scale_by_apollo", params, routing(arguments["roles"]), Matrix()).leaves
        slots = []
        for leaf, p in zip(leaves, jax.tree.leaves(params), strict=True):
            rank, real = _sizes(leaf, arguments["rank"])[-1], widest_real(p)
            axes = [*leaf.axes.batch, *([] if kind == "norm" else [None, *_channels(leaf)])]
            dtype = complex_of(real) if kind == "mu" and jnp.iscomplexobj(p) else real
            x = jnp.zeros([rank if i is None else leaf.shape[i] for i in axes], dtype)
            slots.append(meshes.along(x, p, axes))
        return slots

    return Planned(init)


def _projector(key: Array, epoch: Array, sizes: tuple[int, int, int, int]) -> Array:
    """(number, rank, shorter side) of normal numbers of variance 1 / rank, the same for gradients of each dtype."""
    batch, short, _, rank = sizes
    shape = batch, rank, short
    return jax.random.normal(jax.random.fold_in(key, epoch), shape, jnp.float32) * max(rank, 1) ** -0.5


@leafwise(
    ScaleByApolloState, mu=_first("mu"), nu=_first("nu"), norm=_first("norm"), key=Key("key"),
    static={"roles": MATRICES},
)  # fmt: skip
def scale_by_apollo(
    g: Array, s: ScaleByApolloState, p: Array, t: Array,
    rank: Count = 256, update_proj_gap: hyper.Steps = 200, scale: hyper.Size = 1.0, scale_type: ScaleType = "channel",
    b1: hyper.Decay = 0.9, b2: hyper.Squares = 0.999, eps: hyper.Size = 1e-6,
    *, norm_growth: Annotated[Hyper, FROM_1] = 1.01, key: KeyLike = 0, roles: Roles = None,
) -> tuple[Array, ScaleByApolloState]:  # fmt: skip
    """APOLLO's direction: the gradient, each row or column times what Adam makes of its random projection.

    Every leaf must be a matrix, or `roles` say how it is one; else `update` raises a ValueError.

    Formulas and arguments are those of `gdjax.apollo`, without its rate and decay.

    Example:
      >>> import gdjax, jax, jax.numpy as jnp
      >>> state = gdjax.scale_by_apollo(rank=4).init({"w": jnp.ones((64, 32))})
      >>> state.mu["w"].shape, state.norm["w"].shape
      ((4, 64), ())

    Reference:
      Zhu et al. 2024, Algorithm 1, https://arxiv.org/abs/2412.05270
    """
    G = roles.axes.to_matrices(bounded(g, "summed"))
    G = G if roles.rows <= roles.columns else G.mT
    sizes = _sizes(roles, rank)
    P = _projector(s.key, ((t - 1) // update_proj_gap).astype(jnp.int32), sizes)
    R = P.astype(G.dtype) @ G
    M = b1 * s.mu.reshape(R.shape) + (1 - b1) * R
    V = b2 * s.nu.reshape(R.shape) + (1 - b2) * abs_sq(R)
    N = divide(M, sqrt(V), eps)
    axes = (1,) if scale_type == "channel" else (1, 2)
    U = G * divide(sqrt(sum_sq(N, axes)), sqrt(sum_sq(R, axes)))
    norm, before = sqrt(sum_sq(U, (1, 2))), s.norm.reshape(-1, 1, 1)
    shrink = jnp.where(before == 0, 1, shrinking(norm, norm_growth * before))
    corrected = jnp.sqrt(scale * one_minus_pow(b2, t)) / one_minus_pow(b1, t)
    limit = jnp.where(sqrt(sum_sq(R, (1, 2))) > eps, shrink * norm, 0)  # what is 0 but for rounding sets no limit
    u = corrected * shrink * U
    u = roles.axes.from_matrices(u if roles.rows <= roles.columns else u.mT, g.shape)
    return u, s._replace(mu=M.reshape(s.mu.shape), nu=V.reshape(s.nu.shape), norm=limit.reshape(s.norm.shape))


@transform
def apollo(
    learning_rate: Rate, rank: Count = 256, update_proj_gap: Steps = 200, scale: Size = 1.0,
    scale_type: ScaleType = "channel", b1: Decay = 0.9, b2: Squares = 0.999, eps: Size = 1e-6, weight_decay: Size = 0.0,
    weight_decay_mask: Mask = None,
    *, norm_growth: Annotated[ScalarOrSchedule, FROM_1] = 1.01, key: KeyLike = 0, roles: Roles = None,
    adam_learning_rate: Rate | None = None, others: Transform | None = None,
) -> GradientTransformation:  # fmt: skip
    """APOLLO for hidden matrices: gradients scaled by columns as Adam scales random projections. AdamW for the rest.

        R_t = P_t G_t,    M_t = b1 M_{t-1} + (1 - b1) R_t,    V_t = b2 V_{t-1} + (1 - b2) R_t^2
        N_t = M_t / (sqrt(V_t) + eps),    s_j = |N_t,j| / |R_t,j| for each column j,    U_t = G_t diag(s)
        U_t <- U_t min(1, norm_growth |U_{t-1}| / |U_t|)
        x_{t+1} = x_t - lr (sqrt(scale) sqrt(1 - b2^t) / (1 - b1^t) U_t + weight_decay x_t)

    Here G is a matrix with the shorter side first, and P, of shape (rank, shorter side), has normal numbers of variance
    1 / rank. It is made from `key` in each step, and is another one every update_proj_gap steps. So the state has
    2 rank numbers for each place along the longer side, and nothing of the size of the matrix. |U| is limited before
    the moments are corrected, as in the authors' code, and so the first steps are shorter than Adam's. A step in which
    |R| is eps at most, as where a matrix has no gradient yet, sets no limit for the next: the authors' is then near 0,
    and grows by norm_growth in each step.

    APOLLO-Mini is `apollo(lr, rank=1, scale=128.0, scale_type="tensor")`, with the state of SGD.

    Args:
      learning_rate: lr, a scalar or a schedule; the authors take 0.01.
      rank: an int of at least 1; the shorter side at most is used. The authors take a quarter of it.
      update_proj_gap: how many steps a P stays, at least 1.
      scale: the square of a factor of the direction, at least 0.
      scale_type: "channel", or "tensor" for one s for the whole matrix.
      b1, b2: decay of the moments of R, in [0, 1).
      eps: beside the root, before the moments are corrected for their start at 0; at least 0.
      weight_decay: of the matrices, times lr.
      weight_decay_mask: which of them decay: a tree of booleans, a prefix of the parameters, or a function from them to
        one; None for all.
      norm_growth: by how much |U| may grow in a step, at least 1; infinity for no limit. After a U of 0 there is none.
      key: a PRNG key, or an int to seed one, for P.
      roles: which leaves are hidden matrices: by role (None, or a dict from pattern to role), a tree of `gdjax.Matrix`
        and None, or a function from the parameters to one. Matrices beside each other, as q, k, v, are taken as one.
      adam_learning_rate: AdamW's, for all that is no hidden matrix; lr by default. It has eps = 1e-6 and no decay.
      others: a transform in AdamW's place, as `gdjax.adamw(rate, weight_decay=0.1)`.

    Departures: the authors' code adds 1e-8 to |R_t,j| and to |U_{t-1}|; here a quotient by 0 is not taken. It draws P
    from other random numbers.

    Raises:
      ValueError: rank is less than 1; an unknown scale_type.
      TypeError: rank is not an int.

    Warns:
      UserWarning: (in init) it cannot be known how a leaf is a matrix.

    Example:
      >>> import gdjax, jax.numpy as jnp
      >>> params = {"up": jnp.ones((256, 1024))}
      >>> mini = gdjax.apollo(1e-2, rank=1, scale=128.0, scale_type="tensor")
      >>> gdjax.state_bytes(mini, params) < gdjax.state_bytes(gdjax.adam(1e-3), params) / 200
      True

    Reference:
      Zhu et al. 2024, APOLLO: SGD-like memory, AdamW-level performance, Algorithm 1, https://arxiv.org/abs/2412.05270;
      Chen et al. 2024, Fira, https://arxiv.org/abs/2410.01623 (`norm_growth`)
    """
    direction = scale_by_apollo(
        rank, update_proj_gap, scale, scale_type, b1, b2, eps, norm_growth=norm_growth, key=key, roles=routing(roles)
    )
    return with_adam(
        "gdjax.apollo", direction, learning_rate, weight_decay, weight_decay_mask, roles, others,
        adam_learning_rate, eps=1e-6,
    )  # fmt: skip
