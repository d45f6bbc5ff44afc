"""Held-out losses of a small language model, trained with its optimizer's state in 32, 8 and 4 bits.

    python benchmarks/coded_training.py [--quick] [--methods adamw soap muon] [--states float32 "8 bits"] [--picture]

The model and the text are those of `examples/train_lm.py`, smaller: each matrix has 4,096 elements or more, so that
`quantize_state` codes its moments. Several seeds train at once: parameters and batches differ, the random bits of
rounding are those of one seed. A seed has the same start and batches in every state. Writes coded_training.json
and .md; goes on where it was broken off unless --again is given. With --picture it draws, and trains nothing:
docs/images/coded_training.png from the results that are kept.
"""

import argparse
import functools
import json
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from harness import Results, markdown_table, nbytes, say
from small_lm import ROOT, loss, start, text

import gdjax

LENGTH, BATCH = 64, 4
RATES = {"adamw": 4e-3, "soap": 8e-3, "muon": 2e-2}
ADAM_RATE = 4e-3  # for what Muon leaves to AdamW
COLOURS = {"float32": "0.2", "8 bits": "#d7191c", "4 bits": "#1f6fb4"}  # of the picture

STATES: Mapping[str, Callable[[Any], Any]] = {
    "float32": lambda tx: tx,
    "8 bits": gdjax.quantize_state,
    "8 bits, blocks": lambda tx: gdjax.quantize_state(tx, moments="blocks"),
    "8 bits, log": lambda tx: gdjax.quantize_state(tx, moments="log"),
    "bfloat16 and 8 bits": lambda tx: gdjax.quantize_state(tx, moments="bfloat16"),
    "8 bits, factors bfloat16": lambda tx: gdjax.quantize_state(tx, factors="bfloat16"),
    "8 bits, factors in blocks": lambda tx: gdjax.quantize_state(tx, factors="blocks"),
    "4 bits": lambda tx: gdjax.quantize_state(tx, bits=4),
}


