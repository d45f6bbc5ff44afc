"""Minimizers of this library and of others, each as one function that runs it on a problem whose evaluations count."""

import functools
import inspect
import time
import warnings
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import optimistix
import scipy.optimize

import gdjax

Vector = np.ndarray


AGAIN = 5  # a run ends after so many questions for each evaluation that it has


class Spent(Exception):
    """The evaluations, or the seconds, of a run are used up."""


class Problem(NamedTuple):
    x0: Vector
    value_and_grad: Callable[[Vector], tuple[Any, Any]]  # compiled
    bounds: tuple[Vector, Vector] | None = None
    residuals: Callable[[Vector], Any] | None = None  # compiled, for least squares: f = |r|^2 / 2
    jacobian: Callable[[Vector], Any] | None = None


class Run:
    """One run: answers what a minimizer asks of the problem, and notes the points at which it asked.

    A point counts once, whether its value, its gradient (or Jacobian) or both are asked for, and however often.
    """

    def __init__(self, problem: Problem, budget: int, seconds: float):
        self.problem, self.budget = problem, budget
        self.until = time.process_time() + seconds
        self.points: list[Vector] = []
        self.known: dict[tuple[str, bytes], Any] = {}
        self.asked = 0
        self.ended = problem.x0  # the last iterate, of those that step here

    def answer(self, kind: str, f: Callable[[Vector], Any], x: Any) -> Any:
        x, self.asked = np.array(x, np.float64), self.asked + 1
        key = x.tobytes()
        if self.asked > AGAIN * self.budget:
            raise Spent("asks for the same points again")
        if time.process_time() > self.until:
            raise Spent("all seconds used")
        if ("point", key) not in self.known:
            if len(self.points) >= self.budget:
                raise Spent("all evaluations used")
            self.known["point", key] = True
            self.points.append(x)
        if (kind, key) not in self.known:
            self.known[kind, key] = jax.tree.map(lambda y: np.asarray(y, np.float64), f(x))
        return self.known[kind, key]

    def value_and_grad(self, x: Any) -> tuple[Any, Any]:
        return self.answer("value_and_grad", self.problem.value_and_grad, x)

    def residuals(self, x: Any) -> Any:
        return self.answer("residuals", self.problem.residuals, x)  # type: ignore[arg-type]

    def jacobian(self, x: Any) -> Any:
        return self.answer("jacobian", self.problem.jacobian, x)  # type: ignore[arg-type]


# --- In JAX: the function is a callback, so that a minimizer compiles once for each number of parameters --------------

RUN: list[Run] = []  # the one under way


def _ask(method: str, shapes: Any, x: Any) -> Any:
    return jax.pure_callback(lambda x: getattr(RUN[-1], method)(x), shapes, x, vmap_method="sequential")


def _of(*shape: int) -> Any:
    return jax.ShapeDtypeStruct(shape, jnp.float64)


@jax.custom_jvp
def value(x: Any) -> Any:
    return _ask("value_and_grad", (_of(), _of(*x.shape)), x)[0]


@value.defjvp
def _value_jvp(primals: Any, tangents: Any) -> Any:
    f, g = _ask("value_and_grad", (_of(), _of(*primals[0].shape)), primals[0])
    return f, jnp.vdot(g, tangents[0])


@functools.partial(jax.custom_jvp, nondiff_argnums=(0,))
def residuals(m: int, x: Any) -> Any:
    return _ask("residuals", _of(m), x)


@residuals.defjvp
def _residuals_jvp(m: int, primals: Any, tangents: Any) -> Any:
    (x,) = primals
    return _ask("residuals", _of(m), x), _ask("jacobian", _of(m, x.size), x) @ tangents[0]


def stepped(step: Callable[..., Any], state: Any, x0: Any) -> tuple[Vector, str]:
    """Steps until the evaluations are used up, or three steps have changed nothing."""
    x, still = jnp.asarray(x0), 0
    while still < 3:
        new, state = step(x, state)
        if not np.isfinite(new).all():
            return np.asarray(x), "a step that is not finite"
        still = still + 1 if bool((new == x).all()) else 0
        x = RUN[-1].ended = new
    return np.asarray(x), "no step lowers the function"


@functools.cache
def _ours(name: str, n: int, bounded: bool) -> tuple[Any, Any]:
    """The transform of a box that is an argument, and its compiled step."""

    def tx(box: Any) -> Any:
        return getattr(gdjax, name)(**({"bounds": box} if bounded else {}))

    @jax.jit
    def step(x: Any, state: Any, box: Any) -> Any:
        f, g = jax.value_and_grad(value)(x)
        u, state = tx(box).update(g, state, x, value=f, grad=g, value_fn=value)
        return gdjax.apply_updates(x, u), state

    return tx, step


def ours(name: str) -> Callable[[Run], tuple[Vector, str]]:
    def run(run: Run) -> tuple[Vector, str]:
        bounds = run.problem.bounds
        box = None if bounds is None else tuple(map(jnp.asarray, bounds))
        x0 = jnp.asarray(run.problem.x0)
        tx, step = _ours(name, x0.size, bounds is not None)
        return stepped(lambda x, state: step(x, state, box), tx(box).init(x0), x0)

    return run


