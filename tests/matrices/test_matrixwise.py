"""Rules of one matrix: their stacks, their turns, and what is said of wrong ones."""

import inspect
import pickle
import re
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import gdjax
from gdjax.matrices.in_turns import Noted
from gdjax.matrices.matrixwise import Stack, Trace, _spread

RNG = np.random.default_rng(0)
SHAPES = {"a": (3, 4), "b": (4, 3), "c": (3, 4), "d": (5, 5)}


class State(NamedTuple):
    count: Any
    mu: Any
    L: Any
    P: Any
    n: Any


def doubled(first: Any, P: Any, n: Any, L: Any) -> Any:
    """What a turn does here: P is L at that time, and n counts the turns of each row, from 10 on."""
    return [L, jnp.where(first, 10.0, n + 1)]


@gdjax.matrixwise(
    State, mu=gdjax.Block(dtype="mu_dtype"), L=gdjax.Side(0), P=gdjax.Side(0, identity=True), n=gdjax.Along(0, "start")
)
def rule(G: Any, s: Any, p: Any, t: Any, b: Any = 0.5, k: Any = 2) -> Any:
    """A turn between two halves: U is of the P that the turn makes."""
    mu = b * s.mu + (1 - b) * G
    if s.L is None:
        return mu, s._replace(mu=mu)
    L = s.L + G @ G.T
    P, n = gdjax.in_turns(doubled, k)([s.P, s.n], L)
    return P @ mu, s._replace(mu=mu, L=L, P=P, n=n)


def gradients(steps: int) -> list[dict[str, Any]]:
    draw = lambda shape: jnp.asarray(RNG.normal(size=shape), jnp.float32)
    return [{name: draw(shape) for name, shape in SHAPES.items()} for _ in range(steps)]


def run(tx: Any, grads: list[Any]) -> tuple[list[Any], list[Any]]:
    state, step, updates, states = tx.init(grads[0]), jax.jit(tx.update), [], []
    for g in grads:
        u, state = step(g, state)
        updates.append(u)
        states.append(state)
    return updates, states


def test_the_turns_are_those_of_a_loop_over_matrices():
    """Of the three matrices of a stack two have their turn in one step of two, one in the other."""
    grads = gradients(5)
    updates, states = run(rule(k=2), grads)
    for name, place, stack in (("a", 0, "3x4"), ("b", 1, "3x4"), ("c", 2, "3x4"), ("d", 0, "5x5")):
        first = next(i for i, s in enumerate(states) if s.n[stack][place, 0, 0] == 10)
        assert first < 2
        mu, L, P, n = 0.0, 0.0, np.eye(states[0].L[stack].shape[-1]), 0.0
        for i, (g, u, s) in enumerate(zip(grads, updates, states, strict=True)):
            G = np.asarray(g[name]).T if name == "b" else np.asarray(g[name])  # tall ones lie on their side
            mu, L = 0.5 * mu + 0.5 * G, L + G @ G.T
            if i % 2 == first:
                P, n = L, 10.0 if i == first else n + 1
            np.testing.assert_allclose(s.P[stack][place], P, rtol=1e-5)
            np.testing.assert_array_equal(s.n[stack][place], np.full((len(L), 1), n))
            np.testing.assert_allclose(u[name].T if name == "b" else u[name], P @ mu, rtol=1e-4, atol=1e-5)
    in_first = int(np.sum(states[0].n["3x4"][:, 0, 0] == 10))
    assert in_first in (1, 2)  # the other has the others


def test_the_longest_turns_are_spread_first():
    """The large matrix has step 0, so step 1 has most of the small ones."""
    small = Trace((4, 4), Stack(3, 0, 4, ()), [Noted(2, 4), Noted(None, 4)], [])
    large = Trace((9, 9), Stack(1, 3, 4, ()), [Noted(2, 9)], [])
    assert _spread([small, large]) == [((1, 2), (3,)), ((1, 0),)]


def test_a_step_that_is_left_out_keeps_the_stacks():
    grads = gradients(2)
    tx = gdjax.apply_if_finite(rule(), 3)
    _, state = jax.jit(tx.update)(grads[0], tx.init(grads[0]))
    updates, new = jax.jit(tx.update)({**grads[1], "a": grads[1]["a"] * jnp.inf}, state)
    assert not any(np.any(u) for u in updates.values())
    jax.tree.map(np.testing.assert_array_equal, new.inner_state, state.inner_state)


def test_a_schedule_gives_all_their_turn_in_one_step():
    _, states = run(rule(k=lambda count: 3), gradients(5))
    assert [set(np.unique(s.n["3x4"])) for s in states] == [{10.0}, {10.0}, {10.0}, {11.0}, {11.0}]


