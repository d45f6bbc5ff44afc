"""Tables and pictures of the race, from the records alone: docs/race.md between its marks, docs/images/."""

import math
from pathlib import Path
from typing import Any

from . import anytime, figures, tasks, timing, trials
from .methods import FINE_TUNING, LARGER, METHODS
from .records import KEPT, Record
from .spaces import Decay, Space

ROOT = Path(__file__).resolve().parents[2]
PAGE = ROOT / "docs" / "race.md"
# The methods in colour, the same in each panel.
COLOURS = {
    "adamw": "#fdae61", "nadamw": "#d7191c", "adamw, two rates": "#8c510a", "muon": "#1f6fb4", "normuon": "#2ca25f",
    "soap": "#6a3d9a", "recipe": "#17becf", "lion": "#444444", "sgd": "#e377c2",
}  # fmt: skip
TWO_RATES = "adamw, two rates"
PICTURES = ROOT / "docs" / "images"
ATTEMPTS = (
    "Small functions with one difficulty each: the end of a slope at a saddle, Rosenbrock's valley, scales that lie "
    "orders apart, gradients that are mostly 0, gradients without a variance, gradients in float16. Of the points of a "
    "method's space 64 run once each. The table has how many run for one that solves the function in 500 steps."
)


def of_task(task: str, cells: dict[str, Record]) -> list[str]:
    rows = figures.table(cells)
    if not rows:
        return []
    first, about = figures.baseline(cells), rows[0].record.about
    lines = [f"### {task}", ""]
    seeds = len(rows[0].record.stage("final"))
    means = "; geometric means, sigma of logarithms" if figures.decades(rows[0].record) else ""
    count = f"{len(rows)} methods, {seeds} seeds{means}"
    lines += [f"{about['unit'].capitalize()}; {count}. Baseline: {first or 'not there yet'}.", ""]
    head = ["method", "at the end", "±", "sigma", "p", "untuned", "of the steps", "of the time"]
    if task in LARGER:
        head[5] = "as it is"
        lines[-1:] = ["As it is: at the best point of `language`, unchanged; the baseline at its untuned point.", ""]
    if task in FINE_TUNING:
        head = ["method", "at the end", "±", "difference", "untuned", "aside", *head[-2:]]
        lines[-1:] = [f"Difference: to the baseline, seed by seed. Aside: {about['aside']}.", ""]
    if first:
        lines += [
            f"![Where each method ends on {task}: seeds as dots, the baseline in red](images/race/{task}.png)",
            "",
        ]
    lines += [f"| {' | '.join(head)} |", "| --- |" + " ---: |" * (len(head) - 1)]
    for row in rows:
        name = f"**{linked(row)}**" if row.method == first else linked(row)
        spread = f"× {row.spread:.3g}" if figures.decades(row.record) else f"{row.spread:.2g}"
        cell = [name, number(row.mean), spread]
        if task in FINE_TUNING:
            aside = number(figures.mean(row.record.aside("final")))
            cell += [difference(row, cells, first), number(row.untuned), aside]
        else:
            cell += [sigmas(row.better), probability(row.p), number(row.untuned)]
        cell += ["", ""] if row.method == first else [share(row), of_time(task, row, first)]
        lines.append(f"| {' | '.join(cell)} |")
    if TWO_RATES in cells and task == "language":
        lines += beside_two_rates(rows, cells[TWO_RATES])
    lines += ["", "Best points:", ""]
    return [*lines, *(f"- {row.method}: {point_of(row.point)}" for row in rows), ""]


def beside_two_rates(rows: list[figures.Row], record: Record) -> list[str]:
    """How soon those that ran shorter are where AdamW ends if it, too, has a second rate.

    Lengths are chosen for the baseline's end: a method without those that lie beside this one is left out.
    """
    goal = figures.scaled(record, "final")
    found = []
    for row in rows:
        short = row.method != TWO_RATES and not figures.wanting(row.record, goal)
        sooner, (low, high) = figures.how_soon(row.record, goal) if short else (math.inf, (0, 0))
        if math.isfinite(sooner) and math.isfinite(high):
            found.append(f"{row.method} {sooner:.2f} ({low:.2f} to {high:.2f})")
    return ["", f"Share of the steps to where {TWO_RATES}, ends: {', '.join(found)}."] if found else []


def point_of(point: dict[str, float]) -> str:
    return ", ".join(f"{name} {value:.3g}" for name, value in point.items()) or "nothing is tuned"


def difference(row: figures.Row, cells: dict[str, Record], first: str | None) -> str:
    if first is None or row.method == first:
        return ""
    gap, width = figures.paired(row.record, cells[first])
    return "" if math.isnan(gap) else f"{gap:+.4f} ± {width:.4f}"


