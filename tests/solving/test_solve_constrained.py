"""`solve_constrained` and the Lagrangians: SciPy, the conditions of a minimum, finite differences, plain NumPy."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import PartitionSpec as P
from scipy.optimize import minimize

import gdjax
from tests.linesearch.problems import enable_x64

SEARCH = gdjax.scale_by_backtracking_linesearch(30, store_grad=True)  # compiles quickly
PLAIN = gdjax.bfgs(linesearch=SEARCH)
START = jnp.array([0.0, 6.0, 5.0, 1.0])  # beyond the bounds


def hs71(a: Any, **kwargs: Any) -> Any:
    """Problem 71 of Hock & Schittkowski, with the right sides multiplied by a."""
    return gdjax.solve_constrained(
        lambda x, a: x[0] * x[3] * (x[0] + x[1] + x[2]) + x[2], START.astype(float), a,
        equality=lambda x, a: jnp.sum(x**2) - 40 * a[0], inequality=lambda x, a: jnp.prod(x) - 25 * a[1],
        bounds=(1.0, 5.0), **kwargs,
    )  # fmt: skip


@pytest.mark.full
def test_hs71_and_its_derivatives():
    """The value of the book; finite differences; the multipliers are derivatives of the least value."""
    with enable_x64(True):

        @jax.jit
        def f(a, steps=1000):
            """Also the derivatives, forward and back, of one run."""

            def numbers(a):
                s = hs71(a, tol=1e-10, steps=steps)
                return jnp.concatenate([s.params, jnp.stack([*s.multipliers.values(), s.value])]), s

            out, push, s = jax.linearize(numbers, a, has_aux=True)
            (back,) = jax.vmap(jax.linear_transpose(push, a))(jnp.eye(7))
            return out, s, [jax.vmap(push, out_axes=1)(jnp.eye(2)), back]

        out, s, derivatives = f(jnp.ones(2))
        assert s.message == "converged" and bool(s.converged) and 0 < s.steps < 200 and s.error <= 1e-10
        assert s.infeasibility <= 1e-10
        np.testing.assert_allclose(s.value, 17.0140173, atol=1e-7)
        assert s.params[0] == 1 and s.multipliers["inequality"] > 0
        h = 1e-4
        expected = jnp.stack([(f(1 + h * e)[0] - f(1 - h * e)[0]) / (2 * h) for e in jnp.eye(2)], 1)
        for found in derivatives:
            np.testing.assert_allclose(found, expected, atol=1e-5)
        slopes = [40 * s.multipliers["equality"], 25 * s.multipliers["inequality"]]
        np.testing.assert_allclose(expected[-1], slopes, atol=1e-5)
        before, short = f(jnp.ones(2), 0)[1], f(jnp.ones(2), 15)[1]
        assert before.params.tolist() == [1, 5, 5, 1] and before.steps == 0
        assert short.steps == 15 and short.message == "all steps done"


def test_trees_in_float32_as_slsqp_and_under_vmap():
    """An inactive and an active inequality, trees of parameters and constraints, several right sides at once."""
    weights = np.array([1.0, 2.0, 3.0])

    def loss(p):
        return jnp.sum(jnp.asarray(weights, jnp.float32) * (p["w"] - 1) ** 2) + jnp.exp(p["b"])

    def found(b):
        return gdjax.solve_constrained(
            loss, {"w": jnp.zeros(3), "b": jnp.zeros(()), "n": jnp.arange(2), "none": None},
            equality=lambda p: {"sum": p["w"].sum() - b}, inequality=lambda p: [p["b"] + 1, 2 - p["w"]],
        )  # fmt: skip

    solutions = jax.jit(jax.vmap(found))(jnp.array([1.0, 2.0]))
    for i, b in enumerate((1.0, 2.0)):
        peer = minimize(
            lambda x: weights @ (x[:3] - 1) ** 2 + np.exp(x[3]), np.zeros(4), method="SLSQP",
            constraints=[
                {"type": "eq", "fun": lambda x, b=b: x[:3].sum() - b}, {"type": "ineq", "fun": lambda x: x[3] + 1}
            ],
        )  # fmt: skip
        np.testing.assert_allclose(solutions.params["w"][i], peer.x[:3], atol=2e-3)
        np.testing.assert_allclose(solutions.params["b"][i], -1, atol=2e-3)
    assert solutions.params["w"].dtype == jnp.float32 and (np.asarray(solutions.params["n"]) == [0, 1]).all()
    assert (solutions.message == "converged").all() and (solutions.multipliers["inequality"][1] == 0).all()
    np.testing.assert_allclose(solutions.multipliers["inequality"][0], np.exp(-1), atol=2e-3)


def test_the_augmented_lagrangian_is_that_of_the_book():
    rng = np.random.default_rng(0)
    h, g, lam, mu, rho = rng.normal(size=2), rng.normal(size=5), rng.normal(size=2), rng.uniform(size=5), 3.0
    al = gdjax.augmented_lagrangian(
        lambda x: x, lambda x: jnp.asarray(h, x.dtype) * x, lambda x: {"g": jnp.asarray(g, x.dtype) * x}, penalty=rho
    )
    with enable_x64(True):
        x = jnp.asarray(1.0)
        first = al.init(x)
        assert first.penalty == rho and (first.multipliers["equality"] == 0).all()
        state = first._replace(multipliers={"equality": jnp.asarray(lam), "inequality": {"g": jnp.asarray(mu)}})
        by_hand = 1 - lam @ h + rho / 2 * h @ h
        by_hand += sum((max(0, m - rho * c) ** 2 - m**2) / (2 * rho) for c, m in zip(g, mu, strict=True))
        np.testing.assert_allclose(al.loss(x, state), by_hand, rtol=1e-12)
        new = al.update(x, state)
        np.testing.assert_allclose(new.multipliers["equality"], lam - rho * h, rtol=1e-12)
        np.testing.assert_allclose(new.multipliers["inequality"]["g"], np.maximum(0, mu - rho * g), rtol=1e-12)
        violation = max(np.abs(h).max(), np.abs(np.minimum(g, mu / rho)).max())
        np.testing.assert_allclose(new.violation, violation, rtol=1e-12)
        assert new.penalty == rho  # of the first update there is none to compare with
        for share, penalty in ((0.51, 10 * rho), (0.49, rho)):
            before = state._replace(violation=jnp.asarray(violation / share))
            assert al.update(x, before).penalty == penalty
        most = al.update(x, state._replace(violation=jnp.asarray(violation), penalty=jnp.asarray(1e13)))
        np.testing.assert_allclose(most.penalty, 0.01 / np.finfo(float).eps, rtol=1e-12)
        al = gdjax.augmented_lagrangian(lambda x: x, lambda x: x, lambda x: x, penalty=rho, max_penalty=5.0)
        far = al.init(x)._replace(multipliers={"equality": jnp.asarray(-1e20), "inequality": jnp.asarray(1e20)})
        new = al.update(x, far._replace(violation=x))
        assert (*new.multipliers.values(), new.penalty) == (-1e16, 1e16, 5)


def test_the_lagrangian():
    game = gdjax.lagrangian(lambda x, a: a * jnp.sum(x**2), lambda x, a: x[0] - a, lambda x, a: x[1:])
    tree = game.init(jnp.array([1.0, 2.0, 3.0]), jnp.float32(2.0))
    assert (tree["multipliers"]["inequality"] == jnp.zeros(2)).all()
    tree["multipliers"] = {"equality": jnp.float32(5.0), "inequality": jnp.array([1.0, 2.0])}
    assert game.loss(tree, jnp.float32(2.0)) == 28 - 5 * (1 - 2) - (2 + 6)


STATUSES = {
    "infeasible": (lambda x: jnp.sum(x**2), lambda x: jnp.stack([x[0] - 1, -x[0]]), 5),
    "not finite at the start": (lambda x: jnp.sum(jnp.log(x - 1)), lambda x: x - 2, 2),
}


@pytest.mark.parametrize("name", STATUSES)
def test_the_status_of_what_has_no_solution(name):
    loss, inequality, status = STATUSES[name]
    with enable_x64(True):
        s = jax.jit(lambda x: gdjax.solve_constrained(loss, x, inequality=inequality, tx=PLAIN))(jnp.full(2, 0.25))
        assert s.status == status and not s.converged and s.infeasibility >= 0.49
        assert s.message == ("the constraints seem to have no solution", "not finite")[status == 2]


@pytest.mark.full
def test_a_search_leaves_no_domain_and_a_run_away_is_undone():
    """log is NaN beyond 0; x^3 falls without end where the penalty is too small for x >= -1."""
    with enable_x64(True):
        centre = jax.jit(
            lambda b: gdjax.solve_constrained(
                lambda x: -jnp.log(x).sum(), jnp.full(2, 8.0), equality=lambda x: x.sum() - b
            )
        )(1.0)
        assert centre.message == "converged"
        np.testing.assert_allclose(centre.params, [0.5, 0.5], atol=1e-7)
        np.testing.assert_allclose(centre.multipliers["equality"], -2, atol=1e-6)
        cubic = jax.jit(
            lambda x: gdjax.solve_constrained(lambda x: x**3, x, inequality=lambda x: x + 1, penalty=0.1, tx=PLAIN)
        )(-0.5)
        assert cubic.message == "converged"
        np.testing.assert_allclose([cubic.params, cubic.multipliers["inequality"]], [-1, 3], atol=1e-6)


@pytest.mark.full
def test_what_is_set_of_one_round():
    """x = 3/4 is the minimum of x^2 / 2 + 3 / 2 (x - b)^2 with b = 1."""

    def found(b):
        s = gdjax.solve_constrained(
            lambda x: x**2 / 2, 0.75, equality=lambda x: x - b, tx=PLAIN, tol=0.3, penalty=3.0, derivative=None
        )
        return (s.params, s.multipliers["equality"]), s

    _, slopes, s = jax.jit(lambda b: jax.jvp(found, (b,), (b,), has_aux=True))(1.0)
    assert s.steps == 0 and s.converged and s.multipliers["equality"] == 0.75 and s.infeasibility == 0.25
    assert slopes == (0, 0)


@pytest.mark.full
@pytest.mark.parametrize("x64", [False, True])
def test_no_member_of_a_batch_runs_on(x64):
    """x^2 = b from where the gradient is 0, to where it is 0, and with a solution."""
    with enable_x64(x64):
        s = jax.jit(
            jax.vmap(lambda x, b: gdjax.solve_constrained(jnp.zeros_like, x, equality=lambda x: x**2 - b, tx=PLAIN))
        )(jnp.array([0.0, 1.0, 1.0]), jnp.array([-1.0, -1.0, 4.0]))
        assert s.message.tolist() == [*["the constraints seem to have no solution"] * 2, "converged"]
        assert s.steps[0] == 0 and (s.steps < 200).all()
        np.testing.assert_allclose(s.params, [0, 0, 2], atol=1e-3)


def test_no_lower_point():
    """Where the tolerance is below the rounding of the loss."""
    s = jax.jit(
        lambda x: gdjax.solve_constrained(
            lambda x: jnp.sum(jnp.cosh(x - 0.3)), x, inequality=lambda x: x + 9, tx=PLAIN, tol=0.0, steps=2000
        )
    )(jnp.arange(3.0))
    assert s.message == "the line search finds no lower point" and s.steps < 200
    np.testing.assert_allclose(s.params, 0.3, atol=1e-3)


@pytest.mark.full
@pytest.mark.parametrize(("dtype", "tol"), [(jnp.bfloat16, 0.1), (jnp.float32, 1e-3)])
def test_parameters_over_devices(dtype, tol):
    mesh = jax.make_mesh((2,), ("d",), axis_types=(jax.sharding.AxisType.Auto,), devices=jax.devices()[:2])
    x = jax.device_put(jnp.zeros(4, dtype), jax.sharding.NamedSharding(mesh, P("d")))
    s = jax.jit(
        lambda x: gdjax.solve_constrained(
            lambda x: jnp.sum((x - 1) ** 2), x, equality=lambda x: x.astype(jnp.float32).sum() - 2, tx=PLAIN, tol=tol
        )
    )(x)
    assert s.converged and s.params.dtype == dtype and s.multipliers["equality"].dtype == jnp.float32
    np.testing.assert_allclose(s.params.astype(jnp.float32), 0.5, atol=tol)
    np.testing.assert_allclose(s.multipliers["equality"], -1, atol=3 * tol)


def good_sum(x):
    return x.sum() - 1


@pytest.mark.full
def test_an_optimizer_with_bounds_of_its_own():
    a = jnp.array([2.0, 0.5])
    tx = gdjax.lbfgs(bounds=(0.0, None), linesearch=SEARCH)
    found = jax.jit(lambda x: gdjax.solve_constrained(lambda x: jnp.sum((x - a) ** 2), x, equality=good_sum, tx=tx))
    np.testing.assert_allclose(found(jnp.zeros(2)).params, [1, 0], atol=2e-3)


def in_plane(x):
    return {"a": jax.lax.complex(x, x)}


def good(x):
    return x.sum()


@pytest.mark.parametrize(
    ("call", "kind", "match"),
    [
        (lambda f: f(good, jnp.ones(2)), ValueError, "there is no constraint"),
        (lambda f: f(good, jnp.ones(2), equality=3), TypeError, "equality must be a function"),
        (lambda f: f(good, jnp.ones(2), inequality=lambda x: x > 1), TypeError, "inequality has dtype bool.*differ"),
        (lambda f: f(good, jnp.ones(2), equality=in_plane), TypeError, r"equality\['a'\] has dtype complex"),
        (lambda f: f(good, jnp.ones(2), equality=lambda x: None), TypeError, "equality returned None"),
        (lambda f: f(good, jnp.arange(2), equality=good), TypeError, "params have no floating number"),
        (lambda f: f(lambda x: x, jnp.ones(2), equality=good), TypeError, "must return a real scalar"),
        (lambda f: f(good, jnp.ones(2), equality=good, tx=PLAIN, bounds=(0.0, 1.0)), ValueError, "bounds are those"),
        (lambda f: f(good, jnp.ones(2), equality=good, derivative="unrolled"), ValueError, "derivative must be"),
        (lambda f: f(good, jnp.ones(2), equality=good, tol=-1.0), ValueError, "tol must be at least 0"),
        (lambda f: f(good, jnp.ones(2), equality=good, tx=gdjax.adamw(0.1)), ValueError, "decays weights"),
    ],
)  # fmt: skip
def test_errors_name_the_function(call, kind, match):
    with pytest.raises(kind, match=f"gdjax.solve_constrained: .*{match}"):
        jax.eval_shape(lambda: call(gdjax.solve_constrained))


def test_errors_of_the_lagrangians():
    for make in (gdjax.lagrangian, gdjax.augmented_lagrangian):
        with pytest.raises(ValueError, match=f"gdjax.{make.__name__}: there is no constraint"):
            make(good)
    with pytest.raises(ValueError, match="growth must be between 1 and inf, got 1"):
        gdjax.augmented_lagrangian(good, good, growth=1)
    al = gdjax.augmented_lagrangian(good, lambda x: x)
    with pytest.raises(ValueError, match=r"multipliers\['equality'\] has shape \(3,\), and .* returns \(2,\)"):
        al.loss(jnp.ones(2), al.init(jnp.ones(3)))
