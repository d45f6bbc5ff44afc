"""The winner of AlgoPerf 2024, from `golden/algoperf.npz`; its script says how it was made."""

import json
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import gdjax
from tests.oracles import precision

with np.load(Path(__file__).parent / "algoperf.npz") as file:
    GOLDEN = dict(file)
SETTINGS = json.loads(str(GOLDEN["settings"]))


def winner(h: dict[str, Any]) -> gdjax.GradientTransformation:
    """A setting of its `tuning_search_space.json`; b1 is 0 where the grafting is that of SGD."""
    momentum = 1.0 - h["one_minus_momentum"] if h["use_momentum"] else 0.0
    every = gdjax.constant_schedule(10)  # all roots in one step, as theirs
    return gdjax.chain(
        gdjax.scale_by_shampoo(
            1.0 - h["one_minus_beta1"], 1.0 - h["one_minus_beta2"], h["epsilon"], every, start_preconditioning_step=10,
            root=h["inv_root_override"] or None, grafting=h["grafting_type"].lower(),
            grafting_b2=1.0 - h["one_minus_beta2"], grafting_eps=h["grafting_epsilon"],
            block_size=h["max_preconditioner_dim"], nesterov=h["use_nadam"],
        ),
        gdjax.add_decayed_weights(h["weight_decay"]),
        gdjax.trace(momentum, nesterov=True),
        gdjax.scale(-h["learning_rate"] * (1.0 - momentum)),
    )  # fmt: skip


@pytest.mark.parametrize("number", range(len(SETTINGS)))
def test_fifty_steps_of_the_winner(number: int):
    with precision("float64"):
        tx, arrays = winner(SETTINGS[number]), {name: jnp.asarray(GOLDEN[name]) for name in ("left", "right", "pull")}

        def step(carry: Any, noise: Any) -> Any:
            x, state = carry
            g = arrays["left"] @ x @ arrays["right"] + arrays["pull"] + noise[0] @ noise[1]
            updates, state = tx.update(g, state, x)
            x = gdjax.apply_updates(x, updates)
            return (x, state), x

        x = jnp.asarray(GOLDEN["x0"])
        noise = jnp.asarray(GOLDEN["rows"]), jnp.asarray(GOLDEN["columns"])
        points = jax.jit(lambda x: jax.lax.scan(step, (x, tx.init(x)), noise)[1])(x)
        wanted = GOLDEN["points"][number]
        np.testing.assert_allclose(points[GOLDEN["kept"]], wanted, atol=1e-6 * np.abs(wanted).max())
        assert np.abs(wanted[-1] - GOLDEN["x0"]).max() > 1e-2
