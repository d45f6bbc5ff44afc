"""Helpers that several test files share."""

import contextlib
from collections.abc import Iterator

import jax


@contextlib.contextmanager
def relaxed() -> Iterator[None]:
    """JAX's default promotion rules inside the block: for calls into Optax, which does not run in the strict mode."""
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        yield
