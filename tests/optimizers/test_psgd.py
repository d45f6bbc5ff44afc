"""PSGD-Kron against the authors' formulas in NumPy, with the same random numbers, and what it promises."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import gdjax
from gdjax.linalg import whitening
from gdjax.linalg.matrices import Matrix
from tests.support import slow
from tests.trees import assert_close, random_tree

EPS = float(np.finfo("float32").eps)


# --- The formulas of psgd_torch, of one matrix in float64 -------------------------------------------------------------


def bound(a, v):
    """A lower bound of the spectral norm, by two rounds of subspace iteration."""
    top = np.max(np.abs(a))
    if top == 0:
        return 0.0
    a = a / top
    row = a[np.argmax(np.linalg.norm(a, axis=1))]
    v = row + np.sign(np.sum(row * v, axis=1, keepdims=True)) * v
    for _ in range(2):
        v = v @ a
        v = v / np.linalg.norm(v, axis=1, keepdims=True) @ a
    return top * np.max(np.linalg.norm(v, axis=1))


def rotated(q, v):
    r = q.T - q
    norm = bound(r, v)
    r = r / norm if norm else r
    rq = r @ q
    rrq = r @ rq
    slope, curve = np.trace(rq), np.trace(rrq)
    a = min(-slope / curve, 1 / 8) if curve < 0 else 1 / 8
    return q + a * (rq + a / 2 * rrq)


def apply(q, x):
    return q[:, None] * x if q.ndim == 1 else q @ x


def square(x, diagonal):
    return np.sum(x * x, axis=1) if diagonal else x @ x.T


def fitted(qs, ls, g, noise, vs, form, lr, beta, damping):
    """One step of both factors; `vs` are the random vectors of both sides."""
    g = g + (damping + EPS * np.abs(g)) * noise
    both = lambda f, h, x: apply(h, apply(f, x).T).T  # f x h^T
    if form == "EQ":
        x = both(qs[0], qs[1], g)
        inverse = [1 / q if q.ndim == 1 else np.linalg.inv(q).T for q in qs]
        b = both(inverse[0], inverse[1], noise)
    else:
        ps = [q * q if q.ndim == 1 else q.T @ q for q in qs]
        x, b = both(ps[0], ps[1], g), None
    out, constants = [], []
    for i, (q, ell, v) in enumerate(zip(qs, ls, vs, strict=True)):
        side = x if i == 0 else x.T
        diagonal, n = q.ndim == 1, len(q)
        found = square(side, diagonal)
        wanted = g.size / n
        if form == "EQ":
            wanted = square(b if i == 0 else b.T, diagonal)
            top = np.max(found + wanted) if diagonal else bound(found + wanted, v)
        else:
            top = (np.max(found) if diagonal else bound(found, v)) + wanted
            wanted = wanted if diagonal else wanted * np.eye(n)
        ell = max(beta * ell + (1 - beta) * top, top)
        e = lr / ell * (found - wanted)
        if diagonal:
            q = q * (1 - e / 2) ** 2 if form == "QUAD" else q * (1 - e)
        elif form == "EQ":
            q = q - np.triu(e) @ q
        elif form == "QUAD":
            half = q - e @ q / 2
            q = half - half @ e / 2
            q = (q + q.T) / 2
        else:
            q = rotated(q - e @ q, v)
        out.append(q)
        constants.append(ell)
    tops = [np.max(np.abs(q)) for q in out]
    return [q * np.sqrt(tops[0] * tops[1]) / top for q, top in zip(out, tops, strict=True)], constants


def random_numbers(key, shape):
    """What `whitening.fitted` draws of a key."""
    size, (rows, columns) = shape[0] * shape[1], shape
    numbers = np.asarray(jax.random.normal(key, (size + 32 * (rows + columns),), "float32"), float)
    noise, left, right = np.split(numbers, [size, size + 32 * rows])
    return noise.reshape(shape), [left.reshape(32, rows), right.reshape(32, columns)]


def by_hand(x, grads, key, form="Q0.5EQ1.5", diagonal=(False, False), every=1, gradient_too=False, lr=0.05, **over):
    """The parameters after each step."""
    b1, most, damping, beta, rate = 0.9, 1.1, 1e-9, 0.9, over.get("precond_lr", 0.1)
    scale = over.get("precond_init_scale", 1.0) ** 0.5
    qs = [scale * (np.ones(n) if alone else np.eye(n)) for n, alone in zip(x.shape, diagonal, strict=True)]
    mu, ls = np.zeros(x.shape), [0.0, 0.0]
    for t, g in enumerate(grads, 1):
        if over.get("normalize_grads"):
            g = g / np.linalg.norm(g)
        mu = b1 * mu + (1 - b1) * g
        m, before = mu / (1 - b1**t), qs
        if t % every == 0:
            noise, vs = random_numbers(jax.random.split(jax.random.fold_in(key, t), 1)[0], x.shape)
            qs, ls = fitted(qs, ls, g if gradient_too else m, noise, vs, form, rate, beta, damping)
        ps = [q * q if q.ndim == 1 else q.T @ q for q in (before if over.get("delayed") else qs)]
        u = apply(ps[1], apply(ps[0], m).T).T
        x = x - lr * u * min(1, most / np.sqrt(np.mean(u * u)))
        yield x


CASES = {
    "Q0.5EQ1.5": ({}, {}),
    "QUAD": ({"dQ": "QUAD"}, {"form": "QUAD"}),
    "EQ": ({"dQ": "EQ"}, {"form": "EQ"}),
    "one diagonal": ({"max_size_triangular": 5}, {"diagonal": (False, True)}),
    "one_diag": ({"memory_save_mode": "one_diag", "dQ": "QUAD"}, {"diagonal": (False, True), "form": "QUAD"}),
    "all_diag": ({"memory_save_mode": "all_diag"}, {"diagonal": (True, True)}),
    "all_diag, EQ": ({"memory_save_mode": "all_diag", "dQ": "EQ"}, {"diagonal": (True, True), "form": "EQ"}),
    "a third": ({"preconditioner_update_probability": 1 / 3}, {"every": 3}),
    "delayed": ({"preconditioner_update_probability": 1 / 2, "delayed": True}, {"every": 2, "delayed": True}),
    "gradients": ({"momentum_into_precond_update": False}, {"gradient_too": True}),
    "normalized": ({"normalize_grads": True, "precond_init_scale": 4.0, "precond_lr": 0.2},) * 2,
}


@pytest.mark.parametrize("name", CASES)
def test_against_the_formulas(name):
    ours, theirs = CASES[name]
    rng = np.random.default_rng(1)
    shape = (4, 6)
    grads = [rng.normal(size=(4, 1)) * rng.normal(size=shape) * np.linspace(0.1, 2, 6) for _ in range(12)]
    x = rng.normal(size=shape)
    tx = gdjax.psgd_kron(0.05, key=7, **ours)
    params = {"w": jnp.asarray(x, "float32")}
    state, update = tx.init(params), jax.jit(tx.update)
    for g, expected in zip(grads, by_hand(x, grads, jax.random.key(7), **theirs), strict=True):
        updates, state = update({"w": jnp.asarray(g, "float32")}, state, params)
        params = gdjax.apply_updates(params, updates)
        np.testing.assert_allclose(params["w"], expected, rtol=1e-4, atol=1e-5)


# --- What it promises -------------------------------------------------------------------------------------------------


@pytest.mark.full
@pytest.mark.parametrize("form", whitening.FORMS)
def test_it_whitens(form):
    """Gradients A Z B of white Z: the covariance of P_l G P_r is near I."""
    rng = np.random.default_rng(0)
    a = np.linalg.qr(rng.normal(size=(5, 5)))[0] * np.geomspace(0.1, 3, 5) * 0.1
    b = np.linalg.qr(rng.normal(size=(3, 3)))[0] * np.geomspace(0.3, 2, 3)
    tx = gdjax.scale_by_psgd_kron(0.0, 1.0, gdjax.exponential_decay(0.1, 600, 0.1), dQ=form)  # without momentum

    def step(state, z):
        g = {"w": jnp.asarray(a, "float32") @ z @ jnp.asarray(b.T, "float32")}
        return tx.update(g, state, g)[1], None

    state = tx.init({"w": jnp.zeros((5, 3))})
    state, _ = jax.lax.scan(step, state, jnp.asarray(rng.normal(size=(1500, 5, 3)), "float32"))
    right, left = (np.asarray(p[0], float) for p in state.P["3x5"])  # tall ones lie on their side
    covariance = np.kron(left @ a @ a.T @ left, right @ b @ b.T @ right)
    np.testing.assert_allclose(covariance, np.eye(15), atol=0.45)
    assert np.linalg.cond(np.kron(a @ a.T, b @ b.T)) > 1e4 > 500 * np.linalg.cond(covariance)


@pytest.mark.parametrize("form", whitening.FORMS)
def test_the_form_of_the_factors(form):
    params = {"w": jnp.asarray(np.random.default_rng(0).normal(size=(4, 3)), "float32")}
    tx = gdjax.scale_by_psgd_kron(dQ=form)
    state = tx.init(params)
    for _ in range(20):
        _, state = tx.update(params, state, params)
    for q, p in zip(state.Q["3x4"], state.P["3x4"], strict=True):
        q, p = np.asarray(q[0], float), np.asarray(p[0], float)
        np.testing.assert_allclose(p, q.T @ q, rtol=1e-5, atol=1e-5)
        if form == "EQ":
            np.testing.assert_array_equal(q, np.triu(q))
        else:
            np.testing.assert_allclose(q, q.T, atol=2e-2 * np.max(np.abs(q)))
            assert np.linalg.eigvalsh((q + q.T) / 2).min() > 0
    tops = [float(jnp.max(jnp.abs(q))) for q in state.Q["3x4"]]
    np.testing.assert_allclose(*tops, rtol=1e-5)


@pytest.mark.full
def test_the_bound_is_below_the_norm_and_near_it():
    for n in (1, 3, 40):
        a = np.random.default_rng(n).normal(size=(n, n + 2)).astype("float32")
        for x in (a @ a.T, a[:, :n] - a[:, :n].T):
            found = float(whitening.norm_bound(jnp.asarray(x), jax.random.normal(jax.random.key(0), (32, n))))
            norm = np.linalg.norm(x, 2)
            assert 0.8 * norm <= found <= norm * (1 + 1e-5) + 1e-30


@pytest.mark.full
def test_when_the_preconditioner_is_updated():
    """Where 1 / p steps have passed; a schedule of p, and the same run twice."""
    params = {"w": jnp.asarray(np.random.default_rng(0).normal(size=(3, 4)), "float32")}

    def updated(p):
        tx = gdjax.scale_by_psgd_kron(preconditioner_update_probability=p)
        state, found = tx.init(params), []
        for t in range(1, 13):
            old = state.Q["3x4"][0]
            _, state = tx.update(params, state, params)
            found += [] if np.array_equal(old, state.Q["3x4"][0]) else [t]
        return found

    assert updated(0.3) == [4, 8, 12]
    assert updated(0.0) == []
    assert updated(gdjax.piecewise_constant_schedule(1.0, {3: 1 / 3})) == [1, 2, 3, 6, 9, 12]
    assert updated(gdjax.precond_update_prob_schedule(1.0, 0.25, 10.0, 2)) == [1, 2, 3, 7, 11]


@pytest.mark.full
def test_with_a_number_each_step_has_a_share_of_the_matrices():
    params = {
        name: jnp.asarray(np.random.default_rng(i).normal(size=(3, 4)), "float32") for i, name in enumerate("abcde")
    }
    alone = {}
    for p in (1 / 3, lambda count: 1 / 3):
        tx = gdjax.scale_by_psgd_kron(preconditioner_update_probability=p)
        state, shares, update = tx.init(params), [], jax.jit(tx.update)
        for _ in range(6):
            old = state.Q["3x4"][0]
            _, state = update(params, state, params)
            shares.append([i for i in range(5) if not np.array_equal(old[i], state.Q["3x4"][0][i])])
        alone[callable(p)] = shares
    assert alone[True] == [[], [], [0, 1, 2, 3, 4]] * 2
    assert alone[False] == [[2, 3], [4], [0, 1]] * 2  # the first at the end, as if it were alone


def test_the_schedule_of_the_probability():
    schedule = gdjax.precond_update_prob_schedule()
    t = np.asarray([0, 400, 500, 1000, 3000, 4100, 10**6])
    expected = np.clip(np.exp(-0.001 * (t - 500.0)), 0.03, 1)
    np.testing.assert_allclose(jax.vmap(schedule)(jnp.asarray(t)), expected, rtol=1e-6)
    assert schedule == gdjax.precond_update_prob_schedule(decay=0.001)
    with pytest.raises(ValueError, match="decay"):
        gdjax.precond_update_prob_schedule(decay=float("nan"))


def grads_of(params, seed):
    rng = np.random.default_rng(seed)
    return jax.tree.map(lambda p: jnp.asarray(rng.normal(size=p.shape), p.dtype), params)


def test_stacks_and_parts_are_matrices_each_by_itself():
    """But for the noise: with next to none the factors differ by little."""
    shapes = {"experts": (2, 4, 3), "qkv": (4, 5)}
    params = {k: jnp.zeros(shape) for k, shape in shapes.items()}
    roles = {"experts": Matrix(-2, -1), "qkv": Matrix(-2, -1, (3, 2))}
    apart = {f"e{i}": jnp.zeros((4, 3)) for i in range(2)} | {"q": jnp.zeros((4, 3)), "k": jnp.zeros((4, 2))}
    split = lambda x: {"e0": x["experts"][0], "e1": x["experts"][1], "q": x["qkv"][:, :3], "k": x["qkv"][:, 3:]}
    one = gdjax.scale_by_psgd_kron(dQ="QUAD", roles=lambda tree: roles)
    each = gdjax.scale_by_psgd_kron(dQ="QUAD")
    states, together, alone = (one.init(params), each.init(apart)), jax.jit(one.update), jax.jit(each.update)
    shapes = {name: [q.shape for q in pair] for name, pair in states[0].Q.items()}
    assert shapes == {"2x4": [(1, 2, 2), (1, 4, 4)], "3x4": [(3, 3, 3), (3, 4, 4)]}
    for t in range(3):
        g = grads_of(params, t)
        (u, first), (v, second) = together(g, states[0], params), alone(split(g), states[1], apart)
        states = first, second
        jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, rtol=0.1, atol=0.05), split(u), v)


def test_leaves_alike_add_no_products():
    counts = []
    for n in (1, 6):
        params = {f"w{i}": jnp.ones((4, 3)) for i in range(n)}
        tx = gdjax.scale_by_psgd_kron()
        text = str(jax.make_jaxpr(tx.update)(params, tx.init(params), params))
        counts.append((text.count("dot_general"), text.count("random_bits")))
    assert counts[0] == counts[1]


@pytest.mark.programs
def test_zeros_and_small_and_huge_gradients():
    params = {"w": jnp.ones((4, 3)), "row": jnp.ones((1, 5)), "column": jnp.ones((5, 1)), "none": jnp.ones((0, 3))}
    for form in whitening.FORMS:
        tx = gdjax.scale_by_psgd_kron(dQ=form)
        state = tx.init(params)
        step = jax.jit(tx.update)
        zeros = jax.tree.map(jnp.zeros_like, params)
        for _ in range(3):
            updates, state = step(zeros, state, params)
            jax.tree.map(lambda u: np.testing.assert_array_equal(u, np.zeros_like(u)), updates)
        for size in (1e-30, 3e38, 1.0):
            for t in range(4):
                g = jax.tree.map(lambda x, s=size: jnp.clip(x, -1, 1) * s, grads_of(params, t))
                updates, state = step(g, state, params)
                assert all(np.isfinite(x).all() for x in jax.tree.leaves((updates, state._replace(key=0))))
        assert all(float(jnp.max(jnp.abs(u), initial=0)) < 20 for u in jax.tree.leaves(updates))


@pytest.mark.full
def test_rank_one_and_nan():
    params = {"w": jnp.ones((4, 3)), "v": jnp.ones((4, 3))}
    tx = gdjax.scale_by_psgd_kron()
    state, update = tx.init(params), jax.jit(tx.update)
    for _ in range(200):
        updates, state = update(params, state, params)  # of rank 1, always the same
    assert all(np.isfinite(x).all() for x in jax.tree.leaves((updates, state._replace(key=0))))
    for bad in (jnp.nan, jnp.inf):
        updates, _ = update(params | {"w": params["w"].at[1, 1].set(bad)}, state, params)
        assert np.isnan(updates["w"]).all() and np.isfinite(updates["v"]).all()


@pytest.mark.full
@pytest.mark.parametrize("form", ["Q0.5EQ1.5", *slow(["QUAD", "EQ"])])
def test_complex(form):
    """A gradient times a unit has the update times that unit, but for the noise; and the factors are Hermitian."""
    rng = np.random.default_rng(0)
    tx = gdjax.scale_by_psgd_kron(dQ=form)
    params = {"w": jnp.zeros((4, 3), "complex64")}
    state = tx.init(params)
    for _ in range(30):
        g = rng.normal(size=(4, 3)) + 1j * rng.normal(size=(4, 3)) * np.linspace(0.1, 3, 3)
        updates, state = jax.jit(tx.update)({"w": jnp.asarray(g, "complex64")}, state, params)
    assert np.isfinite(updates["w"]).all()
    for p in state.P["3x4 complex"]:
        p = np.asarray(p[0])
        np.testing.assert_allclose(p, p.conj().T, atol=1e-4 * np.max(np.abs(p)))
        assert np.linalg.eigvalsh(p).min() > 0
        assert np.max(np.abs(p.imag)) > 1e-2 * np.max(np.abs(p))


def test_16_bit_parameters():
    params = {"w": jnp.ones((4, 3), "bfloat16")}
    tx = gdjax.psgd_kron(0.1)
    state = tx.init(params)
    updates, state = tx.update(params, state, params)
    left, right = gdjax.tree.get(state, "Q")["3x4"]
    assert updates["w"].dtype == jnp.bfloat16 and left.dtype == right.dtype == jnp.float32


def test_the_rest_goes_to_adamw_or_another():
    params = {"w": jnp.ones((4, 3)), "b": jnp.ones(3)}
    grads = grads_of(params, 0)
    one = lambda tx: jax.jit(lambda g: tx.update(g, tx.init(params), params)[0]["b"])(grads)
    np.testing.assert_array_equal(one(gdjax.psgd_kron(0.1)), one(gdjax.adamw(0.1, weight_decay=0.0)))
    np.testing.assert_array_equal(one(gdjax.psgd_kron(0.1, others=gdjax.sgd(0.5))), -0.5 * grads["b"])
    other = gdjax.psgd_kron(0.1, adam_learning_rate=0.2)
    np.testing.assert_array_equal(one(other), one(gdjax.adamw(0.2, weight_decay=0.0)))


@pytest.mark.full
def test_it_trains():
    rng = np.random.default_rng(0)
    x = jnp.asarray(rng.normal(size=(64, 6)) * np.geomspace(1, 100, 6), "float32")
    w = jnp.asarray(rng.normal(size=(6, 4)) / np.geomspace(1, 100, 6)[:, None], "float32")
    loss = lambda p: jnp.mean((x @ p["w"] - x @ w) ** 2)
    start = {"w": jnp.zeros((6, 4))}
    rate = gdjax.linear_schedule(0.05, 0.0, 400)
    final = gdjax.minimize(loss, start, gdjax.psgd_kron(rate), steps=400).history["loss"][-1]
    assert final < 1e-3 * loss(start)


@pytest.mark.parametrize(
    "make, error, text",
    [
        (functools.partial(gdjax.psgd_kron, 0.1, dQ="QEP"), ValueError, "dQ must be one of Q0.5EQ1.5, QUAD, EQ, got"),
        (
            functools.partial(gdjax.psgd_kron, 0.1, memory_save_mode="half"),
            ValueError,
            "memory_save_mode must be one of",
        ),
        (functools.partial(gdjax.psgd_kron, 0.1, max_size_triangular=-1), ValueError, "max_size_triangular must be at"),
        (functools.partial(gdjax.psgd_kron, 0.1, others=0.1), TypeError, "others is 0.1"),
        (functools.partial(gdjax.psgd_kron, 0.1, preconditioner_update_probability=1.5), ValueError, r"in \[0, 1\]"),
    ],
)
def test_errors(make, error, text):
    with pytest.raises(error, match=text):
        make()


def test_a_leaf_that_is_no_matrix():
    with pytest.raises(ValueError, match=r"gdjax.scale_by_psgd_kron: params\['b'\]: shape \(3,\) is no matrix"):
        gdjax.scale_by_psgd_kron().init({"b": jnp.ones(3)})


@pytest.mark.full
def test_turns_are_those_of_a_compiled_step_outside_of_jit():
    """A number for the probability spreads the turns of matrices; as an operand of the program it would not."""
    tx = gdjax.scale_by_psgd_kron(preconditioner_update_probability=0.25)
    params = {str(i): jnp.ones((3, 4)) for i in range(4)}
    states = [tx.init(params)] * 2
    for i in range(3):
        g = random_tree(i, shapes={k: (3, 4) for k in params})
        states = [update(g, s, params)[1] for update, s in zip((tx.update, jax.jit(tx.update)), states, strict=True)]
    assert_close(states[0].Q, states[1].Q, 1e-5, 1e-5)
    assert states[0].update_counter == states[1].update_counter
