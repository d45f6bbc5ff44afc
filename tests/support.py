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
    """XLA compiles in a fifth of the time inside the block, to slower code: the same formulas in other roundings.

    JAX has no setting for these options, which make most of the difference, and `XLA_FLAGS` is read once in a process.
    Where JAX has no such function or XLA no such option, as with the oldest JAX supported, compiling takes longer.
    """
    compiler: Any = importlib.import_module("jax._src.compiler")
    plain: Any = getattr(compiler, "get_compile_options", None)
    patched = plain and [(name, x) for name, x in QUICK.items() if _has_option(name, x)]

    def quick(*args: Any, **kwargs: Any) -> Any:
        options = plain(*args, **kwargs)
        options.env_option_overrides = [*options.env_option_overrides, *patched]
        return options

    jax.config.update("jax_disable_most_optimizations", True)
    if patched:
        compiler.get_compile_options = quick
    try:
        yield
    finally:
        jax.config.update("jax_disable_most_optimizations", False)
        if patched:
            compiler.get_compile_options = plain


# No fusion emitters; and the kernels of a program in one module, where each of 32 costs LLVM's passes anew.
QUICK = {"xla_cpu_use_fusion_emitters": False, "xla_cpu_parallel_codegen_split_count": 1}


@functools.cache
def _has_option(name: str, x: Any) -> bool:
    try:
        jax.jit(lambda: 0, compiler_options={name: x})()
    except Exception as e:
        if name not in str(e):
            raise
        return False
    return True
