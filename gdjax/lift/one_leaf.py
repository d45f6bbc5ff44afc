"""One leaf: the jitted function that applies a row of rules to one array."""

import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax.core import Tracer

from gdjax.core import meshes
from gdjax.lift.trace import Kernel, Traced, trace
from gdjax.xla import write_order
from gdjax.xla.facts import Evaluation
from gdjax.xla.late_nan import nan_where_not_finite
from gdjax.xla.loops import UPDATE

Array = jax.Array

# What a trace depends on beside the types of its arguments.
CONTEXT = (
    "jax_enable_x64 jax_numpy_dtype_promotion jax_numpy_rank_promotion jax_default_matmul_precision "
    "jax_default_prng_impl"
).split()


class OneLeaf:
    """Rules applied to one leaf, in one function that leaves alike share; called with their counts after this update.

    The rules are traced first, by themselves: the trace shows in which order their results are best written, at which
    calls leaves meet, and what is computed once for all leaves.

    Args:
      to: where the update goes, see `gdjax.xla.write_order.bound_for`.
      axes: those of a `shard_map` over which any leaf varies.
    """

    def __init__(self, kernels: tuple[Kernel, ...], to: str | None, axes: frozenset[str] = frozenset()):
        self.kernels, self.to, self.axes = kernels, to, axes
        self.known: dict[Any, Traced] = {}  # by the types of the arguments

        def apply(given: Any, g: Array, p: Array | None, slots: Any, *rest: Any) -> tuple[Array, Any]:
            # A state that is divided otherwise than its parameter (see `gdjax.state_sharding`) a rule cannot know of.
            if meshes.divided_otherwise(slots, g):
                return meshes.partitioned(self.apply, (g, slots), given, g, p, slots, *rest)
            return self.apply(given, g, p, slots, *rest)

        apply.__name__ = "_".join(k.name for k in kernels)[:80]
        self.call = jax.jit(apply)

    def __call__(
        self, met: list[Array], common: list[Array], chosen: Array | None, *arguments: Any
    ) -> tuple[Array, Any]:
        """The update and the new slots.

        Args:
          met: what has come of the meetings, and the slots that were written before them.
          common: the values of `Traced.common`.
          chosen: of a selection, if what is written in the order of loops is to be selected by it.
        """
        return self.call((met, common, chosen), *arguments)

    def brought(self, meeting: int, met: list[Array], *arguments: Any) -> tuple[list[Array], list[Array]]:
        """The operands of a meeting, given what has come of those before it, and the slots written with them."""
        traced, (g, _, slots, *_) = self.traced(arguments), arguments
        inputs = [*jax.tree.leaves(arguments), *met]
        if not meshes.divided_otherwise(slots, g):
            return traced.brought(meeting, inputs)
        types = [v.aval for v in traced.meetings[meeting].operands]
        olds = jax.tree.leaves(slots)
        like = [g if x.shape == g.shape else None for x in types], [olds[i] for i in traced.early.get(meeting, [])]
        # The rules are traced again, with arrays that are not divided.
        return meshes.partitioned(lambda met, *arguments: self.brought(meeting, met, *arguments), like, met, *arguments)

    def shared(self, met: list[Array], *arguments: Any) -> tuple[Any, Callable[[], list[Array]]]:
        """What decides the values that leaves have in common, and these with the new numbers; see `Traced.found`."""
        traced, (g, _, slots, *_) = self.traced(arguments), arguments
        inputs = [*jax.tree.leaves(arguments), *met]
        shared = [inputs[i] for i in traced.shared]
        if not traced.common and not traced.numbers:
            return None, list
        key = traced.found, *map(id, shared)
        if not meshes.divided_otherwise(slots, g):
            return key, lambda: traced.found(*shared)
        like = [None] * (len(traced.common) + len(traced.numbers))
        return key, lambda: meshes.partitioned(lambda xs, *_: traced.found(*xs), like, shared, g, slots)

    def apply(self, given: tuple[list[Array], list[Array], Array | None], *arguments: Any) -> tuple[Array, Any]:
        _, p, slots, *_ = arguments
        traced, (met, common, chosen) = self.traced(arguments), given
        values = Evaluation.of(traced.closed, [*jax.tree.leaves(arguments), *met])
        values.known.update(zip(traced.common, common, strict=True))
        olds, structure = jax.tree.flatten(slots)
        written = {loop.index for loop in traced.plan.loops}
        results: dict[int, Any] = {i: None if i in written else values.output(i) for i in range(1 + len(olds))}
        for loop in traced.plan.loops:
            memory = lambda i: write_order.written(self.to, p, results[i]) if i == UPDATE else results[i]  # noqa: E731
            firsts = [memory(i) for i in loop.waits]
            if loop.again:
                wait = functools.partial(_waiting, firsts or [results[i] for i in loop.uses])
                x = values.anew(loop.index, loop.uses, wait)
            else:
                x = _waiting(firsts, values.output(loop.index))
            if loop.index in traced.late:
                x = nan_where_not_finite(x, *map(values.value, traced.late[loop.index]))
            if chosen is not None:
                old = jnp.zeros_like(x) if loop.index == UPDATE else olds[loop.index - 1]
                x = jax.lax.select(chosen, x, old)
            if loop.held:
                x = write_order.held(olds[loop.index - 1], x)
            if loop.unrelated:
                x = write_order.over(olds[loop.index - 1], x)
            values.replace(loop.index, x)
            results[loop.index] = x
        update, *news = results.values()
        return update, structure.unflatten(news)

    def traced(self, arguments: tuple[Any, ...]) -> Traced:
        g, _, slots, *_ = arguments
        if not meshes.divided_otherwise(slots, g):
            return self._traced(arguments)
        found: list[Traced] = []

        def note(arguments: Any) -> Array:
            found.append(self._traced(arguments))
            return jnp.zeros(())

        meshes.partitioned(note, None, arguments)  # in which arrays are not divided
        return found[0]

    def _traced(self, arguments: tuple[Any, ...]) -> Traced:
        leaves, structure = jax.tree.flatten(arguments)
        key = structure, *meshes.types_of(leaves), *(getattr(jax.config, name) for name in CONTEXT)
        if key in self.known:
            return self.known[key]
        found = trace(self.kernels, self.to, self.axes, arguments)
        if not any(isinstance(x, Tracer) for x in found.closed.consts):  # which another trace must not see
            self.known[key] = found
        return found


kernel_of = functools.lru_cache(maxsize=4096)(OneLeaf)


def _waiting(firsts: Sequence[Array | None], xs: Any) -> Any:
    """Arrays that are computed after all of the first ones."""
    for first in firsts:
        xs = xs if first is None else write_order.after(first, xs)
    return xs
