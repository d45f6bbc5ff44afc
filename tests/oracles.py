"""An optimizer beside its oracle, the paper's rule in NumPy: 50 steps on one problem, compared after every step.

An oracle is a generator for one array, `oracle(x, gradient)`: it asks for the gradient with `gradient(t, x)`, and after
each step t = 1, 2, ... yields x and its state, a dict from the state's field to its value.
"""

import contextlib
import functools
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import gdjax
from tests.support import relaxed

STEPS = 50
COUNTS = {"count", "t", "count_m2"}
SHAPES = {"matrix": (4, 3), "vector": (5,), "scalar": ()}
Oracle = Callable[[Any, Callable[[int, Any], Any]], Iterator[tuple[Any, dict[str, Any]]]]

# |library - oracle| <= atol + rtol |oracle|, for numbers of order 1 to 10. A step rounds each number about five times
# by half an ulp, 6e-8 in float32 and 1e-16 in float64. The function below is convex, so that the errors of the steps
# add up and do not grow: after 50 they would be 1.5e-5 if all had one sign, and are less than a tenth of that.
TOLERANCE = {"float32": {"rtol": 2e-6, "atol": 2e-6}, "float64": {"rtol": 1e-14, "atol": 1e-14}}


def _problem() -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    """Parameters and a noise for every step; both are exact in float32."""
    rng = np.random.default_rng(0)
    params = {k: rng.normal(size=shape).astype(np.float32) for k, shape in SHAPES.items()}
    noise = {k: rng.normal(size=(STEPS, *shape)).astype(np.float32) for k, shape in SHAPES.items()}
    params["vector"][0], noise["vector"][:, 0] = 0, 0  # an element whose gradient is always 0
    return params, noise


PARAMS, NOISE = _problem()


def gradient(x: Any, noise: Any) -> Any:
    """Of x^2 / 2 - cos(2 x) / 4 + noise x, whose second derivative goes from 0 to 2."""
    return x + 0.5 * np.sin(2 * x) + noise


def fall(count: Any) -> Any:
    """A schedule with values that every dtype holds exactly."""
    return jnp.where(count < 20, 0.0625, 0.015625)


@contextlib.contextmanager
def precision(dtype: str) -> Iterator[None]:
    """Inside the block arrays may have `dtype`."""
    jax.config.update("jax_enable_x64", dtype == "float64")
    try:
        yield
    finally:
        jax.config.update("jax_enable_x64", False)


@functools.cache
def run(tx: Any, dtype: str = "float32") -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """The parameters after each step and the fields of the state, each stacked over the steps."""

    @jax.jit
    def step(params: Any, state: Any, grads: Any) -> Any:
        updates, state = tx.update(grads, state, params)
        return gdjax.apply_updates(params, updates), state

    with precision(dtype):
        params, noise = ({k: x.astype(dtype) for k, x in tree.items()} for tree in (PARAMS, NOISE))
        state, points = tx.init(jax.tree.map(jnp.asarray, params)), []
        for t in range(STEPS):
            grads = {k: gradient(np.asarray(x), noise[k][t]) for k, x in params.items()}
            params, state = step(params, state, grads)
            points.append((params, fields(state)))
        return jax.tree.map(lambda *xs: np.stack(xs), *points)


def fields(state: Any) -> dict[str, Any]:
    """The fields of all the states in a chain, by name, but PRNG keys; those inside a mask or beside a schedule too."""
    found: dict[str, Any] = {}
    if hasattr(state, "_fields"):
        for name, value in zip(state._fields, state, strict=True):
            found |= fields(value) if name == "inner_state" else {} if name == "key" else {name: value}
    else:
        for part in state:
            found |= fields(part)
    return found


def expected(oracle: Oracle) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """What `run` returns, from the oracle."""
    params, state = {}, {}
    for leaf, x in PARAMS.items():
        steps = oracle(np.float64(x), lambda t, x, leaf=leaf: gradient(x, np.float64(NOISE[leaf][t - 1])))
        xs, states = zip(*(next(steps) for _ in range(STEPS)), strict=True)
        params[leaf] = np.stack(xs)
        for name in states[0]:
            state.setdefault(name, {})[leaf] = np.stack([s[name] for s in states])
    return params, state


def assert_same(got: Any, want: Any, some: bool = False, **tolerance: float) -> None:
    """Compares what two runs return; counts must be 1, 2, ...

    A field of the state may be one number for the whole tree. With `some` the state has other fields than those wanted.
    """
    (params, state), (want_params, want_state) = got, want
    for name in COUNTS & state.keys():
        np.testing.assert_array_equal(state[name], np.arange(1, STEPS + 1))
    slots, want_slots = ({k: v for k, v in s.items() if k not in COUNTS} for s in (state, want_state))
    assert slots.keys() >= want_slots.keys() if some else slots.keys() == want_slots.keys()
    for name, tree, want_tree in [("params", params, want_params), *((k, slots[k], want_slots[k]) for k in want_slots)]:
        for leaf in SHAPES:
            a, b = (np.asarray(t[leaf] if isinstance(t, dict) else t, np.float64) for t in (tree, want_tree))
            np.testing.assert_allclose(a, b, **tolerance, err_msg=f"{name}[{leaf!r}]")


def assert_follows(tx: Any, oracle: Oracle, dtype: str, some: bool = False, **tolerance: float) -> None:
    """Asserts that `tx`, in `dtype`, visits the oracle's points with the oracle's states."""
    got = run(tx, dtype)
    assert {x.dtype.name for x in got[0].values()} == {dtype}
    assert_same(got, expected(oracle), some, **(tolerance or TOLERANCE[dtype]))


def assert_like_optax(make: Callable[[Any], Any], rtol: float = 1e-5, atol: float = 2e-6) -> None:
    """Asserts that what `make` returns for either library visits the same points with the same states."""
    with relaxed():
        want = run(make(optax))
    assert_same(run(make(gdjax)), want, rtol=rtol, atol=atol)


def distance(a: Oracle, b: Oracle) -> float:
    """How far apart the points of two oracles get."""
    (xs, _), (ys, _) = expected(a), expected(b)
    return max(float(np.max(np.abs(xs[leaf] - ys[leaf]))) for leaf in SHAPES)


def at(rate: Any, t: int) -> float:
    """A number or schedule at step t = 1, 2, ..., where a schedule counts the updates made before."""
    return float(rate(t - 1)) if callable(rate) else rate


def named(kwargs: Any) -> str:
    """Arguments as the name of a case, functions by their names: the same in every process."""
    return str({k: getattr(x, "__name__", x) for k, x in kwargs.items()} if isinstance(kwargs, dict) else kwargs)


def jaxopt() -> Any:
    """JAXopt, the oracle of proximal methods. It is archived: a later JAX may not import it."""
    with warnings.catch_warnings(action="ignore"):
        return pytest.importorskip("jaxopt", exc_type=ImportError)
