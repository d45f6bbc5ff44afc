"""The inverse Hessian H as a matrix, renewed from a step s and the change y of the gradient over it.

The self-scaled Broyden family, with w = H y:

    H <- (H - w w^T / <y, w> + phi <y, w> v v^T) / tau + s s^T / <s, y>,    v = s / <s, y> - w / <y, w>

phi = 1 is BFGS, phi = 0 DFP. It is H / tau and three products of s and w: H is read and written once.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from gdjax import numerics
from gdjax.linalg import limited_memory
from gdjax.numerics import Array

LEAST_TAU = 0.2  # a pair tells of one direction: that H was 1e6 times too short there does not make it so everywhere

# From b = <s, H^-1 s> / <s, y>, h = <y, H y> / <s, y> and the number of dimensions to tau and phi.
Rule = Callable[[Array, Array, int], tuple[Any, Any]]


def bfgs(b: Array, h: Array, n: int) -> tuple[Any, Any]:
    return 1, 1


def ssbfgs(b: Array, h: Array, n: int) -> tuple[Any, Any]:
    """Al-Baali's tau: H grows by what the step was longer than H made of its y; it never shrinks."""
    return jnp.minimum(1, 1 / b), 1


def ssbroyden(b: Array, h: Array, n: int) -> tuple[Any, Any]:
    """Al-Baali & Khalfan's tau, and phi from their theta."""
    a = jnp.maximum(b * h - 1, jnp.finfo(b.dtype).eps)  # at least 0; there w is along s, and theta is of no account
    c = numerics.sqrt(a / (1 + a))
    rho_minus = jnp.minimum(1, h / ((1 + a) * (1 + c)))  # h (1 - c), without the difference
    theta_minus, theta_plus = (rho_minus - 1) / a, 1 / rho_minus
    theta = jnp.maximum(theta_minus, jnp.minimum(theta_plus, (1 - b) / b))
    sigma, rho_plus = 1 + a * theta, jnp.minimum(1, 1 / b)
    sigma_n = sigma ** (1 / (1 - n)) if n > 1 else jnp.ones_like(sigma)
    above = rho_plus * jnp.minimum(sigma_n, 1 / jnp.where(theta > 0, theta, 1))
    tau = jnp.where(theta > 0, above, jnp.minimum(rho_plus * sigma_n, sigma))
    return tau, (1 - theta) / sigma


class Change(NamedTuple):
    """H <- keep H + ss s s^T + sw (s w^T + w s^T) + ww w w^T."""

    keep: Array | int
    ss: Array | int
    sw: Array | int
    ww: Array | int

    def applied(self, H: Array, s: Array, w: Array) -> Array:
        i, j = (slice(None), None), None
        added = self.ss * (s[i] * s[j]) + self.sw * (s[i] * w[j] + w[i] * s[j]) + self.ww * (w[i] * w[j])
        return self.keep * H + added

    def times(self, Hx: Array, x: Array, s: Array, w: Array) -> Array:
        """The new H times x, from the old H times x."""
        sx, wx = s @ x, w @ x
        return self.keep * Hx + (self.ss * sx + self.sw * wx) * s + (self.sw * sx + self.ww * wx) * w


NONE = Change(1, 0, 0, 0)


class StepPair(NamedTuple):
    """A step and the change of the gradient over it."""

    s: Array
    y: Array
    sg: Array  # <s, g>, g the gradient before the step
    gHg: Array  # <g, H g> of the same gradient


def renewed(rule: Rule, H: Array, pairs: Array, pair: StepPair, x: Array, n: int, scaled: bool) -> tuple[Array, ...]:
    """The new H, the number of pairs that it is made from, and H x. With no pairs H is I.

    A pair of no positive curvature, see `limited_memory.weight`, leaves H as it is. So does one that would bring a
    number to H that is not finite. A new H with <x, H x> < 0, which rounding alone can make, is replaced by I, and so
    is one that is `limited_memory.stuck`. The tau of the rule is at least `LEAST_TAU`.

    b needs <s, H^-1 s>, and there is no H^-1. Cauchy and Schwarz have two lower bounds, <s, g>^2 / <g, H g> and
    <s, y>^2 / <y, H y>. The first is the number itself if s is along H g.

    Args:
      n: of how many dimensions the rule is told.
      scaled: whether the first pair sets the size of H, before it is used: <s, y> / <y, y>.
    """
    rho, stuck = limited_memory.weight([pair.s], [pair.y]), limited_memory.stuck([pair.s], [pair.y])
    s, y = (jnp.where(rho > 0, v, 0) for v in (pair.s, pair.y))  # not 0 times what may be a NaN
    first = (pairs == 0) & (rho > 0) & scaled
    gamma = jnp.where(first, 1 / jnp.where(first, rho * (y @ y), 1), 1)
    Hy, Hx = jnp.matmul(H, jnp.stack([y, x], 1), precision=jax.lax.Precision.HIGHEST).T
    w = gamma * Hy
    there = (rho > 0) & (y @ w > jnp.finfo(rho.dtype).tiny)
    rho, yw = jnp.where(there, rho, 1), jnp.where(there, y @ w, 1)
    h = yw * rho
    known = there & (pair.gHg > 0) & (abs(pair.sg) < jnp.inf)
    b = jnp.where(known, pair.sg, 0) ** 2 * rho / (gamma * jnp.where(known, pair.gHg, 1))
    tau, phi = rule(jnp.maximum(b, 1 / h), h, n)
    tau = jnp.maximum(tau, LEAST_TAU)
    change = Change(gamma / tau, rho + phi * h * rho / tau, -phi * rho / tau, (phi - 1) / (yw * tau))
    good = there & jnp.isfinite(change.keep + change.ss * (s @ s) + abs(change.ww) * (w @ w))
    change = Change(*(jnp.where(good, c, none) for c, none in zip(change, NONE, strict=True)))
    new_Hx = change.times(Hx, x, s, w)
    lost = stuck | (x @ new_Hx < 0)
    new_H = jnp.where(lost, jnp.eye(x.size, dtype=H.dtype), change.applied(H, s, w))
    pairs = jnp.where(lost, 0, jnp.where(good, numerics.safe_increment(pairs), pairs))
    return new_H, pairs, jnp.where(lost, x, new_Hx)
