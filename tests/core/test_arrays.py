"""Arrays and PRNG keys: sums that are rounded once, and keys that a state can give away."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gdjax.core import arrays

KEY = jax.random.key(7)


def data(key: jax.Array) -> list[int]:
    return jax.random.key_data(key).tolist()


def test_what_is_a_key():
    assert arrays.is_key(KEY) and arrays.is_key(jax.ShapeDtypeStruct((), KEY.dtype))
    assert not any(map(arrays.is_key, (jnp.zeros(2, jnp.uint32), 7, None, np.float32(1))))


def test_shapes_of_arrays_numbers_and_shapes():
    assert arrays.shape_of(np.zeros((2, 3))) == jax.ShapeDtypeStruct((2, 3), jnp.float32)  # as JAX will have it
    assert arrays.shape_of(1.5) == jax.ShapeDtypeStruct((), jnp.float32)
    assert arrays.shape_of(3) == jax.ShapeDtypeStruct((), jnp.int32)
    assert arrays.shape_of(jax.ShapeDtypeStruct((4,), jnp.bfloat16)) == jax.ShapeDtypeStruct((4,), jnp.bfloat16)
    assert arrays.shape_of(KEY).dtype == KEY.dtype


def test_a_sum_is_rounded_once_and_to_the_parameters_dtype():
    # bfloat16 has steps of 1 / 128 above 1. Half a step and a little more, which
    # bfloat16 has not, rounds up; half a step alone rounds to 1.
    p = jnp.ones((), jnp.bfloat16)
    found = arrays.add(p, jnp.float32(1 / 256 + 1 / 2**17))
    assert found.dtype == jnp.bfloat16 and found == 1 + 1 / 128
    wide = arrays.add(jnp.float32(1), jnp.bfloat16(0.5))
    assert wide.dtype == jnp.float32 and wide == 1.5
    assert arrays.add(p, jnp.bfloat16(0.5)) == 1.5


def test_a_parameter_that_takes_no_gradient_stays():
    p = jnp.arange(2)
    assert arrays.add(p, np.zeros(2, jax.dtypes.float0)) is p


def test_a_key_or_the_older_seed():
    assert arrays.required_key("f", 3, None) == arrays.required_key("f", None, 3) == 3
    assert arrays.required_key("f", 0, None) == 0
    with pytest.raises(ValueError, match="^f: key is None; pass a PRNG key or an int"):
        arrays.required_key("f", None, None)
    with pytest.raises(ValueError, match="^f: give key or seed, not both"):
        arrays.required_key("f", 1, 1)


def test_without_a_key_the_noise_is_that_of_0():
    with pytest.warns(UserWarning, match="^f: no key: the noise is that of key=0"):
        assert arrays.key_or_zero("f", None, None) == 0
    assert arrays.key_or_zero("f", None, 5) == 5  # without a warning
    with pytest.raises(ValueError, match="^f: give key or seed, not both"):
        arrays.key_or_zero("f", 1, 1)


def test_a_fresh_key_is_an_equal_typed_copy():
    for given in (7, jnp.int32(7), KEY, jax.random.key_data(KEY)):
        found = arrays.fresh_key(given)
        assert found.dtype == KEY.dtype and data(found) == data(KEY)
        assert found is not given
    rbg = jax.random.key(7, impl="rbg")
    assert arrays.fresh_key(rbg).dtype == rbg.dtype and data(arrays.fresh_key(rbg)) == data(rbg)


def test_donating_the_copy_leaves_the_key():
    found = arrays.fresh_key(KEY)
    found.delete()
    assert data(KEY) == data(jax.random.key(7))
