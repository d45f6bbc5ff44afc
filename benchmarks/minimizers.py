"""Minimizers on problems that nobody here chose: CUTEst's of at most 100 parameters, and NIST's regressions.

    python benchmarks/minimizers.py [--quick] [--every 3] [--problems ROSENBR MGH10/1] [--again] [--picture]

`lbfgs`, `bfgs`, `ssbroyden` and `gauss_newton` beside SciPy, Optimistix and Optax, in float64. CUTEst comes from
sif2jax: the unconstrained problems and those with bounds. NIST's 27 regressions run from both starts: by methods for
least squares, and by general ones as f = |r|^2 / 2. What counts is evaluations: a point at which a value, a gradient or
a Jacobian, or all of them are asked for is one, whoever asks. The functions are callbacks of the programs, so they are
counted exactly and alike, and a minimizer compiles once for each number of parameters.

A worker runs the problems one after the other; one that takes too long is ended, noted, and left out. Writes
minimizers.json and .md, and goes on where it was broken off unless --again is given. With --picture it draws, and runs
nothing: docs/images/minimizers.png from the results that are kept.
"""

import argparse
import importlib.util
import json
import math
import queue
import subprocess
import sys
import threading
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from harness import Results, markdown_table, say

ROOT = Path(__file__).resolve().parents[1]
BUDGET = {"unconstrained": 1000, "bounds": 1000, "residuals": 2000, "squares": 1000}  # evaluations of each run
SECONDS, LIMIT = 60, 600  # processor time of a run; wall time of a problem with all of its runs
LARGEST = 100  # parameters
TOLERANCES = (1e-3, 1e-6, 1e-9)  # of f(x0) - f_L, f_L the least value that any run found
DIGITS = (4, 6, 8)  # of all of NIST's certified parameters
JUDGED = 1  # of these three, in the picture and the table of failures
KINDS = {
    "residuals": "NIST, least squares",
    "squares": "NIST, general minimizers",
    "unconstrained": "CUTEst, unconstrained",
    "bounds": "CUTEst, with bounds",
}
NIST = ("residuals", "squares")
QUICK = ("ROSENBR", "HS1", "Misra1a/2")


# --- The worker -------------------------------------------------------------------------------------------------------


def worker() -> None:
    """Reads names of problems, a line each, and writes a line of JSON for each."""
    import jax

    jax.config.update("jax_enable_x64", True)
    jax.config.update("jax_cpu_enable_async_dispatch", False)  # a callback computes while a program waits for it
    out, sys.stdout = sys.stdout, sys.stderr
    for line in sys.stdin:
        kind, name = line.strip().split(" ")
        try:
            row = nist(kind, name) if kind in NIST else cutest(kind, name)
        except Exception as e:
            row = {"left_out": f"{type(e).__name__}: {str(e).splitlines()[0][:100]}"}
        print(json.dumps({"kind": kind, "problem": name, **row}), file=out, flush=True)


def cutest(kind: str, name: str) -> dict[str, Any]:
    import cutest as problems
    import jax
    import minimizer_peers as peers
    from jax.flatten_util import ravel_pytree

    problem = problems.problem(kind, name)
    y0, whole = ravel_pytree(problem.y0)
    if y0.size > LARGEST:
        return {"left_out": f"{y0.size} parameters"}
    x0, box = np.asarray(y0, np.float64), None
    if kind == "bounds":
        low, high = (np.broadcast_to(np.asarray(ravel_pytree(b)[0], np.float64), x0.shape) for b in problem.bounds)
        x0, box = np.clip(x0, low, high), (low, high)
    f = jax.jit(jax.value_and_grad(lambda x: problem.objective(whole(x), problem.args)))
    f0, g0 = f(x0)
    if not (np.isfinite(f0) and np.isfinite(g0).all()):
        return {"left_out": "not finite at its start"}
    names = peers.WITH_BOUNDS if box else peers.MINIMIZERS
    found = {m: told(*peers.run_of(m, peers.Problem(x0, f, box), BUDGET[kind], SECONDS)) for m in names}
    least = min(f for x in found.values() for f in x["values"])
    levels = [least + tol * (float(f0) - least) for tol in TOLERANCES]
    costs = {m: [first(np.array(x["values"]) <= level) for level in levels] for m, x in found.items()}
    runs = {m: {**summary(x), "solved": costs[m]} for m, x in found.items()}
    return {"n": int(x0.size), "start": float(f0), "least": least, "runs": runs}


