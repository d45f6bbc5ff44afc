"""Spectral normalization against power iteration in NumPy: singular values, the vectors, and the edges."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

import gdjax

ASIDE = 0.01


def normalized(u, v):
    """The formula for one matrix: the update over its largest singular value, times sqrt(outputs / inputs)."""
    inputs, outputs = u.shape
    u = u / np.linalg.norm(u)
    r = np.random.default_rng(0).standard_normal(outputs)
    y = u @ (v + ASIDE * r / np.linalg.norm(r))
    z = u.conj().T @ y
    sigma = max(np.linalg.norm(z) / np.linalg.norm(y), min(u.shape) ** -0.5)
    return np.sqrt(outputs / inputs) * u / sigma, z / np.linalg.norm(z)


def sigma(x):
    return np.linalg.norm(np.asarray(x, complex if np.iscomplexobj(x) else float), 2)


def tree(seed=0, dtype="float32"):
    rng = np.random.default_rng(seed)
    shapes = {"wide": (3, 8), "tall": (6, 2), "b": (4,), "scale": ()}
    return {k: jnp.asarray(rng.normal(size=shape), dtype) for k, shape in shapes.items()}


def after(steps, tx, grads, params):
    """The update and the state of the last of so many steps with the same gradient."""
    updates, state = grads, tx.init(params)
    for _ in range(steps):
        updates, state = jax.jit(tx.update)(grads, state, params)
    return updates, state


RATE = gdjax.linear_schedule(0.3, 0.05, 6)
INNER = {
    "adam": lambda: gdjax.adamw(0.02, weight_decay=0.0),
    "soap": lambda: gdjax.soap(0.02, adam_learning_rate=0.02),
    "sgd": lambda: gdjax.sgd(0.02),
}


@pytest.mark.optimized  # compiled quickly, the inner optimizer alone and within are rounded each in its way
@pytest.mark.parametrize("name", INNER)
def test_against_the_formula(name):
    inner = INNER[name]()
    tx = gdjax.spectral(inner, RATE)
    sizes = {"wide": 8} | ({"tall": 2} if name != "soap" else {})  # SOAP's program takes long to compile
    part = lambda tree: {k: x for k, x in tree.items() if k in sizes or x.ndim < 2}
    params = part(tree())
    state, plain, vs = tx.init(params), inner.init(params), {k: np.zeros(n) for k, n in sizes.items()}
    for t in range(6):
        grads = part(tree(t + 1))
        u, plain = inner.update(grads, plain, params)
        updates, state = jax.jit(tx.update)(grads, state, params)
        for k in vs:
            if np.any(u[k]):  # SOAP's first update is 0
                expected, vs[k] = normalized(np.asarray(u[k], float), vs[k])
                np.testing.assert_allclose(updates[k], float(RATE(t)) * expected, rtol=2e-4, atol=2e-6)
                np.testing.assert_allclose(np.ravel(inner_of(state).v[k][0]), vs[k], rtol=1e-4, atol=1e-5)
        for k in ("b", "scale"):
            np.testing.assert_array_equal(updates[k], u[k])
        params = gdjax.apply_updates(params, updates)


def inner_of(state):
    """The state without the count of the schedule."""
    return getattr(state, "inner_state", state) if not hasattr(state, "v") else state


@pytest.mark.parametrize("shape", [(16, 16), (32, 8), (8, 32), (1, 5), (5, 1)])
def test_the_largest_singular_value_is_that_of_the_shape(shape):
    grads = {"w": jnp.asarray(np.random.default_rng(0).normal(size=shape), "float32")}
    tx = gdjax.spectral(gdjax.sgd(1.0), 0.1, {"w": "matrix"})
    state = tx.init(grads)
    found = []
    for _ in range(30):
        updates, state = tx.update(grads, state, grads)
        found.append(sigma(updates["w"]) / (0.1 * np.sqrt(shape[1] / shape[0])))
    assert 1 - 1e-5 <= min(found) and found[0] < 2 and abs(found[-1] - 1) < 1e-3


DIRECTIONS = pytest.mark.parametrize("around", [gdjax.spectral, gdjax.hyperball], ids=["spectral", "hyperball"])


@pytest.mark.full
@DIRECTIONS
def test_the_rate_of_the_inner_optimizer_does_not_matter_for_matrices(around):
    params, grads = tree(), tree(1)
    found = []
    for rate in (1e-6, 1.0):
        tx = around(gdjax.adam(rate), 0.1)
        found.append(tx.update(grads, tx.init(params), params)[0])
    np.testing.assert_allclose(found[0]["wide"], found[1]["wide"], rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(found[1]["b"], found[0]["b"] * 1e6, rtol=1e-4)


@DIRECTIONS
def test_a_direction_that_ascends(around):
    params, grads = tree(), tree(1)
    up, down = around(gdjax.scale_by_adam(), 0.1, ascends=True), around(gdjax.adam(0.1), 0.1)
    updates, expected = (tx.update(grads, tx.init(params), params)[0] for tx in (up, down))
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, rtol=1e-5, atol=1e-7), updates, expected)
    assert np.sum(updates["wide"] * grads["wide"]) < 0


@pytest.mark.full
def test_each_matrix_has_its_own_singular_value():
    """Experts, q, k, v in one array, heads, a convolution; an embedding and a head are left alone."""
    rng = np.random.default_rng(0)
    shapes = {
        "experts": (2, 3, 4, 5), "qkv": (4, 12), "query": (6, 2, 4), "conv": (3, 3, 2, 8), "embed": (9, 4),
        "head": (4, 9),
    }  # fmt: skip
    params = {k: {"kernel": jnp.asarray(rng.normal(size=shape), "float32")} for k, shape in shapes.items()}
    roles = {
        "experts": gdjax.Matrix(), "qkv": gdjax.Matrix(-2, -1, (4, 4, 4)), "query": gdjax.Matrix(0, (1, 2)),
        "conv": "matrix",
    }  # fmt: skip
    scale = {"experts": (5 / 4) ** 0.5, "qkv": 1.0, "query": (8 / 6) ** 0.5, "conv": (8 / 18) ** 0.5}
    tx = gdjax.spectral(gdjax.sgd(1.0), 0.1, roles)
    state = tx.init(params)
    of = lambda tree, k: tree[k]["kernel"]
    shapes = {k: [v.shape for v in jax.tree.leaves(of(state.v, k))] for k in params}
    assert shapes == {
        "experts": [(6, 5)], "qkv": [(3, 4)], "query": [(1, 8)], "conv": [(1, 8)], "embed": [], "head": []
    }  # fmt: skip
    # By powers of ten: what one matrix has must not reach another.
    size = {k: jnp.ones(()) for k in params} | {
        "experts": 10.0 ** jnp.arange(6.0).reshape(2, 3, 1, 1), "qkv": jnp.repeat(10.0 ** jnp.arange(3.0), 4)[None]
    }  # fmt: skip
    grads = {k: {"kernel": of(params, k) * size[k]} for k in params}
    updates, _ = after(20, tx, grads, params)
    matrices = {
        "experts": lambda x: x.reshape(6, 4, 5), "qkv": lambda x: np.stack(np.split(x, 3, 1)),
        "query": lambda x: x.reshape(1, 6, 8), "conv": lambda x: x.reshape(1, 18, 8),
    }  # fmt: skip
    for k, f in matrices.items():
        found = [sigma(x) for x in f(np.asarray(of(updates, k)))]
        np.testing.assert_allclose(found, 0.1 * scale[k], rtol=2e-2)
        directions = f(np.asarray(of(updates, k))) / -f(np.asarray(of(grads, k)))
        assert all(np.ptp(x) <= 1e-4 * np.max(x) and np.min(x) > 0 for x in directions)
    for k in ("embed", "head"):
        np.testing.assert_array_equal(of(updates, k), -of(grads, k))


@pytest.mark.full
def test_one_rate_for_all_widths():
    """The outputs of a layer move by about the rate in units of its inputs, with any optimizer inside."""
    moved = []
    for n in (64, 256):
        key = jax.random.key(n)
        params = {"kernel": jax.random.normal(key, (n, n)) * n**-0.5}
        x, y = (jax.random.normal(jax.random.fold_in(key, i), (32, n)) for i in (1, 2))
        tx = gdjax.spectral(gdjax.adam(1.0), 0.1)
        f = lambda p: jnp.mean((x @ p["kernel"] - y) ** 2)  # noqa: B023
        updates, _ = tx.update(jax.grad(f)(params), tx.init(params), params)
        moved.append(float(jnp.sqrt(jnp.mean((x @ updates["kernel"]) ** 2))))
    assert 0.8 < moved[1] / moved[0] < 1.25


def test_zeros():
    params = tree()
    tx = gdjax.spectral(gdjax.sgd(1.0), 0.1)
    _, state = tx.update(tree(1), tx.init(params), params)
    updates, new = tx.update(jax.tree.map(jnp.zeros_like, params), state, params)
    assert not any(np.any(u) for u in jax.tree.leaves(updates))
    jax.tree.map(np.testing.assert_array_equal, new.v, state.v)  # the last direction is the best that is known
    updates, new = tx.update(jax.tree.map(jnp.zeros_like, params), tx.init(params), params)
    assert not any(np.any(x) for x in jax.tree.leaves((updates, new.v)))


def test_a_size_that_over_or_underflows():
    params, grads = tree(), tree(1)
    tx = gdjax.spectral(gdjax.scale(-1.0), 0.1)
    wanted, _ = tx.update(grads, tx.init(params), params)
    for size in (1e-30, 1e30):
        updates, state = tx.update(jax.tree.map(lambda g: g * size, grads), tx.init(params), params)  # noqa: B023
        np.testing.assert_allclose(updates["wide"], wanted["wide"], rtol=1e-5)
        assert np.isfinite(state.v["wide"][0]).all()


def test_no_number_spoils_its_own_matrix_alone_and_for_one_step():
    params = tree()
    tx = gdjax.spectral(gdjax.sgd(0.1), 0.1)
    _, state = tx.update(tree(1), tx.init(params), params)
    wanted, _ = tx.update(tree(1), state, params)
    for bad in (jnp.nan, jnp.inf):
        grads = tree(1)
        grads["wide"] = grads["wide"].at[0, 0].set(bad)
        updates, new = tx.update(grads, state, params)
        assert np.isnan(updates["wide"]).all() and np.isfinite(updates["tall"]).all()
        again, _ = tx.update(tree(1), new, params)
        np.testing.assert_allclose(again["wide"], wanted["wide"], rtol=1e-6)


def test_an_update_beside_all_that_came_before():
    """The last vector is then orthogonal to the new update: without a step aside nothing would find it."""
    first, later = (jnp.zeros((4, 6)).at[:2, at : at + 3].set(1.0).at[0, at].set(2.0) for at in (0, 3))
    tx = gdjax.spectral(gdjax.sgd(1.0), 0.1)
    _, state = after(20, tx, {"w": first}, {"w": first})
    for most in (2.0, 1.1):
        updates, state = tx.update({"w": later}, state, {"w": first})
        assert 1 <= sigma(updates["w"]) / (0.1 * 1.5**0.5) < most
    np.testing.assert_allclose(state.v["w"][0][0, :3], 0, atol=1e-6)


def test_a_disturbance_by_rounding_moves_an_update_by_rounding():
    params, grads = tree(), tree(1)
    # Two equal singular values: their vectors are any of a plane.
    grads["wide"] = jnp.eye(3, 8)
    near = jax.tree.map(lambda g: g + 1e-6 * jnp.cos(jnp.arange(g.size, dtype="float32")).reshape(g.shape), grads)
    tx = gdjax.spectral(gdjax.sgd(1.0), 0.1)
    ends = [after(5, tx, g, params)[0] for g in (grads, near)]
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, atol=1e-5), *ends)


def test_16_bit_parameters():
    params, grads = tree(dtype="bfloat16"), tree(1, "bfloat16")
    tx = gdjax.spectral(gdjax.sgd(1.0), 0.1)
    updates, state = after(10, tx, grads, params)
    assert state.v["wide"][0].dtype == jnp.float32
    assert updates["wide"].dtype == jnp.bfloat16
    np.testing.assert_allclose(sigma(updates["wide"].astype("float32")), 0.1 * (8 / 3) ** 0.5, rtol=1e-2)


def test_complex():
    rng = np.random.default_rng(0)
    g = rng.normal(size=(4, 6)) + 1j * rng.normal(size=(4, 6))
    grads = {"w": jnp.asarray(g, "complex64")}
    tx = gdjax.spectral(gdjax.scale(-1.0), 0.1)
    state = tx.init(grads)
    assert state.v["w"][0].dtype == jnp.complex64
    v = np.zeros(6)
    for _ in range(4):
        updates, state = tx.update(grads, state, grads)
        expected, v = normalized(-g, v)
        np.testing.assert_allclose(updates["w"], 0.1 * expected, rtol=1e-4, atol=1e-6)


def test_errors():
    params = tree()
    tx = gdjax.spectral(gdjax.sgd(0.1), 0.1)
    other = gdjax.spectral(gdjax.sgd(0.1), 0.1, lambda tree: jax.tree.map(lambda x: None, tree)).init(params)
    with pytest.raises(ValueError, match=r"gdjax.spectral: params\['tall'\]: the state has vectors of other matrices"):
        tx.update(params, other, params)
    with pytest.raises(TypeError, match="inner is 0.1"):
        gdjax.spectral(0.1, 0.1)
    with pytest.raises(TypeError, match="learning_rate"):
        gdjax.spectral(gdjax.soap(1e-3))


INSIDE = {"adamw": lambda: gdjax.adamw(1e-2, weight_decay=0.0), "soap": lambda: gdjax.soap(1e-2, sides="short")}


@pytest.mark.full
@pytest.mark.skipif(not hasattr(jax, "shard_map"), reason="this JAX has no jax.shard_map")
@pytest.mark.parametrize(
    ("name", "axes", "spec"),
    [("adamw", {"data": 8}, P()), ("soap", {"data": 8}, P()), ("adamw", {"data": 4, "model": 2}, P(None, "model"))],
)
def test_on_eight_devices_no_matrix_moves_for_its_singular_value(name, axes, spec):
    mesh = Mesh(np.asarray(jax.devices()[:8]).reshape(*axes.values()), tuple(axes))
    rng = np.random.default_rng(0)
    first = {f"w{i}": jnp.asarray(rng.normal(size=(64, 64)) / 8, "float32") for i in range(3)}
    batch = jnp.asarray(rng.normal(size=(256, 64)), "float32")

    def loss(params, x):
        y = x
        for w in params.values():
            y = jnp.tanh(y @ w)
        return jnp.mean((y - jnp.sin(3 * x)) ** 2)

    inner = INSIDE[name]()
    tx = gdjax.spectral(inner, 0.1)
    sent = []
    for t in (inner, tx):
        there = jax.tree.map(lambda p: jax.device_put(p, NamedSharding(mesh, spec)), first)
        step = gdjax.sharded_step(loss, t, there, mesh, min_bytes=1024)
        params, state = step.init(there)
        rows = gdjax.collectives(step.lower(params, state, batch).compile())
        sent.append(sum(row.wire_bytes for row in rows))
        for _ in range(3):
            params, state, _ = step(params, state, batch)
    alone, own = first, tx.init(first)
    for _ in range(3):
        updates, own = jax.jit(tx.update)(jax.grad(loss)(alone, batch), own, alone)
        alone = gdjax.apply_updates(alone, updates)
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, rtol=2e-3, atol=2e-4), params, alone)
    # Two sums of a vector for each of three matrices, and of a few numbers: an all-reduce sends its size twice.
    assert sent[1] - sent[0] < 2 * 2 * 3 * (64 + 8) * 4


@gdjax.leafwise()
def of_unknown_growth(g, s, p, t):
    return g, s


def model(n):
    return {"embed": jnp.ones((9, n)), "mlp": {"kernel": jnp.ones((n, 2 * n))}, "head": jnp.ones((n, 9))}


@pytest.mark.full
@pytest.mark.parametrize("around", [gdjax.spectral, gdjax.hyperball])
def test_in_transfer_what_ascends_has_its_rate_here(around):
    """By `ascends` what is no hidden matrix moves by the wrapper's rate, with the factors of the method inside."""
    for tx in (around(gdjax.scale_by_adam(), 0.1, ascends=True), around(gdjax.adam(0.1), 0.1)):
        rates = {row.path: row.rate for row in gdjax.transfer_table(tx, model(16), model(4))}
        relative = {"mlp/kernel": 0.5, "head": 1.0}
        assert rates == {"embed": 1.0, "mlp/kernel": 1.0, "head": 0.25} | (
            relative if around is gdjax.hyperball else {}
        )
        params = model(16)
        moved = gdjax.transfer(tx, model(4))
        updates, _ = moved.update(params, moved.init(params), params)
        np.testing.assert_allclose(updates["embed"], -0.1, rtol=1e-5)


@pytest.mark.full
def test_transfer_takes_any_rule_inside():
    inner, whole = gdjax.chain(of_unknown_growth(), gdjax.scale(-1.0)), {"^": "matrix"}
    base, params = ({"kernel": jnp.ones((n, 2 * n))} for n in (4, 16))
    (row,) = gdjax.transfer_table(gdjax.spectral(inner, 0.1), params, base, roles=whole)
    assert row.rate == 1
    unknown = r"of_unknown_growth does not say how its updates of (kernel|embed) grow"
    with pytest.raises(ValueError, match=unknown):
        gdjax.transfer_table(gdjax.chain(inner, gdjax.scale_by_learning_rate(0.1)), params, base, roles=whole)
    with pytest.raises(ValueError, match=unknown):
        gdjax.transfer_table(gdjax.spectral(inner, 0.1), model(16), model(4))
