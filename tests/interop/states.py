"""States to save: of the right shapes and dtypes, every number another, and nothing compiled to make them."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from tests.trees import is_key


def filled(tx: Any, params: Any, seed: int = 0) -> Any:
    rng = np.random.default_rng(seed)

    def leaf(x: Any) -> Any:
        if is_key(x):
            return jax.random.wrap_key_data(jnp.asarray(rng.integers(0, 99, (*x.shape, 2), np.uint32)))
        values = rng.uniform(1, 99, x.shape) if jnp.issubdtype(x.dtype, jnp.inexact) else rng.integers(0, 2, x.shape)
        return jnp.asarray(np.asarray(values).astype(x.dtype))

    return jax.tree.map(leaf, jax.eval_shape(tx.init, params))
