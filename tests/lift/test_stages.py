"""Stages of a rule: when they run, what they get, what becomes of it, and what a step without one costs."""

import re
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import gdjax
from gdjax import Reduced, Shared, Stage, leafwise
from gdjax.lift.stages import Planned, Whole

STEPS = 9


class Kept(NamedTuple):
    count: Any
    kept: Any


class Single(NamedTuple):
    kept: Any


def stamped(gs, s, ps, t):
    """Of each leaf when it was last refreshed, and from what."""
    return {"kept": [jnp.stack([t, t * x[1]]) for x in s.kept]}


def keeper(stage, **more):
    @leafwise(Kept, reduce=stage, kept=lambda p, hyper: jnp.array([0.0, 1.0]), **more)
    def keep(g, s, p, t, every=3):
        return g + s.kept[0], s

    return keep


def run(tx, params, gradient=None, steps=STEPS):
    """The updates of each step, and the states after it."""
    state, out = tx.init(params), []
    step = jax.jit(tx.update)
    for _ in range(steps):
        u, state = step(jax.tree.map(jnp.zeros_like, params) if gradient is None else gradient, state, params)
        out.append((u, state))
    return out


@pytest.mark.parametrize("every", [1, 2, 3, jnp.array(3), lambda count: jnp.array(3)])
@pytest.mark.parametrize("late", [False, True])
def test_when_a_stage_runs(every, late):
    k = 3 if callable(every) or hasattr(every, "shape") else every
    last = lambda t: t - (t - 1) % k  # noqa: E731
    results = run(keeper(Stage(stamped, "kept", every="every", late=late))(every), jnp.zeros(2))
    for t, (u, state) in enumerate(results, 1):
        seen = last(t - 1) if late and t > 1 else 0 if late else last(t)
        np.testing.assert_array_equal(u, seen)
        np.testing.assert_array_equal(
            state.kept, [last(t), np.prod([float(i) for i in range(1, t + 1) if last(i) == i])]
        )


def test_a_late_stage_sees_the_new_slots():
    def copied(gs, s, ps, t):
        return {"copy": [2 * x for x in s.mean]}

    class Two(NamedTuple):
        mean: Any
        copy: Any

    @leafwise(Two, reduce=Stage(copied, "copy", late=True))
    def averaged(g, s, p, t):
        return s.copy, s._replace(mean=s.mean + g)

    (u, _), (v, state) = run(averaged(), jnp.zeros(2), jnp.ones(2), 2)
    np.testing.assert_array_equal((u, v, state.copy), [[0, 0], [2, 2], [4, 4]])


def test_staggered_leaves_take_turns_by_cost():
    params = {"a": jnp.zeros((8, 8)), "b": jnp.zeros((2, 2)), "c": jnp.zeros((2, 2)), "d": jnp.zeros(3)}

    def last(gs, s, ps, t):
        return {"kept": [t + 0 * x if hasattr(x, "shape") else x for x in s.kept]}

    start = lambda p, hyper: jnp.zeros(p.shape) if p.ndim == 2 else gdjax.MaskedNode()  # noqa: E731

    @leafwise(Kept, reduce=Stage(last, "kept", every="every", staggered=True), kept=start)
    def keep(g, s, p, t, every=4):
        return g, s

    due = {name: [] for name in "abc"}
    for t, (_, state) in enumerate(run(keep(), params), 1):
        for name, steps in due.items():
            steps += [t] * bool((state.kept[name] == t).all())
    assert due == {"a": [1, 5, 9], "b": [2, 6], "c": [3, 7]}  # three turns of every four steps, the dearest first
    far = [float(state.kept["b"][0, 0]) for _, state in run(keep(9), params)]
    assert far == [0, 0, 0, 4, 4, 4, 4, 4, 4]  # a third of nine steps after the first
    two = keep(2)
    states = [state for _, state in run(two, params, steps=3)]
    assert [float(x.kept[name][0, 0]) for x in states for name in "abc"] == [1, 0, 0, 1, 2, 2, 3, 2, 2]


