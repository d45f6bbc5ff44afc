"""Leaves that meet inside a rule: `total`, `largest`, `total_norm`."""

import functools
import re
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import gdjax
from gdjax import largest, total, total_norm
from gdjax.lift.one_leaf import Done, OneLeaf
from tests.trees import assert_close, assert_equal, precision

Tree = dict[str, Any]
G: Tree = {"a": jnp.array([3.0, 0.0]), "b": jnp.array([[0.0], [4.0]]), "none": None}


class Sums(NamedTuple):
    far: Any  # ()
    all: Any  # ()
    start: Any  # like params


@gdjax.leafwise(Sums, far=gdjax.Shared(0.5), all=gdjax.Shared(), start=gdjax.initial_parameter)
def distance(g, s, p, t, rate=1.0):
    """Of each new number the next is made: two meetings, the second of what the first gave."""
    far = jnp.maximum(s.far, largest(jnp.max(jnp.abs(p - s.start))))
    whole = s.all + total(jnp.sum(far * g**2))
    return rate * far / jnp.sqrt(whole) * g, s._replace(far=far, all=whole)


@gdjax.wrapper()
def grafted(u, g, s, p, t, learning_rate):
    """The direction of u, as long as the gradient."""
    return learning_rate * total_norm(g) / total_norm(u) * u, s


@gdjax.leafwise()
def unit(g, s, p, t):
    return g / jnp.sqrt(total(jnp.sum(g**2))), s


def by_hand(g: Tree, state: Any, p: Tree, rate: float = 1.0) -> tuple[Tree, Any]:
    leaves = lambda tree: [tree["a"], tree["b"]]
    far = max(state[0], *(jnp.max(jnp.abs(x - y)) for x, y in zip(leaves(p), leaves(state[2]), strict=True)))
    whole = state[1] + sum(jnp.sum(far * x**2) for x in leaves(g))
    return {k: rate * far / jnp.sqrt(whole) * g[k] for k in ("a", "b")} | {"none": None}, (far, whole, state[2])


@pytest.mark.parametrize("compiled", [False, True])
def test_two_meetings_are_the_formula(compiled: bool):
    tx, params = distance(0.1), jax.tree.map(jnp.ones_like, G)
    update = jax.jit(tx.update) if compiled else tx.update
    state, expected = tx.init(params), (0.5, 0.0, params)
    for factor in (1.0, -2.0, 0.5):
        g = jax.tree.map(lambda x: factor * x, G)  # noqa: B023
        u, state = update(g, state, params)
        wanted, expected = by_hand(g, expected, params, 0.1)
        assert_close(u, wanted, rtol=1e-6)
        assert_close(tuple(state), expected, rtol=1e-6)
        params = jax.tree.map(lambda x, y: x + y, params, u)


def test_masks_frozen_leaves_and_groups_count_alone():
    tx = gdjax.masked(unit(), {"a": True, "b": False, "none": False})
    u, _ = tx.update(G, tx.init(G))
    assert_close(u, {"a": jnp.array([1.0, 0.0]), "b": G["b"], "none": None}, rtol=1e-6)
    grouped = gdjax.clip_by_global_norm(1.0, groups={"a": "x", ".*": "y"})
    u, _ = grouped.update(G, grouped.init(G))
    assert_close(u, {"a": jnp.array([1.0, 0.0]), "b": jnp.array([[0.0], [1.0]]), "none": None}, rtol=1e-6)


def test_a_wrapper_meets_over_updates_and_gradients():
    tx = grafted(gdjax.chain(gdjax.scale_by_sign(), gdjax.scale(-1.0)), 0.5)
    u, _ = jax.jit(tx.update)(G, tx.init(G))
    wanted = jax.tree.map(lambda x: -jnp.sign(x) * 0.5 * 5 / jnp.sqrt(2.0), G)
    assert_close(u, wanted, rtol=1e-6)


def passes(tx: Any, tree: Tree) -> int:
    """How many passes over the leaves an update is."""
    calls = set()
    apply = OneLeaf.__call__

    def noted(self: Any, *args: Any) -> Any:
        found = apply(self, *args)  # which raises where a pass has to end before
        if isinstance(found, Done):
            calls.add(self.kernels)
        return found

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(OneLeaf, "__call__", noted)
        jax.make_jaxpr(tx.update)(tree, tx.init(tree), tree)
    return len(calls)


