"""One leaf: the jitted function that applies a row of rules to one array."""

import contextlib
import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from gdjax import numerics
from gdjax.core import meshes
from gdjax.core.contexts import PASS, within
from gdjax.core.types import Array, Codec
from gdjax.lift import rule_checks
from gdjax.lift.meetings import AtMeeting, Place, Replay, Suspended, replayed
from gdjax.xla import reads, write_order
from gdjax.xla.loops import inputs_of, keeps

Numbers = dict[tuple[int, str], Any]  # new values of fields that are one number, by place of the rule and name


class Kernel(NamedTuple):
    """The key of the function of a rule: equal kernels share the function."""

    name: str
    rule: Callable[..., tuple[Array, Any]]
    State: Any
    constants: tuple[tuple[str, type, Any], ...]
    codecs: tuple[tuple[str, Codec], ...] = ()  # for the fields kept as codes
    wraps: bool = False  # whether it is the rule of a wrapper, which gets the gradient beside the update
    per_leaf: tuple[str, ...] = ()  # names of arguments that leaves do not share
    stay: tuple[int, ...] = ()  # slots that keep their first values
    of_stack: bool = False  # whether it maps a rule over a stack of matrices: it widens and writes one by one


class Done(NamedTuple):
    """The results of the rules for a leaf."""

    update: Array
    slots: Any  # the new ones of each rule
    numbers: Numbers


class LeafInputs(NamedTuple):
    """What the function of a leaf gets."""

    results: list[list[Array]]  # of the meetings held so far
    gradient: Array
    param: Array | None
    slots: Any  # of each rule, as are those that follow
    counts: Any
    shared: Any  # fields that are one number for the whole tree
    scalars: Any  # hyperparameters that are no constants
    raws: Any  # the gradient given to a wrapper, or None
    chosen: Array | None = None  # whether the step is made; else the update is 0 and the slots stay


