"""accumulate: a window of gradients makes the step of one batch, whichever way its end is told."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import gdjax
from tests.trees import assert_close, assert_equal, random_tree

P = jax.sharding.PartitionSpec
PARAMS = random_tree(0)
WEIGHTS = [3.0, 1.0, 2.0, 4.0]
INNER = {
    "adamw": lambda: gdjax.adamw(0.1),
    "by group": lambda: gdjax.partition({".*": gdjax.sgd(gdjax.per_leaf(0.1, {".*": 0.5}), 0.9)}, lambda path, p: ".*"),
    "muon": lambda: gdjax.muon(0.1),
    "lion with a schedule": lambda: gdjax.lion(gdjax.linear_schedule(0.1, 0.0, 5)),
}


def mean(gradients: Any, weights: Any) -> Any:
    """The weighted mean, in NumPy and float64."""
    total = lambda *xs: np.asarray(sum(w * np.asarray(x, np.float64) for w, x in zip(weights, xs, strict=True)))
    return jax.tree.map(lambda *xs: (total(*xs) / sum(weights)).astype(np.float32), *gradients)


@pytest.mark.parametrize("way", ["counted", "static", "traced"])
@pytest.mark.parametrize("name", INNER)
def test_a_window_is_one_batch(name: str, way: str):
    inner = INNER[name]() if name != "by group" else gdjax.sgd(0.1, 0.9)
    tx = gdjax.accumulate(inner, 4, weight="tokens")
    state, params, alone, theirs = tx.init(PARAMS), PARAMS, inner.init(PARAMS), PARAMS

    @functools.partial(jax.jit, static_argnames="last")
    def static(g: Any, state: Any, params: Any, n: Any, last: bool | None = None) -> Any:
        return tx.update(g, state, params, tokens=n, last=last)

    traced = jax.jit(lambda g, state, params, n, last: tx.update(g, state, params, tokens=n, last=last))
    for window in range(3):
        weights = WEIGHTS if way == "counted" else WEIGHTS[: 4 - window]  # the last windows are partial
        gradients = [random_tree(10 * window + i + 1) for i in range(len(weights))]
        for i, (g, n) in enumerate(zip(gradients, weights, strict=True)):
            last = i == len(weights) - 1
            told = {"counted": {}, "static": {"last": last}, "traced": {"last": jnp.asarray(last)}}[way]
            updates, state = (traced if way == "traced" else static)(g, state, params, n, **told)
            if not last:
                assert_equal(updates, jax.tree.map(jnp.zeros_like, g))
        params = gdjax.apply_updates(params, updates)
        expected, alone = inner.update(mean(gradients, weights), alone, theirs)
        theirs = gdjax.apply_updates(theirs, expected)
    assert_close(params, theirs, 2e-5, 2e-6)
    assert int(state.count) == 0


def test_the_sums_before_a_window_are_not_read():
    tx = gdjax.accumulate(gdjax.sgd(1.0), 2)
    _, state = tx.update(jnp.array([jnp.nan, 1.0]), tx.init(jnp.zeros(2)))
    _, state = tx.update(jnp.array([1.0, 1.0]), state)
    for g in ([1.0, 2.0], [3.0, 4.0]):
        updates, state = tx.update(jnp.array(g), state)
    assert_equal(updates, jnp.array([-2.0, -3.0]))


def test_gradients_of_16_bits_are_summed_in_float32_and_arrive_unrounded():
    seen = []
    inner = gdjax.stateless(lambda u, p: seen.append(jax.tree.leaves(u)[0].dtype) or u)
    tx = gdjax.accumulate(inner, 256)
    step = jax.jit(functools.partial(tx.update, last=False))
    state = tx.init(jnp.zeros(1, jnp.bfloat16))
    for _ in range(300):  # bfloat16 would stop at 256
        _, state = step(jnp.ones(1, jnp.bfloat16), state)
    updates, _ = tx.update(jnp.ones(1, jnp.bfloat16), state, last=True)
    assert float(state.sums[0]) == 300 and updates.dtype == jnp.float32 and float(updates[0]) == 1
    assert set(seen) == {jnp.dtype("float32")}


def test_none_integer_and_float0_leaves_stay():
    params = {"w": jnp.ones(2), "i": jnp.arange(3), "n": None}
    g = {"w": jnp.ones(2), "i": np.zeros(3, jax.dtypes.float0), "n": None}
    tx = gdjax.accumulate(gdjax.sgd(1.0), 2)
    state = tx.init(params)
    for _ in range(2):
        updates, state = tx.update(g, state, params)
    assert updates["n"] is None and updates["i"].dtype == jax.dtypes.float0
    assert_equal(updates["w"], -jnp.ones(2))


@pytest.mark.parametrize("nan", [jnp.nan, jnp.inf])
@pytest.mark.parametrize("place", [0, 1, 2])
def test_a_gradient_of_weight_0_counts_nothing_whatever_it_is(place: int, nan: float):
    """A part that is all padding: 0 / 0."""
    tx, params = (
        gdjax.accumulate(gdjax.sgd(1.0), 3, weight="tokens"),
        {"w": jnp.ones(2), "h": jnp.ones(2, jnp.bfloat16)},
    )
    update, state, weights = jax.jit(tx.update), tx.init(params), [2, 6]
    weights.insert(place, 0)
    for i, n in enumerate(weights):
        g = jax.tree.map(lambda p, n=n, i=i: jnp.full_like(p, i if n else nan), params)
        updates, state = update(g, state, params, tokens=n)
    wanted = -sum(n * i for i, n in enumerate(weights)) / 8
    assert all((u.astype(jnp.float32) == wanted).all() for u in updates.values())


def test_one_call_to_a_window_is_the_transform_itself():
    inner = gdjax.adam(0.1)
    tx = gdjax.accumulate(inner, 1, weight="tokens")
    state = tx.init(PARAMS)
    assert jax.tree.structure(state) == jax.tree.structure(inner.init(PARAMS))
    args = random_tree(1), state, PARAMS
    assert_equal(tx.update(*args, tokens=3, last=True), inner.update(*args))
    text = lambda update: str(jax.make_jaxpr(update)(*args))
    assert text(functools.partial(tx.update, tokens=3)) == text(inner.update)


def test_a_call_known_not_to_be_the_last_reads_neither_parameters_nor_the_inner_state():
    tx = gdjax.accumulate(gdjax.adamw(0.1), 4)
    w = jnp.ones((64, 64))
    for last in (False, True):
        run = jax.jit(functools.partial(tx.update, last=last), donate_argnums=1)
        assert "conditional" not in run.lower(w, tx.init(w), w).compile().as_text()
    traced = jax.make_jaxpr(functools.partial(tx.update, last=False))(w, tx.init(w), w).jaxpr
    read = {id(x) for equation in traced.eqns for x in equation.invars}
    names = [jax.tree_util.keystr(path) for path, _ in jax.tree_util.tree_leaves_with_path((w, tx.init(w), w))]
    of_use = {name for name, x in zip(names, traced.invars, strict=True) if id(x) in read}
    assert of_use == {"[0]", "[1].count", "[1].weight", "[1].sums"}


def test_scan_over_the_calls_of_a_window():
    tx = gdjax.accumulate(gdjax.adamw(0.1), 4)
    gs = random_tree(1, lead=(4,))

    @jax.jit
    def step(params: Any, state: Any) -> Any:
        rest, last = (jax.tree.map(lambda g, part=part: g[part], gs) for part in (slice(-1), -1))
        state, _ = jax.lax.scan(lambda s, g: (tx.update(g, s, params, last=False)[1], None), state, rest)
        return tx.update(last, state, params, last=True)

    expected, _ = gdjax.adamw(0.1).update(jax.tree.map(lambda g: g.mean(0), gs), gdjax.adamw(0.1).init(PARAMS), PARAMS)
    assert_close(step(PARAMS, tx.init(PARAMS))[0], expected, 1e-5, 1e-6)


def test_steps_of_both_kinds_as_branches_of_a_condition():
    tx, gs = gdjax.accumulate(gdjax.adamw(0.1), 2), random_tree(1, lead=(5,))

    def counted(params: Any, state: Any, g: Any) -> Any:
        updates, state = tx.update(g, state, params)
        return gdjax.apply_updates(params, updates), state

    def told(last: bool, params: Any, state: Any, g: Any) -> Any:
        updates, state = tx.update(g, state, params, last=last)
        return gdjax.apply_updates(params, updates), state

    def branches(params: Any, state: Any, g: Any) -> Any:
        both = functools.partial(told, True), functools.partial(told, False)
        return jax.lax.cond(state.count == 1, *both, params, state, g)

    def run(step: Any) -> Any:
        return jax.jit(lambda *start: jax.lax.scan(lambda c, g: (step(*c, g), None), start, gs)[0])(
            PARAMS, tx.init(PARAMS)
        )

    (params, state), (expected, of_expected) = run(branches), run(counted)
    assert_close((params, state), (expected, of_expected), 1e-5, 1e-6)  # in a window, its sums too


@pytest.mark.skipif(jax.__version_info__ < (0, 6), reason="this JAX lowers what is for other platforms too")
@pytest.mark.parametrize(("platform", "sums"), [("tpu", 3), ("cpu", 1)])
def test_a_tpu_adds_up_inside_of_the_condition_and_writes_no_sum_for_an_update(platform: str, sums: int):
    tx, w = gdjax.accumulate(gdjax.sgd(0.1), 4), jnp.ones((8, 4))
    lines = jax.jit(tx.update).trace(w, tx.init(w), w).lower(lowering_platforms=(platform,)).as_text().splitlines()
    # In each branch, and in what a GPU chooses instead of a branch, which a TPU leaves out; on a CPU before them.
    assert sum("stablehlo.add" in line and "tensor<8x4xf32>" in line for line in lines) == sums


def test_after_a_window_nothing_is_written_over_its_sums():
    """They lie where the update was made; zeros would be one more pass over all parameters."""
    tx, w = gdjax.accumulate(gdjax.sgd(0.1), 1 + 1), jnp.ones((8, 4))
    _, state = tx.update(w, tx.init(w))
    updates, state = tx.update(w, state)
    assert state.count == 0
    np.testing.assert_array_equal(state.sums, updates)


@pytest.mark.parametrize(
    ("call", "told"),
    [
        (lambda tx, g, s: tx.update(g, s, last=jnp.zeros(2, bool)), "last must be a boolean scalar"),
        (lambda tx, g, s: tx.update(g, s, last=1), "last must be a boolean scalar"),
        (lambda tx, g, s: tx.update(g, s), r"tokens must be a scalar, got None"),
        (lambda tx, g, s: tx.update({"w": jnp.ones(3)}, s, tokens=1), r"\['w'\].*\(3,\)"),
        (lambda tx, g, s: tx.update(g, s.inner_state, tokens=1), "expected AccumulateState"),
        (lambda tx, g, s: gdjax.accumulate(tx, 0), "every must be at least 1, got 0"),
        (lambda tx, g, s: gdjax.accumulate(tx, 2.0), "every must be an int"),
    ],
)
def test_errors_name_what_is_wrong(call: Any, told: str):
    tx, g = gdjax.accumulate(gdjax.sgd(0.1), 4, weight="tokens"), {"w": jnp.ones(2)}
    with pytest.raises((TypeError, ValueError), match=told):
        call(tx, g, tx.init(g))


@pytest.fixture
def mesh() -> Any:
    if not hasattr(jax.lax, "pcast") or not hasattr(P(), "unreduced"):
        pytest.skip("this JAX has no sums over explicit axes")
    return jax.make_mesh((4,), ("data",), axis_types=(jax.sharding.AxisType.Explicit,))


def loss(params: Any, x: Any) -> Any:
    return jnp.mean(jnp.einsum("bi,ij->bj", x, params["w"]) ** 2)


def test_gradients_of_a_window_are_reduced_over_devices_once(mesh: Any):
    with jax.sharding.use_mesh(mesh) if hasattr(jax.sharding, "use_mesh") else jax.set_mesh(mesh):
        params = {"w": jax.device_put(jnp.ones((8, 4)), jax.sharding.NamedSharding(mesh, P()))}
        xs = jax.random.normal(jax.random.key(0), (4, 16, 8))
        xs = jax.device_put(xs, jax.sharding.NamedSharding(mesh, P(None, "data", None)))
        tx = gdjax.accumulate(gdjax.adamw(0.1), 4, weight="n", unreduced="data")

        def gradient(params: Any, x: Any) -> Any:
            local = jax.tree.map(lambda w: jax.sharding.reshard(w, P(reduced={"data"})), params)
            return jax.grad(loss)(local, x)

        @jax.jit
        def step(params: Any, state: Any, xs: Any) -> Any:
            part = lambda s, x: (tx.update(gradient(params, x), s, params, last=False, n=2.0)[1], None)
            state, _ = jax.lax.scan(part, state, xs[:-1])
            return tx.update(gradient(params, xs[-1]), state, params, last=True, n=2.0)

        state = tx.init(params)
        text = step.lower(params, state, xs).compile().as_text()
        assert text.count(" all-reduce(") + text.count(" all-reduce-start(") == 1
        updates, state = step(params, state, xs)
        plain = jax.tree.map(lambda *gs: sum(gs) / 4, *(jax.grad(loss)(params, x) for x in xs))
        expected, _ = gdjax.adamw(0.1).update(plain, gdjax.adamw(0.1).init(params), params)
        assert_close(updates, expected, 1e-5, 1e-6)
        assert jax.typeof(state.sums["w"]).sharding.spec.unreduced == {"data"}
        with pytest.raises(ValueError, match=r"\['w'\]: gradient unreduced over \[\], expected \['data'\]"):
            tx.update(jax.grad(loss)(params, xs[0]), state, params, n=1.0)
        with pytest.raises(TypeError, match="pass last=True or last=False"):
            jax.jit(lambda s: tx.update(gradient(params, xs[0]), s, params, n=1.0))(state)