def share(row: figures.Row, step: float = 1.0) -> str:
    """The share of the baseline's steps, or of its time if a step takes so many of its; with its interval, which ends
    at the full length where more than that would be needed.
    """
    if math.isinf(row.sooner):
        return "not reached"
    shortest = min(figures.lengths_of(row.record))
    if shortest == row.record.about["steps"]:
        return "reached"
    low, high = row.interval
    if row.sooner * row.record.about["steps"] <= shortest:
        return f"at most {step * row.sooner:.2f}"  # nothing shorter ran
    full = "1" if step == 1.0 else f"{step:.2f}"
    return f"{step * row.sooner:.2f} ({step * low:.2f} to {full if math.isinf(high) else f'{step * high:.2f}'})"


def of_time(task: str, row: figures.Row, first: str | None) -> str:
    """The share of the baseline's seconds; for a method that does not get there the ratio of a step's."""
    ratio = timing.ratio(task, row.method, first) if first else None
    if ratio is None:
        return ""
    short = len(figures.lengths_of(row.record)) > 1 and math.isfinite(row.sooner)
    return share(row, ratio) if short else f"(a step {ratio:.2f})"


def sigmas(x: float) -> str:
    return f"{x:+.1f}" if math.isfinite(x) else ""


def number(x: float) -> str:
    return "diverged" if math.isinf(x) else "" if math.isnan(x) else f"{x:.4g}"


def probability(p: float) -> str:
    return "" if math.isnan(p) else "< 0.001" if p < 0.001 else f"{p:.3f}"


def of_diagnostics(records: dict[str, dict[str, Record]]) -> list[str]:
    """Attempts to success: a row for each method, a column for each diagnostic."""
    cells = {task: cells for task, cells in records.items() if task in tasks.DIAGNOSTICS and cells}
    if not cells:
        return []
    names = [name for name in METHODS if all(name in of for of in cells.values())]
    lines = ["### Attempts to success", "", ATTEMPTS, ""]
    lines += [f"| method | {' | '.join(cells)} |", "| --- |" + " ---: |" * len(cells)]
    scores = {name: [figures.attempts(of[name]) for of in cells.values()] for name in names}
    for name in sorted(names, key=lambda name: sum(map(math.log, scores[name]))):
        lines.append(f"| {name} | {' | '.join(f'{x:.1f}' if math.isfinite(x) else 'never' for x in scores[name])} |")
    return [*lines, ""]


def of_all(records: dict[str, dict[str, Record]]) -> list[str]:
    rows = figures.one_configuration(records)
    if not rows:
        return []
    over = ", ".join(t for t in figures.FIRST_ROUND if figures.baseline(records.get(t, {})))
    lines = [
        "### One configuration",
        "",
        f"Over {over}: geometric means, in which a ratio counts as 10 at most and 0.1 at least.",
        "",
        "| method | end / the baseline's best trial | untuned / the baseline, tuned | point |",
        "| --- | ---: | ---: | --- |",
    ]
    for row in rows:
        lines.append(f"| {row.method} | {row.value:.3f} | {row.untuned:.3f} | {point_of(row.point)} |")
    return [*lines, ""]


def of_untuned(records: dict[str, dict[str, Record]]) -> list[str]:
    """A row for each task, a column for each method that ran on all of them, the best in the mean first."""
    over, rows = figures.untuned_everywhere(records)
    if not rows:
        return []
    lines = [
        f"### Untuned, in the mean over {len(over)} tasks",
        "",
        "The loss of the untuned point over that of the tuned baseline. In the geometric mean a ratio counts as 10 at "
        "most and 0.1 at least.",
        "",
        f"| task | {' | '.join(row.method for row in rows)} |",
        "| --- |" + " ---: |" * len(rows),
        f"| **mean** | {' | '.join(f'**{row.mean:.3f}**' for row in rows)} |",
    ]
    return [*lines, *(f"| {task} | {' | '.join(f'{row.ratios[task]:.3g}' for row in rows)} |" for task in over), ""]


