"""The memory of a training step of a stack of layers: with all gradients, and without.

    python benchmarks/release.py [--targets tpu cuda cpu] [--layers 24] [--width 2048] [--rows 256] [--quick]

The layers are tanh(x w), w square, one after the other in a scan; Adam in float32, or after a clip by the global norm.
The peak is what the compiler says: arguments, results that lie in no argument, temporaries. The TPU v5e and the H100
need not be there, see `compile_only.py`. On the CPU the steps are also run, with a smaller width. Four steps:

- plain: `jax.value_and_grad`, `update`, `apply_updates`;
- checkpoint: the same, each layer in `jax.checkpoint`;
- custom_vjp: each layer's backward rule makes the new parameters and moments and returns them in the place of
  gradients, as https://github.com/jax-ml/jax/issues/30338 proposes;
- release: `gdjax.gradient_release`.

Writes release.json and .md; goes on where it was broken off unless --again is given.
"""

import argparse
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import compile_only
import jax
import jax.numpy as jnp
from harness import Results, both_ways, markdown_table, medians, say

import gdjax

RECIPES: dict[str, Callable[[], Any]] = {
    "adam": lambda: gdjax.adam(1e-3),
    "clip + adam": lambda: gdjax.chain(gdjax.clip_by_global_norm(1.0), gdjax.adam(1e-3)),
}
STEPS = "plain", "checkpoint", "custom_vjp", "release"


def layer(w: Any, x: Any, *_: Any) -> Any:
    return jnp.tanh(x @ w)


def loss_of(p: Any, x: Any, *_: Any) -> Any:
    return jnp.mean(x**2)


def with_gradients(tx: Any, layer: Any, params: Any, state: Any, x: Any) -> Any:
    def loss(w: Any) -> Any:
        return loss_of(w, jax.lax.scan(lambda x, w: (layer(w, x), None), x, w)[0])

    value, grads = jax.value_and_grad(loss)(params)
    updates, state = tx.update(grads, state, params)
    return gdjax.apply_updates(params, updates), state, value


def custom_vjp(tx: Any, params: Any, state: Any, x: Any) -> Any:
    """The new parameters and moments as gradients; the count, an integer, has none."""
    adam, *rest = state

    @jax.custom_vjp
    def updated(w: Any, mu: Any, nu: Any, count: Any, x: Any) -> Any:
        return layer(w, x)

    def forward(w: Any, mu: Any, nu: Any, count: Any, x: Any) -> Any:
        return layer(w, x), (w, mu, nu, count, x)

    def backward(kept: Any, of_y: Any) -> Any:
        w, mu, nu, count, x = kept
        grad, of_x = jax.vjp(layer, w, x)[1](of_y)
        updates, (new, *_) = tx.update(grad, (adam._replace(count=count, mu=mu, nu=nu), *rest), w)
        return gdjax.apply_updates(w, updates), new.mu, new.nu, None, of_x

    updated.defvjp(forward, backward)

    def loss(stacks: Any) -> Any:
        def one(x: Any, row: Any) -> Any:
            return updated(*row, adam.count, x), None

        return loss_of(None, jax.lax.scan(one, x, stacks)[0])

    value, (params, mu, nu) = jax.value_and_grad(loss)((params, adam.mu, adam.nu))
    return params, (adam._replace(count=adam.count + 1, mu=mu, nu=nu), *rest), value


def released(tx: Any) -> Any:
    return gdjax.gradient_release(tx, lambda p, x: x, layer, loss_of, stack=lambda p: p)


def step_of(name: str, tx: Any) -> Any:
    if name == "release":
        return released(tx)
    if name == "custom_vjp":
        return partial(custom_vjp, tx)
    return partial(with_gradients, tx, jax.checkpoint(layer) if name == "checkpoint" else layer)


