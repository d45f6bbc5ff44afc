"""What matrix methods cost: Muon, Shampoo, SOAP and their kin, beside torch's libraries, Optax and AdamW.

    python benchmarks/matrix_methods.py [--quick] [--trees gpt2-block vit-s many] [--methods soap muon]

For each tree and method, all peers in one process and in alternation, parameters and state donated: equations and
products of the trace, where what is traced once counts once; the same of a tree with twice as many leaves; bytes of the
state, and those of the formula; seconds until the first step runs (trace, lower, compile) beside AdamW's; the median
step, its ratio over each peer's, and the slowest steps over the median, after a first period of ten steps, the time
between two refreshes. gpt2-block is one block of the twelve of GPT-2 small: what takes time grows in proportion. Of
gpt2-small, the whole tree, the compile time alone is measured, with that of the method written by hand, of
`hand/matrix.py`, and AdamW by hand. Writes matrix_methods.json and .md; a run that was broken off goes on where it was
unless --again is given.
"""

import argparse
import time
from pathlib import Path
from typing import Any

import jax
import matrix_peers
import numpy as np
import optax
from hand import matrix
from harness import Results, compiled, in_turn, markdown_table, medians, nbytes, ratio, say
from jax.extend.core import ClosedJaxpr, Jaxpr
from matrix_peers import EVERY, METHODS
from trees import gpt2_hidden, gpt2_small, is_shape, many, shapes, size

import gdjax
from gdjax.leaf_roles.plan import plan_of, routing

ADAMW = "adamw"
WHOLE = "gpt2-small"  # the tree whose steps are not timed


def vit_s(layers: int = 12) -> dict[str, Any]:
    """The hidden matrices of ViT-S: 48 of them, 21 M parameters."""
    d = 384
    block = {"qkv": (d, 3 * d), "out": (d, d), "up": (d, 4 * d), "down": (4 * d, d)}
    return {f"h{i}": block for i in range(layers)}


TREES = {
    "gpt2-hidden": gpt2_hidden,
    "gpt2-block": lambda: {"h0": gpt2_hidden()["h0"]},
    "vit-s": vit_s,
    "vit-s-blocks": lambda: vit_s(2),
    WHOLE: gpt2_small,
    "many": many,
    "tiny": lambda: {f"w{i}": (24, 16) for i in range(4)},
}


def step_of(lib: Any, tx: Any) -> Any:
    def step(params: Any, state: Any, grads: Any) -> Any:
        updates, state = tx.update(grads, state, params)
        return lib.apply_updates(params, updates), state

    return step


def traced(tx: Any, params: Any) -> tuple[Any, dict[str, int]]:
    """The traced step, and how many equations and products it has."""
    found = compiled(step_of(gdjax, tx)).trace(params, jax.eval_shape(tx.init, params), params)
    return found, counts(found.jaxpr)


def counts(jaxpr: Any) -> dict[str, int]:
    """Equations and products of a trace; what is called many times counts once, and each call as an equation."""
    seen: dict[int, Any] = {}
    waiting = [jaxpr]
    while waiting:
        x = waiting.pop()
        x = x.jaxpr if isinstance(x, ClosedJaxpr) else x
        if id(x) in seen:
            continue
        seen[id(x)] = x
        for equation in x.eqns:
            for value in jax.tree.leaves(list(equation.params.values()), is_leaf=lambda v: isinstance(v, Jaxpr)):
                if isinstance(value, Jaxpr | ClosedJaxpr):
                    waiting.append(value)
    equations = [e for x in seen.values() for e in x.eqns]
    return {"equations": len(equations), "products": sum(e.primitive.name == "dot_general" for e in equations)}


def to_compile(params: Any, steps: dict[str, Any], rounds: int = 5) -> dict[str, float]:
    """Median seconds from a function to a program, what the first call takes more than the others.

    Args:
      steps: by name `(init, step)`. All are measured in turn.
    """
    seconds: dict[str, list[float]] = {name: [] for name in steps}
    for _ in range(rounds):
        for name, (init, step) in steps.items():
            jax.clear_caches()
            start = time.perf_counter()
            compiled(step).trace(params, jax.eval_shape(init, params), params).lower().compile()
            seconds[name].append(time.perf_counter() - start)
    return {name: float(np.median(x)) for name, x in seconds.items()}


def runner(lib: Any, tx: Any, params: Any, grads: Any) -> Any:
    step = compiled(step_of(lib, tx))
    held: list[Any] = [jax.tree.map(lambda x: x.copy(), params)]
    held.append(tx.init(held[0]))

    def run() -> None:
        held[:] = step(*held, grads)
        jax.block_until_ready(held)

    return run


def doubled(tree: dict[str, Any]) -> dict[str, Any]:
    return {**tree, **{f"{k}_again": v for k, v in tree.items()}}


def arrays(tree: Any, seed: int, scale: float) -> Any:
    rng = np.random.default_rng(seed)
    make = lambda shape: jax.numpy.asarray(rng.standard_normal(shape, np.float32) * scale)
    return jax.tree.map(make, tree, is_leaf=is_shape)


