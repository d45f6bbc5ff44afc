"""Every transform beside its twin in Optax: 50 steps with states, and Optax's state and checkpoint going on here."""

import functools
import inspect
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import orbax.checkpoint as ocp
import pytest

import gdjax
from tests import oracles
from tests.cases import SAMPLE, TWINS
from tests.contracts.test_surface import SURFACE
from tests.declare import Twin, one_in
from tests.support import relaxed
from tests.trees import is_key, is_shape

STEPS, HANDOVER = 50, 10
LIBRARIES = {"gdjax": gdjax, "optax": optax}


def every_twin(*, sampled: bool = False, thin: int = 1) -> Any:
    """In the scope of the module, so that the tests of one twin follow each other and share its runs.

    `make test` runs with `sampled` those of the cases in `SAMPLE` alone, with `thin` also one in so many of the others.
    """

    def marks(twin: Twin) -> list[Any]:
        slow = twin.name not in SAMPLE and (sampled or not one_in(thin, twin.name))
        return [pytest.mark.slow] if slow else []

    params = [pytest.param(twin, id=twin.name, marks=marks(twin)) for twin in TWINS]
    return pytest.mark.parametrize("twin", params, scope="module")


# Optax's factories whose parity is tested elsewhere, and those that are the whole of an optimizer that has a twin.
ELSEWHERE = {
    **dict.fromkeys(["lbfgs", "scale_by_lbfgs"], "linesearch/test_parity.py"),
    **dict.fromkeys(["scale_by_zoom_linesearch", "scale_by_backtracking_linesearch"], "linesearch/test_parity.py"),
    **dict.fromkeys(["accumulate_avg_updates", "average_incrementally_updates"], "experimental/test_aggregating.py"),
    **dict.fromkeys(["process", "track_per_element_mean_and_variance_with_ema"], "experimental/test_aggregating.py"),
    "inject_stateful_hyperparams": "combine/test_inject.py",
    "scale_by_acprop": "acprop",
    "scale_by_adopt": "adopt",
    "scale_by_cocob": "cocob",
    "scale_by_madgrad": "madgrad",
    "scale_by_polyak": "polyak_sgd",
    "scale_by_simplified_ademamix": "simplified_ademamix",
}


def test_every_factory_of_optax_has_a_twin():
    functions = {name.split(".")[-1]: x for name, x in SURFACE if inspect.isfunction(x)}
    made = {n for n, f in functions.items() if "GradientTransformation" in str(inspect.signature(f).return_annotation)}
    twins = {twin.covers for twin in TWINS}
    assert made - twins - set(ELSEWHERE) == set() and len(made) > 100
    assert all(place in twins or (Path(__file__).parents[1] / place).is_file() for place in ELSEWHERE.values())
    assert len({twin.name for twin in TWINS}) == len(TWINS)


class Run(NamedTuple):
    params: list[Any]  # after each step
    state: Any  # after the last
    before: Any  # arguments of the step after HANDOVER steps: gradients, state, parameters, extra arguments
    after: Any  # its result: updates, state


def problem(twin: Twin) -> tuple[Any, Any]:
    """Parameters and a noise for every step, exact in float32; one element never has a gradient."""
    rng = np.random.default_rng(0)

    def draw(lead: tuple[int, ...]) -> Any:
        sizes = dict(twin.shapes)
        tree = jax.tree.map(lambda n: rng.normal(size=(*lead, *n)).astype(np.float32), sizes, is_leaf=is_shape)
        for x in jax.tree.leaves(tree):
            if x.ndim > len(lead):
                x.reshape(*lead, -1)[..., 0] = 0
        return tree

    return draw(()), draw((STEPS,))


def loss(params: Any, noise: Any) -> Any:
    """The function whose gradient `oracles.gradient` is."""
    pairs = zip(*map(jax.tree.leaves, (params, noise)), strict=True)
    return sum(np.sum(x**2 / 2 - np.cos(2 * x) / 4 + x * n) for x, n in pairs)


@functools.cache
def run(twin: Twin, library: str, dtype: str) -> Run:
    tx: Any = twin.make(LIBRARIES[library])
    start, noise = jax.tree.map(lambda x: x.astype(dtype), problem(twin))
    names = sorted(twin.extra(0.0, None, None)) if twin.extra else []

    @jax.jit
    def step(g: Any, state: Any, params: Any, extra: Any) -> Any:
        updates, state = tx.update(g, state, params, **dict(zip(names, extra, strict=True)))
        return updates, state, gdjax.apply_updates(params, updates)

    params = jax.tree.map(jnp.asarray, start)
    state, points, before, after = tx.init(params), [], None, None
    for t in range(STEPS):
        n = jax.tree.map(lambda x, t=t: x[t], noise)
        x = jax.tree.map(np.asarray, params)
        g = jax.tree.map(lambda x, n: np.asarray(oracles.gradient(x, n), dtype), x, n)
        value = sum(
            np.sum(x**2 / 2 - np.cos(2 * x) / 4 + x * n) for x, n in zip(*map(jax.tree.leaves, (x, n)), strict=True)
        )
        extra = twin.extra(np.asarray(value, dtype), g, x) if twin.extra else {}
        args = g, state, params, [extra[name] for name in names]
        updates, state, params = step(*args)
        if t == HANDOVER:
            before, after = (g, args[1], args[2], extra), (updates, state)
        points.append(params)
    return Run(jax.tree.map(np.asarray, points), state, before, after)


