"""Microbatches: the results on parts are those on the whole batch, and Optax's."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from gdjax.microbatching import (
    AccumulationType,
    Accumulator,
    micro_grad,
    micro_vmap,
    microbatch,
    reshape_batch_axis,
)
from tests.support import relaxed
from tests.trees import assert_close, assert_equal

A = AccumulationType
THEIRS = optax.microbatching
X, Y = jnp.arange(24.0).reshape(12, 2), jnp.linspace(-1.0, 2, 12)


def their(kinds):
    """Accumulators of this library as Optax's."""
    return jax.tree.map(lambda a: getattr(THEIRS.AccumulationType, a.name), kinds)


@pytest.mark.parametrize("axis", [0, 1, -1])
def test_reshape_batch_axis(axis: int):
    x = jnp.arange(36.0).reshape(6, 6)
    got = reshape_batch_axis({"x": x}, 2, axis)["x"]
    rows = np.moveaxis(np.asarray(x), axis, 0)
    parts = np.moveaxis(np.asarray(got), axis % 2, 0)
    for i in range(3):  # part i has the rows i and i + 3
        np.testing.assert_array_equal(np.moveaxis(parts[i], axis % 2, 0), rows[[i, i + 3]])
    if axis >= 0:
        assert_equal(got, THEIRS.reshape_batch_axis(x, 2, axis))


def results(x, *, y):
    return {"rows": x * y[:, None], "n": jnp.sum(x, 0), "m": [jnp.mean(y), jnp.mean(x)], "max": jnp.max(y)}


@pytest.mark.parametrize("size", [1, 3, 12])
def test_microbatch(size: int):
    kinds = {"rows": A.CONCAT, "n": A.SUM, "m": A.MEAN, "max": A.RUNNING_MEAN}
    got = jax.jit(microbatch(results, 0, size, kinds, argnames="y"))(X, y=Y)
    whole = results(X, y=Y)
    for key in ("rows", "n", "m"):
        assert_close(got[key], whole[key], rtol=1e-6)
    np.testing.assert_allclose(got["max"], np.mean(np.max(np.asarray(Y).reshape(size, -1), 0)), rtol=1e-6)
    assert_close(got, THEIRS.microbatch(results, 0, size, their(kinds), argnames="y")(X, y=Y), rtol=1e-6)


def test_microbatch_of_other_axes_and_arguments():
    def f(x, scale, y):
        return scale * jnp.sum(x * y[None], 0)

    for argnums, axes in [((0, 2), (1, 0)), ((0, -1), (-1, 0))]:
        got = microbatch(f, argnums, 4, A.CONCAT, in_axes=axes)(X.T, 2.0, Y)
        np.testing.assert_allclose(got, f(X.T, 2.0, Y), rtol=1e-6)


@pytest.mark.parametrize(
    "batched", [{"argnums": (0, 2)}, {"argnums": 0, "argnames": "y"}, {"argnums": (), "argnames": ("x", "y")}]
)
def test_an_argument_is_found_by_position_or_name(batched: dict):
    def f(x, scale=2.0, y=Y, *, shift=0.0):
        return jnp.sum(scale * x * y[:, None] + shift, 0)

    parts, whole = microbatch(f, microbatch_size=4, **batched), f(X, 2.0, Y)
    calls = [((X, 2.0, Y), {}), ((X, 2.0), {"y": Y}), ((X,), {"y": Y}), ((), {"y": Y, "x": X, "shift": 0.0})]
    for args, kwargs in calls:
        np.testing.assert_allclose(parts(*args, **kwargs), whole, rtol=1e-6)


def test_a_call_without_a_batch_argument():
    parts = microbatch(lambda x, y=0.0: jnp.sum(x) + y, 1, 4)
    for args in [(X,), ()]:
        with pytest.raises(ValueError, match="^gdjax.microbatch: the call has no argument 1, which has a batch axis"):
            parts(*args)
    with pytest.raises(ValueError, match="the call has no argument 'z'"):
        microbatch(lambda x, **rest: x, (), 4, argnames="z")(X)


def test_an_empty_batch():
    kinds = {"rows": A.CONCAT, "n": A.SUM, "m": A.MEAN, "max": A.RUNNING_MEAN}
    f = lambda x, y: results(x, y=y) | {"max": jnp.sum(y)}
    got = microbatch(f, (0, 1), 4, kinds)(X[:0], Y[:0])
    assert got["rows"].shape == (0, 2)
    np.testing.assert_array_equal(got["n"], [0, 0])
    assert np.isnan(got["m"]).all() and got["max"] == 0


