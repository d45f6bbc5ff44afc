"""Trains the byte language model of `make train` with parameters of 16 bits, in each way there is, beside float32.

    python benchmarks/bfloat16.py [--quick] [--out out/benchmarks]

The rate is low, so that the nearest bfloat16 of a weight is often the weight itself. The loss is computed in float32
from the parameters as they are stored; gradients have the dtype of the parameters. Held-out losses are of the stored
parameters. Where the compilers for a TPU and an H100 are installed (see `compile_only.py`), also the bytes of a step
there, and whether the rounding is in the program. Writes bfloat16.json, .md and .png; goes on where it was broken off
unless --again is given.
"""

import argparse
import re
import sys
import time
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from compile_only import device, figures
from harness import Results, say

import gdjax

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "examples"))
from lm import model, text

BATCH, LENGTH, HEADS, WINDOWS, AT_ONCE = 4, 128, 4, 128, 50
RATE = 2e-4
WRAPPERS: dict[str, Any] = {
    "float32": lambda tx, seed: tx,
    "bfloat16, nearest": lambda tx, seed: tx,
    "stochastic": lambda tx, seed: tx,  # by apply_updates
    "with_stochastic_rounding": gdjax.with_stochastic_rounding,
    "with_master_weights": lambda tx, seed: gdjax.with_master_weights(tx),
    "remainder_bits=16": lambda tx, seed: gdjax.with_master_weights(tx, remainder_bits=16),
    "remainder_bits=8": lambda tx, seed: gdjax.with_master_weights(tx, remainder_bits=8),
    "with_kahan_summation": lambda tx, seed: gdjax.with_kahan_summation(tx),
}


def optimizer(steps: int) -> Any:
    """That of `examples/train_lm.py`."""
    rate = gdjax.warmup_cosine_decay_schedule(RATE / 10, RATE, steps // 20, steps, RATE / 10)
    matrices = lambda params: jax.tree.map(lambda p: p.ndim >= 2, params)
    return gdjax.chain(gdjax.clip_by_global_norm(1.0), gdjax.adamw(rate, b2=0.95, weight_decay=0.1, mask=matrices))


def loss(params: Any, batch: Any) -> jax.Array:
    return model.loss(jax.tree.map(lambda p: p.astype(jnp.float32), params), batch)


def train(how: str, seed: int, steps: int, width: int, layers: int, data: text.Text) -> dict[str, Any]:
    tx = WRAPPERS[how](optimizer(steps), seed)
    params = model.init(jax.random.key(seed), width, layers, HEADS)
    if how != "float32":
        params = jax.tree.map(lambda p: p.astype(jnp.bfloat16), params)
    state, key = tx.init(params), jax.random.key(seed)
    held_out = jnp.asarray(text.spread(data.held_out, WINDOWS, LENGTH))

    def step(carry: Any, x: Any) -> Any:
        (params, state), (batch, i) = carry, x
        value, grads = jax.value_and_grad(loss)(params, batch)
        updates, state = tx.update(grads, state, params)
        if how == "stochastic":
            params = gdjax.apply_updates(params, updates, jax.random.fold_in(key, i), rounding="stochastic")
        else:
            params = gdjax.apply_updates(params, updates)
        return (params, state), value

    some = jax.jit(lambda carry, xs: jax.lax.scan(step, carry, xs), donate_argnums=0)
    evaluate = jax.jit(lambda p: jnp.mean(jax.lax.map(lambda w: loss(p, w[None]), held_out, batch_size=32)))
    start, losses, curve, first, carry = time.perf_counter(), [], [], params, (params, state)
    first = jax.tree.map(np.asarray, params)
    for begin in range(0, steps, AT_ONCE):
        at = range(begin, min(begin + AT_ONCE, steps))
        batches = np.stack([text.batch(data.train, BATCH, LENGTH, seed, i) for i in at])
        carry, values = some(carry, (jnp.asarray(batches), jnp.asarray(at)))
        losses += map(float, values)
        if (len(losses) * 10) // steps > (begin * 10) // steps:
            curve.append([len(losses), float(evaluate(carry[0]))])
    params, state = carry
    same = [
        np.mean(np.asarray(a) == np.asarray(b)) for a, b in zip(*map(jax.tree.leaves, (first, params)), strict=True)
    ]
    sizes = [p.size for p in jax.tree.leaves(params)]
    kept = sum(x.nbytes for x in jax.tree.leaves((params, state))) / sum(sizes)
    unmoved = float(np.average(same, weights=sizes))
    row = {"how": how, "seed": seed, "steps": steps, "width": width, "parameters": sum(sizes), "rate": RATE}
    row |= {"held_out": curve[-1][1], "curve": curve, "bytes": kept, "unmoved": unmoved}
    return row | {
        "train": np.mean(np.reshape(losses, (-1, min(10, steps))), 1).tolist(),
        "seconds": time.perf_counter() - start,
    }


def compiled_step(target: str, how: str, side: int) -> tuple[dict[str, Any], str]:
    """The figures of an AdamW step on one square matrix, and the text of its program."""
    dtype = jnp.float32 if how == "float32" else jnp.bfloat16
    there = jax.sharding.SingleDeviceSharding(device(target))
    put = lambda t: jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=there), t)
    params, key = {"w": jax.ShapeDtypeStruct((side, side), dtype)}, jax.eval_shape(lambda: jax.random.key(0))
    tx = WRAPPERS[how](gdjax.adamw(1e-3, weight_decay=0.1, mu_dtype=jnp.float32), 0)

    def step(params: Any, state: Any, grads: Any, key: Any) -> Any:
        updates, state = tx.update(grads, state, params)
        if how == "stochastic":
            return gdjax.apply_updates(params, updates, key, rounding="stochastic"), state
        return gdjax.apply_updates(params, updates), state

    return figures(step, put(params), put(jax.eval_shape(tx.init, params)), put(params), put(key))


