"""Scion: for each role of leaf the steepest direction of a norm of its own."""

import re
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp

from gdjax.combine.chain import chain
from gdjax.combine.groups import routed
from gdjax.core import base
from gdjax.core.base import GradientTransformation, transform
from gdjax.core.types import DType, Floating, Params, Rate, Roles, Share, Size, Steps
from gdjax.leaf_roles.plan import MATRICES, routing
from gdjax.lift.leafwise import Hyper, hyper, leafwise
from gdjax.lift.slots import Tree, matrix_moment
from gdjax.linalg.newton_schulz import Preconditioning
from gdjax.linalg.polar import Polar, coefficients, over_norm
from gdjax.matrices.together import of_stacks
from gdjax.numerics import Array, bounded
from gdjax.optimizers.orthogonal import NS_COEFFS, refuse_complex
from gdjax.transforms.decay import add_decayed_weights
from gdjax.transforms.scaling import scale_by_learning_rate

__all__ = ["ScaleByScionState", "scale_by_scion", "scion"]

Norm = Literal["spectral", "sign", "embedding_sign", "row", "embedding_col", "rms"]


class ScaleByScionState(NamedTuple):
    """State of `scale_by_scion`."""

    count: Array  # () int32, updates made so far
    mu: Params  # like params, average of the gradients
    ns_coeffs: Array  # (3,) or (steps, 3), coefficients of Newton-Schulz


def _outputs_first(tree: Tree, dimensions: Any) -> list[bool]:
    """For each leaf whether it is a weight as in PyTorch, by its name."""
    return [bool(re.search(r"\bweight\W*$", jax.tree_util.keystr(path))) for path in tree.chosen(tree.paths)]


def _factors(ms: list[Array], coeffs: Array, steps: Hyper, eps: Hyper, polar: Polar) -> list[Array]:
    """The steepest directions of stacks in the spectral norm."""
    return [(o.shape[-1] / max(o.shape[-2], 1)) ** 0.5 * o for o in polar.factors(ms, coeffs, steps, eps)]


def _of_norm(norm: str, outputs_first: bool, m: Array) -> Array:
    """The direction of one array, (..., inputs, outputs) or (..., outputs, inputs)."""
    inputs = (-1 if outputs_first else -2) if m.ndim > 1 else None
    size = 1 if inputs is None else m.shape[inputs]
    if norm == "sign":
        return jnp.sign(m) / max(size, 1)
    if norm == "embedding_sign":
        return jnp.sign(m)
    if norm == "row":
        return over_norm(m, inputs) / max(size, 1) ** 0.5
    # An embedding is (inputs, outputs) under any name: a row for each token.
    length = m.shape[-1] if m.ndim else 1
    return length**0.5 * over_norm(m, -1 if m.ndim else None)


@leafwise(ScaleByScionState, mu=matrix_moment, static={"dimensions": MATRICES}, ns_coeffs=NS_COEFFS, growth="fits")
def _spectral(
    g: Array, s: ScaleByScionState, p: Array, t: Array,
    alpha: Hyper, eps: hyper.Size, mu_dtype: DType | None, ns_steps: hyper.Steps, ns_coeffs: Any, polar: Polar,
    dimensions: Any,
) -> tuple[Array, ScaleByScionState]:  # fmt: skip
    refuse_complex(polar.products, g)
    mu = (1 - alpha) * s.mu + alpha * bounded(g)
    u = of_stacks(_factors, mu, leaf=dimensions, coeffs=s.ns_coeffs, steps=ns_steps, eps=eps, polar=polar)
    return u, s._replace(mu=mu)


@leafwise(
    ScaleByScionState, mu=matrix_moment, static={"dimensions": _outputs_first}, ns_coeffs=NS_COEFFS, growth="fits"
)
def _of_other_norm(
    g: Array, s: ScaleByScionState, p: Array, t: Array,
    alpha: Hyper, norm: str, mu_dtype: DType | None, ns_steps: hyper.Steps, ns_coeffs: Any, dimensions: Any,
) -> tuple[Array, ScaleByScionState]:  # fmt: skip
    mu = (1 - alpha) * s.mu + alpha * bounded(g)
    return _of_norm(norm, dimensions, mu), s._replace(mu=mu)


@transform
def scale_by_scion(
    norm: Norm = "spectral", alpha: Share = 0.1, eps: Size = 1e-8, ns_coeffs: Any = "jordan", ns_steps: Steps = 5,
    *, preconditioning: Preconditioning = "frobenius", ns_dtype: Floating | None = None, mu_dtype: DType | None = None,
    roles: Roles = None,
) -> GradientTransformation:  # fmt: skip
    """Scion's direction in one norm, of an average of gradients.

    mu_t and other arguments are those of `gdjax.scion`, some of `gdjax.normuon`.

    Args:
      norm: for a leaf of m inputs and n outputs

        - "spectral": sqrt(n / m) times the polar factor of mu_t. Every leaf must be a matrix, or `roles` say how;
        - "sign": sign(mu_t) / m;
        - "embedding_sign": sign(mu_t), for what is multiplied by one-hot vectors;
        - "row": the weights of each output over sqrt(m) times their norm;
        - "embedding_col": the row of each token over its root mean square;
        - "rms": a vector over its root mean square; in a stack each of them.

        What is not "spectral" has axes (..., inputs, outputs), or (..., outputs, inputs) if its name is `weight` and it
        is no embedding.

    Raises:
      ValueError: an unknown norm; (in update) with "spectral" a leaf that is no matrix.

    Example:
      >>> import gdjax, jax.numpy as jnp
      >>> tx = gdjax.chain(gdjax.scale_by_scion("sign"), gdjax.scale_by_learning_rate(1e-3))
      >>> params = jnp.ones((4, 2))  # of a head with 4 inputs
      >>> updates, state = tx.update(params, tx.init(params), params)
      >>> print((updates * 1e3)[0])  # a sign over the number of inputs
      [-0.25 -0.25]
    """
    label = "gdjax.scale_by_scion"
    coefficients(label, ns_coeffs, ns_steps)
    if norm == "spectral":
        tx = _spectral(alpha, eps, mu_dtype, ns_steps, ns_coeffs, Polar(preconditioning, ns_dtype), roles)
    else:
        tx = _of_other_norm(alpha, norm, mu_dtype, ns_steps, ns_coeffs, roles)
    return base.part_of(tx).labelled(label)