def of_choice(records: dict[str, dict[str, Record]]) -> list[str]:
    """Of each task the winners, for the page on choosing, each with a link to its record: a list, for phones."""
    lines: list[str] = []
    for task in (*tasks.NAMES, *tasks.HELD_OUT):
        rows = {row.method: row for row in figures.table(records[task])}
        first = figures.baseline(records[task])
        if first is None:
            continue
        best, *_ = rows.values()
        soon = share(best)
        told = [f"best of {len(rows)} {linked(best)} {number(best.mean)}"]
        told += [f"baseline {linked(rows[first])} {number(rows[first].mean)}"]
        told += [f"whose loss it reaches in {soon} of the steps"] if "reached" not in soon else []
        text = ", ".join(told)
        if task not in LARGER:
            bare = min(rows.values(), key=lambda row: row.untuned if math.isfinite(row.untuned) else math.inf)
            text += f"; untuned {linked(bare)} {number(bare.untuned)}, AdamW {number(rows['adamw'].untuned)}"
        lines.append(f"- **`{task}`**: {text}.")
    return [*lines, ""]


def linked(row: figures.Row) -> str:
    path = row.record.path.name + "#" + row.method.replace(" ", "_")
    return f"[{row.method}](../{KEPT.relative_to(ROOT).as_posix()}/{path})"


def spaces() -> list[str]:
    lines = ["| method | space of 16 trials |", "| --- | --- |"]
    for name, m in METHODS.items():
        if m.carried:  # it takes another's point
            continue
        lines.append(f"| {name} | {ranges(m.space)} |")
        lines += [f"| {name}, 16 more | {ranges(m.larger)} |"] if m.larger else []
    return [*lines, ""]


def ranges(space: Space) -> str:
    found = (f"{k} {r.low:g} to {r.high:g}{' (of 1 - b)' if isinstance(r, Decay) else ''}" for k, r in space.items())
    return ", ".join(found) or "nothing"


def put(name: str, lines: list[str], page: Path = PAGE) -> None:
    """Between the marks of that name."""
    text = page.read_text("utf-8")
    start, end = f"<!-- {name}: made by benchmarks/race -->", f"<!-- end of {name} -->"
    before, rest = text.split(start)
    _, after = rest.split(end)
    body = "\n".join(lines)
    page.write_text(f"{before}{start}\n{body}\n{end}{after}", "utf-8")


def picture(task: str, cells: dict[str, Record]) -> None:
    """Where each method ends, its seeds as dots, the baseline's mean as a line: small enough for a phone."""
    from matplotlib.figure import Figure

    rows, first = figures.table(cells), str(figures.baseline(cells))
    figure = Figure(figsize=(5, 1.1 + 0.2 * len(rows)), layout="constrained")
    ax = figure.subplots()
    goal = next(row.mean for row in rows if row.method == first)
    over_decades = figures.decades(cells[first])
    worst = math.inf if over_decades or goal <= 0 else 3 * goal
    if over_decades:
        ax.set_xscale("log")
    for i, row in enumerate(rows):
        colour = "#d7191c" if row.method == first else "#1f6fb4"
        kept = [x for x in row.record.ends("final") if x <= worst]
        ax.plot(kept, [i] * len(kept), "o", color=colour, alpha=0.45, markersize=4, markeredgewidth=0)
        if row.mean <= worst:
            ax.plot(row.mean, i, "|", color=colour, markersize=11, markeredgewidth=2)
        else:
            place = ax.get_yaxis_transform()
            ax.text(0.99, i, "off the scale", transform=place, ha="right", va="center", fontsize=7, color="0.5")
    ax.axvline(goal, color="#d7191c", linewidth=0.8)
    ax.set_yticks(range(len(rows)), [row.method for row in rows], fontsize=8)
    ax.set_ylim(len(rows) - 0.4, -0.6)
    ax.tick_params(axis="x", labelsize=8)
    ax.set_xlabel(rows[0].record.about["unit"], fontsize=8)
    ax.grid(axis="x", color="0.92", linewidth=0.8)
    ax.spines[["top", "right"]].set_visible(False)
    path = PICTURES / "race" / f"{task}.png"
    path.parent.mkdir(exist_ok=True)
    figure.savefig(path, dpi=110)


