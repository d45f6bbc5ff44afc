"""Proximal maps against their definition as a minimum, against JAXopt, and at the edges."""

import itertools
import pickle
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.test_util import check_grads

import gdjax
from gdjax import prox
from tests.oracles import jaxopt, precision

RNG = np.random.default_rng(0)
TREE = {"b": np.array(0.75), "w": 2 * RNG.normal(size=(3, 4))}
STEP, WEIGHT = 0.5, 0.75


def jaxopt_prox() -> Any:
    return jaxopt().prox


def cast(tree: Any, dtype: str = "float32") -> Any:
    return jax.tree.map(lambda x: jnp.asarray(x, dtype), tree)


def l1(x: Any) -> Any:
    return np.abs(x).sum()


def square(x: Any) -> Any:
    return (np.abs(x) ** 2).sum() / 2


def unless_negative(h: Any) -> Any:
    return lambda x: h(x) if np.all(x >= 0) else np.inf


def rows(x: Any) -> Any:
    return np.sqrt((np.abs(x) ** 2).sum(-1)).sum()


def variation(x: Any) -> Any:
    return np.abs(np.diff(x)).sum()


# From a name to the map, its penalty of one leaf, and a leaf.
MATRIX, VECTOR = TREE["w"], TREE["w"][0]
MAPS = {
    "l1": (prox.l1(WEIGHT), lambda x: WEIGHT * l1(x), VECTOR),
    "nonnegative_l1": (prox.nonnegative_l1(WEIGHT), unless_negative(lambda x: WEIGHT * l1(x)), VECTOR),
    "elastic_net": (prox.elastic_net(WEIGHT, 0.5), lambda x: WEIGHT * (l1(x) + 0.5 * square(x)), VECTOR),
    "ridge": (prox.ridge(WEIGHT), lambda x: WEIGHT * square(x), VECTOR),
    "nonnegative_ridge": (prox.nonnegative_ridge(WEIGHT), unless_negative(lambda x: WEIGHT * square(x)), VECTOR),
    "group_lasso": (prox.group_lasso(WEIGHT), lambda x: WEIGHT * np.sqrt((x**2).sum()), VECTOR),
    "group_lasso of rows": (prox.group_lasso(4.0, axis=-1), lambda x: 4.0 * rows(x), MATRIX),
    "nuclear": (prox.nuclear(WEIGHT), lambda x: WEIGHT * np.linalg.svd(x, compute_uv=False).sum(), MATRIX),
    "total_variation": (prox.total_variation(WEIGHT), lambda x: WEIGHT * variation(x), VECTOR),
    "from_projection": (
        prox.from_projection(gdjax.projections.projection_non_negative), unless_negative(lambda x: 0.0), VECTOR,
    ),
    "none": (prox.none(), lambda x: 0.0, VECTOR),
}  # fmt: skip


def test_every_map_is_here():
    assert {name.split()[0] for name in MAPS} == set(prox.__all__)


@pytest.mark.parametrize("name", MAPS)
def test_no_point_is_better(name):
    """The objective is strongly convex: a minimum along many lines through it, at many distances."""
    f, h, x = MAPS[name]
    with precision("float64"):
        y = np.asarray(jax.jit(f)(jnp.asarray(x), STEP))
        cost = lambda z: STEP * h(z) + square(z - x)
        rng = np.random.default_rng(1)
        for size in 10.0 ** np.arange(-4, 1):
            for _ in range(60):
                away = rng.normal(size=x.shape) * (rng.random(x.shape) < rng.choice([0.2, 1.0]))
                assert cost(y) <= cost(y + size * away) + 1e-13
        assert cost(y) <= min(cost(x), cost(np.zeros_like(x)))


def test_total_variation_is_the_minimum_over_all_signs():
    """For each choice of signs of the differences, in {-1, 0, 1}, the solution is known: the best of all 3^4."""

    def best(x: Any, weight: float) -> Any:
        found, least = None, np.inf
        for signs in itertools.product([-1, 0, 1], repeat=x.size - 1):
            piece = np.cumsum([0, *(s != 0 for s in signs)])
            pull = weight * (np.array([*signs, 0]) - np.array([0, *signs]))
            y = np.array([np.mean((x + pull)[piece == k]) for k in piece])
            if (cost := weight * variation(y) + square(y - x)) < least:
                found, least = y, cost
        return found

    rng = np.random.default_rng(2)
    with precision("float64"):
        f = jax.jit(lambda x, w: prox.total_variation(w)(x, 1.0))
        for _ in range(40):
            x, weight = np.round(rng.normal(size=5), rng.integers(0, 3)), float(np.exp(rng.normal()))
            np.testing.assert_allclose(f(jnp.asarray(x), weight), best(x, weight), atol=1e-12)


