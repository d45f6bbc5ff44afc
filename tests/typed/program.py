# pyright: strict
"""A program as users write it, for the type checker: `make types` reads it in strict mode. No test runs it."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

import gdjax

Params = dict[str, jax.Array]

# JAX's own types have parts that strict mode does not know; nothing of this library may.
jit: Callable[..., Any] = jax.jit  # pyright: ignore
value_and_grad: Callable[..., Any] = jax.value_and_grad  # pyright: ignore
ones: Callable[[tuple[int, ...]], jax.Array] = jnp.ones  # pyright: ignore


class VelocityState(NamedTuple):
    velocity: Any


@gdjax.leafwise(VelocityState)
def heavy_ball(g: jax.Array, s: Any, p: Any, t: Any, rate: float = 0.1, friction: float = 0.9) -> Any:
    """A rule of one's own."""
    velocity = friction * s.velocity - rate * g
    return velocity, VelocityState(velocity=velocity)


@gdjax.transform
def careful(learning_rate: float, max_norm: float = 1.0) -> gdjax.GradientTransformation:
    """A factory of one's own."""
    return gdjax.chain(gdjax.clip_by_global_norm(max_norm), gdjax.sgd(learning_rate, momentum=0.9))


def loss(params: Params) -> jax.Array:
    return jnp.sum(params["kernel"] ** 2)


def optimizers() -> list[gdjax.GradientTransformation]:
    schedule = gdjax.warmup_cosine_decay_schedule(0.0, 1e-3, warmup_steps=10, decay_steps=100)
    rate: jax.Array = schedule(3)
    label = gdjax.label_by_path({"bias": "plain", ".*": "matrix"})
    return [
        gdjax.adamw(schedule, weight_decay=0.1, mask=gdjax.mask_by_path("kernel")),
        gdjax.chain(gdjax.clip(1.0), gdjax.scale_by_adam(b2=0.99), gdjax.scale_by_learning_rate(rate)),
        gdjax.named_chain(("momentum", gdjax.trace(0.9)), ("rate", gdjax.scale(-0.1))),
        gdjax.partition({"matrix": gdjax.muon(1e-3), "plain": gdjax.adam(1e-3)}, label),
        gdjax.inject_hyperparams(gdjax.lion)(1e-4, weight_decay=0.1),
        gdjax.apply_if_finite(gdjax.MultiSteps(gdjax.lamb(1e-3), 4).gradient_transformation(), 3),
        gdjax.from_optax(gdjax.to_optax(gdjax.rmsprop(1e-3))),
        heavy_ball(rate=0.01),
        careful(0.1, max_norm=2.0),
    ]


def step(
    tx: gdjax.GradientTransformation, params: Params, state: gdjax.OptState
) -> tuple[Params, gdjax.OptState, jax.Array]:
    value, gradients = value_and_grad(loss)(params)
    updates, state = tx.update(gradients, state, params, value=value)
    return gdjax.apply_updates(params, updates), state, value


Step = Callable[[gdjax.GradientTransformation, Params, gdjax.OptState], tuple[Params, gdjax.OptState, jax.Array]]


def train() -> None:
    compiled: Step = jit(step, static_argnums=0)
    for tx in optimizers():
        params: Params = {"kernel": ones((3, 2))}
        state = tx.init(params)
        for _ in range(3):
            params, state, value = compiled(tx, params, state)
            print(repr(tx), float(value), float(gdjax.global_norm(params)))
        rates = gdjax.get_hyperparams(tx, state)
        print({name: float(x) for name, x in rates.items()}, gdjax.tree.get(state, "none", 0))
        init, update = tx
        print(init(params), update(params, state, params))


def solve() -> Params:
    result = gdjax.minimize(loss, {"kernel": ones((3, 2))}, gdjax.adam(0.1), steps=100)
    print(result.message, result.steps, result.converged)
    accumulated = gdjax.MultiSteps(gdjax.sgd(0.1), every_k_schedule=2)
    state: gdjax.MultiStepsState = accumulated.init(result.params)
    print(bool(accumulated.has_updated(state)))
    errors = gdjax.squared_error(ones((3, 2)), -ones((3, 2)))
    print(errors.mean(), gdjax.projections.projection_non_negative(result.params))
    return result.params