def test_a_pass_ends_only_before_a_rule_that_brings_updates_to_a_meeting():
    adam, rate = gdjax.scale_by_adam(), gdjax.scale(-0.1)
    assert passes(gdjax.chain(unit(), adam, rate), G) == 1
    assert passes(gdjax.chain(adam, unit(), rate), G) == 2
    assert passes(gdjax.chain(unit(), adam, unit(), rate), G) == 2
    assert passes(gdjax.chain(gdjax.identity(), unit(), adam), G) == 1

    @gdjax.wrapper()
    def by_gradients(u, g, s, p, t):
        return u / total(jnp.sum(jnp.abs(g))), s

    assert passes(by_gradients(gdjax.chain(adam, rate)), G) == 1
    assert passes(grafted(gdjax.chain(adam, rate), 1.0), G) == 2


def test_leaves_of_several_dtypes():
    tree = {"a": jnp.ones(3, jnp.bfloat16), "b": jnp.ones((2, 2), jnp.float32)}
    u, _ = unit().update(tree, unit().init(tree))
    assert {k: x.dtype for k, x in u.items()} == {"a": jnp.bfloat16, "b": jnp.float32}
    np.testing.assert_allclose(u["b"], 7**-0.5, rtol=1e-6)
    with precision("float64"):
        tx, wide = distance(), {"a": jnp.full(2, 1 + 2**-30), "b": jnp.ones((2, 1), jnp.float32), "none": None}
        _, state = tx.update(wide, tx.init(wide), wide)
        assert state.all.dtype == jnp.float64
        np.testing.assert_allclose(state.all, 0.5 * (2 * (1 + 2**-30) ** 2 + 2), rtol=1e-15)


@pytest.mark.full
def test_under_vmap_and_grad():
    tree = {"a": jnp.array([3.0]), "b": jnp.array([4.0])}
    u = lambda g: unit().update(g, unit().init(g))[0]
    many = jax.tree.map(lambda x: jnp.stack([x, -2 * x]), tree)
    assert_close(jax.vmap(u)(many), {"a": jnp.array([[0.6], [-0.6]]), "b": jnp.array([[0.8], [-0.8]])}, rtol=1e-6)
    slope = jax.grad(lambda g: u(g)["a"][0])(tree)
    assert_close(slope, {"a": jnp.array([0.128]), "b": jnp.array([-0.096])}, rtol=1e-5)


@pytest.mark.full
def test_a_rule_by_itself_has_one_leaf():
    x = jnp.array([3.0, 4.0])
    rule = lambda g: g / total_norm(g) * total(jnp.sum(g)) * largest(jnp.max(g))
    expected = x / 5 * 7 * 4
    np.testing.assert_allclose(rule(x), expected, rtol=1e-6)
    np.testing.assert_allclose(jax.jit(rule)(x), expected, rtol=1e-6)
    np.testing.assert_allclose(jax.vmap(rule)(jnp.stack([x, 2 * x])), jnp.stack([expected, 4 * expected]), rtol=1e-6)
    unit_of = lambda g: (g / jnp.sqrt(total(jnp.sum(g**2))))[0]
    np.testing.assert_allclose(jax.grad(unit_of)(x), [0.128, -0.096], rtol=1e-5)


@pytest.mark.full
@pytest.mark.skipif(not hasattr(jax.lax, "pcast"), reason="this JAX has no types of arrays on meshes")
def test_in_shard_map_leaves_vary_as_all_do():
    mesh = jax.make_mesh((2,), ("i",), (jax.sharding.AxisType.Auto,), devices=jax.devices()[:2])
    P = jax.sharding.PartitionSpec
    spec = {"a": P("i"), "b": P(), "none": None}
    tree = {"a": jnp.array([3.0, 4.0]), "b": jnp.ones((2, 1)), "none": None}

    @functools.partial(jax.shard_map, mesh=mesh, in_specs=(spec,), out_specs={**spec, "b": P("i")})
    def step(g: Tree) -> Tree:
        return unit().update(g, unit().init(g))[0]

    u = step(tree)
    np.testing.assert_allclose(u["a"], [3 / 11**0.5, 4 / 18**0.5], rtol=1e-6)
    np.testing.assert_allclose(u["b"].ravel(), [11**-0.5] * 2 + [18**-0.5] * 2, rtol=1e-6)


def in_a_condition(g):
    return jax.lax.cond(g.size > 1, lambda: total(jnp.sum(g)), lambda: 0.0)


