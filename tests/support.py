"""Helpers that several test files share."""

import contextlib
import functools
import importlib
from collections.abc import Iterator
from typing import Any

import jax


@contextlib.contextmanager
def relaxed() -> Iterator[None]:
    """JAX's default promotion rules inside the block: for calls into Optax, which does not run in the strict mode."""
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        yield


@contextlib.contextmanager
def quick_compilation() -> Iterator[None]:
    """XLA compiles in a third of the time inside the block, to slower code: the same formulas in other roundings.

    The option of the second half is for the CPU, younger than the oldest JAX supported, and cannot be set for a part of
    a program otherwise. Where JAX has no such place or XLA no such option, compiling takes half as long again.
    """
    compiler: Any = importlib.import_module("jax._src.compiler")
    plain = getattr(compiler, "get_compile_options", None)

    def quick(*args: Any, **kwargs: Any) -> Any:
        options = plain(*args, **kwargs)
        options.env_option_overrides = [*options.env_option_overrides, (OLD_EMITTERS, False)]
        return options

    jax.config.update("jax_disable_most_optimizations", True)
    if plain and _has_option(OLD_EMITTERS):
        compiler.get_compile_options = quick
    try:
        yield
    finally:
        jax.config.update("jax_disable_most_optimizations", False)
        compiler.get_compile_options = plain


OLD_EMITTERS = "xla_cpu_use_fusion_emitters"


@functools.cache
def _has_option(name: str) -> bool:
    try:
        jax.jit(lambda: 0, compiler_options={name: False})()
    except Exception as e:
        if name not in str(e):
            raise
        return False
    return True
