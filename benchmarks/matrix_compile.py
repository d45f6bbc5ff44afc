"""Steps of matrix methods compiled for a TPU v5e and an H100 that need not be here, beside steps written by hand.

    python benchmarks/matrix_compile.py [--targets tpu cuda] [--trees gpt2-block] [--methods muon soap] [--quick]

The settings are those of `matrix_peers.METHODS`, the steps by hand those of `hand/matrix.py`, parameters and state are
donated. Kernels, bytes of main memory and temporary bytes are exact, and counted as `compile_only.py` says: both sides
of a condition count, though a step runs one, and the body of a loop counts once, however often it runs. A refresh is
such a side: by hand of all factors in one step of ten, in gdjax of a share of them in each step. So there are two
counts of bytes: of all, and of what runs in each step, outside of conditions. Methods without a step by hand have
gdjax's figures alone. Writes matrix_compile.json and .md; goes on where it was broken off unless --again is given.
"""

import argparse
from pathlib import Path
from typing import Any

import compile_only  # first: it tells JAX what to compile on
import jax
from hand import matrix
from harness import Results, markdown_table, nbytes, say
from matrix_methods import TREES, step_of
from matrix_peers import METHODS
from program_text import memory_bytes
from trees import shapes, size

import gdjax

PEERS = "gdjax", "hand"
NAMES = "muon", "normuon", "soap", "shampoo", "psgd_kron", "dion, a quarter of the rank", "dion2, a quarter of the rows"


def steps(name: str) -> dict[str, Any]:
    """By peer the start of a state, and the step `(params, state, grads) -> (params, state)`, neither compiled."""
    tx = METHODS[name].make(gdjax)
    ours = {"gdjax": (tx.init, step_of(gdjax, tx))}
    return ours | ({"hand": matrix.STEPS[name]()} if name in matrix.STEPS else {})


def measure(target: str, tree_name: str, name: str) -> dict[str, Any]:
    tree = shapes(TREES[tree_name]())
    leaves, param_bytes = size(tree)
    there = jax.sharding.SingleDeviceSharding(compile_only.device(target))
    put = lambda t: jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=there), t)
    row: dict[str, Any] = {"target": target, "tree": tree_name, "method": name}
    row |= {"leaves": leaves, "param_bytes": param_bytes}
    for peer, (init, step) in steps(name).items():
        jax.clear_caches()
        state = jax.eval_shape(init, tree)
        row[peer], text = compile_only.figures(step, put(tree), put(state), put(tree))
        row[peer] |= {"state_bytes": nbytes(state), "bytes_each_step": memory_bytes(text, conditional=False)}
    return row


def report(results: Results) -> None:
    lines = [
        "MB of main memory, both sides of conditions, then without what conditions run; temporaries of parameters.",
        "",
    ]
    head = "method | kernels | hand | MB | hand | ratio | in each step, MB | hand | ratio | XLA's bytes, ratio"
    head += " | temp % | hand | compile, s | hand | ratio"
    for key in dict.fromkeys((r["target"], r["tree"]) for r in results.rows):
        rows = [r for r in results.rows if (r["target"], r["tree"]) == key]
        lines += [f"## {', '.join(key)}: {rows[0]['leaves']} leaves, {rows[0]['param_bytes'] / 1e6:.3g} MB", ""]
        lines += markdown_table(head, map(cells, rows))
    results.tell("Matrix methods compiled for devices that are not here", lines, elsewhere=True)


def cells(row: dict[str, Any]) -> list[str]:
    peers = [row.get(peer) for peer in PEERS]

    def both(name: str, form: str, factor: float = 1.0) -> list[str]:
        return [format(x[name] * factor, form) if x else "" for x in peers]

    def ratio(name: str) -> str:
        ours, hand = peers
        return f"{ours[name] / hand[name]:.3g}" if ours and hand and hand[name] else ""

    found = [row["method"], *both("kernels", "d", 1)]
    for name in ("memory_bytes", "bytes_each_step"):
        found += [*both(name, ".0f", 1e-6), ratio(name)]
    found += [ratio("bytes_accessed"), *both("temporary_bytes", ".1f", 100 / row["param_bytes"])]
    return [*found, *both("compile_s", ".1f"), ratio("compile_s")]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--targets", nargs="+", choices=["tpu", "cuda"], default=["tpu", "cuda"])
    parser.add_argument("--trees", nargs="+", choices=TREES, default=["gpt2-block"])
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=NAMES)
    parser.add_argument("--quick", "--tiny", action="store_true", help="the tiny tree and two methods")
    parser.add_argument("--again", action="store_true", help="measure anew what the file has already")
    parser.add_argument("--out", type=Path, default=Path("out/benchmarks"))
    args = parser.parse_args()
    if args.quick:
        args.trees, args.methods, args.again = ["tiny"], ["muon", "normuon"], True
    results = Results(args.out / "matrix_compile.json", args.again)
    for target in args.targets:
        try:
            compile_only.device(target)
        except Exception as e:  # whatever the missing wheel makes of it
            print(
                f"skipped {target}: its compiler is not installed ({type(e).__name__}: {str(e).splitlines()[0][:100]})"
            )
            continue
        for tree, name in [(t, m) for t in args.trees for m in args.methods]:
            if results.has(target=target, tree=tree, method=name):
                continue
            results.add(measure(target, tree, name))
            row = results.rows[-1]
            say(target, tree, name, *(f"{p} {row[p]['kernels']} kernels" for p in PEERS if p in row))
    if results.rows:
        report(results)


if __name__ == "__main__":
    main()
