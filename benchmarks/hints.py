"""Which hints to the compiler pay: steps compiled for this CPU with each hint, and with a plain expression for it.

    python benchmarks/hints.py [--quick] [--hints after once] [--cases adamw lion] [--by-module] [--fused]

A hint is a function of `gdjax/xla` that changes no value, only what the compiler makes of it. Steps of all recipes, in
float32 and bfloat16, and of what else calls a hint, are compiled for one small model, parameters and state donated.
Nothing runs and nothing is timed: bytes accessed and temporaries are the compiler's own figures, which repeat. Compiled
instructions go with the time that compiling takes: equal loops, which XLA:CPU compiles once, count once. A program of
which the lowered text stays the same is not compiled again. Hints for a TPU or a GPU are not judged here, nor are
products that keep NaN (`product`), which are no hints. Writes hints.json and .md, with the options hints_by_module.*
and hints_fused.*; goes on where it was broken off unless --again is given.
"""

import argparse
import contextlib
import functools
import importlib
import re
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
import report
from harness import Results, compiled, markdown_table, nbytes, of_program, say
from matrix_methods import counts
from program_text import computations, kernels
from recipes import RECIPES, step_of
from trees import shapes

import gdjax
from gdjax.lift.one_leaf import kernel_of
from gdjax.numerics import abs_sq, bounded_sq, shrinking, squarable

LAYER = {"norm": (256,), "square": (256, 256), "gate": (256, 512), "up": (256, 512), "down": (512, 256)}
MODEL = {"first": (1000, 256), **{f"layer{i}": LAYER for i in range(2)}}
TODAY, TEMPORARY = "today", "temporary_bytes"
FIGURES = "bytes_accessed", "kernels", "instructions", "equations"


def _stacks_cut(stack: Any, numbers: Any) -> list[Any]:
    return jnp.split(stack, [sum(numbers[:i]) for i in range(1, len(numbers))])


def _means_of_squares(x: Any, first: int, second: int) -> tuple[Any, Any]:
    mean = lambda axis: bounded_sq(jnp.sum(abs_sq(x) * (1 / x.shape[axis]), axis), "each")
    return mean(first), mean(second)


def _limited(x: Any, factors: Any, most: Any) -> tuple[Any, Any]:
    first, second = factors
    mean = jnp.mean(abs_sq(squarable(x, "each") * first * second))
    return first, second * shrinking(jnp.sqrt(mean), most)


def _not_finite(x: Any) -> Any:
    return jnp.any(~jnp.isfinite(x)).reshape(1).astype(jnp.float32)


def _finite_within(x: Any, bound: float) -> Any:
    return jnp.where(jnp.isfinite(x), jnp.clip(x, -bound, bound), jnp.nan)


# The names of functions of gdjax/xla, and what each is without the hint.
HINTS: dict[str, dict[str, Any]] = {
    "ORDERED": {"write_order.ORDERED": False},
    "after": {"write_order.after": lambda first, rest: rest},
    "held": {"write_order.held": lambda old, new: new},
    "over": {"write_order.over": lambda old, new: new},
    "kept": {"write_order.kept": lambda x: x},
    "own": {"write_order.own": lambda x, number: x},
    "all_first": {"write_order.all_first": lambda f, olds, *others: f(olds, *others)},
    "in_loops_of_its_own": {"write_order.in_loops_of_its_own": lambda f, found, *args: found},
    "own_zero": {"write_order.own_zero": lambda x: 0},
    "once": {"write_order.once": lambda x: x},
    "parts": {"write_order.parts": _stacks_cut},
    "taken": {"write_order.taken": lambda stacks, i: [x[i] for x in stacks]},
    "own_factor": {"write_order.own_factor": lambda x, factor: factor},
    "before_branch, in_branch": {
        "write_order.before_branch": lambda f, x, *others: x,
        "write_order.in_branch": lambda f, x, *others: f(x, *others),
    },
    "finite_within": {"reads.finite_within": _finite_within},
    "with_flipped": {"reads.with_flipped": lambda x, last: x * jnp.where(last, 2, 1).astype(x.dtype)},
    "reciprocal": {"reads.reciprocal": lambda x: 1 / x},
    "apart": {"reads.apart": lambda *xs: xs},
    "alone": {"reads.alone": lambda x, *others: x},
    "not_finite": {"sums.not_finite": _not_finite},
    "none_set": {"sums.none_set": lambda flags: jnp.sum(jnp.stack([jnp.zeros(1), *flags])) == 0},
    "summand": {"sums.summand": lambda x: squarable(x, "summed")},
    "means": {"sums.means": lambda x, axes: jnp.mean(x, axes, keepdims=True)},
    "share_of_nonzeros": {"sums.share_of_nonzeros": lambda x: jnp.mean(x != 0)},
    "means_of_squares": {"sums.means_of_squares": _means_of_squares},
    "limited": {"sums.limited": _limited},
}