ERRORS = {
    "in a condition": (lambda g: g * in_a_condition(g), "gdjax.total: call it in the rule itself, in no condition"),
    "jitted": (lambda g: g * jax.jit(total)(jnp.sum(g)), "gdjax.total: call it in the rule itself"),
    "an array": (lambda g: g * total(g), r"gdjax.total takes one number of each array, got shape \(2,\): sum it up"),
    "unequal": (
        lambda g: g * (total(jnp.sum(g)) if g.ndim == 1 else largest(jnp.sum(g))),
        r"rule: the rule calls gdjax.total at test_meetings.py:\d+ for params\['a'\], and gdjax.largest at "
        r"test_meetings.py:\d+ for params\['b'\]: all arrays of the tree must meet at the same calls",
    ),
    "not all": (lambda g: g * (total(jnp.sum(g)) if g.ndim == 1 else 1), "and nothing for params"),
}


@pytest.mark.parametrize("name", ERRORS)
def test_errors(name: str):
    of, message = ERRORS[name]

    @gdjax.leafwise()
    def rule(g, s, p, t):
        return of(g), s

    with pytest.raises((TypeError, ValueError), match=message):
        rule().update(G, rule().init(G))


def test_a_number_of_the_tree_is_not_made_of_one_array():
    @gdjax.leafwise(Sums, far=gdjax.Shared(), all=gdjax.Shared(), start=gdjax.initial_parameter)
    def rule(g, s, p, t, rate=1.0):
        return g, s._replace(all=s.all + rate * jnp.sum(g))

    tree = {"a": jnp.ones(2)}
    with pytest.raises(TypeError, match="rule: .*state.all is one number for the whole tree, and made of one array"):
        rule().update(tree, rule().init(tree), tree)


def test_arguments_of_update_reach_the_rule():
    @gdjax.leafwise(extra="value")
    def scaled(g, s, p, t, *, value):
        return value * g, s

    tx, tree = gdjax.chain(scaled(), gdjax.scale(2.0)), {"a": jnp.ones(2)}
    u, _ = tx.update(tree, tx.init(tree), value=jnp.float32(3.0))
    assert_equal(u, {"a": jnp.full(2, 6.0)})
    with pytest.raises(ValueError, match=r"scaled: this transform needs value=...: call update"):
        tx.update(tree, tx.init(tree))
    with pytest.raises(ValueError, match="scaled: value must be a scalar, got shape"):
        tx.update(tree, tx.init(tree), value=jnp.ones(2))
    with pytest.raises(TypeError, match="gdjax.leafwise: extra: the rule has no argument loss"):
        gdjax.leafwise(extra="loss")(lambda g, s, p, t: (g, s))


def test_what_a_leaf_is():
    seen = []

    def ranks(tree: Any, most: int) -> list[int]:
        return [min(x.ndim, most) for x in tree.chosen(tree.entries)]

    @gdjax.leafwise(static={"rank": ranks})
    def by_rank(g, s, p, t, rank):
        seen.append(rank)
        return rank * g, s

    u, _ = by_rank(5).update(G, by_rank(5).init(G))
    assert_equal(u, {"a": G["a"], "b": 2 * G["b"], "none": None})
    assert sorted(seen) == [1, 2]
    tree = {str(i): jnp.ones((2, 2)) for i in range(20)}
    by_rank(5).update(tree, by_rank(5).init(tree))
    assert sorted(seen) == [1, 2, 2], "leaves alike share one trace"


def test_what_all_leaves_share_is_computed_once():
    @gdjax.leafwise(gdjax.ScaleByAdamState, mu=gdjax.first_moment, nu=gdjax.second_moment)
    def rule(g, s, p, t, b=0.9):
        return g * jax.nn.relu(jnp.sin(jnp.cos(t) * b)), s

    tree = {str(i): jnp.ones(2 + i % 3) for i in range(20)}
    count = lambda tx, name: jax.jit(tx.update).lower(tree, tx.init(tree), tree).as_text().count(name)
    assert count(rule(), "stablehlo.sine") == 3, "once for each kind of leaf"
    adam = gdjax.adam(1e-3)
    text = jax.jit(adam.update).lower(tree, adam.init(tree), tree).compile().as_text()
    assert len(re.findall(r" exponential-minus-one\(", text)) == 2, "XLA merges what kinds of leaves have in common"


def test_a_rule_does_the_same_up_to_a_meeting():
    runs = []

    @gdjax.leafwise()
    def changeable(g, s, p, t):
        runs.append(g)
        n = total(jnp.sum(g)) if len(runs) == 1 else largest(jnp.sum(g))
        return g * n, s

    message = (
        r"changeable: .*gdjax.largest, called at test_meetings.py:\d+: before, the rule called gdjax.total at .* must"
    )
    with pytest.raises(TypeError, match=message):
        changeable().update({"a": jnp.ones(2)}, changeable().init({"a": jnp.ones(2)}))


