"""Kullback-Leibler divergences."""

from __future__ import annotations

import jax.numpy as jnp

from gdjax.losses.common import Array, ArrayLike, Axis, keep, mask_of, pair, product

__all__ = ["convex_kl_divergence", "generalized_kl_divergence", "kl_divergence", "kl_divergence_with_log_targets"]


def kl_divergence(
    log_predictions: ArrayLike, targets: ArrayLike, axis: Axis = -1, where: ArrayLike | None = None
) -> Array:
    """The Kullback-Leibler divergence of predictions from targets.

        KL(p || q) = sum_k p_k (log p_k - log q_k)

    Args:
      log_predictions: log q, (..., K), -inf for a probability of 0.
      targets: p, (..., K), at least 0. A term with p_k = 0 is 0, whatever q_k is. Leading axes may broadcast, either
        way; the sizes along `axis` must agree.
      axis: the axis or axes of the classes, None for all of them.
      where: False where a term is to be left out; it broadcasts to the shape of the inputs.

    Returns:
      The divergence of each example, (...).

    Raises:
      TypeError: an input is not floating.
      ValueError: shapes that do not match.

    At p_k = 0 the derivative with respect to p_k, which is -inf, is given as -log q_k, or 0 where that is infinite.
    Optax returns NaN for p_k = q_k = 0, and a NaN derivative at p_k = 0.

    Example:
      >>> import gdjax, jax.numpy as jnp
      >>> p, q = jnp.array([0.5, 0.5, 0.0]), jnp.array([0.25, 0.5, 0.25])
      >>> round(float(gdjax.kl_divergence(jnp.log(q), p)), 3)  # 0.5 log 2
      0.347

    Reference:
      Kullback & Leibler 1951, On information and sufficiency, https://doi.org/10.1214/aoms/1177729694
    """
    label = "gdjax.kl_divergence"
    log_q, p, dtype = pair(label, floating=2, along=axis, log_predictions=log_predictions, targets=targets)
    mask = mask_of(label, where, log_q.shape)
    return jnp.sum(_terms(keep(mask, log_q), keep(mask, p)), axis=axis).astype(dtype)


def _terms(log_q: Array, p: Array) -> Array:
    return product(p, jnp.log(jnp.where(p == 0, 1, p)) - log_q)


def kl_divergence_with_log_targets(
    log_predictions: ArrayLike, log_targets: ArrayLike, axis: Axis = -1, where: ArrayLike | None = None
) -> Array:
    """`kl_divergence` for targets that are given as logarithms too.

        sum_k exp(t_k) (t_k - log q_k)

    Args:
      log_predictions: log q, (..., K), -inf for a probability of 0.
      log_targets: t, (..., K). A term with t_k = -inf is 0, whatever q_k is. Leading axes may broadcast, either way;
        the sizes along `axis` must agree.
      axis: the axis or axes of the classes, None for all of them.
      where: False where a term is to be left out; it broadcasts to the shape of the inputs.

    Returns:
      The divergence of each example, (...).

    Raises:
      TypeError: an input is not floating.
      ValueError: shapes that do not match.

    Optax returns NaN for t_k = -inf.
    """
    label = "gdjax.kl_divergence_with_log_targets"
    log_q, t, dtype = pair(label, floating=2, along=axis, log_predictions=log_predictions, log_targets=log_targets)
    mask = mask_of(label, where, log_q.shape)
    log_q, t = keep(mask, log_q), keep(mask, t, -jnp.inf)
    p = jnp.exp(t)
    return jnp.sum(product(p, jnp.where(p == 0, 0, t) - log_q), axis=axis).astype(dtype)


def generalized_kl_divergence(
    log_predictions: ArrayLike, targets: ArrayLike, axis: Axis = -1, where: ArrayLike | None = None
) -> Array:
    """The Kullback-Leibler divergence of measures that need not sum to 1.

        D(p, q) = sum_k p_k (log p_k - log q_k) + q_k - p_k

    It is the Bregman divergence of sum_k p_k log p_k - p_k, and never negative.

    Args:
      log_predictions: log q, (..., K), -inf for 0.
      targets: p, (..., K), at least 0. Where p_k = 0 the term is q_k. Leading axes may broadcast, either way; the sizes
        along `axis` must agree.
      axis: the axis or axes of the classes, None for all of them.
      where: False where a term is to be left out; it broadcasts to the shape of the inputs.

    Returns:
      The divergence of each example, (...).

    Raises:
      TypeError: an input is not floating.
      ValueError: shapes that do not match.

    Reference:
      Boyd & Vandenberghe 2004, Convex optimization, example 3.19, https://web.stanford.edu/~boyd/cvxbook/
    """
    label = "gdjax.generalized_kl_divergence"
    log_q, p, dtype = pair(label, floating=2, along=axis, log_predictions=log_predictions, targets=targets)
    mask = mask_of(label, where, log_q.shape)
    log_q, p = keep(mask, log_q, -jnp.inf), keep(mask, p)
    return jnp.sum(_terms(log_q, p) + (jnp.exp(log_q) - p), axis=axis).astype(dtype)


def convex_kl_divergence(
    log_predictions: ArrayLike, targets: ArrayLike, axis: Axis = -1, where: ArrayLike | None = None
) -> Array:
    """The former name of `generalized_kl_divergence`."""
    return generalized_kl_divergence(log_predictions, targets, axis, where)