def peak(target: str, name: str, recipe: str, layers: int, width: int, rows: int) -> dict[str, Any]:
    """What a step takes at its peak, in bytes a parameter."""
    there = None if target == "cpu" else jax.sharding.SingleDeviceSharding(compile_only.device(target))
    tx, of = RECIPES[recipe](), partial(jax.ShapeDtypeStruct, dtype=jnp.float32)
    params, x = of((layers, width, width)), of((rows, width))
    put = partial(jax.tree.map, lambda a: jax.ShapeDtypeStruct(a.shape, a.dtype, sharding=there))
    step = jax.jit(step_of(name, tx), donate_argnums=(0, 1))
    program = step.lower(*put((params, jax.eval_shape(tx.init, params), x))).compile()
    m: Any = program.memory_analysis()
    size = m.argument_size_in_bytes + m.temp_size_in_bytes + m.output_size_in_bytes - m.alias_size_in_bytes
    each = {"peak": size, "arguments": m.argument_size_in_bytes, "temporaries": m.temp_size_in_bytes}
    return {k: v / params.size for k, v in each.items()}


def seconds(recipe: str, layers: int, width: int, rows: int, rounds: int) -> dict[str, float]:
    """The medians of what the steps take, run in alternation."""
    tx, x = RECIPES[recipe](), jnp.ones((rows, width))
    names = [name for name in STEPS if name != "custom_vjp" or recipe == "adam"]
    first = jax.random.normal(jax.random.key(0), (layers, width, width)) / width**0.5

    def runner(name: str) -> Callable[[], Any]:
        step, params = jax.jit(step_of(name, tx), donate_argnums=(0, 1)), first.copy()
        kept = [params, tx.init(params)]

        def run() -> None:
            *kept[:], loss = step(*kept, x)
            jax.block_until_ready((kept, loss))

        return run

    return medians(both_ways({name: partial(runner, name) for name in names}, rounds))


def report(results: Results) -> None:
    lines = []
    for kind, head in (("peak", "Bytes a parameter at the peak"), ("seconds", "Seconds of a step on the CPU")):
        rows = [r for r in results.rows if r["kind"] == kind]
        cells = []
        for r in sorted(rows, key=lambda r: list(RECIPES).index(r["recipe"])):
            sizes = [str(r[name]) for name in ("layers", "width", "rows")]
            cells.append([r["recipe"], r["target"], *sizes, *(f"{r[n]:.4g}" if n in r else "" for n in STEPS)])
        lines += [
            f"## {head}",
            "",
            *markdown_table(" | ".join(["optimizer | target | layers | width | rows", *STEPS]), cells, 2),
        ]
    results.tell("A stack of layers: what a training step takes", lines, elsewhere=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--targets", nargs="+", choices=["tpu", "cuda", "cpu"], default=["tpu", "cuda", "cpu"])
    parser.add_argument("--layers", type=int, default=24)
    parser.add_argument("--width", type=int, default=2048)
    parser.add_argument("--run-width", type=int, default=512, help="of the steps that are run, on the CPU")
    parser.add_argument("--rows", type=int, default=256, help="of x: tokens of a batch")
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--quick", "--tiny", action="store_true", help="small layers, on the CPU alone")
    parser.add_argument("--again", action="store_true", help="measure anew what the file has already")
    parser.add_argument("--out", type=Path, default=Path("out/benchmarks"))
    args = parser.parse_args()
    if args.quick:
        args.targets, args.layers, args.width, args.run_width, args.rows, args.rounds = ["cpu"], 3, 64, 64, 8, 2
    results = Results(args.out / "release.json", args.again or args.quick)
    for recipe in RECIPES:
        for target in args.targets:
            key = {"recipe": recipe, "target": target, "layers": args.layers, "width": args.width, "rows": args.rows}
            if results.has(kind="peak", **key):
                continue
            try:
                names = [name for name in STEPS if name != "custom_vjp" or recipe == "adam"]
                found = {name: peak(target, name, recipe, args.layers, args.width, args.rows) for name in names}
            except Exception as e:  # whatever a missing wheel makes of it
                print(f"skipped {target}: {type(e).__name__}: {str(e).splitlines()[0][:100]}")
                continue
            results.add({"kind": "peak", **key, **{k: x["peak"] for k, x in found.items()}, "parts": found})
            say(recipe, target, *(f"{k} {x['peak']:.2f}" for k, x in found.items()))
        key = {"recipe": recipe, "target": "cpu", "layers": args.layers, "width": args.run_width, "rows": args.rows}
        if not results.has(kind="seconds", **key):
            found = seconds(recipe, args.layers, args.run_width, args.rows, args.rounds)
            results.add({"kind": "seconds", **key, **found})
            say(recipe, *(f"{k} {x:.3f} s" for k, x in found.items()))
    report(results)


if __name__ == "__main__":
    main()
