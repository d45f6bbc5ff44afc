"""Muon: momentum with its singular values made equal."""

import functools
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from gdjax import numerics
from gdjax.combine.chain import chain
from gdjax.combine.routed import routed
from gdjax.core import base, meshes
from gdjax.core.base import GradientTransformation, identity, transform
from gdjax.core.types import ScalarOrSchedule
from gdjax.lift.leafwise import Hyper, leafwise
from gdjax.lift.slots import first_moment
from gdjax.lift.stages import Reduced, Staged, Tree, Whole
from gdjax.linalg.plan import Leaf, plan_of
from gdjax.linalg.polar import Polar
from gdjax.linalg.polar_coefficients import JORDAN, coefficients
from gdjax.numerics import Array, bounded, debias
from gdjax.optimizers.adam import adamw
from gdjax.transforms.decay import add_decayed_weights
from gdjax.transforms.scaling import scale_by_learning_rate


class MuonState(NamedTuple):
    """State of `scale_by_muon`."""

    count: Array  # () int32, updates made so far
    mu: Any  # like params, momentum
    ns_coeffs: Array  # (3,) or (steps, 3), coefficients of Newton-Schulz


class MuonDimensionNumbers(NamedTuple):
    """Which axes of an array are the rows (inputs) and columns (outputs) of a matrix, each one axis or several.

    Along the axes not named lie independent matrices.
    """

    reduction_axis: Sequence[int] | int = 0
    output_axis: Sequence[int] | int = 1


def _orthogonal(
    gs: Any, s: Any, ps: Any, t: Any,
    tree: Tree, beta: Hyper, eps: Hyper, nesterov: bool, bias_correction: bool, consistent_rms: Hyper, ns_steps: Hyper,
    adaptive: bool, preconditioning: str, ns_dtype: Any, equilibrate: Any, renormalize: Any, dimensions: Any,
    factor: Any,
) -> Any:  # fmt: skip
    """The momentum of all matrices, and it orthogonalized, those of one shape together."""
    leaves = matrices_of(tree, gs, dimensions, ns_dtype, MuonDimensionNumbers())
    polar = Polar(ns_steps, preconditioning, ns_dtype, equilibrate, renormalize)

    def orthogonal(ms: list[Array], coeffs: Array, eps: Any, rms: Any) -> list[Array]:
        xs = [leaf.split(m) for leaf, m in zip(leaves, ms, strict=True)]
        flat = [x for parts in xs for x in parts]
        os = polar.of(flat, coeffs, eps)
        os = map(_times_inner_product, os, flat) if adaptive else iter(os)
        scaled = [[_scaled(next(os), factor, rms) for _ in parts] for parts in xs]
        return [leaf.joined(os) for leaf, os in zip(leaves, scaled, strict=True)]

    ms, mus = momenta(gs, s.mu, t, beta, nesterov, bias_correction)
    return {"mu": mus, "u": meshes.partitioned(orthogonal, gs, ms, s.ns_coeffs, eps, consistent_rms)}


def matrices_of(tree: Tree, gs: Any, dimensions: Any, ns_dtype: Any, default: Any) -> list[Leaf]:
    """The plan of the leaves that have gradients, of which each must be a matrix."""
    plan = plan_of(tree.label, tree.of(gs), dimensions, default)
    leaves = tree.of_each(plan.leaves)
    for leaf, g in zip(leaves, gs, strict=True):
        if ns_dtype is not None and jnp.iscomplexobj(g):
            dtype = jnp.dtype(ns_dtype)
            raise TypeError(f"{tree.label}: {leaf.path}: ns_dtype {dtype} does not support complex numbers ({g.dtype})")
    return leaves


@jax.jit
def _times_inner_product(o: Array, m: Array) -> Array:
    return jnp.real(jnp.sum(m.conj() * o, (-2, -1), keepdims=True)).astype(o.dtype) * o


def _scaled(o: Array, factor: Any, rms: Any) -> Array:
    return jnp.asarray(factor(*o.shape[-2:], rms)).astype(o.dtype) * o


def momenta(
    gs: Any, mus: Any, t: Array, beta: Hyper, nesterov: bool, bias_correction: bool
) -> tuple[list[Array], list[Array]]:
    """For each matrix m_t and mu_t."""
    average = jax.jit(functools.partial(_momentum, t=t, beta=beta, nesterov=nesterov, bias_correction=bias_correction))
    averages = [average(g, mu) for g, mu in zip(gs, mus, strict=True)]  # leaves alike share one trace
    return [m for m, _ in averages], [mu for _, mu in averages]


