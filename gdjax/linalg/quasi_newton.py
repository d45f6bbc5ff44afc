"""Quasi-Newton matrices, whole and of limited memory.

A vector is a list of arrays in the working dtype. With B = I / gamma at first, pair after pair from the oldest on,

    B <- B - B s s^T B / <s, B s> + rho y y^T,    rho = 1 / <s, y>,    H = B^-1

The self-scaled Broyden family, with w = H y:

    H <- (H - w w^T / <y, w> + phi <y, w> v v^T) / tau + s s^T / <s, y>,    v = s / <s, y> - w / <y, w>

phi = 1 is BFGS, phi = 0 DFP. It is H / tau and three products of s and w: H is read and written once.

Squares of gradients of 1e-20 or 1e20 are lost in float32: inner products are of vectors over a `unit`, a power of two,
so that a loss times a power of two makes the same steps to the last bit.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from gdjax import numerics, tree
from gdjax.core import meshes
from gdjax.linalg.matrices import highest
from gdjax.numerics import Array

Vector = list[Any]


class Memory(NamedTuple):
    """A ring of slots, each with a pair, or zeros for none; the slot before the newest pair has the next older."""

    S: Vector  # each array with a leading axis of slots, in its own dtype
    Y: Vector  # likewise
    rho: Array  # (slots,) in the working dtype
    newest: Array  # () integer

    @property
    def order(self) -> Array:
        """The slots, the newest first."""
        return (self.newest - jnp.arange(self.rho.size, dtype=self.newest.dtype)) % self.rho.size

    def slot(self, i: Array) -> tuple[Vector, Vector]:
        at = [[jax.lax.dynamic_index_in_dim(x, i, 0, False) for x in xs] for xs in (self.S, self.Y)]
        return tuple(numerics.widen(at, self.rho.dtype))

    def rounded(self, s: Vector, y: Vector) -> tuple[Vector, Vector]:
        """The numbers rounded to what a slot can hold."""
        return tuple(tree.cast_like(tree.cast_like(x, m), x) for x, m in ((s, self.S), (y, self.Y)))

    def forgotten(self, when: Array) -> "Memory":
        """The memory without its pairs if `when` holds."""
        return self._replace(rho=jnp.where(when, 0, self.rho))

    def pushed(self, s: Vector, y: Vector, rho: Array) -> "Memory":
        """The memory with a new pair in place of the oldest, or with none there where rho is 0."""
        i = (self.newest + 1) % self.rho.size
        s, y = tree.where(rho > 0, (s, y), tree.zeros_like((s, y)))  # not 0 times what may be a NaN
        S, Y = (
            [m.at[i].set(x.astype(m.dtype)) for m, x in zip(*both, strict=True)] for both in ((self.S, s), (self.Y, y))
        )
        return Memory(S, Y, self.rho.at[i].set(rho.astype(self.rho.dtype)), i)


def dot(x: Vector, y: Vector) -> Array:
    """<x, y> in the widest dtype of the two, even where the leaves that have it are empty."""
    return jnp.real(tree.vdot(x, y)).astype(numerics.widest_real([x, y]))


def square(x: Vector) -> Array:
    return dot(x, x)


def unit(x: Vector) -> Array:
    """A power of two near the largest number of x, see `numerics.power_of_two`."""
    dtype = numerics.widest_real(x)
    return numerics.power_of_two(
        jnp.stack([jnp.max(abs(v), initial=0).astype(dtype) for v in x] or [jnp.zeros((), dtype)])
    )


def over(x: Vector, unit: Array) -> Vector:
    return tree.scale(1 / unit, x)


def weight(s: Vector, y: Vector) -> Array:
    """rho, or 0 for a useless pair: <s, y> <= eps |s| |y|, or numbers out of the range of the dtype."""
    of_s, of_y = unit(s), unit(y)
    rho = weight_of_units(over(s, of_s), over(y, of_y)) / of_s / of_y
    return jnp.where(rho < jnp.inf, rho, 0)


def weight_of_units(s: Vector, y: Vector) -> Array:
    """rho of a pair over its units, or 0."""
    sy = dot(s, y)
    good = (sy > jnp.finfo(sy.dtype).eps * numerics.sqrt(square(s)) * numerics.sqrt(square(y))) & (sy < jnp.inf)
    return jnp.where(good, 1 / jnp.where(good, sy, 1), 0)


def is_zero(x: Vector) -> Array:
    return jnp.stack([jnp.all(v == 0) for v in x]).all() if x else jnp.ones((), bool)


def is_stuck(s: Vector, y: Vector) -> Array:
    """Whether the step was 0 and the same gradient is there again: along H g no lower point was found."""
    return is_zero(s) & is_zero(y)


def first_size(g: Vector) -> Array:
    """1 / |g|, for a first step of length 1; 1 where g is 0."""
    norm = tree.global_norm(g).astype(numerics.widest_real(g))
    return 1 / jnp.where(norm > 0, jnp.maximum(norm, jnp.finfo(norm.dtype).tiny), 1)


TINY_GRADIENT = 2.0**-20  # its norm; along it a step of its own length would be too short for a line search


def scaling(memory: Memory, g: Vector) -> Array:
    """gamma = <s, y> / <y, y> for the newest pair; without one |gamma g| is min(1, |g|), or 1 for a tiny gradient."""
    i = memory.order[jnp.argmax(memory.rho[memory.order] > 0)]
    rho = memory.rho[i]

    def of_pair() -> Array:
        y = memory.slot(i)[1]
        of_y = unit(y)
        return 1 / (rho * of_y * square(over(y, of_y))) / of_y

    def of_gradient() -> Array:
        size = first_size(g).astype(rho.dtype)
        return jnp.where(size > 1 / TINY_GRADIENT, size, jnp.minimum(size, 1))

    return meshes.cond(rho > 0, of_pair, of_gradient)


def inverse_product(memory: Memory, g: Vector, gamma: Array) -> Vector:
    """H g by the two-loop recursion: from the newest pair to the oldest, and back."""
    rho = memory.rho

    def down(q: Vector, i: Array) -> tuple[Vector, Array]:
        s, y = memory.slot(i)
        alpha = rho[i] * dot(s, q)
        return tree.add_scale(q, -alpha, y), alpha

    def up(r: Vector, last: tuple[Array, Array]) -> tuple[Vector, None]:
        (i, alpha), (s, y) = last, memory.slot(last[0])
        return tree.add_scale(r, alpha - rho[i] * dot(y, r), s), None

    q, alphas = jax.lax.scan(down, g, memory.order)
    return jax.lax.scan(up, tree.scale(gamma, q), (memory.order, alphas), reverse=True)[0]


def product(memory: Memory, v: Vector, gamma: Array) -> Vector:
    """B v, from a_i = B_i s_i / sqrt(<s_i, B_i s_i>) for one pair after the other: each needs all the older ones."""
    S, Y = numerics.widen((memory.S, memory.Y), memory.rho.dtype)

    def times(A: Vector, rho: Array, x: Vector) -> Vector:
        b, a = rho * jax.vmap(dot, (0, None))(Y, x), jax.vmap(dot, (0, None))(A, x)
        changes = [
            jnp.tensordot(b.astype(m.dtype), m, 1) - jnp.tensordot(a.astype(m.dtype), n, 1)
            for m, n in zip(Y, A, strict=True)
        ]
        return tree.add_scale(changes, 1 / gamma, x)

    def add(carry: tuple[Vector, Array], i: Array) -> tuple[tuple[Vector, Array], None]:
        A, rho = carry  # zeros for the pairs that are still to come
        s, _ = memory.slot(i)
        a = times(A, rho, s)
        size = dot(s, a)
        there = (memory.rho[i] > 0) & (size > 0)
        a = tree.scale(jnp.where(there, 1 / numerics.sqrt(jnp.where(there, size, 1)), 0), a)
        return ([m.at[i].set(x) for m, x in zip(A, a, strict=True)], rho.at[i].set(memory.rho[i])), None

    start = tree.zeros_like(S), jnp.zeros_like(memory.rho)
    (A, rho), _ = jax.lax.scan(add, start, memory.order, reverse=True)
    return times(A, rho, v)


def damped(memory: Memory, s: Vector, y: Vector, gamma: Array) -> Vector:
    """Powell's damping: theta y + (1 - theta) B s, theta the largest in [0, 1] that makes <s, y> >= 0.2 <s, B s>."""
    Bs = product(memory, s, gamma)
    sy, sBs = dot(s, y), dot(s, Bs)
    weak = sy < 0.2 * sBs
    theta = jnp.where(weak, 0.8 * sBs / jnp.where(weak, sBs - sy, 1), 1)
    return tree.add_scale(tree.scale(theta, y), 1 - theta, Bs)


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
    """H <- keep H + of (ss s s^T + sw (s w^T + w s^T) + ww w w^T)."""

    keep: Array | int
    of: Array | int
    ss: Array | int
    sw: Array | int
    ww: Array | int

    def applied(self, H: Array, s: Array, w: Array) -> Array:
        i, j = (slice(None), None), None
        added = self.ss * (s[i] * s[j]) + self.sw * (s[i] * w[j] + w[i] * s[j]) + self.ww * (w[i] * w[j])
        return self.keep * H + self.of * added

    def times(self, Hx: Array, x: Array, s: Array, w: Array) -> Array:
        """The new H times x, from the old H times x."""
        sx, wx = highest(s, x), highest(w, x)
        return self.keep * Hx + self.of * ((self.ss * sx + self.sw * wx) * s + (self.sw * sx + self.ww * wx) * w)


