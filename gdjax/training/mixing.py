"""Whether an optimizer makes the update of each layer of that layer alone: it is tried on small random numbers.

Steps with all gradients, and the same steps layer by layer: what differs by more than rounding mixes layers.
"""

import functools
import itertools
import math
from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from gdjax.codes.random_rounding import mixed
from gdjax.core import base
from gdjax.core.parts import known
from gdjax.core.types import Array, OptState, Params, Transform
from gdjax.lift import probe
from gdjax.lift.order import name_of
from gdjax.numerics import is_key
from gdjax.training.layer_pass import Model, Pass
from gdjax.training.layers import Arrays, Layers, names_of, refuse, structure_of
from gdjax.tree.updates import apply_updates

# How long the longest axes are that are tried, before those that the arrays have, and of which blocks they are made.
_LENGTHS = (8, 1), (128, 1), (320, 64)
_SIZES = 1.0, 1e6, 1e-6, 1e3, 1e-3, 1e12, 1e-12  # of gradients: clips, and terms beside them, show at some
_WORK = 2**24  # numbers of all steps together, of which there are fewer in larger trees
_ROUNDING = {1: 0.3, 2: 0.03, 4: 1e-4, 8: 1e-6}  # the relative error of a whole array, by the bytes of its numbers


def check_apart(layers: Layers, params: Params, state: OptState) -> None:
    """Raises where an update of all leaves makes a layer of others too. One with effects is not tried.

    Raises:
      ValueError: naming the array, and the transform that does so.
    """
    shapes = jax.eval_shape(lambda *trees: trees, params, state)
    try:
        what = _mixed(layers, *shapes)
    except probe.Effects:
        return
    if what is None:
        return
    if (inner := _culprit(layers, shapes[0])) is None and len(layers.meetings) > 1:
        refuse(f"{layers.meetings[-1]} of what a meeting before it has changed, which takes one more backward pass")
    tx = layers.tx if inner is None else inner
    by = (getattr(base.part_of(tx), "label", None) or name_of(tx)).removeprefix("gdjax.")
    refuse(f"{what} is made of several layers, or of one and of other parameters, by {by}")


def _culprit(layers: Layers, shapes: Params) -> Transform | None:
    """The innermost transform that mixes layers by itself; None if those inside do not."""
    for inside in known(layers.tx).inside():
        if inside.tx is None:
            continue
        try:
            state = jax.eval_shape(lambda params, tx=inside.tx: tx.init(params), shapes)
            alone = structure_of(inside.tx, shapes, state, layers.places, layers.part)
            if _mixed(alone, shapes, state) is not None:
                return _culprit(alone, shapes) or inside.tx
        except Exception:  # it is made for other trees
            continue
    return None


def _mixed(layers: Layers, shapes: Params, state: OptState) -> str | None:
    """What is not made of each layer alone; None if all is.

    The axes of the arrays are shortened, but that of the layers, to lengths with which the state has the same form.
    """
    for most, block in _LENGTHS:
        short = probe.shortened(shapes, most, layers.number, block)
        if short == shapes:
            break
        try:
            small = jax.eval_shape(lambda params: layers.tx.init(params), short)
            if _form(layers, shapes, state) == _form(layers, short, small):
                return _found(layers, short)
        except probe.Effects:
            raise
        except Exception:  # it holds arrays that go with those of the tree
            continue
    return _found(layers, shapes)


def _form(layers: Layers, shapes: Params, state: OptState) -> Any:
    found = structure_of(layers.tx, shapes, state, layers.places, layers.part)
    kinds = [(x.dtype, [n == 1 for n in x.shape]) for x in jax.tree.leaves(state)]
    return found.state, found.axes, found.of_rest, kinds


