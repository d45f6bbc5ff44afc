"""Complex numbers: turning all of them by one angle turns the updates, and the numbers of the tree stay as they were.

|g|^2 and the real part of an inner product do not change with the angle; g^2 and a product without `conj` do. By a
quarter turn, 1j, real numbers become imaginary ones, so that a complex run is compared with a real one.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import gdjax
from tests.cases import Case, every
from tests.trees import assert_close, random_tree


# A slot in bfloat16 is a complex64 one where the parameter is complex.
@pytest.mark.full
@every(lambda case: case.complex and not case.random and "mu_dtype" not in case.fixed, thin=4)
def test_a_quarter_turn_turns_the_updates(case: Case):
    tx = case.make()

    @jax.jit
    def step(params: Any, state: Any, g: Any) -> Any:
        u, state = tx.update(g, state, params)
        return u, gdjax.apply_updates(params, u), state

    def updates(params: Any, gradients: Any) -> Any:
        state, found = tx.init(params), []
        for g in gradients:
            u, params, state = step(params, state, g)
            found.append(u)
        return found

    args = random_tree(0), [random_tree(seed) for seed in (1, 2)]
    wanted = jax.tree.map(lambda u: 1j * np.asarray(u), updates(*args))
    imaginary = jax.tree.map(lambda x: jax.lax.complex(jnp.zeros_like(x), x), args)
    assert_close(updates(*imaginary), wanted, rtol=2e-5, atol=2e-6)