def optimizer(method: str, steps: int) -> Any:
    """Clip and the method, whose rate warms up and falls to a hundredth."""

    def rate(peak: float) -> Any:
        return gdjax.warmup_cosine_decay_schedule(peak / 10, peak, steps // 20, steps, peak / 100)

    if method == "adamw":
        tx = gdjax.adamw(rate(RATES[method]), b2=0.999, weight_decay=0.1)
    elif method == "soap":
        tx = gdjax.soap(rate(RATES[method]), weight_decay=0.1)
    else:
        tx = gdjax.muon(rate(RATES[method]), weight_decay=0.1, adam_learning_rate=rate(ADAM_RATE),
                        muon_weight_dimension_numbers=hidden)  # fmt: skip
    return gdjax.chain(gdjax.clip_by_global_norm(1.0), tx)


def hidden(params: Any) -> Any:
    """Muon's matrices: not the embedding and the head, which are left to AdamW."""
    of = lambda in_block: lambda x: gdjax.contrib.MuonDimensionNumbers() if in_block and x.ndim == 2 else None
    return {name: jax.tree.map(of(name == "blocks"), x) for name, x in params.items()}


def one_by_one(f: Any) -> Any:
    """A function mapped as by `jax.vmap`, which would refresh all of SOAP's bases in each step and not a few."""
    return lambda *args: jax.lax.map(lambda own: f(*own), args)


def train(method: str, state_name: str, o: argparse.Namespace, data: Any) -> dict[str, Any]:
    tx = STATES[state_name](optimizer(method, o.steps))
    corpus, held_out = jnp.asarray(data.train), jnp.asarray(text.spread(data.held_out, o.windows, LENGTH))
    params = jax.vmap(functools.partial(start, width=o.width, layers=o.layers))(
        jax.random.split(jax.random.key(0), o.seeds)
    )
    state = jax.vmap(tx.init)(params)

    def step(carry: Any, starts: Any) -> Any:
        params, state = carry
        grads = jax.grad(loss)(params, corpus[starts[:, None] + jnp.arange(LENGTH + 1)[None]])
        updates, state = tx.update(grads, state, params)
        return (gdjax.apply_updates(params, updates), state), None

    @functools.partial(jax.jit, donate_argnums=(0, 1))
    @(one_by_one if method == "soap" else jax.vmap)
    def some_steps(params: Any, state: Any, starts: Any) -> Any:
        (params, state), _ = jax.lax.scan(step, (params, state), starts)
        tested = jax.lax.map(lambda window: loss(params, window[None]), held_out, batch_size=16)
        return params, state, tested.mean()

    last = jax.jit(
        jax.vmap(lambda params: jax.lax.map(lambda w: loss(params, w[None]), all_windows, batch_size=16).mean())
    )
    all_windows = jnp.asarray(text.spread(data.held_out, 8 * o.windows, LENGTH))
    row: dict[str, Any] = {"method": method, "state": state_name, "steps": o.steps, "seeds": o.seeds}
    row["parameters"] = sum(x.size for x in jax.tree.leaves(params)) // o.seeds
    row["state_bytes"] = nbytes(state) // o.seeds
    row["curve"] = []  # held-out loss, mean over the seeds
    began = time.perf_counter()
    for first in range(0, o.steps, o.every):
        rngs = [np.random.default_rng((seed, first)) for seed in range(o.seeds)]
        starts = np.stack([r.integers(0, len(data.train) - LENGTH, (o.every, BATCH)) for r in rngs])
        params, state, tested = some_steps(params, state, starts.astype(np.int32))
        row["curve"].append(round(float(tested.mean()), 4))
        say(method, state_name, first + o.every, f"{tested.mean():.3f}", f"{time.perf_counter() - began:.0f} s")
    row["held_out"] = [round(float(x), 5) for x in last(params)]
    return row | {"seconds": round(time.perf_counter() - began)}


def against(row: dict[str, Any], rows: list[dict[str, Any]]) -> tuple[float, float] | None:
    """The mean difference to float32 over the seeds that both have, and its standard error.

    To float32 as it ran on the same day and machine, where it did.
    """
    of_method = [r for r in rows if (r["method"], r["state"]) == (row["method"], "float32")]
    exact = next((r for r in of_method if r["taken"] == row["taken"]), of_method[-1] if of_method else row)
    both = list(zip(row["held_out"], exact["held_out"], strict=False))
    if exact is row or len(both) < 2:
        return None
    differences = np.subtract(*np.transpose(both))
    return float(differences.mean()), float(differences.std(ddof=1) / np.sqrt(len(both)))


def report(results: Results) -> None:
    rows = results.rows
    lines = [f"Held-out loss in nats per byte after {rows[0]['steps']} steps of {BATCH} x {LENGTH} bytes.", ""]
    head = (
        "method | state | taken | parameters | bytes of state a parameter | seeds | mean | over seeds ± | "
        "less float32's | ±"
    )
    shown = []
    for r in rows:
        x, found = np.array(r["held_out"]), against(r, rows)
        cells = [r["method"], r["state"], r["taken"], f"{r['parameters']:,}"]
        cells.append(f"{r['state_bytes'] / r['parameters']:.2f}")
        cells += [str(len(x)), f"{x.mean():.3f}", f"{x.std(ddof=1):.3f}" if len(x) > 1 else ""]
        shown.append([*cells, *(f"{d:.3f}" for d in found or ())])
    results.tell("Training with the state in fewer bits", lines + markdown_table(head, shown, 3))


def picture() -> None:
    """A panel for each method: the curves, and where each seed ended."""
    from matplotlib.figure import Figure

    rows = json.loads((ROOT / "benchmarks" / "results" / "coded_training.json").read_text("utf-8"))["rows"]
    shown = [m for m in RATES if any(r["method"] == m for r in rows)]
    figure = Figure(figsize=(3.6 * len(shown), 3.6), layout="constrained")
    for ax, method in zip(np.atleast_1d(figure.subplots(1, len(shown), sharey=True)), shown, strict=True):
        mine = {r["state"]: r for r in rows if r["method"] == method and r["state"] in COLOURS}
        for i, (state, r) in enumerate(mine.items()):
            steps = np.arange(1, len(r["curve"]) + 1) * r["steps"] / len(r["curve"])
            said = f"{state}: {r['state_bytes'] / r['parameters']:.1f} bytes, {np.mean(r['held_out']):.3f}"
            ax.plot(steps, r["curve"], color=COLOURS[state], linewidth=1.4, label=said)
            places = np.full(len(r["held_out"]), r["steps"] * (1.05 + 0.05 * i))
            ax.plot(places, r["held_out"], "o", color=COLOURS[state], markersize=3, alpha=0.7)
        ax.set(title=method, xlabel="step", ylim=(1.4, 2.6))
        ax.spines[["top", "right"]].set_visible(False)
        ax.grid(color="0.92", linewidth=0.8)
        ax.legend(fontsize=8, frameon=False, title="state, bytes a parameter, loss at the end", title_fontsize=8)
    figure.axes[0].set_ylabel("held-out loss, nats per byte")
    figure.supxlabel("curves: mean over seeds, on 64 windows; dots: each seed at the end, on 512", fontsize=8)
    figure.savefig(ROOT / "docs" / "images" / "coded_training.png", dpi=130)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--methods", nargs="+", choices=RATES, default=list(RATES))
    add("--states", nargs="+", choices=STATES)
    add("--steps", type=int, default=3000)
    add("--seeds", type=int, default=5)
    add("--width", type=int, default=64)
    add("--layers", type=int, default=2)
    add("--every", type=int, default=100, help="steps from one held-out loss to the next")
    add("--windows", type=int, default=64, help="of held-out text on the way; eight times as many at the end")
    add("--quick", "--tiny", action="store_true", help="ten steps of AdamW and two seeds")
    add("--picture", action="store_true", help="draw the results that are kept")
    add("--again", action="store_true", help="measure anew what the file has already")
    add("--out", type=Path, default=Path("out/benchmarks"))
    o = parser.parse_args()
    if o.quick:
        o.methods, o.states, o.steps, o.seeds, o.again = ["adamw"], ["float32", "8 bits"], 10, 2, True
        o.every, o.windows = 5, 4
    if o.picture:
        return picture()
    data = text.read()
    results = Results(o.out / "coded_training.json", o.again)
    of_adamw = [name for name in STATES if "factors" not in name]  # which AdamW has none of
    for method, state in [(m, s) for m in o.methods for s in o.states or (of_adamw if m == "adamw" else COLOURS)]:
        if not results.has(method=method, state=state):
            results.add(train(method, state, o, data))
    report(results)


if __name__ == "__main__":
    main()
