"""What codes do to second moments and first: formats of `gdjax.quantize_state` beside those of other libraries.

    python benchmarks/codes.py [--quick] [--picture]

Over the exact v, that of 3,000 further steps with b2 = 0.999 after 1,000 with Gaussian gradients: A, gradients are 0;
B, every second element of a block has gradients of 0, its neighbours go on, and the former are looked at; C, all goes
on; D, gradients fall to a tenth. The largest update of Adam over the exact one, where sizes of gradients within a block
spread over 1, 3, 12 decades. The relative error of the update, and of a first moment, for gradients of any size. And
what `quantize_state` does to Adam's updates: the norm of the difference to float32's over their norm, and how long they
are beside these. Only computed, so the same everywhere, but for what a processor rounds. Writes codes.json and .md;
--picture draws docs/images/codes.png and, from the kept results, second_moments.png.
"""

import argparse
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from harness import Results, markdown_table, say
from small_lm import ROOT

import gdjax
from gdjax.codes.formats import of_kinds, of_shape
from gdjax.codes.rounding import salt
from gdjax.codes.words import WORDS

SHAPE, B2, BEFORE, AFTER, EPS = (64, 256), 0.999, 1000, 3000, 1e-8
DECADES, SIZES = (1, 3, 12), tuple(10.0**k for k in range(-10, 3, 2))


class Codes(NamedTuple):
    encode: Callable[[Any, Any], Any]  # of an array and a salt
    decode: Callable[[Any], Any]


def flash_adamw() -> Codes:
    """The root in uint8 relative to the largest of 32 neighbours, a float16, to nearest (FlashAdamW)."""

    def encode(v: Any, salt: Any) -> Any:
        root = jnp.sqrt(v).reshape(-1, 32)
        scale = jnp.max(root, -1, keepdims=True).astype(jnp.float16)
        ratio = root / jnp.maximum(scale.astype(jnp.float32), 1e-30)
        return jnp.round(255 * jnp.clip(ratio, 0, 1)).astype(jnp.uint8), scale

    def decode(codes: Any) -> Any:
        return ((codes[0].astype(jnp.float32) / 255 * codes[1].astype(jnp.float32)) ** 2).reshape(SHAPE)

    return Codes(encode, decode)


def dynamic_map() -> Codes:
    """The nearest of 256 numbers, evenly spaced in each of seven decades, relative to the largest of 256 neighbours.

    That is what bitsandbytes keeps. Twice as many numbers lie in each decade as in that below.
    """
    edges = [np.linspace(0.1, 1, 2 ** (i + 1) + 1) for i in range(7)]
    decades = [10.0 ** (i - 6) * (x[1:] + x[:-1]) / 2 for i, x in enumerate(edges)]
    known = jnp.asarray(np.concatenate([[0], *decades, [1]]), jnp.float32)

    def encode(v: Any, salt: Any) -> Any:
        x = v.reshape(-1, 256)
        scale = jnp.max(x, -1, keepdims=True)
        places = jnp.searchsorted((known[1:] + known[:-1]) / 2, x / jnp.where(scale > 0, scale, 1))
        return places.astype(jnp.uint8), scale

    return Codes(encode, lambda codes: (known[codes[0]] * codes[1]).reshape(SHAPE))


def bfloat16() -> Codes:
    """To nearest."""
    return Codes(lambda v, salt: v.astype(jnp.bfloat16), lambda codes: codes.astype(jnp.float32))


def ours(kind: Any, name: str, block: int = 64, scales: Any = "float32") -> Codes:
    format: Any = of_shape(of_kinds("benchmark", {kind: name}, block, scales)[kind], SHAPE)
    return Codes(format.encode, format.decode)


SQUARES: Mapping[str, Codes] = {
    "words": Codes(lambda v, salt: WORDS.encode((jnp.zeros_like(v), v), salt), lambda codes: WORDS.decode(codes)[1]),
    "log": ours("square", "log"),
    "blocks of 64, float32": ours("square", "blocks"),
    "blocks of 32, bfloat16": ours("square", "blocks", 32, "bfloat16"),
    "bfloat16, at random": ours("square", "bfloat16"),
    "FlashAdamW's, nearest": flash_adamw(),
    "dynamic map, nearest": dynamic_map(),
    "bfloat16, nearest": bfloat16(),
}
MOMENTS = {name: ours("moment", name) for name in ("log", "blocks", "fp8", "4 bits", "bfloat16")}

STATES: Mapping[str, Mapping[str, Any]] = {
    "words": {},
    "blocks": {"moments": "blocks"},
    "log": {"moments": "log"},
    "bfloat16": {"moments": "bfloat16", "squares": "bfloat16"},
    "4 bits": {"bits": 4},
}
RUNS = ((0.999, 0.0, 1500), (0.99, 0.0, 600), (0.95, 0.0, 300), (0.999, 3.0, 1500))  # b2, mean of gradients, steps