def _momentum(g: Array, mu: Array, t: Array, beta: Hyper, nesterov: bool, bias_correction: bool) -> tuple[Array, Array]:
    """m_t and mu_t of one matrix."""
    real = numerics.widest_real([g, mu])
    g, mu = numerics.widen((g, mu), real)
    t, beta = t.astype(real), numerics.scalar(beta, real)
    g = bounded(g)
    mu = beta * mu + (1 - beta) * g
    if not bias_correction:
        m = beta * mu + (1 - beta) * g if nesterov else mu
    else:
        m = debias(beta * mu, beta, t + 1) + debias((1 - beta) * g, beta, t) if nesterov else debias(mu, beta, t)
    return m, mu


def first_coefficients(label: str) -> Whole:
    """The slot of the coefficients."""
    return Whole(lambda params, given: coefficients(label, given["ns_coeffs"], given["ns_steps"]))


@leafwise(MuonState, reduce=_orthogonal, mu=first_moment, ns_coeffs=first_coefficients("gdjax.scale_by_muon"))
def _muon(
    g: Array, s: Any, p: Any, t: Any,
    beta: Hyper, eps: Hyper, nesterov: bool, bias_correction: bool, mu_dtype: Any = None, consistent_rms: Hyper = None,
    ns_steps: Hyper = 5, ns_coeffs: Staged = JORDAN, adaptive: Staged = False, preconditioning: Staged = "frobenius",
    ns_dtype: Staged = None, equilibrate: Staged = None, renormalize: Staged = None, dimensions: Staged = None,
    factor: Staged = None,
    u: Reduced = None,
) -> Any:  # fmt: skip
    return u, s


@transform
def scale_by_muon(
    ns_coeffs: Any = JORDAN,
    ns_steps: ScalarOrSchedule = 5,
    beta: ScalarOrSchedule = 0.95,
    eps: ScalarOrSchedule = 1e-8,
    mu_dtype: Any = None,
    *,
    nesterov: bool = True,
    adaptive: bool = False,
    preconditioning: str = "frobenius",
    weight_dimension_numbers: Any = None,
    bias_correction: bool = True,
    ns_dtype: Any = None,
    equilibrate: str | None = None,
    renormalize: str | None = None,
) -> GradientTransformation:
    """Muon's direction, the momentum with its singular values made about 1. See `muon` for the arguments.

    Every leaf must be a matrix, or `weight_dimension_numbers` say how it is one.

    Raises:
      ValueError: an unknown preset or preconditioning; coefficients of another shape or for more steps than ns_steps.
        (In update) a leaf that is no matrix.
      TypeError: (in update) a complex leaf with `ns_dtype`.
    """
    return _checked(
        "gdjax.scale_by_muon", beta, eps, nesterov, bias_correction, mu_dtype, None, ns_steps, ns_coeffs, adaptive,
        preconditioning, ns_dtype, equilibrate, renormalize, weight_dimension_numbers, lambda rows, columns, rms: 1,
    )  # fmt: skip


def _checked(label: str, *arguments: Any) -> Any:
    """The rule with these arguments, or the errors that they are, under the name `label`."""
    rule = base.part_of(_muon(*arguments))
    check_polar(label, **rule.hyper, **rule.staged)
    return rule.labelled(label)


def check_polar(
    label: str, ns_steps: Any, ns_coeffs: Any, preconditioning: str, equilibrate: Any = None, renormalize: Any = None,
    **_: Any,
) -> None:  # fmt: skip
    """Raises unless these settings are some of Newton-Schulz."""
    coefficients(label, ns_coeffs, ns_steps)
    Polar(ns_steps, preconditioning, None, equilibrate, renormalize).checked(label)


def by_shape(rows: int, columns: int, consistent_rms: Any) -> Any:
    if consistent_rms is None:
        return max(1, columns / max(rows, 1)) ** 0.5
    return max(rows, columns) ** 0.5 * consistent_rms


