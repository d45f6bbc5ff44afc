"""`layer_axes`: leading axes of a leaf that are layers, each with numbers of its own, as if the layers were leaves."""

import inspect
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import gdjax
from tests.cases import CASES, every
from tests.declare import Case
from tests.support import relaxed

SHAPES = {"stack": (3, 4, 6), "pair": (2, 2, 3, 4), "plain": (4, 6), "biases": (3, 6)}
LEAD = {"stack": 1, "pair": 2, "plain": 0, "biases": 1}
STATIC = {"layer_axes": {"stack|biases": 1, "pair": 2}}


def numbers(seed: int, dtype: Any) -> Any:
    """Arrays whose layers differ in size."""
    rng = np.random.default_rng(seed)
    found = {}
    for name, shape in SHAPES.items():
        lead = shape[: LEAD[name]]
        sizes = rng.uniform(0.1, 8, lead).reshape(lead + (1,) * (len(shape) - len(lead)))
        found[name] = jnp.asarray(rng.normal(size=shape) * sizes, dtype)
    return found


def apart(tree: Any) -> Any:
    """Each layer as a leaf."""
    return {
        f"{name}{i}": x
        for name, whole in tree.items()
        for i, x in enumerate(whole.reshape(-1, *whole.shape[LEAD[name] :]) if LEAD[name] else [whole])
    }


def updates(tx: Any, params: Any, split: Any, dtype: Any) -> list[Any]:
    """The updates of three steps; `split` makes the tree."""
    tree = split(params)
    state, found = tx.init(tree), []
    step = jax.jit(tx.update)
    for seed in (1, 2, 3):
        u, state = step(split(numbers(seed, dtype)), state, tree)
        tree = gdjax.apply_updates(tree, u)
        found.append(u)
    return found


def masks_by_rank(case: Case) -> bool:
    """Whether masks take a stack of vectors for a matrix."""
    return any("mask" in name for name in case.fixed)


def by_layer(case: Case) -> bool:
    return "layer_axes" in inspect.signature(getattr(gdjax, case.covers)).parameters


def _around(name: str) -> Case:
    """A case of a transform around another."""
    return Case(name, lambda **hyper: getattr(gdjax, name)(gdjax.sgd(0.1, momentum=0.5), **hyper))


TESTED = [c for c in CASES if by_layer(c) and "layer_axes" in inspect.signature(c.factory).parameters]
TESTED += [_around("cautious"), _around("mars")]


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
@pytest.mark.parametrize("case", [pytest.param(c, id=c.name) for c in TESTED])
def test_as_the_layers_apart(case: Case, dtype: Any):
    with relaxed():
        params = numbers(0, dtype)
        together = updates(case.make(**STATIC), params, lambda tree: tree, dtype)
        alone = updates(case.make(), params, apart, dtype)
        for u, v in zip(together, alone, strict=True):
            for name, x in apart(u).items():
                if name.startswith("biases") and masks_by_rank(case):
                    continue
                scale = float(jnp.max(jnp.abs(v[name].astype(jnp.float32))))
                tolerance = 2e-6 if dtype == jnp.float32 else 2.0**-7
                np.testing.assert_allclose(
                    x.astype(jnp.float32), v[name].astype(jnp.float32), rtol=tolerance, atol=tolerance * scale
                )


def is_alike(case: Case) -> bool:
    """Whether a stack takes the steps of its layers without being told that it is one."""
    p, g = numbers(0, jnp.float32)["stack"], numbers(1, jnp.float32)["stack"]
    one, all_in_one = [dict(enumerate(x)) for x in (p, g)], [{0: x} for x in (p, g)]
    tx = case.make()
    u, v = (tx.update(tree[1], tx.init(tree[0]), tree[0])[0] for tree in (one, all_in_one))
    whole = np.stack([u[i] for i in u])
    return bool(np.allclose(whole, v[0], rtol=1e-3, atol=1e-4 * float(np.max(np.abs(whole)))))


# Where roles, or numbers of dimensions, say which axes of a stack are a matrix; without them it is none, or another.
MATRICES = (
    "adam_mini apollo dion galore matrixwise muon scale_by_adam_mini scale_by_apollo scale_by_dion scale_by_dion2 "
    "scale_by_galore scale_by_kl_shampoo scale_by_kl_soap scale_by_muon scale_by_normuon scale_by_psgd_kron "
    "scale_by_shampoo scale_by_soap scale_by_soap_muon"
).split()
WHOLE = {
    "differentially_private_aggregate": "the first axis is that of the examples",
    "dpsgd": "the first axis is that of the examples",
    "scale_by_zoom_linesearch": "its loss is of a tree of another form",
}


@every(lambda case: not case.random, thin=3)
def test_what_takes_one_number_of_a_leaf_takes_layer_axes(case: Case):
    """A new rule that mixes the layers of a stack is told of by this test."""
    if case.covers in MATRICES or case.covers in WHOLE:
        return
    with relaxed():
        assert is_alike(case) or by_layer(case)


def test_all_that_take_it_are_tested():
    assert {c.covers for c in CASES if by_layer(c)} == {c.covers for c in TESTED}


@pytest.mark.parametrize("name", "lamb lars novograd adafactor".split())
def test_the_sweep_sees_them(name: str):
    with relaxed():
        assert not is_alike(next(case for case in CASES if case.name == name))
