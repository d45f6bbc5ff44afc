"""The exchanges of a training step on 4 to 256 devices, compiled and not run: `sharded_step`, plain `jit`, and Optax.

    python benchmarks/sharded.py            writes benchmarks/results/sharded.json and prints the table
    python benchmarks/sharded.py --tiny     two layers, 8 devices

The model has the matrices of twelve transformer blocks, 48 of them, narrow, so that it compiles fast, but no narrower
than there are devices: exchanges are counted relative to the gradient. Three forms of the step: "step" is
`gdjax.sharded_step`; "jit" divides the state by `gdjax.state_sharding` and leaves the rest to the compiler; "optax"
is that with Optax's method and a state that is divided in the same way. By hand a step sends (n - 1) / n of the
gradient twice, once reduced and once gathered, and matrices at their owners twice 1 / n of that.
"""

import argparse
import collections
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).with_name("results") / "sharded.json"
DEVICES = 4, 8, 64, 256
METHODS = (
    "adamw",
    "muon",
    "normuon",
    "soap",
    "kl_soap",
    "shampoo",
    "kl_shampoo",
    "soap_muon",
    "psgd_kron",
    "scion",
    "dion",
)
FORMS = "step", "jit", "optax"
OPTAX = "adamw", "muon"
FULL = "adamw", "muon", "normuon", "soap"  # of the others the step alone
AT_HOME = METHODS[1:]  # of these matrices go to owners and back
KINDS = "reduce-scatter", "all-gather", "all-to-all", "all-reduce", "collective-permute"


def shapes(layers: int, width: int) -> Any:
    import jax
    import jax.numpy as jnp

    sizes = {"qkv": (width, 3 * width), "out": (width, width), "up": (width, 4 * width), "down": (4 * width, width)}
    make = lambda *shape: jax.ShapeDtypeStruct(shape, jnp.float32)
    return {
        f"block{i}": {name: {"kernel": make(*size), "bias": make(size[1])} for name, size in sizes.items()}
        for i in range(layers)
    }


def loss(params: Any, x: Any) -> Any:
    import jax
    import jax.numpy as jnp

    dense = lambda x, p: x @ p["kernel"] + p["bias"]
    for block in params.values():
        q, k, v = jnp.split(dense(x, block["qkv"]), 3, axis=-1)
        x = x + dense(jax.nn.silu(q) * k + v, block["out"])
        x = x + dense(jax.nn.relu(dense(x, block["up"])), block["down"])
    return jnp.mean(x**2)


def compiled(form: str, name: str, layers: int, width: int) -> Any:
    """The step of a form and a method, compiled for all devices of this process; and the bytes of the gradient."""
    import jax
    import numpy as np
    import optax
    from jax.sharding import Mesh, NamedSharding, PartitionSpec

    import gdjax

    mesh = Mesh(np.asarray(jax.devices()), ("data",))
    params = shapes(layers, width)
    library = gdjax if form != "optax" else optax.contrib if name == "muon" else optax
    tx = getattr(library, name)(1e-3)
    whole, data = NamedSharding(mesh, PartitionSpec()), NamedSharding(mesh, PartitionSpec("data"))
    batch = jax.ShapeDtypeStruct((4 * mesh.size, width), np.float32, sharding=data)
    lie = jax.tree.map(lambda _: whole, params)
    how = gdjax.state_sharding(tx, params, mesh, min_bytes=1024)
    size = sum(x.size * 4 for x in jax.tree.leaves(params))
    if form == "step":
        step = gdjax.sharded_step(loss, tx, params, mesh, min_bytes=1024)
        return step.lower(*jax.eval_shape(step.init, params), batch).compile(), size
    apply = (optax if form == "optax" else gdjax).apply_updates

    def plain(params: Any, state: Any, x: Any) -> Any:
        updates, state = tx.update(jax.grad(loss)(params, x), state, params)
        return apply(params, updates), state

    jitted = jax.jit(plain, out_shardings=(lie, how), donate_argnums=(0, 1))
    put = lambda tree, s: jax.tree.map(lambda x, s: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=s), tree, s)
    state = put(jax.eval_shape(tx.init, params), how)
    return jitted.lower(put(params, lie), state, batch).compile(), size


def row(form: str, name: str, layers: int, width: int) -> dict[str, Any]:
    import jax
    import numpy as np
    from jax.sharding import Mesh

    import gdjax

    made, size = compiled(form, name, layers, width)
    plan = gdjax.plan(
        getattr(gdjax, name)(1e-3), shapes(layers, width), Mesh(np.asarray(jax.devices()), ("data",)), min_bytes=1024
    )
    state = gdjax.state_bytes(getattr(gdjax, name)(1e-3), shapes(layers, width))
    found = list(gdjax.collectives(made))
    kinds = collections.Counter(r.kind for r in found)
    return {
        "devices": jax.device_count(), "form": form, "method": name,
        **{kind: kinds[kind] for kind in KINDS},
        "in loops": sum(r.in_loop for r in found),
        "sent / gradient": round(sum(r.wire_bytes for r in found) / size, 3),
        "flops": made.cost_analysis()["flops"],
        **({"state / all": round(plan.part("state") / state, 4)} if form == "step" else {}),
    }  # fmt: skip