def nist(kind: str, name: str) -> dict[str, Any]:
    import jax
    import minimizer_peers as peers
    import nist as regressions

    name, start = name.split("/")
    p = regressions.regression(name)
    r = jax.jit(p.residuals)
    f = jax.jit(jax.value_and_grad(lambda b: (p.residuals(b) ** 2).sum() / 2))
    problem = peers.Problem(p.starts[int(start) - 1], f, None, r, jax.jit(jax.jacfwd(p.residuals)))
    runs = {}
    for m in peers.LEAST_SQUARES if kind == "residuals" else peers.MINIMIZERS:
        run, *end = peers.run_of(m, problem, BUDGET[kind], SECONDS)
        found = told(run, *end)
        right = np.array([regressions.digits(x, p.certified) for x in run.points])
        best = int(np.argmin(found["values"]))
        runs[m] = {**summary(found), "digits": float(right[best]), "solved": [
            first(right >= k) if right[best] >= k else None for k in DIGITS
        ]}  # fmt: skip
    return {"n": int(problem.x0.size), "start": float(f(problem.x0)[0]), "least": p.sum_of_squares / 2, "runs": runs}


def told(run: Any, x: Any, why: str) -> dict[str, Any]:
    """The value at each point of a run, infinite outside the bounds, and how the run ended."""

    @np.errstate(over="ignore")
    def f_at(x: np.ndarray) -> float:
        value, r = (run.known.get((kind, x.tobytes())) for kind in ("value_and_grad", "residuals"))
        f = float(value[0]) if value is not None else float(np.sum(np.square(r))) / 2 if r is not None else math.inf
        return f if math.isfinite(f) and within(x) else math.inf

    def within(x: np.ndarray) -> bool:
        box = run.problem.bounds
        return box is None or bool(((x >= box[0] - 1e-12 * abs(box[0])) & (x <= box[1] + 1e-12 * abs(box[1]))).all())

    values = [f_at(x) for x in run.points] or [math.inf]
    best = run.points[int(np.argmin(values))] if run.points else run.problem.x0
    ended = run.ended if x is None else np.asarray(x, np.float64)  # of a run that was broken off: the last iterate
    f, g = run.problem.value_and_grad(best)
    g = np.asarray(g)
    if run.problem.bounds is not None:
        g = best - np.clip(best - g, *run.problem.bounds)
    scale = max(abs(float(f)), 1.0) / max(1.0, float(np.linalg.norm(best)))
    return {"values": values, "why": why, "end": float(run.problem.value_and_grad(np.asarray(ended))[0]),
            "stationary": bool(np.linalg.norm(g) <= 1e-5 * scale)}  # fmt: skip


def summary(found: Mapping[str, Any]) -> dict[str, Any]:
    values = found["values"]
    kept = {"best": min(values), "end": found["end"], "evaluations": len(values)}
    return {**kept, "why": found["why"], "stationary": found["stationary"]}


def first(good: np.ndarray) -> int | None:
    """How many evaluations it took."""
    return int(np.argmax(good)) + 1 if good.any() else None


# --- The run ----------------------------------------------------------------------------------------------------------


class Worker:
    def __init__(self) -> None:
        command = [sys.executable, __file__, "--worker"]
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self.lines: queue.Queue[str] = queue.Queue()
        threading.Thread(target=lambda: [self.lines.put(x) for x in self.process.stdout or ()], daemon=True).start()

    def ask(self, kind: str, name: str) -> dict[str, Any] | None:
        """The row of a problem; None if it took too long, and the worker then is gone."""
        assert self.process.stdin
        self.process.stdin.write(f"{kind} {name}\n")
        self.process.stdin.flush()
        try:
            return json.loads(self.lines.get(timeout=LIMIT))
        except queue.Empty:
            self.process.kill()
            return None