def measure(tree_name: str, name: str, rounds: int) -> dict[str, Any]:
    tree, method = TREES[tree_name](), METHODS[name]
    tx = method.make(gdjax)
    leaves, param_bytes = size(shapes(tree))
    row: dict[str, Any] = {"tree": tree_name, "method": name, "leaves": leaves, "param_bytes": param_bytes}
    row |= traced(tx, shapes(tree))[1]
    row["of_twice_the_leaves"] = traced(tx, shapes(doubled(tree)))[1]
    row["state_bytes"] = nbytes(jax.eval_shape(tx.init, shapes(tree)))
    if method.state and tree_name != WHOLE:
        sizes = [size for leaf in plan_of("benchmark", shapes(tree), routing(None)).leaves for size in leaf.sizes]
        row["formula_bytes"] = sum(4 * number * method.state(m, n) for number, m, n in sizes)  # q, k, v are three
    own, adamw = ((x.init, step_of(gdjax, x)) for x in (tx, METHODS[ADAMW].make(gdjax)))
    hand = {"hand": matrix.beside_adamw(matrix.STEPS[name]())} if tree_name == WHOLE and name in matrix.STEPS else {}
    row["compile_s"] = to_compile(shapes(tree), {"gdjax": own, ADAMW: adamw} | hand)
    if tree_name == WHOLE:
        return row
    params, grads = arrays(tree, 0, 0.02), arrays(tree, 1, 0.01)
    runs = {"gdjax": runner(gdjax, tx, params, grads)}
    if method.optax:
        runs["optax"] = runner(optax, method.optax(), params, grads)
    if matrix_peers.torch is not None:
        for peer, make in method.peers.items():
            try:
                runs[peer] = matrix_peers.runner(make, params, grads)
            except ImportError:
                continue
    # The first turn of a factor, an exact decomposition, is dearer: it falls in the first period.
    seconds = in_turn(runs, rounds, warmup=EVERY + 1)
    row["step_s"] = medians(seconds)
    row["ratios"] = {peer: ratio(seconds, "gdjax", peer) for peer in seconds if peer != "gdjax"}
    row["slowest"] = {peer: float(np.percentile(x, 99) / np.median(x)) for peer, x in seconds.items()}
    # A peer refreshes all at once: its median step has no refresh, its mean has.
    row["means"] = {p: float(np.mean(seconds["gdjax"]) / np.mean(x)) for p, x in seconds.items() if p != "gdjax"}
    return row


def table(rows: list[dict[str, Any]]) -> list[str]:
    head = "method | ms | mean over a peer's | p99 / median | trace, lower, compile, s | of AdamW's"
    head += " | by hand, of AdamW's | equations | with twice the leaves | products | with twice"
    head += " | state, bytes a parameter | formula"
    shown = []
    for r in rows:
        twice, formula = r["of_twice_the_leaves"], r.get("formula_bytes")
        cells = [r["method"]]
        if "means" in r:
            cells += [f"{1e3 * r['step_s']['gdjax']:.1f}", ", ".join(f"{x:.2f} {p}" for p, x in r["means"].items())]
        cells += [f"{r['slowest']['gdjax']:.2f}"] if "means" in r else [""] * 3
        seconds = r["compile_s"]
        cells += [f"{seconds['gdjax']:.2f}", *(_over(seconds.get(x), seconds[ADAMW]) for x in ("gdjax", "hand"))]
        cells += [str(x) for x in (r["equations"], twice["equations"], r["products"], twice["products"])]
        each = r["param_bytes"] / 4
        cells += [f"{r['state_bytes'] / each:.2f}", "" if formula is None else f"{formula / each:.2f}"]
        shown.append(cells)
    return markdown_table(head, shown)


def _over(x: float | None, y: float) -> str:
    return "" if x is None else f"{x / y:.2f}"


def write(results: Results) -> None:
    lines = ["Less than 1 is faster than the peer. Means over whole periods of refreshes, of both.", ""]
    for tree in dict.fromkeys(r["tree"] for r in results.rows):
        mine = [r for r in results.rows if r["tree"] == tree]
        lines += [f"## {tree}: {mine[0]['leaves']} leaves, {mine[0]['param_bytes'] / 1e6:.3g} MB", "", *table(mine)]
    results.tell("What matrix methods cost", lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", "--tiny", action="store_true", help="a tiny tree, two methods, few rounds")
    parser.add_argument("--trees", nargs="+", choices=TREES, default=["gpt2-block", "vit-s", "many"])
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=[m for m in METHODS if m != ADAMW])
    parser.add_argument("--rounds", type=int, default=20, help="steps, best a multiple of ten")
    parser.add_argument("--again", action="store_true", help="measure anew what the file has already")
    parser.add_argument("--out", type=Path, default=Path("out/benchmarks"))
    args = parser.parse_args()
    if args.quick:
        args.trees, args.methods, args.rounds, args.again = ["tiny"], ["muon", "soap"], 10, True
    results = Results(args.out / "matrix_methods.json", args.again)
    for tree, name in [(t, m) for t in args.trees for m in args.methods]:
        if results.has(tree=tree, method=name):
            continue
        results.add(measure(tree, name, args.rounds))
        r = results.rows[-1]
        compiling = ", ".join(f"{peer} compiled in {seconds:.2f} s" for peer, seconds in r["compile_s"].items())
        say(tree, name, compiling, r.get("means", ""))
    write(results)


if __name__ == "__main__":
    main()
