"""NorMuon: Muon with a second moment for each neuron."""

from collections.abc import Callable, Mapping
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp

from gdjax import numerics
from gdjax.core import meshes
from gdjax.core.base import GradientTransformation, transform
from gdjax.core.growth import Law
from gdjax.core.types import Decay, DType, Floating, Mask, Params, Rate, Roles, Size, Squares, Steps, Transform
from gdjax.leaf_roles.plan import MATRICES, plan_of, routing
from gdjax.lift.leafwise import Hyper, hyper, leafwise
from gdjax.lift.slots import Planned, matrix_moment
from gdjax.linalg.matrices import Matrix
from gdjax.linalg.newton_schulz import Preconditioning
from gdjax.linalg.polar import Equilibrate, Polar, Renormalize
from gdjax.linalg.stacks import in_stacks
from gdjax.matrices.together import of_stacks
from gdjax.numerics import Array, bounded
from gdjax.optimizers.orthogonal import NS_COEFFS, by_shape, refuse_complex
from gdjax.optimizers.with_adam import with_adam

__all__ = ["ScaleByNorMuonState", "normuon", "scale_by_normuon"]


class ScaleByNorMuonState(NamedTuple):
    """State of `scale_by_normuon`."""

    count: Array  # () int32, updates made so far
    mu: Params  # like params, momentum
    # Mean squares of the polar factors, float32 at least: like params with axes of length 1 for the inputs; with
    # neurons="longer" for the shorter of inputs and outputs.
    v: Params
    ns_coeffs: Array  # (3,) or (steps, 3), coefficients of Newton-Schulz


Neurons = Literal["outputs", "longer"]


def first_of_outputs(label: str) -> Callable[[Params, Mapping[str, Any]], list[Any]]:
    """The start of a slot of numbers for the outputs of each matrix: zeros, with axes of length 1 for the inputs."""

    def first(params: Params, arguments: Mapping[str, Any]) -> list[Any]:
        leaves = plan_of(label, params, routing(arguments["roles"]), Matrix()).leaves
        moments = []
        for leaf, p in zip(leaves, jax.tree.leaves(params), strict=True):
            by_inputs = arguments.get("neurons") == "longer" and leaf.rows > leaf.columns and not leaf.parts
            alone = leaf.axes.columns if by_inputs else leaf.axes.rows
            neurons = [None if i in alone else i for i in range(len(leaf.shape))]
            v = jnp.zeros([1 if i is None else leaf.shape[i] for i in neurons], numerics.widest_real(p))
            moments.append(meshes.along(v, p, neurons))
        return moments

    return first


def _normalized(
    ms: list[Array], vs: list[Array], coeffs: Array, steps: Hyper, polar: Polar, b2: Hyper, eps: Hyper, rms: Hyper
) -> tuple[list[Array], list[Array]]:
    """The directions of stacks of matrices, and the new mean squares."""
    os = polar.factors(ms, coeffs, steps, eps)
    vs = [v.astype(o.real.dtype) for o, v in zip(os, vs, strict=True)]
    return in_stacks(lambda o, v: _by_neurons(o, v, b2, eps, rms), os, vs)


def _by_neurons(o: Array, v: Array, b2: Hyper, eps: Hyper, rms: Any) -> tuple[Array, Array]:
    """The polar factor with each output, or input, over the root of its v, scaled; and v with this step."""
    b2, eps = numerics.scalar(b2, v.dtype), numerics.scalar(eps, v.dtype)
    square = numerics.abs_sq(o)
    v = b2 * v + (1 - b2) * jnp.mean(square, -2 if v.shape[-2] == 1 else -1, keepdims=True)
    root = numerics.sqrt(v) + eps
    scaled = o / jnp.where(root == 0, 1, root).astype(o.dtype)
    norm = numerics.sqrt(jnp.sum(numerics.abs_sq(scaled), (-2, -1), keepdims=True))
    rows, columns = o.shape[-2:]
    if rms is None:
        wanted = by_shape(rows, columns, None) * numerics.sqrt(jnp.sum(square, (-2, -1), keepdims=True))
    else:
        wanted = numerics.scalar(rms, v.dtype) * (rows * columns) ** 0.5
    return scaled * (wanted / jnp.where(norm == 0, 1, norm)).astype(o.dtype), v


