"""The order in which XLA:CPU writes: what it saves, and that nothing else comes of it."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import gdjax
from gdjax.xla import write_order
from gdjax.xla.loops import writes_several
from tests.trees import assert_close, random_tree

SHAPES = {"w": (256, 256), "up": (256, 512)}
CASES = {"lion": gdjax.lion(1e-3), "adan": gdjax.adan(1e-3), "guard": gdjax.apply_if_finite(gdjax.lion(1e-3), 5)}


def step(tx: Any) -> Any:
    def one(params: Any, state: Any, grads: Any) -> Any:
        updates, state = tx.update(grads, state, params)
        return gdjax.apply_updates(params, updates), state

    return jax.jit(one, donate_argnums=(0, 1))


def cost(tx: Any) -> tuple[float, int]:
    """Bytes accessed, and those of temporaries, for each byte of the parameters."""
    tree = {k: jax.ShapeDtypeStruct(shape, jnp.float32) for k, shape in SHAPES.items()}
    size = 4 * sum(x.size for x in tree.values())
    made = step(tx).lower(tree, jax.eval_shape(tx.init, tree), tree).compile()
    return made.cost_analysis()["bytes accessed"] / size, made.memory_analysis().temp_size_in_bytes / size


def after_steps(tx: Any) -> Any:
    params, state = random_tree(0, shapes=SHAPES), tx.init(random_tree(0, shapes=SHAPES))
    for i in range(3):
        params, state = step(tx)(params, state, random_tree(i + 1, shapes=SHAPES))
    return params, state


@pytest.mark.optimized
@pytest.mark.skipif(writes_several(), reason="of the mode with a loop for each output")
@pytest.mark.skipif(jax.__version_info__ < (0, 6), reason="this XLA counts bytes otherwise")
@pytest.mark.parametrize("name", CASES)
def test_the_order_saves_bytes_and_changes_no_number(name: str, monkeypatch: pytest.MonkeyPatch):
    tx = CASES[name]
    ordered, numbers = cost(tx), after_steps(tx)
    monkeypatch.setattr(write_order, "ORDERED", False)
    jax.clear_caches()
    plain = cost(tx)
    assert plain[0] >= 1.15 * ordered[0] and plain[1] > 0.9 > 0.3 > ordered[1]
    assert_close(after_steps(tx), numbers, 1e-6, 1e-6)
    jax.clear_caches()


@pytest.mark.whole
@pytest.mark.parametrize("numbers", [[1] * 9, [2, 1, 3, 1, 2], [3, 6], [9]])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "complex64"])
def test_the_parts_are_those_of_the_stack(numbers, dtype):
    stack = jnp.asarray(np.random.default_rng(0).normal(size=(9, 2, 3)), dtype).at[0, 0, 0].set(jnp.nan)
    found = jax.jit(lambda x: write_order.parts(x, numbers))(stack)
    assert [len(x) for x in found] == numbers and all(x.dtype == dtype for x in found)
    np.testing.assert_array_equal(*(x.astype("complex64") for x in (jnp.concatenate(found), stack)))


def test_under_vmap_and_grad():
    stack = jnp.arange(48.0).reshape(2, 8, 3, 1)
    split = lambda x: write_order.parts(x, [1] * 8)
    np.testing.assert_array_equal(jnp.stack(jax.vmap(split)(stack), 1)[:, :, 0], stack)
    gradient = jax.grad(lambda x: sum(i * jnp.sum(y) for i, y in enumerate(split(x))))(stack[0])
    np.testing.assert_array_equal(gradient[:, 0, 0], np.arange(8))


@pytest.mark.optimized
def test_the_places_are_no_constants_of_the_loops():
    ps, stack = [jnp.zeros((1, 8))] * 8, jnp.ones((8, 8))

    def update(ps, x):
        return [p + y for p, y in zip(ps, write_order.parts(x @ x, [1] * 8), strict=True)]

    text = jax.jit(update).lower(ps, stack).compile().as_text()
    bodies = [body.split("\n}\n")[0] for body in text.split("%fused_computation")[1:]]
    adding = [body for body in bodies if " add(" in body and "f32[1,8]" in body]
    assert len(adding) == 8 and all(" dynamic-slice(" in body for body in adding)


@pytest.mark.optimized
@pytest.mark.parametrize("method", [gdjax.scale_by_soap, gdjax.scale_by_kl_soap])
def test_a_step_of_soap_copies_no_stack(method):
    params = {f"w{i}": jax.ShapeDtypeStruct((256, 256), jnp.float32) for i in range(5)}
    tx = method()

    def step(state, grads):
        return tx.update(grads, state)[::-1]

    lowered = jax.jit(step, donate_argnums=0).lower(jax.eval_shape(tx.init, params), params)
    lines = lowered.compile().as_text().splitlines()
    made = [line for line in lines if "= f32[5,256,256]" in line]
    assert any("dynamic-update-slice" in line for line in made) and not [x for x in made if " copy(" in x]
