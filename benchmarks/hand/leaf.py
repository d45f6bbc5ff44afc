"""Hand-written steps that are one rule for each leaf.

A step is `rule(p, g, t, *slots, *shared) -> (new p, *slots)` for one leaf; `shared` are numbers of the whole
tree. What is one number for all elements is computed once; the arithmetic is in float32.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

B1, B2, EPS, DECAY = 0.9, 0.999, 1e-8, 1e-4


class Hand(NamedTuple):
    rule: Callable[..., tuple[Any, ...]]
    first: int = 0  # slots in the parameter's dtype
    second: int = 0  # slots in float32, behind those
    fill: float = 0.0  # what they start as
    shared: Callable[..., tuple[Any, ...]] = lambda t, g: ()
    average: bool = False  # one more slot, which starts as the parameters


def step_of(hand: Hand) -> tuple[Callable[[Any], Any], Callable[[Any, Any, Any], Any]]:
    """The start of a state, and the step `(params, state, grads) -> (params, state)`, neither compiled."""

    def init(params: Any) -> Any:
        like = [jnp.zeros_like] * hand.first + [lambda p: jnp.full(p.shape, hand.fill, jnp.float32)] * hand.second
        like += [lambda p: p.copy()] * hand.average
        return jnp.int32(0), [jax.tree.map(start, params) for start in like]

    def step(params: Any, state: Any, grads: Any) -> Any:
        count, slots = state
        t = (count + 1).astype(jnp.float32)
        shared = hand.shared(t, grads)

        def leaf(p: Any, g: Any, *s: Any) -> list[Any]:
            new = hand.rule(
                p.astype(jnp.float32), g.astype(jnp.float32), t, *(x.astype(jnp.float32) for x in s), *shared
            )
            return [x.astype(old.dtype) for x, old in zip(new, (p, *s), strict=True)]

        out = jax.tree.map(leaf, params, grads, *slots)
        pick = [
            jax.tree.map(lambda x, i=i: x[i], out, is_leaf=lambda x: isinstance(x, list)) for i in range(len(slots) + 1)
        ]
        return pick[0], (count + 1, pick[1:])

    return init, step


def mean(m: Any, g: Any, b: float) -> Any:
    return b * m + (1 - b) * g


def correction(b: float, t: Any) -> Any:
    return 1 / (1 - b**t)


def sgd(p, g, t):
    return (p - 0.1 * g,)


def momentum(p, g, t, m):
    m = 0.9 * m + g
    return p - 0.1 * m, m


def nesterov(p, g, t, m):
    m = 0.9 * m + g
    return p - 0.1 * (0.9 * m + g), m


def adagrad(p, g, t, s):
    s = s + g * g
    return p - 0.1 * g * jax.lax.rsqrt(s + 1e-7), s


def rmsprop(p, g, t, nu):
    nu = mean(nu, g * g, 0.9)
    return p - 1e-3 * g * jax.lax.rsqrt(nu + EPS), nu


def adam(p, g, t, mu, nu, rate=1e-3, decay=0.0, scale=1.0):
    g = scale * g
    mu, nu = mean(mu, g, B1), mean(nu, g * g, B2)
    c1, c2 = correction(B1, t), correction(B2, t)
    return p - rate * (c1 * mu / (jnp.sqrt(c2 * nu) + EPS) + decay * p), mu, nu


def adamw(p, g, t, mu, nu):
    return adam(p, g, t, mu, nu, decay=DECAY)


def norm(grads: Any) -> Any:
    return jnp.sqrt(sum(jnp.sum(jnp.square(g.astype(jnp.float32))) for g in jax.tree.leaves(grads)))


def cosine(t: Any) -> Any:
    n = t - 1
    falling = 5e-4 * (1 + jnp.cos(jnp.pi * jnp.clip((n - 100) / 900, 0, 1)))
    return jnp.where(n < 100, 1e-5 * n, falling)


def clipped_adamw(p, g, t, mu, nu, scale, rate):
    return adam(p, g, t, mu, nu, rate, DECAY, scale)


def nadamw(p, g, t, mu, nu):
    mu, nu = mean(mu, g, B1), mean(nu, g * g, B2)
    ahead = B1 * correction(B1, t + 1) * mu + (1 - B1) * correction(B1, t) * g
    return p - 1e-3 * (ahead / (jnp.sqrt(correction(B2, t) * nu) + EPS) + DECAY * p), mu, nu


def rectified(t: Any, grads: Any) -> tuple[Any, ...]:
    top = 2 / (1 - B2) - 1
    rho = top - 2 * t * B2**t * correction(B2, t)
    root = jnp.sqrt((rho - 4) * (rho - 2) * top / ((top - 4) * (top - 2) * rho))
    return jnp.where(rho >= 5, root, 0), rho >= 5


def radam(p, g, t, mu, nu, root, ready):
    mu, nu = mean(mu, g, B1), mean(nu, g * g, B2)
    m = correction(B1, t) * mu
    adaptive = root * m / (jnp.sqrt(correction(B2, t) * nu) + EPS)
    return p - 1e-3 * jnp.where(ready, adaptive, m), mu, nu


def amsgrad(p, g, t, mu, nu, top):
    mu, nu = mean(mu, g, B1), mean(nu, g * g, B2)
    top = jnp.maximum(top, correction(B2, t) * nu)
    return p - 1e-3 * correction(B1, t) * mu / (jnp.sqrt(top) + EPS), mu, nu, top


def adabelief(p, g, t, mu, nu):
    new = mean(mu, g, B1)
    nu = mean(nu, jnp.square(g - new), B2) + 1e-16
    return p - 1e-3 * correction(B1, t) * new / (jnp.sqrt(correction(B2, t) * nu) + 1e-16), new, nu


def yogi(p, g, t, mu, nu):
    mu, square = mean(mu, g, B1), g * g
    nu = nu - (1 - B2) * jnp.sign(nu - square) * square
    return p - 1e-2 * correction(B1, t) * mu / (jnp.sqrt(correction(B2, t) * nu) + 1e-3), mu, nu


def adan(p, g, t, m, v, old, n):
    difference = jnp.where(t == 1, 0, g - old)
    m, v, n = mean(m, g, 0.98), mean(v, difference, 0.92), mean(n, jnp.square(g + 0.92 * difference), 0.99)
    top = correction(0.98, t) * m + 0.92 * correction(0.92, t) * v
    return p - 1e-3 * top / (jnp.sqrt(correction(0.99, t) * n + 1e-8) + EPS), m, v, g, n


def lion(p, g, t, m):
    new = p - 1e-4 * (jnp.sign(mean(m, g, 0.9)) + 1e-3 * p)
    # On a CPU the average is written after the parameters, which are computed from its old value: XLA would copy that.
    e = new[(0,) * new.ndim]
    one = jax.lax.platform_dependent(e, cpu=lambda e: jnp.where((e != e) & (e == 0), 2.0, 1.0), default=jnp.ones_like)
    return new, mean(m, g, 0.99) * one


def ratio(p: Any, u: Any, factor: float = 1.0) -> Any:
    a, b = jnp.sqrt(jnp.sum(p * p)), jnp.sqrt(jnp.sum(u * u))
    return jnp.where((a == 0) | (b == 0), 1.0, factor * a / jnp.where(b == 0, 1, b))


def lamb(p, g, t, mu, nu):
    mu, nu = mean(mu, g, B1), mean(nu, g * g, B2)
    u = correction(B1, t) * mu / (jnp.sqrt(correction(B2, t) * nu) + 1e-6)
    return p - 1e-3 * ratio(p, u) * u, mu, nu


def lars(p, g, t, m):
    m = 0.9 * m - 0.1 * ratio(p, g, 1e-3) * g
    return p + m, m


def adaptively_clipped_momentum(p, g, t, m):
    axes = {0: (), 1: (0,), 2: (0,), 3: (0,), 4: (0, 1, 2)}[p.ndim] if sum(n != 1 for n in p.shape) > 1 else None
    unit = lambda x: jnp.sqrt(jnp.sum(x * x, axes, keepdims=True))
    most, size = 0.01 * jnp.maximum(unit(p), 1e-3), unit(g)
    return momentum(p, g * jnp.where(size < most, 1, most / jnp.maximum(size, 1e-38)), t, m)


def grouped(p, g, t, m, mu, nu):
    if p.ndim > 1:
        p, mu, nu = adam(p, g, t, mu, nu, decay=DECAY)
        return p, m, mu, nu
    m = 0.9 * m + g
    return p - 1e-2 * m, m, mu, nu


def averaged(p, g, t, mu, nu, average):
    p, mu, nu = adam(p, g, t, mu, nu, decay=DECAY)
    return p, mu, nu, mean(average, p, 0.999)


def clip_and_cosine(t: Any, grads: Any) -> tuple[Any, ...]:
    return 1 / jnp.maximum(norm(grads), 1), cosine(t)


HAND: dict[str, Hand] = {
    "sgd": Hand(sgd),
    "momentum": Hand(momentum, 1),
    "nesterov": Hand(nesterov, 1),
    "adagrad": Hand(adagrad, 0, 1, 0.1),
    "rmsprop": Hand(rmsprop, 0, 1),
    "adam": Hand(adam, 1, 1),
    "adamw": Hand(adamw, 1, 1),
    "clip + adamw + cosine": Hand(clipped_adamw, 1, 1, shared=clip_and_cosine),
    "nadamw": Hand(nadamw, 1, 1),
    "radam": Hand(radam, 1, 1, shared=rectified),
    "amsgrad": Hand(amsgrad, 1, 2),
    "adabelief": Hand(adabelief, 1, 1),
    "yogi": Hand(yogi, 1, 1, 1e-6),
    "adan": Hand(adan, 3, 1),
    "lion": Hand(lion, 1),
    "lamb": Hand(lamb, 1, 1),
    "lars": Hand(lars, 1),
    "adaptive clip + momentum": Hand(adaptively_clipped_momentum, 1),
    "adamw + averaged params": Hand(averaged, 1, 1, average=True),
    "two groups": Hand(grouped, 2, 1),
}
