"""Plans of a transformer of 1 B and of one of 70 B parameters on 4 to 256 devices, and what is compiled of them.

    python benchmarks/plan.py [--quick] [--compile adamw ...] [--topology 2x4]

The plans are formulas (`gdjax.plan`). Of the model of 1 B some steps are compiled as well, for a TPU v5e that need not
be here: each takes minutes. The model of 1 B lies on every device as a whole, with its state divided (ZeRO); that of
70 B is divided as well (FSDP). Parameters are float32, min_bytes the default. Writes plan.json, .md and .png; goes on
where it was broken off unless --again is given.
"""

import argparse
import os
import time
from pathlib import Path
from typing import Any, NamedTuple

os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ.setdefault("TPU_SKIP_MDS_QUERY", "1")

import jax
import jax.numpy as jnp
import numpy as np
from harness import Results, markdown_table, say
from jax.experimental import topologies
from jax.sharding import AbstractMesh, AxisType, Mesh, NamedSharding, PartitionSpec
from trees import llama_1b, llama_70b, shapes, transformer

import gdjax

DEVICES = {"1 B": (4, 8, 16, 32, 64, 128, 256), "70 B": (4, 16, 64, 256)}
ROWS = 512  # tokens a device in the step that is compiled


def muon() -> Any:
    return gdjax.muon(1e-3, muon_weight_dimension_numbers=gdjax.matrices_by_role(), adam_learning_rate=1e-3)


TXS = {
    "adamw": lambda: gdjax.adamw(1e-3),
    "adamw, 8 bits": lambda: gdjax.quantize_state(gdjax.adamw(1e-3), moments="log"),
    "muon": muon,
    "soap": lambda: gdjax.soap(1e-3),
}
# By model its tree, whether its parameters are divided, and bytes of a device: TPU v5e, TPU v5p.
MODELS = {"1 B": (llama_1b, False, 16e9), "70 B": (llama_70b, True, 95e9)}
PARTS = "parameters", "gradients", "state", "temporaries"


def divided(tree: Any, n: int) -> Any:
    """The shapes, each divided along its longest axis over n devices."""
    mesh = AbstractMesh((n,), ("data",))

    def lies(x: Any) -> Any:
        i = max(range(x.ndim), key=lambda i: (x.shape[i] % n == 0, x.shape[i]))
        spec = [("data" if j == i and x.ndim > 1 else None) for j in range(x.ndim)]
        return jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=NamedSharding(mesh, PartitionSpec(*spec)))

    return jax.tree.map(lies, tree)


def planned(model: str, name: str, n: int, quick: bool) -> dict[str, Any]:
    tree, is_divided, memory = MODELS[model]
    params = shapes(transformer(2, 64, 256, 16, 512, stack=2) if quick else tree())
    params = divided(params, n) if is_divided else params
    found = gdjax.plan(TXS[name](), params, {"data": n}, memory=memory)
    row = {"model": model, "optimizer": name, "devices": n, "parts": {part: found.part(part) for part in PARTS}}
    return row | {"wire_bytes": found.wire_bytes, "fits": found.fits, "notes": found.notes}


class Row(NamedTuple):
    """What `plot_plan` asks of a plan, of a row of the results."""

    devices: int
    parts: dict[str, int]
    capacity: float

    @property
    def bytes_per_device(self) -> int:
        return sum(self.parts.values())

    def part(self, name: str) -> int:
        return self.parts.get(name, 0)


