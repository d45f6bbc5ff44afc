"""Turns: in each step a function of some of the matrices of a stack.

Each step of a period works on a run of the stack, matrices that lie side by side. A table has the start and the length
of each run, so all steps have one program, which contains the function once.
"""

import functools
import itertools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax.extend.core import ClosedJaxpr, jaxpr_as_fun

from gdjax.core import homes, meshes
from gdjax.matrices.in_turns import Turn
from gdjax.numerics import Array
from gdjax.xla import at_home
from gdjax.xla.write_order import LARGE


def spread(stacks: Mapping[Any, tuple[float, int]], k: int) -> dict[Any, list[int]]:
    """How many matrices of each stack have their turn in each of k steps, so that these have about as much to do.

    Args:
      stacks: the cost of one of its matrices, and their number. Those of the first are spread first.
    """
    found, done = {}, [0.0] * k
    for stack, (cost, number) in stacks.items():
        share, rest = divmod(number, k)
        free = sorted(range(k), key=done.__getitem__)[:rest]  # the steps with least to do
        found[stack] = [share + (step in free) for step in range(k)]
        done = [d + cost * n for d, n in zip(done, found[stack], strict=True)]
    return found


def turned(
    turn: Turn, olds: Sequence[Array], factors: Sequence[Array], constants: Sequence[Array], count: Array, when: Any,
    numbers: Sequence[int] | None,
) -> list[Array]:  # fmt: skip
    """The olds of a stack after the turns of this step.

    Args:
      turn: one `in_turns` of a rule.
      olds, factors: its operands, as stacks.
      constants: what its function needs besides.
      count: with this update.
      when: None for a period. Otherwise all matrices have their turn in one step: a number k, for every k-th, or
        whether it is this one.
      numbers: the length of the run of each step of the period; None where there is no period.
    """
    if turn.period is not None:
        step, first, due = (count - turn.start) % turn.period, count <= turn.period, None
    else:
        step, first, due = jnp.zeros_like(count), count == 1, when
        if when.dtype != jnp.bool_:
            due = (count - 1) % jnp.maximum(when, 1).astype(count.dtype) == 0
    traced = jaxpr_as_fun(ClosedJaxpr(turn.jaxpr, list(constants)))
    olds, factors = meshes.alike(list(olds), list(factors))

    def of_one(olds: Sequence[Array], factors: Sequence[Array]) -> list[Array]:
        return list(traced(first, *olds, *factors))

    def work(olds: Sequence[Array], factors: Sequence[Array]) -> list[Array]:
        return _of_run(of_one, olds, factors, step, numbers or [len(olds[0])])

    return work(olds, factors) if due is None else meshes.cond(due, work, lambda olds, _: olds, olds, factors)


def _of_run(
    f: Callable[[list[Array], list[Array]], list[Array]],
    olds: Sequence[Array], factors: Sequence[Array], step: Array, numbers: Sequence[int],
) -> list[Array]:  # fmt: skip
    """The olds, those of the run of this step replaced by what f makes of olds and factors of one matrix."""
    starts = itertools.accumulate(numbers[:-1], initial=0)
    start, number = (jnp.asarray(list(x), step.dtype)[step] for x in (starts, numbers))
    most, everything = max(numbers), (list(olds), list(factors))

    # A compiler may copy what goes into a condition and comes out of it: that is the run, never the stack.
    def one(i: Any, olds: list[Array], factors: list[Array]) -> list[Array]:
        take = lambda xs: [jax.lax.dynamic_index_in_dim(x, start + i, keepdims=False) for x in xs]  # noqa: E731
        news = meshes.cond(i < number, f, lambda olds, _: olds, take(olds), take(factors))
        put = lambda x, y: jax.lax.dynamic_update_index_in_dim(x, y, start + i, 0)  # noqa: E731
        return list(map(put, olds, news))

    def one_by_one(olds: list[Array], factors: list[Array]) -> list[Array]:
        return meshes.fori_loop(most, lambda i, olds: one(i, olds, factors), olds)

    def at_once(olds: list[Array], factors: list[Array]) -> list[Array]:
        """The longest run, of which a shorter one is a part: matrices outside of it keep their olds."""
        low = jnp.minimum(start, len(olds[0]) - most)
        places = low + jnp.arange(most, dtype=low.dtype)
        own = (places >= start) & (places < start + number)
        part = lambda xs: [jax.lax.dynamic_slice_in_dim(x, low, most) for x in xs]  # noqa: E731

        def replaced(olds: list[Array], factors: list[Array]) -> list[Array]:
            chosen = lambda new, old: jnp.where(own.reshape(-1, *[1] * (old.ndim - 1)), new, old)  # noqa: E731
            of_all = jax.vmap(f) if homes.mesh() is None else functools.partial(at_home.computed, jax.vmap(f))
            return list(map(chosen, of_all(olds, factors), olds))

        run = part(olds), part(factors)
        news = replaced(*run) if min(numbers) > 0 else meshes.cond(number > 0, replaced, lambda olds, _: olds, *run)
        return [jax.lax.dynamic_update_slice_in_dim(old, new, low, 0) for old, new in zip(olds, news, strict=True)]

    if most == 1 and homes.mesh() is None:
        return one(0, *everything)
    large = max(x.shape[-1] * x.shape[-2] for x in (*olds, factors[0])) >= LARGE
    if not large or meshes.may_be_divided(olds[0]) or homes.mesh() is not None:
        return at_once(*everything)
    return jax.lax.platform_dependent(*everything, cpu=one_by_one, default=at_once)
