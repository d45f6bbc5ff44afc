"""What a reader with few trials gets: the loss of the best of k, drawn from the trials of each method that are kept."""

import math
from collections.abc import Sequence
from pathlib import Path

from . import figures
from .records import KEPT, Record

COUNTS = 1, 2, 4, 8, 16, 32
SHOWN = {
    "nadamw": "NadamW", "adamw": "AdamW", "adamw, two rates": "AdamW, two rates", "soap": "SOAP", "muon": "Muon",
    "normuon": "NorMuon", "recipe": "transformer_optimizer",
}  # fmt: skip
BAND = 0.1, 0.9


def best_of(ends: Sequence[float], k: int, q: float = 0.5) -> float:
    """The q-quantile of the least of k, drawn from `ends` with replacement: what a bootstrap of any size tends to."""
    n = len(ends)
    return next(x for i, x in enumerate(sorted(ends)) if 1 - ((n - 1 - i) / n) ** k >= q)


def counts(record: Record) -> list[int]:
    return [k for k in COUNTS if k <= len(record.stage("tune"))]


def tuned(cells: dict[str, Record]) -> dict[str, Record]:
    return {name: record for name, record in cells.items() if len(record.stage("tune")) >= COUNTS[-2]}


def table(task: str, cells: dict[str, Record]) -> list[str]:
    """A row for each method that had 16 trials at least, the best with eight first."""
    rows = {name: [best_of(r.ends("tune"), k) for k in counts(r)] for name, r in tuned(cells).items()}
    lines = [f"## {task}", "", f"| method | {' | '.join(map(str, COUNTS))} |", "| --- |" + " ---: |" * len(COUNTS)]
    for name in sorted(rows, key=lambda name: rows[name][COUNTS.index(8)]):
        cell = [f"{x:.4g}" if math.isfinite(x) else "diverged" for x in rows[name]]
        lines.append(f"| {name} | {' | '.join(cell + [''] * (len(COUNTS) - len(cell)))} |")
    return [*lines, ""]


def tell(records: dict[str, dict[str, Record]], path: Path = KEPT.parent / "race_trials.md") -> None:
    lines = [
        "# Loss over the number of trials", "",
        "The median, over draws with replacement, of the best of k trials of a method's space, one seed each. The best",
        "of few trials is chosen by the number that is shown, and so flattered alike for all. What diverged counts as",
        "worse than any. Made by `python -m benchmarks.race --tell` from the records.", "",
    ]  # fmt: skip
    for task, cells in records.items():
        lines += table(task, cells) if tuned(cells) else []
    path.write_text("\n".join(lines), "utf-8")


def picture(records: dict[str, dict[str, Record]], path: Path, colours: dict[str, str]) -> None:
    """The median over the number of trials, for NadamW and NorMuon with the band in which four of five draws lie."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 5.6), layout="constrained")
    for ax, task in zip(figure.subplots(2, 3).flat, figures.FIRST_ROUND, strict=True):
        lowest, highest = math.inf, -math.inf
        for name, label in SHOWN.items():
            if name not in (cells := tuned(records[task])):
                continue
            ends, ks = cells[name].ends("tune"), range(1, len(cells[name].stage("tune")) + 1)
            low, middle, high = ([best_of(ends, k, q) for k in ks] for q in (BAND[0], 0.5, BAND[1]))
            ax.plot(ks, middle, color=colours[name], linewidth=1.6, label=label)
            if name in ("nadamw", "normuon"):
                ax.fill_between(ks, low, high, color=colours[name], alpha=0.12, linewidth=0)
            lowest, highest = min(lowest, middle[-1]), max(highest, middle[3])
        if task in figures.DECADES:
            ax.set_yscale("log")
        else:
            ax.set_ylim(lowest - 0.05 * (highest - lowest), highest)
        ax.set_xscale("log", base=2)
        ax.set_xticks(COUNTS, [str(k) for k in COUNTS])
        ax.set_title(task, fontsize=10)
        ax.spines[["top", "right"]].set_visible(False)
    figure.supxlabel("trials", fontsize=10)
    figure.supylabel("loss of the best of them, lower is better", fontsize=10)
    handles, labels = figure.axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside upper center", ncols=4, frameon=False, fontsize=9)
    figure.savefig(path, dpi=110)
