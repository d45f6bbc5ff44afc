"""Matrices of all leaves together inside a rule: `together`, and the slots that are written before."""

import re
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import PartitionSpec

import gdjax
from gdjax import together
from tests.trees import assert_close

Tree = dict[str, Any]
KEYS = jax.random.split(jax.random.key(0), 4)
TREE: Tree = {
    "a": jax.random.normal(KEYS[0], (3, 5)),
    "b": jax.random.normal(KEYS[1], (3, 5)),
    "c": jax.random.normal(KEYS[2], (2, 4, 4)),
    "none": None,
}


class State(NamedTuple):
    count: Any
    mu: Any


def centred(x: jax.Array, c: Any) -> jax.Array:
    return c * (x - jnp.mean(x, (-2, -1), keepdims=True))


@gdjax.leafwise(State, mu=gdjax.first_moment)
def by_centred(g, s, p, t, beta: Any = 0.5, c: Any = 2.0):
    mu = beta * s.mu + (1 - beta) * g
    return together(centred)(mu / t, c=c), s._replace(mu=mu)


@pytest.mark.full
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("c", [2.0, gdjax.linear_schedule(2.0, 12.0, 10)])
def test_it_is_the_function_of_each_matrix(dtype: str, c: Any):
    tree = jax.tree.map(lambda x: x.astype(dtype), TREE)
    tx, state, mu = by_centred(0.5, c), by_centred(0.5, c).init(tree), jax.tree.map(lambda x: 0.0, tree)
    update = jax.jit(tx.update)
    for n in range(3):
        u, state = update(tree, state, tree)
        mu = jax.tree.map(lambda x, g: 0.5 * x + 0.5 * g.astype("float32"), mu, tree)
        factor = 2.0 + n if callable(c) else 2.0
        wanted = jax.tree.map(lambda x: centred(x / (n + 1), factor).astype(dtype), mu)  # noqa: B023
        assert_close(u, wanted, rtol=3e-2 if dtype == "bfloat16" else 2e-6, atol=1e-2 if dtype == "bfloat16" else 1e-6)
        assert_close(state.mu, jax.tree.map(lambda x: x.astype(dtype), mu), rtol=1e-2 if dtype == "bfloat16" else 1e-6)


def test_several_arrays_and_results_of_other_shapes():
    def both(x, y):
        return x + y, jnp.sum(x * y, (-2, -1), keepdims=True)

    @gdjax.leafwise()
    def rule(g, s, p, t):
        u, product = together(both)(g, p)
        return u / product, s

    params = jax.tree.map(jnp.ones_like, TREE)
    u, _ = rule().update(TREE, rule().init(params), params)
    wanted = jax.tree.map(lambda g: (g + 1) / jnp.sum(g, (-2, -1), keepdims=True), TREE)
    assert_close(u, wanted, rtol=1e-5)


def test_matrices_of_one_shape_are_one_stack():
    shapes: list[Any] = []

    def noted(x):
        shapes.append(x.shape)
        return x

    @gdjax.leafwise()
    def rule(g, s, p, t):
        return together(noted)(g), s

    rule().update(TREE, rule().init(TREE))
    assert {x for x in shapes if len(x) == 3} == {(2, 3, 5), (2, 4, 4)}


def test_a_function_made_in_the_rule_is_that_of_the_leaf():
    @gdjax.leafwise()
    def rule(g, s, p, t):
        return together(lambda x: x * g.size)(g), s

    u, _ = rule().update(TREE, rule().init(TREE))
    assert_close(u, jax.tree.map(lambda g: g.size * g, TREE), rtol=1e-6)


@pytest.mark.parametrize(
    ("f", "error", "message"),
    [
        (lambda g, t: together(lambda x: x * t)(g), TypeError, "closes over an array of the rule"),
        (lambda g, t: together(centred)(g, c=jnp.sum(g)), TypeError, "made of one array: take the gdjax.total"),
        (lambda g, t: together(centred)(g, c=g.size), TypeError, r"the same for all leaves, got \(15,\) and \(32,\)"),
        (lambda g, t: together(jnp.negative)(g[0, 0]), ValueError, r"takes matrices.* got shape \((4,)?\)"),
        (lambda g, t: jax.jit(together(jnp.negative))(g), TypeError, "in no condition, loop or jitted function"),
    ],
)  # fmt: skip
def test_errors_name_the_rule_and_the_leaf(f: Any, error: Any, message: str):
    @gdjax.leafwise(State, mu=gdjax.first_moment)
    def rule(g, s, p, t):
        return f(g, t), s

    with pytest.raises(error, match=f"rule: params\\['.'\\]: .*{message}"):
        rule().update(TREE, rule().init(TREE))


def test_per_leaf_numbers_are_not_shared():
    tx = by_centred(0.5, gdjax.per_leaf(1.0, {"a": 2.0}))
    with pytest.raises(TypeError, match="c must be one number for the whole tree"):
        tx.update(TREE, tx.init(TREE))
    tx = by_centred(gdjax.per_leaf(0.5, {"a": 0.5}), 2.0)  # of the leaf's own lines
    _, state = tx.update(TREE, tx.init(TREE))
    assert_close(state.mu, {"a": 0.75 * TREE["a"], "b": 0.5 * TREE["b"], "c": 0.5 * TREE["c"], "none": None}, rtol=1e-6)


