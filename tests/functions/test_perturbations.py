"""Perturbed functions: the values and derivatives of Optax for the same key, and of the expectation."""

import importlib

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from gdjax.perturbations import Gumbel, Normal, make_perturbed_fun, multi_normal
from tests.support import relaxed
from tests.trees import assert_close, assert_equal, precision

X = {"a": jnp.array([0.3, -0.2, 0.5]), "b": jnp.array([0.1, 0.2, -0.4])}


def hard(x):
    """Piecewise constant: no derivative of its own."""
    return {"best": jax.nn.one_hot(jnp.argmax(x["a"]), 3), "sign": jnp.sign(x["b"]) * jnp.sum(jnp.sign(x["a"]))}


@pytest.mark.parametrize(("noise", "use_baseline"), [("Gumbel", True), ("Normal", False)])
def test_the_values_and_derivatives_of_optax(noise: str, use_baseline: bool):
    key, results = jax.random.key(0), []
    for make, kinds in [
        (make_perturbed_fun, {"Gumbel": Gumbel, "Normal": Normal}),
        (optax.perturbations.make_perturbed_fun, vars(optax.perturbations)),
    ]:
        f = make(hard, 20, 0.2, kinds[noise](), use_baseline)

        def scalar(x, f=f):
            y = f(key, x)
            return y["best"] @ jnp.array([1.0, -2.0, 0.5]) + y["sign"] @ jnp.array([0.3, 0.1, -0.7]), y

        with relaxed():
            results.append(jax.jit(jax.grad(scalar, has_aux=True))(X))
    (slope, value), (their_slope, their_value) = results
    assert_close(value, their_value, rtol=1e-6)
    assert_close(slope, their_slope, rtol=1e-4, atol=1e-4)
    assert max(abs(x).max() for x in jax.tree.leaves(slope)) > 0.1


def test_the_defaults_of_optax():
    key = jax.random.key(1)
    got = jax.jit(make_perturbed_fun(hard))(key, X)
    with relaxed():
        wanted = jax.jit(optax.perturbations.make_perturbed_fun(hard))(key, X)
    assert_equal(got, wanted)


def test_gumbel_noise_makes_a_softmax():
    sigma, x = 0.5, jnp.array([0.3, -0.2, 0.5])
    f = make_perturbed_fun(lambda x: jax.nn.one_hot(jnp.argmax(x), 3), 20_000, sigma, Gumbel())
    value, slope = jax.jit(lambda key, x: (f(key, x), jax.jacobian(f, argnums=1)(key, x)))(jax.random.key(0), x)
    np.testing.assert_allclose(value, jax.nn.softmax(x / sigma), atol=0.02)
    np.testing.assert_allclose(slope, jax.jacobian(lambda x: jax.nn.softmax(x / sigma))(x), atol=0.05)


def test_normal_noise_smooths_a_square():
    # E (x + sigma z)^2 = x^2 + sigma^2, of second derivative 2
    f = make_perturbed_fun(lambda x: x**2, 100_000, 0.5, Normal())
    x, key = jnp.asarray(0.7), jax.random.key(0)
    slope = jax.grad(f, argnums=1)
    value, first, second = jax.jit(lambda x: (f(key, x), slope(key, x), jax.grad(slope, argnums=1)(key, x)))(x)
    np.testing.assert_allclose([value, first], [0.7**2 + 0.25, 1.4], rtol=0.02)
    np.testing.assert_allclose(second, 2, rtol=0.1)


@pytest.mark.full
def test_the_score_is_that_of_the_sample_where_x_is_large():
    # x + sigma z keeps one or two digits of z in float32; the exact derivative is that of float64.
    def derivative(make, x, dtype):
        with precision(dtype), relaxed():
            z = jnp.asarray(np.random.default_rng(0).standard_normal(64), dtype)
            f = make(lambda y: jnp.ones((), dtype), 1, 1e-3, Fixed(z), False)
            return jax.grad(lambda x: f(jax.random.key(0), x))(jnp.full(64, x, dtype))

    class Fixed(Normal):
        def __init__(self, z):
            self.z = z

        def sample(self, key, sample_shape=(), dtype=float):
            return self.z.astype(dtype)

    exact = np.asarray(derivative(make_perturbed_fun, 1000.0, "float64"))
    ours = np.asarray(derivative(make_perturbed_fun, 1000.0, "float32"))
    theirs = np.asarray(derivative(optax.perturbations.make_perturbed_fun, 1000.0, "float32"))
    scale = np.abs(exact).max()
    assert np.abs(ours - exact).max() < 1e-6 * scale and np.abs(theirs - exact).max() > 1e-3 * scale


def test_traced_sigma_and_sixteen_bits():
    def f(sigma, x):
        value = make_perturbed_fun(jnp.sum, 20, sigma)(jax.random.key(0), x)
        assert value.dtype == jnp.bfloat16
        return value

    slope = jax.jit(jax.grad(f, argnums=1))(jnp.float32(0.5), jnp.ones(2, "bfloat16"))
    assert slope.dtype == jnp.bfloat16 and np.isfinite(np.asarray(slope, "float32")).all() and (slope != 0).all()


def test_functions_to_integers():
    got = make_perturbed_fun(jnp.argmax, 50, 1.0)(jax.random.key(0), jnp.zeros(3))
    assert got.dtype == jnp.float32 and 0 < got < 2


def test_num_samples_is_an_integer():
    with pytest.raises(ValueError, match=r"gdjax\.make_perturbed_fun: num_samples must be at least 1, got 0"):
        make_perturbed_fun(jnp.sum, 0)


@pytest.mark.parametrize("name", ["Gumbel", "Normal"])
def test_distributions(name: str):
    ours, theirs, key = globals()[name](), getattr(optax.perturbations, name)(), jax.random.key(2)
    assert_equal(ours.sample(key, (3, 2)), theirs.sample(key, (3, 2)))
    assert ours.sample(key, (2,), jnp.float16).dtype == jnp.float16
    x = jnp.linspace(-2.0, 2, 5)
    with relaxed():
        assert_close(ours.log_prob(x), theirs.log_prob(x))
    stats = importlib.import_module("scipy.stats")  # half a second, and not while tests are collected
    exact = {"Gumbel": stats.gumbel_r, "Normal": stats.norm}[name].logpdf(np.asarray(x))
    constant = exact - np.asarray(ours.log_prob(x))
    np.testing.assert_allclose(constant, constant[0], atol=1e-6)


def test_multi_normal():
    loc, log_scale = jnp.array([[0.5, -1.0], [0.0, 2.0]]), jnp.array([0.1, -0.3])
    ours, key = multi_normal(loc, log_scale), jax.random.key(4)
    x = ours.sample((5,), key)
    with relaxed():
        theirs = optax.multi_normal(loc, log_scale)
        assert_close(x, theirs.sample((5,), key))
        assert_close(ours.log_prob(x), theirs.log_prob(x), rtol=1e-5)
    stats = importlib.import_module("scipy.stats")
    wanted = stats.norm.logpdf(np.asarray(x), np.asarray(loc), np.exp(np.asarray(log_scale))).sum((1, 2))
    np.testing.assert_allclose(ours.log_prob(x), wanted, rtol=1e-5)
    assert ours.params[0] is ours.params[0] and ours.params[1] is ours.log_scale
    slope = jax.grad(lambda m: jnp.sum(multi_normal(m, log_scale).sample((3,), key)))(loc)
    np.testing.assert_allclose(slope, 3)
