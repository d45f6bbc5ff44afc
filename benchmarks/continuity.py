"""How far two runs part whose gradients differ by rounding: matrix methods beside SOAP as it is published.

    python benchmarks/continuity.py [--quick] [--picture]

Three layers of tanh, width 16, one batch of 16. In the second run each number of each gradient is multiplied by
1 + 1e-15 z in float64 and 1 + 1e-7 z in float32, z normal. Told is the largest difference of a parameter in units of
the learning rate, the median over models. Bases are renewed in every step, which is the hardest case. "soap as
published" is Vyas et al. 2024, Algorithms 3 and 4: eigenvectors at first, then one power step and a QR decomposition.
Writes continuity.json and .md, with --picture docs/images/continuity.png too.
"""

import argparse
import itertools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from harness import Results, markdown_table, say
from small_lm import ROOT

import gdjax

WIDTH, RATE, STEPS, MODELS = 16, 1e-2, 30, 7
DISTURBED = {"float64": 1e-15, "float32": 1e-7}
TOLD = (1, 3, 10, 30)  # steps of the table


def published_soap(b: float = 0.95, eps: float = 1e-8) -> Any:
    """Adam in the bases of a power step each, as in the paper; without a learning rate, for square matrices."""

    def init(params: Any) -> Any:
        zero = jax.tree.map(jnp.zeros_like, params)
        eye = jax.tree.map(lambda p: jnp.eye(len(p), dtype=p.dtype), params)
        return jnp.zeros((), int), [zero, zero, zero, zero, eye, eye]

    def one(G: Any, m: Any, v: Any, L: Any, R: Any, QL: Any, QR: Any, t: Any) -> Any:
        t = t.astype(G.dtype)
        L, R = b * L + (1 - b) * G @ G.T, b * R + (1 - b) * G.T @ G
        m = b * m + (1 - b) * G  # in the coordinates of the parameters
        g = QL.T @ G @ QR
        v = jnp.where(t > 1, b * v + (1 - b) * g**2, v)
        n = jnp.maximum(t - 1, 1)
        u = QL.T @ m @ QR / (1 - b**t) / (jnp.sqrt(v / (1 - b**n)) + eps)
        U = jnp.where(t > 1, QL @ u @ QR.T, 0)
        QL, QR = (
            jnp.where(t > 1, jnp.linalg.qr(A @ Q)[0], jnp.linalg.eigh(A)[1][:, ::-1]) for A, Q in ((L, QL), (R, QR))
        )
        return U, m, v, L, R, QL, QR

    def update(grads: Any, state: Any, params: Any = None) -> Any:
        t, slots = state[0] + 1, state[1]
        found = [one(G, *own, t) for G, *own in zip(grads, *slots, strict=True)]
        us, *slots = (list(x) for x in zip(*found, strict=True))
        return us, (t, slots)

    return gdjax.GradientTransformation(init, update)


METHODS: dict[str, Callable[[], Any]] = {
    "soap as published": published_soap,
    "soap": lambda: gdjax.scale_by_soap(precondition_frequency=1),
    "kl_soap": lambda: gdjax.scale_by_kl_soap(precondition_frequency=1),
    "soap_muon": lambda: gdjax.scale_by_soap_muon(precondition_frequency=1),
    "shampoo": lambda: gdjax.scale_by_shampoo(precondition_frequency=1),
    "psgd_kron": lambda: gdjax.scale_by_psgd_kron(preconditioner_update_probability=1.0),
    "muon": gdjax.scale_by_muon,
    "adam": gdjax.scale_by_adam,
}
COLOURS = dict(
    zip(METHODS, ("#d7191c", "#6a3d9a", "#b39ddb", "#1f6fb4", "#2ca25f", "#8c510a", "0.6", "0.2"), strict=True)
)