def rounded_by(text: str) -> list[str]:
    """The operations in a program's text by which float32 numbers become those of 16 bits, other than a cast."""
    found = {"reduce-precision": r"reduce-precision\(", "mask of the upper half": r"constant\((4294901760|-65536)\)"}
    return [name for name, pattern in found.items() if re.search(pattern, text)]


def measure_bytes(results: Results, side: int) -> None:
    for target in ("tpu", "cuda"):
        try:
            device(target)
        except Exception as e:
            print(f"skipped {target}: its compiler is not installed ({type(e).__name__})")
            continue
        for how in WRAPPERS:
            if not results.has(target=target, how=how):
                jax.clear_caches()
                row, text = compiled_step(target, how, side)
                moved = row["memory_bytes"] / side**2
                row = {
                    "kernels of arrays": row["kinds"].get("fusion", 0),
                    "temporary": row["temporary_bytes"] / side**2,
                }
                results.add({"target": target, "how": how, "bytes": moved, **row, "rounded_by": rounded_by(text)})
                say(target, how, f"{moved:.2f} bytes a parameter")


def report(results: Results) -> None:
    lines = ["# Training with bfloat16 parameters", "", "; ".join(f"{k} {v}" for k, v in results.about.items())]
    rows = [r for r in results.rows if "held_out" in r]
    if rows:
        lines += ["", *table(rows)]
        draw(rows, results.path.with_suffix(".png"))
    moved = {(r["target"], r["how"]): r for r in results.rows if "target" in r}
    if moved:
        lines += [
            "",
            "An AdamW step on one matrix of 4096 x 4096, float32 moments, compiled: bytes over the main memory",
        ]
        lines[-1] += " for each parameter, temporaries, and what rounds in the text of the program."
        lines += ["", "| target | parameters | bytes | temporaries | rounded by |", "| --- | --- | ---: | ---: | --- |"]
        for (target, how), r in moved.items():
            what = ", ".join(r["rounded_by"])
            lines.append(f"| {target} | {how} | {r['bytes']:.2f} | {r['temporary']:.2f} | {what} |")
    results.path.with_suffix(".md").write_text("\n".join(lines) + "\n", "utf-8")
    print(f"wrote {results.path}, .md and .png")


