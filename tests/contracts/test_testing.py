"""The checks of `gdjax.testing` find what is wrong on purpose, and say where."""

import functools
import re
import unittest
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import optax
import pytest

import gdjax
from gdjax.testing import CHECKS, assert_same_trajectory, check_transform
from tests.support import relaxed

ROOT = Path(__file__).parents[2]
PARAMS = {"w": jnp.full((8, 2), 0.5), "b": jnp.zeros(2), "s": jnp.ones(())}
like = functools.partial(jax.tree.map, jnp.zeros_like)


def momentum(g: Any, state: Any, params: Any = None) -> Any:
    state = jax.tree.map(lambda m, x: 0.9 * m + x, state, g)
    return jax.tree.map(lambda m: -0.1 * m, state), state


def normalized(g: Any, state: Any, params: Any = None) -> Any:
    return jax.tree.map(lambda x: x / jnp.sqrt(jnp.sum(x * x)), g), state


def decayed(g: Any, state: Any, params: Any) -> Any:
    return jax.tree.map(lambda x, p: x - 0.1 * p, g, params), state


def squared(g: Any, state: Any, params: Any = None) -> Any:
    return jax.tree.map(lambda x: x * x * 1e-30, g), state


def wide(g: Any, state: Any, params: Any = None) -> Any:
    return jax.tree.map(lambda x: x.astype(jnp.float32), g), state


def summed(g: Any, state: Any, params: Any = None) -> Any:
    total = sum(jnp.sum(x) for x in jax.tree.leaves(g))
    return jax.tree.map(lambda x: x * (total - total + 1).astype(x.dtype), g), state


def untraced(g: Any, state: Any, params: Any = None) -> Any:
    first = jax.tree.leaves(g)[0]
    off = 0.0 if isinstance(first, jax.core.Tracer) else 1.0
    return jax.tree.map(lambda x: x + off, g), state


def batched(g: Any, state: Any, params: Any = None) -> Any:
    """Another step where a gradient is one of several."""
    several = "BatchTracer" in type(jax.tree.leaves(g)[0]).__name__
    return jax.tree.map(lambda x: x * (2.0 if several else 1.0), g), state


@jax.custom_batching.custom_vmap
def first_of_batch(x: Any) -> Any:
    return x


@first_of_batch.def_vmap
def _(size: int, batched: Any, x: Any) -> Any:
    return jnp.broadcast_to(x[:1], x.shape), True


def counted(g: Any, state: Any, params: Any = None) -> Any:
    return g, {"n": state["n"] + 1.0}


def rows(g: Any, state: Any, params: Any = None) -> Any:
    return jax.tree.map(lambda x: x.reshape(x.shape[0], -1).reshape(x.shape), g), state


def column(g: Any, state: Any, params: Any = None) -> Any:
    return {**g, "b": g["b"][:, None]}, state


def named(g: Any, state: Any, params: Any = None) -> Any:
    return {**g, "b": g["b"] * 1.0}, state


def by_the_first(g: Any, state: Any, params: Any = None) -> Any:
    dtype = jax.tree.leaves(g)[0].dtype
    return jax.tree.map(lambda x: x.astype(dtype), g), state


ZEROS = like(PARAMS)
COUNT = lambda p: {"n": jnp.zeros((), jnp.int32)}
SLIPS: dict[str, tuple[Any, Any, str]] = {
    "state": (COUNT, counted, r"state\['n'\] is float32\[\]( of weak type)? after an update, int32\[\] at init"),
    "updates": (like, column, r"updates\['b'\] is float32\[2,1\] as an update, float32\[2\] as a gradient"),
    "init": (lambda p: p, momentum, r"state\['b'\] and params\['b'\] are one buffer"),
    "jit": (like, untraced, r"params\['b'\]\[0\] is 3\..* op by op, -?0\..* compiled"),
    "scan": (COUNT, counted, "it raises TypeError"),
    "vmap": (like, batched, r"params\['b'\]\[0\] is .* as tree 0 of a vmap, .* alone"),
    "donate": (lambda p: ZEROS, momentum, "it raises RuntimeError: Array has been deleted"),
    "zero": (like, normalized, r"updates\['b'\]\[0\] is nan after a gradient of zeros"),
    "huge": (like, squared, r"updates\['b'\]\[0\] is inf after a huge gradient"),
    "nonfinite": (like, summed, r"updates\['s'\] is not finite too, after a NaN in the gradient\['b'\]"),
    "masked": (like, named, "it raises TypeError"),
    "empty": (like, by_the_first, "it raises IndexError"),
    "scalars": (like, rows, "it raises IndexError"),
    "narrow": (like, wide, r"updates\['b'\] is float32\[2\] as an update, bfloat16\[2\] as a gradient"),
}


