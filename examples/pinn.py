"""A physics-informed network for Burgers' equation: what the optimizer alone makes of the same network and points.

    python examples/pinn.py

u_t + u u_x = nu u_xx with nu = 0.01 / pi and u(0, x) = -sin(pi x), periodic in x: from t = 0.4 on a shock stands at
x = 0. A network of 941 weights learns u from the equation alone, in float64, from all points in every step. Every
optimizer has the same seconds after compiling. The error is the distance to the exact solution of Cole and Hopf. Adam
and SOAP have a cosine decay over the time: Adam from the best of the rates 3e-3, 5e-3, 1e-2 and 2e-2 in runs of a
minute (1e-3 was worse in 20 seconds), SOAP from the better of 3e-3 and 1e-2 in runs of 15 seconds.
"""

import argparse
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from _style import COLOURS, plain, save
from matplotlib.figure import Figure

import gdjax

NU = 0.01 / np.pi
Array = jax.Array

# --- The equation -----------------------------------------------------------------------------------------------------


def exact(t: np.ndarray, x: np.ndarray, nodes: int = 100) -> np.ndarray:
    """u(t, x) for t > 0, by Cole and Hopf's formula: two integrals over a Gaussian."""
    z, weight = np.polynomial.hermite.hermgauss(nodes)
    y = x[..., None] - 2 * np.sqrt(NU * t)[..., None] * z
    f = weight * np.exp(-np.cos(np.pi * y) / (2 * np.pi * NU))
    return -np.sum(np.sin(np.pi * y) * f, -1) / np.sum(f, -1)


def network(key: Array, width: int, depth: int) -> Any:
    sizes = [3, *[width] * depth, 1]
    keys = jax.random.split(key, depth + 1)
    return [
        {"w": jax.random.normal(k, (n, m)) * (2 / (n + m)) ** 0.5, "b": jnp.zeros(m)}
        for k, n, m in zip(keys, sizes, sizes[1:], strict=False)
    ]


def u(params: Any, t: Array, x: Array) -> Array:
    """At one point; the start and the period are built in."""
    h = jnp.stack([t, jnp.sin(jnp.pi * x), jnp.cos(jnp.pi * x)])
    for layer in params[:-1]:
        h = jnp.tanh(h @ layer["w"] + layer["b"])
    return -jnp.sin(jnp.pi * x) + t * (h @ params[-1]["w"] + params[-1]["b"])[0]


def residual(params: Any, t: Array, x: Array) -> Array:
    """u_t + u u_x - nu u_xx at one point."""
    along_x = lambda x: jax.jvp(lambda x: u(params, t, x), (x,), (1.0,))
    (value, u_x), (_, u_xx) = jax.jvp(along_x, (x,), (1.0,))
    u_t = jax.jvp(lambda t: u(params, t, x), (t,), (1.0,))[1]
    return u_t + value * u_x - NU * u_xx


def points(n: int) -> tuple[Array, Array]:
    """Times in [0, 1] and places in [-1, 1], spread evenly but denser near the shock."""
    t, z = (0.5 + np.outer([0.7548776662466927, 0.5698402909980532], np.arange(n))) % 1
    return jnp.asarray(t), jnp.asarray((2 * z - 1) ** 3)


def residuals(n: int) -> tuple[Callable[[Any], Array], Callable[[Any], Any]]:
    """The residuals at all points, and their Jacobian: each residual is of one point, so it costs a few passes."""
    t, x = points(n)
    return (
        lambda params: jax.vmap(residual, (None, 0, 0))(params, t, x),
        lambda params: jax.vmap(jax.grad(residual), (None, 0, 0))(params, t, x),
    )


def losses(n: int) -> tuple[Callable[[Any], Array], Callable[[Any], Array]]:
    """The mean square of the residual, and the relative error of u on a grid."""
    residuals_of, _ = residuals(n)
    grid = np.meshgrid(np.linspace(0, 1, 51)[1:], np.linspace(-1, 1, 201))
    wanted = exact(*grid).ravel()
    at = [jnp.asarray(axis.ravel()) for axis in grid]

    def loss(params: Any) -> Array:
        return jnp.mean(residuals_of(params) ** 2)

    def error(params: Any) -> Array:
        return jnp.linalg.norm(jax.vmap(u, (None, 0, 0))(params, *at) - wanted) / np.linalg.norm(wanted)

    return loss, jax.jit(error)


# --- The runs ---------------------------------------------------------------------------------------------------------


class Method(NamedTuple):
    tx: Any
    chunk: int  # steps in a compiled program
    rate: float | None = None  # at first, of those with a decay; the others find theirs
    searches: bool = False


def methods() -> dict[str, Method]:
    def decayed(factory: Any, rate: float) -> Method:
        return Method(gdjax.inject_hyperparams(factory)(learning_rate=rate), 50, rate)

    def soap(learning_rate: Any) -> Any:  # of all weights: the first and the last matter as much here
        return gdjax.soap(learning_rate, precondition_frequency=2, roles={"w$": gdjax.Matrix()})

    found = {"Adam": decayed(gdjax.adam, 3e-3), "SOAP": decayed(soap, 1e-2)}
    searching = {"L-BFGS": gdjax.lbfgs(memory_size=50), "BFGS": gdjax.bfgs(), "SSBroyden": gdjax.ssbroyden()}
    found |= {name: Method(tx, 20, searches=True) for name, tx in searching.items()}
    return found | {"Gauss-Newton": Method(gdjax.gauss_newton(1e-3), 2)}