class Case(NamedTuple):
    """A step to compile: of a state that `init` makes, and of `(params, state, grads)`."""

    init: Callable[[Any], Any]
    step: Callable[[Any, Any, Any], Any]
    tree: Any = MODEL


def _of(tx: Any, *rounding: Any) -> Case:
    def step(params: Any, state: Any, grads: Any) -> Any:
        updates, state = tx.update(grads, state, params)
        return gdjax.apply_updates(params, updates, *rounding), state

    return Case(tx.init, step)


def _with_loss(tx: Any) -> Case:
    def step(params: Any, state: Any, grads: Any) -> Any:
        updates, state = tx.update(grads, state, params, value=jnp.float32(1.0))
        return gdjax.apply_updates(params, updates), state

    return Case(tx.init, step)


def _lookahead(fast: Any) -> Case:
    tx, pair = gdjax.lookahead(fast, 6, 0.5), lambda params: gdjax.LookaheadParams(**params)

    def step(params: Any, state: Any, grads: Any) -> Any:
        updates, state = tx.update(grads["fast"], state, pair(params))
        return gdjax.apply_updates(pair(params), updates)._asdict(), state

    return Case(lambda params: tx.init(pair(params)), step, {"fast": MODEL, "slow": MODEL})


def _released(tx: Any) -> Case:
    """A stack of layers of which the gradients never lie beside each other; the first gradient is its input."""
    layer = lambda w, x, _: jnp.tanh(x @ w)
    before, after = (lambda p, x: x), (lambda p, x, _: jnp.mean(x**2))
    release = gdjax.gradient_release(tx, before, layer, after, stack=lambda p: p["stack"])
    return Case(tx.init, lambda params, state, x: release(params, state, x["stack"][0]), {"stack": (4, 256, 256)})


def cases(dtype: str) -> dict[str, Case]:
    """All recipes, and steps that call what no recipe does."""
    adamw, lion = gdjax.adamw(1e-3), gdjax.lion(1e-3)
    norms = "grad", "update", "param"
    found = {name: Case(*step_of(gdjax, recipe)) for name, recipe in RECIPES.items()}
    found |= {
        "acprop": _of(gdjax.acprop(1e-3)),
        "adadelta": _of(gdjax.adadelta(1.0)),
        "adopt": _of(gdjax.adopt(1e-3)),
        "mars": _of(gdjax.mars(adamw)),
        "rprop": _of(gdjax.rprop(1e-3)),
        "schedule_free_sgd": _of(gdjax.contrib.schedule_free_sgd(0.1)),
        "accumulate adamw": _of(gdjax.accumulate(adamw, 4)),
        "accumulate lion": _of(gdjax.accumulate(lion, 4)),
        "cautious adamw": _of(gdjax.cautious(adamw)),
        "centralize + adam": _of(gdjax.chain(gdjax.centralize(), gdjax.adam(1e-3))),
        "cocob": _of(gdjax.contrib.cocob()),
        "came": _of(gdjax.came(1e-3)),
        "finite guard + lion": _of(gdjax.apply_if_finite(lion, 5)),
        "finite guard + Optax's lion": _of(gdjax.apply_if_finite(optax.lion(1e-3), 5)),
        "hyperball": _of(gdjax.hyperball(adamw, 1e-3)),
        "lookahead adamw": _lookahead(adamw),
        "mechanic": _of(gdjax.contrib.mechanize(adamw)),
        "momo_adam": _with_loss(gdjax.contrib.momo_adam(1e-3)),
        "prodigy": _of(gdjax.contrib.prodigy()),
        "stable_adamw": _of(gdjax.stable_adamw(1e-3)),
        "adamw, metrics": _of(gdjax.with_metrics(adamw, norms=norms)),
        "lion, metrics": _of(gdjax.with_metrics(lion, norms=norms)),
        "gradient_release lion": _released(lion),
        "adamw, stochastic rounding": _of(adamw, 0, "stochastic"),
    }
    if dtype == "float32":  # what multiplies matrices, or codes a state, computes in it
        found |= {
            "adamw in 8 bits": _of(gdjax.quantize_state(adamw)),
            "adamw in blocks of 8 bits": _of(gdjax.quantize_state(adamw, moments="blocks", squares="blocks")),
            "soap": _of(gdjax.soap(1e-3)),
            "kl_soap": _of(gdjax.kl_soap(1e-3)),
            "shampoo": _of(gdjax.shampoo(1e-3, b1=0.9, grafting="sgd", block_size=512)),
            "psgd_kron": _of(gdjax.psgd_kron(1e-3)),
            "normuon": _of(gdjax.normuon(1e-3)),
        }
    return found


