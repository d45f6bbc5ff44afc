"""What a step costs: gdjax, Optax, a function written by hand for the recipe, torch, and the memory's limit.

    python benchmarks/step_time.py [--quick] [--trees gpt2-small many] [--recipes adam lion] [--dtypes float32 bfloat16]

For each tree, dtype and recipe, all in one process and in alternation, parameters and state donated: the time of a
step; bytes that must move, and those that the compiler counts; temporary bytes; equations; seconds to trace, lower and
compile. On the small trees also the time of an eager `update`. The limit: the time in which an in-place scaling of as
many bytes as the parameters have, in the same alternation, moves what the step must. Writes step_time.json, .md and
.png; a run that was broken off goes on where it was unless --again is given.
"""

import argparse
import functools
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import report
import torch_peers
from harness import (
    LIBRARIES,
    PEERS,
    Results,
    Seconds,
    both_ways,
    compilation,
    compiled,
    in_turn,
    medians,
    nbytes,
    ratio,
    say,
    step_of,
)
from recipes import RECIPES, chosen
from trees import TREES, arrays, shapes, size

import gdjax

EAGER = "tiny", "gpt2-cut"


def copies(tree: Any) -> Any:
    return jax.tree.map(lambda x: jnp.array(x, copy=True), tree)


def runner(peer: str, recipe: str, params: Any, grads: Any) -> Callable[[], Callable[[], float]]:
    """Makes runs of as many steps as the recipe has in a period, which tell the seconds of the one that is measured."""
    init, step = step_of(peer, recipe)
    step = compiled(step)
    period, phase = RECIPES[recipe].period, RECIPES[recipe].phase

    def make() -> Callable[[], float]:
        held = [copies(params)]
        held.append(init(held[0]))
        return functools.partial(run, held)

    def run(held: list[Any]) -> float:
        seconds = 0.0
        for i in range(period):
            start = time.perf_counter()
            held[:] = step(*held, grads)
            jax.block_until_ready(held)
            seconds = time.perf_counter() - start if i == phase else seconds
        return seconds

    return make


def memory_pass(params: Any) -> tuple[Any, Any]:
    """An in-place pass over as many bytes as the parameters have, and its arrays, in float32: as fast as memory goes.

    In the parameters' own 16 bits the factor would round to 1, and the pass away.
    """
    step = jax.jit(lambda x: jax.tree.map(lambda a: a * 0.999, x), donate_argnums=0)
    return step, jax.tree.map(lambda p: jnp.ones(p.nbytes // 4, "float32"), params)


def scaling(params: Any) -> Callable[[], None]:
    """Runs of `memory_pass`."""
    step, arrays = memory_pass(params)
    held = [arrays]

    def run() -> None:
        held[0] = step(held[0])
        jax.block_until_ready(held)

    return run


def must_move(recipe: str, params: Any, grads: Any) -> int:
    """Bytes that any implementation of the step reads and writes, the state as this library keeps it."""
    init, _ = step_of("gdjax", recipe)
    state = jax.eval_shape(init, params)
    if recipe == "accumulate 4, other":
        return nbytes(grads) + 2 * nbytes(state.acc_grads)
    return 2 * nbytes(params, state) + nbytes(grads) + RECIPES[recipe].reread * nbytes(params)


def eager(recipe: str, params: Any, grads: Any, rounds: int) -> Seconds:
    """An `update` outside jit, nothing donated."""

    def run_of(lib: Any) -> Callable[[], None]:
        tx = RECIPES[recipe].make(lib)
        held = [tx.init(params)]

        def run() -> None:
            updates, held[0] = tx.update(grads, held[0], params)
            jax.block_until_ready((updates, held))

        return run

    return in_turn({name: run_of(lib) for name, lib in LIBRARIES.items()}, rounds)


def measure(tree_name: str, dtype: str, recipe: str, rounds: int) -> dict[str, Any]:
    tree = TREES[tree_name]()
    leaves, param_bytes = size(shapes(tree, dtype))
    row: dict[str, Any] = {"tree": tree_name, "dtype": dtype, "recipe": recipe}
    row |= {"leaves": leaves, "param_bytes": param_bytes}
    for peer in PEERS:
        row[peer] = compilation(peer, recipe, tree, dtype, rounds=3 if peer != "hand" else 1)
    params, grads = arrays(tree, 0, 0.02, dtype), arrays(tree, 1, 0.01, dtype)
    makers: dict[str, Callable[[], Any]] = {peer: runner(peer, recipe, params, grads) for peer in PEERS}
    makers |= torch_peers.runners(recipe, params, grads, dtype)
    makers["scaling"] = lambda: scaling(params)
    # A step of microseconds is disturbed more, and costs nothing to repeat.
    seconds = both_ways(makers, rounds if param_bytes > 1e6 else 20 * rounds)
    for name, value in medians(seconds).items():
        row.setdefault(name, {})["step_s"] = value
    row["must_move_bytes"] = must_move(recipe, params, grads)
    row["limit_s"] = row.pop("scaling")["step_s"] * row["must_move_bytes"] / (2 * param_bytes)
    row["ratios"] = {name: ratio(seconds, "gdjax", name) for name in seconds if name not in ("gdjax", "scaling")}
    if tree_name in EAGER and not RECIPES[recipe].averaged:
        calls = eager(recipe, params, grads, max(3, rounds // 2))
        for name, value in medians(calls).items():
            row[name]["eager_s"] = value
        row["ratios"]["optax, eager"] = ratio(calls, "gdjax", "optax")
    return row


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", "--tiny", action="store_true", help="the tiny tree, few recipes and rounds")
    parser.add_argument("--trees", nargs="+", choices=TREES, default=[t for t in TREES])
    parser.add_argument("--recipes", nargs="+", choices=RECIPES, default=list(RECIPES))
    parser.add_argument("--dtypes", nargs="+", choices=["float32", "bfloat16"], default=["float32"])
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--fused", action="store_true", help="with gdjax.fuse_cpu_outputs, into step_time_fused.*")
    parser.add_argument("--again", action="store_true", help="measure anew what the file has already")
    parser.add_argument("--out", type=Path, default=Path("out/benchmarks"))
    args = parser.parse_args()
    if args.quick:
        args.trees, args.rounds, args.again = ["tiny"], 3, True
        args.recipes = ["adamw", "clip + adamw + cosine", "lion"] if len(args.recipes) == len(RECIPES) else args.recipes
    if args.fused:
        gdjax.fuse_cpu_outputs()
    results = Results(args.out / f"step_time{'_fused' * args.fused}.json", args.again)
    wanted = [(t, d, r) for t in args.trees for d in args.dtypes for r in chosen(t, args.recipes)]
    for i, (tree, dtype, recipe) in enumerate(wanted):
        if results.has(tree=tree, dtype=dtype, recipe=recipe):
            continue
        results.add(measure(tree, dtype, recipe, args.rounds))
        jax.clear_caches()
        say(f"{i + 1}/{len(wanted)}", report.line(results.rows[-1]))
    report.write(results.path)


if __name__ == "__main__":
    main()
