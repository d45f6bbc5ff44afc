"""Muon: momentum with its singular values made equal."""

import functools
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from gdjax.combine.chain import chain
from gdjax.combine.groups import routed
from gdjax.core.base import GradientTransformation, check_transform, identity, part_of, transform
from gdjax.core.growth import Law
from gdjax.core.misuse import Dialect, dialects
from gdjax.core.types import (
    Decay,
    Dimensions,
    DType,
    Finite,
    Floating,
    Mask,
    Params,
    PerLeaf,
    Rate,
    Size,
    Steps,
    Transform,
)  # fmt: skip
from gdjax.leaf_roles.plan import of_leaf
from gdjax.lift.leafwise import Hyper, hyper, leafwise
from gdjax.lift.slots import matrix_moment
from gdjax.linalg.newton_schulz import Preconditioning
from gdjax.linalg.polar import JORDAN, Equilibrate, Polar, Renormalize, coefficients
from gdjax.linalg.stacks import in_stacks
from gdjax.matrices.together import of_stacks
from gdjax.numerics import Array, bounded, debias, scalar, unit_and_norm
from gdjax.optimizers.adam import adamw
from gdjax.optimizers.orthogonal import NS_COEFFS, by_shape, refuse_complex
from gdjax.transforms.decay import add_decayed_weights
from gdjax.transforms.scaling import scale_by_learning_rate

__all__ = ["MuonDimensionNumbers", "MuonState", "muon", "scale_by_muon"]


class MuonState(NamedTuple):
    """State of `scale_by_muon`."""

    count: Array  # () int32, updates made so far
    mu: Params  # like params, momentum
    ns_coeffs: Array  # (3,) or (steps, 3), coefficients of Newton-Schulz


class MuonDimensionNumbers(NamedTuple):
    """Which axes of an array are the rows (inputs) and columns (outputs) of a matrix, each one axis or several.

    Along the axes not named lie independent matrices.
    """

    reduction_axis: Sequence[int] | int = 0
    output_axis: Sequence[int] | int = 1


def orthogonal(
    ms: list[Array], coeffs: Array, steps: Hyper, eps: Hyper, polar: Polar, adaptive: bool, scaled: bool, rms: Hyper,
    power: Hyper = None,
) -> list[Array]:  # fmt: skip
    """Stacks of matrices orthogonalized, those of one shape together, and scaled."""
    os = polar.factors(ms, coeffs, steps, eps)
    if power is not None:
        os = in_stacks(functools.partial(_to_the_power, power=power), os, ms)
    if adaptive:
        os = list(map(_times_inner_product, os, ms))
    return [jnp.asarray(by_shape(o.shape[-2], o.shape[-1], rms)).astype(o.dtype) * o for o in os] if scaled else os


@jax.jit
def _times_inner_product(o: Array, m: Array) -> Array:
    return jnp.real(jnp.sum(m.conj() * o, (-2, -1), keepdims=True)).astype(o.dtype) * o


@jax.jit
def _to_the_power(o: Array, m: Array, power: Any) -> Array:
    """o with singular values of about s^power in the place of 1, for those s of m that are near |m|."""
    unit, norm = unit_and_norm(m, (-2, -1))
    x = m * (1 / unit).astype(m.dtype) / jnp.where(norm == 0, 1, norm).astype(m.dtype)
    tall = m.shape[-2] > m.shape[-1]
    x, y = (z.conj().swapaxes(-1, -2) if tall else z for z in (x, o))
    one = jnp.eye(x.shape[-2], dtype=x.dtype)[(None,) * (x.ndim - 2)]
    E = x @ x.conj().swapaxes(-1, -2) - one
    power = scalar(power, norm.dtype)
    delta = (power / 2).astype(x.dtype)
    y = y + delta * (E @ y) + delta * (delta - 1) / 2 * (E @ (E @ y))
    size = jnp.where(norm == 0, 1, (unit * norm) ** power)
    return size.astype(x.dtype) * (y.conj().swapaxes(-1, -2) if tall else y)


def _growth(arguments: Mapping[str, Any], before: Law, role: str) -> Law | str | None:
    if arguments["power"] is not None:
        return None  # between those of the gradient and of its polar factor
    if arguments["adaptive"]:  # times the sum of the singular values of the gradient
        return Law(0.5, -0.5, full=True, gradient=True)
    by = "by_shape" if arguments["consistent_rms"] is None else "by_rms"
    return by if arguments["scaled"] else "orthonormal"