def updates(kept: Mapping[str, Any], b2: float, mean: float, steps: int) -> np.ndarray:
    """The last 8 updates of Adam, with gradients of unit noise in columns of five decades; with `kept` and without."""
    exact = gdjax.scale_by_adam(b2=b2, eps=0.0)
    both = exact, gdjax.quantize_state(exact, min_size=0, **kept)
    columns = jnp.exp(jnp.linspace(-6, 6, SHAPE[1]))[None]

    def step(states: Any, t: Any) -> Any:
        g = (jax.random.normal(jax.random.fold_in(jax.random.key(0), t), SHAPE) + mean) * columns
        found = [tx.update(g, state) for tx, state in zip(both, states, strict=True)]
        return [state for _, state in found], jnp.stack([u for u, _ in found])

    def run() -> Any:
        start = [tx.init(jnp.zeros(SHAPE)) for tx in both]
        start, _ = jax.lax.scan(lambda s, t: (step(s, t)[0], None), start, jnp.arange(steps - 8))
        return jax.lax.scan(step, start, jnp.arange(steps - 8, steps))[1]

    return np.asarray(jax.jit(run)(), np.float64)


def beside_float32(name: str) -> list[list[float]]:
    """For each run the noise, and the ratios of root mean squares and of mean sizes."""
    found = []
    for b2, mean, steps in RUNS:
        exact, coded = np.moveaxis(updates(STATES[name], b2, mean, steps), 1, 0)
        noise = np.linalg.norm(coded - exact) / np.linalg.norm(exact)
        found.append([noise, np.linalg.norm(coded) / np.linalg.norm(exact), np.abs(coded).sum() / np.abs(exact).sum()])
    return found