@contextlib.contextmanager
def replaced(plain: Mapping[str, Any], where: str = "") -> Iterator[None]:
    """Plain expressions in the place of functions of gdjax/xla, in all modules that import them or in one."""
    changed: list[tuple[Any, str, Any]] = []
    modules = [m for name, m in list(sys.modules.items()) if name.split(".")[0] == "gdjax"]
    for name, new in plain.items():
        home = importlib.import_module(f"gdjax.xla.{name.split('.')[0]}")
        old = getattr(home, name.split(".")[1])
        users = [m for m in modules if getattr(m, "__name__", "") == f"gdjax.{where}"] if where else modules
        for module in users if callable(old) else [home]:
            changed += [(module, k, old) for k, x in vars(module).items() if x is old]
            for k in [k for k, x in vars(module).items() if x is old]:
                setattr(module, k, new)
    _forget()
    try:
        yield
    finally:
        for module, k, old in changed:
            setattr(module, k, old)
        _forget()


def _forget() -> None:
    """All traces: they have the functions of the time they were made."""
    jax.clear_caches()
    kernel_of.cache_clear()


def called(case: Case, dtype: str) -> set[str]:
    """The hints that the trace of a step calls."""
    seen: set[str] = set()

    def noting(name: str, f: Any) -> Any:
        @functools.wraps(f)
        def noted(*args: Any, **options: Any) -> Any:
            seen.add(name)
            return f(*args, **options)

        return noted

    functions: dict[str, Any] = {}
    for hint, names in HINTS.items():
        for name in names:
            home, function = name.split(".")
            f = getattr(importlib.import_module(f"gdjax.xla.{home}"), function)
            functions |= {name: noting(hint, f)} if callable(f) else {}
    with replaced(functions):
        traced(case, dtype)
    return seen | {"ORDERED"}


def traced(case: Case, dtype: str) -> Any:
    params = shapes(case.tree, dtype)
    return compiled(case.step).trace(params, jax.eval_shape(case.init, params), params)


def figures(lowered: Any) -> dict[str, int]:
    """Exact figures of a compiled step."""
    program = lowered.compile()
    text = program.as_text()
    return of_program(program) | {"kernels": sum(kernels(text).values()), "instructions": instructions(text)}


def instructions(text: str) -> int:
    """How many instructions a program has, those of equal computations once."""
    alike = set()
    for own in computations(text).values():
        alike.add(tuple(f"{x.shape} {x.kind} {re.sub(r'%[^ ,)]*|, metadata=.*', '', x.rest)}" for x in own))
    return sum(map(len, alike))


def measure(case: Case, dtype: str, hints: list[str]) -> dict[str, Any]:
    """The figures of a case: today's, and those without each of the hints that it calls."""
    users = called(case, dtype)
    step = traced(case, dtype)
    lowered, equations = step.lower(), counts(step.jaxpr)["equations"]
    text = lowered.as_text()
    row: dict[str, Any] = {"param_bytes": nbytes(shapes(case.tree, dtype)), "without": {}}
    row[TODAY] = figures(lowered) | {"equations": equations}
    for hint in hints:
        name, _, where = hint.partition(" in ")
        if name not in users:
            continue
        with replaced(HINTS[name], where):
            step = traced(case, dtype)
            lowered, equations = step.lower(), counts(step.jaxpr)["equations"]
        found = row[TODAY] if lowered.as_text() == text else figures(lowered)
        row["without"][hint] = found | {"equations": equations}
    return row