@leafwise(
    MuonState, mu=matrix_moment,
    static={"dimensions": of_leaf(lambda numbers: numbers, MuonDimensionNumbers())}, ns_coeffs=NS_COEFFS,
    growth=_growth,
)  # fmt: skip
def _muon(
    g: Array, s: MuonState, p: Array, t: Array,
    ns_coeffs: Any, ns_steps: hyper.Steps, beta: Hyper, eps: hyper.Size, mu_dtype: DType | None, nesterov: bool,
    adaptive: bool, polar: Polar, dimensions: Any, bias_correction: bool, scaled: bool,
    consistent_rms: hyper.Size = None, power: hyper.Finite = None,
) -> tuple[Array, MuonState]:  # fmt: skip
    refuse_complex(polar.products, g)
    g = bounded(g)
    mu = beta * s.mu + (1 - beta) * g
    if bias_correction:
        m = debias(beta * mu, beta, t + 1) + debias((1 - beta) * g, beta, t) if nesterov else debias(mu, beta, t)
    else:
        m = beta * mu + (1 - beta) * g if nesterov else mu
    X = of_stacks(
        orthogonal, m, leaf=dimensions, coeffs=s.ns_coeffs, steps=ns_steps, eps=eps, polar=polar,
        adaptive=adaptive, scaled=scaled, rms=consistent_rms, power=power,
    )  # fmt: skip
    return X, s._replace(mu=mu)


@transform
def scale_by_muon(
    ns_coeffs: Any = JORDAN, ns_steps: Steps = 5, beta: Decay = 0.95, eps: Size = 1e-8, mu_dtype: DType | None = None,
    *, nesterov: bool = True, adaptive: bool = False, preconditioning: Preconditioning = "frobenius",
    weight_dimension_numbers: Dimensions = None, bias_correction: bool = True, ns_dtype: Floating | None = None,
    equilibrate: Equilibrate = None, renormalize: Renormalize = None, power: Finite | None = None,
) -> GradientTransformation:  # fmt: skip
    """Muon's direction, the momentum with its singular values made about 1.

    Every leaf must be a matrix, or `weight_dimension_numbers` say how it is one; else `update` raises a ValueError.

    The direction is X_ns_steps. Formulas and other arguments are those of `gdjax.muon`.

    Args:
      weight_dimension_numbers: how each leaf is a matrix: a tree of `MuonDimensionNumbers`, a prefix of the parameters,
        or a function from the parameters to one; None for leaves of two axes.

    Example:
      >>> import gdjax, jax.numpy as jnp
      >>> tx = gdjax.scale_by_muon(ns_coeffs="polar_express", ns_steps=8)
      >>> g = jnp.array([[3.0, 0.0, 0.0], [0.0, 0.1, 0.0]])
      >>> direction, state = tx.update(g, tx.init(g))
      >>> print(jnp.linalg.svd(direction, compute_uv=False).round())
      [1. 1.]
    """
    coefficients("gdjax.scale_by_muon", ns_coeffs, ns_steps)
    return _muon(
        ns_coeffs, ns_steps, beta, eps, mu_dtype, nesterov, adaptive,
        Polar(preconditioning, ns_dtype, equilibrate, renormalize), weight_dimension_numbers, bias_correction,
        scaled=False, power=power,
    )  # fmt: skip


_JORDANS = {"eps": 1e-7, "bias_correction": False, "ns_dtype": "bfloat16"}


