"""Products with the Hessian of a loss, and diagonals; parameters as one long vector."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax.flatten_util import ravel_pytree

from gdjax.core.types import Array, ArrayTree, Params

LossFn = Callable[[Any, Any, Any], Any]  # (params, inputs, targets) -> scalar

AT_ONCE = 128  # columns of the Hessian computed side by side


def hvp(loss: LossFn, v: Array, params: Params, inputs: ArrayTree, targets: ArrayTree) -> Any:
    """The product of the loss's Hessian at the parameters with a vector, by one derivative of the gradient along it.

    Args:
      loss: `loss(params, inputs, targets)`, a scalar.
      v: the vector, (n,), in the order of `jax.flatten_util.ravel_pytree(params)`.

    Returns:
      The product, a tree like the parameters.

    Example:
      >>> import gdjax, jax.numpy as jnp
      >>> def loss(params, inputs, targets):
      ...     return jnp.sum(params**3)
      >>> params, v = jnp.array([1.0, 2.0]), jnp.array([1.0, 0.0])
      >>> print(gdjax.second_order.hvp(loss, v, params, None, None))
      [6. 0.]

    Reference:
      Pearlmutter 1994, Fast exact multiplication by the Hessian, section 3, https://doi.org/10.1162/neco.1994.6.1.147
    """
    with jax.numpy_dtype_promotion("standard"):
        flat, unravel = ravel_pytree(params)
        if jnp.shape(v) != flat.shape:
            raise ValueError(f"gdjax.hvp: v has shape {jnp.shape(v)}, expected {flat.shape}, one number a parameter")
        v = unravel(jnp.asarray(v).astype(flat.dtype))
    return jax.jvp(jax.grad(lambda p: loss(p, inputs, targets)), (params,), (v,))[1]


def hessian_diag(loss: LossFn, params: Params, inputs: ArrayTree, targets: ArrayTree) -> Array:
    """The diagonal of the loss's Hessian at the parameters, (n,): n products of `hvp`, 128 of them at once.

    Example:
      >>> import gdjax, jax.numpy as jnp
      >>> def loss(params, inputs, targets):
      ...     return jnp.sum(params**3)
      >>> print(gdjax.second_order.hessian_diag(loss, jnp.array([1.0, 2.0]), None, None))
      [ 6. 12.]
    """
    flat = _ravel(params)
    if flat.size == 0:
        return flat

    def entry(i: Array) -> Array:
        v = jnp.zeros_like(flat).at[i].set(1)
        return _ravel(hvp(loss, v, params, inputs, targets))[i]

    return jax.lax.map(entry, jnp.arange(flat.size), batch_size=AT_ONCE)


def fisher_diag(negative_log_likelihood: LossFn, params: Params, inputs: ArrayTree, targets: ArrayTree) -> Array:
    """The square of the gradient of one observation's negative log-likelihood, element by element, (n,).

    Its mean over observations, taken one by one (`jax.vmap`), is the diagonal of the empirical Fisher information.
    Given a batch, this squares the gradient of the whole batch's likelihood.
    """
    return jnp.square(_ravel(jax.grad(negative_log_likelihood)(params, inputs, targets)))


def _ravel(tree: ArrayTree) -> Array:
    with jax.numpy_dtype_promotion("standard"):
        return ravel_pytree(tree)[0]
