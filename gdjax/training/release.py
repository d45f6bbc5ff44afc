"""Gradient release: a layer is updated as soon as the backward pass has its gradient, which is then dropped.

An optimizer may do that if the update of each layer depends on that layer alone. It is tried on small random numbers:
steps with all gradients, and the same steps layer by layer; where these differ by more than rounding, it mixes layers.
"""

import functools
import itertools
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from gdjax.core import base
from gdjax.core.contexts import WHERE, within
from gdjax.core.parts import known, state_arrays
from gdjax.core.types import Array, OptState, Params, Transform
from gdjax.lift import probe
from gdjax.lift.order import name_of
from gdjax.numerics import is_key
from gdjax.training.layers import (
    LABEL,
    Arrays,
    LayeredModel,
    LayeredStep,
    Layers,
    layers_of,
    names_of,
    refuse,
    structure_of,
)
from gdjax.tree.updates import apply_updates

__all__ = ["gradient_release"]

# How long the longest axes are that are tried, before those that the arrays have, of which blocks they are made, and
# whether the last one is: codes have scales for blocks of the others.
_LENGTHS = (8, 1, True), (128, 1, True), (127, 64, False), (127, 64, True), (320, 64, True)
_SIZES = 1.0, 1e6, 1e-6, 1e3, 1e-3, 1e12, 1e-12  # of gradients: clips, and terms beside them, show at some
_WORK = 2**22  # numbers of all steps together, of which there are fewer in larger trees
_ROUNDING = {1: 0.3, 2: 0.03, 4: 1e-4, 8: 1e-6}  # the relative error of a whole array, by the bytes of its numbers


def check_apart(layers: Layers, params: Params) -> None:
    """Raises where an update of all leaves makes a layer of others too. One with effects is not tried.

    Raises:
      ValueError: naming the array, and the transform that does so.
    """
    shapes = jax.eval_shape(lambda params: params, params)
    try:
        what = _mixed(layers, shapes)
    except probe.Effects:
        return
    if what is None:
        return
    if (inner := _culprit(layers, shapes)) is None and len(layers.meetings) > 1:
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
            alone = replace(alone, made=layers.made)
            if _mixed(alone, shapes) is not None:
                return _culprit(alone, shapes) or inside.tx
        except Exception:  # it is made for other trees
            continue
    return None


def _mixed(layers: Layers, shapes: Params) -> str | None:
    """What is not made of each layer alone; None if all is.

    Of parameters that are updated alike one is tried, with shorter axes, all layers at once; or all as they are.
    """
    try:
        short, structure = jax.tree.flatten(_short(layers, shapes))
        first: dict[Any, int] = {}
        for i, x in enumerate(short):
            first.setdefault((layers.made.get(i, i), i in layers.places, x.shape, x.dtype), i)
        tried = {*first.values()}
        some = structure.unflatten([x if i in tried else base.MaskedNode() for i, x in enumerate(short)])
        return _mixed_array(layers, some, [n for n, i in enumerate(sorted(tried)) if i in layers.places], jax.vmap)
    except probe.Effects:
        raise
    except Exception:  # it holds arrays that go with those of the tree, or what `jax.vmap` does not know
        return _mixed_array(layers, shapes, layers.places, lambda f: functools.partial(jax.lax.map, f))


def _short(layers: Layers, shapes: Params) -> Params:
    """Each array with shorter axes, but that of the layers: the shortest with which its state has the same form."""
    leaves, structure = jax.tree.flatten(shapes)
    form, shorter = _form(layers, shapes), dict[int, Any]()
    for most, block, all_axes in _LENGTHS:
        tried = [probe.shortened(x, most, layers.number, block, x.ndim if all_axes else x.ndim - 1) for x in leaves]
        forms = _form(layers, structure.unflatten(tried))
        shorter = {i: x for i, x in enumerate(tried) if forms[i] == form[i]} | shorter
        if len(shorter) == len(leaves):
            break
    short = structure.unflatten([shorter.get(i, x) for i, x in enumerate(leaves)])
    return short if _form(layers, short) == form else shapes


