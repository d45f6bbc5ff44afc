"""Projections against their definition as a minimum, against Optax, and at the edges."""

import inspect
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from gdjax import projections
from tests.oracles import precision
from tests.support import relaxed

RNG = np.random.default_rng(0)
TREE = {"b": np.array(0.5), "w": 2 * RNG.normal(size=(2, 3))}
NORMAL = {"b": np.array(-1.0), "w": RNG.normal(size=(2, 3))}
SCALED = ("simplex", "l1_ball", "l1_sphere", "l2_ball", "l2_sphere", "linf_ball", "hypercube")


def cast(tree: Any, dtype: str = "float32") -> Any:
    return jax.tree.map(lambda x: jnp.asarray(x, dtype), tree)


def flat(tree: Any) -> Any:
    return np.concatenate([np.ravel(np.asarray(x, "float64")) for x in jax.tree.leaves(tree)])


def project(name: str, *args: Any) -> Any:
    """The projection in one compiled call."""
    return jax.jit(getattr(projections, f"projection_{name}"))(*args)


def threshold(v: Any, scale: float) -> Any:
    """max(v - tau, 0) of sum `scale`, with tau by bisection."""
    low, high = v.min() - scale - 1, v.max()
    for _ in range(200):
        tau = (low + high) / 2
        low, high = (tau, high) if np.maximum(v - tau, 0).sum() > scale else (low, tau)
    return np.maximum(v - high, 0)


def oracle(name: str, x: Any, *args: Any) -> Any:
    """The projection of a vector in float64."""
    if name == "non_negative":
        return np.maximum(x, 0)
    if name == "box":
        return np.minimum(np.maximum(x, args[0]), args[1])
    if name == "vector":
        return (x @ args[0]) / (args[0] @ args[0]) * args[0]
    if name in ("hyperplane", "halfspace"):
        a, b = args
        excess = a @ x - b
        return x - (excess if name == "hyperplane" else max(excess, 0)) / (a @ a) * a
    (s,) = args
    norm1, norm2 = abs(x).sum(), np.sqrt((x**2).sum())
    return {
        "hypercube": lambda: np.minimum(np.maximum(x, 0), s),
        "linf_ball": lambda: np.minimum(np.maximum(x, -s), s),
        "l2_ball": lambda: x if norm2 <= s else x * s / norm2,
        "l2_sphere": lambda: x * s / norm2,
        "simplex": lambda: threshold(x, s),
        "l1_sphere": lambda: np.sign(x) * threshold(abs(x), s),
        "l1_ball": lambda: x if norm1 <= s else np.sign(x) * threshold(abs(x), s),
    }[name]()


BEYOND_OPTAX = [  # in test_sets
    f"projection_{name}" for name in "affine_set birkhoff box_section polyhedron transport".split()
]
CASES = [
    ("non_negative",),
    ("box", -0.3, 0.8),
    *[(name, s) for name in SCALED for s in (0.5, 100.0)],
    ("vector", NORMAL),
    ("hyperplane", NORMAL, 0.7),
    ("halfspace", NORMAL, 0.7),
    ("halfspace", NORMAL, -30.0),
]


def test_the_names_and_signatures_of_optax():
    theirs = [name for name in dir(optax.projections) if not name.startswith("_")]
    assert [name for name in projections.__all__ if name not in BEYOND_OPTAX] == theirs

    def shape(f: Any) -> Any:
        return [(p.name, p.kind, p.default) for p in inspect.signature(f).parameters.values()]

    pairs = [(getattr(projections, n), getattr(optax.projections, n)) for n in theirs]
    assert [ours.__name__ for ours, theirs in pairs if shape(ours) != shape(theirs)] == []
    assert {f"projection_{name}" for name, *_ in CASES} == set(theirs)


@pytest.mark.parametrize("case", CASES, ids=str)
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_definitions_and_optax(case: Any, dtype: str):
    name, *args = case
    rtol = 1e-12 if dtype == "float64" else 1e-5
    with precision(dtype):
        x = cast(TREE, dtype)
        args = [cast(a, dtype) if isinstance(a, dict) else a for a in args]
        got = project(name, x, *args)
        assert jax.tree.map(lambda z: (z.shape, z.dtype), got) == jax.tree.map(lambda z: (z.shape, z.dtype), x)
        wanted = oracle(name, flat(x), *[flat(a) if isinstance(a, dict) else a for a in args])
        np.testing.assert_allclose(flat(got), wanted, rtol=rtol, atol=rtol)
        if name in ("box", "hypercube"):  # they take no number for a tree
            ends = case[1:] if name == "box" else (0.0, case[1])
            name, args = "box", [jax.tree.map(lambda z, end=end: jnp.full_like(z, end), x) for end in ends]
        with relaxed():
            reference = jax.jit(getattr(optax.projections, f"projection_{name}"))(x, *args)
        np.testing.assert_allclose(flat(got), flat(reference), rtol=rtol, atol=rtol)