def names_of(kind: str) -> list[str]:
    if kind in NIST:
        import nist as regressions

        return [f"{name}/{start}" for name in regressions.MODELS for start in (1, 2)]
    import cutest as problems

    return problems.names(kind)


def measure(results: Results, wanted: Sequence[tuple[str, str]]) -> None:
    worker = None
    for kind, name in wanted:
        if results.has(kind=kind, problem=name):
            continue
        worker = worker or Worker()
        row = worker.ask(kind, name)
        if row is None:
            row, worker = {"kind": kind, "problem": name, "left_out": f"took more than {LIMIT} s"}, None
        results.add(row)
        runs = row.get("runs", {})
        say(kind, name, row.get("left_out") or {m: x["solved"][JUDGED] for m, x in runs.items()})


# --- The report -------------------------------------------------------------------------------------------------------


def solved(rows: Iterable[Mapping[str, Any]], m: str, level: int) -> int:
    return sum(r["runs"][m]["solved"][level] is not None for r in rows)


def reason(row: Mapping[str, Any], m: str) -> str:
    """Why a run did not solve its problem."""
    x = row["runs"][m]
    if x["evaluations"] >= BUDGET[row["kind"]]:
        why = "all evaluations used"
    elif x["stationary"]:
        why = "ends where the gradient is 0"
    else:
        why = x["why"]
    where = f"{x['digits']:.1f} digits" if "digits" in x else f"f {x['best']:.3g}, best {row['least']:.3g}"
    return f"{why.rstrip('.')} ({where})"


def report(results: Results) -> None:
    rows = [r for r in results.rows if "runs" in r]
    lines = [
        "A point at which a value, a gradient or a Jacobian is asked for counts as one evaluation. CUTEst: solved",
        f"where f <= f_L + tol (f(x_0) - f_L), f_L the least of all runs; {BUDGET['unconstrained']} evaluations. NIST:",
        f"so many digits of all certified parameters; {BUDGET['residuals']} evaluations, general",
        f"minimizers {BUDGET['squares']}.",
        "",
    ]
    for kind, title in KINDS.items():
        mine = [r for r in rows if r["kind"] == kind]
        if not mine:
            continue
        lines += [f"## {title}: {len(mine)} problems", "", *counts(kind, mine)]
        lines += [f"### Failures, {level_name(kind, JUDGED)}", ""]
        lines += markdown_table("problem | n | minimizer | evaluations | why", failures(mine), words=5)
    left = [r for r in results.rows if "left_out" in r]
    lines += ["## Left out", "", *markdown_table("problem | why", ([r["problem"], r["left_out"]] for r in left), 2)]
    results.tell("Minimizers", lines)


def level_name(kind: str, level: int) -> str:
    return f"{DIGITS[level]} digits" if kind in NIST else f"tol {TOLERANCES[level]:g}"


def counts(kind: str, rows: Sequence[Mapping[str, Any]]) -> list[str]:
    names = list(rows[0]["runs"])
    head = ["minimizer", *(level_name(kind, i) for i in range(3)), "evaluations, median of all solved by all"]
    shared = [r for r in rows if all(x["solved"][JUDGED] is not None for x in r["runs"].values())]
    cells = []
    for m in names:
        took = [r["runs"][m]["solved"][JUDGED] for r in shared]
        cells.append([m, *(str(solved(rows, m, i)) for i in range(3)), f"{np.median(took):.0f}" if took else ""])
    head[-1] = f"evaluations, median of the {len(shared)} that all solve"
    return markdown_table(" | ".join(head), cells)


def failures(rows: Sequence[Mapping[str, Any]]) -> list[list[str]]:
    return [
        [r["problem"], str(r["n"]), m, str(x["evaluations"]), reason(r, m)]
        for r in rows
        for m, x in r["runs"].items()
        if x["solved"][JUDGED] is None
    ]


def rises(rows: Iterable[Mapping[str, Any]], names: Sequence[str]) -> list[tuple[str, str]]:
    """The runs that end above their start."""
    found = [(r["problem"], m, r["start"], r["runs"][m]["end"]) for r in rows for m in names if m in r.get("runs", {})]
    return [(problem, m) for problem, m, start, end in found if not end <= start]


