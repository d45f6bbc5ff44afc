"""Floors of updates and brakes of norms by their formulas in NumPy; the record's own numbers are in `golden`."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import gdjax
from tests.trees import assert_equal


def tree(seed: int, size: float = 1.0) -> Any:
    rng = np.random.default_rng(seed)
    shapes = {"mlp": {"kernel": (6, 4)}, "experts": (2, 3, 4), "embedding": (5, 4), "bias": (4,)}
    return jax.tree.map(lambda s: jnp.asarray(size * rng.normal(size=s), "float32"), shapes, is_leaf=is_shape)


def is_shape(x: Any) -> bool:
    return isinstance(x, tuple)


ROLES = {"experts": gdjax.Matrix(-2, -1)}


def floored(w: Any, u: Any, floor: float, axis: Any) -> Any:
    norm = lambda x: np.sqrt(np.sum(x**2, axis, keepdims=True))
    return u * np.maximum(1, floor * norm(w) / norm(u))


def braked(w: Any, u: Any, outward: float, inward: float) -> Any:
    size = np.linalg.norm(w)
    r = np.sum(u * w) / size
    c = outward if r > 0 else inward
    v = u - (1 - c) * r * w / size
    new = w + v
    return (size + np.sum(v * w) / size) * new / np.linalg.norm(new)


def each(f: Any, w: Any, u: Any) -> Any:
    """f of each matrix; of a stack of them too."""
    w, u = np.float64(w), np.float64(u)
    return f(w, u) if w.ndim == 2 else np.stack([f(a, b) for a, b in zip(w, u, strict=True)])


@pytest.mark.parametrize("outputs", [False, True])
def test_no_update_is_below_the_floor(outputs: bool):
    params, grads = tree(0), tree(1, 0.3)
    tx = gdjax.update_floor(gdjax.sgd(1.0), 0.3, ROLES, outputs=outputs)
    updates, _ = jax.jit(tx.update)(grads, tx.init(params), params)
    acted = 0
    for w, g, u in zip(*map(jax.tree.leaves, (params, grads, updates)), strict=True):
        if w.shape in ((6, 4), (2, 3, 4)):
            want = each(lambda w, u: floored(w, u, 0.3, 0 if outputs else None), w, -g)
            np.testing.assert_allclose(u, want, rtol=1e-5)
            acted += np.sum(np.abs(u) > 1.001 * np.abs(g))
        else:  # an embedding and a bias move as the optimizer says
            np.testing.assert_array_equal(u, -g)
    assert 0 < acted < 48


@pytest.mark.parametrize("sign", [1.0, -1.0])
def test_the_brake(sign: float):
    params = tree(0)
    grads = jax.tree.map(lambda g, w: g + sign * w, tree(1), params)  # inward, outward
    tx = gdjax.radial_brake(gdjax.sgd(0.2), 0.25, 0.75, roles=ROLES)
    updates, _ = jax.jit(tx.update)(grads, tx.init(params), params)
    new = gdjax.apply_updates(params, updates)
    for name in ("mlp", "experts"):
        w, g, x = (jax.tree.leaves(t[name])[0] for t in (params, grads, new))
        np.testing.assert_allclose(x, each(lambda w, u: braked(w, u, 0.25, 0.75), w, -0.2 * g), rtol=1e-5, atol=1e-6)
    assert_equal({k: updates[k] for k in ("embedding", "bias")}, {k: -0.2 * grads[k] for k in ("embedding", "bias")})


def test_an_update_at_a_right_angle_only_turns():
    w = {"kernel": jnp.diag(jnp.array([3.0, 4.0]))}
    g = {"kernel": jnp.array([[0.0, 20.0], [30.0, 0.0]])}
    tx = gdjax.radial_brake(gdjax.sgd(0.1))
    u, _ = tx.update(g, tx.init(w), w)
    new = w["kernel"] + u["kernel"]
    np.testing.assert_allclose(jnp.linalg.norm(new), 5.0, rtol=1e-6)
    np.testing.assert_allclose(new[0, 1] / new[0, 0], -2 / 3, rtol=1e-5)  # and in the direction of the whole step


def test_no_part_along_the_matrix_keeps_its_norm():
    params, state, tx = tree(0), None, gdjax.radial_brake(gdjax.adam(0.1), 0.0, 0.0)
    first = jnp.linalg.norm(params["mlp"]["kernel"])
    state = tx.init(params)
    for seed in range(5):
        updates, state = tx.update(tree(seed), state, params)
        params = gdjax.apply_updates(params, updates)
    np.testing.assert_allclose(jnp.linalg.norm(params["mlp"]["kernel"]), first, rtol=1e-5)


@pytest.mark.parametrize("outputs", [False, True])
def test_zeros(outputs: bool):
    ones, zeros = ({"kernel": jnp.full((3, 2), x)} for x in (1.0, 0.0))
    for wrap in (gdjax.update_floor, lambda inner, c, **k: gdjax.radial_brake(inner, floor=c, **k)):
        tx = wrap(gdjax.sgd(0.5), 0.1, outputs=outputs)
        assert_equal(tx.update(zeros, tx.init(ones), ones)[0], zeros)  # no direction to make longer
        np.testing.assert_array_equal(tx.update(ones, tx.init(zeros), zeros)[0]["kernel"], -0.5)


def test_floor_with_a_schedule_of_the_rate():
    rate = gdjax.linear_schedule(0.1, 0.0, 2)
    tx = gdjax.update_floor(gdjax.sgd(rate), lambda count: 0.5 * rate(count))
    w, g = {"kernel": jnp.eye(2)}, {"kernel": 1e-3 * jnp.eye(2)}
    state, found = tx.init(w), []
    for _ in range(3):
        u, state = tx.update(g, state, w)
        found.append(float(u["kernel"][0, 0]))
    np.testing.assert_allclose(found, [-0.05, -0.025, 0.0], rtol=1e-5)
