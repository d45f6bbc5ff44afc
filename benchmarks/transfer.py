"""Whether a rate tuned on a small model is that of a large one, with and without `gdjax.transfer`.

    python benchmarks/transfer.py [--quick] [--parts exponents mlp depth batch length lm] [--methods soap] [--table]

- `exponents`: `gdjax.check_transfer` of many methods on an MLP, widths 64 to 512: how far leaves move, by width.
- `mlp`: the best rate by width, 64 to 512, labels of a teacher; `lm`: the same of `small_lm.py`, 64 to 256.
- `depth`: residual blocks, 2 to 8. `batch`: eight times the batch, as many tokens; `length`: four times the steps.

Rates are powers of 2. For each size the first seed searches until the best rate lies between two worse ones; then all
seeds run these, and the rate that is best at the smallest size. Scores are means over seeds: on text the loss on
held-out text, after a warm-up and a line to 0; elsewhere the mean loss of the last tenth of the steps, on data that no
step has seen before, at a constant rate (but for the recipe's), since with a line to 0 the minima are flat there.
Each run is a row of transfer_<part>.json; goes on where it was broken off unless --again is given. Writes transfer.md
and a picture of each part that has a file; with --table it does only that. Parts may run beside each other.
"""

import argparse
import functools
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from harness import Results, markdown_table, say
from small_lm import loss as lm_loss
from small_lm import start as lm_start
from small_lm import text

import gdjax

MODES = "standard", "transferred"
INPUTS, CLASSES = 32, 10
LENGTH = 64  # of a window of text
Size = int


class Problem(NamedTuple):
    """A model of one size, and what it learns from."""

    start: Callable[[int], Any]  # from seed to parameters
    loss: Callable[[Any, Any], Any]
    batches: Callable[[int], Any]  # from seed to all batches, stacked
    steps: int
    held_out: Any = None  # on which it is judged, after a warm-up and a line to 0
    side: int = 10000  # the longest of a matrix for which SOAP has a basis


class Part(NamedTuple):
    """One question: the sizes, the problem of each, and the transform of a method for it."""

    sizes: tuple[Size, ...]
    problem: Callable[[Size], Problem]
    carried: Callable[[Any, Size], Any]  # from the transform tuned at the first size to that of a size
    started: Callable[[Any, Size], Any]  # from parameters to those that start a transferred run
    methods: tuple[str, ...]


# The log2 of the rate at which the search at the smallest size begins.
FIRST = {"adamw": -9, "transformer_optimizer": -6, "soap": -8}
ON_TEXT = "lm", "batch", "length"
# The most octaves a doubling by which a transferred rate may drift; the standard's drifts twice as much, or there is
# no power. The batch grows eightfold and the length fourfold, by which the rate may drift 0.3 octaves in all.
LIMITS = {"mlp": 0.4, "lm": 0.4, "depth": 0.3, "batch": 0.1, "length": 0.15}
MOST = {("mlp", "soap"): 256, ("lm", "soap"): 128}  # the widths of which a run takes under a minute


