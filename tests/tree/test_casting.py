"""Dtypes of trees."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from gdjax import tree
from tests.support import relaxed


def dtypes(x) -> list[str]:
    return [str(leaf.dtype) for leaf in jax.tree.leaves(x)]


MIXED = {"a": jnp.ones(2, "bfloat16"), "b": {"c": jnp.ones(3, "int32")}, "d": None}


def test_cast():
    assert dtypes(tree.cast(MIXED, jnp.float32)) == dtypes(optax.tree.cast(MIXED, jnp.float32)) == ["float32"] * 2
    assert tree.cast(MIXED, None) is MIXED
    assert dtypes(tree.cast({"a": 1.5}, "bfloat16")) == ["bfloat16"]


def test_cast_like():
    like = {"a": jnp.ones(5, "float16"), "b": {"c": 1.0}, "d": None}
    assert dtypes(tree.cast_like(MIXED, like)) == dtypes(optax.tree.cast_like(MIXED, like)) == ["float16", "int32"]


def test_casts_leave_keys_and_float0():
    odd = {"key": jax.random.key(0), "none": np.zeros(2, jax.dtypes.float0)}
    for got in (tree.cast(odd, jnp.float32), tree.cast_like(odd, {"key": jnp.ones(()), "none": jnp.ones(2)})):
        assert got["key"] is odd["key"] and got["none"] is odd["none"]
    x = {"key": jnp.ones(()), "none": jnp.ones(2)}
    assert dtypes(tree.cast_like(x, odd)) == ["float32", "float32"]


@pytest.mark.parametrize(
    ("leaves", "handler"),
    [
        (["float32", "float32"], None),
        (["bfloat16", "float32"], "promote"),
        (["bfloat16", "float32"], "highest"),
        (["float32", "bfloat16"], "lowest"),
        (["int32", "uint32"], "promote"),
        (["bfloat16", "float16"], "promote"),
        (["int32", "float16", "float32"], "highest"),
        ([], None),
        ([], "lowest"),
    ],
)
def test_dtype(leaves: list[str], handler):
    x = [jnp.ones((), d) for d in leaves]
    with relaxed():
        wanted = optax.tree.dtype(x, handler)
    assert tree.dtype(x, handler) == wanted


def test_dtype_of_leaves_that_differ():
    with pytest.raises(
        ValueError, match=r"gdjax\.tree\.dtype: tree\['a'\] is bfloat16, but tree\['b'\]\['c'\] is int32"
    ):
        tree.dtype(MIXED)
    for handler in ("highest", "lowest"):
        with pytest.raises(ValueError, match=r"neither of bfloat16 and float16 promotes to the other"):
            tree.dtype([jnp.ones((), "bfloat16"), jnp.ones((), "float16")], handler)
    with pytest.raises(ValueError, match="mixed_dtype_handler must be None or one of .* got 'widest'"):
        tree.dtype(MIXED, "widest")
