"""Projections onto affine sets, polyhedra, sections of boxes and transport plans: SciPy, JAXopt, derivatives."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gdjax import projections
from tests.oracles import jaxopt, precision
from tests.support import relaxed

RNG = np.random.default_rng(0)
N = 6
X = RNG.normal(size=N)
A = RNG.normal(size=(2, N))
A = np.concatenate([A, A[:1] - 2 * A[1:]])  # of rank 2
B = A @ RNG.normal(size=N)
G = RNG.normal(size=(9, N))
H = G @ np.linalg.lstsq(A, B, rcond=None)[0] + 0.3
G, H = np.concatenate([G, 2 * G[:2]]), np.concatenate([H, 2 * H[:2]])  # two of them twice
W = np.array([1.0, -0.5, 2.0, 0.0, 0.3, -1.0])
S, MARGINALS = 2 * RNG.normal(size=(4, 5)), (RNG.random(4), RNG.random(5))
MARGINALS = tuple(x / x.sum() for x in MARGINALS)


@functools.cache
def compiled(name: str, *none: int) -> Any:
    f = getattr(projections, f"projection_{name}")
    return jax.jit(lambda *args: f(*[None if i in none else x for i, x in enumerate(args)]))


def least(x: Any, A: Any, b: Any, G: Any, h: Any, bounds: Any = None) -> Any:
    """The nearest point, by SciPy; only one equation of each that is twice there, as it wants."""
    optimize = pytest.importorskip("scipy.optimize")
    constraints = [{"type": "eq", "fun": lambda y: A @ y - b, "jac": lambda y: A}] if A is not None else []
    constraints += [{"type": "ineq", "fun": lambda y: h - G @ y, "jac": lambda y: -G}] if G is not None else []
    found = optimize.minimize(
        lambda y: np.sum((y - x) ** 2) / 2, np.zeros(x.size), jac=lambda y: y - x, method="SLSQP", bounds=bounds,
        constraints=constraints, options={"ftol": 1e-13, "maxiter": 1000},
    )  # fmt: skip
    assert found.success, found
    return found.x


SETS = {
    "affine_set": ((X, A, B), (), lambda: least(X, A[:2], B[:2], None, None)),
    "polyhedron": ((X, A, B, G, H), (), lambda: least(X, A[:2], B[:2], G[:9], H[:9])),
    "polyhedron, inequalities": ((3 * X, X, X, G, H), (1, 2), lambda: least(3 * X, None, None, G[:9], H[:9])),
    "polyhedron, equations": ((X, A, B, X, X), (3, 4), lambda: least(X, A[:2], B[:2], None, None)),
    "box_section": ((X, -0.6, 0.5, W, 1.0), (), lambda: least(X, W[None], np.ones(1), None, None, [(-0.6, 0.5)] * N)),
    "box_section, one bound": (
        (X, np.linspace(-1, 0, N), X, W, -3.0), (2,),
        lambda: least(X, W[None], -3 * np.ones(1), None, None, [(a, None) for a in np.linspace(-1, 0, N)]),
    ),
}  # fmt: skip


@pytest.mark.parametrize("dtype", ["float64", "float32"])
@pytest.mark.parametrize("name", SETS)
def test_scipys_minimum(name: str, dtype: str):
    args, none, wanted = SETS[name]
    with precision(dtype):
        got = compiled(name.split(",")[0], *none)(*[jnp.asarray(x, dtype) for x in args])
        assert got.dtype == dtype
    np.testing.assert_allclose(got, wanted(), atol=1e-7 if dtype == "float64" else 1e-5)


@pytest.mark.parametrize("name", [n for n in SETS if n != "polyhedron, inequalities"])
def test_derivatives_are_finite_differences(name: str):
    """By x and by what makes the set: forward, along a line, and backward, beside it."""
    args, none, _ = SETS[name]
    f = compiled(name.split(",")[0], *none)
    with precision("float64"):
        args = [jnp.asarray(x, float) for x in args]
        changes = [jnp.asarray(RNG.normal(size=np.shape(x))) for x in args]
        if name != "box_section":  # equations that stay possible
            mix = np.eye(3)
            mix[2] = [1, -2, 0]
            changes = [mix @ d if d.shape[:1] == (3,) else d for d in changes]
        h = 1e-6
        ends = [f(*[x + s * h * d for x, d in zip(args, changes, strict=True)]) for s in (1, -1)]
        wanted = (ends[0] - ends[1]) / (2 * h)
        weights = jnp.cos(jnp.arange(float(N)))
        y, forward = jax.jit(lambda *xs: jax.jvp(f, xs[: len(args)], xs[len(args) :]))(*args, *changes)
        np.testing.assert_allclose(forward, wanted, atol=1e-7)
        back = jax.jit(lambda *xs: jax.vjp(f, *xs)[1](weights))(*args)
        np.testing.assert_allclose(
            sum(jnp.sum(g * d) for g, d in zip(back, changes, strict=True)), weights @ wanted, atol=1e-6
        )
        assert jnp.isfinite(y).all()


@pytest.mark.full
def test_many_polyhedra_at_once_meet_the_conditions_of_a_minimum():
    """x - y is a sum of the normals of what holds with equality, with weights at least 0; in dimensions with many."""
    with precision("float64"):
        g = jnp.asarray(RNG.normal(size=(40, 8)))
        g, h = g.at[30:].set(g[:10] + g[10:20]), jnp.abs(jnp.asarray(RNG.normal(size=40)))
        h = h.at[30:].set(h[:10] + h[10:20])  # implied by others, some at the same corners
        xs = jnp.asarray(5 * RNG.normal(size=(50, 8)))
        ys = jax.jit(jax.vmap(lambda x: projections.projection_polyhedron(x, None, None, g, h)))(xs)
        assert (ys @ g.T <= h[None] + 1e-9).all()
        nnls = pytest.importorskip("scipy.optimize").nnls
        for x, y in zip(np.asarray(xs), np.asarray(ys), strict=True):
            active = np.asarray(h - g @ y) < 1e-9
            assert nnls(np.asarray(g)[active].T, x - y)[1] < 1e-8


@pytest.mark.full
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_sets_without_a_point_give_nan(dtype: str):
    with precision(dtype):
        x, one = jnp.ones(2, dtype), jnp.ones((1, 2), dtype)
        twice = jnp.concatenate([one, one])
        for y in (
            compiled("affine_set")(x, twice, jnp.array([1.0, 1.5], dtype)),
            compiled("affine_set")(x, 0 * twice, jnp.array([1.0, 0.0], dtype)),
            compiled("polyhedron")(x, twice, x, jnp.concatenate([one, -one]), jnp.array([2.0, -1.5], dtype)),
            compiled("polyhedron")(x, twice, x, twice, jnp.array([0.5, 9.0], dtype)),
            compiled("polyhedron")(x, twice, jnp.array([1.0, 1.5], dtype), twice, 9 * x),
            compiled("box_section")(x, 0 * x, 0.4 * x, x, 1.0),
            compiled("box_section")(x, 0.6 * x, x, x, 1.0),
            compiled("box_section")(x, x, x - 1, x, 1.0),
            compiled("transport")(jnp.eye(2, dtype=dtype), (x, 2 * x)),
            compiled("transport")(jnp.eye(2, dtype=dtype), (x.at[0].set(-1), x.at[0].set(-1))),
        ):
            assert jnp.isnan(y).all()
        assert jnp.isfinite(compiled("box_section")(x, 0 * x, 0.5 * x, x, 1.0)).all()


@pytest.mark.parametrize("name", ["affine_set", "polyhedron", "box_section"])
def test_a_set_without_a_point_is_an_error_outside_of_jit(name: str):
    """But not where x itself is not finite, nor for one of several under `vmap`."""
    x, twice, c = jnp.ones(2), jnp.ones((2, 2)), jnp.array([1.0, 1.5])
    args = {"affine_set": (twice, c), "polyhedron": (twice, c, None, None), "box_section": (0.0, 0.4, x, 1.0)}[name]
    project = getattr(projections, f"projection_{name}")
    with pytest.raises(ValueError, match=f"^gdjax.projection_{name}: the set is empty"):
        project(x, *args)
    assert jnp.isnan(project(x * jnp.nan, *args)).all()
    assert jnp.isnan(jax.vmap(lambda x: project(x, *args))(twice)).all()


def test_equations_from_far_away_and_inequalities_along_them():
    """The one point of a full rank, to its own digits; and what the equations imply, in float32."""
    a, b, g, h = (jnp.asarray(x, "float32") for x in (A[:2, :2], B[:2], A, B + 1))
    y = compiled("affine_set")(jnp.full(2, 1e6), a, b)
    np.testing.assert_allclose(y, np.linalg.solve(A[:2, :2], B[:2]), rtol=1e-4)
    x, a, b = (jnp.asarray(x, "float32") for x in (X, A, B))
    np.testing.assert_allclose(compiled("polyhedron")(x, a, b, g, h), compiled("affine_set")(x, a, b), atol=1e-6)


def test_a_section_through_a_corner_or_along_a_bound():
    """Equal bounds, a sum that only the corner has, and no bounds at all."""
    section = compiled("box_section")
    x, w = jnp.array([0.3, -2.0, 5.0]), jnp.ones(3)
    np.testing.assert_array_equal(section(x, 0.0, 1.0, w, 3.0), [1, 1, 1])
    np.testing.assert_array_equal(section(x, 0.0, 1.0, w, 0.0), [0, 0, 0])
    np.testing.assert_array_equal(section(x, jnp.array([0.0, 2.0, 0.0]), jnp.array([1.0, 2.0, 1.0]), w, 2.0), [0, 2, 0])
    free = compiled("box_section", 1, 2)(x, 0.0, 1.0, w, 0.3)
    np.testing.assert_allclose(free, x - 1.0, rtol=1e-5)


@pytest.mark.full
def test_trees_are_one_vector_and_16_bits_are_computed_in_32():
    tree = {"a": jnp.asarray(X[:2], "bfloat16"), "b": jnp.asarray(X[2:].reshape(2, 2), "float32")}
    vector = jnp.concatenate([jnp.ravel(x).astype("float32") for x in jax.tree.leaves(tree)])
    weights = {"a": jnp.asarray(W[:2], "float32"), "b": jnp.asarray(W[2:].reshape(2, 2), "float32")}
    single = [jnp.asarray(x, "float32") for x in (A, B, G, H)]
    for got, wanted in (
        (compiled("affine_set")(tree, *single[:2]), compiled("affine_set")(vector, *single[:2])),
        (compiled("polyhedron")(tree, *single), compiled("polyhedron")(vector, *single)),
        (
            compiled("box_section")(tree, -0.6, 0.5, weights, 1.0),
            compiled("box_section")(vector, -0.6, 0.5, jnp.asarray(W, "float32"), 1.0),
        ),
    ):
        assert got["a"].dtype == "bfloat16"
        np.testing.assert_array_equal(got["a"], wanted[:2].astype("bfloat16"))
        np.testing.assert_allclose(got["b"].ravel(), wanted[2:], rtol=1e-5)


@pytest.mark.parametrize("name", ["affine_set", "polyhedron", "box_section", "transport"])
def test_jaxopt(name: str):
    projection = jaxopt().projection
    theirs, tol = getattr(projection, f"projection_{name}"), 3e-3
    with precision("float64"), relaxed():
        if name == "transport":
            plan = compiled("transport")(jnp.asarray(S), MARGINALS)
            np.testing.assert_allclose(plan, theirs(jnp.asarray(S), MARGINALS), atol=tol)
            return
        x, *rest = {  # it takes weights above 0 alone, and equations of full rank
            "affine_set": (X, A[:2], B[:2]), "polyhedron": (X, A[:2], B[:2], G, H),
            "box_section": (X, np.full(N, -0.6), np.full(N, 0.5), np.abs(W) + 0.1, 1.0),
        }[name]  # fmt: skip
        x, *rest = (jnp.asarray(v) for v in (x, *rest))
        np.testing.assert_allclose(compiled(name)(x, *rest), theirs(x, tuple(rest)), atol=tol)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_transport_plans_meet_the_conditions_of_a_minimum(dtype: str):
    """The sums, and no descent from the plan towards another one; for ties and for any scale."""
    tol = 2e-5 if dtype == "float32" else 1e-11
    with precision(dtype):
        for scale in (1e-3, 1.0, 100.0):
            for matrix in (S, np.round(S), np.zeros_like(S)):
                matrix = scale * matrix
                a, b = (jnp.asarray(x, dtype) for x in MARGINALS)
                plan = np.asarray(compiled("transport")(jnp.asarray(matrix, dtype), (a, b)), float)
                size = max(scale, 1)
                np.testing.assert_allclose(plan.sum(1), MARGINALS[0], atol=size * tol)
                np.testing.assert_allclose(plan.sum(0), MARGINALS[1], atol=size * tol)
                assert (plan >= 0).all()
                other = np.outer(*MARGINALS)
                assert np.sum((plan - matrix) * (other - plan)) >= -size * size * tol


def test_birkhoff_is_the_least_squares_of_doubly_stochastic_matrices():
    with precision("float64"):
        matrix = RNG.normal(size=(3, 3))
        sums = np.concatenate([np.kron(np.eye(3), np.ones(3)), np.kron(np.ones(3), np.eye(3))])[:5]
        wanted = least(matrix.ravel(), sums, np.ones(5), None, None, [(0, None)] * 9)
        np.testing.assert_allclose(compiled("birkhoff")(jnp.asarray(matrix)).ravel(), wanted, atol=1e-7)


@pytest.mark.full
def test_derivatives_of_a_transport_plan():
    with precision("float64"):
        s, (a, b) = jnp.asarray(S), (jnp.asarray(x) for x in MARGINALS)
        f = lambda s, a, b: compiled("transport")(s, (a, b))
        da, db = jnp.asarray([1.0, -1.0, 0.5, 0.0]) / 9, jnp.asarray([0.5, 0.0, 0.0, -0.25, 0.25]) / 9
        change, h = (jnp.asarray(RNG.normal(size=S.shape)), da, db), 1e-6
        ends = [f(*[x + t * h * d for x, d in zip((s, a, b), change, strict=True)]) for t in (1, -1)]
        wanted = (ends[0] - ends[1]) / (2 * h)
        np.testing.assert_allclose(jax.jvp(f, (s, a, b), change)[1], wanted, atol=1e-7)
        grads = jax.grad(lambda *xs: jnp.sum(f(*xs) ** 2), (0, 1, 2))(s, a, b)
        along = sum(jnp.sum(g * d) for g, d in zip(grads, change, strict=True))
        np.testing.assert_allclose(along, jnp.sum(2 * f(s, a, b) * wanted), atol=1e-7)


def test_errors_name_both_sides():
    x, wrong = {"w": jnp.ones(3)}, jnp.ones((2, 4))
    none: Any = None
    complex_ = wrong.astype("complex64")
    for call, kind, message in (
        (
            lambda: projections.projection_affine_set(x, wrong, jnp.ones(2)),
            ValueError,
            r"A shape \(2, 4\) .*3 numbers of x",
        ),
        (
            lambda: projections.projection_affine_set(x, wrong[:, :3], jnp.ones(3)),
            ValueError,
            r"b shape \(3,\) .*A shape",
        ),
        (
            lambda: projections.projection_polyhedron(x, wrong, none, none, none),
            ValueError,
            "A and b belong together.*b is",
        ),
        (
            lambda: projections.projection_polyhedron(x, none, none, none, wrong),
            ValueError,
            "G and h belong together.*G is",
        ),
        (lambda: projections.projection_polyhedron(x, none, none, wrong, jnp.ones(2)), ValueError, r"G shape \(2, 4\)"),
        (lambda: projections.projection_polyhedron(complex_, none, none, none, none), TypeError, "complex"),
        (lambda: projections.projection_box_section(x, 1.0, 0.0, x, 1.0), ValueError, "alpha is 1.0, beta is 0.0"),
        (lambda: projections.projection_box_section(x, 0.0, 1.0, {"w": wrong}, 1.0), ValueError, r"w\['w'\] shape"),
        (lambda: projections.projection_box_section(x, 0.0, 1.0, x, wrong), ValueError, "c must be a scalar"),
        (
            lambda: projections.projection_transport(wrong, (jnp.ones(2), jnp.ones(3))),
            ValueError,
            r"marginals\[1\] shape",
        ),
        (lambda: projections.projection_transport(complex_, (jnp.ones(2), jnp.ones(4))), TypeError, "complex"),
        (lambda: projections.projection_birkhoff(wrong), ValueError, r"square, got shape \(2, 4\)"),
        (lambda: projections.projection_birkhoff(jnp.ones(3)), ValueError, r"must be a matrix, got shape \(3,\)"),
    ):
        with pytest.raises(kind, match=f"gdjax.projection_.*{message}"):
            call()
