"""One leaf: the jitted function that applies a row of rules to one array."""

import contextlib
import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from gdjax import numerics
from gdjax.ordering import after, written

Array = jax.Array


class Kernel(NamedTuple):
    """What decides the traced function of a rule: equal kernels share it."""

    name: str
    rule: Callable[..., tuple[Array, Any]]
    State: Any
    constants: tuple[tuple[str, type, Any], ...]
    reads_old: bool
    repeats: bool
    squares: str | None
    spoils: str


@functools.lru_cache(maxsize=4096)
def kernel_of(kernels: tuple[Kernel, ...], to: str | None) -> Callable[..., Any]:
    """The jitted function that applies rules to one leaf. `counts` count this update too."""

    def rules(g: Array, p: Array | None, slots: Any, counts: Any, shared: Any, scalars: Any) -> tuple[Array, Any]:
        like = [g.dtype] if p is None else [g.dtype, p.dtype]
        real = max((numerics.real_dtype(numerics.at_least_float32(d)) for d in like), key=lambda d: d.itemsize)
        wide, param, new = numerics.widen(g, real), numerics.widen(p, real), []
        direction = wide
        for kernel, slot, count, numbers, scalar in zip(kernels, slots, counts, shared, scalars, strict=True):
            fields = [f for f in kernel.State._fields if f != "count" and f not in numbers]
            old = {f: numerics.widen(x, real) for f, x in zip(fields, slot, strict=True)}
            s = old | {f: numerics.widen(x, real) for f, x in numbers.items()}
            if "count" in kernel.State._fields:
                s["count"] = count
            t = None if count is None else count.astype(real)
            hyper = {k: v for k, _, v in kernel.constants} | {k: numerics.widen(v, real) for k, v in scalar.items()}
            with jax.named_scope(kernel.name), promotion(g), numerics.widened((wide, g), (param, p)):
                given = numerics.squarable(direction, kernel.squares) if kernel.squares else direction
                if kernel.squares and kernel.spoils == "moment":
                    s[fields[0]] = numerics.spoiled(s[fields[0]], direction)
                new_direction, state = kernel.rule(given, kernel.State(**s), param, t, **hyper)
                if kernel.squares and kernel.spoils == "update":
                    new_direction = numerics.spoiled(new_direction, direction)
                direction = new_direction
            same = {f: x for f, x in zip(fields, slot, strict=True) if getattr(state, f) is old[f]}
            new.append([same.get(f, getattr(state, f)) for f in fields])
        return direction.astype(g.dtype), new

    def apply(g: Array, p: Array | None, slots: Any, counts: Any, shared: Any, scalars: Any) -> tuple[Array, Any]:
        update, new = rules(g, p, slots, counts, shared, scalars)
        olds, structure = jax.tree.flatten(slots)
        # A direction is made of new numbers that are not rounded to 16 bits yet, and so of the old ones.
        half = [x is not old and _is_half(old) for x, old in zip(jax.tree.leaves(new), olds, strict=True)]
        ordered = any(half) or any(k.reads_old or k.repeats for k in kernels)
        first = written(to, p, update) if ordered else None
        if first is not None:
            new = [after(first, xs) if k.reads_old else xs for k, xs in zip(kernels, new, strict=True)]
            # What a rule before makes of slots of its own is the same expression again, which XLA keeps.
            repeated = [k.repeats and not any(slots[:i]) for i, k in enumerate(kernels)]
            if any(repeated):
                tied = [after(first, xs) if r else xs for r, xs in zip(repeated, slots, strict=True)]
                _, again = rules(g, p, tied, counts, shared, scalars)
                new = [xs if r else kept for r, xs, kept in zip(repeated, again, new, strict=True)]
        news = [x.astype(old.dtype) for x, old in zip(jax.tree.leaves(new), olds, strict=True)]
        if first is not None:
            news = [after(first, x) if h else x for h, x in zip(half, news, strict=True)]
        return update, structure.unflatten(news)

    apply.__name__ = "_".join(k.name for k in kernels)[:80]
    return jax.jit(apply)


def _is_half(x: Array) -> bool:
    return jnp.issubdtype(x.dtype, jnp.floating) and x.dtype.itemsize < 4


def promotion(*gs: Array) -> Any:
    """With complex numbers a rule mixes dtypes on purpose: its hyperparameters and second moments are real."""
    return jax.numpy_dtype_promotion("standard") if any(map(jnp.iscomplexobj, gs)) else contextlib.nullcontext()
