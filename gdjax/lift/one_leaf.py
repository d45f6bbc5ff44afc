"""One leaf: the jitted function that applies a row of rules to one array."""

import contextlib
import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from gdjax import numerics
from gdjax.core import meshes
from gdjax.core.codec import Codec
from gdjax.lift import rule_checks
from gdjax.xla.write_order import after, written

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
    codecs: tuple[tuple[str, Codec], ...] = ()  # of the fields that are kept as codes


@functools.lru_cache(maxsize=4096)
def kernel_of(kernels: tuple[Kernel, ...], to: str | None) -> Callable[..., Any]:
    """The jitted function that applies rules to one leaf. `counts` count this update too."""

    def rules(g: Array, p: Array | None, slots: Any, counts: Any, shared: Any, scalars: Any) -> tuple[Array, Any]:
        like = [g.dtype] if p is None else [g.dtype, p.dtype]
        real = max((numerics.real_dtype(numerics.at_least_float32(d)) for d in like), key=lambda d: d.itemsize)
        wide, param, new = numerics.widen(g, real), numerics.widen(p, real), []
        direction = wide
        each = zip(kernels, slots, counts, shared, scalars, strict=True)
        for index, (kernel, slot, count, numbers, scalar) in enumerate(each):
            fields = [f for f in kernel.State._fields if f != "count" and f not in numbers]
            codes, codecs = dict(zip(fields, slot, strict=True)), dict(kernel.codecs)
            olds = {f: codecs[f].decode(x) if f in codecs else x for f, x in codes.items()}
            old = {f: _widened(x, real) for f, x in olds.items()}
            s = old | {f: _widened(x, real) for f, x in numbers.items()}
            if "count" in kernel.State._fields:
                s["count"] = count
            t = None if count is None else count.astype(real)
            hyper = {k: v for k, _, v in kernel.constants} | {k: numerics.widen(v, real) for k, v in scalar.items()}
            with jax.named_scope(kernel.name), promotion(g), numerics.widened((wide, g), (param, p)):
                given = numerics.squarable(direction, kernel.squares) if kernel.squares else direction
                if kernel.squares and kernel.spoils == "moment":
                    s[fields[0]] = numerics.spoiled(s[fields[0]], direction)
                with rule_checks.raised_by(index):
                    result = rule_checks.called(kernel.rule, given, kernel.State(**s), param, t, hyper)
                    new_direction, state = rule_checks.returned(kernel.State, result, given, olds)
                if kernel.squares and kernel.spoils == "update":
                    new_direction = numerics.spoiled(new_direction, direction)
                direction = new_direction
            changed = {f: x for f in fields if (x := getattr(state, f)) is not old[f]}
            coded = {f: codecs[f].encode(jnp.asarray(changed[f])) for f in codecs if f in changed}
            new.append([(codes | changed | coded)[f] for f in fields])
        update = direction.astype(g.dtype)
        # Of a gradient that is not divided the update may be, as a state made of divided parameters is.
        return (meshes.placed(update, g) if meshes.division(g) else update), new

    def apply(g: Array, p: Array | None, slots: Any, counts: Any, shared: Any, scalars: Any) -> tuple[Array, Any]:
        update, new = rules(g, p, slots, counts, shared, scalars)
        olds, structure = jax.tree.flatten(slots)
        owners = [i for i, xs in enumerate(slots) for _ in jax.tree.leaves(xs)]
        leads = [i == owners[0] for i in owners]  # the first rule with slots, which are made of the gradient
        # The direction is made of old numbers where it is of new ones that are rounded to 16 bits later.
        changed = [x is not old for x, old in zip(jax.tree.leaves(new), olds, strict=True)]
        coded = [bool(kernels[i].codecs) for i in owners]  # as rounded as 16 bits are
        late = [c or kernels[i].reads_old or _is_half(old) for c, i, old in zip(coded, owners, olds, strict=True)]
        read = [a and b for a, b in zip(changed, late, strict=True)]
        # Made narrow first: what the direction and a slot had in common XLA:CPU would write as float32.
        news = [_stored(x, old) for x, old in zip(jax.tree.leaves(new), olds, strict=True)]
        update, news = _in_order(to, p, update, news, read, leads)
        # Written over the gradient, the direction is in memory, and the gradient no longer.
        repeats = leads and kernels[owners[0]].repeats and to != "gradient"
        if repeats and (first := written(to, p, update)) is not None:
            tied = [after(first, xs) if i == owners[0] else xs for i, xs in enumerate(slots)]
            again = jax.tree.leaves(rules(g, p, tied, counts, shared, scalars)[1])
            news = [_stored(y, x) if lead else x for x, y, lead in zip(news, again, leads, strict=True)]
        return update, structure.unflatten(news)

    def placed(g: Array, p: Array | None, slots: Any, *numbers: Any) -> tuple[Array, Any]:
        # A state that is divided otherwise than its parameter (see `gdjax.state_sharding`) a rule cannot know of.
        if meshes.divided_otherwise(slots, g):
            return meshes.partitioned(apply, (g, slots), g, p, slots, *numbers)
        return apply(g, p, slots, *numbers)

    placed.__name__ = "_".join(k.name for k in kernels)[:80]
    return jax.jit(placed)


def _in_order(to: str | None, p: Any, update: Array, news: list[Array], read: list[bool], leads: list[bool]) -> Any:
    """The update and the new slots; those whose old numbers the update reads after it, unless it must be last."""
    if to == "gradient":
        for x, r, lead in zip(news, read, leads, strict=True):
            update = after(x, update) if r and lead else update
        read = [r and not lead for r, lead in zip(read, leads, strict=True)]
    first = written(to, p, update) if any(read) else None
    return update, news if first is None else [after(first, x) if r else x for x, r in zip(news, read, strict=True)]


def _widened(slot: Any, real: Any) -> Any:
    """What a rule gets for a slot: integers, booleans and PRNG keys as they are, the rest in the rule's dtype."""
    inexact = lambda x: jnp.issubdtype(jnp.asarray(x).dtype, jnp.inexact)  # noqa: E731
    return jax.tree.map(lambda x: numerics.widen(x, real) if inexact(x) else x, slot)


def _stored(new: Any, old: Array) -> Array:
    """`new`, an array or a number, in the dtype and the place of `old`."""
    if numerics.is_key(old):
        return meshes.placed(new, old)
    return meshes.placed(new.astype(old.dtype) if hasattr(new, "dtype") else jnp.asarray(new, old.dtype), old)


def _is_half(x: Array) -> bool:
    return jnp.issubdtype(x.dtype, jnp.floating) and x.dtype.itemsize < 4


def promotion(*gs: Array) -> Any:
    """With complex numbers a rule mixes dtypes on purpose: its hyperparameters and second moments are real."""
    return jax.numpy_dtype_promotion("standard") if any(map(jnp.iscomplexobj, gs)) else contextlib.nullcontext()
