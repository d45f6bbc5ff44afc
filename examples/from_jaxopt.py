"""JAXopt's examples with gdjax: support vector machines, factors, Anderson, and implicit derivatives.

    python examples/from_jaxopt.py

Each function is one of them, on data that are made here, and `tests/examples/test_from_jaxopt.py` compares its numbers
with those of JAXopt's solvers.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from _style import COLOURS, options, plain, save
from matplotlib.figure import Figure

import gdjax
from gdjax import projections, prox

Array = jax.Array


def data(n: int = 30, features: int = 5, classes: int = 3, seed: int = 0) -> tuple[Array, Array]:
    """Points around a centre for each class, of norm 1, and their classes."""
    rng = np.random.default_rng(seed)
    labels = np.arange(n) % classes
    x = 1.5 * rng.normal(size=(classes, features))[labels] + rng.normal(size=(n, features))
    return jnp.asarray(x / np.linalg.norm(x, axis=1, keepdims=True)), jnp.asarray(labels)


def regression(n: int = 20, features: int = 10, seed: int = 0) -> tuple[Array, Array]:
    """Features, and a target that depends on three of them, with noise."""
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(n, features))
    return jnp.asarray(x), jnp.asarray(x[:, :3] @ np.array([1.0, -1.0, 0.5]) + rng.normal(size=n))


def kernel_svm(x: Array, signs: Array, c: float) -> Array:
    """The dual of a support vector machine with an intercept: signed multipliers, whose sum is 0."""
    dual = lambda b: jnp.sum((x.T @ b) ** 2) / 2 - b @ signs
    low, high = jnp.minimum(c * signs, 0), jnp.maximum(c * signs, 0)
    section = lambda b: projections.projection_box_section(b, low, high, jnp.ones_like(b), 0.0)
    tx = gdjax.proximal_gradient(prox=prox.from_projection(section))
    return gdjax.solve(dual, jnp.zeros_like(signs), tx, steps=5000).params


def multiclass_svm(x: Array, y: Array, l2: float) -> Array:
    """Crammer and Singer's machine: the weights, from a dual whose rows lie in the simplex. y is (n, classes)."""
    dual = lambda b: jnp.sum((x.T @ (y - b)) ** 2) / (2 * l2) + jnp.vdot(b, y - 1)
    tx = gdjax.proximal_gradient(prox=prox.from_projection(jax.vmap(projections.projection_simplex)))
    b = gdjax.solve(dual, jnp.full(y.shape, 1 / y.shape[1], x.dtype), tx, steps=5000).params
    return x.T @ (y - b) / l2


def nmf(x: Array, u: Array, v: Array, weight: float, rounds: int) -> tuple[Array, Array]:
    """x as u v^T, all numbers at least 0: one factor at a time, with a ridge."""
    tx = gdjax.proximal_gradient(prox=prox.nonnegative_ridge(weight))
    half = lambda factor, other, x: gdjax.l2_loss(other @ factor.T, x).mean()

    def once(_: Any, factors: tuple[Array, Array]) -> tuple[Array, Array]:
        u, v = factors
        v = gdjax.solve(half, v, tx, u, x, derivative=None).params
        return gdjax.solve(half, u, tx, v, x.T, derivative=None).params, v

    return jax.lax.fori_loop(0, rounds, once, (u, v))


def tuned(fit: Any, new: tuple[Array, Array], steps: int) -> np.ndarray:
    """The validation losses while Adam moves the logarithm of the hyperparameter of a fit."""
    loss = lambda theta: jnp.mean((new[0] @ fit(jnp.exp(theta)) - new[1]) ** 2)
    return np.array(gdjax.minimize(loss, jnp.array(-4.0), gdjax.adam(0.05), steps=steps).history["loss"])


def lasso(train: tuple[Array, Array], weight: Array) -> Array:
    loss = lambda w, x, y: gdjax.l2_loss(x @ w, y).mean()
    tx = gdjax.proximal_gradient(prox=prox.l1(weight))
    return gdjax.solve(loss, jnp.zeros(train[0].shape[1]), tx, *train).params


def ridge(train: tuple[Array, Array], weight: Array) -> Array:
    loss = lambda w, weight, x, y: gdjax.l2_loss(x @ w, y).mean() + weight / 2 * jnp.sum(w**2)
    return gdjax.solve(loss, jnp.zeros(train[0].shape[1]), gdjax.lbfgs(), weight, *train).params


def accelerated(train: tuple[Array, Array], steps: int, history: int = 5) -> tuple[Array, Array]:
    """The least squares after steps of gradient descent, and after mixtures of those steps."""
    x, y = train
    loss = lambda w: gdjax.l2_loss(x @ w, y).mean()
    descent = gdjax.sgd(len(y) / jnp.linalg.norm(x, 2) ** 2)
    of = lambda tx: gdjax.minimize(loss, jnp.zeros(x.shape[1]), tx, steps=steps).params
    return of(descent), of(gdjax.anderson(descent, history))


def sweep(w: Array, x: Array, y: Array, weight: float) -> Array:
    """Coordinate descent of a lasso: each weight to its minimum, the others as they are."""

    def moved(i: Any, w: Array) -> Array:
        square = jnp.mean(x[:, i] ** 2)
        slope = jnp.mean(x[:, i] * (x @ w - y))
        return w.at[i].set(prox.l1(weight)(w[i] - slope / square, 1 / square))

    return jax.lax.fori_loop(0, w.size, moved, w)