@pytest.mark.parametrize("size", [None, 4])
def test_vmap_and_gradients_of_arguments_by_name(size: int | None):
    def f(x, scale):
        return scale * jnp.sum(x)

    got = micro_vmap(f, (0, None), microbatch_size=size)(scale=2.0, x=X)
    np.testing.assert_allclose(got, 2 * X.sum(1), rtol=1e-6)
    by_name, _ = micro_grad(lambda w, x: jnp.sum(w * x), keep_batch_dim=False, microbatch_size=size)(x=X, w=jnp.ones(2))
    np.testing.assert_allclose(by_name, X.sum(0), rtol=1e-6)


def test_microbatch_of_no_size_is_the_function():
    assert microbatch(results, 0, None) is results


def test_fewer_parts():
    def f(x):
        return jnp.sum(x), jnp.mean(x), jnp.mean(x), x

    kinds = A.SUM, A.MEAN, A.RUNNING_MEAN, A.CONCAT
    parts = np.asarray(Y).reshape(3, 4).T  # four of three
    for real in (2, jnp.asarray(2)):
        total, mean, running, rows = microbatch(f, 0, 3, kinds, num_real_microbatches=real)(Y)
        np.testing.assert_allclose(total, parts[:2].sum(), rtol=1e-5)
        np.testing.assert_allclose(mean, parts[:2].mean(1).sum() / 4, rtol=1e-5)
        np.testing.assert_allclose(running, parts[:2].mean(), rtol=1e-5)
        np.testing.assert_allclose(rows, np.where(np.arange(12) % 4 < 2, Y, 0))
    wanted = THEIRS.microbatch(f, 0, 3, their(kinds), num_real_microbatches=2)(Y)
    assert_close((total, mean, running, rows), wanted, rtol=1e-5)


def test_sums_of_sixteen_bits_do_not_stall():
    ones = jnp.ones(600, "bfloat16")
    for kind, wanted in [(A.SUM, 600), (A.MEAN, 1), (A.RUNNING_MEAN, 1)]:
        got = microbatch(jnp.sum, 0, 1, kind)(ones)
        assert got == wanted and got.dtype == jnp.bfloat16


def test_whole_numbers_are_summed_and_have_no_mean():
    assert microbatch(jnp.sum, 0, 2)(jnp.arange(6)) == 15
    for kind in (A.MEAN, A.RUNNING_MEAN):
        with pytest.raises(ValueError, match=rf"gdjax\.microbatch: a {kind.name} needs floating numbers, got int32"):
            microbatch(jnp.sum, 0, 2, kind)(jnp.arange(6))


def test_an_accumulator_of_ones_own():
    largest = Accumulator(
        init=lambda x: {"top": jnp.full(x["a"].shape, -jnp.inf)},
        update=lambda carry, x, i: {"top": jnp.maximum(carry["top"], x["a"])},
        finalize=lambda carry: carry["top"],
        aggregate=lambda x: {"a": jnp.max(x["a"], 0)},
    )
    top, total = microbatch(lambda y: ({"a": jnp.max(y)}, jnp.sum(y)), 0, 3, (largest, A.SUM))(Y)
    np.testing.assert_allclose([top, total], [2, np.sum(Y)], rtol=1e-6)
    assert micro_vmap(lambda y: {"a": y}, microbatch_size=3, accumulator=largest)(Y) == 2


def test_microbatch_errors():
    with pytest.raises(ValueError, match=r"gdjax\.microbatching: size 5 does not divide a batch of 12"):
        microbatch(jnp.sum, 0, 5)(X)
    with pytest.raises(ValueError, match=r"the batch arguments need one batch size, got \[6, 12\]"):
        microbatch(lambda x, y: jnp.sum(x), (0, 1), 3)(X, Y[:6])
    with pytest.raises(ValueError, match=r"gdjax\.microbatch: 'sum' is no AccumulationType and no Accumulator"):
        microbatch(jnp.sum, 0, 3, "sum")(X)
    with pytest.raises(NotImplementedError, match=r"gdjax\.micro_vmap: out_axes must be 0, got 1"):
        micro_vmap(jnp.sum, out_axes=1)


