"""What a step costs: gdjax beside Optax in one process, in alternation, params and state donated.

    python benchmarks/step_time.py [--quick] [--trees gpt2-small many] [--out benchmarks/results]

For each recipe and tree: step time (median over rounds, the two libraries in turn), temporary bytes of the compiled
step, seconds to trace and lower and to compile, equations, and the time of an eager `update`. Writes step_time.json,
step_time.md and step_time.png.
"""

import argparse
import json
import os
import platform
import statistics
import time
from collections.abc import Callable
from datetime import date
from pathlib import Path
from typing import Any

import jax
import optax
from recipes import RECIPES
from trees import TREES, arrays, shapes, size

import gdjax

LIBRARIES = {"gdjax": gdjax, "optax": optax}


def step_of(lib: Any, tx: Any) -> Any:
    def step(params: Any, state: Any, grads: Any) -> Any:
        updates, state = tx.update(grads, state, params)
        return lib.apply_updates(params, updates), state

    return jax.jit(step, donate_argnums=(0, 1))


def compile_figures(lib: Any, make: Callable[[Any], Any], tree: Any, rounds: int) -> dict[str, float]:
    """Exact figures of the compiled step, and the medians of the seconds it took to get there."""
    args = shapes(tree)
    seconds: dict[str, list[float]] = {"trace": [], "lower": []}
    for _ in range(rounds):
        jax.clear_caches()
        tx = make(lib)
        state = jax.eval_shape(tx.init, args)
        start = time.perf_counter()
        traced = step_of(lib, tx).trace(args, state, args)
        middle = time.perf_counter()
        lowered = traced.lower()
        seconds["trace"].append(middle - start)
        seconds["lower"].append(time.perf_counter() - middle)
    start = time.perf_counter()
    compiled = lowered.compile()
    return {
        "trace_s": statistics.median(seconds["trace"]),
        "lower_s": statistics.median(seconds["lower"]),
        "trace_lower_s": statistics.median(map(sum, zip(*seconds.values(), strict=True))),
        "compile_s": time.perf_counter() - start,
        "equations": len(traced.jaxpr.jaxpr.eqns),
        "temporary_bytes": compiled.memory_analysis().temp_size_in_bytes,
    }


def in_turn(runs: dict[str, Callable[[], None]], rounds: int) -> dict[str, list[float]]:
    """Seconds of each run in each round, the runs in alternation, after two unmeasured rounds."""
    seconds: dict[str, list[float]] = {name: [] for name in runs}
    for i in range(rounds + 2):
        for name, run in runs.items():
            start = time.perf_counter()
            run()
            if i >= 2:
                seconds[name].append(time.perf_counter() - start)
    return seconds


def step_seconds(make: Callable[[Any], Any], tree: Any, rounds: int) -> dict[str, list[float]]:
    grads = arrays(tree, 1, 0.01)

    def runner(lib: Any) -> Callable[[], None]:
        tx = make(lib)
        params = arrays(tree, 0, 0.02)
        held = [params, tx.init(params)]
        step = step_of(lib, tx)

        def run() -> None:
            held[:] = step(*held, grads)
            jax.block_until_ready(held)

        return run

    return in_turn({name: runner(lib) for name, lib in LIBRARIES.items()}, rounds)


def eager_seconds(make: Callable[[Any], Any], tree: Any, rounds: int) -> dict[str, list[float]]:
    """An `update` outside jit, nothing donated."""
    grads, params = arrays(tree, 1, 0.01), arrays(tree, 0, 0.02)

    def runner(lib: Any) -> Callable[[], None]:
        tx = make(lib)
        held = [tx.init(params)]

        def run() -> None:
            updates, held[0] = tx.update(grads, held[0], params)
            jax.block_until_ready((updates, held))

        return run

    return in_turn({name: runner(lib) for name, lib in LIBRARIES.items()}, rounds)


