"""A run whose state is divided over eight devices goes on on four, two and one, and back on eight.

What was restored has the bits that were saved, and the next five steps are those of the run that nobody interrupted:
to the bit where an optimizer only computes element by element, else up to the rounding of sums, whose order changes.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp
import pytest
from jax.sharding import Mesh, NamedSharding, PartitionSpec

import gdjax
from tests.cases import CASES, Case
from tests.resume.bits import bits
from tests.resume.target import TAKES_SHAPES_OF_KEYS
from tests.trees import is_key, numbers, random_tree

# Two kernels of one shape, so that a stack has several matrices. On eight devices a kernel has 32 numbers on each: of
# 16 and fewer XLA:CPU rounds the same formula otherwise.
SHAPES = {"dense": {"kernel": (32, 8), "bias": (8,)}, "other": (32, 8), "scale": ()}
MIN_BYTES = 1024  # of a kernel
STEPS = 5  # odd, so that intervals of two are cut in their middle
# Keys, windows, accumulators, codes, stacks, histories, groups.
SAMPLE = "adamw noisy_sgd MultiSteps adafactor soap lbfgs quantize_state partition".split()
SUMS = "reduce_sum dot_general cumsum cumlogsumexp cumprod eigh qr svd cholesky lu triangular_solve"


def cases() -> Iterator[Any]:
    for i, case in enumerate(CASES):
        chosen = case.name in SAMPLE
        yield pytest.param(case, [(4, 2, 1)[i % 3]], id=case.name, marks=[] if chosen else [pytest.mark.slow])
        if chosen:
            others = [n for n in (4, 2, 1) if n != (4, 2, 1)[i % 3]]
            yield pytest.param(case, others, id=f"{case.name}, others", marks=pytest.mark.slow)


class Training:
    """An optimizer on the first so many devices."""

    def __init__(self, case: Case, devices: int):
        tx, mesh = case.make(), Mesh(np.array(jax.devices()[:devices]), ("data",))
        self.whole = NamedSharding(mesh, PartitionSpec())
        params = jax.eval_shape(lambda: random_tree(0, shapes=SHAPES))
        divided = gdjax.state_sharding(tx, params, mesh, min_bytes=MIN_BYTES)
        places = jax.tree.map(lambda _: self.whole, params), divided

        def start() -> Any:
            params = random_tree(0, shapes=SHAPES)
            return params, tx.init(params)

        def step(run: Any, g: Any) -> Any:
            updates, state = tx.update(g, run[1], run[0])
            return gdjax.apply_updates(run[0], updates), state

        self.start, self.step = jax.jit(start, out_shardings=places), jax.jit(step, out_shardings=places)
        self.sums = any(name in SUMS.split() for name in _primitives(jax.make_jaxpr(step)(self.target, params).jaxpr))

    @property
    def target(self) -> Any:
        return self.start.eval_shape()

    def go(self, run: Any, first: int) -> Any:
        for n in range(first, first + STEPS):
            run = self.step(run, jax.device_put(random_tree(n + 1, shapes=SHAPES), self.whole))
        return run


def _primitives(jaxpr: Any) -> Iterator[str]:
    for equation in jaxpr.eqns:
        yield equation.primitive.name
        for x in jax.tree.leaves(equation.params):
            if hasattr(x, "eqns") or hasattr(x, "jaxpr"):
                yield from _primitives(getattr(x, "jaxpr", x))


@pytest.mark.parametrize(("case", "devices"), [*cases()])
def test_a_divided_run_goes_on_on_fewer_devices_and_back(case: Case, devices: list[int], tmp_path: Path):
    eight = Training(case, 8)
    if not TAKES_SHAPES_OF_KEYS and any(map(is_key, jax.tree.leaves(eight.target))):
        pytest.skip("this Orbax restores no keys to shapes")
    half = eight.go(eight.start(), 0)
    whole = eight.go(half, STEPS)
    longer = eight.go(whole, 2 * STEPS)
    with ocp.StandardCheckpointer() as checkpointer:

        def moved(run: Any, name: str, to: Training) -> Any:
            checkpointer.save(tmp_path / name, run)
            checkpointer.wait_until_finished()
            gdjax.check_restored(checkpointer.metadata(tmp_path / name).item_metadata, to.target)
            got = checkpointer.restore(tmp_path / name, to.target)
            gdjax.check_restored(got, to.target)
            assert bits(got) == bits(run)
            return got

        for n in devices:
            fewer = Training(case, n)
            there = fewer.go(moved(half, f"to {n}", fewer), STEPS)
            same(there, whole, eight.sums)
            same(eight.go(moved(there, f"from {n}", eight), 2 * STEPS), longer, eight.sums)


def same(got: Any, wanted: Any, sums: bool) -> None:
    if not sums:
        assert bits(got) == bits(wanted)
    for x, y in zip(numbers(got), numbers(wanted), strict=True):
        np.testing.assert_allclose(x, y, rtol=1e-4, atol=1e-4)
