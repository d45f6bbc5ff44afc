"""What Muon and its kin share: which leaves are matrices, their momenta, and the arguments of Newton-Schulz."""

import functools
from typing import Any

import jax
import jax.numpy as jnp

from gdjax import numerics
from gdjax.lift.leafwise import Hyper, OfLeaf
from gdjax.lift.stages import Tree, Whole
from gdjax.linalg.polar import Polar
from gdjax.linalg.polar_coefficients import coefficients
from gdjax.matrices.plan import Leaf, plan_of
from gdjax.numerics import Array, bounded, debias


def matrices(default: Any) -> OfLeaf:
    """How each leaf is a matrix, for a rule: `static={"dimensions": matrices(Matrix())}`."""

    def of_each(tree: Tree, dimensions: Any) -> list[Leaf]:
        plan = plan_of(tree.label, tree.structure.unflatten(tree.entries), dimensions, default)
        return tree.of_each([leaf._replace(path="") for leaf in plan.leaves])  # leaves alike share one trace

    return of_each


def real_for(ns_dtype: Any, g: Array) -> None:
    """Raises for complex numbers where factors are rounded."""
    if ns_dtype is not None and jnp.iscomplexobj(g):
        raise TypeError(f"ns_dtype {jnp.dtype(ns_dtype)} does not support complex numbers ({g.dtype})")


def matrices_of(tree: Tree, gs: Any, dimensions: Any, ns_dtype: Any, default: Any) -> list[Leaf]:
    """The plan of the leaves that have gradients, of which each must be a matrix."""
    plan = plan_of(tree.label, tree.of(gs), dimensions, default)
    leaves = tree.of_each(plan.leaves)
    for leaf, g in zip(leaves, gs, strict=True):
        if ns_dtype is not None and jnp.iscomplexobj(g):
            dtype = jnp.dtype(ns_dtype)
            raise TypeError(f"{tree.label}: {leaf.path}: ns_dtype {dtype} does not support complex numbers ({g.dtype})")
    return leaves


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
    return Whole(lambda params, given: coefficients(label, given["ns_coeffs"], given["ns_steps"]), seen=True)


def check_polar(
    label: str, ns_steps: Hyper, ns_coeffs: Any, preconditioning: str, equilibrate: Any = None, renormalize: Any = None,
    **_: Any,
) -> None:  # fmt: skip
    """Raises unless these settings are some of Newton-Schulz."""
    coefficients(label, ns_coeffs, ns_steps)
    Polar(ns_steps, preconditioning, None, equilibrate, renormalize).checked(label)


def by_shape(rows: int, columns: int, consistent_rms: Any) -> Any:
    if consistent_rms is None:
        return max(1, columns / max(rows, 1)) ** 0.5
    return max(rows, columns) ** 0.5 * consistent_rms
