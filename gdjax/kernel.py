"""One leaf: the jitted function that applies a row of rules to one array."""

import contextlib
import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from gdjax import numerics
from gdjax.updates import add

Array = jax.Array


class Kernel(NamedTuple):
    """What decides the traced function of a rule: equal kernels share it."""

    name: str
    rule: Callable[..., tuple[Array, Any]]
    State: Any
    constants: tuple[tuple[str, type, Any], ...]
    reads_old: bool
    squares: str | None
    spoils: str


@functools.lru_cache(maxsize=4096)
def kernel_of(kernels: tuple[Kernel, ...], last: bool) -> Callable[..., Any]:
    """The jitted function that applies rules to one leaf. `counts` count this update too."""

    def apply(g: Array, p: Array | None, slots: Any, counts: Any, shared: Any, scalars: Any) -> tuple[Array, Any]:
        like = [g.dtype] if p is None else [g.dtype, p.dtype]
        real = max((numerics.real_dtype(numerics.at_least_float32(d)) for d in like), key=lambda d: d.itemsize)
        direction, new = numerics.widen(g, real), []
        for kernel, slot, count, numbers, scalar in zip(kernels, slots, counts, shared, scalars, strict=True):
            fields = [f for f in kernel.State._fields if f != "count" and f not in numbers]
            s = {f: numerics.widen(x, real) for f, x in [*zip(fields, slot, strict=True), *numbers.items()]}
            if "count" in kernel.State._fields:
                s["count"] = count
            t = None if count is None else count.astype(real)
            hyper = {k: v for k, _, v in kernel.constants} | {k: numerics.widen(v, real) for k, v in scalar.items()}
            with jax.named_scope(kernel.name), promotion(g):
                given = numerics.squarable(direction, kernel.squares) if kernel.squares else direction
                if kernel.squares and kernel.spoils == "moment":
                    s[fields[0]] = numerics.spoiled(s[fields[0]], direction)
                new_direction, state = kernel.rule(given, kernel.State(**s), numerics.widen(p, real), t, **hyper)
                if kernel.squares and kernel.spoils == "update":
                    new_direction = numerics.spoiled(new_direction, direction)
                direction = new_direction
            new.append([getattr(state, f) for f in fields])
        update = direction.astype(g.dtype)
        if last and p is not None and any(k.reads_old for k in kernels):
            new = after(add(p, update), new)
        olds, structure = jax.tree.flatten(slots)
        news = [x.astype(old.dtype) for x, old in zip(jax.tree.leaves(new), olds, strict=True)]
        return update, structure.unflatten(news)

    apply.__name__ = "_".join(k.name for k in kernels)[:80]
    return jax.jit(apply)


@jax.jit
def after(first: Array, rest: Any) -> Any:
    """`rest` unchanged, made to depend on one element of `first`, so that XLA computes `first` before it.

    The caller's `apply_updates` computes `first` too, and XLA does so once. A slot that the parameters are computed
    from is then overwritten in place after that, where XLA:CPU would otherwise copy it: for Lion a params-sized
    temporary and 2.6 times the step. On other devices one kernel writes both, and the dependency would part it in two.
    """
    if first.size == 0:
        return rest
    e = jnp.real(first[(0,) * first.ndim])
    one = jax.lax.platform_dependent(e, cpu=_one, default=jnp.ones_like)
    return jax.tree.map(lambda x: x * one.astype(x.dtype), rest)


def _one(e: Array) -> Array:
    """1, which XLA cannot tell: 2 for a number equal both to 0 and not to itself."""
    return jnp.where((e != e) & (e == 0), 2, 1).astype(e.dtype)


def promotion(*gs: Array) -> Any:
    """With complex numbers a rule mixes dtypes on purpose: its hyperparameters and second moments are real."""
    return jax.numpy_dtype_promotion("standard") if any(map(jnp.iscomplexobj, gs)) else contextlib.nullcontext()