@pytest.mark.full
@pytest.mark.parametrize("kind", ["noise", "steps", "powers", "slope", "zigzag", "far"])
def test_total_variation_of_long_lines_has_a_dual_certificate(kind):
    n, weight = 300, 0.8
    x = {
        "noise": RNG.normal(size=n), "steps": np.repeat(RNG.integers(0, 3, n // 10), 10) + 0.1 * RNG.normal(size=n),
        "powers": 2.0 ** np.minimum(np.arange(n) / 3, 30), "slope": np.linspace(0, 9, n),
        "zigzag": (-1.0) ** np.arange(n),
        "far": 1e6 + np.round(RNG.normal(size=n)),
    }[kind]  # fmt: skip
    with precision("float64"):
        y = np.asarray(prox.total_variation(weight)(jnp.asarray(x), 1.0))
    dual, rise = np.cumsum(x - y), np.diff(y)
    tol = 1e-13 * np.abs(x).sum()
    assert abs(dual[-1]) < tol and np.all(np.abs(dual) <= weight + tol)
    np.testing.assert_allclose(dual[:-1][rise != 0], -weight * np.sign(rise[rise != 0]), atol=tol)


def test_jaxopts_values():
    theirs, x = jaxopt_prox(), cast(TREE)
    pairs = [
        (prox.l1(WEIGHT), theirs.prox_lasso, WEIGHT), (prox.ridge(WEIGHT), theirs.prox_ridge, WEIGHT),
        (prox.nonnegative_l1(WEIGHT), theirs.prox_non_negative_lasso, WEIGHT),
        (prox.elastic_net(WEIGHT, 0.25), theirs.prox_elastic_net, (WEIGHT, 0.25)),
        (prox.nonnegative_ridge(WEIGHT), theirs.prox_non_negative_ridge, WEIGHT),
    ]  # fmt: skip
    for ours, other, hyper in pairs:
        assert same(ours(x, STEP), other(x, hyper, STEP))
    assert same(prox.group_lasso(WEIGHT)(x["w"], STEP), theirs.prox_group_lasso(x["w"], WEIGHT, STEP))


def same(a: Any, b: Any, rtol: float = 1e-6) -> bool:
    for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
        np.testing.assert_allclose(np.asarray(x, "float64"), np.asarray(y, "float64"), rtol, atol=1e-6)
    return jax.tree.structure(a) == jax.tree.structure(b)


WEIGHTED = {
    "l1": prox.l1, "nonnegative_l1": prox.nonnegative_l1, "ridge": prox.ridge, "group_lasso": prox.group_lasso,
    "nonnegative_ridge": prox.nonnegative_ridge, "elastic_net": lambda w: prox.elastic_net(w, 2 * w),
    "rows": lambda w: prox.group_lasso(w, -1), "nuclear": prox.nuclear, "total_variation": prox.total_variation,
}  # fmt: skip


@pytest.mark.parametrize("mode", ["fwd", "rev"])
@pytest.mark.parametrize("name", WEIGHTED)
def test_derivatives_by_tree_weight_and_step_equal_finite_differences(name, mode):
    f = WEIGHTED[name]
    with precision("float64"):
        check_grads(lambda x, w, s: f(w)(x, s), (jnp.asarray(MATRIX), 0.6, 0.7), 1, modes=(mode,))


@pytest.mark.parametrize("x", [np.zeros((3, 2)), 2 * np.eye(3, 2), np.outer([1.0, 2, 3], [1.0, -1])], ids=range(3))
@pytest.mark.parametrize("jacobian", [jax.jacfwd, jax.jacrev])
def test_the_nuclear_norm_has_derivatives_where_singular_values_are_equal_or_0(x, jacobian):
    with precision("float64"):
        f = lambda x, w: prox.nuclear(w)(x, 1.0)
        by_x, by_w = jacobian(f, (0, 1))(jnp.asarray(x), 0.5)
        away = np.random.default_rng(3).normal(size=(3, 2))
        h = 1e-6
        np.testing.assert_allclose(
            np.tensordot(by_x, away), (f(x + h * away, 0.5) - f(x - h * away, 0.5)) / (2 * h), atol=1e-5
        )
        np.testing.assert_allclose(by_w, (f(x, 0.5 + h) - f(x, 0.5 - h)) / (2 * h), atol=1e-8)


@pytest.mark.full
def test_nuclear_takes_complex_matrices_and_stacks():
    x = RNG.normal(size=(2, 3, 4)) + 1j * RNG.normal(size=(2, 3, 4))
    y = prox.nuclear(1.5)(jnp.asarray(x, "complex64"), 1.0)
    for a, b in zip(x, y, strict=True):
        u, s, vh = np.linalg.svd(a, full_matrices=False)
        np.testing.assert_allclose(b, (u * np.maximum(s - 1.5, 0)) @ vh, atol=1e-5)
    with precision("float64"):
        check_grads(lambda x: prox.nuclear(0.5)(x, 1.0), (jnp.asarray(x),), 1)


@pytest.mark.full
@pytest.mark.parametrize("name", WEIGHTED)
def test_at_zero_everything_is_finite(name):
    f, zeros = WEIGHTED[name], jnp.zeros((2, 3))
    for weight in (0.5, jnp.float32(0.0)):
        y, by_x = f(weight)(zeros, 1.0), jax.jacfwd(lambda x, w=weight: f(w)(x, 1.0))(zeros)
        by_w = jax.grad(lambda w: jnp.sum(f(w)(zeros, 1.0)))(jnp.float32(weight))
        assert not np.any(y) and np.all(np.isfinite(by_x)) and np.isfinite(by_w)
    assert not np.any(jax.jacfwd(lambda x: prox.group_lasso(0.5)(x, 1.0))(zeros))


@pytest.mark.full
@pytest.mark.parametrize("name", WEIGHTED)
def test_vmap_jit_and_16_bits(name):
    f = WEIGHTED[name](WEIGHT)
    xs = jnp.asarray(RNG.normal(size=(3, 4, 5)), "float32")
    one_by_one = jnp.stack([f(x, STEP) for x in xs])
    assert same(jax.vmap(lambda x: f(x, STEP))(xs), one_by_one)
    weights = jnp.array([0.1, 0.5, 2.0])
    vmapped = jax.jit(jax.vmap(lambda x, w: WEIGHTED[name](w)(x, STEP)))(xs, weights)
    assert same(vmapped, jnp.stack([WEIGHTED[name](float(w))(x, STEP) for x, w in zip(xs, weights, strict=True)]))
    half = xs[0].astype("bfloat16")
    got = f(half, STEP)
    assert got.dtype == jnp.bfloat16
    assert np.array_equal(got, f(half.astype("float32"), STEP).astype("bfloat16"))  # computed in float32


def test_weights_and_steps_are_numbers_arrays_and_trees():
    x = cast(TREE)
    by_leaf = prox.l1({"b": 1.0, "w": jnp.arange(4.0)})(x, {"b": 0.5, "w": jnp.full((3, 1), 2.0)})
    assert same(by_leaf["b"], prox.l1(0.5)(x["b"], 1.0))
    expected = np.sign(TREE["w"]) * np.maximum(np.abs(TREE["w"]) - 2 * np.arange(4.0), 0)
    assert same(by_leaf["w"], expected)
    nested = {"layer": x, "head": x["b"]}
    assert same(prox.l1({"layer": 0.5, "head": 0.0})(nested, 1.0), {"layer": prox.l1(0.5)(x, 1.0), "head": x["b"]})
    assert same(prox.nuclear({"b": 0.0, "w": 1.0})(x, 1.0)["b"], x["b"])
    rows = prox.group_lasso(jnp.array([[0.0], [1.0], [99.0]]), axis=1)(x["w"], 1.0)
    assert same(rows[0], x["w"][0]) and not np.any(rows[2])
    with precision("float64"):
        wide = prox.l1(jnp.float32(0.5))(jnp.asarray(MATRIX), 1.0)
        assert wide.dtype == jnp.float64


def test_holes_empty_trees_and_whole_numbers():
    assert prox.l1({"a": 1.0, "b": 2.0})({"a": jnp.float32(3.0), "b": None}, 1.0) == {"a": 2.0, "b": None}
    assert prox.l1(1.0)({}, 1.0) == {} and prox.total_variation(1.0)(jnp.zeros((2, 0)), 1.0).shape == (2, 0)
    assert prox.total_variation(1.0)(jnp.ones((2, 1)), 1.0).shape == (2, 1)
    assert prox.l1(0.5)(jnp.array([2, 0]), 1.0).dtype == jnp.float32


@pytest.mark.parametrize("name", WEIGHTED)
def test_nan_and_infinity_pass_through(name):
    y = WEIGHTED[name](0.5)(jnp.array([[1.0, jnp.nan, 2.0], [1.0, 2.0, 3.0]]), 1.0)
    assert np.any(np.isnan(y))


def test_complex_numbers_keep_their_direction():
    x = jnp.array([3 + 4j, 0.1j, 0])
    np.testing.assert_allclose(prox.l1(1.0)(x, 1.0), [2.4 + 3.2j, 0, 0], rtol=1e-6)
    np.testing.assert_allclose(prox.elastic_net(1.0, 3.0)(x, 1.0), [0.6 + 0.8j, 0, 0], rtol=1e-6)
    for f in (prox.nonnegative_l1(1.0), prox.nonnegative_ridge(1.0), prox.total_variation(1.0)):
        with pytest.raises(TypeError, match=r"gdjax.prox.*: tree\['a'\] is complex"):
            f({"a": x}, 1.0)


@pytest.mark.parametrize("name", ["l1", "rows", "nuclear"])
def test_steps_of_elements_are_for_separable_maps(name):
    x = cast(TREE)["w"]
    f, step = WEIGHTED[name](0.5), jnp.full(x.shape, 2.0)
    if name == "l1":
        assert same(f(x, step), f(x, 2.0))
    else:
        with pytest.raises(ValueError, match=r"tree\['w'\]: step has shape \(3, 4\); the groups"):
            f({"w": x}, {"w": step})


def test_maps_are_values():
    weight = {"w": 1.0}
    a, b = prox.elastic_net(weight, 0.5), prox.elastic_net({"w": 1.0}, 0.5)
    assert a == b and hash(a) == hash(b) and repr(a) == "elastic_net(weight={'w': 1.0}, ratio=0.5)"
    assert a != prox.elastic_net(weight, 0.25) and pickle.loads(pickle.dumps(a)) == a
    simplex = prox.from_projection(gdjax.projections.projection_simplex, 2.0)
    assert simplex == prox.from_projection(gdjax.projections.projection_simplex, 2.0)
    np.testing.assert_allclose(simplex(jnp.array([3.0, 0.0]), 9.0), [2.0, 0.0])


def test_errors_name_the_map_the_leaf_and_both_sides():
    x = cast(TREE)
    cases = [
        (lambda: prox.l1(-1.0), ValueError, r"gdjax.prox.l1: weight must be at least 0, got -1.0"),
        (lambda: prox.ridge({"a": float("nan")}), ValueError, r"weight\['a'\] must be at least 0, got nan"),
        (lambda: prox.elastic_net(1.0, "x"), TypeError, r"gdjax.prox.elastic_net: ratio must be a number or an array"),
        (lambda: prox.l1(1.0)(x, -0.5), ValueError, r"gdjax.prox.l1: step must be at least 0, got -0.5"),
        (lambda: prox.l1(1.0)(x, "s"), TypeError, r"step must be a number"),
        (lambda: prox.l1({"c": 1.0})(x, 1.0), ValueError, r"gdjax.prox.l1: the weight is not a prefix"),
        (lambda: prox.l1(1.0)(x, {"w": 1.0}), ValueError, r"gdjax.prox.l1: the step is not a prefix"),
        (lambda: prox.l1(jnp.ones(3))(x["w"], 1.0), ValueError, r"weight has shape \(3,\); the elements of a leaf of"),
        (lambda: prox.nuclear(1.0)(x, 1.0), ValueError, r"gdjax.prox.nuclear: tree\['b'\]: shape \(\) is no matrix"),
        (lambda: prox.group_lasso(1.0, 1)(x, 1.0), ValueError, r"tree\['b'\]: shape \(\) has no axis 1"),
        (lambda: prox.total_variation(1.0)(x, 1.0), ValueError, r"tree\['b'\]: a scalar has no differences"),
        (lambda: prox.from_projection(3), TypeError, r"projection must be a function, got 3"),
        (lambda: MAPS["from_projection"][0](x, {"w": 1.0, "b": 1.0}), ValueError, r"say separable=True"),
    ]  # fmt: skip
    for call, error, message in cases:
        with pytest.raises(error, match=message):
            call()
