"""Samples of a posterior that is known, and of each method the rule without its noise."""

import functools
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import gdjax
from tests import oracles

CHAINS, NUMBER = 256, 50
METHODS = {"sgld": gdjax.sgld, "psgld": gdjax.psgld, "sghmc": gdjax.sghmc}


# --- the rules, at a temperature of 0 ---


def descent(x: Any, gradient: Any) -> Iterator[Any]:
    for t in range(1, oracles.STEPS + 1):
        x = x - oracles.at(oracles.fall, t) * gradient(t, x)
        yield x, {}


def rms(x: Any, gradient: Any, decay: float = 0.99, eps: float = 1e-5) -> Iterator[Any]:
    nu = np.zeros(np.shape(x))
    for t in range(1, oracles.STEPS + 1):
        g = gradient(t, x)
        nu = decay * nu + (1 - decay) * g**2
        x = x - 0.01 / (eps + np.sqrt(nu)) * g
        yield x, {"nu": nu}


def momentum(x: Any, gradient: Any, momentum: float = 0.9) -> Iterator[Any]:
    v = np.zeros(np.shape(x))
    for t in range(1, oracles.STEPS + 1):
        v = momentum * v - 0.01 * gradient(t, x)
        x = x + v
        yield x, {"velocity": v}


RULES: dict[str, tuple[Any, oracles.Oracle]] = {
    "sgld": (gdjax.sgld(oracles.fall, 7, 0, temperature=0.0), descent),
    "psgld": (gdjax.psgld(0.01, 7, 0, temperature=0.0), rms),
    "psgld, all": (gdjax.psgld(0.01, 7, 0, 0.5, 0.25, 0.0), functools.partial(rms, decay=0.5, eps=0.25)),
    "sghmc": (gdjax.sghmc(0.01, 7, 0, temperature=0.0), momentum),
    "sghmc, all": (gdjax.sghmc(0.01, 7, 0, 0.5, 0.0), functools.partial(momentum, momentum=0.5)),
}


@pytest.mark.parametrize("dtype", ["float64", pytest.param("float32", marks=pytest.mark.slow)])
@pytest.mark.parametrize("name", RULES)
def test_follows_the_paper_but_for_the_noise(name: str, dtype: str):
    tx, oracle = RULES[name]
    oracles.assert_follows(tx, oracle, dtype)


# --- the posterior ---

# Of the mean loss, (x - MEAN)^T A (x - MEAN) / 2; the posterior of NUMBER examples is N(MEAN, (NUMBER A)^-1).
A, MEAN = np.array([[2.0, 0.6], [0.6, 1.0]], np.float32), np.array([1.0, -2.0], np.float32)
COVARIANCE = np.linalg.inv(NUMBER * A)


def averages(make: Callable[[Any], Any], steps: int, left_out: int) -> tuple[np.ndarray, np.ndarray]:
    """Of each chain the mean of x - MEAN and of its outer product, over the steps behind those left out."""

    def chain(key: Any) -> Any:
        tx, zero = make(0), jnp.zeros(2)

        def step(carry: Any, i: Any) -> Any:
            (x, state), (first, second) = carry
            u, state = tx.update(A @ (x - MEAN), state, x)
            x = x + u
            weight = (i >= left_out).astype(x.dtype) / (steps - left_out)
            away = x - MEAN
            return ((x, state), (first + weight * away, second + weight * jnp.outer(away, away))), None

        start = (zero, make(key).init(zero)), (zero, jnp.zeros((2, 2)))
        return jax.lax.scan(step, start, jnp.arange(steps))[0][1]

    first, second = jax.jit(jax.vmap(chain))(jax.random.split(jax.random.key(3), CHAINS))
    return np.asarray(first, np.float64), np.asarray(second, np.float64)


def errors(of_chains: np.ndarray, exact: Any) -> np.ndarray:
    """How many standard errors the mean over chains is off. Chains are independent, however slowly each one moves."""
    return (of_chains.mean(0) - exact) / (of_chains.std(0, ddof=1) / np.sqrt(len(of_chains)))


@functools.cache
def sampled(name: str, temperature: float = 1.0, **more: Any) -> tuple[np.ndarray, np.ndarray]:
    rate, steps, left_out, fixed = {
        "sgld": (0.01, 2000, 500, {}),
        "psgld": (0.002, 10_000, 8000, {"decay": 0.999}),
        "sghmc": (0.01, 2000, 500, {}),
    }[name]
    kwargs = {**fixed, **more, "temperature": temperature}
    return averages(lambda key: METHODS[name](rate, NUMBER, key, **kwargs), steps, left_out)


