"""Muown: Muon for the directions of the neurons of a matrix, Adam for their norms."""

from typing import Any, NamedTuple

import jax.numpy as jnp

from gdjax import numerics
from gdjax.core.base import GradientTransformation, part_of, transform
from gdjax.core.types import Decay, DType, Floating, Mask, Params, Rate, Roles, Size, Squares, Steps, Transform
from gdjax.leaf_roles.plan import MATRICES, Leaf, routing
from gdjax.lift.leafwise import hyper, leafwise
from gdjax.lift.slots import Planned, matrix_moment
from gdjax.linalg.newton_schulz import Preconditioning
from gdjax.linalg.polar import Polar
from gdjax.matrices.together import of_stacks
from gdjax.numerics import Array, abs_sq, below_overflow, bounded, debias, divide, real_product, sqrt
from gdjax.optimizers.muon import orthogonal
from gdjax.optimizers.normuon import first_of_outputs
from gdjax.optimizers.orthogonal import NS_COEFFS, refuse_complex
from gdjax.optimizers.with_adam import beside_adam
from gdjax.transforms.decay import decaying

__all__ = ["MuownState", "muown"]

LABEL = "gdjax.muown"


class MuownState(NamedTuple):
    """State of `muown` for the matrices."""

    count: Array  # () int32, updates made so far
    mu: Params  # like params, momentum of the directions
    # Like params with axes of length 1 for the inputs, a number for each output; float32 at least.
    norm: Params  # |V|, 0 before the first update
    m: Params  # Adam's average of the gradients of the norms of W
    v: Params  # and that of their squares
    ns_coeffs: Array  # (3,) or (steps, 3), coefficients of Newton-Schulz


OF_OUTPUTS = Planned(first_of_outputs(LABEL))


@leafwise(
    MuownState, mu=matrix_moment,
    static={"roles": MATRICES}, norm=OF_OUTPUTS, m=OF_OUTPUTS, v=OF_OUTPUTS, ns_coeffs=NS_COEFFS,
)  # fmt: skip
def _muown(
    G: Array, s: MuownState, W: Array, t: Array,
    learning_rate: hyper.Rate, beta: hyper.Decay, eps: hyper.Size, ns_coeffs: Any, ns_steps: hyper.Steps,
    b1: hyper.Decay, b2: hyper.Squares, adam_eps: hyper.Size, nesterov: bool, consistent_rms: hyper.Size | None,
    polar: Polar, mu_dtype: DType | None, roles: Roles,
) -> tuple[Array, MuownState]:  # fmt: skip
    refuse_complex(polar.products, G)
    leaf: Leaf = roles
    inputs = leaf.axes.rows
    G = bounded(G, "summed")
    size, U = _norm_and_unit(W, inputs)
    zero = size == 0  # such a neuron has no direction: it begins with the update of Muon
    n = jnp.where(zero, 1, jnp.where(s.norm == 0, size, s.norm))
    along = jnp.sum(real_product(U, G), inputs, keepdims=True)
    rest = G - along.astype(G.dtype) * U
    # Of a gradient along the neuron nothing is left but rounding, which Newton-Schulz would take for a direction.
    noise = sqrt(jnp.sum(abs_sq(rest), inputs, keepdims=True)) <= 8 * jnp.finfo(along.dtype).eps * jnp.abs(along)
    slope = jnp.where(noise, 0, jnp.where(zero, 1, size / n)).astype(G.dtype) * rest
    mu = beta * s.mu + (1 - beta) * slope
    m, v = b1 * s.m + (1 - b1) * along, b2 * s.v + (1 - b2) * abs_sq(along)
    new_size = size - learning_rate * divide(debias(m, b1, t), sqrt(debias(v, b2, t)), adam_eps)

    O = of_stacks(  # noqa: E741
        orthogonal, beta * mu + (1 - beta) * slope if nesterov else mu, leaf=roles, coeffs=s.ns_coeffs,
        steps=ns_steps, eps=eps, polar=polar, adaptive=False, scaled=True, rms=consistent_rms,
    )  # fmt: skip
    step = (learning_rate / n).astype(O.dtype) * O
    (before, _), (after, _) = _norm_and_unit(U, inputs), _norm_and_unit(U - step, inputs)
    # W' - W of W' = new_size V / |V|, as a sum of what is 0 where nothing changes.
    k = jnp.where(zero, 1, new_size * before / jnp.where(after == 0, 1, after))
    u = (k - size).astype(U.dtype) * U - k.astype(O.dtype) * step
    return u, s._replace(mu=mu, norm=n * after, m=m, v=v)