def table(rows: list[dict[str, Any]]) -> list[str]:
    told = f"{rows[0]['parameters']:,} parameters, {rows[0]['steps']} steps of AdamW at a rate of {RATE:g}"
    lines = [f"The byte language model of `make train`, {told}. Held-out nats by seed; the bytes that parameters"]
    lines[-1] += " and state keep for each parameter; the weights that end where they began."
    seeds = sorted({r["seed"] for r in rows})
    heads = ["parameters", *(f"seed {s}" for s in seeds), "mean", "less float32", "bytes", "unmoved %"]
    lines += ["", f"| {' | '.join(heads)} |", "| --- |" + " ---: |" * (len(heads) - 1)]
    mean = lambda how: float(np.mean([r["held_out"] for r in rows if r["how"] == how]))
    for how in [how for how in WRAPPERS if any(r["how"] == how for r in rows)]:
        mine = {r["seed"]: r for r in rows if r["how"] == how}
        some = next(iter(mine.values()))
        cells = [f"{mine[s]['held_out']:.4f}" if s in mine else "" for s in seeds]
        cells += [f"{mean(how):.4f}", f"{mean(how) - mean('float32'):+.4f}"]
        cells += [f"{some['bytes']:.2f}", f"{100 * some['unmoved']:.1f}"]
        lines.append(f"| {' | '.join([how, *cells])} |")
    return lines


def draw(rows: list[dict[str, Any]], path: Path) -> None:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9.6, 4.2), layout="constrained")
    ax, beside = figure.subplots(1, 2, width_ratios=(3, 2))
    hows = [how for how in WRAPPERS if any(r["how"] == how for r in rows)]
    colours = ["black", "#c0392b", "#e08a2e", "#b8a021", "#3465a4", "#5aa0c8", "#4f9a5b", "#8e63a8"]
    for y, (how, colour) in enumerate(zip(hows, colours, strict=False)):
        mine = {r["seed"]: r for r in rows if r["how"] == how}
        curve = np.mean([r["curve"] for r in mine.values()], 0)
        wide = {"linewidth": 4, "alpha": 0.3} if how == "float32" else {"linewidth": 1.2}
        ax.plot(curve[:, 0], curve[:, 1], color=colour, label=how, **wide)
        float32 = {r["seed"]: r["held_out"] for r in rows if r["how"] == "float32"}
        away = [r["held_out"] - float32[seed] for seed, r in mine.items() if seed in float32]
        beside.scatter(away, [y] * len(away), color=colour, s=18)
    ax.set(xlabel="step", ylabel="held-out loss, nats a byte, mean of the seeds", ylim=(None, 3.2))
    ax.legend(frameon=False, fontsize=8)
    beside.axvline(0, color="0.6", linewidth=1, zorder=0)
    beside.set_yticks(range(len(hows)), hows, fontsize=8)
    beside.set(xlabel="at the end, less float32 of the same seed", ylim=(len(hows) - 0.5, -0.5))
    for axes in (ax, beside):
        axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, dpi=110)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--steps", type=int, default=1000)
    add("--width", type=int, default=128)
    add("--layers", type=int, default=4)
    add("--seeds", type=int, default=2)
    add("--how", nargs="*", choices=WRAPPERS, default=list(WRAPPERS))
    add("--quick", "--tiny", action="store_true", help="a tiny model and a few steps")
    add("--again", action="store_true", help="measure anew what the file has already")
    add("--out", type=Path, default=Path("out/benchmarks"))
    args = parser.parse_args()
    if args.quick:
        args.steps, args.width, args.layers, args.seeds, args.again = 20, 32, 1, 1, True
    results, data = Results(args.out / "bfloat16.json", args.again), text.read()
    for seed in range(args.seeds):
        for how in args.how:
            if not results.has(how=how, seed=seed, steps=args.steps, width=args.width):
                results.add(train(how, seed, args.steps, args.width, args.layers, data))
                row = results.rows[-1]
                say(how, f"seed {seed}", f"{row['held_out']:.4f} nats", f"{row['seconds']:.0f} s")
    measure_bytes(results, 256 if args.quick else 4096)
    report(results)


if __name__ == "__main__":
    main()