@functools.cache
def _optax_step(n: int) -> tuple[Any, Any]:
    tx = optax.lbfgs()

    @jax.jit
    def step(x: Any, state: Any) -> Any:
        f, g = optax.value_and_grad_from_state(value)(x, state=state)
        u, state = tx.update(g, state, x, value=f, grad=g, value_fn=value)
        return optax.apply_updates(x, u), state

    return tx, step


def optax_lbfgs(run: Run) -> tuple[Vector, str]:
    x0 = jnp.asarray(run.problem.x0)
    tx, step = _optax_step(x0.size)
    return stepped(step, tx.init(x0), x0)


@functools.cache
def _gauss_newton_step(damping: float | None, m: int, n: int) -> tuple[Any, Any]:
    tx = gdjax.gauss_newton(damping)

    @jax.jit
    def step(x: Any, state: Any) -> Any:
        given = {"residual_fn": functools.partial(residuals, m)}
        given["jacobian_fn"] = lambda x: _ask("jacobian", _of(m, n), x)
        u, state = tx.update(x, state, x, **given)
        return gdjax.apply_updates(x, u), state

    return tx, step


def gauss_newton(damping: float | None) -> Callable[[Run], tuple[Vector, str]]:
    def run(run: Run) -> tuple[Vector, str]:
        x0 = jnp.asarray(run.problem.x0)
        tx, step = _gauss_newton_step(damping, run.residuals(x0).size, x0.size)
        return stepped(step, tx.init(x0), x0)

    return run


@functools.cache
def _optimistix(name: str, m: int, n: int) -> Any:
    tol = {"rtol": 1e-14, "atol": 1e-14}
    if name == "lm":
        solve, solver, f = (
            optimistix.least_squares,
            optimistix.LevenbergMarquardt(**tol),
            functools.partial(residuals, m),
        )
    else:
        solve, solver, f = optimistix.minimise, optimistix.BFGS(**tol), value
    return jax.jit(lambda x: solve(lambda x, _: f(x), solver, x, max_steps=100_000, throw=False).value)


def optimistix_run(name: str) -> Callable[[Run], tuple[Vector, str]]:
    def run(run: Run) -> tuple[Vector, str]:
        x0 = jnp.asarray(run.problem.x0)
        m = run.residuals(x0).size if name == "lm" else 0
        return np.asarray(_optimistix(name, m, x0.size)(x0)), "its tolerances are met"

    return run


# --- SciPy ------------------------------------------------------------------------------------------------------------


def scipy_minimize(method: str) -> Callable[[Run], tuple[Vector, str]]:
    # Its tolerances at 0: each goes on until it finds no step.
    options = {"BFGS": {"gtol": 0.0, "maxiter": 10**6}, "L-BFGS-B": {"ftol": 0.0, "gtol": 0.0, "maxiter": 10**6}}[
        method
    ]
    options |= {"maxfun": 10**6} if method == "L-BFGS-B" else {}

    def run(run: Run) -> tuple[Vector, str]:
        bounds = None if run.problem.bounds is None else scipy.optimize.Bounds(*run.problem.bounds)
        found = scipy.optimize.minimize(
            run.value_and_grad, run.problem.x0, jac=True, method=method, bounds=bounds, options=options
        )
        return found.x, str(found.message)

    return run


def scipy_least_squares(method: str) -> Callable[[Run], tuple[Vector, str]]:
    def run(run: Run) -> tuple[Vector, str]:
        found = scipy.optimize.least_squares(
            run.residuals, run.problem.x0, run.jacobian, method=method, x_scale="jac", ftol=1e-15, xtol=1e-15,
            gtol=1e-15, max_nfev=10**6,
        )  # fmt: skip
        return found.x, str(found.message)

    return run


MINIMIZERS: Mapping[str, Callable[[Run], tuple[Vector, str]]] = {
    "lbfgs": ours("lbfgs"),
    "bfgs": ours("bfgs"),
    "ssbroyden": ours("ssbroyden"),
    "SciPy BFGS": scipy_minimize("BFGS"),
    "SciPy L-BFGS-B": scipy_minimize("L-BFGS-B"),
    "Optimistix BFGS": optimistix_run("bfgs"),
    "Optax L-BFGS": optax_lbfgs,
}
LEAST_SQUARES: Mapping[str, Callable[[Run], tuple[Vector, str]]] = {
    "gauss_newton": gauss_newton(None),
    "gauss_newton, plain": gauss_newton(1e-3),
    "MINPACK": scipy_least_squares("lm"),
    "SciPy TRF": scipy_least_squares("trf"),
    "Optimistix L-M": optimistix_run("lm"),
}
WITH_BOUNDS = (
    *(m for m in ("lbfgs", "bfgs", "ssbroyden") if "bounds" in inspect.signature(getattr(gdjax, m)).parameters),
    "SciPy L-BFGS-B",
)


def run_of(name: str, problem: Problem, budget: int, seconds: float) -> tuple[Run, Vector, str]:
    """The run, where it ended, and why."""
    run = Run(problem, budget, seconds)
    RUN[:] = [run]
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            x, why = {**MINIMIZERS, **LEAST_SQUARES}[name](run)
    except Exception as e:  # Spent, alone or inside what JAX raises for a callback
        ends = "all evaluations used", "all seconds used", "asks for the same points again"
        spent = [why for why in ends if why in str(e)]
        x, why = None, spent[0] if spent else f"{type(e).__name__}: {str(e).splitlines()[0][:80]}"
    return run, x, why
