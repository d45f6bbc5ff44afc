"""Fine-tuning: a language model of Python's sources goes on with Python's manual, and what it could before is watched.

The checkpoints are made here, by AdamW or Muon at their best points of `language`, and kept in a folder that is not
committed. Each run begins at one of four, which its seed draws.
"""

import hashlib
import math
import pydoc_data.topics
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from small_lm import loss as nats
from small_lm import start, text

import gdjax

from .. import makers
from . import Task
from .language import LAYERS, LENGTH, WIDTH, drawing

CHECKPOINTS, FIRST_STEPS, STEPS, RANK = 4, 4000, 300, 4
KEPT = Path("out/race/checkpoints")
POINTS = {  # of docs/race.md, `language`
    "adamw": {"rate": 0.00209, "weight_decay": 0.068, "b2": 0.902},
    "muon": {"rate": 0.00539, "adam_rate": 0.0788, "weight_decay": 0.404},
}
MAKERS = {
    "adamw": makers.adams(gdjax.adamw),
    "muon": makers.beside_adam(gdjax.muon, consistent_rms=0.2, **makers.BY_ROLE),
}


def after_adamw() -> Task:
    return _whole("adamw", "AdamW")


def after_muon() -> Task:
    return _whole("muon", "Muon")


def adapters() -> Task:
    """LoRA of rank 4 on every hidden matrix of a checkpoint by AdamW: W + A B, B zero at first; the rest is fixed."""
    made = checkpoints("adamw")
    base = jax.tree.map(lambda p: jnp.asarray(p[0]), made)
    hidden = gdjax.matrices_by_role()(base)

    def begin(key: Any) -> Any:
        def pair(path: Any, p: Any, numbers: Any) -> Any:
            if numbers is None:
                return None
            own = jax.random.fold_in(key, int.from_bytes(hashlib.sha256(str(path).encode()).digest()[:4], "big"))
            rows, columns = p.shape
            return {
                "lora_a": jax.random.normal(own, (rows, RANK)) * rows**-0.5,
                "lora_b": jnp.zeros((RANK, columns)),
            }

        return jax.tree_util.tree_map_with_path(pair, base, hidden, is_leaf=lambda x: x is None)

    def whole(pairs: Any) -> Any:
        def summed(p: Any, pair: Any) -> Any:
            return p if pair is None else p + pair["lora_a"] @ pair["lora_b"]

        return jax.tree.map(summed, base, pairs)

    about = f"LoRA of rank {RANK} on a model that AdamW made, otherwise the same"
    return _task(about, begin, whole, base)


def _whole(method: str, name: str) -> Task:
    made = jax.tree.map(jnp.asarray, checkpoints(method))

    def begin(key: Any) -> Any:
        drawn = jax.random.randint(key, (), 0, CHECKPOINTS)
        return jax.tree.map(lambda p: p[drawn], made)

    about = f"`language` after {FIRST_STEPS} steps of {name} goes on with the texts of Python's manual"
    before = [jax.tree.map(lambda p, i=i: p[i], made) for i in range(CHECKPOINTS)]
    return _task(about, begin, lambda params: params, *before)


def _task(about: str, begin: Any, whole: Any, *before: Any) -> Task:
    """`whole`: from what is trained to the model; `before`: the models that runs begin with."""
    manual, sources = manual_text(), text.read()
    few, new = (jnp.asarray(text.spread(manual.held_out, n, LENGTH)) for n in (64, 480))
    old = jnp.asarray(text.spread(sources.held_out, 512, LENGTH))

    def held_out(windows: Any) -> Any:
        def of(params: Any) -> Any:
            model = whole(params)
            return jax.lax.map(lambda w: nats(model, w), windows.reshape(-1, 32, LENGTH + 1)).mean()

        return of

    def at_first(windows: Any) -> str:
        each = [jax.lax.map(lambda w, m=m: nats(m, w), windows.reshape(-1, 32, LENGTH + 1)).mean() for m in before]
        return f"{float(jnp.stack(each).mean()):.4g}"

    return Task(
        about, STEPS, begin, drawing(manual.train), lambda params, windows: nats(whole(params), windows),
        held_out(new), held_out(few),
        f"nats a byte of the manual, held out; {at_first(new)} before", aside=held_out(old),
        aside_unit=f"nats a byte of the sources, held out; {at_first(old)} before",
        data=hashlib.sha256(manual.train.tobytes() + sources.train.tobytes()).hexdigest()[:16],
    )  # fmt: skip


def manual_text() -> Any:
    """The texts of `help("topics")`, one in ten held out; they are not among the sources that `language` reads."""
    topics = pydoc_data.topics.topics
    parts = [np.frombuffer(topics[name].encode(), np.uint8) for name in sorted(topics)]
    rest = [part for i, part in enumerate(parts) if i % 10]
    return text.Text("Python's manual", len(parts), np.concatenate(rest), np.concatenate(parts[::10]))


def checkpoints(method: str) -> Any:
    """The parameters of four runs of `language`, each leaf with an axis in front; made once and kept."""
    from .language import fresh

    task = fresh()
    like = jax.vmap(lambda key: start(key, WIDTH, LAYERS))(jax.random.split(jax.random.key(0), CHECKPOINTS))
    path = KEPT / f"{method}_{FIRST_STEPS}_{task.data}.npz"
    leaves, tree = jax.tree.flatten(like)
    if not path.exists():
        tx = MAKERS[method](POINTS[method], np.float32(FIRST_STEPS))

        @jax.jit
        @jax.vmap
        def trained(key: Any) -> Any:
            params = start(key, WIDTH, LAYERS)

            def step(carry: Any, t: Any) -> Any:
                params, state = carry
                grads = jax.grad(task.loss)(params, task.batch(jax.random.fold_in(key, t)))
                updates, state = tx.update(grads, state, params)
                return (gdjax.apply_updates(params, updates), state), None

            return jax.lax.scan(step, (params, tx.init(params)), jnp.arange(FIRST_STEPS))[0][0]

        leaves = jax.tree.leaves(trained(jax.random.split(jax.random.key(1000), CHECKPOINTS)))
        path.parent.mkdir(parents=True, exist_ok=True)
        partly = path.with_suffix(".partly.npz")
        np.savez(partly, *leaves)
        partly.replace(path)
    with np.load(path) as kept:
        found = [kept[f"arr_{i}"] for i in range(len(leaves))]
    assert all(math.isfinite(float(x.sum())) for x in found)
    return jax.tree.unflatten(tree, found)
