"""Complex parameters as pairs of real ones."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import gdjax


def parts(tree):
    return {"re": tree["z"].real, "im": tree["z"].imag, "x": tree["x"]}


PARAMS = {"z": jnp.array([1 + 2j, -1j, 0.5]), "x": jnp.array([1.0, 2.0])}
GRADS = {"z": jnp.array([0.5 - 4j, 1e-3j, -2]), "x": jnp.array([3.0, -1.0])}


@pytest.mark.parametrize("inner", [gdjax.adam(0.1), gdjax.clip(0.75), gdjax.clip_by_global_norm(1.0)], ids=repr)
def test_each_part_by_itself(inner):
    tx = gdjax.split_real_and_imaginary(inner)
    u, state = tx.update(GRADS, tx.init(PARAMS), PARAMS)
    want, _ = inner.update(parts(GRADS), inner.init(parts(PARAMS)), parts(PARAMS))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6), parts(u), want)
    assert type(state).__name__ == "SplitRealAndImaginaryState"


def test_it_differs_from_the_size_of_the_number():
    plain = gdjax.adam(0.1).update(GRADS, gdjax.adam(0.1).init(PARAMS))[0]["z"]
    tx = gdjax.split_real_and_imaginary(gdjax.adam(0.1))
    np.testing.assert_allclose(np.abs(plain[0]), 0.1, rtol=1e-5)
    np.testing.assert_allclose(tx.update(GRADS, tx.init(PARAMS))[0]["z"][0], -0.1 + 0.1j, rtol=1e-5)


def test_an_infinite_part_leaves_the_other_alone():
    tx = gdjax.split_real_and_imaginary(gdjax.identity())
    got = tx.update(jnp.array([complex(1, np.inf)]), tx.init(jnp.array([1j])))[0]
    assert (got.real[0], got.imag[0]) == (1, np.inf)


def test_extra_arguments_are_split():
    seen = {}

    def update(updates, state, params=None, **extra):
        seen.update(jax.eval_shape(lambda: extra))
        return updates, state

    inner = gdjax.GradientTransformation(gdjax.init_empty_state, update)
    tx = gdjax.split_real_and_imaginary(inner)
    tx.update(GRADS, tx.init(PARAMS), PARAMS, value=2.0, grad=GRADS)
    assert seen["value"].shape == () and seen["grad"]["z"].imaginary.dtype == jnp.float32
