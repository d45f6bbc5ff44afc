"""Adam, NAdam and AdamW, and the error in the notes' listing."""

import functools
from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import gdjax
from tests import oracles
from tests.papers.adam import adam
from tests.support import relaxed
from tests.trees import precision


def adam_as_listed(x: Any, gradient: Any, lr: float = 0.01, b1: float = 0.9, b2: float = 0.999) -> Iterator[Any]:
    """The notes' listing to the letter: the stored moments are themselves divided."""
    m, v = np.zeros(np.shape(x)), np.zeros(np.shape(x))
    for t in range(1, oracles.STEPS + 1):
        dx = gradient(t, x)
        m = b1 * m + (1 - b1) * dx
        v = b2 * v + (1 - b2) * dx**2
        m /= 1 - b1**t
        v /= 1 - b2**t
        x = x - lr * m / (np.sqrt(v) + 1e-7)
        yield x, {"mu": m, "nu": v}


# Optax takes 1 - b2^t as a difference in float32: at the first step that is wrong by 6e-8 / 0.001, the direction by
# half of it, and the rate of `fall`, 0.06, adds the error to parameters of order 1 a few times over.
NEAR = {"rtol": 1e-5, "atol": 2e-5}


def test_adam_optax_without_eps():
    # Optax divides 0 by 0 at the element that has zero gradients only, and its moments follow; elsewhere they agree.
    with relaxed():
        want = oracles.run(optax.adam(0.01, eps=0.0))
    broken = jax.tree.map(np.isnan, want)
    assert np.all(broken[0]["vector"] == (np.arange(5) == 0)[None])
    got = jax.tree.map(lambda x, b: np.where(b, np.nan, x), oracles.run(gdjax.adam(0.01, eps=0.0)), broken)
    oracles.assert_same(got, want, **NEAR)


# In float64, where no moment lies so near the middle of two 16-bit numbers that the order of sums decides. Optax is not
# compared: it rounds b1 mu to the stored dtype before adding, so that it takes other steps.
@pytest.mark.parametrize("kwargs", [{"mu_dtype": jnp.bfloat16}, {"nu_dtype": jnp.float16}])
@pytest.mark.parametrize("factory", [gdjax.adam, gdjax.adamw])
def test_moment_dtypes(factory, kwargs):
    tx = factory(0.01, **kwargs)
    moments = tx.init({"w": jnp.ones(3)})[0]
    dtypes = {"mu_dtype": moments.mu["w"].dtype, "nu_dtype": moments.nu["w"].dtype}
    assert dtypes == {"mu_dtype": jnp.float32, "nu_dtype": jnp.float32, **kwargs}
    oracle = functools.partial(adam, weight_decay=1e-4 if factory is gdjax.adamw else 0.0, **kwargs)
    oracles.assert_follows(tx, oracle, "float64")


@pytest.mark.parametrize(
    ("make", "argument"),
    [
        (gdjax.adam, "mu_dtype"),
        (gdjax.lion, "mu_dtype"),
        (gdjax.ademamix, "mu_dtype"),
        (functools.partial(gdjax.sgd, momentum=0.9), "accumulator_dtype"),
    ],
    ids=["adam", "lion", "ademamix", "sgd"],
)
@pytest.mark.parametrize(
    ("param", "named", "stored"),
    [
        ("complex64", "float32", "complex64"),
        ("complex64", "bfloat16", "complex64"),
        ("complex128", "float32", "complex64"),
        ("complex64", "float64", "complex128"),
    ],
)
def test_a_moment_of_a_complex_parameter_has_parts_of_the_named_dtype(make, argument, param, named, stored):
    with precision("float64"):
        params = {"c": jnp.asarray([1 + 2j, -0.5j], param), "r": jnp.ones(2)}
        gradients = {"c": jnp.asarray([0.25j, 1 - 1j], param), "r": jnp.full(2, 0.5)}

        def updates(**kwargs):
            tx = make(0.1, **kwargs)
            state, found = tx.init(params), []
            for _ in range(3):
                u, state = tx.update(gradients, state, params)
                found.append(u)
            return found, {str(x.dtype) for x in jax.tree.leaves(state) if jnp.iscomplexobj(x)}

        got, dtypes = updates(**{argument: named})
        assert dtypes == {stored}
        want, _ = updates()
        for u, v in zip(got, want, strict=True):
            np.testing.assert_allclose(u["c"], v["c"], rtol=2e-6)


def test_the_notes_listing_is_another_method():
    assert oracles.distance(adam, adam_as_listed) > 0.1
    with pytest.raises(AssertionError, match="params"):
        oracles.assert_follows(gdjax.adam(0.01), adam_as_listed, "float32")


def test_first_step_is_the_learning_rate():
    # mu_hat_1 = g and nu_hat_1 = g^2 for every b1 and b2.
    g = jnp.array([1e-3, -2.0, 1e6])
    u, _ = gdjax.adam(0.25, b1=0.7, b2=0.99, eps=0.0).update(g, gdjax.adam(0.25).init(g), g)
    np.testing.assert_allclose(u, -0.25 * np.sign(g), rtol=1e-6)


def test_adamw_without_decay_is_adam():
    assert_equal = functools.partial(np.testing.assert_array_equal)
    jax.tree.map(assert_equal, oracles.run(gdjax.adamw(0.01, weight_decay=0.0)), oracles.run(gdjax.adam(0.01)))
