"""Your own optimizer, in about fifteen lines.

    python examples/own_optimizer.py

You write the rule for one array, as in a paper. `gdjax.leafwise` makes of it a transform over any tree of parameters,
which chains, takes schedules and masks, compiles, prints and reports errors as those of the library do.
"""

import argparse
import pickle
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

import gdjax

Array = jax.Array

# --- The optimizer ----------------------------------------------------------------------------------------------------


class BlockAdamState(NamedTuple):
    count: Array  # () int32, updates made so far: the lift counts, and gives the rule t = 1, 2, ...
    m: Any  # like params, average of the gradients
    v: Any  # for each array one number, the average of its mean squared gradient


@gdjax.leafwise(BlockAdamState, v=lambda p, hyper: jnp.zeros((), jnp.float32))
def scale_by_block_adam(g: Array, s: Any, p: Any, t: Any, b1: Any = 0.9, b2: Any = 0.99, eps: Any = 1e-8) -> Any:
    """Adam with one second moment for each array instead of one for each element, so half of Adam's memory."""
    m = b1 * s.m + (1 - b1) * g
    v = b2 * s.v + (1 - b2) * jnp.mean(g**2)
    m_hat = m / (1 - b1**t)
    v_hat = v / (1 - b2**t)
    return m_hat / (jnp.sqrt(v_hat) + eps), s._replace(m=m, v=v)


@gdjax.transform
def block_adam(learning_rate: Any, b1: Any = 0.9, b2: Any = 0.99, weight_decay: float = 0.0, mask: Any = None) -> Any:
    """Clip, the rule above, decay, rate: the parts of AdamW with another rule in the middle."""
    return gdjax.chain(
        gdjax.clip_by_global_norm(1.0),
        scale_by_block_adam(b1, b2),
        gdjax.add_decayed_weights(weight_decay, mask),
        gdjax.scale_by_learning_rate(learning_rate),
    )


# --- A problem to try it on: which of two interleaved spirals is a point on? ------------------------------------------


def spirals(points: int) -> tuple[np.ndarray, np.ndarray]:
    """(2 * points, 2) positions, and +1 or -1 for each."""
    angle = np.linspace(0.5, 3 * np.pi, points)
    arm = np.stack([angle * np.cos(angle), angle * np.sin(angle)], axis=1) / (3 * np.pi)
    return np.concatenate([arm, -arm]).astype(np.float32), np.repeat([1.0, -1.0], points).astype(np.float32)


def network(width: int) -> dict[str, Any]:
    """Initial parameters of 2 -> width -> width -> 1."""
    keys, sizes = jax.random.split(jax.random.key(0), 3), (2, width, width, 1)
    return {
        f"layer{i}": {"w": jax.random.normal(keys[i], (n, m)) * np.float32(1.5 / n**0.5), "b": jnp.zeros((1, m))}
        for i, (n, m) in enumerate(zip(sizes[:-1], sizes[1:], strict=True))
    }


def score(params: Any, x: Array) -> Array:
    """(n,) numbers, positive for the first spiral."""
    for layer in ("layer0", "layer1"):
        x = jnp.tanh(x @ params[layer]["w"] + params[layer]["b"])
    return (x @ params["layer2"]["w"] + params["layer2"]["b"])[:, 0]


def show_value(tx: Any) -> None:
    traces = []
    init = jax.jit(lambda tx, x: traces.append(tx) or tx.init(x), static_argnums=0)
    for _ in range(3):
        init(block_adam(0.1), jnp.zeros(3))
    print("equal:", block_adam(0.1) == block_adam(0.1), "  unpickled:", pickle.loads(pickle.dumps(tx)) == tx, end="   ")
    print(f"built 3 times, compiled {len(traces)}")


def train(params: Any, optimizers: dict[str, Any], steps: int) -> dict[str, gdjax.MinimizeResult]:
    points, side = spirals(100)

    def loss(params: Any) -> Array:
        return jnp.mean(jax.nn.softplus(-side * score(params, points)))

    results = {}
    for name, tx in optimizers.items():
        results[name] = result = gdjax.minimize(loss, params, tx, steps=steps)
        correct = np.mean(np.sign(score(result.params, points)) == side)
        size = sum(x.nbytes for x in jax.tree.leaves(result.state)) / 1024
        print(f"{name:10}  loss {result.history['loss'][-1]:.1e}  correct {correct:7.2%}  state {size:.1f} KiB")
    return results


def show_error(tx: Any, params: Any) -> None:
    gradient = jax.tree.map(jnp.zeros_like, params)
    gradient["layer1"]["b"] = gradient["layer1"]["b"].T
    try:
        tx.update(gradient, tx.init(params), params)
    except ValueError as e:
        print("ValueError:", e)


def heading(text: str) -> None:
    print(f"\n--- {text}")


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description="A new optimizer in about fifteen lines.")
    parser.add_argument("--tiny", action="store_true", help="a run of a few seconds")
    parser.add_argument("--out", type=Path, default=Path("out/own_optimizer"), help="folder for the loss curves")
    args = parser.parse_args(argv)
    steps, width = (300, 16) if args.tiny else (1500, 32)

    heading("It takes schedules, for the rate and for any hyperparameter, and masks by path")
    tx = block_adam(
        learning_rate=gdjax.warmup_cosine_decay_schedule(2e-3, 2e-2, steps // 20, steps, 2e-4),
        b2=gdjax.linear_schedule(0.9, 0.999, steps),
        weight_decay=1e-3,
        mask=gdjax.mask_by_path("w$"),  # the matrices decay, the biases do not
    )
    print(tx)

    heading("It is a value: built again it is equal, it pickles, and jit compiles nothing twice")
    show_value(tx)

    heading(f"It trains: two spirals, {steps} steps, beside Adam")
    params = network(width)
    results = train(params, {"block_adam": tx, "adam": gdjax.adam(0.01)}, steps)

    heading("The hyperparameters in force, schedules evaluated, can be read from any state")
    for when, state in {"at first": tx.init(params), "at last": results["block_adam"].state}.items():
        hyper = gdjax.get_hyperparams(tx, state)
        print(f"{when:8}  learning_rate {hyper['learning_rate']:.4f}  b2 {hyper['b2']:.4f}")

    heading("It says what is wrong, and where: here a gradient of the wrong shape")
    show_error(tx, params)

    args.out.mkdir(parents=True, exist_ok=True)
    losses = np.stack([result.history["loss"] for result in results.values()], axis=1)
    np.savetxt(args.out / "loss.csv", losses, "%.6g", ",", header=",".join(results), comments="")
    print(f"\nwrote {args.out / 'loss.csv'}")


if __name__ == "__main__":
    main()