def trajectory(twin: Twin, library: str, dtype: str) -> Run:
    with oracles.precision(dtype):
        if library == "gdjax":
            return run(twin, library, dtype)
        with relaxed():
            return run(twin, library, dtype)


def tolerance(twin: Twin, dtype: str) -> float:
    return twin.rtol if dtype == "float32" else twin.rtol64


def assert_near(got: Any, want: Any, exact: Any, tolerance: float, where: str) -> None:
    """|got - want| <= tolerance (1 + |want|) + |want - exact|, where `exact` is Optax in float64.

    In float32 Optax's 1 - b^t, a difference, is wrong by 1e-5 and more, which is not to be copied.
    """
    x, y, z = (np.asarray(jax.random.key_data(x) if is_key(x) else x) for x in (got, want, exact))
    assert x.shape == y.shape, where
    if x.dtype.kind not in "fc":
        np.testing.assert_array_equal(x, y, where)
        return
    near = np.abs(x - y) <= tolerance * (1 + np.abs(y)) + np.abs(y - z)
    np.testing.assert_array_equal(np.where(near, y, x), y, f"{where}, not within {tolerance:g}")


def assert_same_state(got: Any, want: Any, exact: Any, tolerance: float, where: str = "state") -> None:
    """The same classes, fields, keys and lengths, and close numbers."""
    if hasattr(want, "_fields"):
        assert (type(got).__name__, got._fields) == (type(want).__name__, want._fields), where
        got, want, exact = got._asdict(), want._asdict(), exact._asdict()
    if isinstance(want, dict):
        assert set(got) == set(want), where
        for key in want:
            assert_same_state(got[key], want[key], exact[key], tolerance, f"{where}[{key!r}]")
    elif isinstance(want, tuple | list):
        assert len(got) == len(want), where
        for i, parts in enumerate(zip(got, want, exact, strict=True)):
            assert_same_state(*parts, tolerance, f"{where}[{i}]")
    elif want is None:
        assert got is None, where
    else:
        assert_near(got, want, exact, tolerance, where)


def paths(tree: Any) -> list[str]:
    return [jax.tree_util.keystr(path) for path, _ in jax.tree_util.tree_leaves_with_path(tree)]


def assert_same_steps(twin: Twin, dtype: str) -> None:
    got, want, exact = trajectory(twin, "gdjax", dtype), *(trajectory(twin, "optax", d) for d in (dtype, "float64"))
    for t, trees in enumerate(zip(got.params, want.params, exact.params, strict=True), start=1):
        for path, *leaves in zip(paths(trees[0]), *map(jax.tree.leaves, trees), strict=True):
            assert leaves[0].dtype == leaves[1].dtype
            assert_near(*leaves, tolerance(twin, dtype), f"params{path} after step {t}")
    if not twin.reset:
        assert_same_state(got.state, want.state, exact.state, tolerance(twin, dtype))


@every_twin(thin=3)
def test_fifty_steps(twin: Twin):
    assert_same_steps(twin, "float64")


@every_twin(sampled=True)
def test_fifty_steps_in_float32(twin: Twin):
    assert_same_steps(twin, "float32")


def assert_goes_on(twin: Twin, state: Any, dtype: str) -> None:
    """The next step from `state`, which is Optax's of that moment, is Optax's next step."""
    want, exact = (trajectory(twin, "optax", d) for d in (dtype, "float64"))
    g, _, params, extra = want.before
    with oracles.precision(dtype):
        updates, new = twin.make(gdjax).update(g, state, params, **extra)
    for leaves in zip(*map(jax.tree.leaves, (updates, want.after[0], exact.after[0])), strict=True):
        assert_near(*leaves, tolerance(twin, dtype), "updates")
    assert_same_state(new, want.after[1], exact.after[1], tolerance(twin, dtype))


# The numbers of all states are compared above, and their classes in `interop/test_optax.py`.
@every_twin(sampled=True)
def test_a_state_of_optax_goes_on_here(twin: Twin):
    if twin.reset:
        pytest.skip(twin.reset)
    assert_goes_on(twin, trajectory(twin, "optax", "float64").before[1], "float64")


@every_twin(sampled=True)
def test_a_checkpoint_of_optax_goes_on_here(twin: Twin, tmp_path: Any):
    if twin.reset:
        pytest.skip(twin.reset)
    _, state, params, _ = trajectory(twin, "optax", "float32").before
    wanted = twin.make(gdjax).init(params)
    with ocp.StandardCheckpointer() as checkpointer:
        checkpointer.save(tmp_path / "state", state)
        checkpointer.wait_until_finished()
        restored = checkpointer.restore(tmp_path / "state", wanted)
    assert jax.tree.structure(restored) == jax.tree.structure(wanted)
    assert_goes_on(twin, restored, "float32")
