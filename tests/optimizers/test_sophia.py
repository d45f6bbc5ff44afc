"""Sophia against NumPy statements of its paper and of Optax's order, and its estimator against exact diagonals."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import gdjax
from tests import oracles


def diagonal(x):
    """Of the Hessian of the function behind `oracles.gradient`."""
    return 1 + np.cos(2 * x)


@gdjax.transform
def exact():
    """An estimator without noise."""

    def update(updates, state, params=None, **extra_args):
        return jax.tree.map(lambda p: 1 + jnp.cos(2 * p), params), state

    return gdjax.GradientTransformation(gdjax.init_empty_state, update)


def sophia(x, gradient, lr=0.05, b1=0.965, b2=0.99, eps=1e-8, gamma=0.01, c=1.0, k=10, decay=1e-4, paper=False):
    mu, nu = np.zeros(np.shape(x)), np.zeros(np.shape(x))
    for t in range(1, oracles.STEPS + 1):
        g = gradient(t, x)
        mu = b1 * mu + (1 - b1) * g
        new = b2 * nu + (1 - b2) * diagonal(x) if (t - 1) % k == 0 else nu
        h = new if paper else nu
        m = mu if paper else mu / (1 - b1**t)
        x = x - lr * (np.clip(m / np.maximum(gamma * h, eps), -c, c) + decay * x)
        nu = new
        yield x, {"mu": mu, "nu": nu}


CASES = {
    "default": {},
    "often": {"b1": 0.9, "b2": 0.5, "gamma": 0.5, "k": 3, "c": 0.5, "decay": 0.1},
    "paper": {"gamma": 0.5, "b2": 0.5, "k": 2, "paper": True},
    "large eps": {"eps": 2.0, "c": np.inf},
}
NAMES = {"c": "clip_threshold", "k": "update_interval", "decay": "weight_decay", "lr": "learning_rate"}


@pytest.mark.parametrize("name", CASES)
def test_oracle(name):
    hyper = CASES[name]
    paper = {"bias_correction": False, "newest": True} if hyper.get("paper") else {}
    mine = {NAMES.get(k, k): v for k, v in hyper.items() if k != "paper"} | paper
    tx = gdjax.sophia(0.05, hessian_diagonal_fn=exact(), **mine)
    got = oracles.run(tx, "float64")
    del got[1]["hessian_fn_state"]
    # The clip turns a rounding error of a momentum near 0 into one that 1/(gamma nu) has multiplied.
    want = oracles.expected(lambda x, g: sophia(x, g, **hyper))
    oracles.assert_same(got, want, rtol=1e-11, atol=1e-11)


def estimate(obj_fn, params, key=0):
    tx = gdjax.hutchinson_estimator_diag_hessian(key)
    return tx.update(params, tx.init(params), params, obj_fn=obj_fn)


def test_the_estimator_is_exact_for_a_diagonal_hessian():
    params = {"a": jnp.array([0.5, -1.0]), "b": jnp.array(2.0, "bfloat16"), "n": jnp.arange(2)}

    def loss(p):
        return jnp.sum(p["a"] ** 4) + p["b"].astype("float32") ** 2

    tx, g = gdjax.hutchinson_estimator_diag_hessian(0), jax.grad(loss, allow_int=True)(params)
    h, _ = tx.update(g, tx.init(params), params, obj_fn=loss)
    np.testing.assert_allclose(h["a"], 12 * params["a"] ** 2, rtol=1e-6)
    assert (h["b"], h["b"].dtype) == (2, jnp.bfloat16)
    assert (h["n"].shape, h["n"].dtype) == ((2,), jax.dtypes.float0)


def test_the_estimator_is_unbiased():
    matrix = np.array([[2.0, 1.0, 0.5], [1.0, 3.0, -1.0], [0.5, -1.0, 1.0]], "float32")
    x = jnp.ones(3)
    tx = gdjax.hutchinson_estimator_diag_hessian(7)

    def step(state, _):
        h, state = tx.update(x, state, x, obj_fn=lambda x: x @ jnp.asarray(matrix) @ x / 2)
        return state, h

    hs = np.asarray(jax.lax.scan(step, tx.init(x), length=4000)[1])
    off = np.sum(matrix**2, 1) - np.diag(matrix) ** 2  # the variance of one estimate
    assert (np.abs(hs.mean(0) - np.diag(matrix)) < 4 * np.sqrt(off / 4000)).all()
    np.testing.assert_allclose(hs.var(0), off, rtol=0.15)


def test_keys():
    x = jnp.ones(50)
    f = lambda x: jnp.sum(x) ** 2
    first, state = estimate(f, x, 3)
    np.testing.assert_array_equal(estimate(f, x, jax.random.key(3))[0], first)
    assert (estimate(f, x, 4)[0] != first).any()
    assert (gdjax.hutchinson_estimator_diag_hessian(3).update(x, state, x, obj_fn=f)[0] != first).any()
    raw = jax.random.PRNGKey(3)
    assert gdjax.hutchinson_estimator_diag_hessian(raw).init(x).key.dtype == raw.dtype  # as Optax keeps it
    assert gdjax.hutchinson_estimator_diag_hessian().init(x).key.dtype == raw.dtype


def test_the_loss_is_differentiated_in_due_steps_only():
    calls = []
    tx = gdjax.sophia(0.1, update_interval=3)
    params = jnp.ones(2)
    state = tx.init(params)

    def loss(x):
        jax.debug.callback(lambda: calls.append(1))
        return jnp.sum(x**2)

    step = jax.jit(lambda state: tx.update(params, state, params, obj_fn=loss))
    for wanted in (1, 1, 1, 2, 2, 2, 3):
        _, state = step(state)
        jax.effects_barrier()
        assert len(calls) == wanted


def test_zero_gradients_and_no_eps():
    tx = gdjax.scale_by_sophia(eps=0.0, hessian_diagonal_fn=exact())
    u, _ = tx.update(jnp.zeros(3), tx.init(jnp.ones(3)), jnp.ones(3))
    np.testing.assert_array_equal(u, 0)


def test_the_win_rate_is_printed(capfd):
    tx = gdjax.scale_by_sophia(eps=1.0, hessian_diagonal_fn=exact(), verbose=True, print_win_rate_every_n_steps=2)
    params, g = jnp.ones(4), jnp.array([0.5, -0.5, -2.0, 3.0])
    state = tx.init(params)
    for _ in range(4):
        _, state = tx.update(g, state, params)
    jax.effects_barrier()
    assert re.findall("win rate: ([0-9.]+)", capfd.readouterr().out) == ["0.5", "0.5"]


@pytest.mark.parametrize("newest", [False, True])
def test_b2_may_differ_from_leaf_to_leaf(newest):
    params, made = {"a": jnp.full(2, 0.3), "b": jnp.full(2, 0.3)}, {}
    for b2 in (0.8, 0.4, gdjax.per_leaf(0.8, {"b": 0.5})):
        tx = gdjax.scale_by_sophia(b2=b2, update_interval=1, hessian_diagonal_fn=exact(), newest=newest)
        state = tx.init(params)
        for _ in range(3):
            _, state = tx.update(params, state, params)
        made[str(b2)] = state.nu
    wide, narrow, both = made.values()
    np.testing.assert_allclose((both["a"], both["b"]), (wide["a"], narrow["b"]), rtol=1e-6)


def test_the_estimate_and_the_direction_in_a_chain():
    params, g = {"a": jnp.full(2, 0.3), "b": jnp.ones(3)}, {"a": jnp.full(2, 1e-3), "b": jnp.full(3, -1e-3)}
    direction = gdjax.scale_by_sophia(b1=0.5, update_interval=2, hessian_diagonal_fn=exact())
    tx = gdjax.chain(gdjax.scale(2.0), gdjax.chain(direction, gdjax.scale(-0.1)))
    state, alone = tx.init(params), direction.init(params)
    for _ in range(3):
        u, state = jax.jit(tx.update)(g, state, params)
        want, alone = direction.update(jax.tree.map(lambda x: 2 * x, g), alone, params)
        for name, x in want.items():
            np.testing.assert_allclose(u[name], -0.1 * x, rtol=1e-6)
    assert alone.count == state[1][0].count == 3
    np.testing.assert_allclose(state[1][0].nu["b"], alone.nu["b"], rtol=1e-6)


@pytest.mark.parametrize("call, message", [
    (lambda: gdjax.scale_by_sophia().update(jnp.ones(2), gdjax.scale_by_sophia().init(jnp.ones(2)), jnp.ones(2)),
     r"gdjax.hutchinson_estimator_diag_hessian: this transform needs obj_fn=\.\.\."),
    (lambda: gdjax.scale_by_sophia().update(jnp.ones(2), gdjax.scale_by_sophia().init(jnp.ones(2))),
     "gdjax.hutchinson_estimator_diag_hessian: this transform needs params"),
    (lambda: gdjax.sophia(0.1, update_interval=0), "gdjax.sophia: update_interval must be at least 1, got 0"),
    (lambda: gdjax.scale_by_sophia(clip_threshold=-1.0), "gdjax.scale_by_sophia: clip_threshold must be at least 0"),
    (lambda: estimate(None, {"w": jnp.ones(2)}), "gdjax.hutchinson_estimator_diag_hessian: this transform needs obj"),
    (lambda: estimate(jnp.sum, {"w": jnp.ones(2, "complex64")}),
     r"gdjax.*: params\['w'\]: the Hessian does not support complex"),
])  # fmt: skip
def test_errors(call, message):
    with pytest.raises((ValueError, TypeError), match=f"^{message}"):
        call()
