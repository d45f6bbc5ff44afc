"""What every transform promises about its state, its dtypes and the trees and calls it takes."""

import functools
from typing import Any

import chex
import flax.core
import flax.struct
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import gdjax
from gdjax.numerics import at_least_float32
from gdjax.testing import check_transform
from tests.cases import CASES, SAMPLE, Case, by_name, derived, every
from tests.trees import (
    Pair,
    assert_close,
    assert_equal,
    epsilon,
    finite,
    precision,
    random_tree,
    signature,
    steps,
)

GRADIENTS = [random_tree(seed) for seed in range(1, 6)]


def is_factory(f: Any) -> bool:
    """Whether `f` makes transforms: of `transform`, `leafwise` or `wrapper`, or declared to return what does."""
    makers = {gdjax.identity.__code__, gdjax.scale.__code__, gdjax.params_ema.__code__}
    returned = getattr(f, "__annotations__", {}).get("return")
    return getattr(f, "__code__", None) in makers or "GradientTransformation" in str(returned)


def test_every_factory_has_a_case():
    factories = {name for name in gdjax.__all__ if is_factory(getattr(gdjax, name))} - {
        "from_optax",
        "offload_state",
        "transfer",
    }  # one takes Optax's, one asks for a backend, one for a small model of the same structure
    assert len(factories) > 20
    assert factories - {case.covers for case in CASES} == set(), "transforms without a case in tests/declared/"
    assert {case.covers for case in CASES} <= set(gdjax.__all__)
    assert set(SAMPLE) <= {case.name for case in CASES}
    assert len({case.name for case in CASES}) == len(CASES)


@pytest.mark.parametrize("name", ["adam", "adamw", "lamb", "lion", "sgd"])
def test_the_case_of_an_optimizer_can_be_derived(name):
    declared, case = by_name(name), derived(name)
    assert (case.covers, case.needs_params, case.quiet) == (name, declared.needs_params, dict(declared.quiet))
    tx, params = case.make(), random_tree(0)
    updates, _ = tx.update(GRADIENTS[0], tx.init(params), params)
    assert finite(updates)


def like(kind: str, tree: Any) -> Any:
    """The tree as Python floats (of scalars), NumPy float64 arrays, or arrays of the dtype `kind`."""
    if kind == "python":
        return jax.tree.map(lambda x: float(jnp.sum(x)), tree)
    if kind == "numpy":
        return jax.tree.map(lambda x: np.asarray(x, np.float64), tree)
    return jax.tree.map(lambda x: x.astype(kind), tree)


@every(thin=6, kind=["float32", "bfloat16", "python", "numpy"])
def test_five_steps_are_one_trace(case: Case, kind: str):
    tx, traces = case.make(), 0

    @jax.jit
    def step(params: Any, state: Any, g: Any) -> Any:
        nonlocal traces
        traces += 1
        updates, state = tx.update(g, state, params)
        return gdjax.apply_updates(params, updates), state, updates

    params, gradients = like(kind, random_tree(0)), [like(kind, g) for g in GRADIENTS]
    first = state = tx.init(params)
    assert not any(weak for _, _, weak in signature(state)[1])
    jitted = params
    for g in gradients:
        new, state, updates = step(jitted, state, g)
        assert signature(state) == signature(first)
        dtypes = [jnp.asarray(x).dtype for x in jax.tree.leaves(g)]
        dtypes = [at_least_float32(d) for d in dtypes] if case.wide else dtypes
        assert [u.dtype for u in jax.tree.leaves(updates)] == dtypes
        assert [p.dtype for p in jax.tree.leaves(new)] == [jnp.asarray(p).dtype for p in jax.tree.leaves(params)]
        if kind != "python":  # a sum with a strongly typed update is no longer a Python float
            jitted = new
    assert traces == 1


SHOWN_BY_TRACING = "state", "updates", "init", "masked", "empty", "scalars", "narrow"
SHOWN_BY_STEPS = "jit", "scan", "vmap", "donate", "mesh"
# Two gradients of a 3 by 2 kernel make a statistic that is singular but for its damping: the condition of its root is
# 1e3 and more, and so many times larger come out the other roundings, 1e-7, of the products in a `vmap`.
ROOTS = dict.fromkeys(["shampoo", "shampoo/newton", "scale_by_shampoo"], 1e-4)


@every(thin=3)
def test_the_kit_finds_nothing_by_tracing(case: Case):
    updates: Any = "any" if case.wide else "gradient"
    check_transform(case.make(), random_tree(0), checks=SHOWN_BY_TRACING, updates=updates)
    shapes = jax.eval_shape(lambda: random_tree(0, "bfloat16"))
    assert signature(case.make().init(shapes)) == signature(case.make().init(random_tree(0, "bfloat16")))


@every(sampled=True)
def test_the_kit_finds_nothing_in_steps(case: Case):
    tol = ROOTS.get(case.name, 2e-6)
    check_transform(case.make(), random_tree(0), grads=GRADIENTS, checks=SHOWN_BY_STEPS, rtol=tol, atol=tol)