def loss(params: Any, tokens: Any) -> Any:
    """That of a model with these leaves, in which a product of elements stands for attention."""

    @jax.checkpoint
    def layer(h: Any, p: Any) -> Any:
        x = h * p["norm_1"]
        kv = (x @ p["k"]) * (x @ p["v"])
        h = h + ((x @ p["q"]) * jnp.tile(kv, p["q"].shape[-1] // kv.shape[-1])) @ p["o"]
        x = h * p["norm_2"]
        return h + (jax.nn.silu(x @ p["gate"]) * (x @ p["up"])) @ p["down"], None

    h, _ = jax.lax.scan(layer, params["embed"][tokens], params["layers"])
    return jnp.mean(((h * params["norm"]) @ params["embed"].T) ** 2)


def kept(tree: Any) -> int:
    """Bytes a device that the model above keeps on a TPU: its matrices in bfloat16, h of each layer, logits twice."""
    layers, d = tree["layers"]["norm_1"].shape
    matrices = [x for x in jax.tree.leaves(tree["layers"]) if x.ndim == 3]
    return 2 * sum(x.size for x in matrices) + 4 * ROWS * (layers * d + 2 * tree["embed"].shape[0])


def target(topology: str) -> str:
    return f"TPU v5e {topology}"


def measure(name: str, topology: str) -> dict[str, Any]:
    described = topologies.get_topology_desc(f"v5e:{topology}", "tpu")
    mesh = Mesh(np.array(described.devices), ("data",), axis_types=(AxisType.Auto,))
    params, tx = shapes(llama_1b()), TXS[name]()
    step = gdjax.sharded_step(loss, tx, params, mesh)
    batch = jax.ShapeDtypeStruct((mesh.size, ROWS), jnp.int32)
    start = time.perf_counter()
    compiled = step.lower(params, jax.eval_shape(tx.init, params), batch).compile()
    row = {"optimizer": name, "target": target(topology), "seconds": time.perf_counter() - start}
    found = gdjax.plan(tx, params, mesh, activations=kept(params))
    return row | {"compared": [x._asdict() for x in found.check(compiled)]}


def report(results: Results) -> None:
    plans, compiled = ([r for r in results.rows if ("parts" in r) is is_plan] for is_plan in (True, False))
    lines = ["## By formula", "", "GB on each device, and GB that each sends in a step; no activations.", ""]
    head = "model | optimizer | devices | parameters | gradients | state | temporaries | total | sent | fits"
    cells = [
        [r["model"], r["optimizer"], str(r["devices"]), *(f"{r['parts'][part] / 1e9:.2f}" for part in PARTS)]
        + [f"{sum(r['parts'].values()) / 1e9:.2f}", f"{r['wire_bytes'] / 1e9:.2f}", "yes" if r["fits"] else "no"]
        for r in sorted(plans, key=lambda r: (list(MODELS).index(r["model"]), list(TXS).index(r["optimizer"])))
    ]
    lines += markdown_table(head, cells, words=2)
    lines += [f"- {model}: a device has {memory / 1e9:.0f} GB" for model, (_, _, memory) in MODELS.items()]
    for note in sorted({note for r in plans for note in r["notes"]}):
        whose = dict.fromkeys(f"{r['model']}, {r['optimizer']}" for r in plans if note in r["notes"])
        lines.append(f"- {note} ({'all' if len(whose) == len(MODELS) * len(TXS) else '; '.join(whose)})")
    lines += ["", "## Compiled", ""]
    lines += [
        f"The model of 1 B with {ROWS} tokens a device. What it keeps itself is counted as activations: its matrices",
        "in bfloat16, h of each layer, logits twice. Bytes of one device. Gradients of layers are reduced in a loop",
        "that runs 16 times; what is in it counts once.",
        "",
    ]
    rows = [
        [r["optimizer"], r["target"], x["what"], f"{x['planned']:,.0f}", f"{x['compiled']:,.0f}"]
        + ["" if x["percent"] is None else f"{x['percent']:+.2f}"]
        for r in compiled
        for x in r["compared"]
    ]
    lines += markdown_table("optimizer | target | what | planned | compiled | %", rows, words=3)
    results.tell("A step planned", lines, elsewhere=True)


def draw(results: Results) -> None:
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    from gdjax import plots

    figure, axes = plt.subplots(len(MODELS), 1, figsize=(11, 8.5), layout="constrained")
    for ax, (model, (_, is_divided, memory)) in zip(axes, MODELS.items(), strict=True):
        rows = [r for r in results.rows if r.get("model") == model]
        of = lambda name, rows=rows, memory=memory: [
            Row(r["devices"], r["parts"], memory) for r in rows if r["optimizer"] == name
        ]
        plots.plot_plan({name: of(name) for name in TXS}, ax=ax)
        how = "divided (FSDP)" if is_divided else "whole, the state divided (ZeRO)"
        ax.set_title(f"{model} parameters, {how}; by formula, without activations", fontsize=11)
    figure.savefig(results.path.with_suffix(".png"), dpi=100)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--compile", nargs="*", choices=TXS, default=[])
    parser.add_argument("--topology", default="2x4")
    parser.add_argument("--quick", "--tiny", action="store_true", help="a tiny model")
    parser.add_argument("--again", action="store_true", help="plan and compile anew what the file has already")
    parser.add_argument("--out", type=Path, default=Path("out/benchmarks"))
    args = parser.parse_args()
    results = Results(args.out / "plan.json", args.again or args.quick)
    for name in args.compile:
        if not results.has(optimizer=name, target=target(args.topology)):
            results.add(measure(name, args.topology))
            say(name, f"{results.rows[-1]['seconds']:.0f} s")
    for model, name, n in [(m, k, n) for m in MODELS for k in TXS for n in DEVICES[m]]:
        if not results.has(model=model, optimizer=name, devices=n):
            results.add(planned(model, name, n, args.quick))
            say(model, name, n)
    report(results)
    draw(results)


if __name__ == "__main__":
    main()