def _found(layers: Layers, shapes: Params) -> str | None:
    params = probe.numbers(shapes, functools.partial(_drawn, np.random.default_rng(0)))
    most = max(2 * len(_SIZES), _WORK // max(1, sum(math.prod(x.shape) for x in jax.tree.leaves(shapes))))
    counts = [*[-1] * len(_SIZES), *probe.counts_of(layers.tx)][:most]
    sized = {i for i, x in enumerate(jax.tree.leaves(params)) if x.size} & layers.trained
    spoiled = [min(part) for part in (sized & {*layers.places}, sized - {*layers.places}) if part]
    counts += [0] * len(spoiled)
    sizes = [*itertools.islice(itertools.cycle(_SIZES), len(counts))]
    cases = np.asarray(sizes, np.float32), np.arange(len(counts), dtype=np.float32), np.asarray(counts, np.int32)

    def each(params: Params, *cases: Array) -> Any:
        first = probe.with_keys(params)
        initial = probe.like(layers.tx.init(first))
        known = structure_of(layers.tx, first, initial, layers.places, layers.part)
        known = replace(known, meetings=layers.meetings, apply=_updates)

        def step(state: OptState, case: Any) -> Any:
            size, phase, count = case
            state = probe.counted(state, count)
            leaves = [_moved(x, phase) for x in jax.tree.leaves(first)]
            for n, i in enumerate(spoiled, len(counts) - len(spoiled)):  # in one of the last steps one number is NaN
                at = (-1,) * leaves[i].ndim
                leaves[i] = leaves[i].at[at].set(jnp.where(phase == n, jnp.nan, leaves[i][at]))
            leaves, state = jax.lax.optimization_barrier((leaves, state))  # not computed twice, in other roundings
            given = known, known.params.unflatten(leaves), state, size, phase
            whole, apart = _whole(*given), _apart(*given)
            pairs = [(whole[0][i], apart[0][i]) for i in sorted(known.trained)]
            pairs += zip(*map(jax.tree.leaves, (whole[1], apart[1])), strict=True)
            return whole[1], [_error(*pair) for pair in pairs]

        return jax.lax.scan(step, initial, cases)[1]

    errors = probe.tried(each, params, *cases)
    return next((name for name, e in zip(names_of(layers), errors, strict=True) if np.max(e, initial=0) > 1), None)


def _drawn(random: np.random.Generator, shape: tuple[int, ...]) -> Any:
    """Normal numbers, those of neighbouring layers of other sizes: gradients of some are then above a limit."""
    sizes = 4.0 ** (np.arange(shape[0]) % 3 - 1) if shape else np.ones(())
    return random.standard_normal(shape) * sizes.reshape(shape[:1] + (1,) * len(shape[1:]))


_MODEL = Model(
    lambda p, size, phase: _loss(p, size, phase),
    lambda w, x, size, phase: x + _loss(w, size, phase),
    lambda p, x, size, phase: x,
    False,
)


def _loss(tree: Any, size: Array, phase: Array) -> Array:
    """A loss whose gradients are `size` times the parameters times random numbers of [-1.5, -0.5] and [0.5, 1.5].

    The numbers follow from the bits of a parameter and are others in each step. Where gradients are almost 0 by
    cancellation, rounding may turn the sign of an update.
    """

    def of(x: Array) -> Array:
        x = x.astype(jnp.float32)
        bits = mixed(mixed(jax.lax.bitcast_convert_type(x, jnp.uint32)) + phase.astype(jnp.uint32))
        size_of = 0.5 + (bits >> np.uint32(8)).astype(jnp.float32) * 2.0**-24
        random = jnp.where(bits & np.uint32(1), size_of, -size_of)
        return jnp.sum(jax.lax.stop_gradient(random * x) * x) * size

    floating = [x for x in jax.tree.leaves(tree) if jnp.issubdtype(x.dtype, jnp.inexact)]
    parts = [x for z in floating for x in ([jnp.real(z), jnp.imag(z)] if jnp.iscomplexobj(z) else [z])]
    return sum(map(of, parts), jnp.zeros((), jnp.float32))


def _whole(layers: Layers, params: Params, state: OptState, size: Array, phase: Array) -> tuple[Arrays, OptState]:
    """The updates and the new state of all leaves at once."""
    arrays, old = (dict(enumerate(jax.tree.leaves(x))) for x in (params, state))
    trained = {i: x for i, x in arrays.items() if i in layers.trained}
    loss, grads = jax.value_and_grad(lambda t: _loss(list(t.values()), size, phase))(trained)
    updates, new = layers.updated(grads, arrays, old, loss)
    return updates, layers.state.unflatten([new[j] for j in range(len(new))])


def _apart(layers: Layers, params: Params, state: OptState, size: Array, phase: Array) -> tuple[Arrays, OptState]:
    """The same, layer by layer."""
    updates, new, _ = Pass(_MODEL, layers, params, state, (size, phase)).run()
    return dict(enumerate(jax.tree.leaves(updates))), new


def _updates(params: Params, updates: Params) -> Any:
    """The updates in the place of the new parameters, in which rounding would hide small ones."""
    return apply_updates(jax.tree.map(jnp.zeros_like, params), updates)


def _moved(x: Array, phase: Array) -> Array:
    if not jnp.issubdtype(x.dtype, jnp.inexact):
        return x
    return x + (0.1 * jnp.sin(7 * jnp.real(x).astype(jnp.float32) + phase)).astype(x.dtype)


def _error(x: Array, y: Array) -> Array:
    """How far two arrays are from each other: above 1 where it is no rounding, nor that of a few of many elements."""
    if is_key(x):
        x, y = jax.random.key_data(x), jax.random.key_data(y)
    if not x.size:
        return jnp.zeros(())
    bytes, most = x.dtype.itemsize, 1e-3
    same = x == y
    if jnp.issubdtype(x.dtype, jnp.inexact):
        largest = jnp.max(jnp.where(jnp.isfinite(x), jnp.abs(x), 0))
        near = jnp.abs(x - y) <= largest * _ROUNDING[jnp.finfo(x.dtype).dtype.itemsize]
        same |= near | jnp.isnan(x) & jnp.isnan(y)
    elif bytes < 4 and x.dtype != jnp.bool_:  # codes of numbers that differ by rounding
        same, most = jnp.abs(x.astype(jnp.int32) - y.astype(jnp.int32)) <= 2 ** (8 * bytes) // 2**12, 1 / 8
    return jnp.mean(~same, dtype=jnp.float32) / most
