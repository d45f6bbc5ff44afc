"""An optimizer of the whole tree beside its oracle, a rule in NumPy for all the parameters as one vector.

An oracle is a generator, `oracle(x, gradient, value)`: it asks for the gradient with `gradient(t, x)` and for the
function's value with `value(t, x)`, and after each step t = 1, 2, ... yields x and a dict from fields of the state to
numbers. The function, its noise and the number of steps are those of `tests.oracles`.
"""

import functools
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import gdjax
from tests.oracles import NOISE, PARAMS, STEPS, fields, gradient, precision

Oracle = Callable[[Any, Any, Any], Iterator[tuple[Any, dict[str, Any]]]]
SIZES = {k: x.size for k, x in PARAMS.items()}


def joined(tree: Any) -> np.ndarray:
    return np.concatenate([np.ravel(np.asarray(tree[k], np.float64)) for k in PARAMS])


def value(t: int, x: Any) -> Any:
    """The function whose gradient `tests.oracles.gradient` is, of the vector x."""
    return np.sum(x**2 / 2 - np.cos(2 * x) / 4 + x * noise(t))


def noise(t: int) -> np.ndarray:
    return joined({k: n[t - 1] for k, n in NOISE.items()})


@functools.cache
def run(tx: Any, dtype: str) -> tuple[np.ndarray, list[dict[str, Any]]]:
    """The parameters as vectors after each step, and the numbers in the state."""

    @jax.jit
    def step(params: Any, state: Any, g: Any, value: Any) -> Any:
        updates, state = tx.update(g, state, params, value=value)
        return gdjax.apply_updates(params, updates), state

    with precision(dtype):
        params = {k: jnp.asarray(x.astype(dtype)) for k, x in PARAMS.items()}
        state, points, numbers = tx.init(params), [], []
        for t in range(1, STEPS + 1):
            g = {k: gradient(np.asarray(x), NOISE[k][t - 1].astype(dtype)) for k, x in params.items()}
            params, state = step(params, state, g, value(t, joined(params)))
            points.append(joined(params))
            numbers.append({k: np.asarray(v) for k, v in fields(state).items() if isinstance(v, jax.Array)})
        return np.stack(points), numbers


def expected(oracle: Oracle) -> tuple[np.ndarray, list[dict[str, Any]]]:
    steps = oracle(joined(PARAMS), lambda t, x: gradient(x, noise(t)), value)
    points, numbers = zip(*(next(steps) for _ in range(STEPS)), strict=True)
    return np.stack(points), list(numbers)


def assert_follows(tx: Any, oracle: Oracle, dtype: str, **tolerance: float) -> None:
    """Asserts that `tx`, in `dtype`, visits the oracle's points, with the oracle's numbers in its state."""
    default = 1e-5 if dtype == "float32" else 1e-12
    tolerance = tolerance or {"rtol": default, "atol": default}
    (xs, states), (want_xs, want_states) = run(tx, dtype), expected(oracle)
    np.testing.assert_allclose(xs, want_xs, **tolerance)
    assert want_states[0].keys() <= states[0].keys()
    for name in want_states[0]:
        got, want = ([s[name] for s in numbers] for numbers in (states, want_states))
        np.testing.assert_allclose(got, want, **tolerance, err_msg=name)
