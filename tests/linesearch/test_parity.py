"""Line searches against Optax's, step by step, with every field of the state."""

import functools
import inspect
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import gdjax
from gdjax.linesearch.backtracking import scale_by_backtracking_linesearch
from gdjax.linesearch.zoom import scale_by_zoom_linesearch
from gdjax.optimizers.lbfgs import lbfgs
from tests.linesearch.problems import PROBLEMS, cast, precision, run, run_optax, strong

STEPS = 50
METHODS: dict[str, tuple[Any, Any]] = {
    "lbfgs": (lbfgs, optax.lbfgs),
    "lbfgs, short memory, backtracking": (
        lambda: lbfgs(0.9, 2, False, scale_by_backtracking_linesearch(20, store_grad=True)),
        lambda: optax.lbfgs(0.9, 2, False, optax.scale_by_backtracking_linesearch(20, store_grad=True)),
    ),
    "zoom": (
        lambda: gdjax.chain(gdjax.sgd(1.0), scale_by_zoom_linesearch(20)),
        lambda: optax.chain(optax.sgd(1.0), optax.scale_by_zoom_linesearch(20)),
    ),
    "zoom, tight": (
        lambda: gdjax.chain(gdjax.sgd(1.0), scale_by_zoom_linesearch(15, 4.0, 1e-6, 3.0, 1e-3, 0.1, None, 1e-6, "one")),
        lambda: optax.chain(
            optax.sgd(1.0), optax.scale_by_zoom_linesearch(15, 4.0, 1e-6, 3.0, 1e-3, 0.1, None, 1e-6, "one")
        ),
    ),
    "backtracking": (
        lambda: gdjax.chain(gdjax.sgd(1.0), scale_by_backtracking_linesearch(20)),
        lambda: optax.chain(optax.sgd(1.0), optax.scale_by_backtracking_linesearch(20)),
    ),
}
# Backtracking lets pairs of negative curvature through, which this library skips, on the other two functions.
RUNS = [
    *(("lbfgs", problem) for problem in PROBLEMS if problem != "rosenbrock"),
    ("zoom", "beale"),
    ("backtracking", "beale"),
]
# Of these searches, alone, on the functions on which `lbfgs` runs them, or close to.
MORE = [
    *((method, problem) for method in ("zoom", "backtracking") for problem in PROBLEMS if problem != "beale"),
    ("lbfgs", "rosenbrock"),
    ("zoom, tight", "logistic"),
    ("lbfgs, short memory, backtracking", "logistic"),
]


@functools.cache
def optax_run(method: str, problem: str, dtype: str) -> Any:
    f, start = PROBLEMS[problem]
    with precision(dtype):
        return run_optax(METHODS[method][1](), f, cast(start, dtype), STEPS)


def names(state: Any) -> Any:
    """The classes of a state and their fields, all the way down."""
    fields = getattr(state, "_fields", None)
    return (type(state).__name__, fields, *map(names, state)) if isinstance(state, tuple) else None


def converged(grads: Any, part: float) -> int:
    """The first step whose gradient is at most a part of the first one: from there on rounding decides."""
    sizes = np.sqrt(sum((np.asarray(g, float) ** 2).reshape(STEPS, -1).sum(1) for g in jax.tree.leaves(grads)))
    n = int(np.argmax(sizes < sizes[0] * part)) or STEPS
    assert n >= 5
    return n


def assert_equal(got: Any, expected: Any, n: int, rtol: float) -> None:
    """Equal numbers in the first n steps, relative to the largest number of the same array in the same step."""
    for x, y in zip(jax.tree.leaves(got), jax.tree.leaves(expected), strict=True):
        x, y = (np.asarray(z, float).reshape(STEPS, -1)[:n] for z in (x, y))
        size = np.abs(np.where(np.isfinite(y), y, 0)).max(1, keepdims=True)
        np.testing.assert_allclose(x / np.where(size > 0, size, 1), y / np.where(size > 0, size, 1), rtol=0, atol=rtol)


@pytest.mark.full
@pytest.mark.parametrize(("method", "problem"), [*RUNS, *(pytest.param(*x, marks=pytest.mark.slow) for x in MORE)])
def test_trajectory(method: str, problem: str):
    f, start = PROBLEMS[problem]
    expected = optax_run(method, problem, "float64")
    with precision("float64"):
        got = run(METHODS[method][0](), f, cast(start, "float64"), STEPS)
        assert_equal(got, expected, converged(expected[3], 1e-6), 1e-8)
    assert names(got[1]) == names(expected[1])


@pytest.mark.full
@pytest.mark.parametrize(
    ("method", "problem"),
    [
        ("lbfgs", "logistic"),
        pytest.param("zoom", "logistic", marks=pytest.mark.slow),
        ("backtracking", "beale"),
        pytest.param("lbfgs", "rosenbrock", marks=pytest.mark.slow),
    ],
)
def test_each_step_in_float32(method: str, problem: str):
    """From each of the states that Optax comes to: rounding is not multiplied from step to step."""
    ours, theirs = METHODS[method]
    f, start = PROBLEMS[problem]
    params, states, values, grads, updates = optax_run(method, problem, "float32")
    before = jax.tree.map(
        lambda x0, x: jnp.concatenate([x0[None], x[:-1]]), strong(theirs().init(cast(start, "float32"))), states
    )
    tx = ours()
    step = jax.jit(lambda p, s, v, g: tx.update(g, s, p, value=v, grad=g, value_fn=f))
    inputs = params, before, values, grads
    steps = [step(*jax.tree.map(lambda x, k=k: x[k], inputs)) for k in range(STEPS)]
    got = jax.tree.map(lambda *xs: np.stack(xs), *steps)
    assert_equal(got, (updates, states), converged(grads, 1e-3), 1e-5)


@pytest.mark.full
@pytest.mark.parametrize("method", ["lbfgs", "zoom", "backtracking"])
def test_optax_state_goes_on(method: str):
    f = PROBLEMS["beale"].f
    params, states, _, _, updates = optax_run(method, "beale", "float64")
    with precision("float64"):
        before, start = jax.tree.map(lambda x: x[6], states), jax.tree.map(lambda x: x[7], params)
        tx, (value, grad) = METHODS[method][0](), jax.value_and_grad(f)(start)
        got = tx.update(grad, before, start, value=value, grad=grad, value_fn=f)
        for x, y in zip(jax.tree.leaves(got), jax.tree.leaves((updates, states)), strict=True):
            np.testing.assert_allclose(x, y[7], rtol=1e-9, atol=1e-12)
            assert x.dtype == y.dtype


def test_signatures_are_those_of_optax():
    pairs = [
        (lbfgs, optax.lbfgs),
        (scale_by_zoom_linesearch, optax.scale_by_zoom_linesearch),
        (scale_by_backtracking_linesearch, optax.scale_by_backtracking_linesearch),
    ]
    for ours, theirs in pairs:
        mine = [p for p in inspect.signature(ours).parameters.values() if p.kind is not p.KEYWORD_ONLY]
        other = list(inspect.signature(theirs).parameters.values())
        assert [p.name for p in mine] == [p.name for p in other]
        assert [p.default for p in mine if p.name != "linesearch"] == [
            p.default for p in other if p.name != "linesearch"
        ]