@pytest.mark.whole
@pytest.mark.parametrize("label", SLIPS)
def test_each_check_finds_its_slip(label: str):
    init, update, said = SLIPS[label]
    with relaxed(), pytest.raises(AssertionError, match=rf"gdjax.testing: [\w.]+.*:\n- {label}: {said}"):
        check_transform((init, update), PARAMS, checks=[label], nonfinite="leaf")


def test_every_check_has_a_slip_and_right_rules_have_none():
    assert CHECKS.keys() == SLIPS.keys() | {"mesh"}
    check_transform((like, momentum), PARAMS, zero="zero")
    with relaxed():
        # A sign rule answers one huge gradient with one step.
        check_transform(optax.lion(1e-3, weight_decay=0.0), PARAMS, zero="zero")
    with pytest.raises(AssertionError, match=r"zero: updates\['s'\] is -0.1 after a gradient of zeros, not 0"):
        check_transform((like, decayed), PARAMS, zero="zero", but=["empty"], name="decay")


def test_other_numbers_on_a_mesh_are_found():
    starts = [0.0, 1.0]  # of the run on one device, and of that on eight

    def init(params: Any) -> Any:
        return {"b": jnp.full(1, starts.pop())}

    with pytest.raises(AssertionError, match=r"mesh: state\['b'\]\[0\] is 1 over 8 devices, 0 on one"):
        check_transform((init, lambda g, s, p=None: (g, s)), PARAMS, checks=["mesh"])


def test_a_leaf_spoilt_by_another_is_found_where_the_other_is_mended():
    def mended(g: Any, state: Any, params: Any = None) -> Any:
        return {**g, "b": jnp.nan_to_num(g["b"]), "w": g["w"] + 0 * jnp.sum(g["b"])}, state

    with (
        relaxed(),
        pytest.raises(AssertionError, match=r"updates\['w'\] is not finite too, after a NaN in the gr.*'b'"),
    ):
        check_transform((like, mended), PARAMS, checks=["nonfinite"], nonfinite="leaf")


def test_models_mixed_by_their_batch_are_found():
    """The moment of all models is that of none: seen although this rule does not mind the scale of gradients."""

    def mixed(g: Any, state: Any, params: Any = None) -> Any:
        state = jax.tree.map(lambda m, x: 0.9 * m + jnp.sign(x), state, g)
        return jax.tree.map(lambda m: -0.1 * jnp.sign(m), state), state

    check_transform((like, mixed), PARAMS, checks=["vmap"])
    with pytest.raises(AssertionError, match="as tree 1 of a vmap"):
        check_transform((like, lambda g, s, p=None: mixed(jax.tree.map(first_of_batch, g), s)), PARAMS, checks=["vmap"])


def test_integers_among_parameters():
    params = {"w": jnp.ones((8, 2)), "n": jnp.arange(3)}
    check_transform(gdjax.adam(1e-3), params, nonfinite="leaf")
    assert_same_trajectory(gdjax.adam(1e-3), gdjax.adam(1e-3), params)


def test_findings_of_one_transform_come_together():
    slip = SLIPS["state"]
    with relaxed(), pytest.raises(AssertionError) as error:
        check_transform(slip[:2], PARAMS, checks=["state", "jit", "narrow"], name="mine")
    assert re.findall(r"^- (\w+)", str(error.value), re.MULTILINE) == ["state", "jit"]  # a state is told of once
    assert "gdjax.testing: mine:" in str(error.value)


def test_unknown_checks_are_refused():
    with pytest.raises(ValueError, match="no check is named vmapp; there are state, updates"):
        check_transform(gdjax.sgd(0.1), PARAMS, but=["vmapp"])


def test_trajectories_are_compared_step_by_step():
    parts = gdjax.chain(gdjax.scale_by_adam(), gdjax.scale(-1e-3))
    assert_same_trajectory(gdjax.adam(1e-3), parts, PARAMS)
    late = optax.adam(lambda n: jnp.where(n < 2, 1e-3, 2e-3))
    with relaxed():
        assert_same_trajectory(gdjax.adam(1e-3), late, PARAMS, steps=2, loss_fn=lambda p: jnp.sum(p["w"] ** 2))
        with pytest.raises(AssertionError, match=r"step 3 of 5: updates\['b'\]\[0\] is .* by adam\(.*, .* by optax"):
            assert_same_trajectory(gdjax.adam(1e-3), late, PARAMS)


def test_the_page_is_a_test_file_that_passes():
    page: dict[str, Any] = {"__name__": "page"}
    (code,) = re.findall(r"```python\n(.*?)```", (ROOT / "docs" / "test_your_own.md").read_text(), re.DOTALL)
    exec(code, page)
    for name in [name for name in page if name.startswith("test_")]:
        page[name]()
    result = unittest.TestResult()
    unittest.defaultTestLoader.loadTestsFromTestCase(page["Variants"]).run(result)
    assert result.testsRun == 5 and result.wasSuccessful(), result.failures + result.errors