def test_a_rule_gets_numbers_and_of_lists_its_own_entry():
    def given(gs, s, ps, t, scale, size):
        total = sum(jnp.sum(g.astype("float32")) for g in gs)
        return {"total": total, "own": [i * jnp.ones(3) for i, _ in enumerate(gs)], "seen": s.seen + 1}

    class Seen(NamedTuple):
        seen: Any

    @leafwise(Seen, reduce=given, seen=Shared(dtype=jnp.int32))
    def rule(g, s, p, t, scale=2.0, total: Any = Reduced, own: Any = Reduced):
        return scale * g + total + jnp.sum(own), s

    tree = {"a": jnp.ones(2), "b": None, "c": jnp.ones((1, 2)), "d": jnp.ones((2, 2), "bfloat16")}
    tx = rule()
    u, state = jax.jit(tx.update)(tree, tx.init(tree), tree, size=3)
    assert state.seen == 1 and u["b"] is None
    np.testing.assert_array_equal(u["a"], 2 + 8 + 0)
    np.testing.assert_array_equal(u["c"], 2 + 8 + 3)
    np.testing.assert_array_equal(np.float32(u["d"]), 2 + 8 + 6)
    with pytest.raises(
        ValueError, match=r"^rule: this transform needs size=\.\.\.: call update\(updates, state, params, s"
    ):
        tx.update(tree, tx.init(tree), tree)


class Around(NamedTuple):
    count: Any
    names: Any
    inner: Any


def inside(gs, s, ps, t, tree, tx):
    assert tree.of_each([x.shape for x in jax.tree.leaves(tree.of(gs))]) == [(2,), (3,)]
    us, state = tree.updated(tx, gs, s.inner, tree.params)
    return {"u": us, "inner": state}


@leafwise(
    Around, reduce=inside, names=Planned(lambda params, given: [jnp.full(3, i) for i, _ in enumerate(params)]),
    inner=Whole(lambda params, given: given["tx"].init(params)), staged="tx",
)  # fmt: skip
def around(g, s, p, t, tx=None, u: Any = Reduced):
    return u, s


def test_a_transform_inside():
    params = {"a": jnp.ones(2), "b": jnp.ones((1, 2)), "n": jnp.arange(2), "o": jnp.ones(3)}
    grads = {"a": jnp.ones(2), "b": None, "n": np.zeros(2, jax.dtypes.float0), "o": jnp.ones(3)}
    adam = gdjax.adam(0.1)
    tx = gdjax.chain(around(adam), gdjax.scale(2.0))
    state = tx.init(params)
    assert [state[0].names[k][0] for k in "abn"] == [0, 1, 2]
    u, new = tx.update(grads, state, params)
    want, inner = adam.update(grads, adam.init(params), params)
    np.testing.assert_array_equal(u["a"], 2 * want["a"])
    assert u["b"] is None and u["n"].dtype == jax.dtypes.float0
    np.testing.assert_array_equal(new[0].inner[0].nu["a"], inner[0].nu["a"])
    assert jax.tree.structure(new) == jax.tree.structure(state)
    assert gdjax.get_hyperparams(tx, state).keys() >= {"step_size"}


def test_slots_keep_their_dtype_and_every_step_its_structure():
    start = lambda p, hyper: jnp.zeros(p.shape, "bfloat16")  # noqa: E731

    @leafwise(Kept, reduce=Stage(lambda gs, s, ps, t: {"kept": list(gs)}, "kept", every=2), kept=start)
    def keep(g, s, p, t):
        return g + s.kept, s

    params = {"a": jnp.ones((2, 3)), "b": jnp.ones(())}
    tx = keep()
    (_, state), us = jax.lax.scan(
        lambda c, _: ((c[0], (new := tx.update(c[0], c[1]))[1]), new[0]), (params, tx.init(params)), length=3
    )
    assert state.kept["a"].dtype == jnp.bfloat16 and us["a"].dtype == jnp.float32
    np.testing.assert_array_equal(us["b"], 2)


