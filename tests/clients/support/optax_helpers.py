"""A pytest plugin for Optax's own tests, whose tools lie among its private modules: x64_precision."""

import contextlib
from collections.abc import Iterator

import jax
from optax._src import utils


@contextlib.contextmanager
def x64_precision(enable: bool = True) -> Iterator[None]:
    """Turns 64-bit types on or off meanwhile."""
    before = jax.config.jax_enable_x64
    jax.config.update("jax_enable_x64", enable)
    try:
        yield
    finally:
        jax.config.update("jax_enable_x64", before)


if not hasattr(utils, "x64_precision"):
    utils.x64_precision = x64_precision
