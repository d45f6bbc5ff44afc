"""`in_turns`: what a rule of one matrix does for some of the matrices in each step.

In the trace of a rule it is one equation, at which `gdjax.matrices.segments` cuts it.
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.extend.core import Jaxpr, Primitive

from gdjax import numerics
from gdjax.core import meshes
from gdjax.numerics import Array

WHERE = "call it in a rule of gdjax.matrixwise itself, in no condition, loop or jitted function of it"

LONGEST = 10_000  # steps over which turns are spread: a table has an entry for each
turns_p = Primitive("gdjax_in_turns")
turns_p.multiple_results = True


class Turn(NamedTuple):
    """The parameters of one `in_turns` in a trace.

    Its operands are `due` or `every` where these are needed, then olds, factors and constants.
    """

    jaxpr: Jaxpr  # (first, *olds, *factors) -> news, and constants
    period: int | None  # `every`, where it is an int over which turns are spread
    olds: int  # how many
    factors: int
    start: int  # the step in which a period begins


def in_turns(
    f: Callable[..., Sequence[Array]], every: Any, due: Any = None, *, start: int = 1
) -> Callable[..., list[Array]]:
    """f for the matrices whose turn it is, in a rule of `matrixwise`: `in_turns(f, k)(olds, A, ...) -> news`.

    `f(first, *olds, A, ...)` returns new values for all olds; `first` says whether it is the matrix's first turn. In a
    step in which a matrix has no turn it keeps the olds. Call it in the rule itself, not in a condition or a loop.

    Args:
      f: a function of one matrix.
      every: k, at least 1. For an int up to 10,000 the matrices have their turns one after the other in k steps, spread
        by what they cost, so that no step is long; the side of A says what that is. For a schedule all have theirs in
        the steps 1, k + 1, 2 k + 1, ... None with `due`.
      due: in place of these steps, where all have their turns in one: whether it is this step.
      start: the step in which a period of an int k begins, from 1 to k. A matrix by itself has its turns in the steps
        start, start + k, ...

    Returns:
      A function of the list of olds, and of A and more arrays, that returns the list of the new values.

    Raises:
      TypeError: f returned no array for each old one, or one of another shape; it is called elsewhere than in a rule.

    Example:
      >>> import collections, gdjax, jax.numpy as jnp
      >>> State = collections.namedtuple("State", "count L P")
      >>> @gdjax.matrixwise(State, L=gdjax.Side(0), P=gdjax.Side(0, identity=True))
      ... def one_sided(G, s, p, t, k=10):
      ...     L = s.L + G @ G.T
      ...     (P,) = gdjax.in_turns(lambda first, P, L: [gdjax.inverse_root(L, 2)], k)([s.P], L)
      ...     return P @ G, s._replace(L=L, P=P)
      >>> print(one_sided(k=2).init({"w": jnp.ones((2, 3))}).P["2x3"])  # I until the first turn
      [[[1. 0.]
        [0. 1.]]]
    """

    def call(olds: Sequence[Array], *factors: Array) -> list[Array]:
        olds = [jnp.asarray(x) for x in olds]
        if not factors:
            raise TypeError("gdjax.in_turns: pass the matrix that a turn works on, in_turns(f, every)(olds, A)")

        def news(first: Array, *xs: Any) -> list[Array]:
            given = [
                x if kind is None else jax.random.wrap_key_data(x, impl=kind)
                for x, kind in zip(xs, [*[None] * len(olds), *kinds], strict=True)
            ]
            found = [jnp.asarray(x) for x in f(first, *given)]
            if (got := [x.shape for x in found]) != (wanted := [x.shape for x in olds]):
                raise TypeError(f"gdjax.in_turns: f returned shapes {got} for olds of shapes {wanted}")
            return [new.astype(old.dtype) for new, old in zip(found, olds, strict=True)]

        # A key is an operand as the numbers that it is: stacks of keys have no zeros to start from.
        kinds = [jax.random.key_impl(x) if numerics.is_key(x) else None for x in factors]
        numbers = [x if kind is None else jax.random.key_data(x) for x, kind in zip(factors, kinds, strict=True)]
        olds, numbers = meshes.alike(olds, numbers)
        closed = jax.make_jaxpr(news)(jnp.asarray(True), *olds, *numbers)
        if isinstance(every, int) and every < 1:
            raise ValueError(f"gdjax.in_turns: every must be at least 1, got {every}")
        period = every if isinstance(every, int) and every <= LONGEST else None
        turn = Turn(closed.jaxpr, period, len(olds), len(numbers), start)
        when = [] if period is not None else [jnp.asarray(every if due is None else due)]
        return turns_p.bind(*when, *olds, *numbers, *closed.consts, **turn._asdict())

    return call


@turns_p.def_impl
def _alone(*_: Any, **__: Any) -> Any:
    raise TypeError(f"gdjax.in_turns: {WHERE}")


@turns_p.def_abstract_eval
def _types(*operands: Any, olds: int, period: int | None, **_: Any) -> Any:
    before = int(period is None)
    return list(operands[before : before + olds])