def _norm_and_unit(x: Array, axes: tuple[int, ...]) -> tuple[Array, Array]:
    """|x| along the axes, and x over it; 0 where it is 0."""
    unit, norm = numerics.unit_and_norm(x, axes)
    over = (1 / jnp.where(norm == 0, 1, norm)).astype(x.dtype)
    return below_overflow(unit * norm), x * (1 / unit).astype(x.dtype) * over


@transform
def muown(
    learning_rate: Rate, b1: Decay = 0.95, eps: Size = 1e-8, ns_coeffs: Any = "polar_express", ns_steps: Steps = 5,
    *, nesterov: bool = True, consistent_rms: Size | None = 0.2, preconditioning: Preconditioning = "frobenius",
    ns_dtype: Floating | None = None, weight_decay: Size = 0.0, weight_decay_mask: Mask = None,
    mu_dtype: DType | None = None, roles: Roles = None, adam_learning_rate: Rate | None = None, adam_b1: Decay = 0.9,
    adam_b2: Squares = 0.95, adam_eps: Size = 1e-8, others: Transform | None = None,
) -> GradientTransformation:  # fmt: skip
    """Muown for hidden matrices, AdamW for the rest: Muon turns the neurons of a matrix, and Adam sets their norms.

        w_j = s_j v_j / |v_j|                            the weights of output j, its norm and its direction
        ds_j = <g_j, w_j> / s_j,    dv_j = s_j / |v_j| (g_j - ds_j w_j / s_j)        their gradients
        mu_t = b1 mu_{t-1} + (1 - b1) dv
        O_t = the polar factor of b1 mu_t + (1 - b1) dv, by Newton-Schulz
        v <- v - lr consistent_rms sqrt(max(m, n)) O_t,    s <- s - lr Adam(ds)
        w_{t+1} = s v / |v| - lr weight_decay w_t

    for a matrix of m x n. v starts as w. |v| grows with the steps, so that equal steps turn a neuron less and less; the
    norms do not drift as under Muon. Of v the state keeps |v| alone: its direction is that of w.

    Other arguments are those of `gdjax.normuon`.

    Args:
      learning_rate: lr, a scalar or a schedule, of AdamW's size.
      eps: beside the norm of the momentum in Newton-Schulz, at least 0.
      nesterov: False for the polar factor of mu_t.
      consistent_rms: as above; None for sqrt(max(1, n / m)) in place of the whole factor.
      adam_b1, adam_b2, adam_eps: those of the Adam of s, at the rate lr; of AdamW too, which has no decay.

    Departures: the authors take five steps with Muon's coefficients in bfloat16: write ns_coeffs="jordan",
    ns_dtype="bfloat16". They keep s with a sign; here it is |w|. Weights of 0, of which theirs makes NaN, have no
    direction, and begin with the update of Muon, v = -lr ... O_t. Their record of modded-nanogpt also moves |v| along a
    schedule, which is left out.

    Raises:
      ValueError: an unknown preset or preconditioning; coefficients of another shape or for more steps than ns_steps;
        roles that do not fit. (In update) params is missing.
      TypeError: (in update) a complex matrix with `ns_dtype`.

    Example:
      >>> import gdjax, jax.numpy as jnp
      >>> w = jnp.array([[3.0, 0.0], [4.0, 1.0]])  # two neurons, of norms 5 and 1
      >>> params, grads = {"kernel": w}, {"kernel": w}
      >>> tx = gdjax.muown(0.1)
      >>> updates, state = tx.update(grads, tx.init(params), params)
      >>> print((100 * jnp.linalg.norm(w + updates["kernel"], axis=0)).round())  # by Adam
      [490.  90.]

    Reference:
      Lion, Huebler, Li, Orvieto & He 2026, Muown: row-norm control for Muon optimization,
      https://arxiv.org/abs/2605.10797, and their code, https://github.com/kcc-lion/muown
    """
    rule = _muown(
        learning_rate, b1, eps, ns_coeffs, ns_steps, adam_b1, adam_b2, adam_eps, nesterov, consistent_rms,
        Polar(preconditioning, ns_dtype), mu_dtype, routing(roles),
    )  # fmt: skip
    matrices = decaying(
        LABEL, part_of(rule).labelled(LABEL), learning_rate, weight_decay, weight_decay_mask, "decoupled", False, None
    )
    return beside_adam(
        LABEL, matrices, learning_rate, roles, others, adam_learning_rate, mu_dtype,
        b1=adam_b1, b2=adam_b2, eps=adam_eps,
    )  # fmt: skip
