"""Functions to minimize, the loop around a transform, and Optax's counterpart of it."""

import contextlib
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from tests.support import relaxed

IRIS = np.loadtxt(Path(__file__).parents[1] / "data" / "iris.csv", delimiter=",")
enable_x64 = jax.enable_x64 if hasattr(jax, "enable_x64") else jax.experimental.enable_x64


class Problem(NamedTuple):
    f: Callable[[Any], Any]
    start: Any  # a tree of NumPy arrays


def rosenbrock(p: Any) -> jax.Array:
    x = jnp.concatenate([p["x"], p["y"].reshape(-1)])
    return jnp.sum(100 * (x[1:] - x[:-1] ** 2) ** 2 + (1 - x[:-1]) ** 2)


def beale(p: Any) -> jax.Array:
    x, y = p
    return (1.5 - x + x * y) ** 2 + (2.25 - x + x * y**2) ** 2 + (2.625 - x + x * y**3) ** 2


def logistic(p: Any) -> jax.Array:
    """Versicolor against virginica, with a little weight decay."""
    rows = IRIS[50:]
    features = jnp.asarray((rows[:, :4] - rows[:, :4].mean(0)) / rows[:, :4].std(0), p["w"].dtype)
    margin = (features @ p["w"] + p["b"]) * jnp.asarray(2 * rows[:, 4] - 3, p["w"].dtype)
    return jnp.mean(jnp.logaddexp(0, -margin)) + 5e-3 * jnp.sum(p["w"] ** 2)


PROBLEMS = {
    "rosenbrock": Problem(rosenbrock, {"x": np.array([-1.2]), "y": np.array([[1.0]])}),
    "beale": Problem(beale, (np.array(1.0), np.array(1.0))),
    "logistic": Problem(logistic, {"w": np.zeros(4), "b": np.array(0.0)}),
}


def cast(tree: Any, dtype: Any) -> Any:
    return jax.tree.map(lambda x: jnp.asarray(x, dtype), tree)


def run(tx: Any, f: Callable[[Any], Any], params: Any, steps: int, state: Any = None) -> Any:
    """Params, state, value and gradient before each of the updates, and the updates: trees with an axis of steps."""

    def step(carry: Any, _: None) -> Any:
        params, state = carry
        value, grad = jax.value_and_grad(f)(params)
        updates, new_state = tx.update(grad, state, params, value=value, grad=grad, value_fn=f)
        new = jax.tree.map(lambda p, u: p + u, params, updates)
        return (new, new_state), (params, new_state, value, grad, updates)

    if state is None:
        state = tx.init(params)
    state = strong(state)
    return jax.jit(lambda params, state: jax.lax.scan(step, (params, state), length=steps)[1])(params, state)


def strong(tree: Any) -> Any:
    """The tree without weak types: Optax's states begin with some, and a scan wants them as they come back."""
    return jax.tree.map(lambda x: jax.lax.convert_element_type(x, jnp.asarray(x).dtype), tree)


def run_optax(*args: Any) -> Any:
    with relaxed():
        return run(*args)


def apply(params: Any, updates: Any) -> Any:
    return optax.apply_updates(params, updates)


def precision(dtype: str) -> contextlib.AbstractContextManager[Any]:
    return enable_x64(dtype == "float64")