def test_what_a_rule_prints_is_no_part_of_its_numbers(capsys: pytest.CaptureFixture[str]):
    @gdjax.leafwise(Sums, far=gdjax.Shared(), all=gdjax.Shared(), start=gdjax.initial_parameter)
    def printing(g, s, p, t):
        jax.debug.print("first {}", g[0])
        return jnp.sign(s.start + g), s._replace(start=0.9 * s.start + g, far=s.far + 1)

    tree = {"a": jnp.ones(20_000)}  # large enough to be ordered
    _, state = jax.jit(printing().update)(tree, printing().init(tree), tree)
    jax.effects_barrier()
    assert state.far == 1
    assert capsys.readouterr().out.count("first 1.0") == 1


def test_a_rule_may_catch_exceptions_but_no_meeting():
    @gdjax.leafwise()
    def careful(g, s, p, t):
        try:
            return g / total(jnp.sum(g)), s
        except Exception:
            return g, s

    u, _ = careful().update({"a": jnp.array([3.0]), "b": jnp.array([1.0])}, careful().init({}))
    assert_close(u, {"a": jnp.array([0.75]), "b": jnp.array([0.25])}, rtol=1e-6)


@pytest.mark.skipif(not hasattr(jax.lax, "pcast"), reason="this JAX has no types of arrays on meshes")
def test_in_shard_map_parameters_may_vary_where_gradients_do_not():
    mesh = jax.make_mesh((2,), ("i",), (jax.sharding.AxisType.Auto,), devices=jax.devices()[:2])
    P = jax.sharding.PartitionSpec

    @gdjax.leafwise()
    def over_all(g, s, p, t):
        return g / total(jnp.sum(p**2)), s

    @functools.partial(jax.shard_map, mesh=mesh, in_specs=(P(), P("i")), out_specs=P("i"))
    def step(g: Any, p: Any) -> Any:
        params = {"a": p, "b": jnp.ones(1)}
        return over_all().update({"a": g, "b": g}, over_all().init(params), params)[0]["b"]

    np.testing.assert_allclose(step(jnp.ones(1), jnp.array([1.0, 3.0])), [0.5, 0.1], rtol=1e-6)


@pytest.mark.skipif(jax.__version_info__ < (0, 6), reason="this XLA keeps more")
@pytest.mark.parametrize("make", [gdjax.prodigy, gdjax.momo_adam], ids=["prodigy", "momo_adam"])
def test_a_slot_is_not_copied_for_a_sum_of_it_in_16_bits(make: Any):
    tx, params = make(), {str(i): jax.ShapeDtypeStruct((512, 256 + i // 2), "bfloat16") for i in range(4)}

    def step(params: Any, state: Any, grads: Any, value: Any) -> Any:
        updates, state = tx.update(grads, state, params, value=value)
        return gdjax.apply_updates(params, updates), state

    arguments = params, jax.eval_shape(tx.init, params), params, jax.ShapeDtypeStruct((), "float32")
    found = jax.jit(step, donate_argnums=(0, 1)).lower(*arguments).compile().memory_analysis()
    numbers = sum(x.size for x in params.values())
    # A sum of what a slot was made of is not apart from it, and of Prodigy's in 16 bits one array more is written.
    assert found.temp_size_in_bytes < {gdjax.prodigy: 8.5, gdjax.momo_adam: 12.5}[make] * numbers


def test_the_largest_among_leaves_and_nan_where_one_is():
    @gdjax.leafwise()
    def over_largest(g, s, p, t):
        return g / largest(jnp.max(jnp.abs(g))), s

    u = lambda tree: over_largest().update(tree, over_largest().init(tree))[0]
    assert_equal(u({"a": jnp.array([1.0, -2.0]), "b": jnp.ones(1)}), {"a": jnp.array([0.5, -1]), "b": jnp.full(1, 0.5)})
    assert all(jnp.isnan(x).all() for x in u({"a": jnp.full(1, jnp.nan), "b": jnp.ones(1)}).values())


class Seen(NamedTuple):
    seen: Any  # ()


@gdjax.leafwise(Seen, seen=gdjax.Shared())
def counted(g, s, p, t, rate):
    return rate * g, Seen(s.seen + total(jnp.sum(g)))


def test_a_state_of_numbers_alone_counts_for_a_schedule():
    tx, g = counted(gdjax.linear_schedule(1.0, 4.0, 3)), {"a": jnp.ones(2), "b": jnp.ones(3)}
    state = tx.init(g)
    for rate in (1, 2, 3):
        u, state = tx.update(g, state)
        np.testing.assert_allclose(u["a"], rate)
    np.testing.assert_array_equal(state.inner_state.seen, 15)
