"""The order in which XLA:CPU writes the outputs of one leaf, read by hand from the formulas."""

from typing import Any

import jax
import jax.numpy as jnp
import pytest

import gdjax
from gdjax.xla import write_order
from gdjax.xla.loops import SMALL, inputs_of, keeps, loops_of, sums, writes_several

pytestmark = pytest.mark.skipif(
    writes_several(), reason="of the mode with a loop for each output; test_fused has the other"
)

N = 2 * SMALL
X = jax.ShapeDtypeStruct((N,), "float32")


def written(tx: Any, monkeypatch: pytest.MonkeyPatch, dtype: str = "float32") -> list[tuple[int, tuple[int, ...]]]:
    """The outputs of a leaf, in order, each with those that it waits for: the update is 0, the slots come after it."""
    found = []

    def noted(*args: Any) -> Any:
        found.append(loops_of(*args))
        return found[-1]

    monkeypatch.setattr(write_order, "loops_of", noted)
    tree = jax.ShapeDtypeStruct((N,), dtype)
    jax.clear_caches()
    jax.eval_shape(tx.update, tree, jax.eval_shape(tx.init, tree), tree)
    return [(loop.index, loop.waits) for loop in found[-1]]


@pytest.mark.parametrize(
    ("tx", "order"),
    [
        (gdjax.scale_by_lion(), [(0, ()), (1, (0,))]),  # both read the old mu
        (gdjax.scale_by_adam(), [(1, ()), (2, ()), (0, ())]),  # the update is made of the new moments
        (gdjax.trace(0.9, nesterov=True), [(1, ()), (0, ())]),
        (gdjax.trace(0.9), [(1, ()), (0, ())]),  # one array is the update and the slot
        (gdjax.contrib.acprop(1.0), [(0, ()), (2, (0,)), (1, (2,))]),  # nu of the new mu, the update of the old nu
    ],
    ids=["lion", "adam", "nesterov", "momentum", "acprop"],
)
def test_an_old_array_is_overwritten_after_all_that_read_it(tx: Any, order: Any, monkeypatch: pytest.MonkeyPatch):
    assert written(tx, monkeypatch) == order


def test_a_moment_that_is_rounded_is_no_input_of_the_update(monkeypatch: pytest.MonkeyPatch):
    """The update is made of the momentum as it is before it is rounded: so of the old one, and of nu in float32."""
    assert written(gdjax.scale_by_adam(), monkeypatch, "bfloat16") == [(2, ()), (0, ()), (1, (0,))]


def test_small_leaves_wait_for_nothing(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("gdjax.xla.loops.SMALL", N)
    assert written(gdjax.scale_by_lion(), monkeypatch) == [(0, ()), (1, ())]


def test_what_is_selected_is_made_of_the_old_arrays():
    def adam(g: Any, p: Any, mu: Any, nu: Any) -> Any:
        mu, nu = 0.9 * mu + g, 0.9 * nu + g * g
        return mu / jnp.sqrt(nu), mu, nu

    closed = jax.make_jaxpr(adam)(X, X, X, X)
    order = lambda selected: [(x.index, x.waits) for x in loops_of(closed, [1, 2, 3], N, selected)]
    assert order(False) == [(1, ()), (2, ()), (0, ())]
    assert order(True) == [(0, ()), (1, (0,)), (2, (0,))]


def test_a_circle_ends_at_the_update():
    """The update reads what the slot overwrites, and the slot what the update overwrites."""
    closed = jax.make_jaxpr(lambda g, p, m: (g + m + p, m * p + g))(X, X, X)
    assert [x.index for x in loops_of(closed, [1, 2], N, False)] == [0, 1]


def test_a_slot_that_stays_has_no_loop_and_one_that_is_replaced_is_unrelated():
    closed = jax.make_jaxpr(lambda g, p, kept, last: (g - last, kept, g))(X, X, X, X)
    loops = loops_of(closed, [1, 2, 3], N, False)
    assert [(x.index, x.waits, x.unrelated) for x in loops] == [(0, (), False), (2, (0,), True)]


def test_inputs_and_sums():
    closed = jax.make_jaxpr(lambda x, y: (x / (1 + jnp.sum(x)), jax.jit(lambda a, b: b)(x, y)))(X, X)
    assert (inputs_of(closed, 0), inputs_of(closed, 1)) == ({0}, {1})
    assert sums(closed, N) and not sums(closed, N + 1)
    assert keeps(closed, N) and not keeps(jax.make_jaxpr(lambda x: x * jnp.sum(x))(X), N)