class OneLeaf:
    """Rules applied to one leaf, in one function that similar leaves share; called with the counts after this update.

    Args:
      axes: those of a `shard_map` over which any leaf varies.
    """

    def __init__(self, kernels: tuple[Kernel, ...], axes: frozenset[str] = frozenset()):
        self.kernels, self.axes = kernels, axes

        def leaf(context: Any, inputs: LeafInputs) -> Done | AtMeeting:
            # A rule cannot know that its state is not divided as its parameter, see `gdjax.state_sharding`.
            divided = meshes.divided_otherwise(inputs.slots, inputs.gradient)
            return self._divided(context, inputs) if divided else self._ordered(context, inputs)

        leaf.__name__ = "_".join(k.name for k in kernels)[:80]
        self.compiled = jax.jit(leaf, static_argnums=0)
        self.rules = jax.jit(self._until_meeting, static_argnums=0)

    def __call__(self, places: Sequence[Place], results: Sequence[list[Array]], *arguments: Any) -> Done | AtMeeting:
        """The results of the rules for a leaf, or its contribution to the next meeting.

        Args:
          places, results: the meetings held so far, and their results.
          arguments: the other fields of `LeafInputs`.
        """
        return self.compiled((tuple(places), meshes.owners()), LeafInputs(list(results), *arguments))

    def keeps(self, places: Sequence[Place], results: Sequence[list[Array]], *arguments: Any) -> bool:
        """Whether the rules keep an array of the size of the leaf on the way; see `gdjax.xla.loops.keeps`."""
        inputs = LeafInputs(list(results), *arguments)
        if meshes.divided_otherwise(inputs.slots, inputs.gradient):
            return False
        return keeps(self.rules.trace((tuple(places), meshes.owners()), inputs).jaxpr, inputs.gradient.size)

    def _until_meeting(self, context: Any, inputs: LeafInputs) -> Done | AtMeeting:
        """The rules one after the other, to their end or up to a meeting that has no results yet."""
        with replayed(Replay(context[0], inputs.results, self.axes)) as replay:
            try:
                return run_rules(self.kernels, replay, inputs)
            except Suspended as e:
                return AtMeeting(e.meeting, e.operands)

    def _ordered(self, context: Any, inputs: LeafInputs) -> Done | AtMeeting:
        """The results of the rules after checks, in the order in which a CPU is to write them."""
        result = self.rules(context, inputs)
        if isinstance(result, Done) and self.kernels[0].of_stack:
            return result
        leaves, structure = jax.tree.flatten(inputs)
        closed, places = self.rules.trace(context, inputs).jaxpr, structure.unflatten(range(len(leaves)))
        if isinstance(result, AtMeeting):
            return self._checked(result, context, inputs, closed, places)
        values, of_values = jax.tree.flatten((result.update, result.slots))
        numbers = {i: (rule, f"state.{name}") for i, (rule, name) in enumerate(sorted(result.numbers), len(values))}
        if numbers:
            self._check_numbers(closed, numbers, places)
        again = lambda leaves: jax.tree.leaves(self.rules(context, structure.unflatten(leaves)))
        overwritten = [places.param, *jax.tree.leaves(places.slots)]
        values = write_order.in_order(closed, values, leaves, overwritten, inputs.chosen, again)
        update, news = of_values.unflatten(values)
        return Done(update, news, result.numbers)

    def _checked(
        self, waiting: AtMeeting, context: Any, inputs: LeafInputs, closed: Any, places: LeafInputs
    ) -> AtMeeting:
        """The contribution of the leaf to a meeting, after checks."""
        meeting, number = waiting.meeting, len(waiting.operands)
        self._check_waits(context, inputs, meeting.place)
        what = f"an argument by name of gdjax.{meeting.place.name}"
        common = {i: (meeting.place.rule, what) for i in range(number - meeting.common, number)}
        self._check_numbers(closed, common, places)
        rows = zip(self.kernels, places.slots, strict=True)
        slots = {i for k, mine in rows for n, x in enumerate(mine) if n not in k.stay for i in jax.tree.leaves(x)}
        if meeting.alike and not any(slots & inputs_of(closed, i) for i in range(number)):
            # 16-bit numbers read for a sum over all leaves are converted again after it. A value computed from a slot
            # is mostly the new slot, and computed once.
            return self.rules(context, jax.tree.map(lambda x: reads.apart(x)[0], inputs))
        return waiting

    def _divided(self, context: Any, inputs: LeafInputs) -> Done | AtMeeting:
        """`__call__` in a mesh of automatic axes, with results divided as the old arrays are."""
        kinds: list[Done | AtMeeting] = []
        apply = functools.partial(self._ordered, context)

        def note(inputs: LeafInputs) -> Array:
            kinds.append(jax.eval_shape(apply, inputs))
            return jnp.zeros(())

        meshes.partitioned(note, None, inputs)
        (kind,), g = kinds, inputs.gradient
        results, structure = jax.tree.flatten(kind)
        olds = (
            [g, *jax.tree.leaves(inputs.slots)]
            if isinstance(kind, Done)
            else [g if x.shape == g.shape else None for x in results]
        )
        like = olds + [None] * (len(results) - len(olds))  # the numbers come last
        return structure.unflatten(meshes.partitioned(lambda inputs: jax.tree.leaves(apply(inputs)), like, inputs))

    def _check_waits(self, context: Any, inputs: LeafInputs, place: Place) -> None:
        """Raises if a rule brings to a meeting arrays computed from the updates of rules before it."""
        if not place.rule:
            return
        direction = numerics.widen(inputs.gradient, real_dtype_of(inputs.gradient, inputs.param))

        def operands(direction: Array) -> Any:
            with replayed(Replay(context[0], inputs.results, self.axes)) as replay:
                try:
                    return run_rules(self.kernels, replay, inputs, begins=(place.rule, direction)).update
                except Suspended as e:
                    return e.operands

        closed = jax.make_jaxpr(operands)(direction)
        if any(0 in inputs_of(closed, i) for i in range(len(closed.jaxpr.outvars))):
            raise rule_checks.ReadsUpdates(place.rule)

    def _check_numbers(self, closed: Any, numbers: Mapping[int, tuple[int, str]], places: LeafInputs) -> None:
        """Raises if a rule computes a number of the whole tree from arguments that differ by leaf.

        Args:
          numbers: outputs for the whole tree, each with the place of its rule and its name.
          places: of the arguments among the inputs.
        """
        of_leaf = {"one array": jax.tree.leaves((places.gradient, places.param, places.slots))}
        for kernel, scalars in zip(self.kernels, places.scalars, strict=True):
            of_leaf |= {name: jax.tree.leaves(scalars[name]) for name in kernel.per_leaf}
        for i, (rule, what) in numbers.items():
            inputs = inputs_of(closed, i)
            for name, places_of in of_leaf.items():
                if inputs.isdisjoint(places_of):
                    continue
                remedy = "take the gdjax.total or gdjax.largest of it"
                if name != "one array":
                    remedy = f"{name} must be one number for the whole tree"
                with rule_checks.raised_by(rule):
                    raise TypeError(f"{what} is one number for the whole tree, and made of {name}: {remedy}")