@pytest.mark.parametrize("size", [None, 3])
def test_micro_vmap(size):
    def f(x, scale, *, y):
        return {"row": scale * x + y, "sum": jnp.sum(x)}

    whole = jax.vmap(f, (0, None))(X, 2.0, y=Y)
    assert_close(micro_vmap(f, (0, None), microbatch_size=size)(X, 2.0, y=Y), whole)
    kinds = {"row": A.MEAN, "sum": A.SUM}
    got = micro_vmap(f, (0, None), microbatch_size=size, accumulator=kinds)(X, 2.0, y=Y)
    np.testing.assert_allclose(got["row"], np.mean(whole["row"], 0), rtol=1e-6)
    np.testing.assert_allclose(got["sum"], np.sum(whole["sum"]), rtol=1e-6)
    theirs = THEIRS.micro_vmap(f, (0, None), microbatch_size=size, accumulator=their(kinds))(X, 2.0, y=Y)
    assert_close(got, theirs, rtol=1e-6)


def test_micro_vmap_of_two_arguments_with_one_axis():
    # jax.vmap takes an int for all arguments; Optax takes it for one.
    np.testing.assert_allclose(micro_vmap(jnp.multiply, microbatch_size=2)(Y, Y), Y**2)
    used = []

    def vmap(f, in_axes, out_axes):
        used.append((in_axes, out_axes))
        return jax.vmap(f, in_axes, out_axes)

    micro_vmap(jnp.multiply, vmap_fn=vmap)(Y, Y)
    assert used == [((0, 0), 0)]


def loss(params, features, targets):
    return 0.5 * jnp.mean((features @ params - targets) ** 2)


P, F, T = jnp.array([0.5, -0.1]), X / 10, Y


def per_example() -> np.ndarray:
    x, y = np.asarray(F, "float64"), np.asarray(T, "float64")
    return (x @ np.asarray(P, "float64") - y)[:, None] * x


@pytest.mark.parametrize("size", [None, 4])
def test_micro_grad(size):
    options = {"batch_argnums": (1, 2), "microbatch_size": size, "transform_fn": lambda g: (g, g**2)}
    options["metrics_fn"] = jnp.linalg.norm
    (mean, square), aux = jax.jit(micro_grad(loss, accumulator=A.MEAN, **options))(P, F, T)
    g = per_example()
    np.testing.assert_allclose(mean, g.mean(0), rtol=1e-5)
    np.testing.assert_allclose(square, (g**2).mean(0), rtol=1e-5)
    np.testing.assert_allclose(aux.metrics, np.linalg.norm(g, axis=1), rtol=1e-5)
    assert aux.values.shape == (12,) and aux.aux is None
    theirs = THEIRS.micro_grad(loss, accumulator=THEIRS.AccumulationType.MEAN, **options)(P, F, T)
    assert_close((mean, square, *aux), jax.tree.leaves(theirs[0]) and (*theirs[0], *theirs[1]), rtol=1e-5)


def test_micro_grad_of_single_examples_with_aux():
    def one(params, x, weight):
        y = x["f"] @ params - x["t"]
        return weight * 0.5 * y**2, {"residual": y}

    batch = {"f": F, "t": T}
    grad, aux = micro_grad(one, True, keep_batch_dim=False, microbatch_size=3)(P, batch, 2.0)
    np.testing.assert_allclose(grad, 2 * per_example().sum(0), rtol=1e-5)
    np.testing.assert_allclose(aux.aux["residual"], F @ P - T, rtol=1e-5)


def test_a_clipped_gradient_of_each_example():
    def clip(g):
        return g / jnp.maximum(1, jnp.linalg.norm(g) / 0.2)

    got, _ = micro_grad(loss, batch_argnums=(1, 2), transform_fn=clip, microbatch_size=6)(P, F, T)
    g = per_example()
    np.testing.assert_allclose(
        got, (g / np.maximum(1, np.linalg.norm(g, axis=1, keepdims=True) / 0.2)).sum(0), rtol=1e-5
    )


def test_sharded_batches_stay_where_they_are():
    mesh = jax.sharding.Mesh(jax.devices()[:2], "d")
    sharding = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec("d"))
    x = jax.device_put(X, sharding)
    parts = jax.jit(lambda x: reshape_batch_axis(x, 4))(x)
    assert {s.data.shape for s in parts.addressable_shards} == {(3, 2, 2)}
    np.testing.assert_allclose(jax.jit(microbatch(lambda x: x + 1, 0, 4, A.CONCAT))(x), X + 1)


def test_derivatives_pass_through():
    slope = jax.grad(lambda p: microbatch(lambda p, x: jnp.sum(x @ p), 1, 3)(p, X))(P)
    np.testing.assert_allclose(slope, np.sum(X, 0))


def test_the_names_of_optax():
    with relaxed():
        assert [a.name for a in A] == [a.name for a in THEIRS.AccumulationType]
    assert [a.value for a in A] == [a.value for a in THEIRS.AccumulationType]
