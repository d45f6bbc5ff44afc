"""Trees of numbers for tests, and what is asked of them."""

import contextlib
import importlib
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

import gdjax


class Pair(NamedTuple):
    left: Any
    right: Any


SHAPES = {"dense": {"kernel": (3, 2), "bias": (2,)}, "scale": ()}  # small: what these tests cost is compiling


def is_shape(x: Any) -> bool:
    return type(x) is tuple and all(isinstance(n, int) for n in x)


def random_tree(seed: int, dtype: Any = "float32", shapes: Any = SHAPES, lead: tuple[int, ...] = ()) -> Any:
    """A tree of standard normal numbers; complex ones have both parts."""
    rng, dtype = np.random.default_rng(seed), jnp.dtype(dtype)

    def leaf(shape: tuple[int, ...]) -> Any:
        x = rng.standard_normal((*lead, *shape))
        if jnp.issubdtype(dtype, jnp.complexfloating):
            x = x + 1j * rng.standard_normal((*lead, *shape))
        return jnp.asarray(np.asarray(x).astype(dtype))

    return jax.tree.map(leaf, shapes, is_leaf=is_shape)


def signature(tree: Any) -> Any:
    """What must not change from step to step: structure, and shape, dtype and weak type of each leaf."""
    leaves, structure = jax.tree.flatten(tree)
    return structure, [(x.shape, x.dtype, getattr(x, "weak_type", False)) for x in leaves]  # keys have no weak type


def numbers(tree: Any) -> list[np.ndarray]:
    """The leaves as NumPy arrays, 16-bit ones in float64, keys as their data."""
    leaves = jax.tree.leaves(tree)
    arrays = [np.asarray(jax.random.key_data(x) if is_key(x) else x) for x in leaves]
    return [x.astype(np.float64) if x.dtype.kind not in "biuc" else x for x in arrays]


def is_key(x: Any) -> bool:
    return hasattr(x, "dtype") and jnp.issubdtype(x.dtype, jax.dtypes.prng_key)


def assert_close(got: Any, wanted: Any, rtol: float = 2e-6, atol: float = 2e-6) -> None:
    assert jax.tree.structure(got) == jax.tree.structure(wanted)
    for x, y in zip(numbers(got), numbers(wanted), strict=True):
        np.testing.assert_allclose(x, y, rtol=rtol, atol=atol)


def assert_equal(got: Any, wanted: Any) -> None:
    assert jax.tree.structure(got) == jax.tree.structure(wanted)
    for x, y in zip(numbers(got), numbers(wanted), strict=True):
        np.testing.assert_array_equal(x, y)


def steps(tx: Any, params: Any, gradients: Sequence[Any]) -> tuple[Any, Any]:
    """The parameters and the state after an update with each of the gradients."""
    state = tx.init(params)
    for g in gradients:
        updates, state = tx.update(g, state, params)
        params = gdjax.apply_updates(params, updates)
    return params, state


def epsilon(dtype: Any) -> float:
    return float(jnp.finfo(dtype).eps)


@contextlib.contextmanager
def precision(dtype: Any) -> Iterator[None]:
    """64-bit numbers inside the block where the dtype asks for them."""
    enable = jax.enable_x64 if hasattr(jax, "enable_x64") else importlib.import_module("jax.experimental").enable_x64
    wide = jnp.dtype(dtype).name in ("float64", "complex128")
    with enable(True) if wide else contextlib.nullcontext():
        yield


def finite(tree: Any) -> bool:
    return all(np.isfinite(x).all() for x in numbers(tree))
