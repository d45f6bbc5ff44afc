"""Derivatives through three steps of a transform, by a rate, by a decay, and by where training starts."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from tests.cases import Case

# Tall and wide, with a dead row and a dead column; without any gradient; a vector with a gap.
SHAPES = {"hidden": (6, 4), "proj": (4, 6), "dead": (6, 4), "bias": (3,)}
DEAD = {"hidden": (1, 0), "proj": (0, 2)}  # the row and the column without gradients
STEPS = 3
SCALES = (1.0, 1e-2, 1e-6)  # of the gradients
DECAYS = "b1 decay beta b2 beta1 momentum mu decay_rate alpha rho ef_decay shampoo_beta".split()
STEP = 1e-4  # of the differences, relative to a number


class Problem(NamedTuple):
    """Parameters, the parts of the gradients, and the weights of the result, all in one dtype."""

    start: Any
    way: Any
    mask: Any
    pulls: Any  # of all steps
    weights: Any


def problem(dtype: str) -> Problem:
    rng = np.random.default_rng(0)

    def draw() -> dict[str, jax.Array]:
        return {k: jnp.asarray(rng.standard_normal(shape), dtype) for k, shape in SHAPES.items()}

    mask = {k: np.ones(shape) for k, shape in SHAPES.items()}
    for name, (row, column) in DEAD.items():
        mask[name][row], mask[name][:, column] = 0, 0
    mask["dead"][:], mask["bias"][1] = 0, 0
    mask = {k: jnp.asarray(x, dtype) for k, x in mask.items()}
    return Problem(
        draw(), draw(), mask, jax.tree.map(lambda *xs: jnp.stack(xs), *(draw() for _ in range(STEPS))), draw()
    )


def decay_of(case: Case) -> str | None:
    """The decay that is varied, if there is one."""
    return next((name for name in DECAYS if isinstance(case.hyper.get(name), float)), None)


def moved(case: Case, dtype: str) -> Callable[[Any, Any], Any]:
    """A weighted sum of all three updates, by the relative changes of a rate, a decay and the start."""
    of, decay = problem(dtype), decay_of(case)
    rate = "learning_rate" if isinstance(case.hyper.get("learning_rate"), float) else None

    def end(x: Any, scale: Any) -> Any:
        changed = {}
        if rate:
            changed[rate] = case.hyper[rate] * (1 + x[0])
        if decay:
            changed[decay] = 1 - (1 - case.hyper[decay]) * (1 + x[1])
        tx = case.make(**changed)
        p = jax.tree.map(lambda p, w: p + x[2] * w, of.start, of.way)

        def step(carry: Any, pull: Any) -> Any:
            total, state = carry
            here = jax.tree.map(jnp.add, p, total)
            g = jax.tree.map(lambda m, q, p: scale * m * (q + p / 2), of.mask, pull, here)
            u, state = tx.update(g, state, here)
            if not rate:
                u = jax.tree.map(lambda u: (1 + x[0]) * u / 10, u)
            return (jax.tree.map(jnp.add, total, u), state), None

        (total, _), _ = jax.lax.scan(step, (jax.tree.map(jnp.zeros_like, p), tx.init(p)), of.pulls)
        return sum(jnp.sum(w * t) for w, t in zip(*map(jax.tree.leaves, (of.weights, total)), strict=True))

    return end


class Found(NamedTuple):
    """The result, and its derivatives by the three numbers: forward, backward and by differences."""

    value: Any
    forward: Any
    backward: Any
    differences: Any


def found(case: Case) -> Callable[[float], Found]:
    """In float64, for a scale of gradients; compiled once."""
    end = moved(case, "float64")
    backward = jax.grad(end) if case.reverse else jax.jacfwd(end)
    both = jax.jit(lambda x, c: (end(x, c), jax.jacfwd(end)(x, c), backward(x, c)))

    def at(scale: float) -> Found:
        c = jnp.asarray(scale, "float64")
        value = lambda i, h: both(jnp.zeros(3, "float64").at[i].set(h), c)[0]
        by = [
            (8 * (value(i, STEP) - value(i, -STEP)) - (value(i, 2 * STEP) - value(i, -2 * STEP))) / (12 * STEP)
            for i in range(3)
        ]
        return Found(*map(np.asarray, (*both(jnp.zeros(3, "float64"), c), jnp.stack(by))))

    return at
