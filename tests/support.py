"""Helpers that several test files share."""

import contextlib
import functools
import gc
import importlib
import os
import threading
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import jax
import pytest


def slow(values: Iterable[Any]) -> list[Any]:
    """Values of a parameter that the slow sweeps have, and `make test` has not."""
    return [pytest.param(x, marks=pytest.mark.slow) for x in values]


@contextlib.contextmanager
def relaxed() -> Iterator[None]:
    """JAX's default promotion rules inside the block: for calls into Optax, which does not run in the strict mode."""
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        yield


@contextlib.contextmanager
def checking_leaks() -> Iterator[None]:
    """JAX's search for leaked tracers, which goes over all objects for each trace: here only over those made inside."""
    gc.collect()
    gc.freeze()
    with jax.checking_leaks():
        yield


@contextlib.contextmanager
def quick_compilation(quick: bool = True) -> Iterator[None]:
    """XLA compiles in a sixth of the time inside the block, to slower code: the same formulas in other roundings.

    JAX has no setting for the options of `QUICK`, which make most of the difference, and `XLA_FLAGS` is read once in a
    process. Where JAX has no such function or XLA no such option, as with the oldest JAX supported, compiling takes
    longer. With `quick=False` it compiles as users do, inside a block that does not.
    """
    global _quick
    if quick:
        known_options()  # asks the compiler, which it could not in the middle of compiling
    before, _quick = _quick, quick
    jax.config.update("jax_disable_most_optimizations", quick)
    try:
        yield
    finally:
        _quick = before
        jax.config.update("jax_disable_most_optimizations", before)


_quick = False
# No fusion emitters; and the kernels of a program in one module, where each of 32 costs LLVM's passes anew.
QUICK = {"xla_cpu_use_fusion_emitters": False, "xla_cpu_parallel_codegen_split_count": 1}
_compiler: Any = importlib.import_module("jax._src.compiler")
_plain: Any = getattr(_compiler, "get_compile_options", None)


def _compile_options(*args: Any, **kwargs: Any) -> Any:
    options = _plain(*args, **kwargs)
    if _quick:
        options.env_option_overrides = [*options.env_option_overrides, *known_options()]
    return options


if _plain:
    _compiler.get_compile_options = _compile_options


# JAX writes a compiled program where others may be reading it. Here it appears in its place when it is complete.
_lru_cache: Any = importlib.import_module("jax._src.lru_cache")


def _put(self: Any, key: str, value: bytes) -> None:
    path = Path(self.path, f"{key}-cache")
    part = path.with_suffix(f".{os.getpid()}")
    part.write_bytes(value)
    part.replace(path)


_lru_cache.LRUCache.put = _put


# A context of MLIR costs 4 ms of the 5 that lowering a small program takes, and JAX makes one for each. Here the
# programs of a thread share one; it is renewed, since it keeps all types and constants that it has seen.
SHARED_BY = 200
_mlir: Any = importlib.import_module("jax._src.interpreters.mlir")
_new_context: Any = getattr(_mlir, "make_ir_context", None)
_held = threading.local()


def _context() -> Any:
    if getattr(_held, "left", 0) == 0:
        _held.left, _held.context = SHARED_BY, _new_context()
    _held.left -= 1
    return _held.context


if _new_context:
    _mlir.make_ir_context = _context


@functools.cache
def known_options() -> list[tuple[str, Any]]:
    """The options that this XLA has."""
    return [(name, x) for name, x in QUICK.items() if _plain and _is_known(name, x)]


def _is_known(name: str, x: Any) -> bool:
    try:
        jax.jit(lambda: 0, compiler_options={name: x})()
    except Exception as e:
        if name not in str(e):
            raise
        return False
    return True
