"""How the costs of a step grow: with the number of leaves, from 10 to 10,000, and of parameters, from 1 M to 1 G.

    python benchmarks/growth.py [--quick] [--recipes lion] [--out out/benchmarks]

Leaves are 64 x 64; of 10,000 the program is traced and lowered only, since compiling it takes minutes. Parameters are
in 100 square leaves; those of 1 G are shapes only, compiled for exact figures and not run. All peers in one process,
float32. Writes growth.json, .md and .png; goes on where it was broken off unless --again is given.
"""

import argparse
import gc
import math
from pathlib import Path
from typing import Any

import jax
from harness import PEERS, Results, both_ways, compilation, medians, say
from recipes import RECIPES
from step_time import runner
from trees import arrays, many, shapes, size

LEAVES = 10, 30, 100, 300, 1000, 3000, 10000
PARAMETERS = 1e6, 1e7, 1e8, 1e9
COMPILED, RUN = 1000, 1.5e8  # the most leaves that are compiled, the most parameters that are run


def wide(parameters: float, leaves: int = 100) -> dict[str, Any]:
    side = round(math.sqrt(parameters / leaves))
    return {f"w{i}": (side, side) for i in range(leaves)}


def measure(recipe: str, kind: str, tree: Any, rounds: int) -> dict[str, Any]:
    leaves, nbytes = size(shapes(tree))
    row: dict[str, Any] = {"recipe": recipe, "kind": kind, "leaves": leaves, "parameters": nbytes // 4}
    for peer in PEERS:
        few = leaves > COMPILED
        row[peer] = compilation(peer, recipe, tree, "float32", rounds=1 if few else 3, compile_=not few)
    if kind == "parameters" and nbytes / 4 <= RUN:
        params, grads = arrays(tree, 0, 0.02), arrays(tree, 1, 0.01)
        seconds = both_ways({peer: runner(peer, recipe, params, grads) for peer in PEERS}, rounds)
        for peer, value in medians(seconds).items():
            row[peer]["step_s"] = value
    gc.collect()
    return row


def cell(x: dict[str, Any], figure: str) -> str:
    if figure == "trace + lower":
        return f"{x['trace_s'] + x['lower_s']:.3f}"
    if figure not in x:
        return ""
    return f"{x[figure]:.4g}" if figure.endswith("_s") else f"{x[figure] / 1e6:.4g}"


def table(rows: list[dict[str, Any]], by: str, figures: dict[str, str]) -> list[str]:
    lines = [f"| {by} | " + " | ".join(f"{head}: {', '.join(PEERS)}" for head in figures.values()) + " |"]
    lines += ["| ---: |" + " ---: |" * len(figures)]
    for r in rows:
        cells = [" / ".join(filter(None, (cell(r[peer], f) for peer in PEERS))) for f in figures]
        lines.append(f"| {r[by]:,} | {' | '.join(cells)} |")
    return lines


FIGURES = {
    "leaves": {
        "trace + lower": "trace + lower, s",
        "compile_s": "compile, s",
        "temporary_bytes": "temporaries, MB",
    },
    "parameters": {
        "step_s": "step, s",
        "bytes_accessed": "bytes accessed, MB",
        "temporary_bytes": "temporaries, MB",
    },
}


def write(results: Results) -> None:
    lines = ["# How the costs of a step grow", "", "; ".join(f"{k} {v}" for k, v in results.about.items())]
    for recipe in dict.fromkeys(r["recipe"] for r in results.rows):
        for kind, figures in FIGURES.items():
            rows = [r for r in results.rows if (r["recipe"], r["kind"]) == (recipe, kind)]
            lines += ["", f"## {recipe}, by {kind}", "", *table(rows, kind, figures)]
    results.path.with_suffix(".md").write_text("\n".join(lines) + "\n", "utf-8")
    plot(results)
    print(f"wrote {results.path}, .md and .png")


def plot(results: Results) -> None:
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    recipes = list(dict.fromkeys(r["recipe"] for r in results.rows))
    colors = dict(zip(PEERS, ("#3b6ea5", "#c2703d", "black"), strict=True))
    panels = [
        ("leaves", "leaves of 64 x 64", "trace and lower, s", lambda x: x["trace_s"] + x["lower_s"]),
        ("leaves", "leaves of 64 x 64", "compile, s", lambda x: x.get("compile_s")),
        ("parameters", "parameters in 100 leaves", "step, s", lambda x: x.get("step_s")),
        ("parameters", "parameters in 100 leaves", "temporaries, MB", lambda x: x.get("temporary_bytes", 0) / 1e6),
    ]
    fig, axes = plt.subplots(
        len(recipes), len(panels), figsize=(4 * len(panels), 3.2 * len(recipes)), squeeze=False, layout="constrained"
    )
    for line, recipe in zip(axes, recipes, strict=True):
        for ax, (kind, along, title, value) in zip(line, panels, strict=True):
            for peer in PEERS:
                rows = [r for r in results.rows if (r["recipe"], r["kind"]) == (recipe, kind)]
                points = [(r[kind], y) for r in rows if (y := value(r[peer])) is not None]
                ax.plot(*zip(*points, strict=True), "--" if peer == "hand" else "o-", color=colors[peer], label=peer)
            ax.set_xscale("log")
            # Temporaries may be none at all.
            ax.set_yscale("symlog", linthresh=0.1) if "MB" in title else ax.set_yscale("log")
            ax.set(xlabel=along, title=f"{recipe}: {title}")
            ax.title.set_fontsize(9)
            ax.spines[["top", "right"]].set_visible(False)
    axes[0][0].legend(fontsize=8)
    about = results.about
    fig.suptitle(f"{about['cpu']}, {about['cores']} cores, jax {about['jax']}, optax {about['optax']}", fontsize=10)
    fig.savefig(results.path.with_suffix(".png"), dpi=100)
    plt.close(fig)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", "--tiny", action="store_true", help="few and small sizes, one recipe")
    parser.add_argument("--recipes", nargs="+", choices=RECIPES, default=["clip + adamw + cosine", "lion"])
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--again", action="store_true", help="measure anew what the file has already")
    parser.add_argument("--out", type=Path, default=Path("out/benchmarks"))
    args = parser.parse_args()
    leaves, parameters = LEAVES, PARAMETERS
    if args.quick:
        leaves, parameters, args.recipes, args.rounds, args.again = (10, 30), (1e5, 1e6), ["lion"], 3, True
    results = Results(args.out / "growth.json", args.again)
    wanted = [(r, "leaves", many(n)) for r in args.recipes for n in leaves]
    wanted += [(r, "parameters", wide(n)) for r in args.recipes for n in parameters]
    for i, (recipe, kind, tree) in enumerate(wanted):
        n, nbytes = size(shapes(tree))
        if results.has(recipe=recipe, kind=kind, leaves=n, parameters=nbytes // 4):
            continue
        results.add(measure(recipe, kind, tree, args.rounds))
        jax.clear_caches()
        say(f"{i + 1}/{len(wanted)} {recipe}: {n} leaves, {nbytes / 4e6:.4g} M parameters")
    write(results)


if __name__ == "__main__":
    main()
