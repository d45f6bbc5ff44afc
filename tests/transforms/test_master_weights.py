"""16-bit parameters that train: with masters, remainders, compensations, and by rounding at random."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import gdjax
from tests.trees import assert_close, assert_equal, finite, random_tree

SHAPES = {"w": (24, 16), "b": (16,), "s": ()}
KEEPING = {
    "master": gdjax.with_master_weights,
    "16": functools.partial(gdjax.with_master_weights, remainder_bits=16),
    "8": functools.partial(gdjax.with_master_weights, remainder_bits=8),
    "kahan": gdjax.with_kahan_summation,
}
RANDOM = {"random": functools.partial(gdjax.with_stochastic_rounding, key=3)}
ALL = KEEPING | RANDOM
every = pytest.mark.parametrize("how", ALL)
keeping = pytest.mark.parametrize("how", KEEPING)


def inner() -> Any:
    return gdjax.chain(gdjax.clip_by_global_norm(1.0), gdjax.adamw(1e-3, weight_decay=0.1))


def wide(tree: Any) -> Any:
    return jax.tree.map(lambda x: x.astype(jnp.float32), tree)


def narrow(tree: Any, dtype: str = "bfloat16") -> Any:
    return jax.tree.map(lambda x: x.astype(dtype), tree)


def run(tx: Any, params: Any, gradients: Any) -> tuple[Any, Any]:
    @jax.jit
    def step(params: Any, state: Any, g: Any) -> Any:
        updates, state = tx.update(g, state, params)
        return gdjax.apply_updates(params, updates), state

    state = tx.init(params)
    for g in gradients:
        params, state = step(params, state, g)
    return params, state


@pytest.mark.parametrize("how", ["master", "16"])
def test_the_parameters_are_those_of_float32_rounded(how: str):
    """To the bit, at every step: what `apply_updates` makes of the update is the rounded master."""
    params, tx, plain = random_tree(0, "bfloat16", SHAPES), ALL[how](inner()), inner()
    state, masters = tx.init(params), wide(params)
    plain_state = plain.init(masters)
    both = jax.jit(lambda p, s, m, t, g: (step(tx, p, s, g), step(plain, m, t, wide(g))))
    for i in range(20):
        g = random_tree(i + 1, "bfloat16", SHAPES)
        (params, state), (masters, plain_state) = both(params, state, masters, plain_state, g)
        assert_equal(params, narrow(masters))
    assert_equal(state.inner_state, plain_state)


def step(tx: Any, params: Any, state: Any, g: Any) -> tuple[Any, Any]:
    updates, state = tx.update(g, state, params)
    return gdjax.apply_updates(params, updates), state


@keeping
def test_small_updates_add_up(how: str):
    """1,000 updates of 2^-14 of a weight, an eighth of what bfloat16 can tell at half a place."""
    tx, p = ALL[how](gdjax.sgd(1.0)), {"w": jnp.asarray([1.0, -1.5, 0.01], jnp.bfloat16)}
    u = wide(p)["w"] * 2.0**-14
    params, _ = run(tx, p, [{"w": -u}] * 1000)
    assert_close(wide(params)["w"], wide(p)["w"] + 1000 * u, rtol=2.0**-8)  # a place
    stalled, _ = run(gdjax.sgd(1.0), p, [{"w": -u}] * 10)
    assert_equal(stalled, p)


def test_in_the_mean_small_updates_add_up():
    n, steps = 4000, 100
    tx, p = RANDOM["random"](gdjax.sgd(1.0)), {"w": jnp.ones(n, jnp.bfloat16)}
    params, state = run(tx, p, [{"w": jnp.full(n, -(2.0**-12))}] * steps)
    x = np.asarray(params["w"], np.float64)
    gap = 2.0**-7
    assert abs(x.mean() - (1 + steps * 2.0**-12)) < 4 * gap * np.sqrt(steps * 2.0**-5 / n)
    assert len(np.unique(x)) > 2 and int(state.count) == steps


@every
def test_the_update_lands_on_a_number_of_the_parameter(how: str):
    """Whatever the sizes of weight and step, with a plain sum in float32; so a cast after it rounds nothing."""
    rng, n = np.random.default_rng(0), 4096
    p = jnp.asarray(rng.standard_normal(n) * 2.0 ** rng.uniform(-20, 5, n), jnp.bfloat16)
    g = jnp.asarray(rng.standard_normal(n) * 2.0 ** rng.uniform(-20, 5, n), jnp.float32)
    tx = ALL[how](gdjax.sgd(1.0))
    u, state = tx.update(g, tx.init(p), p)
    assert u.dtype == jnp.float32
    x = p.astype(jnp.float32) - g
    landed = p.astype(jnp.float32) + u
    much_smaller = np.abs(x) < 2.0**-15 * np.abs(p.astype(jnp.float32))
    exact = np.asarray(landed.astype(jnp.bfloat16).astype(jnp.float32) == landed)
    assert np.all(exact | much_smaller) and much_smaller.mean() < 0.01
    error = np.abs(np.asarray(landed - x))
    assert np.all(error <= np.abs(x) * 2.0 ** (-7 if how == "random" else -8) + np.abs(wide(p)) * 2.0**-24)


@every
def test_wider_parameters_are_left_to_the_transform(how: str):
    params, gradients = random_tree(0, shapes=SHAPES), [random_tree(i, shapes=SHAPES) for i in (1, 2)]
    params["n"] = jnp.arange(3)
    gradients = [g | {"n": np.zeros(3, jax.dtypes.float0)} for g in gradients]
    got, state = run(ALL[how](inner()), params, gradients)
    wanted, plain = run(inner(), params, gradients)
    assert_equal((got, state.inner_state), (wanted, plain))


@every
def test_in_scan_and_vmap(how: str):
    tx, params = ALL[how](gdjax.sgd(0.1, momentum=0.9)), random_tree(0, "bfloat16", SHAPES)
    gradients = [random_tree(i, "bfloat16", SHAPES) for i in (1, 2)]
    params, state = run(tx, params, gradients)
    stacked = jax.tree.map(lambda *xs: jnp.stack(xs), *gradients)

    @jax.jit
    @jax.vmap
    def scanned(params: Any) -> Any:
        carry = params, tx.init(params)
        return jax.lax.scan(lambda c, g: (step(tx, *c, g), None), carry, stacked)[0]

    first = random_tree(0, "bfloat16", SHAPES)
    others, other = jax.tree.map(lambda x: x[1], scanned(jax.tree.map(lambda x: jnp.stack([x, x]), first)))
    assert_close(wide(params), wide(others), rtol=2.0**-7)
    assert_close(state.inner_state, other.inner_state, rtol=1e-5, atol=1e-6)


@every
def test_float16(how: str):
    params, gradients = random_tree(0, "float16", SHAPES), [random_tree(1, "float16", SHAPES)] * 3
    tx = ALL[how](gdjax.sgd(0.1))
    if how in ("16", "8"):
        with pytest.raises(TypeError, match=r"with_master_weights: params\['b'\] is float16: remainders are of bfloat"):
            tx.init(params)
        return
    got, _ = run(tx, params, gradients)
    wanted, _ = run(gdjax.sgd(0.1), wide(params), list(map(wide, gradients)))
    assert {x.dtype for x in jax.tree.leaves(got)} == {jnp.dtype("float16")}
    assert_close(wide(got), wanted, rtol=2.0**-9, atol=2.0**-9)


AROUND = {
    "groups": lambda: gdjax.partition({"a": gdjax.adamw(1e-3), "b": gdjax.sgd(1e-3)}, {"w": "a", "b": "b", "s": "b"}),
    "masked": lambda: gdjax.masked(gdjax.lion(1e-3), {"w": True, "b": False, "s": True}),
    "MultiSteps": lambda: gdjax.MultiSteps(gdjax.adam(1e-3), 2).gradient_transformation(),
    "schedule": lambda: gdjax.adamw(gdjax.linear_schedule(1e-3, 1e-4, 5)),
    "muon": lambda: gdjax.muon(1e-3),
    "soap": lambda: gdjax.soap(1e-3),
    "finite": lambda: gdjax.apply_if_finite(gdjax.adam(1e-3), 3),
}


@pytest.mark.parametrize("around", [pytest.param(k, marks=[pytest.mark.slow] * (k == "soap")) for k in AROUND])
def test_around_any_transform(around: str):
    tx, params = AROUND[around](), random_tree(0, "bfloat16", SHAPES)
    gradients = [random_tree(i, "bfloat16", SHAPES) for i in range(1, 5)]
    masters, plain = run(tx, wide(params), list(map(wide, gradients)))
    got, state = run(gdjax.with_master_weights(tx, remainder_bits=16), params, gradients)
    assert_close(state.inner_state, plain, rtol=1e-5, atol=1e-6)
    assert_close(wide(got), wide(narrow(masters)), rtol=2.0**-7)


@pytest.mark.full
@pytest.mark.parametrize("how", ["8", *(pytest.param(k, marks=pytest.mark.slow) for k in ALL if k != "8")])
def test_inside_groups_and_guards(how: str):
    params, g = random_tree(0, "bfloat16", SHAPES), random_tree(1, "bfloat16", SHAPES)
    own = ALL[how](gdjax.sgd(0.1))
    for tx in (
        gdjax.partition({"a": own, "b": gdjax.sgd(1e-3)}, {"w": "a", "b": "b", "s": "a"}),
        gdjax.apply_if_finite(own, 3),
        gdjax.chain(gdjax.clip_by_global_norm(1.0), own),
        gdjax.params_ema(own, 0.9),
        gdjax.inject_hyperparams(lambda rate: ALL[how](gdjax.sgd(rate)))(0.1),
    ):
        got, _ = run(tx, params, [g, g])
        assert finite(got) and not np.array_equal(np.asarray(got["w"]), np.asarray(params["w"]))


def test_a_parameter_that_something_else_changes():
    """A master begins anew from it, a compensation that is none of it is dropped, a remainder is below half a place."""
    p = {"w": jnp.asarray([1.0, 2.0, 3.0, -4.0], jnp.bfloat16)}
    g = {"w": jnp.full(4, 1e-3)}
    other = {"w": jnp.asarray([1.0, 0.0, 0.01, -4.0], jnp.bfloat16)}
    for how, make in KEEPING.items():
        tx = make(gdjax.sgd(1.0))
        _, state = step(tx, p, tx.init(p), g)
        updates, state = tx.update({"w": jnp.zeros(4)}, state, other)
        np.testing.assert_array_equal(updates["w"], np.zeros(4), err_msg=how)
    tx = gdjax.with_master_weights(gdjax.sgd(1.0))
    _, state = step(tx, p, tx.init(p), g)
    np.testing.assert_allclose(state.master["w"], np.array([1, 2, 3, -4], np.float32) - np.float32(1e-3), rtol=1e-7)
    _, state = tx.update({"w": jnp.zeros(4)}, state, other)
    np.testing.assert_allclose(state.master["w"], np.array([1 - 1e-3, 0, other["w"][2], -4.001], np.float32), rtol=1e-7)


@keeping
def test_infinity_and_nan_pass(how: str):
    p, tx = jnp.asarray([1.0, jnp.inf, jnp.nan, 2.0], jnp.bfloat16), ALL[how](gdjax.sgd(1.0))
    state = tx.init(p)
    for g in ([0.0, 0.0, 0.0, jnp.inf], [0.5, 0.0, 0.0, 0.0]):
        u, state = tx.update(jnp.asarray(g, jnp.float32), state, p)
        p = gdjax.apply_updates(p, u)
    np.testing.assert_array_equal(np.asarray(p, np.float32), [0.5, np.inf, np.nan, -np.inf])


BYTES = {"master": 4, "16": 2, "8": 1, "kahan": 2, "random": 0}


@every
def test_what_is_told_of_it(how: str):
    """Bytes, hyperparameters, shardings, rows: masters follow the parameter."""
    params, tx = random_tree(0, "bfloat16", {"w": (64, 32), "b": (32,)}), ALL[how](gdjax.sgd(1e-3, momentum=0.9))
    state = tx.init(params)
    more = {"random": 8, "16": 4, "8": 4}.get(how, 0)
    plain = gdjax.sgd(1e-3, momentum=0.9).init(wide(params) if how != "random" else params)
    size = lambda s: sum(x.nbytes for x in jax.tree.leaves(s))
    assert size(state) - size(plain) == BYTES[how] * (64 * 32 + 32) + more
    assert gdjax.get_hyperparams(tx, state)["learning_rate"] == 1e-3
    mesh = jax.sharding.Mesh(np.asarray(jax.devices()[:8]), ("data",))
    shardings = gdjax.state_sharding(tx, params, mesh, min_bytes=0)
    if how != "random":
        field = state._fields[-1]
        assert tuple(getattr(shardings, field)["w"].spec) == ("data", None)
        moved = gdjax.tree_map_params(tx, lambda x: x * jnp.asarray(0, x.dtype), state)
        assert not np.any(np.asarray(getattr(moved, field)["w"]))
    assert gdjax.tabulate(tx, params)["bytes"][-1] == size(state)
    named = str(tx).partition("(")[0]
    assert all(row.startswith(named) and "rate" in row for row in gdjax.explain(tx, params)["steps"])


def test_wrong_calls():
    params = random_tree(0, "bfloat16", SHAPES)
    tx = gdjax.with_master_weights(gdjax.sgd(0.1))
    with pytest.raises(ValueError, match="with_master_weights: this transform needs params"):
        tx.update(params, tx.init(params))
    with pytest.raises(
        ValueError, match=r"with_master_weights: params\['b'\] is bfloat16, and the state keeps no master"
    ):
        tx.update(params, tx.init(wide(params)), params)
    with pytest.raises(ValueError, match="remainder_bits must be one of 16, 8, None, got 4"):
        gdjax.with_master_weights(gdjax.sgd(0.1), remainder_bits=4)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="with_stochastic_rounding: key must be a PRNG key or an int, got 1.5"):
        gdjax.with_stochastic_rounding(gdjax.sgd(0.1), key=1.5)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="state has fields"):
        tx.update(params, gdjax.with_kahan_summation(gdjax.sgd(0.1)).init(params), params)