def picture() -> None:
    """For each format the updates of some elements over those of float32."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(11, 2.9), layout="constrained")
    for ax, name in zip(figure.subplots(1, len(STATES), sharex=True, sharey=True), STATES, strict=True):
        exact, coded = updates(STATES[name], *RUNS[0])[-1].reshape(2, -1)
        ax.plot([-1, 1], [-1, 1], color="0.7", linewidth=0.8)
        ax.plot(exact[::8], coded[::8], ".", markersize=2, color="#1f6fb4", alpha=0.5)
        size = gdjax.state_bytes(gdjax.quantize_state(gdjax.adam(1.0), **STATES[name]), jnp.zeros((4096, 512))) / 2**21
        noise = np.linalg.norm(coded - exact) / np.linalg.norm(exact)
        ax.set_title(f"{name}: {size:.2f} bytes, noise {100 * noise:.0f} %", fontsize=9)
        ax.set(xlim=(-1, 1), ylim=(-1, 1), aspect="equal")
        ax.spines[["top", "right"]].set_visible(False)
    figure.axes[0].set_ylabel("update with codes")
    figure.supxlabel("update with a state in float32, 8 bytes a parameter; b2 = 0.999, after 1,500 steps", fontsize=9)
    figure.savefig(ROOT / "docs" / "images" / "codes.png", dpi=130)


CASES = {"A": "gradients become 0", "B": "only neighbours go on", "C": "all goes on", "D": "gradients fall to a tenth"}


def picture_of_squares(rows: list[dict[str, Any]]) -> None:
    """What errors of v do to steps: how long a step is in each case, and the longest one beside the exact one."""
    from matplotlib.figure import Figure

    rows = [row for row in rows if row["kind"] == "square"][::-1]
    figure = Figure(figsize=(9.6, 3.6), layout="constrained")
    one, two = figure.subplots(1, 2, sharey=True, width_ratios=(3, 2))
    for case, marker, colour in zip(CASES, "ovsD", ("#d7191c", "#1f6fb4", "#2ca25f", "#8c510a"), strict=True):
        lengths = [row["over_exact"][case]["median"] ** -0.5 for row in rows]
        one.plot(lengths, range(len(rows)), marker, color=colour, label=CASES[case], alpha=0.85)
    one.set_yticks(range(len(rows)), [row["format"] for row in rows], fontsize=9)
    one.set(xscale="log", xlabel="length of a step over what it should be")
    one.set_xticks([0.2, 0.5, 1, 2], ["0.2", "0.5", "1", "2"])
    one.minorticks_off()
    one.legend(fontsize=8, frameon=False, loc="lower center", bbox_to_anchor=(0.45, 1.0), ncols=2)
    largest = [max(row["largest_update"]) for row in rows]
    two.barh(
        range(len(rows)), largest, color=["#d7191c" if x > 10 else "#1f6fb4" for x in largest], left=0.5, height=0.5
    )
    two.set(xscale="log", xlim=(0.5, 2e6), xlabel="longest step beside large neighbours,\nover what it should be")
    for ax in (one, two):
        ax.axvline(1, color="0.6", linewidth=0.8)
        ax.spines[["top", "right"]].set_visible(False)
    figure.savefig(ROOT / "docs" / "images" / "second_moments.png", dpi=130)


def over_exact(codes: Codes, case: str, before: int = BEFORE, after: int = AFTER) -> dict[str, float]:
    """v as it is kept, over the exact one: mean, median, standard deviation over the elements."""
    alternating = sum(np.indices(SHAPE)) % 2 == 0  # in rows and in columns, along which blocks lie

    def step(carry: Any, t: Any) -> Any:
        kept, v = carry
        g = jax.random.normal(jax.random.fold_in(jax.random.key(0), t), SHAPE)
        later = {"A": 0 * g, "B": jnp.where(alternating, g, 0), "C": g, "D": 0.1 * g}[case]
        squared = jnp.where(t <= before, g, later) ** 2
        coded, exact = (B2 * x + (1 - B2) * squared for x in (codes.decode(kept), v))
        return (codes.encode(coded, salt(0, t, 0)), exact), None

    zeros = jnp.zeros(SHAPE)
    (kept, v), _ = jax.lax.scan(step, (codes.encode(zeros, salt(0, 0, 0)), zeros), jnp.arange(1, before + after + 1))
    ratio = np.asarray(codes.decode(kept) / v)[~alternating if case == "B" else ...]
    return {"mean": float(ratio.mean()), "median": float(np.median(ratio)), "deviation": float(ratio.std())}


def largest_update(codes: Codes, decades: float) -> float:
    rng = np.random.default_rng(0)
    g = np.abs(rng.normal(size=SHAPE) * 10 ** (-decades * rng.random(SHAPE))).astype(np.float32)
    kept = (codes.decode(codes.encode(jnp.asarray(g**2), salt(0, i, 0))) for i in range(20))
    return max(float(np.max((g + EPS) / (np.sqrt(np.asarray(v)) + EPS))) for v in kept)


def errors(codes: Codes, size: float, of_square: bool) -> float:
    """Root mean square of the relative error of the root of v, where |g| is over a tenth; or of m, over its own."""
    g = (np.random.default_rng(0).normal(size=SHAPE) * size).astype(np.float32)
    kept = np.asarray(codes.decode(codes.encode(jnp.asarray(g**2 if of_square else g), salt(0, 1, 0))))
    if of_square:
        return float(np.sqrt(np.mean((np.sqrt(kept) / np.abs(g) - 1)[np.abs(g) > size / 10] ** 2)))
    return float(np.sqrt(np.mean((kept - g) ** 2)) / size)


def table(title: str, head: list[str], rows: Mapping[str, list[str]]) -> list[str]:
    return [
        f"## {title}",
        "",
        *markdown_table(" | ".join(["format", *head]), ([name, *cells] for name, cells in rows.items())),
    ]


def report(results: Results) -> None:
    lines = []
    of_updates = {
        r["format"]: ["{:.3f}, {:.3f}, {:.3f}".format(*x) for x in r["beside_float32"]]
        for r in results.rows
        if r["kind"] == "update"
    }
    runs = [f"b2 = {b2}, mean {mean:g}, {steps} steps" for b2, mean, steps in RUNS]
    lines += table("Adam's update beside float32's: noise, rms, mean size", runs, of_updates)
    squares, moments = ([r for r in results.rows if r["kind"] == kind] for kind in ("square", "moment"))
    cases = {
        r["format"]: ["{mean:.3f}, {median:.3f}, {deviation:.2f}".format(**r["over_exact"][c]) for c in "ABCD"]
        for r in squares
    }
    lines += table("v over the exact one: mean, median, standard deviation", list("ABCD"), cases)
    spread = {r["format"]: [f"{x:.3g}" for x in r["largest_update"]] for r in squares}
    lines += table("Largest update over the exact one", [f"{d} decades" for d in DECADES], spread)
    for title, rows in (("Relative error of the update, %", squares), ("Relative error of a moment, %", moments)):
        lines += table(
            f"{title}, by size of gradients",
            [f"{s:g}" for s in SIZES],
            {r["format"]: [f"{100 * x:.1f}" for x in r["errors"]] for r in rows},
        )
    results.tell("Codes", lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", "--tiny", action="store_true", help="a tenth of the steps")
    parser.add_argument("--picture", action="store_true", help="draw, and compute nothing else")
    parser.add_argument("--out", type=Path, default=Path("out/benchmarks"))
    args = parser.parse_args()
    if args.picture:
        kept = Path(__file__).with_name("results") / "codes.json"
        picture_of_squares(json.loads(kept.read_text("utf-8"))["rows"])
        return picture()
    steps = (BEFORE // 10, AFTER // 10) if args.quick else (BEFORE, AFTER)
    results = Results(args.out / "codes.json", again=True)
    for name, codes in SQUARES.items():
        row: dict[str, Any] = {"kind": "square", "format": name}
        row["over_exact"] = {case: over_exact(codes, case, *steps) for case in "ABCD"}
        row["largest_update"] = [largest_update(codes, d) for d in DECADES]
        results.add(row | {"errors": [errors(codes, size, True) for size in SIZES]})
        say(name, {case: round(x["mean"], 3) for case, x in row["over_exact"].items()}, row["largest_update"])
    for name, codes in MOMENTS.items():
        results.add({"kind": "moment", "format": name, "errors": [errors(codes, size, False) for size in SIZES]})
    for name in STATES if not args.quick else ["words"]:
        results.add({"kind": "update", "format": name, "beside_float32": beside_float32(name)})
        say(name, results.rows[-1]["beside_float32"])
    report(results)


if __name__ == "__main__":
    main()