NONE = Change(1, 0, 0, 0, 0)


class StepPair(NamedTuple):
    """A step and the change of the gradient over it."""

    s: Array
    y: Array
    g: Array  # the gradient before the step
    gHg: Array  # <g, H g>, of what of g was not held at a bound


def renewed(rule: Rule, H: Array, pairs: Array, pair: StepPair, x: Array, n: int, scaled: bool) -> tuple[Array, ...]:
    """The new H, the number of pairs that it is made from, and H x. With no pairs H is I.

    A pair of no positive curvature, see `weight`, leaves H as it is. So does one that would bring a
    number to H that is not finite. A new H with <x, H x> < 0, which rounding alone can make, is replaced by I, and so
    is one that is `is_stuck`. The tau of the rule is at least `LEAST_TAU`.

    b needs <s, H^-1 s>, and there is no H^-1. Cauchy and Schwarz have two lower bounds, <s, g>^2 / <g, H g> and
    <s, y>^2 / <y, H y>. The first is the number itself if s is along H g.

    Args:
      n: of how many dimensions the rule is told.
      scaled: whether the size of H before the first pair is that of the pair, <s, y> / <y, y>. Else it is that of the
        step, or of one of length 1 if that is longer: max(|s|, 1) / |g|.
    """
    units = unit([pair.s]), unit([pair.y]), unit([pair.g]), unit([x])
    of_s, of_y, of_g, of_x = units
    s, y, g, x = (v / of for v, of in zip((pair.s, pair.y, pair.g, x), units, strict=True))
    rho, stuck, H_of = weight_of_units([s], [y]), is_stuck([pair.s], [pair.y]), of_s / of_y
    s, y = (jnp.where(rho > 0, v, 0) for v in (s, y))  # not 0 times what may be a NaN
    first = (pairs == 0) & (rho > 0)
    if scaled:
        start = H_of / jnp.where(first, rho * highest(y, y), 1)
    else:
        start = jnp.maximum(of_s * numerics.sqrt(highest(s, s)), 1) * first_size([pair.g])
    gamma = jnp.where(first, start, 1)
    Hy, Hx = highest(H, jnp.stack([y, x], 1)).T
    w = gamma / H_of * Hy
    yw = highest(y, w)
    there = (rho > 0) & (yw > jnp.finfo(rho.dtype).tiny)
    w, rho, yw = jnp.where(there, w, 0), jnp.where(there, rho, 1), jnp.where(there, yw, 1)
    h = yw * rho
    sg = highest(s, g)
    limits = jnp.finfo(rho.dtype)
    gg = (pairs == 0) & ((pair.gHg < limits.tiny / limits.eps) | (pair.gHg >= limits.max))  # H was I, this is lost
    known = there & (gg | (pair.gHg > 0)) & (abs(sg) < jnp.inf)
    per = jnp.where(gg, H_of / gamma / highest(g, g), (H_of / gamma * of_g) * (of_g / pair.gHg))
    b = jnp.where(known, sg, 0) ** 2 * rho * jnp.where(known, per, 0)
    b = jnp.where(jnp.isfinite(b), b, 0)
    tau, phi = rule(jnp.maximum(b, 1 / h), h, n)
    tau = jnp.maximum(tau, LEAST_TAU)
    change = Change(gamma / tau, H_of, rho + phi * h * rho / tau, -phi * rho / tau, (phi - 1) / (yw * tau))
    largest = change.keep + H_of * (change.ss * highest(s, s) + abs(change.ww) * highest(w, w))
    good = there & jnp.isfinite(largest)
    change = Change(*(jnp.where(good, c, none) for c, none in zip(change, NONE, strict=True)))
    new_Hx = change.times(Hx, x, s, w)
    lost = stuck | (highest(x, new_Hx) < 0)
    new_H = jnp.where(lost, jnp.eye(x.size, dtype=H.dtype), change.applied(H, s, w))
    pairs = jnp.where(lost, 0, jnp.where(good, numerics.safe_increment(pairs), pairs))
    return new_H, pairs, of_x * jnp.where(lost, x, new_Hx)