def _form(layers: Layers, shapes: Params) -> dict[int | None, list[Any]]:
    """What there is in the state for each parameter; at None, for none of them."""
    with within(WHERE, tried=True):
        state = jax.eval_shape(lambda params: layers.tx.init(params), shapes)
    form: dict[int | None, list[Any]] = {i: [] for i in (None, *range(layers.params.num_leaves))}
    arrays = jax.tree_util.tree_leaves_with_path(state)
    for (path, array), x in zip(arrays, state_arrays(layers.tx, state, shapes), strict=True):
        axis = None if x.axes is None or 0 not in x.axes else x.axes.index(0)
        form[x.leaf].append((path, axis, array.dtype, [n == 1 for n in array.shape]))
    return form


def _mixed_array(layers: Layers, shapes: Params, places: list[int], mapped: Callable[..., Any]) -> str | None:
    """What is not made of each layer alone, of parameters with the stack at these places; None if all is."""
    random = np.random.default_rng(0)
    params, grads = (probe.numbers(shapes, functools.partial(_drawn, random)) for _ in range(2))
    sizes = {i: x.size for i, x in enumerate(jax.tree.leaves(params))}
    trained = {i for i, x in enumerate(jax.tree.leaves(shapes)) if jnp.issubdtype(x.dtype, jnp.inexact)}
    most = max(2 * len(_SIZES), _WORK // max(1, sum(sizes.values())))
    counts = [*[-1] * len(_SIZES), *probe.counts_of(layers.tx)][:most]
    parts = ({i for i in trained if sizes[i] and (i in places) is of_stack} for of_stack in (True, False))
    spoiled = [min(part) for part in parts if part]
    counts += [0] * len(spoiled)
    cases = [*itertools.islice(itertools.cycle(_SIZES), len(counts))], range(len(counts)), counts
    cases = [np.asarray(x, dtype) for x, dtype in zip(cases, (np.float32, np.float32, np.int32), strict=True)]

    def moved(tree: Params, phase: Array) -> Arrays:
        """Other numbers in each step; in one of the last one is NaN."""
        leaves = dict(enumerate(jax.tree.leaves(tree)))
        for i in trained:
            x = leaves[i]
            x += (0.1 * jnp.sin(7 * jnp.real(x).astype(jnp.float32) + phase)).astype(x.dtype)
            if i in spoiled:
                now = phase == len(counts) - len(spoiled) + spoiled.index(i)
                x = x.at[(-1,) * x.ndim].set(jnp.where(now, jnp.nan, x[(-1,) * x.ndim]))
            leaves[i] = x
        return leaves

    def each(params: Params, grads: Params, *cases: Array) -> Any:
        params, grads = probe.with_keys(params), probe.with_keys(grads)

        def step(state: OptState, case: Any) -> Any:
            size, phase, count = case
            state = probe.counted(state, count)
            here = structure_of(layers.tx, params, state, places, layers.part)
            here = replace(here, meetings=layers.meetings, apply=_updates)
            sized = {i: g * size.astype(g.dtype) for i, g in moved(grads, phase).items() if i in trained}
            arguments = sized, moved(params, phase), dict(enumerate(jax.tree.leaves(state)))
            # Not computed twice, in other roundings.
            gs, ps, old = jax.tree.map(jax.lax.optimization_barrier, arguments)
            at_once = here.updated(gs, ps, old, size)
            rest = {i: g for i, g in gs.items() if i not in places}
            apart = _Apart(here, gs, ps, old, size, mapped).updates({}, lambda _: rest)
            (updates, state_of), new = names_of(here), [at_once[1][j] for j in range(len(at_once[1]))]
            pairs = [(updates[i], at_once[0][i], apart[0][i]) for i in sorted(trained)]
            pairs += [(state_of[j], x, apart[1][j]) for j, x in enumerate(new)]
            return here.state.unflatten(new), OrderedDict((name, _error(x, y)) for name, x, y in pairs)

        return jax.lax.scan(step, probe.like(layers.tx.init(params)), tuple(cases))[1]

    errors = probe.tried(each, params, grads, *cases)
    return next((name for name, e in errors.items() if np.max(e, initial=0) > 1), None)


def _drawn(random: np.random.Generator, shape: tuple[int, ...]) -> Any:
    """Normal numbers, those of neighbouring layers of other sizes: gradients of some are then above a limit."""
    sizes = 4.0 ** (np.arange(shape[0]) % 3 - 1) if shape else np.ones(())
    return random.standard_normal(shape) * sizes.reshape(shape[:1] + (1,) * len(shape[1:]))


class _Apart(LayeredStep):
    """A step with gradients that are known, and so of all layers at once: without a loop it is compiled sooner."""

    def __init__(
        self, layers: Layers, grads: Arrays, params: Arrays, state: Arrays, loss: Array, mapped: Callable[..., Any]
    ):
        super().__init__(layers, params, state)
        self.grads, self.loss, self.mapped = grads, loss, mapped

    def each(self, f: Callable[..., Any], of_x: Any) -> Any:
        axes = {j: axis for j in self.state if (axis := self.layers.axes.get(j)) is not None}
        common = {j: x for j, x in self.state.items() if j not in axes}
        grads = {k: x[:, None] for k, x in self.grads.items() if k in self.stacks}
        stacks = {k: x[:, None] for k, x in self.stacks.items()}
        state = {j: jnp.expand_dims(jnp.moveaxis(self.state[j], axis, 0), axis + 1) for j, axis in axes.items()}
        layers = jnp.arange(self.layers.number), grads, stacks, state
        return of_x, self.mapped(lambda x: f(*x[:3], x[3] | common))(layers)

    def backward(self, of_x: Any, met: dict[Any, Array]) -> Any:
        _, (stacks, state) = self.each(lambda i, g, p, s: self.updated(g, p, s, met, i), of_x)
        put = lambda x, axis: x[0] if axis is None else jnp.moveaxis(jnp.squeeze(x, axis + 1), 0, axis)
        stacks = {k: put(x, 0) for k, x in stacks.items()}
        return of_x, stacks, {j: put(x, self.layers.axes.get(j)) for j, x in state.items()}


def _updates(params: Params, updates: Params) -> Any:
    """The updates in the place of the new parameters, in which rounding would hide small ones."""
    return apply_updates(jax.tree.map(jnp.zeros_like, params), updates)


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


Step = Callable[..., tuple[Params, OptState, Any]]


def gradient_release(
    tx: Transform, before: Callable[..., Any], layer: Callable[..., Any], after: Callable[..., Any], *,
    stack: Callable[[Any], Any], has_aux: bool = False,
) -> Step:  # fmt: skip
    """A training step that updates each layer of a stack inside the backward pass, and never holds all gradients.

        x_0 = before(p, *inputs)   x_{i+1} = layer(w_i, x_i, *inputs), i = 0, ..., n - 1   loss = after(p, x_n, *inputs)

    The forward pass keeps x_0, ..., x_n. The backward pass goes from the last layer to the first: it computes the layer
    once more from x_i, as `jax.checkpoint` does, takes its gradient, makes the new w_i and state of it, and writes them
    in the places of the old ones. So at the peak there are parameters, state, the x_i and the gradient of one layer.
    All other parameters are updated at the end. The results are those of

        loss, grads = jax.value_and_grad(...)(params, *inputs)
        updates, state = tx.update(grads, state, params)
        params = apply_updates(params, updates)

    with the same state, `tx.init(params)`, to rounding: a run may go on with either.

    Args:
      tx: the optimizer. What it makes for a layer must be made of what that layer has, and of what all have in common,
        such as the step: anything element by element, sums over other axes, masks, groups, schedules. Norms over all
        arrays, as of `clip_by_global_norm`, take a backward pass of their own before the one that updates.
      before: `before(params, *inputs) -> x`, what comes before the stack, such as an embedding; x is a tree of arrays.
      layer: `layer(w, x, *inputs) -> x`, one layer; w is an entry of the stack, without its first axis. The new x has
        the structure, shapes and dtypes of the old one.
      after: `after(params, x, *inputs) -> loss`, what comes after the stack, and the loss. `before` and `after` may
        share parameters.
      stack: from the tree of parameters to the part that is the stack, `lambda params: params["layers"]`. Its arrays
        have the layers along their first axis, as `jax.vmap` of an initializer makes them, `flax.linen.scan` and
        `equinox.filter_vmap`. Those that are not floating, such as numbers of layers, are handed on and not trained.
      has_aux: `after` returns `(loss, aux)`.

    Returns:
      `step(params, state, *inputs) -> (params, state, loss)`, or `(params, state, (loss, aux))`, to be compiled so that
      it writes over what it gets: `jax.jit(step, donate_argnums=(0, 1))`. `before` and `after` find None in the place
      of the arrays of the stack. The inputs are trees of arrays. An update that reads `value` gets the loss.

    Raises:
      TypeError: tx is no transform.
      ValueError: (in the step) `stack` does not return a part of the parameters, or arrays of different lengths; the
        optimizer makes the update of a layer of other layers: methods with a number for the whole tree (DoG, Prodigy),
        norms of each parameter (LAMB), matrices of all layers together (SOAP), searches along a line. The message names
        the array and the transform.

    Whether it does is tried when the step is traced: on random numbers in the same tree, with shorter axes where the
    state has the same form with those, of parameters that are updated alike on one, in some hundred steps with
    gradients of many sizes, all layers at once and each by itself. An optimizer that calls the program, as with
    `jax.debug.print`, is not tried. One that rounds at random by the place of a number, as `quantize_state` does, is
    told the row where a layer begins: `update(..., first_row=i)`.

    With Adam in float32, 24 layers of 2048 x 2048 take 14.0 bytes a parameter at the peak on a TPU, 18.3 with the plain
    step, at a cost of one more forward pass; with `offload_state` around Adam, 6.0. It helps where gradients are much
    of the memory: least with large batches.

    Example:
      >>> import gdjax, jax, jax.numpy as jnp
      >>> tx, params = gdjax.adam(0.1), {"embed": jnp.eye(2), "layers": jnp.ones((4, 2, 2))}
      >>> step = gdjax.gradient_release(
      ...     tx, lambda p, x: x @ p["embed"], lambda w, h, x: jnp.tanh(h @ w),
      ...     lambda p, h, x: jnp.mean(h**2), stack=lambda p: p["layers"])
      >>> params, state, loss = step(params, tx.init(params), jnp.ones((1, 2)))
      >>> print(f"{loss:.3f}", params["layers"].shape)
      0.917 (4, 2, 2)

    Reference:
      Lv et al. 2023, Full parameter fine-tuning for large language models with limited resources (LOMO),
      https://arxiv.org/abs/2306.09782; Lv et al. 2023, AdaLomo, https://arxiv.org/abs/2310.10195; PyTorch, How to save
      memory by fusing the optimizer step into the backward pass,
      https://pytorch.org/tutorials/intermediate/optimizer_step_in_backward_tutorial.html
    """
    base.check_transform(LABEL, "tx", tx)
    for name, f in {"before": before, "layer": layer, "after": after, "stack": stack}.items():
        if not callable(f):
            raise TypeError(f"{LABEL}: {name} must be a function, got {f!r}")

    model = LayeredModel(before, layer, after, has_aux)

    def released(params: Params, state: OptState, *inputs: Any) -> tuple[Params, OptState, Any]:
        layers = layers_of(tx, params, state, stack)
        check_apart(layers, params)
        params, state = (dict(enumerate(map(jnp.asarray, jax.tree.leaves(x)))) for x in (params, state))
        return LayeredStep(layers, params, state).run(model, *inputs)

    compiled = jax.jit(released)  # `meetings.answered` is for traces

    def step(params: Params, state: OptState, *inputs: Any) -> tuple[Params, OptState, Any]:
        return compiled(params, state, *inputs)

    return step
