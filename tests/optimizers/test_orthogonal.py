"""What Muon's kin share: at the edges of numbers and shapes, together and apart, equilibrated and renormalized."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import gdjax
from gdjax.linalg.matrices import Matrix
from tests import oracles
from tests.polar_oracles import RNG, polar, update
from tests.support import slow

DIRECTIONS = {
    "muon": lambda roles=None, **k: gdjax.scale_by_muon(weight_dimension_numbers=roles, **k),
    "normuon": gdjax.scale_by_normuon,
    "scion": gdjax.scale_by_scion,
    "dion": lambda **k: gdjax.scale_by_dion(rank_fraction=0.5, **k),
    "dion2": lambda **k: gdjax.scale_by_dion2(0.5, **k),
}
each = pytest.mark.parametrize("name", DIRECTIONS)


def normal(*shape, dtype="float32"):
    return RNG.normal(size=shape).astype(dtype)


@each
@pytest.mark.parametrize("shape", [(4, 3), (3, 4), *slow([(4, 4), (5, 1)]), (1, 5), (1, 1)])
def test_shapes(name, shape):
    g, zero = normal(*shape), np.zeros(shape, "float32")
    tx = DIRECTIONS[name]()
    np.testing.assert_array_equal(update(tx, zero), zero)
    for given in (g, g[:, :1] * g[:1]):  # of full rank, and of rank 1
        u = update(tx, given, zero, given)
        assert np.isfinite(u).all() and np.abs(u).max() > 0.01
        assert np.sum(u * given) > 0  # an ascent


@each
def test_a_zero_gradient_at_first_does_not_stay(name):
    g = normal(4, 3)
    u = update(DIRECTIONS[name](), np.zeros_like(g), g)
    assert np.isfinite(u).all() and np.sum(u * g) > 0.1


@each
@pytest.mark.parametrize("size", [2.0**-100, *slow([2.0**40]), 3e38])
def test_the_size_does_not_matter(name, size):
    g = np.clip(normal(4, 3), -1, 1)
    small, large = (update(DIRECTIONS[name](eps=0.0), s * g, s * g) for s in (np.float32(1), np.float32(size)))
    if size < 1e30:
        np.testing.assert_allclose(large, small, rtol=3e-4, atol=3e-5)
    else:  # a bound on the gradient changes it
        assert np.isfinite(large).all() and np.abs(large).max() > 0.01


@each
@pytest.mark.parametrize("wrong", [np.nan, np.inf])
def test_what_is_not_finite_is_nan_in_that_matrix_alone(name, wrong):
    tx = DIRECTIONS[name]()
    g = {"a": normal(4, 3), "b": normal(4, 3), "c": normal(3, 4)}
    g["a"][0, 1] = wrong
    g = jax.tree.map(jnp.asarray, g)
    updates, _ = tx.update(g, tx.init(g))
    assert np.isnan(updates["a"][0, 1])
    assert np.isfinite(updates["b"]).all() and np.isfinite(updates["c"]).all()


@each
@pytest.mark.parametrize("dtype", ["float16", *slow(["bfloat16"]), "complex64"])
def test_dtypes(name, dtype):
    g = jnp.asarray(normal(4, 3) + (1j * normal(4, 3) if dtype == "complex64" else 0), dtype)
    tx = DIRECTIONS[name]()
    state = tx.init(g)
    u, new = jax.jit(tx.update)(g, state)
    assert u.dtype == dtype and dtypes(state) == dtypes(new)
    wide = update(tx, g if dtype == "complex64" else g.astype("float32"))
    np.testing.assert_allclose(np.asarray(u, wide.dtype), wide, rtol=2e-2, atol=2e-2)


def dtypes(tree):
    return [x.dtype for x in jax.tree.leaves(tree)]


@pytest.mark.full
@pytest.mark.parametrize("name", ["muon", "dion", "dion2", *slow(["normuon", "scion"])])
def test_together_as_apart(name):
    # Equal shapes, their transposes, a batch and parts: every matrix by itself.
    make = DIRECTIONS[name]
    tree = {"a": normal(4, 6), "b": normal(4, 6), "t": normal(6, 4), "batch": normal(2, 4, 3), "qkv": normal(4, 9)}
    roles = {"a": Matrix(), "b": Matrix(), "t": Matrix(1, 0), "batch": Matrix(), "qkv": Matrix(parts=(3, 6))}
    make_one = lambda: make(roles=lambda tree: jax.tree.map(lambda x: Matrix(), tree))
    tx, grads = make(roles=lambda tree: roles), jax.tree.map(jnp.asarray, tree)
    state = tx.init(grads)
    if name == "dion":  # the same start for all
        state = state._replace(Q=jax.tree.map(lambda q: jnp.broadcast_to(_start(q.shape[1:]), q.shape), state.Q))
    got, update = None, jax.jit(tx.update)
    for _ in range(2):
        got, state = update(grads, state)
    alone = jax.jit(lambda x: _alone(make_one(), x, name == "dion"))
    np.testing.assert_allclose(got["a"], alone(tree["a"]), rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(got["b"], alone(tree["b"]), rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(got["t"].T, alone(tree["t"].T), rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(got["batch"][1], alone(tree["batch"][1]), rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(got["qkv"][:, :3], alone(tree["qkv"][:, :3]), rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(got["qkv"][:, 3:], alone(tree["qkv"][:, 3:]), rtol=1e-4, atol=1e-5)


def _start(shape):
    return jnp.asarray(np.random.default_rng(1).normal(size=shape), "float32")


def _alone(tx, g, is_dion):
    state = tx.init(g)
    if is_dion:
        state = state._replace(Q=[_start(q.shape[1:])[None] for q in state.Q])
    for _ in range(2):
        u, state = tx.update(g, state)
    return u


@each
def test_the_program_does_not_grow_with_leaves_alike(name):
    def products(number):
        tree = {str(i): jnp.ones((4, 6)) for i in range(number)}
        tx = DIRECTIONS[name]()
        return len(re.findall("dot_general|qr", jax.jit(tx.update).lower(tree, tx.init(tree)).as_text()))

    assert products(8) == products(2) > 0


@pytest.mark.full
@pytest.mark.parametrize("name", ["muon", "dion2", *slow(["normuon", "scion"])])
def test_coefficients_and_steps_change_without_a_new_program(name):
    make = {
        "muon": gdjax.muon, "normuon": gdjax.normuon, "scion": gdjax.scion, "dion2": gdjax.dion2,
    }[name]  # fmt: skip
    params = {"w": jnp.asarray(normal(4, 3))}
    tx = gdjax.inject_hyperparams(make)(learning_rate=0.1, ns_coeffs="polar_express", ns_steps=3)
    state = tx.init(params)
    step = jax.jit(tx.update)
    for steps in (3, 6):
        state.hyperparams["ns_steps"] = jnp.asarray(steps, state.hyperparams["ns_steps"].dtype)
        got, _ = step(params, state, params)
        fixed = make(0.1, ns_coeffs="polar_express", ns_steps=steps)
        wanted, _ = fixed.update(params, fixed.init(params), params)
        np.testing.assert_allclose(got["w"], wanted["w"], rtol=1e-4, atol=1e-6)
    other = make(0.1, ns_coeffs="polar_express", ns_steps=lambda count: 5)
    state = other.init(params)
    step = jax.jit(other.update)
    changed = gdjax.tree.set(state, ns_coeffs=jnp.zeros((8, 3)))
    assert not np.array_equal(step(params, changed, params)[0]["w"], step(params, state, params)[0]["w"])
    assert step._cache_size() == 1


def by_axis(x, axis):
    return x / np.linalg.norm(x, axis=axis, keepdims=True)


@pytest.mark.parametrize("shape", [(4, 3), (3, 5)])
def test_equilibrated(shape):
    g = RNG.normal(size=shape)
    with oracles.precision("float64"):
        run = lambda which: update(gdjax.scale_by_muon(equilibrate=which), g)
        np.testing.assert_allclose(run("outputs"), polar(by_axis(g, 0)), rtol=1e-6)
        np.testing.assert_allclose(run("inputs"), polar(by_axis(g, 1)), rtol=1e-6)
        both = g / np.linalg.norm(g, axis=0, keepdims=True) / np.linalg.norm(g, axis=1, keepdims=True)
        np.testing.assert_allclose(run("both"), polar(both), rtol=1e-6)


@pytest.mark.parametrize("shape", [(4, 3), (3, 5)])
def test_renormalized(shape):
    g = RNG.normal(size=shape)
    with oracles.precision("float64"):
        o = polar(g)
        run = lambda which: update(gdjax.scale_by_muon(renormalize=which), g)
        np.testing.assert_allclose(run("outputs"), by_axis(o, 0), rtol=1e-6)
        np.testing.assert_allclose(run("inputs"), by_axis(o, 1), rtol=1e-6)
        np.testing.assert_allclose(run("inputs outputs"), by_axis(by_axis(o, 1), 0), rtol=1e-6)
        np.testing.assert_allclose(run("outputs inputs"), by_axis(by_axis(o, 0), 1), rtol=1e-6)
        np.testing.assert_allclose(run("frobenius"), min(shape) ** 0.5 * o / np.linalg.norm(o), rtol=1e-6)
        np.testing.assert_array_equal(update(gdjax.scale_by_muon(renormalize="outputs"), 0 * g), 0)


ERRORS = {
    "ns_coeffs": ("quintic", "ns_coeffs must be numbers or one of standard, dion, polar_express, cans, deepseek, aol"),
    "ns_steps": (0, "ns_steps must be at least 1, got 0"),
    "preconditioning": ("l1", "preconditioning must be one of frobenius, spectral, aol, schatten, got 'l1'"),
}


@pytest.mark.parametrize("argument", ERRORS)
@pytest.mark.parametrize("name", ["normuon", "scion", "dion2"])
def test_errors(name, argument):
    value, message = ERRORS[argument]
    with pytest.raises(ValueError, match=f"gdjax.(scale_by_)?{name}: {message}"):
        getattr(gdjax, name)(0.1, **{argument: value})


@each
def test_a_leaf_that_is_no_matrix(name):
    with pytest.raises(ValueError, match=rf"gdjax.scale_by_{name}: params\['b'\]: shape \(3,\) is no matrix"):
        tx = DIRECTIONS[name]()
        tx.update({"b": jnp.ones(3)}, tx.init({"b": jnp.ones(3)}))


@pytest.mark.parametrize("name", ["normuon", "scion", "dion2"])
def test_products_in_another_dtype_are_of_real_matrices(name):
    tx = DIRECTIONS[name](ns_dtype="bfloat16")
    x = {"w": jnp.ones((2, 3), "complex64")}
    with pytest.raises(TypeError, match=r"params\['w'\]: ns_dtype bfloat16 does not support complex numbers"):
        tx.update(x, tx.init(x))
