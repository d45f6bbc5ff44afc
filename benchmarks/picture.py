"""Draws `docs/images/step_time.png` from the results that are kept: some recipes on the arrays of GPT-2 small.

python benchmarks/picture.py
"""

import json
from pathlib import Path

from matplotlib.figure import Figure

ROOT = Path(__file__).resolve().parents[1]
SHOWN = (
    "sgd", "momentum", "adam", "adamw", "clip + adamw + cosine", "adabelief", "adan", "lion", "lamb", "lars",
    "adafactor", "schedule_free_adamw", "gradient guard + adamw", "accumulate 4, emitting", "accumulate 4, other",
)  # fmt: skip
COLOURS = {"float32": "#3465a4", "bfloat16": "#e08a2e"}


def main() -> None:
    rows = json.loads((ROOT / "benchmarks" / "results" / "step_time.json").read_text("utf-8"))["rows"]
    ratios = {(r["dtype"], r["recipe"]): r["ratios"]["optax"] for r in rows if r["tree"] == "gpt2-small"}
    figure = Figure(figsize=(7.2, 5.2), layout="constrained")
    ax = figure.subplots()
    for i, (dtype, colour) in enumerate(COLOURS.items()):
        for y, recipe in enumerate(SHOWN):
            ratio = ratios[dtype, recipe]
            ax.barh(y + 0.4 * i - 0.2, ratio, 0.38, color=colour, label=dtype if y == 0 else None)
            x = 1.0 if 0.9 < ratio < 1 else ratio  # not across the line
            ax.text(x + 0.01, y + 0.4 * i - 0.2, f"{ratio:.2f}", va="center", fontsize=7, color="0.3")
    ax.axvline(1, color="0.2", linewidth=1)
    ax.text(1, -0.9, "Optax", ha="center", fontsize=8, color="0.2")
    ax.set_yticks(range(len(SHOWN)), SHOWN, fontsize=9)
    ax.set(xlim=(0, 1.12), ylim=(len(SHOWN) - 0.4, -0.6))
    ax.set_xlabel("time of a step / Optax's: shorter is faster")
    ax.spines[["top", "right"]].set_visible(False)
    ax.legend(loc="lower right", bbox_to_anchor=(0.87, 0.0), frameon=False)
    figure.savefig(ROOT / "docs" / "images" / "step_time.png", dpi=150)


if __name__ == "__main__":
    main()
