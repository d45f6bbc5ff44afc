"""Hand-written steps that are more than a rule for each leaf."""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from hand import leaf

Step = tuple[Callable[[Any], Any], Callable[[Any, Any, Any], Any]]


def finite_guard(outputs: bool = False) -> Step:
    init, adamw = leaf.step_of(leaf.HAND["adamw"])

    def stays_finite(params: Any, state: Any, grads: Any) -> Any:
        new, (_, (mu, nu)) = adamw(params, state, grads)
        each = zip(*map(jax.tree.leaves, (new, mu, nu)), strict=True)
        return ~jnp.any(
            jnp.asarray([jnp.any(~jnp.isfinite(p) | ~jnp.isfinite(m) | ~jnp.isfinite(v)) for p, m, v in each])
        )

    def step(params: Any, state: Any, grads: Any) -> Any:
        # One sum tells whether a gradient is not finite: infinity and NaN make its product with 0 NaN.
        finite = jnp.isfinite(sum(jnp.sum(0 * g.astype(jnp.float32)) for g in jax.tree.leaves(grads)))
        if outputs:
            finite = jax.lax.cond(finite, lambda: stays_finite(params, state, grads), lambda: jnp.asarray(False))
        return jax.lax.cond(finite, lambda p, s: adamw(p, s, grads), lambda p, s: (p, s), params, state)

    return init, step


def accumulation(every: int = 4) -> Step:
    init, adamw = leaf.step_of(leaf.HAND["adamw"])

    def start(params: Any) -> Any:
        return jnp.int32(0), init(params), jax.tree.map(lambda p: jnp.zeros(p.shape, jnp.float32), params)

    def step(params: Any, state: Any, grads: Any) -> Any:
        n, inner, total = state
        total = jax.tree.map(lambda a, g: a + g.astype(jnp.float32) * (1 / every), total, grads)

        def emit(params: Any, inner: Any, total: Any) -> Any:
            params, inner = adamw(params, inner, total)
            return params, inner, jax.tree.map(jnp.zeros_like, total)

        last = n == every - 1
        params, inner, total = jax.lax.cond(last, emit, lambda *same: same, params, inner, total)
        return params, (jnp.where(last, 0, n + 1), inner, total)

    return start, step


def injected_adamw() -> Step:
    init, _ = leaf.step_of(leaf.HAND["adamw"])

    def start(params: Any) -> Any:
        return jnp.float32(1e-3), init(params)

    def step(params: Any, state: Any, grads: Any) -> Any:
        rate, inner = state
        rule = lambda p, g, t, mu, nu: leaf.adam(p, g, t, mu, nu, rate, leaf.DECAY)
        params, inner = leaf.step_of(leaf.Hand(rule, 1, 1))[1](params, inner, grads)
        return params, (rate, inner)

    return start, step


def schedule_free_adamw() -> Step:
    def rule(p: Any, g: Any, t: Any, z: Any, nu: Any, c: Any) -> Any:
        nu = leaf.mean(nu, g * g, leaf.B2)
        x = (p - 0.1 * z) * (1 / 0.9)
        z = z - 1e-3 * g / (jnp.sqrt(leaf.correction(leaf.B2, t) * nu) + leaf.EPS)
        x = (1 - c) * x + c * z
        return 0.1 * z + 0.9 * x, z, nu

    hand = leaf.Hand(rule, 1, 1, shared=lambda t, g: (1 / t,))  # all weights are equal
    init, step = leaf.step_of(hand)

    def start(params: Any) -> Any:
        count, (_, nu) = init(params)
        return count, [jax.tree.map(lambda p: p.copy(), params), nu]

    return start, step


def adafactor() -> Step:
    def factored(p: Any) -> bool:
        return p.ndim > 1 and sorted(p.shape)[-2] >= 128

    def axes(p: Any) -> tuple[int, int]:
        second, longest = sorted(range(p.ndim), key=lambda i: p.shape[i])[-2:]
        return second, longest

    def start(params: Any) -> Any:
        def slots(p: Any) -> Any:
            if not factored(p):
                return [jnp.zeros(p.shape, jnp.float32)]
            return [jnp.zeros([n for j, n in enumerate(p.shape) if j != i], jnp.float32) for i in axes(p)]

        return jnp.int32(0), [slots(p) for p in jax.tree.leaves(params)]

    def rule(p: Any, g: Any, slots: Any, b: Any) -> Any:
        g, wide = g.astype(jnp.float32), p.astype(jnp.float32)
        if len(slots) == 1:
            slots = [b * slots[0] + (1 - b) * (g * g + 1e-30)]
            u = g * jax.lax.rsqrt(slots[0])
        else:
            second, longest = axes(p)
            # The means over one axis are the row moments, those over the other the column moments.
            col, row = (b * v + (1 - b) * (jnp.mean(g * g, i) + 1e-30) for v, i in zip(slots, axes(p), strict=True))
            mean = jnp.mean(row, second - (second > longest), keepdims=True)
            u = g * jnp.expand_dims(jax.lax.rsqrt(row / mean), longest) * jnp.expand_dims(jax.lax.rsqrt(col), second)
            slots = [col, row]
        rms = lambda x: jnp.sqrt(jnp.mean(x * x))
        u = u * (1e-3 * jnp.maximum(rms(wide), 1e-3) / jnp.maximum(1, rms(u)))
        return (wide - u).astype(p.dtype), slots

    def step(params: Any, state: Any, grads: Any) -> Any:
        count, slots = state
        b = 1 - (count + 1).astype(jnp.float32) ** -0.8
        ps, structure = jax.tree.flatten(params)
        out = [rule(p, g, s, b) for p, g, s in zip(ps, jax.tree.leaves(grads), slots, strict=True)]
        return structure.unflatten([p for p, _ in out]), (count + 1, [s for _, s in out])

    return start, step


def muon() -> Step:
    def newton_schulz(x: Any) -> Any:
        for _ in range(5):
            a = x @ x.T
            x = 3.4445 * x + (-4.7750 * a + 2.0315 * (a @ a)) @ x
        return x

    return leaf.step_of(leaf.Hand(functools.partial(_muon, newton_schulz), 1))


def muon_bfloat16() -> Step:
    def rounded(indices: str, x: Any, y: Any) -> Any:
        x, y = x.astype(jnp.bfloat16), y.astype(jnp.bfloat16)
        return jnp.einsum(indices, x, y, preferred_element_type=jnp.float32).astype(jnp.bfloat16).astype(jnp.float32)

    def newton_schulz(x: Any) -> Any:
        for _ in range(5):
            a = rounded("ij,kj->ik", x, x)
            a = 3.4445 * jnp.eye(len(a)) - 4.7750 * a + 2.0315 * rounded("ij,jk->ik", a, a)
            x = rounded("ij,jk->ik", a, x)
        return x

    return leaf.step_of(leaf.Hand(functools.partial(_muon, newton_schulz), 1))


def _muon(newton_schulz: Any, p: Any, g: Any, t: Any, m: Any) -> Any:
    m = leaf.mean(m, g, 0.95)
    x = 0.95 * leaf.correction(0.95, t + 1) * m + 0.05 * leaf.correction(0.95, t) * g
    wide = p.shape[0] <= p.shape[1]
    x = x if wide else x.T
    x = newton_schulz(x * (1 / (jnp.sqrt(jnp.sum(x * x)) + 1e-8)))
    x = x if wide else x.T
    return p - 1e-3 * max(1, p.shape[1] / p.shape[0]) ** 0.5 * x, m
