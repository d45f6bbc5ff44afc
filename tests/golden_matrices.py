"""The points that others' matrix optimizers visit, from `golden/matrix.npz`; `golden/matrix_notes.md` describes it."""

from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import gdjax

FILE = Path(__file__).parent / "golden" / "matrix.npz"


def compare(run: str, leaf: str, tx: Any, decay: float = 0.0, rtol: float = 1e-4) -> None:
    """Asserts that tx visits the points of a run.

    Args:
      decay: rate times decay of a code that decays after a step, and not in the first.
    """
    if not FILE.is_file():
        pytest.skip("golden/matrix.npz is not there")
    with np.load(FILE) as file:
        p = {k: jnp.asarray(file[f"problem/{leaf}/{k}"]) for k in ("x0", "left", "right", "pull", "noise")}
        kept, want = file["kept"], file[f"{run}/{leaf}"]

    def step(carry: Any, noise: Any) -> Any:
        x, state, t = carry
        g = p["left"] @ x @ p["right"] + p["pull"] + noise
        updates, state = tx.update(g, state, x)
        x = gdjax.apply_updates(x, updates)
        x = jnp.where(t > 0, (1 - decay) * x, x)
        return (x, state, t + 1), x

    start = p["x0"], tx.init(p["x0"]), jnp.zeros((), int)
    got = np.asarray(jax.jit(lambda start, noise: jax.lax.scan(step, start, noise)[1])(start, p["noise"]))
    np.testing.assert_allclose(got[kept - 1], want, rtol=rtol, atol=rtol * 0.1)
