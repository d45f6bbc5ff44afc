"""The order in which XLA:CPU writes: what it saves, and that nothing else comes of it."""

from typing import Any

import jax
import jax.numpy as jnp
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