def test_blocks_and_sides():
    grads = gradients(2)
    _, states = run(rule(block_size=2), grads)
    assert {name: x.shape for name, x in states[-1].L.items()} == {"2x2": (21, 2, 2)}
    updates, states = run(rule(max_precond_dim=2), grads)
    assert isinstance(states[-1].L["5x5"], gdjax.MaskedNode)
    np.testing.assert_allclose(updates[0]["d"], 0.5 * grads[0]["d"], rtol=1e-6)


@pytest.mark.parametrize("wrapped", [lambda f: f, jax.jit])
def test_a_leaf_without_a_gradient_keeps_its_matrices(wrapped: Any):
    grads = gradients(2)
    tx = rule()
    update = wrapped(tx.update)
    _, state = update(grads[0], tx.init(grads[0]), grads[0])
    updates, new = update(grads[1] | {"b": None}, state, grads[0])
    assert updates["b"] is None
    for field in ("mu", "L", "P", "n"):
        old, now = (getattr(s, field)["3x4"] for s in (state, new))
        np.testing.assert_array_equal(now[1], old[1])
    assert not np.array_equal(new.mu["3x4"][0], state.mu["3x4"][0])


def test_a_slot_in_16_bits_and_one_that_starts_elsewhere():
    state = rule(mu_dtype=jnp.bfloat16, start=3.0).init(gradients(1)[0])
    assert state.mu["3x4"].dtype == jnp.bfloat16 and state.n["3x4"].shape == (3, 3, 1)
    np.testing.assert_array_equal(state.n["5x5"], 3)
    updates, states = run(rule(mu_dtype=jnp.bfloat16, start=3.0), gradients(2))
    assert states[-1].mu["3x4"].dtype == jnp.bfloat16 and updates[-1]["a"].dtype == jnp.float32


def test_it_is_a_value():
    assert rule(k=3) == rule(k=3) != rule(k=4)
    assert repr(rule(0.9, block_size=8)).startswith("rule(b=0.9, k=2, mu_dtype=None, start=0.0, block_size=8,")


class Drawn(NamedTuple):
    count: Any
    key: Any
    n: Any


def seen(us: list[Any], power: int = 1) -> list[Any]:
    return [u**power for u in us]


@gdjax.matrixwise(Drawn, then=seen, key=gdjax.Key("seed"), n=gdjax.Along(0, "start"))
def named(
    G: Any, s: Any, p: Any, t: Any,
    b: Any = 0.5, sides: str = "rows", start: Any = 2.0, *, seed: Any = 3, roles: Any = None,
) -> Any:  # fmt: skip
    """It gets None for what only the lift reads."""
    assert (sides, roles, seed) == (None, None, None)
    return b * start * jnp.ones_like(G), s


def test_a_rule_that_names_what_the_lift_reads_has_these_arguments_and_no_others():
    shown = "b: Any = 0.5, sides: str = 'rows', start: Any = 2.0, power: int = 1, *, seed: Any = 3, roles: Any = None"
    assert str(inspect.signature(named)) == f"({shown}) -> gdjax.core.base.GradientTransformation"
    g = {"w": jnp.ones((4, 3))}
    tx = named(0.25, start=jnp.float32(4.0), power=2, seed=jax.random.key(8), roles={"w": "matrix"})
    state = tx.init(g)
    assert list(state.n) == ["4x3"]  # a tall matrix is not turned where its rows alone have factors
    np.testing.assert_array_equal(state.n["4x3"], np.full((1, 4, 1), 4.0))
    assert state.key == jax.random.key(8)
    assert gdjax.get_hyperparams(tx, state) == {"b": 0.25}
    np.testing.assert_array_equal(tx.update(g, state)[0]["w"], np.ones((4, 3)))
    plain = named(roles={"w": "matrix"})
    assert pickle.loads(pickle.dumps(plain)) == plain != tx


def wrong(turn: Any) -> Any:
    @gdjax.matrixwise(State, mu=gdjax.Block(), L=gdjax.Side(0), P=gdjax.Side(0), n=gdjax.Along(0))
    def rule(G: Any, s: Any, p: Any, t: Any) -> Any:
        return turn(G, s)

    return rule()