@pytest.mark.optimized
def test_a_step_without_a_refresh_costs_nothing():
    params = {str(i): jax.ShapeDtypeStruct((256, 256), jnp.float32) for i in range(4)}

    def roots(gs, s, ps, t):
        return {"kept": gdjax.in_stacks(lambda x: x @ x.mT, s.kept)}

    @leafwise(Kept, reduce=Stage(roots, "kept", every=10), kept=lambda p, hyper: jnp.zeros(p.shape))
    def keep(g, s, p, t):
        return s.kept * g, s

    tx = keep()

    def step(params, state, grads):
        updates, state = tx.update(grads, state, params)
        return gdjax.apply_updates(params, updates), state

    lowered = jax.jit(step, donate_argnums=(0, 1)).lower(params, jax.eval_shape(tx.init, params), params)
    text = lowered.compile().as_text()
    branches = re.findall(r"branch_computations=\{([^}]*)\}|(?:true|false)_computation=([%\w.]+)", text)
    names = [name.strip() for pair in branches for part in pair for name in part.split(",") if name]
    bodies = [text.split(f"\n{name} ", 1)[1].split("\n}", 1)[0] for name in names]
    assert min(len(re.findall(r" (copy|fusion|dot|call)\(", body)) for body in bodies) == 0  # it hands through
    entry = text.split("ENTRY", 1)[1]
    assert not re.findall(r"f32\[256,256\]\S* copy\(", entry)


def test_masks_and_groups_around_a_stage():
    inner = keeper(Stage(stamped, "kept", every=2))()
    params = {"a": jnp.zeros(2), "b": jnp.zeros(3)}
    tx = gdjax.partition({"x": inner, "y": gdjax.set_to_zero()}, {"a": "x", "b": "y"})
    (_, _), (_, state) = run(tx, params, steps=2)
    np.testing.assert_array_equal(state.inner_states["x"].inner_state.kept["a"], [1, 1])


def short(gs, s, ps, t):
    return {"kept": s.kept[1:]}


def other(gs, s, ps, t):
    return {"mean": s.kept}


def wide(gs, s, ps, t):
    return {"kept": [jnp.zeros(3) for _ in gs]}


def anchored(gs, s, ps, t):
    return {"kept": ps}


@pytest.mark.parametrize("late", [False, True])
def test_a_stage_that_reads_the_parameters_gets_none(late):
    tx = keeper(Stage(anchored, "kept", late=late))()
    with pytest.raises(ValueError, match="^keep: this transform needs params"):
        tx.update(jnp.zeros(2), tx.init(jnp.zeros(2)))


@pytest.mark.parametrize("call, message", [
    (lambda: Stage(stamped, every=2), "gdjax.Stage: every, staggered and late need the names of"),
    (lambda: run(keeper(short)(), jnp.zeros(2)), "keep: a stage returned 0 arrays for state.kept of 1 leaves"),
    (lambda: run(keeper(Stage(other, "kept"))(), jnp.zeros(2)), "keep: a stage of the fields kept returned mean"),
    (lambda: run(keeper(wide)(), {"w": jnp.zeros(2)}), r"keep: params\['w'\]: a stage returned shapes \[\(3,\)\] for "
     r"state.kept, expected \[\(2,\)\]"),
    (lambda: run(leafwise(Single, reduce=Stage(wide, "kept", every=2))(lambda g, s, p, t: (g, s))(), jnp.zeros(2)),
     "<lambda>: a stage that runs every k steps needs a field `count` of the state"),
    (lambda: run(keeper(Stage(stamped, "kept", every="every", staggered=True))(0), jnp.zeros(2)),
     "keep: every must be at least 1, got 0"),
])  # fmt: skip
def test_errors(call, message):
    with pytest.raises((ValueError, TypeError), match=f"^{message}"):
        call()
