"""Rules of one matrix with the slots of `leafwise`: moments, numbers of the tree, keys; lists of slots."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import gdjax
from gdjax.linalg.matrices import Matrix
from tests.matrices.test_matrixwise import run

SHAPES = {"a": (3, 4), "b": (4, 3), "c": (3, 4), "qkv": (4, 8)}
ROLES = {"a": Matrix(), "b": Matrix(), "c": Matrix(), "qkv": Matrix(0, 1, (3, 5))}


class State(NamedTuple):
    count: Any
    n: Any
    key: Any
    mu: Any
    L: Any


def heavy(G: Any, s: Any, normalize: Any) -> Any:
    """The momentum of one matrix, element by element but for the norm."""
    if normalize:
        G = G / jnp.linalg.norm(G)
    return 0.5 * s.mu + jnp.where(jnp.abs(G) > 0.1, G, 0.25)


@gdjax.matrixwise(
    State, n=gdjax.Shared(0, jnp.int32), key=gdjax.Key("key"), mu=gdjax.Moment("mu_dtype"),
    L=[gdjax.Side(0), gdjax.Side(1, identity=True)],
)  # fmt: skip
def rule(G: Any, s: Any, p: Any, t: Any, normalize: Any = False, mu_dtype: Any = None) -> Any:
    mu = heavy(G, s, normalize)
    m = mu * (1 / t)
    left, right = s.L[0] + m @ m.T, s.L[1] + m.T @ m
    U = left @ m @ right / jnp.max(jnp.abs(m))
    return U, s._replace(n=s.n + 2, mu=mu, L=[left, right])


def gradients(steps: int, seed: int = 0) -> list[dict[str, Any]]:
    rng = np.random.default_rng(seed)
    return [{k: jnp.asarray(rng.normal(size=x), jnp.float32) for k, x in SHAPES.items()} for _ in range(steps)]


def matrices(x: dict[str, Any]) -> list[Any]:
    """As they lie in their stacks, wide ones: of the parts of qkv one is 4 x 3, the other 4 x 5."""
    return [x["a"], x["b"].T, x["c"], x["qkv"][:, :3].T, x["qkv"][:, 3:]]


def stacked(stacks: dict[str, Any]) -> list[Any]:
    """The matrices of stacks, in the order of `matrices`."""
    return [*stacks["3x4"], *stacks["4x5"]]


@pytest.mark.parametrize("normalize", [False, True])
def test_a_moment_is_a_matrix_in_the_rule(normalize: bool):
    grads = gradients(3)
    updates, states = run(rule(normalize=normalize, roles=lambda _: ROLES), grads)
    mus, factors = [0.0] * 5, [[0.0, jnp.eye(g.shape[1])] for g in matrices(grads[0])]
    for t, (g, u, s) in enumerate(zip(grads, updates, states, strict=True), 1):
        for i, (G, U) in enumerate(zip(matrices(g), matrices(u), strict=True)):
            mus[i] = heavy(G, State(None, None, None, mus[i], None), normalize)
            m = mus[i] / t
            factors[i] = [factors[i][0] + m @ m.T, factors[i][1] + m.T @ m]
            want = factors[i][0] @ m @ factors[i][1] / jnp.max(jnp.abs(m))
            np.testing.assert_allclose(U, want, rtol=2e-4, atol=1e-4)
            np.testing.assert_allclose(stacked(s.mu)[i], mus[i], rtol=1e-5, atol=1e-6)
    assert {k: [x.shape for x in pair] for k, pair in states[-1].L.items()} == {
        "3x4": [(4, 3, 3), (4, 4, 4)], "4x5": [(1, 4, 4), (1, 5, 5)]
    }  # fmt: skip


@pytest.mark.full
def test_a_momentum_in_16_bits_and_a_leaf_without_a_gradient():
    grads = gradients(2)
    tx = rule(mu_dtype=jnp.bfloat16, roles=lambda _: ROLES)
    _, state = tx.update(grads[0], tx.init(grads[0]), grads[0])
    updates, new = tx.update(grads[1] | {"b": None}, state, grads[0])
    assert {x.dtype for x in new.mu.values()} == {jnp.dtype("bfloat16")} and updates["a"].dtype == jnp.float32
    np.testing.assert_array_equal(new.mu["3x4"][1], state.mu["3x4"][1])
    np.testing.assert_array_equal(new.L["3x4"][0][1], state.L["3x4"][0][1])
    assert not np.array_equal(new.mu["3x4"][0], state.mu["3x4"][0]) and updates["b"] is None


def test_a_number_of_the_tree():
    _, states = run(rule(), [{"a": g["a"], "b": g["b"]} for g in gradients(3)])
    assert [int(s.n) for s in states] == [2, 4, 6] and states[-1].n.dtype == jnp.int32


class Noisy(NamedTuple):
    count: Any
    key: Any
    mu: Any


@gdjax.matrixwise(Noisy, key=gdjax.Key("seed"))
def noise(G: Any, s: Any, p: Any, t: Any) -> Any:
    return jax.random.normal(s.key, G.shape) + 0 * G, s._replace(mu=G)


@pytest.mark.full
@pytest.mark.parametrize("impl", ["threefry2x32", "rbg"])
def test_each_matrix_and_step_has_a_key_and_the_state_keeps_its_own(impl: str):
    key = jax.random.key(3, impl=impl)
    updates, states = run(noise(seed=key), gradients(2)[:2])
    drawn = [x for u in updates for x in (u["a"], u["c"])]
    assert len({np.asarray(x).tobytes() for x in drawn}) == 4
    keys = jax.random.split(jax.random.fold_in(key, 2), 4)
    np.testing.assert_array_equal(updates[1]["a"], jax.random.normal(keys[0], (3, 4)))
    np.testing.assert_array_equal(updates[1]["qkv"], jax.random.normal(keys[3], (4, 8)))  # of another stack
    assert all(s.key == key for s in states)
    again, _ = run(noise(seed=key), gradients(2))
    np.testing.assert_array_equal(again[0]["c"], updates[0]["c"])
    np.testing.assert_array_equal(states[0].mu["3x4"][2], gradients(1)[0]["c"])


def whole(us: Any, scale: Any) -> Any:
    assert all(u.ndim == 3 for u in us)
    return [scale * u / u.shape[1] for u in us]


def test_a_direction_that_is_the_momentum():
    @gdjax.matrixwise(Noisy, key=gdjax.Key())
    def momentum(G: Any, s: Any, p: Any, t: Any) -> Any:
        mu = s.mu + G
        return mu, s._replace(mu=mu)

    grads = gradients(2)
    updates, states = run(momentum(), grads)
    for name in SHAPES:
        np.testing.assert_array_equal(updates[1][name], grads[0][name] + grads[1][name])


class OneState(NamedTuple):
    count: Any
    L: Any


@gdjax.matrixwise(OneState, then=whole, L=gdjax.Side(0))
def scaled(G: Any, s: Any, p: Any, t: Any) -> Any:
    return G, s._replace(L=s.L + G @ G.T)


def test_a_function_of_whole_matrices_after_the_rule():
    """They are neither cut nor turned, though the rule has seen blocks of 2 x 2."""
    g = gradients(1)[0]
    updates, states = run(scaled(scale=2.0, block_size=2), [g])
    assert set(states[0].L) == {"2x2"}
    for name, rows in (("a", 3), ("b", 4), ("qkv", 4)):
        np.testing.assert_allclose(updates[0][name], 2 * g[name] / rows, rtol=1e-6)
    assert repr(scaled(3.0)).startswith("scaled(scale=3.0, block_size=None")


def test_a_period_that_begins_later():
    """Of one matrix the turns come at its end, and the matrices of a stack have theirs in the other steps."""

    @gdjax.matrixwise(OneState, L=gdjax.Side(0))
    def counted(G: Any, s: Any, p: Any, t: Any) -> Any:
        (L,) = gdjax.in_turns(lambda first, L, _: [L + jnp.where(first, 10.0, 1.0)], 3, start=3)([s.L], G)
        return G, s._replace(L=L)

    _, states = run(counted(), [{"a": g["a"]} for g in gradients(6)])
    assert [float(s.L["3x4"][0, 0, 0]) for s in states] == [0, 0, 10, 10, 10, 11]
    _, states = run(counted(), [{"a": g["a"], "c": g["c"]} for g in gradients(3)])
    assert [[int(x) for x in s.L["3x4"][:, 0, 0]] for s in states] == [[0, 10], [0, 10], [10, 10]]


@pytest.mark.parametrize(
    ("new", "message"),
    [
        (lambda G, s: s._replace(n=s.n + (G[0, 0] > 0).astype(jnp.int32)), "state.n is one number for the tree"),
        (lambda G, s: s._replace(mu=G[0]), r"for state.mu, expected float32 \(3, 4\)"),
        (lambda G, s: s._replace(L=[s.L[0]]), "for state.L, expected"),
    ],
)
def test_wrong_results(new: Any, message: str):
    @gdjax.matrixwise(State, n=gdjax.Shared(0, jnp.int32), key=gdjax.Key(), L=[gdjax.Side(0), gdjax.Side(1)])
    def wrong(G: Any, s: Any, p: Any, t: Any) -> Any:
        return G, new(G, s)

    g = {"w": jnp.ones((3, 4))}
    with pytest.raises((TypeError, ValueError), match=f"wrong: matrices 3x4: .*{message}"):
        wrong().update(g, wrong().init(g))


@pytest.mark.parametrize("slot", [3, [gdjax.Side(0), "rows"], jnp.float32])
def test_no_slot_of_a_matrix(slot: Any):
    with pytest.raises(TypeError, match="gdjax.matrixwise: L is .*, no slot of a rule of one matrix"):
        gdjax.matrixwise(OneState, L=slot)


class Many(NamedTuple):
    count: Any
    side: Any
    basis: Any
    rows: Any
    columns: Any
    number: Any
    made: Any
    optional: Any


def diagonal(p: Any, arguments: Any) -> Any:
    return arguments["size"] * jnp.ones((p.shape[0], 1), p.dtype)


@gdjax.matrixwise(
    Many, side=gdjax.Side(0), basis=gdjax.Basis(1), rows=gdjax.Along(0, 2.0), columns=gdjax.Along(1),
    number=gdjax.Factor(()), made=diagonal, optional=gdjax.Block(only=("mode", "on")), reads="size",
)  # fmt: skip
def many(G: Any, s: Any, p: Any, t: Any, mode: Any = "off", size: Any = 3.0) -> Any:
    assert (s.optional is None) == (mode == "off")
    return G, s


@pytest.mark.full
def test_the_slots_of_a_stack():
    params = {"a": jnp.ones((2, 3)), "b": jnp.ones((2, 3), jnp.complex64)}
    state = many(mode="on", size=gdjax.per_leaf(3.0, {"a": 2.0})).init(params)
    shapes = {f: {k: (x.shape, x.dtype.name) for k, x in getattr(state, f).items()} for f in Many._fields[1:]}
    real, both = ("float32", "float32"), ("float32", "complex64")
    for field, shape, dtypes in (
        ("side", (1, 2, 2), both), ("basis", (1, 3, 3), both), ("rows", (1, 2, 1), real), ("columns", (1, 1, 3), real),
        ("number", (1,), real), ("made", (1, 2, 1), both), ("optional", (1, 2, 3), both),
    ):  # fmt: skip
        assert shapes[field] == {"2x3": (shape, dtypes[0]), "2x3 complex": (shape, dtypes[1])}
    np.testing.assert_array_equal(state.basis["2x3"][0], np.eye(3))
    np.testing.assert_array_equal(state.rows["2x3"], np.full((1, 2, 1), 2))
    assert (state.made["2x3"][0, 0, 0], state.made["2x3 complex"][0, 0, 0]) == (6, 3)
    alone = many(max_precond_dim=2).init(params)
    missing = {f for f in Many._fields[1:] if isinstance(getattr(alone, f)["2x3"], gdjax.MaskedNode)}
    assert missing == {"basis", "columns", "optional"}
    many(max_precond_dim=2).update(params, alone)


@pytest.mark.full
def test_a_moment_in_codes():
    """The rule gets what the codes stand for, and a step is one of a moment in 16 bits."""
    grads = gradients(3)
    coded, states = run(rule(mu_dtype=gdjax.bfloat16_with_error, roles=lambda _: ROLES), grads)
    plain, wanted = run(rule(roles=lambda _: ROLES), grads)
    codes = states[-1].mu["3x4"]
    assert {x.dtype for x in jax.tree.leaves(codes)} == {jnp.dtype("bfloat16"), jnp.dtype("int8")}
    np.testing.assert_allclose(gdjax.bfloat16_with_error.decode(codes), wanted[-1].mu["3x4"], rtol=1e-4)
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, rtol=1e-2, atol=1e-2), coded, plain)