def test_bare_rules_vmap_and_grad():
    f = lambda x: together(centred)(x, c=3.0)
    np.testing.assert_allclose(f(TREE["a"]), centred(TREE["a"], 3.0), rtol=1e-6)
    np.testing.assert_allclose(jax.vmap(f)(TREE["c"]), centred(TREE["c"], 3.0), rtol=1e-5, atol=1e-6)
    gradient = jax.jit(jax.grad(lambda x: jnp.sum(f(x) ** 2)))(TREE["a"])
    np.testing.assert_allclose(gradient, 2 * centred(centred(TREE["a"], 3.0), 3.0), rtol=1e-4, atol=1e-5)


def test_in_shard_map_what_varies_in_one_leaf_varies_in_all():
    if not hasattr(jax, "shard_map") or len(jax.devices()) < 2:
        pytest.skip("needs two devices and jax.shard_map")
    mesh = jax.sharding.Mesh(np.array(jax.devices()[:2]), ("x",))
    tx, tree = by_centred(), {k: TREE[k] for k in "ab"}
    split = {"a": PartitionSpec("x"), "b": PartitionSpec()}
    grads = {"a": jnp.concatenate([TREE["a"], TREE["a"]]), "b": TREE["b"]}
    step = lambda g: tx.update(g, tx.init(tree))[0]
    out = {k: PartitionSpec("x") for k in "ab"}
    u = jax.jit(jax.shard_map(step, mesh=mesh, in_specs=(split,), out_specs=out))(grads)
    expected = step(tree)
    for k in "ab":
        np.testing.assert_allclose(u[k], jnp.concatenate([expected[k]] * 2), rtol=1e-6)


def equations(tx: Any, tree: Tree) -> int:
    found, todo = {}, [jax.make_jaxpr(tx.update)(tree, tx.init(tree), tree).jaxpr]
    while todo:
        jaxpr = todo.pop()
        if id(jaxpr) not in found:
            found[id(jaxpr)] = jaxpr
            inside = jax.tree.leaves([list(e.params.values()) for e in jaxpr.eqns])
            todo += [getattr(x, "jaxpr", x) for x in inside if hasattr(getattr(x, "jaxpr", x), "eqns")]
    return sum(len(x.eqns) for x in found.values())


@pytest.mark.full
@pytest.mark.parametrize(
    ("direction", "most"),
    [
        (gdjax.scale_by_muon, 13),
        (gdjax.scale_by_normuon, 17),
        (gdjax.scale_by_scion, 14),
        (gdjax.scale_by_dion, 8),
        (gdjax.scale_by_dion2, 7),
    ],
)
def test_equal_leaves_share_their_traces(direction: Any, most: int):
    """Each is a call for what it brings, one for the rest, and the operations that put it in a stack and cut it out."""
    few, many = (equations(direction(), {str(i): jnp.zeros((4, 3)) for i in range(n)}) for n in (12, 24))
    assert (many - few) / 12 <= most + (jax.__version_info__ < (0, 7))


def test_the_momentum_is_computed_once():
    """It is written by one loop, though the rule is run for what the leaf brings, and again for the update."""
    tree = {"a": jax.ShapeDtypeStruct((512, 512), jnp.float32)}
    tx = by_centred()
    compiled = jax.jit(tx.update, donate_argnums=(0, 1)).lower(tree, jax.eval_shape(tx.init, tree), tree).compile()
    text = compiled.as_text().partition("ENTRY")[2]
    assert len(re.findall(r"f32\[512,512\]\S* fusion\(", text)) <= 3  # mu, what is brought, the update


def test_on_explicit_axes_a_matrix_may_be_divided():
    if not hasattr(jax.sharding, "AxisType") or not hasattr(jax.lax, "pcast") or len(jax.devices()) < 2:
        pytest.skip("needs two devices and axes that are explicit")
    mesh = jax.make_mesh((2,), ("x",), axis_types=(jax.sharding.AxisType.Explicit,), devices=jax.devices()[:2])
    specs = {"c": PartitionSpec(None, "x"), "d": PartitionSpec("x"), "e": PartitionSpec()}
    tree = {"c": TREE["c"], "d": TREE["c"][0], "e": TREE["a"]}
    divided = {k: jax.device_put(x, jax.sharding.NamedSharding(mesh, specs[k])) for k, x in tree.items()}
    tx = by_centred(0.5, gdjax.linear_schedule(2.0, 12.0, 10))
    u, state = jax.jit(tx.update)(divided, tx.init(divided), divided)
    expected, new = tx.update(tree, tx.init(tree), tree)
    assert_close(u, expected, rtol=1e-5, atol=1e-6)
    assert_close(state.mu, new.mu, rtol=1e-6)
    assert all(x.sharding.is_equivalent_to(divided[k].sharding, x.ndim) for k, x in u.items())