def optimizer(method: str, rate: Any, steps: int, side: int, line: bool = False) -> Any:
    """A method at a rate, or with the schedule of `transformer_optimizer` to that peak."""
    if method == "transformer_optimizer":
        return gdjax.transformer_optimizer(rate, steps)
    if line:
        warmup = max(1, steps // 20)
        rate = gdjax.warmup_linear_decay_schedule(rate / warmup, rate, warmup, steps)
    return gdjax.adamw(rate) if method == "adamw" else gdjax.soap(rate, max_precond_dim=side)


@functools.cache
def labelled(count: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Inputs, and the labels of a teacher."""
    teacher, rng = np.random.default_rng(0), np.random.default_rng(seed + 1)
    a, b = teacher.normal(size=(INPUTS, 64)) / INPUTS**0.5, teacher.normal(size=(64, CLASSES)) / 64**0.5
    x = rng.normal(size=(count, INPUTS))
    return x.astype(np.float32), (np.tanh(2 * x @ a) @ b).argmax(1).astype(np.int32)


def cross_entropy(scores: Any, labels: Any) -> Any:
    return -jnp.mean(jnp.take_along_axis(jax.nn.log_softmax(scores), labels[:, None], axis=1))


def mlp(width: Size, hidden: int, steps: int, batch: int = 128) -> Problem:
    """32 inputs, `hidden` square matrices, 10 classes. A head that starts large would be noise before the rest."""

    def start(seed: int) -> Any:
        keys = jax.random.split(jax.random.key(seed), hidden + 2)
        normal = lambda key, i, o, var: jax.random.normal(key, (i, o)) * (var / i) ** 0.5
        squares = {f"w{k}": normal(key, width, width, 2) for k, key in enumerate(keys[2:])}
        return {"up": normal(keys[0], INPUTS, width, 1), **squares, "head": normal(keys[1], width, CLASSES, 1 / 16)}

    def loss(p: Any, batch: Any) -> Any:
        return cross_entropy(scores_of(p, batch[0])[-1], batch[1])

    def batches(seed: int) -> Any:
        x, y = labelled(steps * batch, seed)
        return x.reshape(steps, batch, -1), y.reshape(steps, batch)

    return Problem(start, loss, batches, steps)


def scores_of(p: Any, x: Any) -> list[Any]:
    """The activations of the MLP, the scores of the classes last."""
    found = [jax.nn.relu(x @ p["up"])]
    for name in sorted(p):
        if name.startswith("w"):
            found.append(jax.nn.relu(found[-1] @ p[name]))
    return [*found, found[-1] @ p["head"]]


def residual(layers: Size, steps: int, width: int = 64, batch: int = 128) -> Problem:
    """Blocks x + relu(x / rms(x) up) down, whose last matrices start as those of an MLP."""
    flat = mlp(width, 0, steps, batch)

    def start(seed: int) -> Any:
        keys = jax.random.split(jax.random.key(seed + 500), 2 * layers)
        normal = lambda key, i, o, var: jax.random.normal(key, (i, o)) * (var / i) ** 0.5
        pairs = zip(keys[::2], keys[1::2], strict=True)
        blocks = [{"up": normal(a, width, 2 * width, 2), "down": normal(b, 2 * width, width, 1)} for a, b in pairs]
        return flat.start(seed) | {"blocks": blocks}

    def loss(p: Any, batch: Any) -> Any:
        rms = lambda x: x * jax.lax.rsqrt(jnp.mean(x * x, -1, keepdims=True) + 1e-6)
        x = batch[0] @ p["up"]
        for block in p["blocks"]:
            x = x + jax.nn.relu(rms(x) @ block["up"]) @ block["down"]
        return cross_entropy(rms(x) @ p["head"], batch[1])

    return flat._replace(start=start, loss=loss)


@functools.cache
def corpus() -> Any:
    return text.read()


def language(width: Size, steps: int, batch: int) -> Problem:
    """The byte language model, two layers; SOAP has no basis for sides of four widths, which would take seconds."""

    def batches(seed: int) -> Any:
        return np.stack([text.batch(corpus().train, batch, LENGTH, seed, i) for i in range(steps)])

    held_out = text.spread(corpus().held_out, 128, LENGTH)
    return Problem(lambda seed: lm_start(jax.random.key(seed), width, 2), lm_loss, batches, steps, held_out, width)


def wider(
    problem: Callable[[Size], Problem], sizes: tuple[Size, ...], methods: tuple[str, ...], **options: Any
) -> Part:
    """A part whose models grow: `transfer` and `transfer_init` from the first."""
    base = jax.eval_shape(lambda: problem(sizes[0]).start(0))
    carried = lambda tx, size: gdjax.transfer(tx, base, **options)
    return Part(sizes, problem, carried, lambda p, size: gdjax.transfer_init(p, base, **options), methods)


def parts(quick: bool) -> dict[str, Part]:
    """What is measured; sizes of `quick` are for a test of this script."""
    n, all_, same = (8 if quick else 1), tuple(FIRST), lambda p, size: p
    widths = (16, 32) if quick else (64, 128, 256, 512)
    few, many, long = 2, 16, 240 // n  # windows a batch, and the steps with many
    return {
        "mlp": wider(lambda w: mlp(w, 2, 200 // n), widths, all_),
        "lm": wider(lambda w: language(w, 200 // n, 4), widths[:3], all_),
        "depth": wider(lambda d: residual(d, 200 // n), (2, 4) if quick else (2, 4, 8), all_[:1], depth="fold"),
        "batch": Part(
            (few, many), lambda b: language(16 if quick else 64, long * many // b, b),
            lambda tx, b: gdjax.for_batch(tx, b, few), same, all_[:1],
        ),
        "length": Part(
            (200 // n, 800 // n), lambda steps: language(16 if quick else 64, steps, 4),
            lambda tx, steps: gdjax.for_length(tx, steps, 200 // n), same, all_[:1],
        ),
    }  # fmt: skip


def trained(part: Part, size: Size, method: str, mode: str) -> Callable[[Any, int], float]:
    """From rate and seed to the loss; compiled once."""
    problem, carry = part.problem(size), mode == "transferred"

    @jax.jit
    def run(rate: Any, params: Any, batches: Any) -> Any:
        tx = optimizer(method, rate, problem.steps, problem.side, problem.held_out is not None)
        tx = part.carried(tx, size) if carry else tx

        def step(carry: Any, batch: Any) -> Any:
            params, state = carry
            loss, grads = jax.value_and_grad(problem.loss)(params, batch)
            updates, state = tx.update(grads, state, params)
            return (gdjax.apply_updates(params, updates), state), loss

        (params, _), losses = jax.lax.scan(step, (params, tx.init(params)), batches)
        if problem.held_out is not None:
            return problem.loss(params, problem.held_out)
        return losses[-max(1, problem.steps // 10) :].mean()

    def score(rate: Any, seed: int) -> float:
        start = problem.start(seed)
        return float(run(rate, part.started(start, size) if carry else start, problem.batches(seed)))

    return score


Scores = dict[int, float]  # from the log2 of the rate to the mean over seeds


def search(
    name: str, part: Part, size: Size, method: str, mode: str, first: int, extra: int | None, seeds: int, kept: Results
) -> Scores:
    """The scores around the best rate, and at `extra`."""
    made: list[Callable[[Any, int], float]] = []

    def one(k: int, seed: int) -> float:
        key = {"size": size, "method": method, "mode": mode, "log2_rate": k, "seed": seed}
        if not kept.has(**key):
            made[:] = made or [trained(part, size, method, mode)]
            began = time.perf_counter()
            score = made[0](np.float32(2.0**k), seed)
            seconds = round(time.perf_counter() - began, 2)
            kept.add({**key, "score": score if np.isfinite(score) else None, "seconds": seconds})
            say(f"{name}: {method}, {mode}, {size}, 2^{k}, seed {seed}: {score:.4f}, {seconds} s")
        found = next(r["score"] for r in kept.rows if all(r.get(x) == y for x, y in key.items()))
        return np.inf if found is None else found

    def around(score: Callable[[int], float], k: int) -> int:
        for _ in range(20):
            better = min((k - 1, k, k + 1), key=lambda j: (score(j), j != k))
            if better == k:
                break
            k = better
        return k

    @functools.cache
    def mean(k: int) -> float:
        return float(np.mean([one(k, seed) for seed in range(seeds)]))

    best = around(mean, around(functools.cache(lambda k: one(k, 0)), first))
    return {k: mean(k) for k in sorted({best - 1, best, best + 1} | ({extra} - {None}))}


def by_size(scores: dict[Size, Scores], evaluated: bool) -> gdjax.SweepBySize:
    """The library's own account of the best rates; what was not run is NaN."""
    every = sorted({k for found in scores.values() for k in found})
    grid = range(every[0], every[-1] + 1)
    points, one = [{"rate": 2.0**k} for k in grid], np.zeros((len(grid), 1))
    results = {
        size: gdjax.SweepResult(points, {"loss": one}, None, np.array([found.get(k, np.nan) for k in grid]), evaluated)
        for size, found in scores.items()
    }
    return gdjax.SweepBySize(results)


def followed(name: str, part: Part, method: str, mode: str, seeds: int, kept: Results) -> None:
    """Runs the search from size to size, unless `transfer` refuses the method."""
    try:
        part.carried(optimizer(method, 0.1, 10, 10), part.sizes[0])
    except ValueError as e:
        say(f"{name}: {method}: {e}")
        return
    first, base = FIRST[method], None
    for size in part.sizes:
        extra = base if size == part.sizes[-1] else None
        scores = search(name, part, size, method, mode_at(part, size, mode), first, extra, seeds, kept)
        first = min(scores, key=lambda k: scores[k])
        base = first if base is None else base


def mode_at(part: Part, size: Size, mode: str) -> str:
    """At the first size a transferred optimizer is the standard one."""
    return MODES[0] if size == part.sizes[0] else mode


# A rate for ten steps of each method: a share of its best.
CHECKED: dict[str, Callable[[], Any]] = {
    "adam": lambda: gdjax.adam(2**-9),
    "adamw": lambda: gdjax.adamw(2**-9, weight_decay=0.1),
    "lion": lambda: gdjax.lion(2**-10),
    "adafactor": lambda: gdjax.adafactor(2**-6),
    "adam_mini": lambda: gdjax.adam_mini(2**-9),
    "sgd": lambda: gdjax.sgd(2**-5),
    "muon": lambda: gdjax.muon(2**-6, adam_learning_rate=2**-9, muon_weight_dimension_numbers=gdjax.matrices_by_role()),
    "normuon": lambda: gdjax.normuon(2**-9),
    "scion": lambda: gdjax.scion(2**-6),
    "dion": lambda: gdjax.dion(2**-6, adam_learning_rate=2**-9),
    "soap": lambda: gdjax.soap(2**-9),
    "kl_soap": lambda: gdjax.kl_soap(2**-9),
    "shampoo": lambda: gdjax.shampoo(2**-9),
    "psgd_kron": lambda: gdjax.psgd_kron(2**-9),
    "lamb": lambda: gdjax.lamb(2**-6),
}


def exponents(method: str, mode: str, widths: tuple[int, ...], seeds: int) -> dict[str, Any]:
    """How far leaves move, by width, as rows of `gdjax.check_transfer`; where `transfer` refuses, with `spectral`."""
    base = jax.eval_shape(lambda: mlp(widths[0], 2, 1).start(0))

    def make(width: int, seed: int) -> Any:
        def loss(p: Any, batch: Any) -> Any:
            found = scores_of(p, batch[0])
            return cross_entropy(found[-1], batch[1]), found

        start = mlp(width, 2, 1).start(seed)
        return loss, gdjax.transfer_init(start, base)

    x, y = labelled(1280, 0)
    data = list(zip(x.reshape(10, 128, -1), y.reshape(10, 128), strict=True))
    tx, around = CHECKED[method](), ""
    began = time.perf_counter()
    if mode == "transferred":
        try:
            tx = gdjax.transfer(tx, base)
        except ValueError as e:  # no law is known
            tx, around = gdjax.transfer(gdjax.spectral(tx, 2**-5), base), str(e)
    check = gdjax.check_transfer(make, tx, widths, seeds=seeds, data=data, has_aux=True)
    rows = [dict(row) for row in check.table]
    return {"rows": rows, "spectral": around, "seconds": round(time.perf_counter() - began, 1)}


def measure_exponents(kept: Results, methods: list[str], widths: tuple[int, ...], seeds: int) -> None:
    for method in methods:
        for mode in MODES:
            if not kept.has(method=method, mode=mode):
                kept.add({"method": method, "mode": mode, **exponents(method, mode, widths, seeds)})
                say("exponents:", method, mode, kept.rows[-1]["seconds"], "s")
                jax.clear_caches()


def worst(row: dict[str, Any], kinds: tuple[str, str]) -> str:
    """The exponent farthest from 0 of the leaves of a kind, of which some sides grow."""
    each = [
        v
        for r in row.get("rows", [])
        if (r["kind"], r["grows"]) == kinds
        for k, v in r.items()
        if k.startswith("after") and v is not None
    ]
    return f"{max(each, key=abs):+.2f}" if each else "-"


def exponents_told(rows: list[dict[str, Any]]) -> list[str]:
    kinds = {
        "hidden": ("matrix", "inputs, outputs"), "input": ("matrix", "outputs"), "head": ("head", "inputs"),
        "activations": ("activation", ""),
    }  # fmt: skip
    head = "method | " + " | ".join(f"{name}: {', '.join(MODES)}" for name in kinds)
    of = {(r["method"], r["mode"]): r for r in rows}
    cells = [
        [
            m + " (spectral)" * bool(of.get((m, MODES[1]), {}).get("spectral")),
            *(", ".join(worst(of.get((m, mode), {}), kind) for mode in MODES) for kind in kinds.values()),
        ]
        for m in dict.fromkeys(r["method"] for r in rows)
    ]
    lines = [
        "## How far leaves move, by width",
        "",
        "The exponent farthest from 0, of the leaves and after 2 and 10 steps;",
    ]
    lines += [
        "0.15 is the limit for hidden matrices, 0.25 for input and head, 0.1 for activations. `spectral` is around"
    ]
    lines += ["methods of which no law is known, when transferred.", ""]
    return [*lines, *markdown_table(head, cells)]


def told(name: str, part: Part, found: dict[tuple[str, str], gdjax.SweepBySize]) -> list[str]:
    cells = []
    for (method, mode), result in found.items():
        rates = ", ".join(f"{np.log2(best.rate):.1f}" for best in result.best.values())
        last = list(result.best.values())[-1]
        standard, limit = found.get((method, MODES[0])), LIMITS[name]
        verdict = "" if mode == MODES[0] else "drifts" if abs(result.drift) > limit else "holds"
        if verdict == "holds" and (standard is None or abs(standard.drift) < 2 * limit):
            verdict = "holds, no power"
        if any(best.at_edge for best in result.best.values()):
            verdict += " (an edge of the grid)"
        cells.append([method, mode, verdict, rates, f"{result.drift:+.2f}", f"{result.cost:.4f}", f"{last.score:.4f}"])
    lines = [f"## {name}: {', '.join(map(str, part.sizes))}", ""]
    head = (
        "method | mode | verdict | log2 of the best rate | octaves a doubling | cost of the first's | loss at the last"
    )
    return [*lines, *markdown_table(head, cells, words=4)]


def chosen_sizes(name: str, part: Part, method: str) -> Part:
    return part._replace(sizes=tuple(size for size in part.sizes if size <= MOST.get((name, method), size)))


def write(out: Path, chosen: dict[str, Part], seeds: int) -> None:
    lines, pictures, about = [], dict[str, Any](), None
    for name in ("exponents", *chosen):
        path = out / f"transfer_{name}.json"
        if not path.exists():
            continue
        kept = Results(path, again=False)
        about = kept
        if name == "exponents":
            lines += exponents_told(kept.rows)
            continue
        part, found = chosen[name], {}
        for method in part.methods:
            for mode in MODES:
                if scores := recorded(chosen_sizes(name, part, method), method, mode, seeds, kept):
                    found[method, mode] = by_size(scores, name in ON_TEXT)
        if found:
            lines += told(name, part, found)
            for method in dict.fromkeys(method for method, _ in found):
                pictures[name, method] = {mode: x for (m, mode), x in found.items() if m == method}
    if about is None:
        return
    told_to = Results(out / "transfer.json", again=True)
    told_to.tell("Best rates, by width, depth, batch and length", lines)
    for (name, method), panels in pictures.items():
        ax = gdjax.plots.plot_transfer(panels)
        np.ravel(ax)[0].figure.savefig(out / f"transfer_{name}_{method}.png", dpi=80)


def recorded(part: Part, method: str, mode: str, seeds: int, kept: Results) -> dict[Size, Scores] | None:
    """The means over all seeds, of runs that are complete at every size."""
    runs: dict[Size, dict[int, dict[int, float]]] = {size: {} for size in part.sizes}
    for r in kept.rows:
        if r["method"] == method and r["size"] in runs and r["mode"] == mode_at(part, r["size"], mode):
            runs[r["size"]].setdefault(r["log2_rate"], {})[r["seed"]] = np.inf if r["score"] is None else r["score"]
    every = range(seeds)
    means = {
        size: {k: float(np.mean([x[seed] for seed in every])) for k, x in found.items() if set(every) <= set(x)}
        for size, found in runs.items()
    }
    return means if all(len(found) >= 3 for found in means.values()) else None


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", "--tiny", action="store_true", help="small sizes and few steps, AdamW and one seed")
    names = ["exponents", "mlp", "depth", "batch", "length", "lm"]  # the longest last
    parser.add_argument("--parts", nargs="+", choices=names, default=names)
    parser.add_argument("--methods", nargs="+", default=[])
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--again", action="store_true", help="measure anew what the files have already")
    parser.add_argument(
        "--table", action="store_true", help="write the tables of what the files have, and measure nothing"
    )
    parser.add_argument("--out", type=Path, default=Path("out/benchmarks"))
    o = parser.parse_args()
    if o.quick:
        o.parts = [name for name in o.parts if name not in ("lm", "batch")]  # `length` is of the same model
        o.methods, o.seeds, o.again = o.methods or ["adamw"], 1, True
    chosen = parts(o.quick)
    for name in [] if o.table else o.parts:
        kept = Results(o.out / f"transfer_{name}.json", o.again)
        if name == "exponents":
            methods = [m for m in CHECKED if m in (o.methods or CHECKED)]
            measure_exponents(kept, methods, (16, 32) if o.quick else (64, 128, 256, 512), o.seeds)
            continue
        for method in [m for m in chosen[name].methods if m in (o.methods or FIRST)]:
            for mode in MODES:
                followed(name, chosen_sizes(name, chosen[name], method), method, mode, o.seeds, kept)
                jax.clear_caches()
    write(o.out, chosen, o.seeds)


if __name__ == "__main__":
    main()