kernel_of = functools.lru_cache(maxsize=4096)(OneLeaf)


def real_dtype_of(g: Array, p: Array | None) -> Any:
    """The real dtype in which the rules compute."""
    like = [g.dtype] if p is None else [g.dtype, p.dtype]
    return max((numerics.real_dtype(numerics.at_least_float32(d)) for d in like), key=lambda d: d.itemsize)


def run_rules(
    kernels: Sequence[Kernel], replay: Replay, inputs: LeafInputs, begins: tuple[int, Array] | None = None
) -> Done:
    """The results of the rules for a leaf, one after the other.

    Args:
      begins: the place of a rule, and its input in place of the update of the rules before it.
    """
    g, p = inputs.gradient, inputs.param
    real = real_dtype_of(g, p)
    wide, param = numerics.widen(g, real), numerics.widen(p, real)
    direction, news, shared = wide, [], Numbers()
    rows = zip(kernels, inputs.slots, inputs.counts, inputs.shared, inputs.scalars, inputs.raws, strict=True)
    for index, (kernel, slot, count, numbers, scalar, raw) in enumerate(rows):
        replay.rule = index
        if begins is not None and begins[0] == index:
            direction = begins[1]
        fields = [f for f in kernel.State._fields if f != "count" and f not in numbers]
        codes, codecs = dict(zip(fields, slot, strict=True)), dict(kernel.codecs)
        olds = {f: codecs[f].decode(x) if f in codecs else x for f, x in codes.items()}
        old = {f: x if kernel.of_stack else _widened(x, real) for f, x in (olds | numbers).items()}
        s = dict(old)
        if "count" in kernel.State._fields:
            s.setdefault("count", count)
        t = None if count is None else count.astype(real)
        hyper = {k: v for k, _, v in kernel.constants} | {k: numerics.widen(v, real) for k, v in scalar.items()}
        with jax.named_scope(kernel.name), promotion(g), within(PASS, widened=((wide, g), (param, p))):
            with rule_checks.raised_by(index):
                gradient = [wide if raw is None else numerics.widen(raw, real)] if kernel.wraps else []
                s = kernel.State(**s)
                result = rule_checks.called(kernel.rule, index, [direction, *gradient], s, param, t, hyper)
                direction, state = rule_checks.returned(kernel.State, result, direction, olds | numbers)
        changed = {f: x for f in old if (x := getattr(state, f)) is not old[f]}
        coded = {f: codecs[f].encode(jnp.asarray(changed[f])) for f in codecs if f in changed}
        values = codes | changed | coded
        news.append(tuple(_stored(values[f], x) for f, x in codes.items()))
        shared |= {(index, f): stored(changed[f], numbers[f]) for f in numbers if f in changed}
    update = direction.astype(g.dtype)
    # The update of an undivided gradient may be divided, if the state was made from divided parameters.
    return Done(meshes.placed(update, g) if meshes.division(g) else update, news, shared)


def _widened(slot: Any, real: Any) -> Any:
    """A slot as a rule sees it: integers, booleans and PRNG keys as they are, the rest in the rule's dtype."""
    inexact = lambda x: jnp.issubdtype(jnp.asarray(x).dtype, jnp.inexact)
    return jax.tree.map(lambda x: numerics.widen(x, real) if inexact(x) else x, slot)


def _stored(new: Any, old: Any) -> Any:
    """A new slot in the structure of the old one."""
    olds, structure = jax.tree.flatten(old)
    news = jax.tree.leaves(new)
    if hasattr(new, "_fields") and isinstance(old, Mapping):  # nnx makes a State of codes, sorted by their names
        news = [getattr(new, name) for name in sorted(new._fields)]
    return structure.unflatten(map(stored, news, olds))


def stored(new: Any, old: Array) -> Array:
    """`new`, an array or a number, with the dtype and the sharding of `old`."""
    if numerics.is_key(old):
        return meshes.placed(new, old)
    return meshes.placed(new.astype(old.dtype) if isinstance(new, jax.Array) else jnp.asarray(new, old.dtype), old)


def promotion(*gs: Array) -> Any:
    """With complex numbers a rule mixes dtypes on purpose: its hyperparameters and second moments are real."""
    return jax.numpy_dtype_promotion("standard") if any(map(jnp.iscomplexobj, gs)) else contextlib.nullcontext()
