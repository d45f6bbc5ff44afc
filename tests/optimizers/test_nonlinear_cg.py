"""Nonlinear conjugate gradients: against the formulas, linear conjugate gradients, JAXopt, and by counts of steps."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import gdjax
from tests.oracles import jaxopt, precision

METHODS = "polak-ribiere", "hestenes-stiefel", "fletcher-reeves", "dai-yuan"
RNG = np.random.default_rng(0)


def beta(method: str, g: Any, old: Any, d: Any) -> float:
    """Of the survey of Hager & Zhang, with the restarts that the docstring names."""
    y = g - old
    found = {
        "polak-ribiere": lambda: max(g @ y, 0) / (old @ old),
        "hestenes-stiefel": lambda: max(g @ y, 0) / (d @ y),
        "fletcher-reeves": lambda: g @ g / (old @ old),
        "dai-yuan": lambda: g @ g / (d @ y),
    }[method]()
    if method in ("hestenes-stiefel", "dai-yuan") and d @ y <= 0:
        return 0.0
    if method in ("fletcher-reeves", "dai-yuan") and abs(g @ old) >= 0.2 * (g @ g):
        return 0.0
    return found if g @ (-g + found * d) < 0 else 0.0


def gradients() -> np.ndarray:
    """Some in a row that begin anew for each reason, and that do not."""
    gs = RNG.normal(size=(14, 6)) * np.geomspace(1, 0.1, 14)[:, None]
    for i in range(1, 14, 2):  # orthogonal, so that Powell's restart is not always there
        gs[i] -= (gs[i] @ gs[i - 1]) / (gs[i - 1] @ gs[i - 1]) * gs[i - 1]
    gs[6], gs[10], gs[12] = -3 * gs[5], 0.9 * gs[9] + 0.1 * gs[10], 1.5 * gs[11] + 2 * gs[12]
    return gs


@pytest.mark.parametrize("method", METHODS)
def test_the_direction_is_the_surveys(method):
    with precision("float64"):
        tx = gdjax.scale_by_nonlinear_cg(method)
        shaped = lambda g: {"a": jnp.asarray(g[:4]).reshape(2, 2), "b": jnp.asarray(g[4:])}
        gs, update = gradients(), jax.jit(tx.update)
        state, u, old, betas = tx.init(shaped(gs[0])), gs[0], np.zeros(6), []
        for i in range(len(gs) + 1):
            g = gs[i] if i < len(gs) else 2 * old + u  # at the end the gradient grows along u
            found, state = update(shaped(g), state)
            betas.append(beta(method, g, old, -u) if i else 0.0)
            u, old = g + betas[-1] * u, g
            np.testing.assert_allclose(np.concatenate([found["a"].ravel(), found["b"]]), u, rtol=1e-12)
    assert 0 < np.count_nonzero(betas) < 14, betas


@pytest.mark.parametrize("method", METHODS)
def test_a_quadratic_ends_in_as_many_steps_as_it_has_dimensions(method):
    """With exact steps all four are linear conjugate gradients."""
    d = 6
    basis = np.linalg.qr(RNG.normal(size=(d, d)))[0]
    h = basis @ np.diag(np.geomspace(1, 30, d)) @ basis.T
    with precision("float64"):
        tx, x = gdjax.scale_by_nonlinear_cg(method), jnp.asarray(RNG.normal(size=d))
        update, state, size = jax.jit(tx.update), tx.init(x), []
        for _ in range(d):
            g = h @ x
            u, state = update(g, state)
            x = x - (g @ u) / (u @ h @ u) * u
            size.append(float(jnp.linalg.norm(h @ x)))
    assert size[-1] < 1e-10 < 1e-3 < size[-2]


def rosenbrock(x: Any) -> Any:
    return jnp.sum(100 * (x[1:] - x[:-1] ** 2) ** 2 + (1 - x[:-1]) ** 2)


@pytest.mark.parametrize(("method", "most"), [*zip(METHODS, (200, 200, 120, 120), strict=True)])
def test_rosenbrock(method, most):
    """Without restarts the third and the fourth need thousands of steps."""
    x = jnp.array([-1.2, 1.0] * 3)
    tx = gdjax.nonlinear_cg(method=method)
    found = jax.jit(lambda x: gdjax.solve(rosenbrock, x, tx, steps=most, tol=1e-2))(x)
    assert found.message == "converged"
    np.testing.assert_allclose(found.params, 1, atol=1e-2)


@pytest.mark.full
@pytest.mark.parametrize("method", METHODS[:3:2])
def test_fewer_steps_than_jaxopt(method):
    x, settings = jnp.array([-1.2, 1.0]), {"tol": 1e-3, "maxiter": 300}
    ours = gdjax.minimize(rosenbrock, x, gdjax.nonlinear_cg(method=method), steps=300, grad_tol=1e-3)
    theirs = jaxopt().NonlinearCG(rosenbrock, method=method, **settings).run(x)
    np.testing.assert_allclose(ours.params, theirs.params, atol=5e-3)
    assert len(ours.history["loss"]) < theirs.state.iter_num / 2


@pytest.mark.parametrize("method", METHODS)
def test_gradients_of_any_size_make_the_same_directions(method):
    """In float32 squares of 1e-25 are 0."""
    tx = gdjax.scale_by_nonlinear_cg(method)
    gs = [jnp.asarray(g, "float32") for g in ([2.0, 0.25], [0.125, -1.0], [-0.5, -0.0625])]

    def directions(unit: float) -> Any:
        state, found = tx.init(gs[0]), []
        for g in gs:
            u, state = tx.update(unit * g, state)
            found.append(u / unit)
        return np.stack(found)

    expected = directions(1.0)
    assert (expected != np.stack(gs)).any()
    for unit in (2.0**-84, 2.0**40):
        np.testing.assert_array_equal(directions(unit), expected)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("bad", ["nan", "a step of 0", "far larger"])
def test_it_begins_anew(method, bad):
    """After a gradient that is not a number or far shorter, and where a search has found no lower point."""
    tx = gdjax.scale_by_nonlinear_cg(method)
    first, g = jnp.array([1.0, 2.0, 0.5]), jnp.array([-2.0, 1.0, 0.25])
    _, state = tx.update(first, tx.init(first))
    u, state = tx.update(g, state)
    assert (u != g).any()
    u, state = tx.update({"a step of 0": g, "nan": g.at[0].set(jnp.nan), "far larger": g / 2000}[bad], state)
    if bad != "a step of 0":
        assert jnp.isnan(u[0]) == (bad == "nan")
        u, state = tx.update(g, state)
    np.testing.assert_array_equal(u, g)


def test_complex_numbers_are_pairs_of_real_ones():
    tx = gdjax.scale_by_nonlinear_cg("hestenes-stiefel")
    pairs = RNG.normal(size=(4, 3, 2)).astype("float32")
    a, b = tx.init(jnp.zeros(3, "complex64")), tx.init(jnp.zeros((3, 2)))
    for pair in pairs:
        u, a = tx.update(jax.lax.complex(*map(jnp.asarray, (pair[:, 0], pair[:, 1]))), a)
        v, b = tx.update(jnp.asarray(pair), b)
        np.testing.assert_allclose(jnp.stack([u.real, u.imag], 1), v, rtol=1e-5)


def test_errors_name_what_is_wrong():
    wrong: Any = "steepest"
    with pytest.raises(ValueError, match=r"gdjax.nonlinear_cg: method must be one of .*steepest"):
        gdjax.nonlinear_cg(method=wrong)
    with pytest.raises(TypeError, match="gdjax.nonlinear_cg: argument linesearch is 'steepest'"):
        gdjax.nonlinear_cg(linesearch=wrong)