def by_module(hint: str) -> list[str]:
    """The hint, in each module that imports it from `gdjax/xla`."""
    found = []
    for home, name in (x.split(".") for x in HINTS[hint]):
        f = getattr(importlib.import_module(f"gdjax.xla.{home}"), name)
        modules = {k: m for k, m in sys.modules.items() if k.startswith("gdjax.") and not k.endswith(home)}
        found += [f"{hint} in {k.removeprefix('gdjax.')}" for k, m in modules.items() if vars(m).get(name) is f]
    return list(dict.fromkeys(found))


def lines_of(rows: list[dict[str, Any]]) -> Iterator[list[str]]:
    """The cells of each hint: how the steps change that call it, of all steps the mean."""
    for hint in dict.fromkeys(hint for r in rows for hint in r["without"]):
        mine = [r for r in rows if hint in r["without"]]
        ratios = {key: [r["without"][hint][key] / max(r[TODAY][key], 1) for r in mine] for key in FIGURES}
        more = [(r["without"][hint][TEMPORARY] - r[TODAY][TEMPORARY]) / r["param_bytes"] for r in mine]
        bytes_ = ratios["bytes_accessed"]
        worst, most = (max(range(len(mine)), key=xs.__getitem__) for xs in (bytes_, more))
        same = [a == 1 and b == 0 for a, b in zip(bytes_, more, strict=True)]
        label = lambda r: f"{r['case']}{', bfloat16' * (r['dtype'] == 'bfloat16')}"
        cells = [hint, label(mine[worst]), label(mine[most]), str(len(mine)), str(sum(same))]
        cells += [f"{report.geometric_mean(bytes_ + [1.0] * (len(rows) - len(mine))):.3f}"]
        cells += [f"{bytes_[worst]:.3f}", f"{min(bytes_):.3f}", f"{100 * more[most]:.1f}"]
        cells += [f"{report.geometric_mean(ratios[key]):.3f}" for key in ("kernels", "instructions", "equations")]
        yield cells


def write(results: Results) -> None:
    lines = [
        f"{len(results.rows)} steps. Ratios are of the figure without the hint over that with it: above 1 it pays.",
        "Of bytes: the mean of all steps, the worst and the best of those that call the hint; the temporaries are what",
        "the step with the largest increase has more, over the parameters' bytes. Kernels, instructions and equations:",
        "means of the steps that call it.",
        "",
    ]
    head = "hint | worst of bytes | worst of temporaries | steps that call it | unchanged | bytes, mean | worst | best"
    head += " | temporaries, % more | kernels | instructions | equations"
    results.tell("Which hints to the compiler pay", [*lines, *markdown_table(head, lines_of(results.rows), 3)])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", "--tiny", action="store_true", help="two steps, two hints")
    parser.add_argument("--hints", nargs="+", choices=HINTS, default=list(HINTS))
    parser.add_argument("--cases", nargs="+", help="some of the steps")
    parser.add_argument("--dtypes", nargs="+", choices=["float32", "bfloat16"], default=["float32", "bfloat16"])
    parser.add_argument("--by-module", action="store_true", help="without each hint in one module at a time")
    parser.add_argument("--fused", action="store_true", help="with gdjax.fuse_cpu_outputs, into hints_fused.*")
    parser.add_argument("--again", action="store_true", help="measure anew what the file has already")
    parser.add_argument("--out", type=Path, default=Path("out/benchmarks"))
    args = parser.parse_args()
    if args.quick:
        args.cases, args.hints, args.dtypes, args.again = ["adamw", "lion"], ["ORDERED", "after"], ["float32"], True
    if args.fused:
        gdjax.fuse_cpu_outputs()
    hints = [x for hint in args.hints for x in (by_module(hint) if args.by_module else [hint])]
    name = f"hints{'_by_module' * args.by_module}{'_fused' * args.fused}.json"
    results = Results(args.out / name, args.again)
    steps = [(dtype, name, case) for dtype in args.dtypes for name, case in cases(dtype).items()]
    for dtype, name, case in steps:
        if args.cases and name not in args.cases or results.has(case=name, dtype=dtype):
            continue
        row = measure(case, dtype, hints)
        results.add({"case": name, "dtype": dtype} | row)
        more = {h: x["bytes_accessed"] / row[TODAY]["bytes_accessed"] for h, x in row["without"].items()}
        say(name, dtype, ", ".join(f"{h} {x:.3f}" for h, x in more.items() if abs(x - 1) > 0.001))
    write(results)


if __name__ == "__main__":
    main()