def picture(rows: Sequence[Mapping[str, Any]], path: Path) -> None:
    """Dolan and Moré's profiles: the share of problems solved within so many times the fewest evaluations."""
    from matplotlib.figure import Figure

    colours = {"lbfgs": "#3465a4", "bfgs": "#c0392b", "ssbroyden": "#4f9a5b", "gauss_newton": "#c0392b"}
    peers = {"gauss_newton, plain": "#e08a2e", "SciPy BFGS": "black", "SciPy L-BFGS-B": "0.45", "MINPACK": "black",
             "Optimistix BFGS": "#8e63a8", "Optax L-BFGS": "#5aa0c8", "SciPy TRF": "0.45",
             "Optimistix L-M": "#8e63a8"}  # fmt: skip
    kinds = [kind for kind in KINDS if any(r["kind"] == kind for r in rows)]
    lines = math.ceil(len(kinds) / 2)
    figure = Figure(figsize=(4.6 * min(2, len(kinds)), 3.8 * lines), layout="constrained")
    panels = figure.subplots(lines, min(2, len(kinds)), squeeze=False).flat
    for ax, kind in zip(panels, kinds, strict=False):
        mine = [r for r in rows if r["kind"] == kind]
        names = list(mine[0]["runs"])
        took = {m: np.array([r["runs"][m]["solved"][JUDGED] or math.inf for r in mine]) for m in names}
        fewest = np.min(list(took.values()), axis=0)
        for m in names:
            with np.errstate(invalid="ignore"):
                ratios = np.sort(took[m] / fewest)
            ratios = ratios[np.isfinite(ratios)]
            x, y = [1, *np.repeat(ratios, 2), 32], np.repeat(np.arange(len(ratios) + 1) / len(mine), 2)
            style = {"color": colours.get(m) or peers[m], "linewidth": 1.8 if m in colours else 1.1}
            ax.plot(x, y, label=m, linestyle="-" if m in colours else "--", **style)
        ax.set(xscale="log", xlim=(1, 32), ylim=(0, 1.02), xlabel="evaluations, of the fewest")
        ax.set_xticks([1, 2, 4, 8, 16, 32], ["1", "2", "4", "8", "16", "32"])
        ax.set_title(f"{KINDS[kind]}: {len(mine)}, {level_name(kind, JUDGED)}", fontsize=10)
        ax.spines[["top", "right"]].set_visible(False)
        ax.legend(frameon=False, fontsize=8, loc="lower right")
        ax.set_ylabel("share of problems solved")
    for ax in [*panels]:
        ax.axis("off")
    figure.savefig(path, dpi=110)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--quick", "--tiny", action="store_true", help="three problems")
    add("--kinds", nargs="*", choices=KINDS, default=list(KINDS))
    add("--every", type=int, default=1, help="of CUTEst's problems every so many, by name")
    add("--problems", nargs="*", help="these only")
    add("--again", action="store_true", help="measure anew what the file has already")
    add("--out", type=Path, default=Path("out/benchmarks"))
    add("--picture", action="store_true")
    add("--worker", action="store_true", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.worker:
        return worker()
    if args.picture:
        kept = json.loads((ROOT / "benchmarks" / "results" / "minimizers.json").read_text("utf-8"))["rows"]
        return picture([r for r in kept if "runs" in r], ROOT / "docs" / "images" / "minimizers.png")
    missing = [x for x in ("optimistix", "scipy", "sif2jax") if importlib.util.find_spec(x) is None]
    if missing:
        return say(f"skipped: {' and '.join(missing)} not installed; pip install -e '.[bench-minimizers]'")
    only = QUICK if args.quick else args.problems
    results = Results(args.out / "minimizers.json", args.again)
    wanted = [
        (kind, name)
        for kind in args.kinds
        for i, name in enumerate(names_of(kind))
        if (name in only if only else kind in NIST or i % args.every == 0)
    ]
    measure(results, wanted)
    report(results)
    for problem, m in rises(results.rows, ("lbfgs", "bfgs", "ssbroyden", "gauss_newton")):
        say(f"{m} ends above its start on {problem}")


if __name__ == "__main__":
    main()