def by_hand(n: int, name: str) -> float:
    """What a step sends, over the gradient; of the biases, which are reduced and not gathered, nothing is said."""
    share = (n - 1) / n
    return 2 * share + (2 * share / n if name in AT_HOME else 0.0)


def table(rows: list[dict[str, Any]]) -> list[str]:
    """Of each method, on so many devices, what is sent and in how many exchanges."""
    lines = ["| method | devices | by hand | `sharded_step` | `jit` | Optax by `jit` |", "| --- |" + " ---: |" * 5]
    for name in METHODS:
        for n in DEVICES:
            of = {r["form"]: r for r in rows if (r["method"], r["devices"]) == (name, n)}
            if not of:
                continue
            told = [f"{r['sent / gradient']:.2f} ({sum(r[k] for k in KINDS)})" if r else "" for r in map(of.get, FORMS)]
            hand = f"{by_hand(n, name):.2f}"
            lines.append(f"| `{name}` | {n} | {hand} | {' | '.join(told)} |")
    return ["", *lines, "", "In brackets: how many exchanges.", ""]


def draw(rows: list[dict[str, Any]], path: Path) -> None:
    """What a step sends, by method, form and number of devices."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    from gdjax.plots import look

    names = {"step": "", "jit": ", jit", "optax": ", Optax, jit"}
    figure, ax = plt.subplots(figsize=(9, 4.8), layout="constrained")
    ends = []
    for colour, name in zip(look.COLOURS, ("adamw", "muon", "soap"), strict=False):
        for form, dashes in zip(FORMS, ("-", "--", ":"), strict=True):
            of = {r["devices"]: r["sent / gradient"] for r in rows if (r["method"], r["form"]) == (name, form)}
            if of:
                ax.plot(list(of), list(of.values()), dashes, color=colour, marker="o", markersize=4)
                ends.append((max(of), of[max(of)], f"{name}{names[form]}", colour))
    before = float("-inf")
    for n, sent, text, colour in sorted(ends, key=lambda x: x[1]):
        before = max(sent, before + 0.28)
        ax.annotate(text, (n, sent), (n * 1.12, before), color=colour, va="center", fontsize=9)
    ax.set_xscale("log", base=2)
    ax.set_xticks(DEVICES, [str(n) for n in DEVICES])
    ax.minorticks_off()
    ax.set_xlim(3.5, 1000)
    ax.set_ylim(0)
    ax.set_xlabel("devices")
    ax.set_ylabel("bytes sent by each, over those of the gradient")
    ax.set_title("A step of sharded_step (lines) and of jit with a divided state (dashes)", fontsize=11)
    ax.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, dpi=100)


def tell() -> None:
    """Writes the table and the picture of docs/devices.md."""
    page = Path(__file__).resolve().parents[1] / "docs" / "devices.md"
    rows = json.loads(RESULTS.read_text("utf-8"))["rows"]
    draw(rows, page.parent / "images" / "devices.png")
    start, end = "<!-- sharded: made by benchmarks/sharded.py -->", "<!-- end of sharded -->"
    before, rest = page.read_text("utf-8").split(start)
    page.write_text(f"{before}{start}\n" + "\n".join(table(rows)[1:]) + end + rest.split(end)[1], "utf-8")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tiny", action="store_true")
    parser.add_argument("--devices", type=int, nargs="+", default=DEVICES, help="the others keep their last results")
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=METHODS, help="likewise")
    parser.add_argument("--tell", action="store_true", help="write the table of the last results into its page")
    parser.add_argument("--of", type=int, help=argparse.SUPPRESS)
    o = parser.parse_args()
    if o.tell:
        return tell()
    layers, width = (2, 16) if o.tiny else (12, max(64, o.of or 0))  # at least as wide as there are devices
    if o.of:
        for name in o.methods:
            for form in FORMS if name in OPTAX else FORMS[:2] if name in FULL else FORMS[:1]:
                print(json.dumps(row(form, name, layers, width)), flush=True)
        return None
    rows: list[dict[str, Any]] = []
    for n in (8,) if o.tiny else o.devices:
        env = os.environ | {"XLA_FLAGS": f"--xla_force_host_platform_device_count={n}", "JAX_PLATFORMS": "cpu"}
        child = subprocess.Popen(
            [sys.executable, __file__, "--of", str(n), *sys.argv[1:]], env=env, stdout=subprocess.PIPE, text=True
        )
        for line in child.stdout or ():
            rows.append(json.loads(line))
            print(" ".join(f"{k} {v}" for k, v in rows[-1].items()), flush=True)
        if child.wait():
            raise SystemExit(child.returncode)
    if not o.tiny:
        from harness import machine

        for r in rows:
            r["by hand"] = round(by_hand(r["devices"], r["method"]), 3)
        if RESULTS.exists():
            last = json.loads(RESULTS.read_text("utf-8"))["rows"]
            rows += [r for r in last if r["devices"] not in o.devices or r["method"] not in o.methods]
        rows.sort(key=lambda r: (r["devices"], METHODS.index(r["method"]), FORMS.index(r["form"])))
        RESULTS.write_text(json.dumps({"machine": machine(), "rows": rows}, indent=1) + "\n", "utf-8")
        tell()
    return None


if __name__ == "__main__":
    main()
