"""What a step of AdamW costs with its state in fewer bits: compiled for a TPU v5e and an H100, and timed on this CPU.

    python benchmarks/coded_state.py [--quick] [--targets tpu cuda cpu] [--trees 4096x4096 gpt2-small] [--states log]

For each tree and each way to keep the state: bytes of the state, bytes that cross the main memory and bytes of
temporaries, all over the number of parameters; kernels; seconds to compile, of a clock and of the processor. On the CPU
the time of a step beside Optax's, in alternation, of one block of GPT-2 small. Writes coded_state.json and .md; goes on
where it was broken off unless --again is given. See `compile_only.py` for the compilers that it needs.
"""

import argparse
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import compile_only  # first, since it tells JAX where to run  # isort: skip
import jax
import optax
from harness import Results, both_ways, compiled, markdown_table, medians, nbytes, ratio, say
from trees import arrays, gpt2_hidden, gpt2_small, shapes

import gdjax

STATES: Mapping[str, Callable[[Any], Any]] = {
    "float32": lambda tx: tx,
    "words": gdjax.quantize_state,
    "log": lambda tx: gdjax.quantize_state(tx, moments="log"),
    "moments bfloat16": lambda tx: gdjax.quantize_state(tx, moments="bfloat16"),
    "blocks of 64, float32": lambda tx: gdjax.quantize_state(tx, moments="blocks"),
    "blocks of 32, bfloat16": lambda tx: gdjax.quantize_state(
        tx, moments="blocks", block_size=32, scale_dtype="bfloat16"
    ),
    "4 bits": lambda tx: gdjax.quantize_state(tx, bits=4),
}
TREES: Mapping[str, Callable[[], Any]] = {
    "4096x4096": lambda: {"w": (4096, 4096)},
    "gpt2-small": gpt2_small,
    "gpt2-block": lambda: {"h0": gpt2_hidden()["h0"]},
    "tiny": lambda: {"w": (128, 64)},
}
ON_CPU = "gpt2-block"


def adamw(lib: Any) -> Any:
    return lib.adamw(1e-3, weight_decay=0.1)


def step_of(lib: Any, tx: Any) -> Any:
    def step(params: Any, state: Any, grads: Any) -> Any:
        updates, state = tx.update(grads, state, params)
        return lib.apply_updates(params, updates), state

    return step


def for_device(target: str, tree_name: str, name: str) -> dict[str, Any]:
    """Figures of a step compiled for a device that need not be here."""
    tx, tree = STATES[name](adamw(gdjax)), shapes(TREES[tree_name]())
    there = jax.sharding.SingleDeviceSharding(compile_only.device(target))
    put = lambda t: jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=there), t)
    state = jax.eval_shape(tx.init, tree)
    jax.clear_caches()
    start = time.process_time()
    found, _ = compile_only.figures(step_of(gdjax, tx), put(tree), put(state), put(tree))
    row = {key: found[key] for key in ("kernels", "memory_bytes", "temporary_bytes", "compile_s")}
    return row | {"compile_cpu_s": time.process_time() - start, "state_bytes": nbytes(state)}


def on_cpu(tree_name: str, names: list[str], rounds: int) -> list[dict[str, Any]]:
    """Times of a step, all in alternation."""
    params, grads = arrays(TREES[tree_name](), 0, 0.02), arrays(TREES[tree_name](), 1, 0.01)
    steps = {name: (gdjax, STATES[name](adamw(gdjax))) for name in names} | {"Optax": (optax, adamw(optax))}
    programs = {}
    for name, (lib, tx) in steps.items():
        state = jax.eval_shape(tx.init, params)
        programs[name] = compiled(step_of(lib, tx)).lower(params, state, grads).compile()

    def maker(name: str) -> Callable[[], Callable[[], None]]:
        def make() -> Callable[[], None]:
            held = [jax.tree.map(lambda x: x.copy(), params)]
            held.append(steps[name][1].init(held[0]))

            def run() -> None:
                held[:] = programs[name](*held, grads)
                jax.block_until_ready(held)

            return run

        return make

    seconds = both_ways({name: maker(name) for name in steps}, rounds)
    return [
        {"target": "cpu", "tree": tree_name, "state": name, "step_s": medians(seconds)[name]}
        | {"of_float32": ratio(seconds, name, "float32"), "of_optax": ratio(seconds, name, "Optax")}
        | {"temporary_bytes": programs[name].memory_analysis().temp_size_in_bytes}
        for name in steps
    ]


def parameters(tree_name: str) -> int:
    return sum(x.size for x in jax.tree.leaves(shapes(TREES[tree_name]())))


def report(results: Results) -> None:
    lines = ["Bytes are bytes a parameter. Seconds to compile are of the processor, with what else it had to do.", ""]
    for target, tree in dict.fromkeys((r["target"], r["tree"]) for r in results.rows):
        rows = [r for r in results.rows if (r["target"], r["tree"]) == (target, tree)]
        head = "state | bytes of it | bytes moved | temporaries | kernels | compiling, CPU s"
        if target == "cpu":
            head = "state | ms | of float32 | of Optax's | temporaries"
        cells = []
        for r in rows:
            n = parameters(tree)
            temporaries = f"{r['temporary_bytes'] / n:.3f}"
            if target == "cpu":
                own = [f"{1e3 * r['step_s']:.2f}", f"{r['of_float32']:.2f}", f"{r['of_optax']:.2f}", temporaries]
            else:
                own = [f"{r['state_bytes'] / n:.3f}", f"{r['memory_bytes'] / n:.2f}", temporaries]
                own += [str(r["kernels"]), f"{r['compile_cpu_s']:.1f}"]
            cells.append([r["state"], *own])
        lines += [f"## {target}, {tree}", "", *markdown_table(head, cells)]
    results.tell("AdamW with its state in fewer bits", lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--targets", nargs="+", choices=["tpu", "cuda", "cpu"], default=["tpu", "cuda", "cpu"])
    parser.add_argument("--trees", nargs="+", choices=TREES, default=["4096x4096", "gpt2-small"])
    parser.add_argument("--states", nargs="+", choices=STATES, default=list(STATES))
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--quick", "--tiny", action="store_true", help="one small matrix, two states")
    parser.add_argument("--again", action="store_true", help="measure anew what the file has already")
    parser.add_argument("--out", type=Path, default=Path("out/benchmarks"))
    args = parser.parse_args()
    on, args.trees = (ON_CPU, args.trees) if not args.quick else ("tiny", ["tiny"])
    if args.quick:
        args.states, args.rounds, args.again = ["float32", "words"], 3, True
    results = Results(args.out / "coded_state.json", args.again)
    for target in args.targets:
        if target == "cpu":
            if not results.has(target=target, tree=on):
                for row in on_cpu(on, args.states, args.rounds):
                    results.add(row)
            continue
        try:
            compile_only.device(target)
        except Exception as e:  # whatever the missing wheel makes of it
            print(f"skipped {target}: its compiler is not installed ({type(e).__name__})")
            continue
        for tree, state in [(t, s) for t in args.trees for s in args.states]:
            if not results.has(target=target, tree=tree, state=state):
                key = {"target": target, "tree": tree, "state": state}
                results.add(key | for_device(*key.values()))
                say(*key.values(), results.rows[-1])
    if results.rows:
        report(results)


if __name__ == "__main__":
    main()
