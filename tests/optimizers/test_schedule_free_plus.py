"""ScheduleFree+ against its authors' code, which keeps x, y and z, in NumPy."""

import functools
from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import gdjax
from tests import oracles, vectors
from tests.trees import finite, precision, random_tree, signature


def authors(
    x: Any, gradient: Any, value: Any, lr: Any = 1.0, b1: float = 0.9, b2: float = 0.95, eps: float = 1e-8,
    weight_decay: float = 0.0, sf_b1: Any = 0.9, power: float = 2.0, r: float = 0.0, polyak_beta: float = 0.0,
    c_warmup: int = 0, offset: float = 8.0,
) -> Iterator[Any]:  # fmt: skip
    """`AdamCScheduleFreePlusPaper.step_func`."""
    y, z, m, v, l1, top, total = x, x, 0 * x, 0 * x, 0.0, eps, 0.0
    for t in range(1, oracles.STEPS + 1):
        g, beta = gradient(t, y), oracles.at(sf_b1, t)
        ip = beta * (g @ (z - x))
        l1 = polyak_beta * l1 + (1 - polyak_beta) * np.abs(g).sum() * np.sqrt(np.pi / 2)
        rate = oracles.at(lr, t) * max(0.0, value(t, y) + offset + ip) / (l1 / (1 - polyak_beta**t))
        top = max(top, rate)
        if t <= c_warmup:
            c = 1.0
        else:
            total += t**r * top**power
            c = t**r * top**power / total
        z = z - rate**2 * weight_decay * y
        m, v = b1 * m + (1 - b1) * g, b2 * v + (1 - b2) * g**2
        z = z - rate * (m / (1 - b1**t)) / (np.sqrt(v / (1 - b2**t)) + eps)
        x = (1 - c) * x + c * z
        y = beta * x + (1 - beta) * z
        yield y, {"norm": l1, "max_lr": top, "weight_sum": total, "sf_b1": beta, "count": t}


def annealed(count: Any) -> Any:
    """The authors' way from 0.9 to 0.965."""
    return 1 - gdjax.exponential_decay(0.1, 20, 0.35, end_value=0.035)(count)


def annealed_in_doubles(count: int) -> float:
    return 1 - max(0.1 * 0.35 ** (count / 20), 0.035)


def above(**hyper: Any) -> Any:
    """The function of the oracles, lifted: the method takes 0 for its least value."""
    tx = gdjax.schedule_free_plus(**hyper)

    def update(g: Any, state: Any, params: Any = None, *, value: Any) -> Any:
        return tx.update(g, state, params, value=value + 8.0)

    return gdjax.GradientTransformation(tx.init, update)


CASES: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "defaults": ({}, {}),
    "weights": ({"weight_decay": 0.5, "r": 2.0, "weight_lr_power": 1.0}, {"weight_decay": 0.5, "r": 2.0, "power": 1.0}),
    "averaged": ({"polyak_beta": 0.75, "c_warmup": 5}, {"polyak_beta": 0.75, "c_warmup": 5}),
    "rate": ({"learning_rate": oracles.fall, "sf_b1": annealed}, {"lr": oracles.fall, "sf_b1": annealed_in_doubles}),
}


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_follows_the_authors(name: str, dtype: str):
    ours, theirs = CASES[name]
    vectors.assert_follows(above(**ours), functools.partial(authors, **theirs), dtype)


def test_x_is_recovered():
    """Of two steps, whose interpolations differ."""
    rates = lambda count: jnp.where(count == 0, 0.9, 0.5)
    tx, y, z = gdjax.schedule_free_plus(sf_b1=rates), jnp.array([2.0, -1.0]), [jnp.array([2.0, -1.0])]
    state = tx.init(y)
    for _ in range(2):
        u, state = tx.update(y, state, y, value=jnp.sum(y**2) / 2)
        y, z = gdjax.apply_updates(y, u), [*z, state.z]
    w = float(state.weight_sum) - float(state.max_lr) ** 2, float(state.max_lr) ** 2
    np.testing.assert_allclose(gdjax.eval_params(tx, state, y), (w[0] * z[1] + w[1] * z[2]) / (w[0] + w[1]), rtol=1e-5)


def test_zeros_and_what_is_below_the_least_value():
    tx, params = gdjax.schedule_free_plus(), random_tree(0)
    zeros = jax.tree.map(jnp.zeros_like, params)
    updates, state = tx.update(zeros, tx.init(params), params, value=3.0)
    assert not any(x.any() for x in jax.tree.leaves(updates)) and finite(state)
    updates, state = tx.update(random_tree(1), state, params, value=-1.0)  # no step, but moments
    assert not any(x.any() for x in jax.tree.leaves(updates)) and any(x.any() for x in jax.tree.leaves(state.mu))


def test_a_gradient_near_zero_leaves_numbers():
    """f / |g|_1 would be infinite, and so would the sum of the weights be from then on."""
    tx, params = gdjax.schedule_free_plus(weight_decay=0.1), random_tree(0)
    tiny = jax.tree.map(lambda x: jnp.full_like(x, 1e-37), params)
    updates, state = tx.update(tiny, tx.init(params), params, value=3.0)
    assert finite((updates, state)) and float(state.max_lr) == 2.0**45


@pytest.mark.parametrize("dtype", ["bfloat16", "float32", "complex64"])
def test_dtypes(dtype: str):
    with precision(dtype):
        params, tx = random_tree(0, dtype), gdjax.schedule_free_plus(state_dtype="float32")
        state = tx.init(params)
        updates, new = tx.update(random_tree(1, dtype), state, params, value=jnp.float32(2.0))
        assert signature(new) == signature(state)
        average = gdjax.eval_params(tx, new, gdjax.apply_updates(params, updates))
        assert {x.dtype.name for x in jax.tree.leaves((updates, average))} == {dtype} and finite(average)


def test_errors():
    tx = gdjax.schedule_free_plus()
    with pytest.raises(ValueError, match="schedule_free_plus.*value"):
        tx.update(random_tree(0), tx.init(random_tree(0)), random_tree(0))
    for wrong in ({"sf_b1": 0.0}, {"polyak_beta": 1.0}, {"c_warmup": -1}, {"weight_decay": -1.0}):
        with pytest.raises(ValueError, match=f"^gdjax.schedule_free_plus: {next(iter(wrong))} must be"):
            gdjax.schedule_free_plus(**wrong)
