"""NAdam and NAdamW."""

import functools
from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import gdjax
from tests import oracles


def nadam(
    x: Any, gradient: Any, learning_rate: Any = 0.01, b1: float = 0.9, b2: float = 0.999, eps: float = 1e-8,
    eps_root: float = 0.0, momentum_decay: float = 0.004, weight_decay: float = 0.0,
) -> Iterator[Any]:  # fmt: skip
    """Algorithm 8 of Dozat's report: the constant mu in the average, the mu_t of section 3.6 in the step."""
    m, n, product = np.zeros(np.shape(x)), np.zeros(np.shape(x)), 1.0
    mu = [b1 * (1 - 0.5 * 0.96 ** (t * momentum_decay)) for t in range(oracles.STEPS + 2)]
    for t in range(1, oracles.STEPS + 1):
        g, product = gradient(t, x), product * mu[t]
        m = b1 * m + (1 - b1) * g
        n = b2 * n + (1 - b2) * g**2
        m_bar = (1 - mu[t]) * g / (1 - product) + mu[t + 1] * m / (1 - product * mu[t + 1])
        step = m_bar / (np.sqrt(n / (1 - b2**t) + eps_root) + eps)
        x = x - oracles.at(learning_rate, t) * (step + weight_decay * x)
        yield x, {"mu": m, "nu": n, "b1_product": product}


CASES: dict[str, dict[str, Any]] = {
    "default": {},
    "schedule": {"learning_rate": oracles.fall, "b1": 0.75},
    "options": {"b1": 0.5, "b2": 0.75, "eps": 0.25, "eps_root": 0.125, "momentum_decay": 0.5},
    "no momentum": {"b1": 0.0},
    "half": {"momentum_decay": 0.0},
}


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("name", CASES)
def test_oracle_of_a_growing_b1(name, dtype):
    kwargs = {"learning_rate": 0.01, **CASES[name]}
    oracle = oracles.expected(functools.partial(nadam, **kwargs))
    product = oracle[1].pop("b1_product")
    tolerance: Any = {"float32": oracles.TOLERANCE["float32"], "float64": {"rtol": 1e-13, "atol": 1e-14}}[dtype]
    for like in ("torch", "paper"):
        got = oracles.run(gdjax.nadam(**kwargs, like=like), dtype)
        np.testing.assert_allclose(got[1]["b1_product"], product["matrix"], **tolerance)
        oracles.assert_same((got[0], {k: x for k, x in got[1].items() if k != "b1_product"}), oracle, **tolerance)


def test_the_decay_of_nadamw():
    kwargs = {"learning_rate": oracles.fall, "weight_decay": 0.125}
    want, _ = oracles.expected(functools.partial(nadam, **kwargs))
    got, _ = oracles.run(gdjax.nadamw(**kwargs, like="torch"), "float64")
    jax.tree.map(functools.partial(np.testing.assert_allclose, rtol=1e-13, atol=1e-14), got, want)


@pytest.mark.parametrize("make", [gdjax.nadam, gdjax.nadamw])
def test_the_decay_of_the_momentum(make):
    with pytest.raises(
        ValueError, match=rf"^gdjax\.{make.__name__}: momentum_decay is of Nesterov's momentum, and nest"
    ):
        make(0.1, nesterov=False, like="torch")
    want = oracles.run(make(0.1, like="torch"))
    jax.tree.map(np.testing.assert_array_equal, oracles.run(make(0.1, momentum_decay=0.004)), want)
    constant = oracles.run(make(0.1, momentum_decay=None, like="torch"))
    jax.tree.map(np.testing.assert_array_equal, constant, oracles.run(make(0.1)))


def test_the_state_of_a_growing_b1():
    params = {"w": jnp.ones(3, "bfloat16"), "b": jnp.ones(())}
    state = gdjax.nadam(0.1, mu_dtype="float16", like="torch").init(params)[0]
    assert isinstance(state, gdjax.ScaleByNadamState) and state.b1_product.dtype == jnp.float32
    assert (state.mu["w"].dtype, state.nu["w"].dtype) == (jnp.float16, jnp.float32)
    # After many steps the product is 0, and the mean is that of Adam with Nesterov's momentum.
    late = state._replace(b1_product=jnp.zeros(()), count=jnp.int32(10**6))
    tx = gdjax.nadam(0.1, like="torch")
    g = jax.tree.map(jnp.ones_like, params)
    u, _ = tx.update(g, (late, gdjax.EmptyState()))
    v, _ = gdjax.nadam(0.1).update(g, (gdjax.ScaleByAdamState(*late[:3]), gdjax.EmptyState()))
    np.testing.assert_allclose(u["b"], v["b"], rtol=1e-6)


@pytest.mark.parametrize(("nadam", "adam"), [(gdjax.nadam, gdjax.adam), (gdjax.nadamw, gdjax.adamw)])
def test_nadam_is_adam_with_nesterov_momentum(nadam, adam):
    assert_equal = functools.partial(np.testing.assert_array_equal)
    jax.tree.map(assert_equal, oracles.run(nadam(0.01, 0.8)), oracles.run(adam(0.01, 0.8, nesterov=True)))