def _growth(arguments: Mapping[str, Any], before: Law, role: str) -> Law | str:
    # With its norm prescribed the best rate falls as Adam's, though its singular values are alike: measured.
    return "by_shape" if arguments["consistent_rms"] is None else Law(0.5, 0.5, full=True)


@leafwise(
    ScaleByNorMuonState, mu=matrix_moment, v=Planned(first_of_outputs("gdjax.scale_by_normuon"), "neurons"),
    static={"roles": MATRICES}, ns_coeffs=NS_COEFFS, growth=_growth,
)  # fmt: skip
def scale_by_normuon(
    g: Array, s: ScaleByNorMuonState, p: Array, t: Array,
    b1: hyper.Decay = 0.95, b2: hyper.Squares = 0.95, eps: hyper.Size = 1e-8, ns_coeffs: Any = "polar_express",
    ns_steps: hyper.Steps = 5,
    *, nesterov: bool = True, consistent_rms: hyper.Size | None = 0.2, preconditioning: Preconditioning = "frobenius",
    equilibrate: Equilibrate = None, renormalize: Renormalize = None, ns_dtype: Floating | None = None,
    mu_dtype: DType | None = None, neurons: Neurons = "outputs", roles: Roles = None,
) -> tuple[Array, ScaleByNorMuonState]:  # fmt: skip
    """NorMuon's direction: Muon's, with its outputs, the neurons, made alike in size.

    Every leaf must be a matrix, or `roles` say how it is one; else `update` raises a ValueError.

    Formulas and arguments are those of `gdjax.normuon`, without its rate and decay.

    Example:
      >>> import gdjax, jax.numpy as jnp
      >>> tx = gdjax.scale_by_normuon(consistent_rms=0.2)
      >>> g = jnp.array([[3.0, 0.0, 1.0], [0.0, 0.1, 0.0]])
      >>> direction, state = tx.update(g, tx.init(g))
      >>> print((100 * jnp.sqrt(jnp.mean(direction**2))).round())
      20.0
    """
    refuse_complex(ns_dtype, g)
    g = bounded(g)
    mu = b1 * s.mu + (1 - b1) * g
    u, v = of_stacks(
        _normalized, b1 * mu + (1 - b1) * g if nesterov else mu, s.v, leaf=roles, like=(0, 1),
        coeffs=s.ns_coeffs, steps=ns_steps, polar=Polar(preconditioning, ns_dtype, equilibrate, renormalize),
        b2=b2, eps=eps, rms=consistent_rms,
    )  # fmt: skip
    return u, s._replace(mu=mu, v=v)


