"""JAXopt's examples with gdjax find what JAXopt's solvers find, on the same data in float64."""

import importlib
import importlib.util
import sys
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from tests.oracles import jaxopt, precision
from tests.support import quick_compilation, relaxed

if not all(importlib.util.find_spec(name) for name in ("matplotlib", "PIL")):
    pytest.skip("no extra `examples`", allow_module_level=True)
sys.path.append(str(Path(__file__).parents[2] / "examples"))
ported: Any = importlib.import_module("from_jaxopt")
pytestmark = pytest.mark.programs  # solvers of two libraries compile


@pytest.fixture
def peer() -> Iterator[Any]:
    library = jaxopt()
    with precision("float64"), relaxed(), quick_compilation(), warnings.catch_warnings(action="ignore"):
        yield library


def test_kernel_svm(peer: Any):
    x, labels = ported.data()
    y = jnp.where(labels > 0, 1.0, -1.0)
    fun = lambda b, x, y: jnp.sum((x.T @ b) ** 2) / 2 - b @ y
    section = lambda b, c: peer.projection.projection_box_section(
        b, (jnp.where(y > 0, 0, -c), jnp.where(y > 0, c, 0), jnp.ones(len(y)), 0.0)
    )
    solver = peer.ProjectedGradient(fun, section, tol=1e-7, maxiter=3000)
    wanted = solver.run(jnp.zeros(len(y)), hyperparams_proj=2.0, x=x, y=y).params
    got = ported.kernel_svm(x, y, 2.0)
    np.testing.assert_allclose(fun(got, x, y), fun(wanted, x, y), rtol=1e-5)
    np.testing.assert_allclose(x.T @ got, x.T @ wanted, atol=1e-3)  # x has more rows than columns: b is not unique


def test_multiclass_svm(peer: Any):
    x, labels = ported.data()
    y = jax.nn.one_hot(labels, 3, dtype=float)
    block_prox = peer.prox.make_prox_from_projection(peer.projection.projection_simplex)
    bcd = peer.BlockCoordinateDescent(peer.objective.multiclass_linear_svm_dual, block_prox, maxiter=10000, tol=1e-7)
    b = bcd.run(jnp.full(y.shape, 1 / 3), None, l2reg=1.0, data=(x, y)).params
    np.testing.assert_allclose(ported.multiclass_svm(x, y, 1.0), x.T @ (y - b), atol=1e-4)


def test_nmf(peer: Any):
    rng = np.random.default_rng(0)
    x, u, v = (jnp.asarray(rng.random(shape)) for shape in ((12, 8), (12, 3), (8, 3)))
    bcd = peer.BlockCoordinateDescent(
        peer.objective.least_squares, peer.prox.prox_non_negative_ridge, maxiter=5000, tol=1e-8
    )
    theirs = [u, v]
    for _ in range(2):
        theirs[1] = bcd.run(theirs[1].T, 0.01, data=(theirs[0], x)).params.T
        theirs[0] = bcd.run(theirs[0].T, 0.01, data=(theirs[1], x.T)).params.T
    for got, wanted in zip(ported.nmf(x, u, v, 0.01, 2), theirs, strict=True):
        np.testing.assert_allclose(got, wanted, atol=1e-5)


@pytest.mark.parametrize("name", ["lasso", "ridge"])
def test_tuned_hyperparameters(name: str, peer: Any):
    train, new = ported.regression(), ported.regression(seed=1)

    def outer(theta: Any, data: Any) -> Any:
        start, weight = jnp.zeros(10), jnp.exp(theta)
        if name == "lasso":
            solver = peer.ProximalGradient(peer.objective.least_squares, peer.prox.prox_lasso, maxiter=3000, tol=1e-9)
        else:
            solver = peer.GradientDescent(peer.objective.ridge_regression, maxiter=3000, tol=1e-9)
        return jnp.mean((new[0] @ solver.run(start, weight, data).params - new[1]) ** 2)

    solver = peer.OptaxSolver(outer, optax.adam(0.05))
    theta, wanted = jnp.array(-4.0), []
    state = solver.init_state(theta, data=train)
    for _ in range(5):
        theta, state = solver.update(theta, state, data=train)
        wanted.append(state.value)
    got = ported.tuned(lambda weight: getattr(ported, name)(train, weight), new, 5)
    np.testing.assert_allclose(got, wanted, rtol=1e-6)
    assert got[-1] < 0.995 * got[0]


def test_accelerated(peer: Any):
    train = ported.regression()
    rate = len(train[1]) / jnp.linalg.norm(train[0], 2) ** 2
    slope = jax.grad(lambda w: peer.objective.least_squares(w, train))
    solver = peer.AndersonAcceleration(lambda w: w - rate * slope(w), maxiter=2000, tol=1e-9)
    wanted = solver.run(jnp.zeros(10)).params
    plain, got = ported.accelerated(train, 30)
    np.testing.assert_allclose(got, wanted, atol=1e-4)
    assert jnp.max(jnp.abs(plain - wanted)) > 1e-2


def test_coordinate_descent(peer: Any):
    """JAXopt divides its steps by the number of points, 12, and so goes another way to the same end."""
    train = ported.regression(n=12)
    bcd = peer.BlockCoordinateDescent(peer.objective.least_squares, peer.prox.prox_lasso, maxiter=20000, tol=1e-9)
    wanted = bcd.run(jnp.zeros(10), 0.1, data=train).params
    np.testing.assert_allclose(ported.swept(train, 0.1, 1000), wanted, atol=1e-6)
    far = [np.linalg.norm(ported.swept(train, 0.1, 20, history) - wanted) for history in (None, 5)]
    assert far[1] < 0.1 * far[0]


def test_picard(peer: Any):
    """JAXopt's example calls SciPy in the map; the trapezoids of both are the same."""
    integrate = pytest.importorskip("scipy.integrate")
    y, t = ported.picard(100, 40, 5)
    solver = peer.AndersonAcceleration(
        lambda y: jnp.asarray(integrate.cumulative_trapezoid(1 + np.asarray(y) ** 2, initial=0, dx=float(t[1]))),
        maxiter=100, tol=1e-11, jit=False, implicit_diff=False,
    )  # fmt: skip
    np.testing.assert_allclose(y, solver.run(jnp.zeros(100)).params, atol=1e-8)
    np.testing.assert_allclose(y, np.tan(t), rtol=4e-3)  # of 100 trapezoids


def test_sparse_coding(peer: Any):
    x = ported.data()[0]
    d0 = jnp.linalg.svd(x, full_matrices=False)[2][:3]
    fun = lambda c, d, x: jnp.sum((c @ d - x) ** 2) / 2
    inner = peer.ProximalGradient(fun, peer.prox.prox_elastic_net, maxiter=2000, tol=1e-9)
    codes = lambda d: inner.run(jnp.zeros((30, 3)), [0.01, 0.01], d, x).params
    np.testing.assert_allclose(ported.codes(d0, x), codes(d0), atol=1e-7)
    sphere = lambda d, hyper, step: peer.projection.projection_l2_sphere(d)
    outer = peer.ProximalGradient(lambda d: fun(codes(d), d, x), sphere, acceleration=False, tol=1e-9, maxiter=200)
    wanted = outer.run(d0, None).params
    got = ported.sparse_coding(x, 3, 200)
    np.testing.assert_allclose(fun(codes(got), got, x), fun(codes(wanted), wanted, x), rtol=1e-4)