@transform
def muon(
    learning_rate: ScalarOrSchedule,
    ns_coeffs: Any = JORDAN,
    ns_steps: ScalarOrSchedule = 5,
    beta: ScalarOrSchedule = 0.95,
    eps: ScalarOrSchedule = 1e-8,
    weight_decay: ScalarOrSchedule = 0.0,
    weight_decay_mask: Any = None,
    mu_dtype: Any = None,
    *,
    nesterov: bool = True,
    adaptive: bool = False,
    preconditioning: str = "frobenius",
    adam_b1: ScalarOrSchedule = 0.9,
    adam_b2: ScalarOrSchedule = 0.999,
    adam_eps_root: ScalarOrSchedule = 0.0,
    adam_weight_decay: ScalarOrSchedule = 0.0,
    adam_learning_rate: ScalarOrSchedule | None = None,
    muon_weight_dimension_numbers: Any = None,
    consistent_rms: ScalarOrSchedule | None = None,
    bias_correction: bool = True,
    ns_dtype: Any = None,
    equilibrate: str | None = None,
    renormalize: str | None = None,
) -> GradientTransformation:
    """Muon for matrices, AdamW for the rest: momentum whose singular values become about 1, by Newton-Schulz.

        mu_t = beta mu_{t-1} + (1 - beta) g_t
        m_t = beta mu_t / (1 - beta^(t+1)) + (1 - beta) g_t / (1 - beta^t)
        X_0 = m_t / (|m_t| + eps),    X_{k+1} = a X_k + b A X_k + c A^2 X_k,    A = X_k X_k^T
        x_{t+1} = x_t - lr (sqrt(max(1, columns / rows)) X_ns_steps + weight_decay x_t)

    Matrices of one shape, or of one shape and its transpose, are computed together, 16-bit ones in float32.

    Args:
      learning_rate: lr, a scalar or a schedule.
      ns_coeffs: (a, b, c), or a sequence of such triples, one for each step, or "standard" (the default) or "dion".
      ns_steps: how many steps of Newton-Schulz, an int; with a sequence of triples only a bound on their number.
      beta: decay of the momentum, in [0, 1).
      eps: beside the norm, at least 0; AdamW's too.
      weight_decay: of the matrices, times lr.
      weight_decay_mask: which of them decay, as in `masked`.
      mu_dtype: the dtype of mu, the parameter's by default; of AdamW's too.
      nesterov: as above; False for m_t = mu_t / (1 - beta^t). For AdamW too.
      adaptive: multiply X by the inner product <m_t, X>, about the sum of m_t's singular values (the dual norm).
      preconditioning: the norm that m_t is divided by, see `gdjax.linalg.newton_schulz.orthogonalize`: "frobenius",
        "spectral", "schatten" or "aol".
      adam_b1, adam_b2, adam_eps_root, adam_weight_decay, adam_learning_rate: AdamW's; its rate is lr by default.
      muon_weight_dimension_numbers: a tree of `MuonDimensionNumbers`, a prefix of the parameters, or a function from
        the parameters to one; None in it for AdamW. By default Muon takes every array of two axes, embeddings and heads
        too, which the reference leaves to Adam.
      consistent_rms: in place of sqrt(max(1, columns / rows)) the factor sqrt(max(rows, columns)) consistent_rms; 0.2
        is Liu et al.'s, which gives updates the size of AdamW's.
      bias_correction: False for the reference's m_t = beta mu_t + (1 - beta) g_t. A common factor makes no difference
        to X; the two mix mu and g differently in the first steps.
      ns_dtype: the dtype that X, A and b A + c A^2 are rounded to before they are multiplied; products are summed in
        float32. By default nothing is rounded further. With bfloat16 updates differ by 1 to 2 %, and a step is two to
        four times faster where the processor multiplies such numbers faster (AMX on a CPU; a GPU).

    Departures: the reference computes X in bfloat16, see `ns_dtype`, with eps 1e-7. From Optax: "adaptive" takes the
    inner product of each matrix, not of an array of several; "schatten" and "aol" scale gradients however small, where
    Optax's do nothing to squares below 1e-8; huge gradients do not overflow.

    Raises:
      ValueError: an unknown preset or preconditioning; coefficients of another shape or for more steps than ns_steps;
        dimension numbers that do not fit.
      TypeError: (in update) a complex matrix with `ns_dtype`.

    Reference:
      Jordan et al. 2024, Muon: an optimizer for hidden layers in neural networks,
      https://kellerjordan.github.io/posts/muon/;
      Liu et al. 2025, Muon is scalable for LLM training, section 2.2, https://arxiv.org/abs/2502.16982;
      Bernstein & Newhouse 2024, Old optimizer, new norm, Proposition 5, https://arxiv.org/abs/2409.20325 ("adaptive");
      Boissin et al. 2025, Turbo-Muon, https://arxiv.org/abs/2512.04632 ("aol");
      Grishina, Smirnov & Rakhuba 2025, https://arxiv.org/abs/2506.10935 ("schatten")
    """
    label, dimensions = "gdjax.muon", muon_weight_dimension_numbers
    inside = MuonDimensionNumbers() if dimensions is None else dimensions
    direction = _checked(
        label, beta, eps, nesterov, bias_correction, mu_dtype, consistent_rms, ns_steps, ns_coeffs, adaptive,
        preconditioning, ns_dtype, equilibrate, renormalize, inside, by_shape,
    )  # fmt: skip
    spectral = chain(
        direction,
        identity(),  # Optax multiplies by the factor here, in a transform of its own
        add_decayed_weights(weight_decay, weight_decay_mask),
        scale_by_learning_rate(learning_rate),
    )
    adam = adamw(
        learning_rate if adam_learning_rate is None else adam_learning_rate,
        adam_b1, adam_b2, eps, adam_eps_root, mu_dtype, adam_weight_decay, nesterov=nesterov,
    )  # fmt: skip
    return routed(label, {"muon": spectral, "adam": adam}, dimensions, matrices="muon")