class Run(NamedTuple):
    params: Any
    seconds: list[float]
    losses: list[float]
    errors: list[float]
    steps: int
    compiling: float


def program(method: Method, loss: Any, n: int) -> Callable[[Any], Any]:
    """A chunk of steps: (params, state) -> the same, and the losses before each step."""
    value_and_grad = gdjax.value_and_grad_from_state(loss) if method.searches else jax.value_and_grad(loss)
    residual_fn, jacobian_fn = residuals(n)

    def step(carry: Any, _: None) -> tuple[Any, Array]:
        params, state = carry
        value, grad = value_and_grad(params, state=state) if method.searches else value_and_grad(params)
        functions = {"value_fn": loss, "residual_fn": residual_fn, "jacobian_fn": jacobian_fn}
        updates, state = method.tx.update(grad, state, params, value=value, grad=grad, **functions)
        return (gdjax.apply_updates(params, updates), state), value

    return lambda carry: jax.lax.scan(step, carry, length=method.chunk)


def train(method: Method, params: Any, loss: Any, error: Any, seconds: float, n: int) -> Run:
    """A run of so many seconds. Those of compiling and of computing the error do not count."""
    start = time.perf_counter()
    state = method.tx.init(params)
    chunk = jax.jit(program(method, loss, n)).lower((params, state)).compile()
    run = Run(None, [], [], [], 0, time.perf_counter() - start)
    used, steps, shown = 0.0, 0, 0.0
    while used < seconds:
        start = time.perf_counter()
        if method.rate is not None:  # a cosine decay over the time, not the steps: all end at the same second
            rate = method.rate * (1 + np.cos(np.pi * used / seconds)) / 2
            dtype = state.hyperparams["learning_rate"].dtype
            state = state._replace(hyperparams={**state.hyperparams, "learning_rate": jnp.asarray(rate, dtype)})
        (params, state), values = jax.block_until_ready(chunk((params, state)))
        used, steps = used + time.perf_counter() - start, steps + method.chunk
        if used >= shown:
            for series, x in zip(run[1:4], (used, values[-1], error(params)), strict=True):
                series.append(float(x))
            shown = min(max(used * 1.05, used + seconds / 1000), seconds)
    return run._replace(params=params, steps=steps)


def draw(runs: dict[str, Run]) -> Figure:
    figure = Figure(figsize=(8, 3.6), layout="constrained")
    left, right = figure.subplots(1, 2, width_ratios=(1.35, 1))
    for (name, run), colour in zip(runs.items(), COLOURS, strict=False):
        left.plot(run.seconds, run.errors, color=colour, label=name)
    left.set(xscale="log", yscale="log", xlabel="seconds", ylabel="relative error of u")
    left.legend(frameon=False, loc="lower left")
    plain(left, "Burgers' equation, 941 weights")

    x = np.linspace(-0.06, 0.06, 400)
    best = min(runs, key=lambda name: runs[name].errors[-1])
    right.plot(x, exact(np.ones_like(x), x), color="0.75", lw=5, label="exact")
    for name, colour in zip(runs, COLOURS, strict=False):
        if name in ("Adam", best):
            values = jax.vmap(u, (None, None, 0))(runs[name].params, jnp.ones(()), jnp.asarray(x))
            right.plot(x, values, color=colour, lw=1.3, label=name)
    right.set(xlabel="x", ylabel="u", xticks=(-0.05, 0, 0.05))
    right.legend(frameon=False)
    plain(right, "The shock at t = 1")
    return figure


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description="A physics-informed network for Burgers' equation.")
    parser.add_argument("--tiny", action="store_true", help="a run of a few seconds, too short to judge by")
    parser.add_argument("--seconds", type=float, default=60, help="of every optimizer")
    parser.add_argument("--points", type=int, default=2000)
    parser.add_argument("--only", nargs="*", help="the optimizers to run")
    parser.add_argument("--out", type=Path, default=Path("out/pinn"), help="folder for the picture")
    args = parser.parse_args(argv)
    seconds, n, width, depth = (0.3, 100, 8, 2) if args.tiny else (args.seconds, args.points, 20, 3)
    with jax.enable_x64(True):
        loss, error = losses(n)
        params = network(jax.random.key(0), width, depth)
        runs = {}
        for name, method in methods().items():
            if args.only and name not in args.only:
                continue
            runs[name] = run = train(method, params, loss, error, seconds, n)
            print(
                f"{name:12} {run.steps:6} steps in {run.seconds[-1]:5.1f} s (and {run.compiling:.1f} s to compile)  "
                f"loss {run.losses[-1]:.1e}  error {run.errors[-1]:.1e}",
                flush=True,
            )
        save(draw(runs), args.out / "pinn.png")


if __name__ == "__main__":
    main()
