"""What one gradient that is too large does to the updates of each optimizer, at the step and later.

    python benchmarks/spikes.py [--quick] [--methods soap kl_soap] [--out out/benchmarks]

Gradients are white: normal numbers, drawn anew in each step. One of them is 10, 100 or 1000 times as large. A figure is
the root mean square of an update over that of the ten updates before the spike: at the step, and the largest of the
steps after it. Leaves are matrices of several shapes and a vector; a cell has the largest of the matrices, and of
methods that treat no matrix apart, of all leaves. Every public optimizer runs with its defaults. Writes spikes.json and
.md; goes on where it was broken off unless --again is given.
"""

import argparse
import inspect
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from harness import Results, markdown_table, say

import gdjax

SPIKES = 10.0, 100.0, 1000.0
BEFORE, AFTER, RATE = 50, 60, 1e-3
SHAPES = {"hidden": (128, 64), "wide": (24, 256), "tall": (200, 16), "bias": (2048,)}
GIVEN: dict[str, dict[str, Any]] = {
    "dpsgd": {"l2_norm_clip": 1.0, "noise_multiplier": 0.0, "key": 0},
    "noisy_sgd": {"key": 0},
    **{name: {"data_size": 1e6, "key": 0} for name in ("psgld", "sghmc", "sgld")},
    "transformer_optimizer": {"steps": 1000},
    "adafactor": {"learning_rate": RATE},  # without one its steps are as long as the parameters, which then grow
}
# Why the figures of a method are not within 5 at the step and 3 later, or why it has none.
LINEAR = "linear in a gradient"
APART = {
    **dict.fromkeys(("sgd", "noisy_sgd", "perturbed_gradient_descent", "schedule_free_sgd", "sgld", "sghmc"), LINEAR),
    "optimistic_gradient_descent": f"{LINEAR}, of which the next step takes one half back",
    "acprop": f"{LINEAR}: it divides by the second moment of before the step, which is the method",
    "adagrad": "a sum that never fades: at most the first update again, sqrt(t) times that of step t",
    "sm3": "as `adagrad`: at most sqrt(t) times that of step t, and the momentum keeps it",
    "cocob": "a sum that never fades, as `adagrad`",
    "dog": "a sum that never fades, as `adagrad`",
    "madgrad": "a sum that never fades, under a cube root: at most t^(2/3)",
    "mechanize": "it learns the rate from the gradients, and a spike tells it of a larger one",
    **dict.fromkeys(
        ("nadam", "nadamw"), "Adam's bound, and Nesterov's momentum counts the spike twice: 5.0 of large leaves"
    ),
    **dict.fromkeys(("optimistic_adam", "optimistic_adam_v2"), "Adam's bound, twice the update less that of before"),
    "schedule_free_adamw": "a gradient without momentum over Adam's root, which has few steps in it",
    "psgld": "a gradient without momentum over RMSProp's root, which has few steps in it",
    "amsgrad": "Adam's bound, and a maximum that never fades",
    "radam": "Adam's bound, 3.0 later",
    "galore": "Adam's bound, in a basis of an earlier gradient: up to 3.1 later",
}
MINIMIZERS = "lbfgs", "bfgs", "ssbroyden", "gauss_newton"  # of one loss, not of white gradients
LOSSES = ("sophia",)  # it needs the loss as a function; its updates are clipped to the rate
WHOLE = ("dpsgd",)  # it takes gradients of single examples, each clipped to a norm: bounded


def names() -> list[str]:
    """The public optimizers that white gradients say something of."""
    functions = {name: getattr(gdjax, name) for name in gdjax.__all__}
    own = [name for name, f in functions.items() if inspect.isfunction(f) and "optimizers" in f.__module__]
    left_out = {"schedule_free_eval_params", "nesterov_point", *MINIMIZERS, *LOSSES, *WHOLE}
    return [name for name in own if not name.startswith("scale_by") and name not in left_out]