def through_control_flow(tx: Any, params: Any, gradients: Any) -> Any:
    """Four updates: two under scan, one under cond, one under while_loop; all want the state they gave back."""
    state = tx.init(params)

    def step(carry: Any, g: Any) -> Any:
        params, state = carry
        updates, state = tx.update(g, state, params)
        return gdjax.apply_updates(params, updates), state

    stacked = jax.tree.map(lambda *xs: jnp.stack(xs), *gradients[:2])
    carry, _ = jax.lax.scan(lambda carry, g: (step(carry, g), None), (params, state), stacked)
    carry = jax.lax.cond(jnp.zeros(()) == 0, lambda c: step(c, gradients[2]), lambda c: c, carry)
    _, carry = jax.lax.while_loop(lambda c: c[0] < 1, lambda c: (c[0] + 1, step(c[1], gradients[3])), (0, carry))
    return carry


def control_flow(case: Case, dtype: str) -> tuple[Any, ...]:
    tx, trees = case.make(), [random_tree(seed, dtype) for seed in range(5)]
    return tx, trees[0], trees[1:], functools.partial(through_control_flow, tx)


@every(thin=6, dtype=["float32", "bfloat16", "float16", "float64"])
def test_state_is_a_fixed_point_of_control_flow(case: Case, dtype: str):
    with precision(dtype):  # tracing is what finds a state that has changed
        tx, params, gradients, run = control_flow(case, dtype)
        assert signature(jax.eval_shape(run, params, gradients)) == signature((params, tx.init(params)))


@every(sampled=True, few=1, dtype=["float32", "float64", "bfloat16", "float16"])
def test_numbers_in_control_flow(case: Case, dtype: str):
    with precision(dtype):
        tx, params, gradients, run = control_flow(case, dtype)
        got = jax.jit(run)(params, gradients)
        assert signature(got) == signature((params, tx.init(params))) and finite(got)
        if jnp.dtype(dtype).itemsize > 2:
            assert_close(got, steps(tx, params, gradients), rtol=16 * epsilon(dtype), atol=16 * epsilon(dtype))


@every(lambda case: case.complex, thin=8)
def test_complex_numbers(case: Case):
    tx, params, gradients, run = control_flow(case, "complex64")
    got = steps(tx, params, gradients[:2])
    assert signature(got) == signature((params, tx.init(params))) and finite(got)
    if case.sampled:
        assert signature(jax.eval_shape(run, params, gradients)) == signature(got)
    zero, tx = jax.tree.map(jnp.zeros_like, params), case.make(**case.quiet) if case.quiet else tx
    assert_equal(tx.update(zero, tx.init(params), params)[0], zero)


@every(sampled=True)
def test_extra_arguments_are_accepted(case: Case):
    tx, params, g = case.make(), random_tree(0), GRADIENTS[0]
    state = tx.init(params)
    wanted = tx.update(g, state, params)
    assert_equal(tx.update(g, state, params, value=jnp.ones(()), loss=1.0), wanted)
    # A function among them cannot go through the compiled call.
    assert_close(tx.update(g, state, params, value_fn=jnp.sum, grad=g), wanted)


@every(lambda case: not case.needs_params)
def test_params_may_be_left_out(case: Case):
    tx, params, g = case.make(), random_tree(0), GRADIENTS[0]
    state = tx.init(params)
    without, beside = jax.eval_shape(tx.update, g, state), jax.eval_shape(tx.update, g, state, params)
    assert signature(without) == signature(beside)
    if case.sampled:
        assert_close(tx.update(g, state), tx.update(g, state, params))


@every(lambda case: case.needs_params)
def test_params_are_asked_for(case: Case):
    tx = case.make()
    with pytest.raises(ValueError, match=r"^gdjax\.\w+: this transform needs params"):
        tx.update(GRADIENTS[0], tx.init(random_tree(0)))


@chex.dataclass
class ChexParams:
    x: Any
    y: Any


@flax.struct.dataclass
class FlaxParams:
    x: Any
    y: Any


def contained(seed: int) -> Any:
    """Every kind of container, a leaf that is None, a scalar, and leaves without elements."""
    a, b, *rest = jax.tree.leaves(random_tree(seed, shapes=[(2,), (3, 2), (), (0,), (0, 3)]))
    flax_params = FlaxParams(x=Pair(rest[0], rest[1]), y={"z": rest[2]})
    return flax.core.freeze({"chex": ChexParams(x=a, y=(b, None)), "flax": [flax_params]})


@every(sampled=True)
def test_any_container_of_any_leaf(case: Case):
    tx, params, g = case.make(), contained(0), contained(1)
    state = tx.init(params)
    updates, new = tx.update(g, state, params)
    assert jax.tree.structure(updates) == jax.tree.structure(params)
    assert signature(new) == signature(state)
    assert [u.shape for u in jax.tree.leaves(updates)] == [p.shape for p in jax.tree.leaves(params)]
    assert jax.tree.structure(gdjax.apply_updates(params, updates)) == jax.tree.structure(params)
    # The container makes no difference to the numbers.
    plain, values = [jax.tree.leaves(t) for t in (params, g)]
    assert_close(jax.tree.leaves(updates), tx.update(values, tx.init(plain), plain)[0])