@pytest.mark.parametrize("name", SCALED)
def test_nothing_feasible_is_nearer(name: str):
    x = flat(TREE)
    y = flat(project(name, cast(TREE), 1.5))
    for direction in np.random.default_rng(1).normal(size=(200, x.size)):
        other = oracle(name, y + 0.3 * direction, 1.5)
        assert np.sum((x - y) ** 2) <= np.sum((x - other) ** 2) + 1e-5


@pytest.mark.parametrize("name", [n for n in SCALED if n != "hypercube"])
def test_traced_sizes_and_derivatives(name: str):
    x = cast(TREE)

    def f(x: Any, s: Any) -> Any:
        y = jax.tree.leaves(project(name, x, s))
        return sum(jnp.sum(jnp.cos(jnp.arange(z.size, dtype=z.dtype)) * z.ravel()) for z in y)

    gradients = jax.jit(jax.grad(f, argnums=(0, 1)))(x, jnp.asarray(1.5))

    def numpy_f(v: Any, s: float) -> Any:
        y = oracle(name, v, s)
        return np.cos(0.0) * y[0] + np.cos(np.arange(6)) @ y[1:]

    v, h = flat(x), 1e-6
    wanted = [(numpy_f(v + h * e, 1.5) - numpy_f(v - h * e, 1.5)) / (2 * h) for e in np.eye(7)]
    np.testing.assert_allclose(flat(gradients[0]), wanted, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(
        gradients[1], (numpy_f(v, 1.5 + h) - numpy_f(v, 1.5 - h)) / (2 * h), rtol=1e-4, atol=1e-5
    )


@pytest.mark.parametrize("name", SCALED)
def test_radius_zero_gives_zeros(name: str):
    for x in TREE, jax.tree.map(np.zeros_like, TREE):
        for zero in 0, jnp.asarray(0.0):
            assert not np.any(flat(project(name, cast(x), zero)))


@pytest.mark.parametrize("name", [n for n in SCALED if n != "simplex"])
def test_points_inside_come_back_bit_for_bit(name: str):
    x = cast(jax.tree.map(np.abs, TREE) if name == "hypercube" else TREE)
    if name.endswith("sphere"):
        y = project(name, x, 2.0)
        np.testing.assert_allclose(flat(project(name, y, 2.0)), flat(y), rtol=1e-6)
    else:
        np.testing.assert_array_equal(flat(project(name, x, 1e3)), flat(x))
        value = jax.jit(jax.grad(lambda x: jnp.sum(project(name, x, 1e3)["w"])))(x)
        np.testing.assert_array_equal(value["w"], np.ones((2, 3)))


def test_zero_and_equal_numbers():
    zero = jnp.zeros(4)
    np.testing.assert_allclose(project("simplex", zero, 2), np.full(4, 0.5))
    np.testing.assert_allclose(project("simplex", zero - 7e6), np.full(4, 0.25))
    np.testing.assert_allclose(project("l1_sphere", zero), np.full(4, 0.25))
    np.testing.assert_allclose(project("l2_sphere", zero, 3.0), np.full(4, 1.5))
    np.testing.assert_array_equal(project("l1_ball", zero), zero)
    np.testing.assert_array_equal(project("l2_ball", zero), zero)
    np.testing.assert_allclose(project("l1_sphere", jnp.asarray([0.1, 0])), [0.55, 0.45], rtol=1e-6)
    with relaxed():
        assert np.all(np.isnan(optax.projections.projection_l2_sphere(zero)))
        assert float(jnp.sum(jnp.abs(optax.projections.projection_l1_sphere(jnp.asarray([0.1, 0]))))) < 0.6


@pytest.mark.parametrize("name", [n for n in SCALED if n not in ("hypercube", "linf_ball")])
def test_derivatives_at_zero_are_finite(name: str):
    for scale in 0.0, 1.0:
        f = jax.jit(jax.grad(lambda x, s, name=name: jnp.sum(project(name, x, s)), argnums=(0, 1)))
        slopes = f(jnp.zeros(3), scale)
        assert all(np.all(np.isfinite(s)) for s in slopes)


@pytest.mark.parametrize("name", ["projection_l1_ball", "projection_l1_sphere"])
def test_derivatives_beside_a_tiny_number(name: str):
    slope = jax.jacobian(getattr(projections, name))(jnp.array([3.0, 1e-20, -1e-30]))
    np.testing.assert_array_equal(slope, np.zeros((3, 3)))


def test_large_and_small_numbers():
    offset = 1e6
    x = offset + jnp.asarray([0.0, 0.25, 0.5])
    np.testing.assert_allclose(project("simplex", x), [1 / 12, 1 / 3, 7 / 12], rtol=1e-6)
    x = jnp.asarray([-jnp.inf, 3.0, 3e38])
    np.testing.assert_array_equal(project("simplex", x), [0, 0, 1])
    for size in 1e-36, 1e-25, 1e25, 1e37:
        x = size * jnp.asarray([3.0, -4.0])
        np.testing.assert_allclose(project("l2_sphere", x), [0.6, -0.8], rtol=1e-6)
        np.testing.assert_allclose(project("l2_ball", x, size), x / 5, rtol=1e-6)
        np.testing.assert_allclose(project("vector", jnp.asarray([1.0, 2.0]), x), [-0.6, 0.8], rtol=1e-6)
    big = jnp.asarray(np.random.default_rng(0).normal(size=100_000), "float32")
    np.testing.assert_allclose(np.sum(np.asarray(project("simplex", big), "float64")), 1, rtol=1e-5)
    assert np.all(np.isnan(project("simplex", jnp.asarray([1.0, jnp.nan]))))


@pytest.mark.parametrize("case", CASES, ids=str)
def test_16_bits_whole_numbers_and_empty_trees(case: Any):
    name, *args = case
    half = [cast(a, "bfloat16") if isinstance(a, dict) else a for a in args]
    x = cast(TREE, "bfloat16")
    got = project(name, x, *half)
    assert {z.dtype for z in jax.tree.leaves(got)} == {jnp.dtype("bfloat16")}
    wide = project(name, cast(x), *[cast(a) if isinstance(a, dict) else a for a in half])
    np.testing.assert_array_equal(flat(got), flat(cast(wide, "bfloat16")))
    rounded = jax.tree.map(lambda z: jnp.asarray(np.round(z), "int32"), TREE)
    whole = jax.eval_shape(lambda x: project(name, x, *args), rounded)
    assert whole["w"].dtype == ("int32" if name == "non_negative" else "float32")
    empty = [{} if isinstance(a, dict) else a for a in args]
    assert project(name, {}, *empty) == {}
    nothing = [{"w": jnp.zeros(0)} if isinstance(a, dict) else a for a in args]
    assert jax.eval_shape(lambda x: project(name, x, *nothing), {"w": jnp.zeros(0)})["w"].shape == (0,)


def test_leaves_of_several_dtypes_and_numbers():
    tree = {"b": jnp.asarray([1.0, 2.0], "bfloat16"), "n": 0.5, "w": jnp.asarray([3.0])}
    for name in "simplex", "l1_ball", "l2_ball":
        got = project(name, tree)
        assert [z.dtype for z in jax.tree.leaves(got)] == ["bfloat16", "float32", "float32"]
        np.testing.assert_allclose(flat(got), oracle(name, flat(tree), 1.0), rtol=2e-2)


def test_boxes():
    x = {"a": jnp.asarray([-1.0, 0.5, 9.0]), "b": jnp.ones((2, 2))}
    rows = {"a": 0.0, "b": jnp.asarray([[0.0], [2.0]])}
    got = project("box", x, rows, None)
    np.testing.assert_array_equal(got["a"], [0, 0.5, 9])
    np.testing.assert_array_equal(got["b"], [[1, 1], [2, 2]])
    np.testing.assert_array_equal(project("box", x["a"], jnp.zeros(3), jnp.asarray(1.0)), [0, 0.5, 1])
    assert project("box", jnp.arange(5), 1, 3).dtype == "int32"
    assert project("hypercube", x, {"a": 2.0, "b": 0.5})["b"][0, 0] == 0.5
    # A bound between two bfloat16 numbers is not rounded before it is compared with.
    assert project("box", jnp.asarray(0.0, "bfloat16"), jnp.asarray(0.3), None) == jnp.asarray(0.3, "bfloat16")


def test_planes_of_zero_normal():
    x, zero = jnp.asarray([1.0, 2.0]), jnp.zeros(2)
    np.testing.assert_array_equal(project("vector", x, zero), zero)
    np.testing.assert_array_equal(project("hyperplane", x, zero, 0.0), x)
    assert np.all(np.isnan(project("hyperplane", x, zero, 1.0)))
    np.testing.assert_array_equal(project("halfspace", x, zero, 1.0), x)
    assert np.all(np.isnan(project("halfspace", x, zero, -1.0)))
    slopes = jax.grad(lambda x, b: jnp.sum(project("hyperplane", x, jnp.ones(2), b)), argnums=(0, 1))(x, 0.0)
    np.testing.assert_allclose(slopes[0], [0, 0], atol=1e-6)
    np.testing.assert_allclose(slopes[1], 1, rtol=1e-6)


def test_planes_are_met_as_the_formula_meets_them():
    """Normals of any size are scaled by a power of two: divided by their norm they are rounded themselves."""
    xs, normals = (jnp.asarray(RNG.normal(size=(1000, 50)), "float32") for _ in range(2))
    missed = lambda ys: np.abs((np.asarray(normals, float) * np.asarray(ys, float)).sum(1) - 1).mean()
    wanted = missed(jax.jit(jax.vmap(lambda x, a: x + (1 - jnp.vdot(a, x)) / jnp.vdot(a, a) * a))(xs, normals))
    for size in (2.0**-100, 1.0, 2.0**100):
        project = lambda x, a, size=size: projections.projection_hyperplane(x, a, size)
        assert missed(jax.jit(jax.vmap(project))(xs, normals * size)) < 1.1 * wanted


def test_complex_trees():
    x, a = jnp.asarray([1 + 2j, 3j]), jnp.asarray([1j, 2 + 0j])
    assert project("hyperplane", x, a, 0.0).dtype == x.dtype
    got = project("vector", x, a)
    np.testing.assert_allclose(jnp.vdot(a, x - got), 0, atol=1e-6)  # what is left is orthogonal
    with relaxed():
        assert abs(jnp.vdot(a, x - optax.projections.projection_vector(x, a))) > 1
    np.testing.assert_allclose(np.linalg.norm(project("l2_ball", x)), 1, rtol=1e-6)
    np.testing.assert_allclose(np.abs(project("l1_sphere", x)).sum(), 1, rtol=1e-6)
    for name, args in ("simplex", ()), ("box", (0, 1)):
        with pytest.raises(TypeError, match=f"gdjax.projection_{name}: .* is complex"):
            project(name, x, *args)


@pytest.mark.parametrize("name", SCALED)
def test_negative_radii_are_errors(name: str):
    with pytest.raises(ValueError, match=rf"^gdjax.projection_{name}: .*scale .*-1"):
        getattr(projections, f"projection_{name}")(cast(TREE), -1)
    if name != "hypercube":
        with pytest.raises(ValueError, match=rf"^gdjax.projection_{name}: scale must be a scalar, got shape \(2,\)"):
            project(name, cast(TREE), jnp.ones(2))


@pytest.mark.parametrize("name", ["vector", "hyperplane", "halfspace"])
def test_normals_that_do_not_match_are_errors(name: str):
    args = () if name == "vector" else (0.0,)
    message = rf"^gdjax.projection_{name}: a\['w'\] shape \(3,\) does not match x\['w'\] shape \(2, 3\)"
    with pytest.raises(ValueError, match=message):
        project(name, cast(TREE), {"b": jnp.asarray(1.0), "w": jnp.ones(3)}, *args)
    with pytest.raises(ValueError, match=rf"^gdjax.projection_{name}: a\['w'\] is missing"):
        project(name, cast(TREE), {"b": jnp.asarray(1.0)}, *args)


def test_errors_of_boxes():
    with pytest.raises(ValueError, match="^gdjax.projection_box: lower is 2, upper is 1"):
        projections.projection_box(cast(TREE), 2, 1)
    with pytest.raises(ValueError, match=r"^gdjax.projection_box: lower\['w'\] shape \(2,\) does not match"):
        project("box", cast(TREE), {"b": 0.0, "w": jnp.ones(2)}, 1)
    with pytest.raises(ValueError, match=r"^gdjax.projection_box: upper\['w'\] is missing"):
        project("box", cast(TREE), 0, {"b": 1.0})
