"""Adafactor."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import gdjax
from tests import oracles
from tests.papers.descent import adafactor


def test_the_papers_relative_rate():
    def relative(rate: Any) -> Any:
        return lambda count: jnp.minimum(rate(count), jnp.float32(count + 1) ** -0.5)

    tolerance = {"rtol": 4e-6, "atol": 4e-6}
    cases: Any = (lambda count: 0.01, {}), (lambda count: 0.25, {"learning_rate": 0.25})
    for rate, given in cases:
        want = functools.partial(adafactor, learning_rate=relative(rate), min_dim_size_to_factor=1)
        params, _ = oracles.run(gdjax.adafactor(**given, like="paper"))
        oracles.assert_same((params, {}), oracles.expected(want), **tolerance)
    rate = gdjax.get_hyperparams(
        gdjax.adafactor(0.25, like="paper"), gdjax.adafactor(0.25, like="paper").init(jnp.ones(3))
    )
    assert rate["learning_rate"] == 0.25  # the first; 1 / sqrt(17) is less
    factors = gdjax.adafactor(gdjax.per_leaf(oracles.fall, {"matrix": 2.0}), like="torch")
    twice, once = (oracles.run(gdjax.adafactor(rate, like="torch"))[0] for rate in (0.125, 0.0625))
    assert oracles.run(factors)[0]["matrix"][0] == pytest.approx(twice["matrix"][0])
    assert oracles.run(factors)[0]["vector"][0] == pytest.approx(once["vector"][0])


def test_torchs_axes_are_the_last_two():
    params = {"cube": jnp.ones((6, 5, 4)), "thin": jnp.ones((3, 1)), "vector": jnp.ones(5)}
    state = gdjax.adafactor(like="torch").init(params)[0]
    assert {k: x.shape for k, x in state.v_row.items()} == {"cube": (6, 5), "thin": (3,), "vector": (1,)}
    assert {k: x.shape for k, x in state.v_col.items()} == {"cube": (6, 4), "thin": (1,), "vector": (1,)}
    whole = gdjax.adafactor(like="torch", min_dim_size_to_factor=5).init(params)[0]
    assert {k: x.shape for k, x in whole.v.items()} == {k: x.shape for k, x in params.items()}
    assert gdjax.adafactor(like="torch", factored=False).init(params)[0].v["cube"].shape == (6, 5, 4)


def test_what_is_kept():
    params = {"a": jnp.ones((5, 4), "bfloat16"), "b": jnp.ones((3, 5)), "c": jnp.ones((2, 6, 4)), "d": jnp.ones(9)}
    state = gdjax.scale_by_factored_rms(min_dim_size_to_factor=4).init(params)
    shapes = {k: tuple(getattr(state, f)[k].shape for f in ("v_row", "v_col", "v")) for k in params}
    assert shapes == {
        "a": ((4,), (5,), (1,)),
        "b": ((1,), (1,), (3, 5)),
        "c": ((2, 4), (2, 6), (1,)),
        "d": ((1,), (1,), (9,)),
    }
    assert {x.dtype for x in jax.tree.leaves(state)} == {jnp.dtype("int32"), jnp.dtype("float32")}


def test_more_than_two_axes():
    """The two longest are factored, the others are batches of matrices."""
    g = np.random.default_rng(0).normal(size=(2, 5, 3, 4)).astype("float32")
    tx = gdjax.scale_by_factored_rms(min_dim_size_to_factor=4)
    u, _ = tx.update(jnp.asarray(g), tx.init(jnp.asarray(g)))
    for i, j in np.ndindex(2, 3):
        square = g[i, :, j].astype("float64") ** 2
        v = np.outer(square.mean(1), square.mean(0)) / square.mean()
        np.testing.assert_allclose(u[i, :, j], g[i, :, j] / np.sqrt(v), rtol=1e-5)


@pytest.mark.parametrize("shape", [(4, 4), (3,)])
@pytest.mark.parametrize("size", [1e18, 1e20, 3e38])
def test_the_mean_of_squares_does_not_overflow(shape, size):
    tx, g = gdjax.scale_by_factored_rms(min_dim_size_to_factor=2), jnp.full(shape, size)
    u, state = tx.update(g, tx.init(g))
    assert all(np.isfinite(x).all() for x in jax.tree.leaves((u, state)))
    if size == 1e18:  # of 1e36, whose sum over 400 is past 3e38
        np.testing.assert_allclose(u, np.ones(shape), rtol=1e-5)
        wide = jnp.full((400, 2), size)
        np.testing.assert_allclose(tx.update(wide, tx.init(wide))[0], np.ones((400, 2)), rtol=1e-5)
    # It recovers: once forgotten, gradients of 1 give steps of 1 again.
    state = state._replace(count=jnp.int32(0))
    np.testing.assert_allclose(tx.update(jnp.ones(shape), state)[0], np.ones(shape), rtol=1e-5)


def test_a_row_of_zeros_without_eps():
    g = jnp.array([[0.0, 0.0], [1.0, 2.0]])
    tx = gdjax.scale_by_factored_rms(min_dim_size_to_factor=2, epsilon=0.0)
    u, _ = tx.update(g, tx.init(g))
    np.testing.assert_array_equal(u[0], [0, 0])
    assert np.isfinite(u).all() and (u[1] > 0).all()


def test_an_offset_ahead_of_the_count():
    tx, g = gdjax.scale_by_factored_rms(step_offset=100), jnp.array([2.0, -3.0])
    u, _ = tx.update(g, tx.init(g))
    np.testing.assert_allclose(u, np.sign(g), rtol=1e-6)


def test_another_decay():
    tx, g = gdjax.scale_by_factored_rms(decay_rate=0.5, decay_rate_fn=lambda count, rate: rate), jnp.array([2.0])
    u, state = tx.update(g, tx.init(g))
    np.testing.assert_allclose(state.v, [2.0], rtol=1e-6)
    np.testing.assert_allclose(u, [np.sqrt(2)], rtol=1e-6)


@pytest.mark.parametrize(
    ("wrong", "error", "message"),
    [
        ({"min_dim_size_to_factor": 2.5}, TypeError, "gdjax.adafactor: min_dim_size_to_factor must be an int"),
        ({"decay_rate": -1.0}, ValueError, "gdjax.adafactor: decay_rate must be finite and at least 0"),
        ({"clipping_threshold": -1.0}, ValueError, "gdjax.adafactor: clipping_threshold must be at least 0"),
        ({"dtype_momentum": "int8"}, ValueError, "gdjax.adafactor: dtype_momentum must be a floating dtype"),
    ],
)
def test_misuse(wrong, error, message):
    with pytest.raises(error, match=f"^{message}"):
        gdjax.adafactor(**wrong)
