"""Every public optimizer, as a function of its rate, and the runs that are shown of it."""

import functools
import inspect
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from landscape.functions import LANDSCAPES

import gdjax
from gdjax.plots.landscape import trajectory

Method = Callable[[Any], Any]  # from a rate to a transform
# Starts where the gradient is not large, since some methods begin with steps of plain descent.
PLACES = {
    "Rosenbrock": LANDSCAPES["Rosenbrock"]._replace(start=(-1.2, 1.47)),
    "Beale": LANDSCAPES["Beale"]._replace(start=(0.5, 1.1), window=(-0.8, 4.4, -1.4, 1.8)),
}
MARGIN = 0.03  # how far from the map a run may go, in sizes of the map
RATES = [m * 10.0**e for e in range(-5, 2) for m in (1, 2, 5)]
WITHOUT_A_RATE = set("bfgs cocob dadapt_adamw dog dowg lbfgs mechanize prodigy ssbroyden".split())  # shown as they are
# Methods whose two numbers are a matrix of 2 x 1.
MATRIX = set(
    "apollo came muon normuon muown scion dion dion2 galore psgd_kron shampoo soap kl_shampoo kl_soap soap_muon".split()
)


def one_example(tx: Any) -> Any:
    """`tx` for gradients of single examples, of which there is one."""

    def update(updates: Any, state: Any, params: Any = None, **extra: Any) -> Any:
        return tx.update(jax.tree.map(lambda g: g[None], updates), state, params, **extra)

    return gdjax.GradientTransformation(tx.init, update)


# What a rate alone does not make, or makes dull: noise that can be seen, a projection that takes part.
SPECIAL: dict[str, Method] = {
    "adamc": lambda rate: gdjax.adamc(rate, peak_learning_rate=rate),
    "apollo": lambda rate: gdjax.apollo(rate, rank=1, roles=gdjax.Matrix()),
    "dpsgd": lambda rate: one_example(gdjax.dpsgd(rate, l2_norm_clip=1.0, noise_multiplier=0.3, seed=0)),
    "galore": lambda rate: gdjax.galore(rate, rank=1, update_proj_gap=1),
    "gpa": lambda rate: gdjax.gpa(gdjax.rmsprop(rate), mu_x=0.9),
    "bfgs": lambda rate: gdjax.bfgs(),
    "lbfgs": lambda rate: gdjax.lbfgs(),
    "mechanize": lambda rate: gdjax.mechanize(gdjax.sgd(rate)),
    "noisy_sgd": lambda rate: gdjax.noisy_sgd(rate, eta=100.0, key=5),
    "perturbed_gradient_descent": lambda rate: gdjax.perturbed_gradient_descent(rate, 0.05, 1.0, key=0),
    "psgld": lambda rate: gdjax.psgld(rate, 10, key=5, decay=0.9, eps=0.1),
    "sam": lambda rate: gdjax.sam(gdjax.sgd(rate), gdjax.chain(gdjax.normalize(), gdjax.sgd(0.02)), sync_period=2),
    "schedule_free": lambda rate: gdjax.schedule_free(gdjax.rmsprop(rate), rate),
    "schedule_free_plus": lambda rate: gdjax.schedule_free_plus(gdjax.linear_schedule(0.0, rate, 50), r=2, c_warmup=50),
    "sghmc": lambda rate: gdjax.sghmc(rate, 10, key=5),
    "sgld": lambda rate: gdjax.sgld(rate, 10, key=5),
    "ssbroyden": lambda rate: gdjax.ssbroyden(),
}
for _name in "shampoo soap kl_shampoo kl_soap soap_muon".split():  # two numbers without a name have no role
    _of = functools.partial(getattr(gdjax, _name), roles=gdjax.Matrix(), precondition_frequency=1)
    SPECIAL[_name] = lambda rate, of=_of: of(rate)
NO_OPTIMIZERS = {
    "schedule_free_eval_params",
    "value_and_grad_from_state",
    "transformer_optimizer",
}  # no method, a recipe


def methods() -> dict[str, Method]:
    """The public functions whose first parameter is a learning rate, and those of `SPECIAL`; by name."""
    return {name: SPECIAL.get(name, getattr(gdjax, name)) for name in sorted({*_with_a_rate(), *SPECIAL})}


def _with_a_rate() -> Iterator[str]:
    for name in set(gdjax.__all__) - NO_OPTIMIZERS:
        x = getattr(gdjax, name)
        if inspect.isfunction(x) and x.__module__.startswith("gdjax.optimizers.") and not name.startswith("scale_by_"):
            first = next(iter(inspect.signature(x).parameters), "")
            if first in ("learning_rate", "max_learning_rate"):
                yield name


def best_runs(name: str, method: Method, steps: int) -> dict[str, tuple[float | None, np.ndarray]]:
    """Landscape -> the constant rate of the run that gets low soonest and stays there, and its points.

    The measure is the mean over the run of the logarithm of the highest point yet to come; a run that goes far from the
    map has failed. A method without a rate has one run.

    Raises:
      ValueError: every run has failed.
    """
    places, free = list(PLACES.values()), name in WITHOUT_A_RATE
    rates = [1.0] if free else RATES
    lowest, window = (jnp.array([getattr(p, k) for p in places], jnp.float32) for k in ("lowest", "window"))
    shape = (2, 1) if name in MATRIX else (2,)
    starts = jnp.array([p.start for p in places], jnp.float32).reshape(-1, *shape)

    def run(i: Any, rate: Any) -> Any:
        def f(p: Any) -> Any:
            return jax.lax.switch(i, [place.f for place in places], *p.ravel())

        points = trajectory(method(rate), f, starts[i], steps)
        height = jnp.maximum(jax.vmap(f)(points) - lowest[i], 1e-8)
        left, right, bottom, top = window[i]
        x = jnp.maximum(left - points[:, 0], points[:, 0] - right) / (right - left)
        y = jnp.maximum(bottom - points[:, 1], points[:, 1] - top) / (top - bottom)
        near = jnp.all(jnp.maximum(x, y) < (jnp.inf if free else MARGIN))  # False where a number is not finite
        return points, jnp.where(near, jnp.mean(jnp.log(jax.lax.cummax(height, reverse=True))), jnp.inf)

    over_all = jax.jit(jax.vmap(jax.vmap(run, in_axes=(None, 0)), in_axes=(0, None)))
    points, score = map(np.asarray, over_all(np.arange(len(places)), np.array(rates, np.float32)))
    if not np.isfinite(score).any(axis=1).all():
        raise ValueError(f"{name} leaves the map at every rate; give it other arguments in SPECIAL")
    best = np.argmin(score, axis=1)
    found = zip(PLACES, best, strict=True)
    return {place: (None if free else rates[k], points[i, k]) for i, (place, k) in enumerate(found)}
