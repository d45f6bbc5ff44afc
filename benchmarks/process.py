"""What a process pays once: importing the library, the first call of a step, and the memory it takes at its peak.

    python benchmarks/process.py [--quick] [--out out/benchmarks]

Every figure is of a fresh process, in alternation between the peers: seconds to import the library once jax is there;
CPU seconds from the call of a step on 1,000 leaves to its result (trace, lower, compile, run), which repeat better than
those of a clock; resident bytes at the peak of three donated steps on GPT-2 small's tree, over those after the first.
Writes process.json and .md.
"""

import argparse
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from harness import PEERS, Results, compiled, in_turn, markdown_table, medians, say, step_of

RECIPES = "adamw", "clip + adamw + cosine", "lamb"


def first_call(peer: str, recipe: str, tree: str) -> float:
    """CPU seconds of all threads."""
    import jax
    from trees import TREES, arrays

    init, step = step_of(peer, recipe)
    params, grads = arrays(TREES[tree](), 0, 0.02), arrays(TREES[tree](), 1, 0.01)
    state = jax.block_until_ready(init(params))
    start = time.process_time()
    jax.block_until_ready(compiled(step)(params, state, grads))
    return time.process_time() - start


def peak(peer: str, recipe: str, tree: str) -> float:
    """Bytes."""
    import jax
    from trees import TREES, arrays

    init, step = step_of(peer, recipe)
    params, grads = arrays(TREES[tree](), 0, 0.02), arrays(TREES[tree](), 1, 0.01)
    state = jax.block_until_ready(init(params))
    program = compiled(step).lower(params, state, grads).compile()
    params, state = jax.block_until_ready(program(params, state, grads))  # zeros take memory when they are written
    Path("/proc/self/clear_refs").write_text("5")  # the peak begins anew
    before = _status("VmRSS")
    for _ in range(3):
        params, state = jax.block_until_ready(program(params, state, grads))
    return _status("VmHWM") - before


def _status(field: str) -> float:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(1024.0 * int(line.split()[1]) for line in lines if line.startswith(field + ":"))


FIGURES = {"first_call": first_call, "peak": peak}
IMPORTING = "import jax.numpy, time; t = time.perf_counter(); import {}; print(time.perf_counter() - t)"


def fresh(figure: str, *args: str) -> float:
    """The figure, taken in a process of its own."""
    command = [sys.executable, __file__, "--one", figure, *args]
    if figure == "importing":
        command = [sys.executable, "-c", IMPORTING.format(*args)]
    # What an installed library has: its compiled files, which the first of the processes writes.
    env = {k: v for k, v in os.environ.items() if k != "PYTHONDONTWRITEBYTECODE"}
    return float(subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True, env=env).stdout)


def alternated(figure: str, peers: Any, rounds: int, *args: str) -> dict[str, float]:
    return medians(in_turn({p: lambda p=p: fresh(figure, p, *args) for p in peers}, rounds, warmup=1))


def write(results: Results) -> None:
    rows = []
    for r in results.rows:
        unit = 1e6 if r["figure"] == "peak" else 1
        cells = [f"{r[p] / unit:.3g}" if p in r else "" for p in PEERS]
        rows.append([r["title"], r["of"], *cells, f"{r['gdjax'] / max(r['optax'], 1e-9):.2f}"])
    results.tell(
        "What a process pays once", markdown_table("figure | of | gdjax | Optax | hand | gdjax / Optax", rows, 2)
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", "--tiny", action="store_true", help="the tiny tree, one recipe, one round")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--again", action="store_true", help="measure anew what the file has already")
    parser.add_argument("--out", type=Path, default=Path("out/benchmarks"))
    parser.add_argument("--one", nargs="+", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.one:
        print(FIGURES[args.one[0]](*args.one[1:]))
        return
    recipes, small, large = (("lion",), "tiny", "tiny") if args.quick else (RECIPES, "many", "gpt2-small")
    rounds, args.again = (1, True) if args.quick else (args.rounds, args.again)
    results = Results(args.out / "process.json", args.again)
    wanted = [("importing", "import after jax, s", ("gdjax", "optax"), rounds, ())]
    wanted += [("first_call", "first call, CPU s", PEERS, min(rounds, 3), (r, small)) for r in recipes]
    wanted += [("peak", "peak memory of steps, MB", PEERS, min(rounds, 3), (r, large)) for r in recipes]
    for figure, title, peers, times, of in wanted:
        key = {"figure": figure, "title": title, "of": ", ".join(of)}
        if not results.has(**key):
            results.add(key | alternated(figure, peers, times, *of))
            say(title, *of, *(f"{p} {results.rows[-1][p]:.3g}" for p in peers))
    write(results)


if __name__ == "__main__":
    main()