@transform
@dialects(torch=_JORDANS | {"weight_decay": 0.1}, paper=_JORDANS)
def muon(
    learning_rate: Rate, ns_coeffs: Any = JORDAN, ns_steps: Steps = 5, beta: Decay = 0.95, eps: Size = 1e-8,
    weight_decay: Size = 0.0, weight_decay_mask: Mask = None, mu_dtype: DType | None = None,
    *, nesterov: bool = True, adaptive: bool = False, preconditioning: Preconditioning = "frobenius",
    adam_b1: Decay = 0.9, adam_b2: Decay = 0.999, adam_eps_root: Size = 0.0, adam_weight_decay: Size = 0.0,
    adam_learning_rate: Rate | None = None, muon_weight_dimension_numbers: Dimensions = None,
    consistent_rms: Size | None = None, bias_correction: bool = True, ns_dtype: Floating | None = None,
    equilibrate: Equilibrate = None, renormalize: Renormalize = None, power: Finite | None = None,
    others: Transform | None = None,
    like: Dialect = "optax",
) -> GradientTransformation:  # fmt: skip
    """Muon for matrices, AdamW for the rest: momentum whose singular values become about 1, by Newton-Schulz.

        mu_t = beta mu_{t-1} + (1 - beta) g_t
        m_t = beta mu_t / (1 - beta^(t+1)) + (1 - beta) g_t / (1 - beta^t)
        X_0 = m_t / (|m_t| + eps),    X_{k+1} = a X_k + b A X_k + c A^2 X_k,    A = X_k X_k^T
        x_{t+1} = x_t - lr (sqrt(max(1, columns / rows)) X_ns_steps + weight_decay x_t)

    Matrices of one shape, or of one shape and its transpose, are computed together, 16-bit ones in float32.

    Args:
      learning_rate: lr, a scalar or a schedule.
      ns_coeffs: (a, b, c), or a sequence of such triples, one for each step, or the name of some: "standard" (the
        default, also "jordan"), "dion", "polar_express", "cans", "deepseek" (ten steps) or "aol" (four, for
        `preconditioning="aol"`). They are in the state, and can be changed there between two steps.
      ns_steps: how many steps of Newton-Schulz; with a sequence of triples only a bound on their number. Those of
        "polar_express" and "cans" are as many as steps, the last again where they end. A schedule or a traced integer
        makes it a loop, without derivatives: the number then changes without a new program, and of a sequence of
        triples the last is taken again where they end.
      beta: decay of the momentum, in [0, 1).
      eps: beside the norm, at least 0; AdamW's too.
      weight_decay: of the matrices, times lr.
      weight_decay_mask: which of them decay: a tree of booleans, a prefix of the parameters, or a function from them to
        one; None for all.
      mu_dtype: the dtype of mu, the parameter's by default; of AdamW's too.
      nesterov: as above; False for m_t = mu_t / (1 - beta^t). For AdamW too.
      adaptive: multiply X by the inner product <m_t, X>, about the sum of m_t's singular values (the dual norm).
      preconditioning: the norm that m_t is divided by: "frobenius"; "spectral", the largest singular value; "schatten",
        between the two; or "aol", a number for each row, for `ns_coeffs="aol"`.
      adam_b1, adam_b2, adam_eps_root, adam_weight_decay, adam_learning_rate: AdamW's; its rate is lr by default.
      muon_weight_dimension_numbers: a tree of `MuonDimensionNumbers`, a prefix of the parameters, or a function from
        the parameters to one; None in it for AdamW. By default Muon takes every array of two axes and no other, as in
        Optax: embeddings and heads too, which the reference leaves to Adam. `matrices_by_role()` finds hidden matrices.
      consistent_rms: in place of sqrt(max(1, columns / rows)) the factor sqrt(max(rows, columns)) consistent_rms; 0.2
        is Liu et al.'s, which gives updates the size of AdamW's.
      equilibrate: make the vectors of all "outputs" of m_t equal in norm before Newton-Schulz (MuonEq-R), or those of
        all "inputs", or divide by the norms of "both".
      renormalize: divide X by the norms of the vectors of its "outputs" or "inputs", or of both in the order "inputs
        outputs" or "outputs inputs" (Muon+); or give it the norm of a polar factor, the root of its rank: "frobenius".
      power: p of DynMuon, a number or a schedule, 0.25 at first and -0.25 later: the update gets singular values of
        about s^p, as X <- |m_t|^p (1 + d E + d (d - 1) E^2 / 2) X with d = p / 2 and E = m_t m_t^T / |m_t|^2 - 1, the
        expansion of (m_t m_t^T)^d. The update grows with the gradient as its power p. None for 0. The authors' m_t is
        a sum, 1 / (1 - beta) times as large.
      bias_correction: False for the reference's m_t = beta mu_t + (1 - beta) g_t. A common factor makes no difference
        to X; the two mix mu and g differently in the first steps.
      ns_dtype: the dtype that X, A and b A + c A^2 are rounded to before they are multiplied; products are summed in
        float32. By default nothing is rounded further. With bfloat16 updates differ by 1 to 2 %, and a step is two to
        four times faster where the processor multiplies such numbers faster (AMX on a CPU; a GPU).
      others: a transform in the place of AdamW.
      like: "optax", or other defaults: eps 1e-7, bias_correction False and ns_dtype "bfloat16" with "paper", Jordan's
        code; with "torch", for `torch.optim.Muon`, a weight_decay of 0.1 too. Weights of (outputs, inputs), as torch's
        are, need their dimension numbers all the same.

    `docs/muon.md` has the arguments for the dialects of Moonlight and others.

    Departures: of the reference see `like`. From Optax: "adaptive" takes the
    inner product of each matrix, not of an array of several; "schatten" and "aol" scale gradients however small, where
    Optax's do nothing to squares below 1e-8; huge gradients do not overflow.

    Raises:
      ValueError: an unknown preset, preconditioning, equilibration or renormalization; coefficients of another shape
        or for more steps than ns_steps; dimension numbers that do not fit.
      TypeError: (in update) a complex matrix with `ns_dtype`.

    Warns:
      UserWarning: (in init) hidden matrices, embeddings or heads at a rate that is not for them, or in the other
        method, see `docs/matrix_methods.md`.

    Example:
      >>> import gdjax, jax.numpy as jnp
      >>> hidden = gdjax.matrices_by_role()  # embeddings, heads and biases go to AdamW
      >>> tx = gdjax.muon(0.02, adam_learning_rate=1e-3, muon_weight_dimension_numbers=hidden)
      >>> params = {"embed": jnp.ones((9, 4)), "mlp": {"kernel": jnp.eye(4)}}
      >>> updates, state = tx.update(params, tx.init(params), params)
      >>> step = jnp.linalg.svd(updates["mlp"]["kernel"], compute_uv=False)
      >>> bool((step > 0.01).all() & (step < 0.03).all())  # singular values of about lr
      True

    Reference:
      Jordan et al. 2024, Muon: an optimizer for hidden layers in neural networks,
      https://kellerjordan.github.io/posts/muon/;
      Liu et al. 2025, Muon is scalable for LLM training, section 2.2, https://arxiv.org/abs/2502.16982;
      Bernstein & Newhouse 2024, Old optimizer, new norm, Proposition 5, https://arxiv.org/abs/2409.20325 ("adaptive");
      Boissin et al. 2025, Turbo-Muon, https://arxiv.org/abs/2512.04632 ("aol");
      Grishina, Smirnov & Rakhuba 2025, https://arxiv.org/abs/2506.10935 ("schatten", "cans");
      Amsel et al. 2025, The Polar Express, Algorithm 1, https://arxiv.org/abs/2505.16932;
      DeepSeek-AI 2026, DeepSeek-V4 ("deepseek");
      Chang et al. 2026, MuonEq, https://arxiv.org/abs/2603.28254 (`equilibrate`);
      Zhang et al. 2026, Muon+, https://arxiv.org/abs/2602.21545 (`renormalize`);
      Wu, Shah, Silwal & Zhang 2026, DynMuon, https://arxiv.org/abs/2605.17109 (`power`, as in their result 28 of
      modded-nanogpt, track 3, https://github.com/KellerJordan/modded-nanogpt)
    """
    label, dimensions = "gdjax.muon", muon_weight_dimension_numbers
    coefficients(label, ns_coeffs, ns_steps)
    direction = _muon(
        ns_coeffs, ns_steps, beta, eps, mu_dtype, nesterov, adaptive,
        Polar(preconditioning, ns_dtype, equilibrate, renormalize),
        MuonDimensionNumbers() if dimensions is None else dimensions,
        bias_correction, scaled=True, consistent_rms=consistent_rms, power=power,
    )  # fmt: skip
    spectral = chain(
        part_of(direction).labelled(label),
        identity(),  # Optax multiplies by the factor here, in a transform of its own
        add_decayed_weights(weight_decay, weight_decay_mask),
        scale_by_learning_rate(learning_rate),
    )
    adam = adamw(
        learning_rate if adam_learning_rate is None else adam_learning_rate,
        adam_b1, adam_b2, eps, adam_eps_root, mu_dtype, adam_weight_decay, nesterov=nesterov,
    )  # fmt: skip
    rest = adam if others is None else check_transform(label, "others", others)
    return routed(
        label, {"muon": spectral, "adam": rest}, dimensions, "muon", argument="muon_weight_dimension_numbers",
        adams_rates=consistent_rms is not None or isinstance(learning_rate, PerLeaf),
        own_rate=adam_learning_rate is not None or others is not None,
    )  # fmt: skip
