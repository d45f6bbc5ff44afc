"""A run whose state is divided over eight devices goes on on four, two and one, and back on eight.

What was restored has the bits that were saved, and the next five steps are those of the run that nobody interrupted:
to the bit where an optimizer only computes element by element, else up to the rounding of sums, whose order changes.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp
import pytest
from jax.sharding import Mesh, NamedSharding, PartitionSpec

import gdjax
from tests.cases import CASES, Case
from tests.resume.bits import bits
from tests.resume.target import TAKES_SHAPES_OF_KEYS, metadata
from tests.trees import is_key, numbers, random_tree

pytestmark = pytest.mark.programs

# Two kernels of one shape, so that a stack has several matrices. On eight devices a kernel has 32 numbers on each: of
# 16 and fewer XLA:CPU rounds the same formula otherwise.
SHAPES = {"dense": {"kernel": (32, 8), "bias": (8,)}, "other": (32, 8), "scale": ()}
MIN_BYTES = 1024  # of a kernel
STEPS = 5  # odd, so that intervals of two are cut in their middle
# Keys, windows, accumulators, codes, stacks, histories, groups.
SAMPLE = "adamw noisy_sgd MultiSteps adafactor soap quantize_state".split()
# Its case searches along the line of a loss with gradients that are not those of this loss, finds nothing lower, and
# goes on from what rounding decides. The last test has a search with its gradients.
BY_ROUNDING = {"scale_by_zoom_linesearch"}
SUMS = "reduce_sum dot_general cumsum cumlogsumexp cumprod eigh qr svd cholesky lu triangular_solve"


def cases() -> Iterator[Any]:
    """Each case with its numbers of devices; of the sample the ordinary suite has one, the slow tests the others."""
    for i, case in enumerate(CASES):
        first, *others = np.roll([4, 2, 1], i).tolist()
        if case.name in SAMPLE:
            yield pytest.param(case, [first], id=case.name)
            yield pytest.param(case, others, id=f"{case.name}, others", marks=pytest.mark.slow)
        else:
            yield pytest.param(case, [first, *others], id=case.name, marks=pytest.mark.slow)


class Training:
    """An optimizer on the first so many devices."""

    def __init__(self, tx: Any, devices: int):
        mesh = Mesh(np.array(jax.devices()[:devices]), ("data",))
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


def moved(run: Any, folder: Path, to: Training) -> Any:
    """Saved, and restored as it lies over other devices."""
    with ocp.StandardCheckpointer() as checkpointer:
        checkpointer.save(folder, run)
        checkpointer.wait_until_finished()
        gdjax.check_restored(metadata(folder), to.target)
        got = checkpointer.restore(folder, to.target)
    gdjax.check_restored(got, to.target)
    assert bits(got) == bits(run)
    return got


@pytest.mark.parametrize(("case", "devices"), [*cases()])
def test_a_divided_run_goes_on_on_fewer_devices_and_back(case: Case, devices: list[int], tmp_path: Path):
    eight = Training(case.make(), 8)
    if not TAKES_SHAPES_OF_KEYS and any(map(is_key, jax.tree.leaves(eight.target))):
        pytest.skip("this Orbax restores no keys to shapes")
    half = eight.go(eight.start(), 0)
    whole = eight.go(half, STEPS)
    longer = eight.go(whole, 2 * STEPS)
    for n in devices:
        fewer = Training(case.make(), n)
        there = fewer.go(moved(half, tmp_path / f"to {n}", fewer), STEPS)
        back = eight.go(moved(there, tmp_path / f"from {n}", eight), 2 * STEPS)
        for got, wanted in ((there, whole), (back, longer)):
            if not eight.sums:
                assert bits(got) == bits(wanted)
            elif case.name not in BY_ROUNDING:
                same(got, wanted)


def same(got: Any, wanted: Any) -> None:
    for x, y in zip(numbers(got), numbers(wanted), strict=True):
        np.testing.assert_allclose(x, y, rtol=1e-4, atol=1e-4)


@gdjax.transform
def searched(tx: Any) -> gdjax.GradientTransformation:
    """`tx` with the gradients of a loss, whatever it is given."""

    def loss(params: Any) -> Any:
        pairs = zip(jax.tree.leaves(params), jax.tree.leaves(random_tree(7, shapes=SHAPES)), strict=True)
        return sum(jnp.sum(jnp.log(jnp.cosh(x - 3 * y)) * (1 + y * y)) for x, y in pairs)

    def update(updates: Any, state: Any, params: Any = None) -> Any:
        value, grads = jax.value_and_grad(loss)(params)
        return tx.update(grads, state, params, value=value, grad=grads, value_fn=loss)

    return gdjax.GradientTransformation(tx.init, update)


@pytest.mark.slow
def test_a_search_along_the_line_of_a_loss_goes_on(tmp_path: Path):
    eight, two = (Training(searched(gdjax.lbfgs(memory_size=3)), n) for n in (8, 2))
    half = eight.go(eight.start(), 0)
    whole = eight.go(half, STEPS)
    same(two.go(moved(half, tmp_path / "run", two), STEPS)[0], whole[0])
    with pytest.raises(AssertionError):  # the steps were steps
        same(half[0], whole[0])