@pytest.mark.full
@pytest.mark.parametrize("name", METHODS)
def test_samples_have_the_posteriors_moments(name: str):
    first, second = sampled(name)
    # The standard errors themselves are small: what is within three of them is right to a few percent.
    assert np.all(second.std(0, ddof=1)[[0, 1], [0, 1]] / np.sqrt(CHAINS) < 0.03 * np.diag(COVARIANCE))
    assert np.all(np.abs(errors(first, 0)) < 3)
    assert np.all(np.abs(errors(second, COVARIANCE)) < 3)


@pytest.mark.full
def test_noise_of_another_size_is_seen():
    first, second = sampled("sgld", temperature=0.8)
    assert np.all(np.abs(errors(first, 0)) < 3) and np.all(np.abs(errors(second, 0.8 * COVARIANCE)) < 3)
    assert np.all(np.abs(np.diag(errors(second, COVARIANCE))) > 3)


@pytest.mark.full
def test_without_gamma_a_preconditioner_that_moves_with_the_sample_widens_the_posterior():
    # What `psgld` says of itself: with whole gradients and a decay of 0.5 variances are twice what they should be.
    _, second = sampled("psgld", decay=0.5)
    assert np.all(np.diag(second.mean(0) / COVARIANCE) > 1.5)


# --- what the gradient is of ---

SUMS = {
    "sgld": (lambda: gdjax.sgld(0.01, NUMBER, 1), lambda: gdjax.sgld(0.01 / NUMBER, 1, 1)),
    "sghmc": (lambda: gdjax.sghmc(0.01, NUMBER, 1), lambda: gdjax.sghmc(0.01 / NUMBER, 1, 1)),
    "psgld": (lambda: gdjax.psgld(0.01, NUMBER, 1), lambda: gdjax.psgld(0.01, 1, 1, eps=NUMBER * 1e-5)),
}


@pytest.mark.parametrize("name", SUMS)
def test_the_mean_loss_of_all_data_is_their_sum(name: str):
    of_mean, of_sum = (make() for make in SUMS[name])
    x = y = jnp.array([3.0, -1.0])
    state, other = of_mean.init(x), of_sum.init(x)
    for _ in range(5):
        u, state = of_mean.update(x, state, x)
        v, other = of_sum.update(NUMBER * y, other, y)
        x, y = x + u, y + v
    np.testing.assert_allclose(x, y, rtol=1e-5)


# --- the noise ---


@pytest.mark.parametrize("dtype", ["float32", "complex64"])
@pytest.mark.parametrize(
    ("make", "variance"),
    [
        (lambda: gdjax.sgld(0.25, 8, 0, 0.5), 2 * 0.25 * 0.5 / 8),
        (lambda: gdjax.sghmc(0.25, 8, 0, 0.75, 0.5), 2 * 0.25 * 0.25 * 0.5 / 8),
        (lambda: gdjax.psgld(0.25, 8, 0, 0.99, 4.0, 0.5), 2 * 0.25 * 0.5 / 8 / 4.0),
    ],
    ids=METHODS,
)
def test_the_variance_of_the_noise(make: Any, variance: float, dtype: str):
    n, tx = 200_000, make()
    zero = jnp.zeros(n, dtype)
    u, _ = tx.update(zero, tx.init(zero), zero)
    for part in (np.real(u), np.imag(u)) if dtype == "complex64" else (u,):
        z = np.float64(part) / np.sqrt(variance)
        assert abs(z.mean()) < 4 / np.sqrt(n) and abs(z.var() - 1) < 4 * np.sqrt(2 / n)


@pytest.mark.parametrize("name", METHODS)
def test_noise_is_a_function_of_key_array_and_step(name: str):
    tree = {"a": jnp.zeros(4), "b": jnp.zeros(4)}

    def draws(key: Any) -> list[Any]:
        tx = METHODS[name](0.1, 10, key)
        state, found = tx.init(tree), []
        for _ in range(3):
            u, state = tx.update(tree, state, tree)
            found += [u["a"], u["b"]]
        return found

    one = draws(3)
    np.testing.assert_array_equal(one, draws(jax.random.key(3)))
    every = np.concatenate([*one, *draws(4)])
    assert np.unique(every).size == every.size


@pytest.mark.parametrize("name", METHODS)
def test_no_key_and_no_data_are_errors(name: str):
    with pytest.raises(ValueError, match=rf"^gdjax.{name}: key is None"):
        METHODS[name](0.1, 10, None)
    with pytest.raises(ValueError, match=rf"^gdjax.{name}: data_size must be finite and above 0"):
        METHODS[name](0.1, 0, 0)
