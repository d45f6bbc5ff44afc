"""How far optimizers with coded states go, beside those in float32, over gradients of many patterns.

    python benchmarks/coded_patterns.py [--quick] [--names adamw lion]

Each optimizer, in `quantize_state` with its defaults and without, gets the same 800 gradients of a matrix of 64 x 64.
Displacement: the slope of what all updates move each parameter on what they move it in float32. Noise: the norm of the
difference of all updates over that of float32's. Only computed, so the same everywhere, but for what a processor
rounds. Writes coded_patterns.json and .md.
"""

import argparse
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from harness import Results, markdown_table, say

import gdjax

SHAPE, STEPS = (64, 64), 800
SCALES = {"1e-16": 1e-16, "1e-8": 1e-8, "1e10": 1e10, "1e15": 1e15, "1e20": 1e20}


def _random(seed: int, t: Any) -> Any:
    return jax.random.uniform(jax.random.fold_in(jax.random.key(seed), t), SHAPE)


def _every(k: int) -> Callable[[Any, Any], Any]:
    """Rows that get a gradient in each k-th step alone."""
    return lambda g, t: jnp.where(jnp.arange(SHAPE[0])[:, None] % k == t % k, g + 0.25, 0)


# From a gradient of N(0.05, 1), and the number of the step, to the gradient of the pattern.
PATTERNS: Mapping[str, Callable[[Any, Any], Any]] = {
    "normal": lambda g, t: g,
    "mean 0.1": lambda g, t: g + 0.05,
    "alternating signs": lambda g, t: (1 - 2 * (t % 2)) * jnp.abs(g) + 0.05,
    "each 30th step": lambda g, t: jnp.where(t % 30 == 0, g + 0.25, 0),
    "a row each 30th": _every(30),
    "a row each 64th": _every(64),
    "spikes of 1e6": lambda g, t: g * jnp.where(t % 100 == 50, 1e6, 1),
    **{f"scale {name}": lambda g, t, scale=scale: g * scale for name, scale in SCALES.items()},
    "up by 1e6": lambda g, t: g * jnp.where(t < STEPS // 2, 1, 1e6),
    "down by 1e6": lambda g, t: g * jnp.where(t < STEPS // 2, 1, 1e-6),
    "zeros in the middle": lambda g, t: jnp.where((t > 250) & (t < 500), 0, g),
    "zeros at the start": lambda g, t: jnp.where(t < 250, 0, g),
    "on and off": lambda g, t: jnp.where(t // 40 % 2 == 0, g, 0),
    "six decades of columns": lambda g, t: g * 10 ** jnp.linspace(-3, 3, SHAPE[1]),
    "bfloat16": lambda g, t: g.astype(jnp.bfloat16).astype(jnp.float32),
    "drift": lambda g, t: g + 2 * jnp.sin(t / 100),
    "cubes": lambda g, t: g**3,
    "elemspike": lambda g, t: g * jnp.where(_random(1, t) < 1e-3, 1e4, 1),
    "1 % of elements": lambda g, t: jnp.where(_random(2, t) < 1e-2, g, 0),
    "constant": lambda g, t: jax.random.normal(jax.random.key(3), SHAPE),
}  # fmt: skip

OPTIMIZERS: Mapping[str, Callable[[], Any]] = {
    **{
        name: lambda name=name: getattr(gdjax, name)(1e-3)
        for name in """
        adamw adabelief laprop rmsprop schedule_free_adamw adopt adan lion amsgrad adamax nadam radam yogi acprop
        adam_atan2 stable_adamw lamb ademamix simplified_ademamix signum adam_mini novograd
        sm3 lars came muon normuon scion muown dion2 soap shampoo galore dadapt_adamw prodigy
        optimistic_adam_v2
        """.split()
    },
    **{
        f"adamw({b1}, {b2})": lambda b1=b1, b2=b2: gdjax.adamw(1e-3, b1, b2)
        for b1, b2 in ((0.9, 0.95), (0.95, 0.95), (0.95, 0.92), (0.95, 0.9), (0.98, 0.95), (0.99, 0.999), (0.9, 0.5))
    },
    "momentum": lambda: gdjax.sgd(1e-3, 0.9),
    "adam, of one norm": lambda: gdjax.chain(
        gdjax.scale_by_adam(), gdjax.normalize_by_update_norm(), gdjax.scale(-1e-3)
    ),
    "adam, hyperball": lambda: gdjax.hyperball(gdjax.scale_by_adam(), 1e-3, roles={".*": "head"}),
    "ema": lambda: gdjax.chain(gdjax.ema(0.9), gdjax.scale(-1e-3)),
    "rmsprop, slow": lambda: gdjax.chain(gdjax.scale_by_rms(0.999), gdjax.scale(-1e-3)),
}


KEPT: Mapping[str, Mapping[str, Any]] = {"default": {}, "blocks": {"moments": "blocks"}}
CHOSEN = ("adamw", "rmsprop", "lion", "muon", "schedule_free_adamw")  # in both


def beside(tx: Any, kept: Mapping[str, Any], steps: int = STEPS) -> Callable[[str], dict[str, float]]:
    """A function of a pattern: displacement, noise, mean and largest size, beside float32's."""
    both = tx, gdjax.quantize_state(tx, **kept)
    start = {"kernel": jax.random.normal(jax.random.key(7), SHAPE) / 8}

    @jax.jit
    def run(pattern: Any) -> Any:
        def step(carry: Any, t: Any) -> Any:
            g = jax.random.normal(jax.random.fold_in(jax.random.key(0), t), SHAPE) + 0.05
            g = jax.lax.switch(pattern, list(PATTERNS.values()), g, t)
            us, new = [], []
            for tx, (params, state) in zip(both, carry, strict=True):
                u, state = tx.update({"kernel": g}, state, params)
                new.append((gdjax.apply_updates(params, u), state))
                us.append(u["kernel"])
            exact, coded = us
            return new, (exact, coded)

        carry = [(start, tx.init(start)) for tx in both]
        _, (exact, coded) = jax.lax.scan(step, carry, jnp.arange(steps))
        return exact, coded

    def figures(pattern: str) -> dict[str, float]:
        exact, coded = (np.asarray(x, np.float64) for x in run(list(PATTERNS).index(pattern)))
        moved, there = exact.sum(0), coded.sum(0)
        over = lambda x, y: float(x / y) if y else float(x == y)
        return {
            "displacement": over((moved * there).sum(), (moved**2).sum()),
            "noise": over(np.linalg.norm(coded - exact), np.linalg.norm(exact)),
            "mean": over(np.abs(coded).sum(), np.abs(exact).sum()),
            "largest": over(np.abs(coded).max(), np.abs(exact).max()),
        }

    return figures


def holds(figures: Mapping[str, float]) -> bool:
    return abs(figures["displacement"] - 1) <= 0.05 and figures["noise"] <= 0.16


def report(results: Results) -> None:
    """For each optimizer its extremes over the patterns, and the patterns in which it is off by more than it should."""
    cells = []
    for row in results.rows:
        found = row["patterns"]
        moved, noise = ([x[key] for x in found.values()] for key in ("displacement", "noise"))
        off = [f"{p}: {x['displacement']:.2f}, {x['noise']:.2f}" for p, x in found.items() if not holds(x)]
        figures = [f"{min(moved):.3f} to {max(moved):.3f}", f"{max(noise):.3f}", f"{found['elemspike']['mean']:.3f}"]
        cells.append([row["optimizer"], row["kept"], f"{row['bytes']:.2f}", *figures, "; ".join(off)])
    head = "optimizer | kept | bytes of the state | displacement | noise, at most | size with elemspike | off"
    lines = [f"Patterns: {', '.join(PATTERNS)}.", "", *markdown_table(head, cells, words=2)]
    results.tell("Coded states over patterns of gradients", lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--names", nargs="+", choices=OPTIMIZERS, default=list(OPTIMIZERS))
    parser.add_argument("--quick", "--tiny", action="store_true", help="two optimizers")
    parser.add_argument("--again", action="store_true", help="measure anew what the file has already")
    parser.add_argument("--out", type=Path, default=Path("out/benchmarks"))
    args = parser.parse_args()
    results = Results(args.out / "coded_patterns.json", args.again)
    for name in ["adamw", "rmsprop"] if args.quick else args.names:
        for kept, how in KEPT.items() if name in CHOSEN else [("default", {})]:
            if results.has(optimizer=name, kept=kept):
                continue
            tx, figures = OPTIMIZERS[name](), beside(OPTIMIZERS[name](), how)
            found = {pattern: figures(pattern) for pattern in PATTERNS}
            size = gdjax.state_bytes(gdjax.quantize_state(tx, **how), {"kernel": jnp.zeros(SHAPE)}) / np.prod(SHAPE)
            results.add({"optimizer": name, "kept": kept, "bytes": float(size), "patterns": found})
            say(name, kept, {p: list(x.values()) for p, x in found.items() if not holds(x)})
            jax.clear_caches()
    report(results)


if __name__ == "__main__":
    main()
