"""Leaves of sizes around the widths of vector instructions: every element gets what it would get alone.

A kernel that leaves out the elements of whole blocks, or those behind the last of them, passes tests on small leaves.
"""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import gdjax
from tests.cases import CASES, SAMPLE, WRAPPERS, Case, by_name
from tests.support import quick_compilation
from tests.trees import precision

SIZES = (1, 7, 8, 15, 16, 17, 31, 33, 127, 129, 1000, 4099)
FEW_SIZES = (1, 7, 8, 17, 31, 129, 4099)  # in the ordinary suite: each size is a kernel to compile
PERIOD = 7  # leaves repeat as many different numbers: in every block of a power of two each stands somewhere else
STEPS = 2
DTYPES = ("float32", "bfloat16", "float16")

# Methods with a number of the whole leaf, a norm or a mean, which an element alone does not have.
PER_LEAF = (
    "adafactor adafactor/plain adafactor/torch adaptive_grad_clip clip_by_block_rms fromage lamb lamb/mask novograd "
    "scale_by_novograd "
    "scale_by_distance_over_gradients scale_by_factored_rms scale_by_param_block_norm scale_by_param_block_rms "
    "scale_by_trust_ratio stable_adamw scale_by_stable_adamw mars came scale_by_came adam_mini scale_by_adam_mini "
    "scion scion/constrained scale_by_scion"
).split()
# A probe of the Hessian, drawn for every element.
PROBING = ("sophia", "scale_by_sophia")
ZERO = ("hutchinson_estimator_diag_hessian", "set_to_zero")  # whose updates are
# A sum of two products, of which XLA makes a multiplication and a multiply-add with one rounding less: which of the two
# products keeps its rounding depends on the size. So these are equal up to roundings of the leaf's largest number.
CONTRACTED = (
    "adam/nesterov adabelief/nesterov adan adan/lookahead scale_by_adan nadam nadamw optimistic_adam "
    "optimistic_adam_v2 momo_adam scale_by_backtracking_linesearch lookahead radam/nesterov muon muon/spectral "
    "muon/aol schedule_free schedule_free_sgd"
).split()
ROUNDINGS = 4


def swept() -> Any:
    """Every case in each dtype and all sizes, in the ordinary run a sample with one dtype each and a few."""
    return pytest.mark.parametrize(
        ("case", "dtype", "sizes"),
        [
            pytest.param(case, dtype, sizes, id=f"{case.name}-{dtype}-{len(sizes)}", marks=marks)
            for case in CASES
            if case.name not in PROBING
            for dtype in DTYPES
            for sizes, marks in ((FEW_SIZES, []), (SIZES, [pytest.mark.slow]))
            if sizes is SIZES or case.sampled and case.name not in WRAPPERS and dtype == dtype_of(case)
        ],
    )


def dtype_of(case: Case) -> str:
    return DTYPES[SAMPLE.index(case.name) % len(DTYPES)]


def leaves(seed: int, dtype: Any, sizes: Sequence[int], alone: bool) -> Any:
    """Leaves of each size and, where asked for, the numbers that they repeat, each in a leaf of size 1."""
    rng = np.random.default_rng(seed)
    x = (rng.choice([-1, 1], PERIOD) * rng.uniform(0.25, 2, PERIOD)).astype(np.float32).astype(jnp.dtype(dtype))
    assert (x != 0).all() and np.unique(x.astype(np.float32)).size == PERIOD
    return {"sizes": [np.resize(x, n) for n in sizes], "alone": [x[i : i + 1] for i in range(PERIOD)] if alone else []}


def run(tx: Any, dtype: Any, sizes: Sequence[int], alone: bool, into: Any = None) -> list[Any]:
    """The updates of each step, in float64, from the numbers of `dtype`, computed with in the dtype `into`."""
    params, *gradients = (
        jax.tree.map(lambda x: jnp.asarray(x.astype(jnp.dtype(into or dtype))), leaves(i, dtype, sizes, alone))
        for i in range(1 + STEPS)
    )
    state, out, update, add = jax.jit(tx.init)(params), [], jax.jit(tx.update), jax.jit(gdjax.apply_updates)
    for g in gradients:
        updates, state = update(g, state, params)
        params = add(params, updates)
        out.append(jax.tree.map(lambda x: np.asarray(x, np.float64), updates))
    return out


def made(case: Case) -> Any:
    """The transform, without its noise if it has some."""
    return case.make(**(case.quiet if case.random else {}))


@pytest.mark.full
@swept()
def test_every_element_of_every_size(case: Case, dtype: str, sizes: Sequence[int]):
    per_leaf, compared, moved = case.name in PER_LEAF, 0, [np.zeros(n, bool) for n in sizes]
    roundings = ROUNDINGS * float(jnp.finfo(dtype).eps) if case.name in CONTRACTED else 0
    for updates in run(made(case), dtype, sizes, not per_leaf):
        assert [u.shape for u in updates["sizes"]] == [(n,) for n in sizes]
        for u, flags in zip(updates["sizes"], moved, strict=True):
            wanted = u[:PERIOD] if per_leaf else np.concatenate(updates["alone"])
            np.testing.assert_allclose(u, np.resize(wanted, u.size), rtol=0, atol=roundings * np.max(np.abs(wanted)))
            flags |= u != 0
            compared += u.size
    assert compared == STEPS * sum(sizes)
    assert case.name in ZERO or all(flags.all() for flags in moved)


@pytest.mark.full
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(
    ("name", "sizes"),
    [
        pytest.param(n, sizes, id=f"{n}-{len(sizes)}", marks=marks)
        for n in PER_LEAF
        for sizes, marks in ((FEW_SIZES, []), (SIZES, [pytest.mark.slow]))
        if sizes is SIZES or n in SAMPLE
    ],
)
def test_numbers_of_a_leaf_of_every_size(name: str, sizes: Sequence[int], dtype: str):
    tx = made(by_name(name))
    got = run(tx, dtype, sizes, False)
    with precision("float64"), quick_compilation():
        wanted = run(tx, dtype, sizes, False, "float64")
    # A sum over 4099 elements, by halves or by eights, is wrong by less than 64 roundings; a result is rounded once.
    # So are the parameters that the second step starts from, which an element near 0 may consist of.
    rtol = max(64 * float(jnp.finfo("float32").eps), float(jnp.finfo(dtype).eps))
    # A step that is as long as the distance so far is, in 16 bits, one of roundings.
    steps = 1 if name == "scale_by_distance_over_gradients" and dtype != "float32" else STEPS
    for us, ws in zip(got[:steps], wanted, strict=False):
        atol = rtol * max(np.max(np.abs(w)) for w in jax.tree.leaves(ws))
        for u, w in zip(jax.tree.leaves(us), jax.tree.leaves(ws), strict=True):
            np.testing.assert_allclose(u, w, rtol=rtol, atol=atol)
