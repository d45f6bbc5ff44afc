"""The points that others' matrix optimizers visit, from `golden/matrix.npz`; `golden/matrix_notes.md` describes it."""

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import gdjax
from gdjax.matrices import kronecker

FILE = Path(__file__).parent / "golden" / "matrix.npz"


@contextlib.contextmanager
def as_published() -> Iterator[None]:
    """Without the floor of v after a turn, in which ours depart from the codes; they then part by roundings alone."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(kronecker, "_at_least", lambda new_v, *_: new_v)
        kronecker._turned.clear_cache()
        yield
    kronecker._turned.clear_cache()


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