def made(name: str, **changes: Any) -> Any:
    """An optimizer with its defaults; AdamW inside one that wraps another."""
    factory, given = getattr(gdjax, name), GIVEN.get(name, {}) | changes
    arguments = inspect.signature(factory).parameters
    if "adv_optimizer" in arguments:
        return factory(gdjax.adamw(RATE), gdjax.chain(gdjax.normalize(), gdjax.sgd(0.05)), **given)
    if "base_optimizer" in arguments and arguments["base_optimizer"].default is inspect.Parameter.empty:
        given = {"base_optimizer": gdjax.adamw(RATE)} | given
    rate = arguments.get("learning_rate")
    return factory(**({"learning_rate": RATE} if rate and rate.default is rate.empty else {}), **given)


def figures(tx: Any, spikes: Any = SPIKES, shapes: Any = SHAPES, seed: int = 0) -> dict[str, list[tuple[float, float]]]:
    """For each leaf, and each spike, the update at the step and the largest later, over those before."""
    rng, steps = np.random.default_rng(seed), BEFORE + 1 + AFTER
    normal = lambda *shape: jnp.asarray(rng.normal(size=shape), "float32")
    params = {name: {"kernel" if len(shape) > 1 else "bias": 0.05 * normal(*shape)} for name, shape in shapes.items()}
    gradients = jax.tree.map(lambda p: normal(steps, *p.shape), params)
    tx = gdjax.with_extra_args_support(tx)

    def step(carry: Any, g: Any) -> Any:
        updates, state = tx.update(g, carry[1], carry[0], value=jnp.ones(()))
        sizes = jax.tree.map(lambda u: jnp.sqrt(jnp.mean(u**2)), updates)
        return (gdjax.apply_updates(carry[0], updates), state), sizes

    @jax.jit
    def run(spike: Any) -> Any:
        heights = jnp.ones(steps).at[BEFORE].set(spike)
        gs = jax.tree.map(lambda g: g * heights.reshape(-1, *[1] * (g.ndim - 1)), gradients)
        return jax.lax.scan(step, (params, tx.init(params)), gs)[1]

    found: dict[str, list[tuple[float, float]]] = {name: [] for name in shapes}
    for spike in spikes:
        for name, leaf in run(spike).items():
            (sizes,) = (np.asarray(x, float) for x in leaf.values())
            before = np.sqrt(np.mean(sizes[BEFORE - 10 : BEFORE] ** 2))
            found[name].append((sizes[BEFORE] / before, sizes[BEFORE + 1 :].max() / before))
    return found


def told(found: dict[str, list[tuple[float, float]]]) -> list[tuple[float, float]]:
    """For each spike the largest over the leaves."""
    return [tuple(max(leaf[i][j] for leaf in found.values()) for j in (0, 1)) for i in range(len(SPIKES))]  # type: ignore[misc]


def write(results: Results) -> None:
    head = "optimizer | at the step: 10 | 100 | 1000 | later: 10 | 100 | 1000"
    rows: dict[bool, list[list[str]]] = {True: [], False: []}
    for row in results.rows:
        cells = [f"{x[j]:.2g}" if x[j] < 100 else f"{x[j]:.0f}" for j in (0, 1) for x in row["matrices"]]
        rows[row["method"] in APART].append([f"`{row['method']}`", *cells])
    lines = ["Update over those before, the largest of three matrices.", ""]
    lines += markdown_table(head, rows[False])
    lines += ["## Apart, and why", "", *markdown_table(head, rows[True])]
    lines += [f"- `{row['method']}`: {APART[row['method']]}" for row in results.rows if row["method"] in APART]
    results.tell("One gradient that is too large", lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", "--tiny", action="store_true", help="three optimizers")
    parser.add_argument("--methods", nargs="+", default=None)
    parser.add_argument("--again", action="store_true", help="measure anew what the file has already")
    parser.add_argument("--out", type=Path, default=Path("out/benchmarks"))
    args = parser.parse_args()
    results = Results(args.out / "spikes.json", args.again or args.quick)
    for name in args.methods or (["sgd", "adamw", "kl_shampoo"] if args.quick else names()):
        if results.has(method=name):
            continue
        found = figures(made(name))
        matrices = told({leaf: x for leaf, x in found.items() if leaf != "bias"})
        results.add({"method": name, "matrices": matrices, "leaves": found})
        say(name, *(f"{at:.3g} {later:.3g}" for at, later in matrices))
    write(results)


if __name__ == "__main__":
    main()