def parted(tx: Any, dtype: str, seed: int, steps: int) -> np.ndarray:
    """After each step the largest difference of a parameter of the two runs, over the learning rate."""
    rng = np.random.default_rng(seed)
    first = [jnp.asarray(rng.normal(size=(WIDTH, WIDTH)) / WIDTH**0.5, dtype) for _ in range(3)]
    x = jnp.asarray(rng.normal(size=(WIDTH, WIDTH)), dtype)

    def loss(params: Any) -> Any:
        found = x
        for kernel in params:
            found = jnp.tanh(found @ kernel)
        return jnp.mean((found - jnp.sin(3 * x)) ** 2)

    @jax.jit
    def run(by: Any) -> Any:
        def step(carry: Any, key: Any) -> Any:
            params, state = carry
            grads, keys = jax.grad(loss)(params), jax.random.split(key, len(params))
            grads = [g * (1 + by * jax.random.normal(k, g.shape, dtype)) for g, k in zip(grads, keys, strict=True)]
            updates, state = tx.update(grads, state, params)
            params = [p - RATE * u for p, u in zip(params, updates, strict=True)]
            return (params, state), params

        return jax.lax.scan(step, (first, tx.init(first)), jax.random.split(jax.random.key(1), steps))[1]

    one, two = run(np.zeros((), dtype)), run(np.asarray(DISTURBED[dtype], dtype))
    return np.max([np.abs(np.asarray(a - b)).max((1, 2)) for a, b in zip(one, two, strict=True)], axis=0) / RATE


def picture(rows: list[dict[str, Any]], path: Path) -> None:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9.6, 4.2), layout="constrained")
    axes: Any = figure.subplots(1, 2, sharey=True)
    for ax, (dtype, by) in zip(axes, DISTURBED.items(), strict=True):
        for row in rows:
            if row["dtype"] == dtype:
                curve, colour = np.maximum(row["median"], 1e-15), COLOURS[row["method"]]
                ax.semilogy(np.arange(1, len(curve) + 1), curve, color=colour, label=row["method"], linewidth=1.8)
        ax.axhline(1, color="0.7", linewidth=0.8)
        ax.set_xlabel("step")
        ax.set_title(f"{dtype}: gradients differ by {by:g} of themselves", fontsize=10)
        ax.grid(color="0.93", linewidth=0.8)
        ax.spines[["top", "right"]].set_visible(False)
    axes[0].set_ylabel("difference of two runs, in learning rates")
    axes[1].legend(fontsize=8, frameon=False, ncols=2, loc="lower right")
    figure.savefig(path, dpi=130)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="two models, ten steps, no picture")
    parser.add_argument("--picture", action="store_true", help="draw docs/images/continuity.png too")
    parser.add_argument("--out", type=Path, default=ROOT / "out" / "benchmarks")
    o = parser.parse_args()
    jax.config.update("jax_enable_x64", True)
    steps, models = (10, 2) if o.quick else (STEPS, MODELS)
    results = Results(o.out / "continuity.json", again=False)
    for dtype, (name, make) in itertools.product(DISTURBED, METHODS.items()):
        if results.has(method=name, dtype=dtype):
            continue
        found = [parted(make(), dtype, seed, steps) for seed in range(models)]
        row = {"median": np.median(found, 0).tolist(), "most": np.max(found, 0).tolist()}
        results.add({"method": name, "dtype": dtype, "models": models, **row})
        say(name, dtype, ", ".join(f"{row['median'][t - 1]:.1e}" for t in TOLD if t <= steps))
    told = [t for t in TOLD if t <= steps]
    cells = [
        [row["method"], row["dtype"], *(f"{row['median'][t - 1]:.1e} ({row['most'][t - 1]:.1e})" for t in told)]
        for row in results.rows
    ]
    about = "Difference of two runs in learning rates after so many steps: the median over models, and the most."
    results.tell(
        "Continuity", [about, "", *markdown_table("method | dtype | " + " | ".join(map(str, told)), cells, words=2)]
    )
    if o.picture:
        picture(results.rows, ROOT / "docs" / "images" / "continuity.png")


if __name__ == "__main__":
    main()