def picture_of_fine_tuning(records: dict[str, dict[str, Record]]) -> None:
    """A panel for each task: what is learned against what is forgotten. A line is the front of a method's trials."""
    from matplotlib.figure import Figure

    shown = {task: figures.table(records[task]) for task in FINE_TUNING if figures.baseline(records[task])}
    if not shown:
        return
    figure = Figure(figsize=(4.6 * len(shown), 4.6), layout="constrained")
    axes: Any = figure.subplots(1, len(shown), squeeze=False)[0]
    for ax, (task, rows) in zip(axes, shown.items(), strict=True):
        marked, heights = [row for row in rows if row.method in COLOURS], [row.mean for row in rows]
        for row in marked:
            colour = COLOURS[row.method]
            front = front_of([(run["aside"], run["end"]) for run in row.record.trials() if run["aside"] is not None])
            ax.plot(*zip(*front, strict=True), color=colour, linewidth=1.2, alpha=0.8, drawstyle="steps-post")
            heights += [y for _, y in front]
            end = figures.mean(row.record.aside("final")), row.mean
            ax.plot(*end, "o", color=colour, markersize=8, label=row.method)
        for row in rows:
            if row not in marked and math.isfinite(row.mean):
                ax.plot(figures.mean(row.record.aside("final")), row.mean, "o", color="0.7", markersize=4)
        lowest = min(heights)
        ax.set_ylim(lowest - 0.01, min(max(heights) + 0.01, lowest + 0.2))
        about = rows[0].record.about
        ax.set_xlim(float(about["aside"].split("; ")[1].split()[0]) - 0.02, None)
        ax.set_title(task, fontsize=10)
        ax.set_xlabel(f"forgotten: {about['aside']}", fontsize=8)
        ax.set_ylabel(f"learned: {about['unit']}", fontsize=8)
        ax.grid(color="0.92", linewidth=0.8)
        ax.spines[["top", "right"]].set_visible(False)
        ax.legend(fontsize=7, frameon=False)
    figure.suptitle("Fine-tuning: lower is better learned, further left less is forgotten", fontsize=10)
    figure.savefig(PICTURES / "race_fine_tuning.png", dpi=130)


def picture_of_steps(cells: dict[str, Record]) -> None:
    """Where runs of each length end, and how soon the recipe is where AdamW with two rates ends; NadamW as a line."""
    from matplotlib.figure import Figure

    rows = {row.method: row for row in figures.table(cells)}
    names = {TWO_RATES: "AdamW, two rates", "soap": "SOAP", "recipe": "transformer_optimizer", "normuon": "NorMuon"}
    if not {"nadamw", *names} <= set(rows):
        return
    figure = Figure(figsize=(7, 4.4), layout="constrained")
    ax = figure.subplots()
    whole, ends = rows["recipe"].record.about["steps"], {}
    for method in names:
        lengths = figures.lengths_of(rows[method].record)
        means = [figures.mean(x) for x in lengths.values()]
        ax.plot(lengths.keys(), means, ".-", color=COLOURS[method], linewidth=1.6)
        ends[method] = means[-1]
    share = figures.how_soon(rows["recipe"].record, figures.scaled(rows[TWO_RATES].record, "final"))[0]
    goal, at = ends[TWO_RATES], share * whole
    ax.annotate("", (at, goal), (whole, goal), arrowprops={"arrowstyle": "->", "color": "0.35"})
    ax.text((at + whole) / 2, goal + 0.006, f"{share:.2f} of the steps", ha="center", fontsize=10)
    for method, below in {TWO_RATES: 0.0, "recipe": 0.02, "soap": -0.005, "normuon": -0.025}.items():
        ax.text(whole + 12, ends[method] + below, names[method], color=COLOURS[method], fontsize=10, va="center")
    ax.axhline(rows["nadamw"].mean, color="0.6", linewidth=1, linestyle="--")
    ax.text(whole, rows["nadamw"].mean + 0.006, "NadamW, one rate, whole run", ha="right", fontsize=9, color="0.35")
    ax.set(xlim=(None, whole + 260), ylim=(min(ends.values()) - 0.05, None), xticks=range(200, whole + 1, 200))
    ax.set_xlabel("steps of the run", fontsize=11)
    ax.set_ylabel("held-out loss at its end, lower is better", fontsize=11)
    ax.spines[["top", "right"]].set_visible(False)
    figure.savefig(PICTURES / "race_steps.png", dpi=130)


def front_of(points: list[tuple[float, float]]) -> list[tuple[float, float]]:
    """Those that no other beats in both numbers, by the first."""
    front: list[tuple[float, float]] = []
    for x, y in sorted(points):
        if not front or y < front[-1][1]:
            front.append((x, y))
    return front


def tell_all() -> None:
    records = figures.read()
    put("spaces", spaces())
    tuned = [line for task in tasks.NAMES for line in of_task(task, records[task])]
    held_out = [line for task in tasks.HELD_OUT for line in of_task(task, records[task])]
    put("tables", tuned + of_all(records) + held_out + of_untuned(records) + anytime.table() + of_diagnostics(records))
    put("race", of_choice(records), PAGE.with_name("choose.md"))
    for task, cells in records.items():
        if figures.baseline(cells):
            picture(task, cells)
    picture_of_fine_tuning(records)
    picture_of_steps(records["language"])
    anytime.picture(PICTURES / "race_anytime.png")
    trials.tell(records)
    trials.picture(records, PICTURES / "race_trials.png", COLOURS)
    print(f"wrote {PAGE.relative_to(ROOT)}")
