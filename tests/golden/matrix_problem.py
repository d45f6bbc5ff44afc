"""The problem that the matrix optimizers are run on, and how a trajectory is written down.

Each leaf is a problem of its own: its gradient at step t (0, 1, ...) is `left @ x @ right + pull + noise[t]`; that of
a vector, `left @ x + pull + noise[t]`. `pull` is large and well conditioned, so that every gradient has full rank and
no method turns rounding into chaos. All arrays are float32, from a seeded NumPy generator, and are in the .npz.
"""

import numpy as np

STEPS = 30
# The points that are kept: after so many steps.
KEPT = (1, 2, 3, 4, 5, 6, 7, 8, 10, 12, 15, 20, 30)
SHAPES = {"square": (5, 5), "tall": (6, 4), "wide": (4, 9), "tall1": (5, 4), "wide1": (4, 5), "vector": (7,)}
MATRICES = ("square", "tall", "wide")
# Where a factor of a single gradient lacks at most one rank, its eigenvectors are unique up to signs.
NEAR = ("square", "tall1", "wide1")


def _spd(rng, n):
    q, _ = np.linalg.qr(rng.normal(size=(n, n)))
    return (q * np.linspace(0.4, 1.2, n)) @ q.T


def make(steps: int = STEPS, seed: int = 100) -> dict[str, dict[str, np.ndarray]]:
    """{leaf: {"x0", "left", "right", "pull", "noise"}}; a vector has no "right"."""
    problem = {}
    for i, (name, shape) in enumerate(SHAPES.items()):
        rng = np.random.default_rng(seed + i)
        p = {"x0": rng.normal(size=shape), "left": _spd(rng, shape[0])}
        if len(shape) == 2:
            p["right"] = _spd(rng, shape[1])
            u, _, v = np.linalg.svd(rng.normal(size=shape), full_matrices=False)
            p["pull"] = 2 * (u * np.linspace(1, 2.5, min(shape))) @ v
        else:
            p["pull"] = rng.normal(size=shape)
        p["noise"] = 0.3 * rng.normal(size=(steps, *shape))
        problem[name] = {k: np.asarray(v, np.float32) for k, v in p.items()}
    return problem


def gradient(p, x, t):
    """The gradient at x in step t (0, 1, ...), for NumPy arrays and for tensors alike."""
    g = p["left"] @ x
    return (g @ p["right"] if "right" in p else g) + p["pull"] + p["noise"][t]
