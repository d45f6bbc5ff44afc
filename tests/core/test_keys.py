"""Keys of arguments."""

import jax.numpy as jnp
import numpy as np

from gdjax.core.keys import identity, key_of


def test_equal_trees_have_equal_keys():
    assert key_of([1, {"a": (2.0, "x")}]) == key_of([1, {"a": (2.0, "x")}])
    assert hash(key_of({"a": [1]})) == hash(key_of({"a": [1]}))


def test_type_structure_and_order_count():
    keys = [key_of(x) for x in (1, 1.0, True, [1], (1,), {"a": 1, "b": 2}, {"b": 2, "a": 1})]
    assert len(set(keys)) == len(keys)


def test_arrays_and_what_has_no_hash_are_compared_by_identity():
    for x, other in ((jnp.ones(2), jnp.ones(2)), (np.ones(2), np.ones(2)), ({1}, {1})):
        assert identity(x) == identity(x) != identity(other)