@transform
def normuon(
    learning_rate: Rate, b1: Decay = 0.95, b2: Squares = 0.95, eps: Size = 1e-8, ns_coeffs: Any = "polar_express",
    ns_steps: Steps = 5,
    *, nesterov: bool = True, consistent_rms: Size | None = 0.2, preconditioning: Preconditioning = "frobenius",
    equilibrate: Equilibrate = None, renormalize: Renormalize = None, ns_dtype: Floating | None = None,
    weight_decay: Size = 0.0, weight_decay_mask: Mask = None, mu_dtype: DType | None = None,
    neurons: Neurons = "outputs", roles: Roles = None,
    adam_learning_rate: Rate | None = None, others: Transform | None = None,
) -> GradientTransformation:  # fmt: skip
    """NorMuon for hidden matrices, AdamW for the rest: Muon's update with its outputs, the neurons, made alike in size.

        mu_t = b1 mu_{t-1} + (1 - b1) g_t
        O_t = the polar factor of b1 mu_t + (1 - b1) g_t, by Newton-Schulz
        v_t = b2 v_{t-1} + (1 - b2) mean of |O_t|^2 over the inputs, a number for each output
        U_t = O_t / (sqrt(v_t) + eps)
        x_{t+1} = x_t - lr (consistent_rms sqrt(m n) U_t / |U_t| + weight_decay x_t)

    for a matrix of m x n, so that the root mean square of an update is `consistent_rms`. Stacks and parts are matrices
    each by itself; those of one shape are computed together, 16-bit ones in float32.

    Args:
      learning_rate: lr, a scalar or a schedule.
      b1: decay of the momentum, in [0, 1).
      b2: decay of the second moment, in [0, 1).
      eps: see above, at least 0; it stands beside the norm of the momentum too.
      ns_coeffs: (a, b, c) of Newton-Schulz, a sequence of such triples, or the name of one: "standard", "jordan",
        "dion", "polar_express", "cans", "deepseek" or "aol".
      ns_steps: how many steps of Newton-Schulz, an int or a schedule, at least 1; with a sequence of triples only a
        bound on their number.
      preconditioning: the norm that a matrix is divided by before them: "frobenius", "spectral", "schatten" or "aol".
      equilibrate: make the vectors of all "outputs" or all "inputs" equal in norm before Newton-Schulz, or divide by
        the norms of "both".
      renormalize: divide its result by the norms of "outputs", of "inputs", or of both one after the other; or
        "frobenius".
      ns_dtype: the dtype that factors are rounded to before they are multiplied, "bfloat16" for instance; None rounds
        nothing.
      nesterov: False for the polar factor of mu_t, as in the paper.
      consistent_rms: None for the authors' code: the update is sqrt(max(1, outputs / inputs)) |O_t| U_t / |U_t|.
      weight_decay, weight_decay_mask: of the matrices, times lr; which of them decay: a tree of booleans, a prefix of
        the parameters, or a function from them to one; None for all.
      mu_dtype: the dtype of mu, the parameter's by default; of AdamW's too.
      neurons: what has a number in v: the "outputs"; or, of a matrix that is not cut, the "longer" of inputs and
        outputs, as in modded-nanogpt.
      roles: which leaves are matrices, and how: by role (None, or a dict from pattern to role), a tree, or a function
        from the parameters to one.
      adam_learning_rate: AdamW's, lr by default. Its b2 is 0.95, and it has no decay.
      others: a transform in the place of AdamW, as `gdjax.adamw(rate, weight_decay=0.1)`.

    Departures: the paper and the authors' code take five steps with Muon's coefficients, in bfloat16: write
    ns_coeffs="jordan", ns_dtype="bfloat16".

    Raises:
      ValueError: an unknown preset, preconditioning, equilibration or renormalization; coefficients of another shape
        or for more steps than ns_steps; roles that do not fit.
      TypeError: (in update) a complex matrix with `ns_dtype`.

    Example:
      >>> import gdjax, jax, jax.numpy as jnp
      >>> params = {"embed": jnp.ones((9, 4)), "mlp": {"kernel": jnp.eye(4)}}
      >>> tx = gdjax.normuon(1e-3, adam_learning_rate=3e-4)  # rates of AdamW's size
      >>> updates, state = tx.update(params, tx.init(params), params)
      >>> rms = lambda u: int((1e5 * jnp.sqrt(jnp.mean(u**2))).round())
      >>> jax.tree.map(rms, updates)  # 0.2 times its rate, and Adam's
      {'embed': 30, 'mlp': {'kernel': 20}}

    Reference:
      Li et al. 2025, NorMuon: making Muon more efficient and scalable, Algorithm 1, https://arxiv.org/abs/2510.05491;
      Amsel et al. 2025, The Polar Express, Algorithm 1, https://arxiv.org/abs/2505.16932
    """
    direction = scale_by_normuon(
        b1, b2, eps, ns_coeffs, ns_steps, nesterov=nesterov, consistent_rms=consistent_rms,
        preconditioning=preconditioning, equilibrate=equilibrate, renormalize=renormalize, ns_dtype=ns_dtype,
        mu_dtype=mu_dtype, neurons=neurons, roles=routing(roles),
    )  # fmt: skip
    return with_adam(
        "gdjax.normuon", direction, learning_rate, weight_decay, weight_decay_mask, roles, others,
        adam_learning_rate, mu_dtype, b2=0.95,
    )  # fmt: skip
