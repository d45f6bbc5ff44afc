"""What Orbax needs to restore a tree as it was, and what it knows of one that was saved."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import orbax.checkpoint as ocp

from tests.trees import is_key

TAKES_SHAPES_OF_KEYS = jax.__version_info__ >= (0, 6)  # the Orbax that runs with an older JAX wants keys themselves


def target(make: Callable[[], Any]) -> Any:
    """The shapes of what `make` returns, on the first device."""
    here = jnp.zeros(()).sharding

    def leaf(x: Any) -> Any:
        if is_key(x) and not TAKES_SHAPES_OF_KEYS:
            return jax.random.wrap_key_data(jnp.zeros((*x.shape, 2), jnp.uint32))
        return jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=here)

    return jax.tree.map(leaf, jax.eval_shape(make))


def metadata(folder: Path) -> Any:
    """Shapes and dtypes of a checkpoint; older releases of Orbax return them without what is round them."""
    with ocp.StandardCheckpointer() as checkpointer:
        found = checkpointer.metadata(folder)
    return getattr(found, "item_metadata", found)
