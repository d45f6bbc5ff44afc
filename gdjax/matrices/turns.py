"""Turns: a function of some of the matrices of a stack in each step.

A step works on a run of the stack that begins where a table says, so all matrices of a stack have one program.
"""

import itertools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax.extend.core import ClosedJaxpr, jaxpr_as_fun

from gdjax.core import meshes
from gdjax.matrices.in_turns import Turn
from gdjax.numerics import Array
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
      turn: its function is of `first`, the olds and the factors of one matrix to new olds, with these constants.
      count: with this update.
      when: where all have their turn in one step, in how many steps that is, or whether it is this one; else None.
      numbers: how many have their turn in each step of a period; else None.
    """
    if turn.period is not None:
        step, first, due = (count - turn.start) % turn.period, count <= turn.period, None
    elif when.dtype == jnp.bool_:
        step, first, due = jnp.zeros_like(count), count == 1, when
    else:
        k = jnp.maximum(when, 1).astype(count.dtype)
        step, first, due = jnp.zeros_like(count), count == 1, (count - 1) % k == 0
    traced = jaxpr_as_fun(ClosedJaxpr(turn.jaxpr, list(constants)))
    factors, olds = meshes.alike(list(factors), list(olds))

    def of_one(a: Array, olds: Sequence[Array], *others: Array) -> list[Array]:
        return list(traced(first, *olds, a, *others))

    def work(factors: Sequence[Array], olds: Sequence[Array]) -> list[Array]:
        a, *others = factors
        return of_run(of_one, a, olds, others, step, numbers or [len(a)])

    return work(factors, olds) if due is None else meshes.cond(due, work, lambda _, olds: olds, factors, olds)


def of_run(
    f: Callable[..., Sequence[Array]],
    a: Array, olds: Sequence[Array], others: Sequence[Array], step: Array, numbers: Sequence[int],
) -> list[Array]:  # fmt: skip
    """`olds` with what f makes of the matrices whose turn it is in their places.

    Args:
      f: from A, the olds and the others, of one matrix, to new olds.
      a, olds, others: stacks, of one length.
      step: of the period.
      numbers: how many matrices have their turn in each step of it, one run after the other.
    """
    starts = itertools.accumulate(numbers[:-1], initial=0)
    start, number = (jnp.asarray(list(x), step.dtype)[step] for x in (starts, numbers))
    most = max(numbers)

    # What a condition is given or returns may be copied: so it is the matrices whose turn it is, not the stacks.
    def one(i: Any, a: Array, olds: list[Array], others: list[Array]) -> list[Array]:
        take = lambda x: jax.lax.dynamic_index_in_dim(x, start + i, keepdims=False)  # noqa: E731
        mine = list(map(take, olds))
        given = take(a), mine, list(map(take, others))
        news = meshes.cond(i < number, made, lambda _, mine, __: mine, *given)
        put = lambda x, y: jax.lax.dynamic_update_index_in_dim(x, y, start + i, 0)  # noqa: E731
        return list(map(put, olds, news))

    def made(x: Array, olds: list[Array], others: list[Array]) -> list[Array]:
        return [new.astype(old.dtype) for new, old in zip(f(x, olds, *others), olds, strict=True)]

    def one_by_one(a: Array, olds: list[Array], others: list[Array]) -> list[Array]:
        return meshes.fori_loop(most, lambda i, olds: one(i, a, olds, others), olds)

    def at_once(a: Array, olds: list[Array], others: list[Array]) -> list[Array]:
        low = jnp.minimum(start, len(a) - most)  # a run may be shorter than the longest, and at the end
        places = low + jnp.arange(most, dtype=low.dtype)
        own = ((places >= start) & (places < start + number))[:, None, None]
        part = lambda x: jax.lax.dynamic_slice_in_dim(x, low, most)  # noqa: E731

        def kept(x: Array, mine: list[Array], others: list[Array]) -> list[Array]:
            news = jax.vmap(made)(x, mine, others)
            return [jnp.where(own, new, old) for new, old in zip(news, mine, strict=True)]

        given = part(a), list(map(part, olds)), list(map(part, others))
        news = kept(*given) if min(numbers) > 0 else meshes.cond(number > 0, kept, lambda _, mine, __: mine, *given)
        return [jax.lax.dynamic_update_slice_in_dim(old, new, low, 0) for old, new in zip(olds, news, strict=True)]

    given = a, list(olds), list(others)
    large = max(x.shape[-1] * x.shape[-2] for x in (a, *olds)) >= LARGE
    if most == 1:
        return one(0, *given)
    if not large or meshes.may_be_divided(a):
        return at_once(*given)
    return jax.lax.platform_dependent(*given, cpu=one_by_one, default=at_once)
