"""Estimates of the curvature of a loss, in the place of its gradient."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from gdjax import tree
from gdjax.core import arrays, checks
from gdjax.core.base import GradientTransformation, transform
from gdjax.core.parts import holding
from gdjax.core.paths import named_leaves
from gdjax.core.types import KeyLike, OptState, Params, Updates
from gdjax.numerics import Array

__all__ = ["HutchinsonState", "hutchinson_estimator_diag_hessian"]


class HutchinsonState(NamedTuple):
    """State of `hutchinson_estimator_diag_hessian`."""

    key: Array  # () key of the next random signs


@transform
def hutchinson_estimator_diag_hessian(random_seed: KeyLike | None = None) -> GradientTransformation:
    """Replaces the updates by an estimate of the Hessian's diagonal, with random signs r.

        h = r * (H r)

    Its expectation is the diagonal; the variance of h_i is the sum of H_ij^2 over j != i.

    Args:
      random_seed: a PRNG key, or an int to seed one; 0 by default, as in Optax. The signs are a function of the key and
        the step.

    `update` needs `params` and the extra argument `obj_fn`, the loss as a function of the parameters alone:
    `update(updates, state, params, obj_fn=lambda p: loss(p, batch))`. Where that is missing `value_fn` takes its place.

    Raises:
      ValueError: (in update) params or obj_fn is missing.
      TypeError: (in update) complex parameters.

    Example:
      >>> import gdjax, jax.numpy as jnp
      >>> tx = gdjax.hutchinson_estimator_diag_hessian(random_seed=0)
      >>> params = jnp.array([1.0, 2.0])
      >>> h, _ = tx.update(params, tx.init(params), params, obj_fn=lambda p: jnp.sum(p**3))
      >>> print(h)  # of a diagonal Hessian, here 6 p, the estimate is exact
      [ 6. 12.]

    Reference:
      Hutchinson 1990; Bekas, Kokiopoulou & Saad 2007, An estimator for the diagonal of a matrix, section 2,
      https://doi.org/10.1016/j.apnum.2007.01.003
    """
    label = "gdjax.hutchinson_estimator_diag_hessian"

    def init(params: Params) -> HutchinsonState:
        if random_seed is None:
            return HutchinsonState(jax.random.PRNGKey(0))
        typed = isinstance(random_seed, int) or jnp.issubdtype(random_seed.dtype, jax.dtypes.prng_key)
        return HutchinsonState(arrays.fresh_key(random_seed) if typed else jnp.array(random_seed))

    def update(
        updates: Updates, state: OptState, params: Params | None = None,
        obj_fn: Callable[[Params], Array] | None = None, **extra_args: Any,
    ) -> tuple[Updates, HutchinsonState]:  # fmt: skip
        checks.state(label, state, HutchinsonState)
        checks.params(label, params)
        checks.gradients(label, updates, params)
        obj_fn = extra_args.get("value_fn") if obj_fn is None else obj_fn  # as line searches call it
        if obj_fn is None:
            raise ValueError(
                f"{label}: this transform needs obj_fn=..., the loss as a function of the parameters: call "
                "update(updates, state, params, obj_fn=...)"
            )
        key, signs_key = jax.random.split(state.key)
        return _signed_product(label, obj_fn, params, signs_key), HutchinsonState(key)

    return holding(init, update, also=["value_fn"])


def _signed_product(label: str, obj_fn: Callable[[Params], Array], params: Params, key: Array) -> Any:
    """r * (H r) where the parameters are differentiable; float0 elsewhere, as their gradients are."""
    for where, p in named_leaves("params", params):
        if jnp.iscomplexobj(p):
            raise TypeError(f"{label}: {where}: the Hessian does not support complex numbers ({p.dtype})")
    ps, structure = jax.tree.flatten(params)
    trained = [i for i, p in enumerate(ps) if jnp.issubdtype(jnp.result_type(p), jnp.inexact)]
    xs = [jax.lax.convert_element_type(ps[i], jnp.result_type(ps[i])) for i in trained]
    signs = jax.tree.leaves(tree.random_like(key, structure.unflatten(ps), jax.random.rademacher, jnp.float32))
    signs = [signs[i].astype(x.dtype) for i, x in zip(trained, xs, strict=True)]

    def loss(xs: list[Array]) -> Any:
        full = dict(enumerate(ps)) | dict(zip(trained, xs, strict=True))
        return obj_fn(structure.unflatten([full[i] for i in range(len(ps))]))

    products = jax.jvp(jax.grad(loss), (xs,), (signs,))[1] if trained else []
    out: list[Any] = [np.zeros(jnp.shape(p), jax.dtypes.float0) for p in ps]
    for i, r, hr in zip(trained, signs, products, strict=True):
        out[i] = r * hr
    return structure.unflatten(out)
