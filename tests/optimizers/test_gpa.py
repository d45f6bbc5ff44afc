"""Generalized primal averaging against the paper's three sequences, all of them kept, in NumPy."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import gdjax
from tests import oracles
from tests.oracles import at
from tests.trees import assert_close, finite, precision, random_tree, signature, steps

PARAMS = random_tree(0)


def rate(count: Any) -> Any:
    """Exact in every dtype."""
    return 0.0625 * jnp.maximum(1 - jnp.asarray(count, jnp.float32) / 64, 0)


def warm(count: Any) -> Any:
    return jnp.where(count < 10, 0.5, 0.875)


def paper(direction: Any, mu_x: Any = 0.9967, mu_y: float = 0.7) -> Any:
    def oracle(y: Any, gradient: Any) -> Any:
        x, z, state = y, y, {}
        for t in range(1, oracles.STEPS + 1):
            d, state = direction(gradient(t, y), y, state, t)
            z = z - at(rate, t) * d
            x = at(mu_x, t) * x + (1 - at(mu_x, t)) * z
            y = mu_y * x + (1 - mu_y) * z
            yield y, {"z": z, "x": x}

    return oracle


def plain(g: Any, y: Any, state: Any, t: int) -> Any:
    return g, state


def adamw(g: Any, y: Any, state: Any, t: int) -> Any:
    """As in the authors' code: the weight decay at y."""
    m = 0.9 * state.get("m", 0.0) + 0.1 * g
    v = 0.99 * state.get("v", 0.0) + 0.01 * g**2
    return m / (1 - 0.9**t) / (np.sqrt(v / (1 - 0.99**t)) + 1e-8) + 0.01 * y, {"m": m, "v": v}


CASES = {
    "defaults": (gdjax.gpa(gdjax.sgd(rate)), paper(plain)),
    "adamw": (gdjax.gpa(gdjax.adamw(rate, b2=0.99, weight_decay=0.01), 0.9, 0.8), paper(adamw, 0.9, 0.8)),
    "at the average": (gdjax.gpa(gdjax.sgd(rate), 0.75, 1.0), paper(plain, 0.75, 1.0)),
    "scheduled": (gdjax.gpa(gdjax.sgd(rate), warm, 0.5), paper(plain, warm, 0.5)),
}


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_follows_the_paper(name: str, dtype: str):
    tx, oracle = CASES[name]
    params, state = oracles.run(tx, dtype)
    want, want_state = oracles.expected(oracle)
    with precision(dtype):
        # The number of the state is constant: that of the last step serves all of them.
        one = gdjax.GPAState(jnp.asarray(state["mu_y"][-1]), gdjax.EmptyState(), state["z"])
        averages = gdjax.eval_params(tx, one, params)
    # x is recovered from y and z, with a factor of 1 / mu_y of their rounding.
    tolerance = {k: 4 * v for k, v in oracles.TOLERANCE[dtype].items()}
    for got, wanted in ((params, want), (state["z"], want_state["z"]), (averages, want_state["x"])):
        for leaf in oracles.SHAPES:
            np.testing.assert_allclose(got[leaf], wanted[leaf], **tolerance)


def test_without_an_average_it_is_the_base_optimizer():
    tx = gdjax.adamw(0.1)
    for mu_y in (0.3, 1.0):
        got, state = steps(gdjax.gpa(tx, 0.0, mu_y), PARAMS, [PARAMS] * 5)
        want, _ = steps(tx, PARAMS, [PARAMS] * 5)
        assert_close(got, want, 1e-6, 1e-6)
        assert_close(gdjax.eval_params(tx, state, got), want, 1e-6, 1e-6)


def test_it_is_found_inside_and_warned_of():
    tx = gdjax.chain(gdjax.clip_by_global_norm(1.0), gdjax.gpa(gdjax.lion(0.01), warm, 0.8))
    params, state = steps(tx, PARAMS, [random_tree(seed) for seed in (1, 2)])
    z = gdjax.tree.get(state, "z")
    assert_close(
        gdjax.eval_params(tx, state, params), jax.tree.map(lambda y, z: (y - 0.2 * z) / 0.8, params, z), 1e-6, 1e-6
    )
    start = gdjax.gpa(gdjax.sgd(0.1)).init(PARAMS)
    assert_close(gdjax.eval_params(tx, start, PARAMS), PARAMS)
    with pytest.warns(UserWarning, match="scale .* changes the updates after gpa .* put gpa around"):
        gdjax.chain(gdjax.gpa(gdjax.sgd(0.1)), gdjax.scale(0.5)).init(PARAMS)
    with pytest.warns(UserWarning, match="gpa changes the updates after swa"):
        gdjax.gpa(gdjax.swa(gdjax.sgd(0.1), 1)).init(PARAMS)


@pytest.mark.parametrize("dtype", ["bfloat16", "float32", "complex64"])
@pytest.mark.parametrize("state_dtype", [None, "float32"])
def test_dtypes(dtype: str, state_dtype: Any):
    params, g = random_tree(0, dtype), random_tree(1, dtype)
    tx = gdjax.gpa(gdjax.adamw(0.1), state_dtype=state_dtype)
    state = tx.init(params)
    assert {x.dtype.name for x in jax.tree.leaves(state.z)} == {dtype if dtype == "complex64" else state_dtype or dtype}
    updates, new = tx.update(g, state, params)
    assert signature(new) == signature(state) and new.mu_y.dtype == jnp.float32
    average = gdjax.eval_params(tx, new, gdjax.apply_updates(params, updates))
    assert {x.dtype.name for x in jax.tree.leaves((updates, average))} == {dtype}
    assert finite(average)


def test_it_keeps_one_array_beside_the_state_of_the_optimizer():
    params = {"w": jnp.ones((64, 64))}
    more = gdjax.state_bytes(gdjax.gpa(gdjax.adamw(0.1)), params) - gdjax.state_bytes(gdjax.adamw(0.1), params)
    assert more == params["w"].nbytes + 4  # z, and mu_y


def test_errors():
    for wrong in (
        lambda: gdjax.gpa(gdjax.sgd(0.1), 1.0),
        lambda: gdjax.gpa(gdjax.sgd(0.1), 0.9, 0.0),
        lambda: gdjax.gpa(gdjax.sgd(0.1), 0.9, 1.5),
    ):
        with pytest.raises(ValueError, match=r"^gdjax.gpa: mu_[xy] must be in"):
            wrong()
    with pytest.raises(TypeError, match="^gdjax.gpa: mu_y must be a number or a scalar array"):
        gdjax.gpa(gdjax.sgd(0.1), 0.9, warm)
    with pytest.raises(TypeError, match="^gdjax.gpa: argument 0 is None"):
        gdjax.gpa(None)
    tx = gdjax.gpa(gdjax.sgd(0.1))
    with pytest.raises(ValueError, match="^gdjax.gpa: this transform needs params"):
        tx.update(PARAMS, tx.init(PARAMS))
