"""Tables and plots of what `step_time.py` measured: python benchmarks/report.py STEP_TIME.json"""

import json
import math
import statistics
import sys
from pathlib import Path
from typing import Any

TEMPORARY = 0.5  # of the parameters' bytes: where Optax keeps more, its step is bound by that
WIDEST = 1.6  # of Optax's step: as far as the plot goes
PEERS = "optax", "hand", "torch foreach", "torch fused"


def line(row: dict[str, Any]) -> str:
    """One row in words, for progress."""
    ratios = ", ".join(f"{v:.2f} of {k}" for k, v in row["ratios"].items())
    ms, limit = row["gdjax"]["step_s"] * 1e3, row["limit_s"] / row["gdjax"]["step_s"]
    return f"{row['tree']} {row['dtype']} {row['recipe']}: {ms:.2f} ms, {ratios}, limit {limit:.2f}"


def table(rows: list[dict[str, Any]], marks: dict[str, str]) -> list[str]:
    head = (
        "recipe | ms | of Optax | of hand | of foreach | of fused | limit | temp % | Optax | trace+lower | compile | "
    )
    head += "eager"
    lines = [f"| {head} |", "| --- |" + " ---: |" * head.count("|")]
    for r in rows:
        a, b, ratios = r["gdjax"], r["optax"], r["ratios"]
        cells = [r["recipe"] + marks[r["taken"]], f"{a['step_s'] * 1e3:.2f}", *(number(ratios.get(p)) for p in PEERS)]
        cells += [number(r["limit_s"] / a["step_s"])]
        cells += [f"{100 * x['temporary_bytes'] / r['param_bytes']:.1f}" for x in (a, b)]
        cells += [number((a["trace_s"] + a["lower_s"]) / (b["trace_s"] + b["lower_s"]))]
        cells += [number(a["compile_s"] / b["compile_s"]), number(ratios.get("optax, eager"))]
        lines.append(f"| {' | '.join(cells)} |")
    return lines


def number(x: float | None) -> str:
    return "" if x is None else f"{x:.2f}"


def geometric_mean(xs: list[float]) -> float:
    return math.exp(statistics.fmean(map(math.log, xs))) if xs else math.nan


def summary(rows: list[dict[str, Any]]) -> list[str]:
    """The figures that the targets name."""
    of_optax = [r["ratios"]["optax"] for r in rows]
    heavy = [r["ratios"]["optax"] for r in rows if r["optax"]["temporary_bytes"] > TEMPORARY * r["param_bytes"]]
    worst = max(rows, key=lambda r: r["ratios"]["optax"])
    by_hand = max(rows, key=lambda r: r["ratios"]["hand"])
    return [
        f"- Step time over Optax's: geometric mean {geometric_mean(of_optax):.2f} of {len(rows)} rows;"
        f" {geometric_mean(heavy):.2f} of the {len(heavy)} where Optax keeps params-sized temporaries;"
        f" worst {worst['ratios']['optax']:.2f} ({worst['tree']} {worst['dtype']}, {worst['recipe']}).",
        f"- Over the hand-written step: geometric mean {geometric_mean([r['ratios']['hand'] for r in rows]):.2f},"
        f" worst {by_hand['ratios']['hand']:.2f} ({by_hand['tree']} {by_hand['dtype']}, {by_hand['recipe']}).",
    ]


def write(path: Path) -> None:
    """Writes the .md and .png beside the .json."""
    found = json.loads(path.read_text("utf-8"))
    about, rows = found["machine"], found["rows"]
    lines = ["# What a step costs", "", "; ".join(f"{k} {v}" for k, v in about.items()), "", *summary(rows), ""]
    lines += [
        "Ratios are medians over rounds of gdjax / peer: less than 1 is faster. `limit`: the share of the step that",
        "the bytes alone would take; `temp %`: temporaries over the parameters' bytes; trace+lower, compile and eager:",
        "of Optax's.",
    ]
    groups = dict.fromkeys((r["tree"], r["dtype"]) for r in rows)
    for tree, dtype in groups:
        mine = [r for r in rows if (r["tree"], r["dtype"]) == (tree, dtype)]
        marks = {taken: "†" * i for i, taken in enumerate(dict.fromkeys(r["taken"] for r in mine))}
        lines += [
            "",
            f"## {tree}, {dtype}: {mine[0]['leaves']} leaves, {mine[0]['param_bytes'] / 1e6:.3g} MB",
            "",
            *(f"Taken {taken}{mark and f', what has a {mark}'}.\n" for taken, mark in marks.items()),
            *table(mine, marks),
        ]
    path.with_suffix(".md").write_text("\n".join(lines) + "\n", "utf-8")
    plot(
        about,
        {group: [r for r in rows if (r["tree"], r["dtype"]) == group] for group in groups},
        path.with_suffix(".png"),
    )
    print(f"wrote {path}, .md and .png")


def plot(about: dict[str, Any], groups: dict[Any, list[dict[str, Any]]], path: Path) -> None:
    """Step times over Optax's, a panel for each tree; ticks where the other peers are."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    columns, bars = min(3, len(groups)), list(map(len, groups.values()))
    tallest = [max(bars[i : i + columns]) for i in range(0, len(bars), columns)]  # of each line of panels
    fig, axes = plt.subplots(
        len(tallest), columns, figsize=(1 + 4.2 * columns, sum(1.2 + 0.24 * n for n in tallest)),
        gridspec_kw={"height_ratios": tallest}, squeeze=False, layout="constrained",
    )  # fmt: skip
    for ax in axes.flat[len(groups) :]:
        ax.axis("off")
    marks = {"hand": ("|", "black"), "torch foreach": ("x", "#c2703d"), "torch fused": ("+", "#a23b52")}
    for i, (ax, ((tree, dtype), rows)) in enumerate(zip(axes.flat, groups.items(), strict=False)):
        names = [r["recipe"] for r in rows]
        ax.barh(names, [r["ratios"]["optax"] for r in rows], color="#3b6ea5", label="gdjax")
        for peer, (mark, color) in marks.items():
            at = [(r[peer]["step_s"] / r["optax"]["step_s"], k) for k, r in enumerate(rows) if peer in r]
            if at:
                ax.scatter(*zip(*at, strict=True), marker=mark, s=60, color=color, label=peer, zorder=3)
        ax.axvline(1, color="black", linewidth=1)
        ax.set_xlim(0, WIDEST)
        ax.set_ylim(tallest[i // columns] - 0.5, -0.5)  # bars of one thickness in all panels
        ax.set_title("\n".join([f"{tree}, {dtype}", *dict.fromkeys(r["taken"] for r in rows)]), fontsize=8)
        ax.set_xlabel("step time / Optax's")
        ax.tick_params(labelsize=8)
        ax.spines[["top", "right"]].set_visible(False)
    fig.legend(*axes[0][0].get_legend_handles_labels(), fontsize=8, loc="outside lower center", ncols=4)
    title = f"{about['cores']} cores, jax {about['jax']}, optax {about['optax']}; peers beyond {WIDEST} left out"
    fig.suptitle(title, fontsize=10)
    fig.savefig(path, dpi=110)
    plt.close(fig)


if __name__ == "__main__":
    write(Path(sys.argv[1]))