@pytest.mark.parametrize(
    ("turn", "message"),
    [
        (
            lambda G, s: (G, s._replace(P=gdjax.in_turns(lambda first, P, L: [P[0]], 2)([s.P], s.L)[0])),
            r"gdjax.in_turns: f returned shapes \[\(3,\)\] for olds of shapes \[\(3, 3\)\]",
        ),
        (
            lambda G, s: (jax.jit(lambda x: gdjax.in_turns(lambda _, P, L: [L], 2)([x], s.L)[0])(s.P) @ G, s),
            "gdjax.in_turns: call it in the rule itself, in no condition",
        ),
        (lambda G, s: (gdjax.in_turns(lambda _, P: [P], 2)([s.P])[0] @ G, s), "gdjax.in_turns: pass the matrix"),
        (
            lambda G, s: (gdjax.in_turns(lambda _, P, L: [L], None, G[0, 0] > 0)([s.P], s.L)[0] @ G, s),
            "gdjax.in_turns: every or due must be the same for all matrices",
        ),
        (lambda G, s: (G / gdjax.total(jnp.sum(G)), s), "gdjax.total: a rule of one matrix sees no other"),
    ],
)
def test_wrong_turns(turn: Any, message: str):
    g = {"w": jnp.ones((3, 4)), "v": jnp.ones((3, 4))}
    tx = wrong(turn)
    with pytest.raises(TypeError, match=message):
        tx.update(g, tx.init(g))


@pytest.mark.parametrize(("every", "turns"), [(1, 2), (2, 1), (np.int32(2), 1)])
def test_a_turn_may_read_what_its_function_closes_over(every: Any, turns: int):
    """Arrays of the matrix, and numbers of the rule."""

    def turn(G: Any, s: Any) -> Any:
        scale = jnp.float32(3)
        (P,) = gdjax.in_turns(lambda first, P, L: [P + scale * G @ G.T], every)([s.P], s.L)
        return G, s._replace(P=P)

    tx, g = wrong(turn), {"a": jnp.ones((3, 4)), "b": 2 * jnp.ones((3, 4))}
    state = tx.init(g)
    for _ in range(2):
        _, state = tx.update(g, state)
    np.testing.assert_allclose(state.P["3x4"], turns * 3 * np.array([4, 16])[:, None, None] * np.ones((2, 3, 3)))


def test_in_turns_is_for_rules():
    with pytest.raises(TypeError, match="gdjax.in_turns: call it in a rule"):
        gdjax.in_turns(lambda first, x, a: [a], 2)([jnp.ones((2, 2))], jnp.ones((2, 2)))


def test_wrong_sizes():
    with pytest.raises(ValueError, match="sides must be one of both, short, rows, columns, got 'left'"):
        rule(sides="left").init(gradients(1)[0])
    with pytest.raises(ValueError, match="block_size"):
        rule(block_size=0).init(gradients(1)[0])


@pytest.mark.parametrize(
    ("result", "message"),
    [
        (lambda G, s: (G[0], s), r"rule: matrices 3x4: the rule returned .* as the update, expected"),
        (lambda G, s: G, "rule: matrices 3x4: the rule returned .* alone, expected two things"),
        (lambda G, s: (G, s._replace(L=G)), "rule: matrices 3x4: the rule returned .* for state.L, expected"),
    ],
)
def test_wrong_results(result: Any, message: str):
    g = {"w": jnp.ones((3, 4))}
    tx = wrong(result)
    with pytest.raises((TypeError, ValueError), match=message):
        tx.update(g, tx.init(g))


def test_what_is_the_same_for_all_matrices():
    """An update, a slot and an old value that no gradient is part of."""
    g = {"a": jnp.ones((3, 4)), "b": jnp.ones((3, 4))}

    def still(G: Any, s: Any) -> Any:
        (P,) = gdjax.in_turns(lambda first, P, L: [P + L], 1)([jnp.eye(3)], s.L)
        return jnp.zeros_like(G), s._replace(P=P, L=jnp.ones((3, 3)))

    updates, state = (tx := wrong(still)).update(g, tx.init(g))
    np.testing.assert_array_equal(updates["b"], np.zeros((3, 4)))
    np.testing.assert_array_equal(state.P["3x4"], np.tile(np.eye(3), (2, 1, 1)))
    np.testing.assert_array_equal(state.L["3x4"], np.ones((2, 3, 3)))


@pytest.mark.parametrize("make", [gdjax.scale_by_soap, gdjax.scale_by_shampoo, gdjax.scale_by_psgd_kron])
def test_an_array_of_three_axes_asks_for_roles(make: Any):
    params = {"layers": {"w": jnp.ones((2, 3, 4))}}
    told = "shape (2, 3, 4) is no matrix; give its Matrix by roles={'layers/w': gdjax.Matrix(-2, -1)}"
    with pytest.raises(ValueError, match=re.escape(told)):
        make().init(params)
    make(roles={"layers/w": gdjax.Matrix(-2, -1)}).init(params)
