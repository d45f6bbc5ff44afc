"""Steps compiled for a TPU v5e and an H100 that need not be here: kernels, bytes, temporaries, seconds.

    python benchmarks/compile_only.py [--targets tpu cuda] [--quick] [--trees ...] [--recipes ...]

The TPU needs the extra `bench-tpu` (the wheel `libtpu`), the H100 `bench-cuda` (`jax[cuda12]`). The compiler's figures
are exact and repeat. Kernels are the launches of a step: fusions, custom calls, reductions and copies outside fusions.
Bytes are those that cross the main memory (see `program_text`), and those that XLA counts, for which an array that is
copied ahead of time to a TPU's own memory moves three times. Both count both sides of a condition, of which one is run;
XLA counts none for CUDA. Writes compile_only.json and .md; goes on where it was broken off unless --again is given.
"""

import argparse
import os
import time
from pathlib import Path
from typing import Any

os.environ.setdefault("JAX_PLATFORMS", "cpu")
# What libtpu asks the network for and need not know to compile.
os.environ.setdefault("TPU_SKIP_MDS_QUERY", "1")

import jax
from harness import PEERS, Results, compiled, markdown_table, of_program, say, step_of
from jax.experimental import topologies
from program_text import kernels, memory_bytes
from recipes import RECIPES, chosen
from trees import TREES, shapes, size


def device(target: str) -> Any:
    """A device to compile for.

    Raises:
      RuntimeError: the target's wheel is not installed.
    """
    if target == "tpu":
        return topologies.get_topology_desc("v5e:2x2x1", "tpu").devices[0]
    config = Path(__file__).with_name("h100.textproto").read_text("utf-8")
    described = topologies.get_topology_desc(platform="cuda", topology_name="", topology="1x1x1", target_config=config)
    return described.devices[0]


def measure(target: str, tree_name: str, dtype: str, recipe: str) -> dict[str, Any]:
    tree = shapes(TREES[tree_name](), dtype)
    leaves, param_bytes = size(tree)
    there = jax.sharding.SingleDeviceSharding(device(target))
    put = lambda t: jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=there), t)
    row: dict[str, Any] = {"target": target, "tree": tree_name, "dtype": dtype, "recipe": recipe}
    row |= {"leaves": leaves, "param_bytes": param_bytes}
    for peer in PEERS:
        jax.clear_caches()
        init, step = step_of(peer, recipe)
        row[peer], _ = figures(step, put(tree), put(jax.eval_shape(init, tree)), put(tree))
    return row


def figures(step: Any, *args: Any) -> tuple[dict[str, Any], str]:
    """The figures of a step, compiled, and the text of its program."""
    lowered = compiled(step).lower(*args)
    start = time.perf_counter()
    program = lowered.compile()
    seconds = time.perf_counter() - start
    text = program.as_text()
    found = kernels(text)
    row = {"compile_s": seconds, **of_program(program), "memory_bytes": memory_bytes(text)}
    return row | {"kernels": sum(found.values()), "kinds": found}, text


def report(results: Results) -> None:
    lines = []
    head = (
        "recipe | kernels | Optax | hand | bytes / Optax's | / hand's | XLA's bytes / hand's | temp % | Optax | hand "
        "| compile / Optax's"
    )
    for key in dict.fromkeys((r["target"], r["tree"], r["dtype"]) for r in results.rows):
        rows = [r for r in results.rows if (r["target"], r["tree"], r["dtype"]) == key]
        lines += [f"## {', '.join(key)}: {rows[0]['leaves']} leaves, {rows[0]['param_bytes'] / 1e6:.3g} MB", ""]
        lines += markdown_table(head, map(cells_of, rows))
    results.tell("Compiled for devices that are not here", lines, elsewhere=True)


def cells_of(r: dict[str, Any]) -> list[str]:
    a, b, c = (r[peer] for peer in PEERS)
    cells = [r["recipe"], *(str(x["kernels"]) for x in (a, b, c))]
    cells += [f"{a['memory_bytes'] / x['memory_bytes']:.3f}" for x in (b, c)]
    cells += [f"{a['bytes_accessed'] / c['bytes_accessed']:.3f}" if c["bytes_accessed"] else ""]
    cells += [f"{100 * x['temporary_bytes'] / r['param_bytes']:.1f}" for x in (a, b, c)]
    cells += [f"{a['compile_s'] / b['compile_s']:.2f}"]
    return cells


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--targets", nargs="+", choices=["tpu", "cuda"], default=["tpu", "cuda"])
    parser.add_argument("--trees", nargs="+", choices=TREES, default=["gpt2-small", "gpt2-hidden"])
    parser.add_argument("--recipes", nargs="+", choices=RECIPES, default=list(RECIPES))
    parser.add_argument("--dtypes", nargs="+", choices=["float32", "bfloat16"], default=["float32"])
    parser.add_argument("--quick", "--tiny", action="store_true", help="the tiny tree and three recipes")
    parser.add_argument("--again", action="store_true", help="measure anew what the file has already")
    parser.add_argument("--out", type=Path, default=Path("out/benchmarks"))
    args = parser.parse_args()
    if args.quick:
        args.trees, args.recipes, args.again = ["tiny"], ["adamw", "clip + adamw + cosine", "lion"], True
    results = Results(args.out / "compile_only.json", args.again)
    for target in args.targets:
        try:
            device(target)
        except Exception as e:  # whatever the missing wheel makes of it
            print(
                f"skipped {target}: its compiler is not installed ({type(e).__name__}: {str(e).splitlines()[0][:100]})"
            )
            continue
        for tree, dtype, recipe in [
            (t, d, r) for t in args.trees for d in args.dtypes for r in chosen(t, args.recipes)
        ]:
            if results.has(target=target, tree=tree, dtype=dtype, recipe=recipe):
                continue
            results.add(measure(target, tree, dtype, recipe))
            a, b, c = (results.rows[-1][peer] for peer in PEERS)
            say(
                target,
                tree,
                dtype,
                recipe,
                *(f"{p} {x['kernels']} kernels" for p, x in zip(PEERS, (a, b, c), strict=True)),
            )
    if results.rows:
        report(results)


if __name__ == "__main__":
    main()
