"""Muon and its kin in NumPy, for one matrix (inputs, outputs): what their tests share."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import gdjax
from gdjax.linalg.polar import PRESETS
from tests import oracles

RNG = np.random.default_rng(7)
STEPS = 12


def polar(m: Any, coeffs: Any = "jordan", steps: int = 5, eps: float = 1e-8) -> Any:
    x = m / (np.linalg.norm(m) + eps)
    triples = PRESETS[coeffs] if isinstance(coeffs, str) else coeffs
    triples = [triples] * steps if np.ndim(triples) == 1 else [*triples, *[triples[-1]] * steps][:steps]
    for a, b, c in triples:
        s = x @ x.conj().T
        x = a * x + (b * s + c * s @ s) @ x
    return x


def gradients(shape: Any, steps: int = STEPS) -> Any:
    return RNG.normal(size=(steps, *shape))


def points(tx: Any, x: Any, gs: Any, change: Any = lambda state: state) -> Any:
    """The parameter after each step, in float64, and the last state."""
    with oracles.precision("float64"):
        x = {"w": jnp.asarray(x)}
        state, found = change(tx.init(x)), []
        step = jax.jit(tx.update)
        for g in gs:
            updates, state = step({"w": jnp.asarray(g)}, state, x)
            x = gdjax.apply_updates(x, updates)
            found.append(np.asarray(x["w"]))
        return np.stack(found), state


def update(tx: Any, g: Any, *more: Any) -> Any:
    """The last update of a direction after these gradients, in their dtype."""
    x = jnp.zeros_like(jnp.asarray(g))
    state = tx.init(x)
    for each in (g, *more):
        u, state = jax.jit(tx.update)(jnp.asarray(each), state, x)
    return np.asarray(u)