def fixed_point(f: Callable[[Array], Array], w: Array, steps: int, history: int | None = None) -> Array:
    """w after steps w <- f(w), or after mixtures of them: w - f(w) is the gradient, and the rate is 1."""
    tx = gdjax.sgd(1.0) if history is None else gdjax.anderson(gdjax.sgd(1.0), history)

    def step(_: Any, carry: tuple[Array, Any]) -> tuple[Array, Any]:
        w, state = carry
        updates, state = tx.update(w - f(w), state, w)
        return gdjax.apply_updates(w, updates), state

    return jax.lax.fori_loop(0, steps, step, (w, tx.init(w)))[0]


def swept(train: tuple[Array, Array], weight: float, steps: int, history: int | None = None) -> Array:
    return fixed_point(lambda w: sweep(w, *train, weight), jnp.zeros(train[0].shape[1]), steps, history)


def picard(points: int, steps: int, history: int | None = None) -> tuple[Array, Array]:
    """y' = 1 + y^2 from y(0) = 0, which is tan t, as the fixed point of an integral; and t."""
    t = jnp.linspace(0.0, 0.45 * jnp.pi, points)

    def integral(y: Array) -> Array:
        slopes = 1 + y**2
        return jnp.concatenate([jnp.zeros(1), jnp.cumsum((slopes[1:] + slopes[:-1]) / 2 * t[1])])

    return fixed_point(integral, jnp.zeros(points), steps, history), t


def codes(dictionary: Array, x: Array, weight: float = 0.01, ratio: float = 0.01) -> Array:
    """Sparse codes with codes @ dictionary near x: an elastic net."""
    loss = lambda c: jnp.sum((c @ dictionary - x) ** 2) / 2
    tx = gdjax.proximal_gradient(prox=prox.elastic_net(weight, ratio))
    return gdjax.solve(loss, jnp.zeros((len(x), len(dictionary))), tx).params


def sparse_coding(x: Array, atoms: int, steps: int) -> Array:
    """A dictionary of norm 1 for codes that follow it, by derivatives through the codes."""
    loss = lambda d: jnp.sum((codes(d, x) @ d - x) ** 2) / 2
    tx = gdjax.proximal_gradient(prox=prox.from_projection(projections.projection_l2_sphere), accelerate=False)
    return gdjax.minimize(loss, jnp.linalg.svd(x, full_matrices=False)[2][:atoms], tx, steps=steps).params


def main(argv: list[str] | None = None) -> None:
    args = options("from_jaxopt", "JAXopt's examples with gdjax.", argv)
    (x, labels), (train, new) = data(), (regression(), regression(seed=1))
    signs = jnp.where(labels > 0, 1.0, -1.0)
    b = jax.jit(kernel_svm, static_argnums=2)(x, signs, 2.0)
    print(f"SVM: {np.sum(np.abs(b) > 1e-4)} support vectors of {len(b)}, sum {abs(float(b.sum())):.0e}")
    w = jax.jit(multiclass_svm, static_argnums=2)(x, jax.nn.one_hot(labels, 3), 1.0)
    print(f"SVM, 3 classes: {np.mean(np.argmax(x @ w, 1) == labels):.0%} right")
    rng = np.random.default_rng(0)
    u, v = jnp.asarray(rng.random((30, 3))), jnp.asarray(rng.random((12, 3)))
    found = jax.jit(nmf, static_argnums=(3, 4))(u @ v.T, v[:1] + 0 * u, v, 1e-3, 3 if args.tiny else 10)
    print(f"NMF: mean squared error {np.mean((found[0] @ found[1].T - u @ v.T) ** 2):.1e}")
    steps = 10 if args.tiny else 100
    losses = {f.__name__: tuned(lambda weight, f=f: f(train, weight), new, steps) for f in (lasso, ridge)}
    figure = Figure(figsize=(7, 3.2), layout="constrained")
    ax = figure.subplots()
    for (name, curve), colour in zip(losses.items(), COLOURS, strict=False):
        print(f"{name}: validation loss {curve[0]:.3f}, tuned {curve[-1]:.3f}")
        ax.plot(curve, color=colour, label=name)
    ax.set(xlabel="steps of Adam on the hyperparameter", ylabel="validation loss")
    ax.legend(frameon=False)
    plain(ax, "A hyperparameter, tuned through the solution")
    save(figure, args.out / "from_jaxopt.png")
    exact = np.linalg.lstsq(*train)[0]
    far = [np.linalg.norm(w - exact) for w in accelerated(train, 30)]
    print(f"30 steps of gradient descent: {far[0]:.0e} from the solution, by Anderson {far[1]:.0e}")
    exact, narrow = swept(train, 0.01, 500), jax.jit(swept, static_argnums=(2, 3))
    far = [np.linalg.norm(narrow(train, 0.01, 20, history) - exact) for history in (None, 5)]
    print(f"20 sweeps of coordinate descent: {far[0]:.0e} from the solution, by Anderson {far[1]:.0e}")
    (y, _), (mixed, _), (end, t) = picard(100, 10), picard(100, 10, 5), picard(100, 100)
    far = [np.abs(z - end).max() for z in (y, mixed)]
    print(f"10 steps of Picard: {far[0]:.0e} from the end, by Anderson {far[1]:.0e}; that is tan t to", end=" ")
    print(f"{np.abs(end - np.tan(t)).max():.0e}, by trapezoids")
    d = sparse_coding(x, 3, 3 if args.tiny else 10)
    error = jnp.mean((jax.jit(codes)(d, x) @ d - x) ** 2)
    print(f"sparse coding: mean squared error {error:.3f} with 3 atoms")


if __name__ == "__main__":
    main()