def measure(recipe: str, tree_name: str, rounds: int, eager: bool) -> dict[str, Any]:
    make, tree = RECIPES[recipe], TREES[tree_name]()
    leaves, param_bytes = size(shapes(tree))
    row: dict[str, Any] = {"recipe": recipe, "tree": tree_name, "leaves": leaves, "param_bytes": param_bytes}
    for name, lib in LIBRARIES.items():
        row[name] = compile_figures(lib, make, tree, 3)
    timed = {"step_s": step_seconds(make, tree, rounds)}
    if eager:
        timed["eager_s"] = eager_seconds(make, tree, max(3, rounds // 2))
    for figure, seconds in timed.items():
        for name, values in seconds.items():
            row[name][figure] = statistics.median(values)
        pairs = zip(seconds["gdjax"], seconds["optax"], strict=True)
        row[f"{figure}_ratio"] = statistics.median(a / b for a, b in pairs)
    for figure in ("trace_lower_s", "compile_s"):
        row[f"{figure}_ratio"] = row["gdjax"][figure] / row["optax"][figure]
    return row


def machine() -> dict[str, Any]:
    cpu = next((s.split(":")[1].strip() for s in open("/proc/cpuinfo") if s.startswith("model name")), "unknown")
    return {
        "date": date.today().isoformat(),
        "device": str(jax.devices()[0].device_kind),
        "cpu": cpu,
        "cores": os.cpu_count(),
        "python": platform.python_version(),
        "jax": jax.__version__,
        "optax": optax.__version__,
        "gdjax": gdjax.__version__,
    }


def table(rows: list[dict[str, Any]], about: dict[str, Any]) -> str:
    """The results as Markdown."""
    head = (
        "tree | recipe | step ms | Optax | ratio | temporary MB | Optax | trace + lower s | Optax | ratio | eager ratio"
    )
    lines = [
        "# Step time, gdjax beside Optax",
        "",
        "; ".join(f"{k} {v}" for k, v in about.items()),
        "",
        f"| {head} |",
        "|" + " --- |" * (head.count("|") + 1),
    ]
    for r in rows:
        a, b = r["gdjax"], r["optax"]
        cells = [
            r["tree"], r["recipe"], f"{a['step_s'] * 1e3:.1f}", f"{b['step_s'] * 1e3:.1f}", f"{r['step_s_ratio']:.2f}",
            f"{a['temporary_bytes'] / 1e6:.3f}", f"{b['temporary_bytes'] / 1e6:.3f}", f"{a['trace_lower_s']:.2f}",
            f"{b['trace_lower_s']:.2f}", f"{r['trace_lower_s_ratio']:.2f}",
            f"{r['eager_s_ratio']:.2f}" if "eager_s_ratio" in r else "-",
        ]  # fmt: skip
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def plot(rows: list[dict[str, Any]], about: dict[str, Any], path: Path) -> None:
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figures = {"step_s_ratio": "step time", "trace_lower_s_ratio": "trace + lower", "eager_s_ratio": "eager update"}
    names = [f"{r['recipe']}\n{r['tree']}" for r in rows]
    fig, axes = plt.subplots(1, len(figures), figsize=(13, 0.6 * len(rows) + 1.6), sharey=True, layout="constrained")
    for ax, (key, title) in zip(axes, figures.items(), strict=True):
        values = [r.get(key) for r in rows]
        ax.barh(names, [v or 0 for v in values], color="#3b6ea5")
        ax.axvline(1, color="black", linewidth=1)
        for i, v in enumerate(values):
            ax.text(v or 0, i, f" {v:.2f}" if v else " not measured", va="center", fontsize=9)
        ax.set_title(title)
        ax.set_xlim(0, 1.25)
        ax.set_xlabel("gdjax / Optax (less is better)")
        ax.spines[["top", "right"]].set_visible(False)
    axes[0].invert_yaxis()
    fig.suptitle(f"{about['cpu']}, {about['cores']} cores, jax {about['jax']}, optax {about['optax']}", fontsize=10)
    fig.savefig(path, dpi=120)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", "--tiny", action="store_true", help="a small tree, few rounds")
    parser.add_argument("--trees", nargs="+", choices=TREES, default=list(TREES))
    parser.add_argument("--recipes", nargs="+", choices=RECIPES, default=list(RECIPES))
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--out", type=Path, default=Path("out/benchmarks"))
    args = parser.parse_args()
    trees, rounds = (["gpt2-cut"], 3) if args.quick else (args.trees, args.rounds)
    rows = []
    for tree in trees:
        for recipe in args.recipes:
            rows.append(measure(recipe, tree, rounds, eager=tree != "many"))
            print(table(rows[-1:], {}).splitlines()[-1], flush=True)
    args.out.mkdir(parents=True, exist_ok=True)
    about = machine()
    (args.out / "step_time.json").write_text(json.dumps({"machine": about, "rows": rows}, indent=1) + "\n")
    (args.out / "step_time.md").write_text(table(rows, about))
    plot(rows, about, args.out / "step_time.png")
    print(f"wrote {args.out}/step_time.json, .md and .png")


if __name__ == "__main__":
    main()