@transform
def scion(
    learning_rate: Rate, alpha: Share = 0.1, radius: Size = 50.0, embedding_radius: Size = 1.0,
    head_radius: Size = 3000.0, other_radius: Size = 1.0,
    *, constrained: bool = True, embedding_norm: Literal["sign", "col"] = "sign",
    head_norm: Literal["sign", "row"] = "sign", eps: Size = 1e-8, ns_coeffs: Any = "jordan", ns_steps: Steps = 5,
    preconditioning: Preconditioning = "frobenius", ns_dtype: Floating | None = None, mu_dtype: DType | None = None,
    roles: Roles = None,
) -> GradientTransformation:  # fmt: skip
    """Scion: a conditional gradient method, in a norm for each role of leaf, without Adam.

        mu_t = (1 - alpha) mu_{t-1} + alpha g_t
        x_{t+1} = (1 - lr) x_t - lr radius u_t,    unconstrained: x_t - lr radius u_t

    where u_t is the steepest direction of the norm: of m x n weights, from m inputs to n outputs,

        u_t = sqrt(n / m) polar(mu_t)    for hidden matrices
        u_t = sign(mu_t)                 for embeddings
        u_t = sign(mu_t) / m             for heads
        u_t = mu_t / rms(mu_t)           for all else

    with the polar factor by Newton-Schulz, and the root mean square of each vector of a stack.

    So the weights stay within `radius` in that norm, if they start there. Rates carry over to wider models.

    Other arguments are those of `gdjax.normuon`.

    Args:
      learning_rate: lr, a scalar or a schedule; in training from scratch about 2^-12.
      alpha: the weight of the gradient in mu, in (0, 1].
      radius, embedding_radius, head_radius, other_radius: of hidden matrices, embeddings, heads and all else. 50 and
        3000 are the authors' for GPT-2 with 124 million parameters. Where the embedding is the head too, they take the
        head's: embedding_radius=3000 / m.
      constrained: False for the unconstrained method, which does not shrink the weights.
      embedding_norm: "sign", or "col" for the row of each token over its root mean square.
      head_norm: "sign", or "row" for the weights of each output over sqrt(m) times their norm.
      eps: beside the norm of mu in Newton-Schulz, at least 0.
      mu_dtype: the dtype of mu, the parameter's by default.
      roles: what each leaf is: by role (None, or a dict from pattern to role), a tree, or a function from the
        parameters to one. A head that is called `weight` is (outputs, inputs), any other (inputs, outputs).

    Departures: the authors compute Newton-Schulz in bfloat16, with eps 1e-7, and add 1e-8 to other norms. In their
    convolutions of k x k the factor of hidden matrices is sqrt(n / m) / k^2; here the window is among the m inputs.

    Raises:
      ValueError: an unknown norm, preset or preconditioning; coefficients of another shape or for more steps than
        ns_steps; roles that do not fit.
      TypeError: (in update) a complex matrix with `ns_dtype`.

    Example:
      >>> import gdjax, jax.numpy as jnp
      >>> params = {"embed": jnp.ones((9, 4)), "mlp": {"kernel": jnp.eye(4)}}
      >>> tx = gdjax.scion(2**-12, constrained=False, embedding_radius=1.0)  # no Adam
      >>> updates, state = tx.update(params, tx.init(params), params)
      >>> print(2**12 * updates["embed"][0])  # the sign
      [-1. -1. -1. -1.]

    Reference:
      Pethick et al. 2025, Training deep learning models with norm-constrained LMOs, Algorithms 1 and 2 and section 3,
      https://arxiv.org/abs/2502.07529
    """
    label = "gdjax.scion"
    coefficients(label, ns_coeffs, ns_steps)

    def group(norm: Norm, radius: Any) -> GradientTransformation:
        direction = scale_by_scion(
            norm, alpha, eps, ns_coeffs, ns_steps, preconditioning=preconditioning, ns_dtype=ns_dtype,
            mu_dtype=mu_dtype, roles=roles,
        )  # fmt: skip
        return chain(
            base.part_of(direction).labelled(label),
            scale_by_learning_rate(radius, flip_sign=False),
            *([add_decayed_weights(1.0)] if constrained else []),
            scale_by_learning_rate(learning_rate),
        )

    groups = {
        "matrix": group("spectral", radius),
        "embedding": group("embedding_sign" if embedding_norm == "sign" else "embedding_col", embedding_radius),
        "head": group(head_norm, head_radius),
        "other": group("rms", other_radius),
    }
    return routed(label, groups, routing(roles))
