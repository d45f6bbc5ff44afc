"""`in_turns`: what a rule of one matrix does for some of the matrices in each step.

Each step of a period works on a run of the stack, matrices that lie side by side. A table has the start and the length
of each run, so all steps have one program, which contains the function once.

A rule runs for one matrix, whose place in the stack is known, or under `jax.vmap` for all of them. In a run for one a
turn is a condition. Under `vmap` it is a function with a batching rule of its own, which cuts the run out of the stack.
"""

import itertools
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.extend.core import ClosedJaxpr, jaxpr_as_fun

from gdjax import numerics
from gdjax.core import meshes
from gdjax.lift import meetings
from gdjax.numerics import Array

__all__ = ["in_turns"]

LONGEST = 10_000  # steps over which turns are spread: a table has an entry for each


class Turn(NamedTuple):
    """One `in_turns` of a rule."""

    f: Callable[..., list[Array]]  # (first, olds, factors) -> news
    period: int | None  # `every`, where it is an int over which turns are spread
    start: int  # the step in which a period begins
    when: list[Array]  # `due` or `every` where there is no period

    def now(self, count: Array, when: Sequence[Array]) -> tuple[Array, Array, Array]:
        """In the step of this count: its number in the period, whether its turns are first ones, whether there are any.

        Args:
          when: the turn's, as it is seen from where all the matrices are.
        """
        if self.period is not None:
            return (count - self.start) % self.period, count <= self.period, jnp.asarray(True)
        (due,) = when
        if due.dtype != jnp.bool_:
            due = (count - 1) % jnp.maximum(due, 1).astype(count.dtype) == 0
        return jnp.zeros_like(count), count == 1, due


def spread(stacks: Mapping[Any, tuple[float, int]], k: int) -> dict[Any, list[int]]:
    """How many matrices of each stack have their turn in each of k steps, so that these have about as much to do.

    Args:
      stacks: the cost of one of its matrices, and their number. Those of the first are spread first.
    """
    numbers, done = {}, [0.0] * k
    for stack, (cost, number) in stacks.items():
        share, rest = divmod(number, k)
        free = sorted(range(k), key=done.__getitem__)[:rest]  # the steps with least to do
        numbers[stack] = [share + (step in free) for step in range(k)]
        done = [d + cost * n for d, n in zip(done, numbers[stack], strict=True)]
    return numbers


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
      TypeError: f returned no array for each old one, or one of another shape; it is called elsewhere than in a rule,
        or in a condition, a loop or a jitted function of it.

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

    if isinstance(every, int) and every < 1:
        raise ValueError(f"gdjax.in_turns: every must be at least 1, got {every}")

    def call(olds: Sequence[Array], *factors: Array) -> list[Array]:
        turns = meetings.replaying("in_turns")
        if turns is None or turns.turns is None:
            raise TypeError("gdjax.in_turns: call it in a rule of gdjax.matrixwise")
        olds = [jnp.asarray(x) for x in olds]
        if not factors:
            raise TypeError("gdjax.in_turns: pass the matrix that a turn works on, in_turns(f, every)(olds, A)")
        # A key is an operand as the numbers that it is: stacks of keys have no zeros to start from.
        kinds = [jax.random.key_impl(x) if numerics.is_key(x) else None for x in factors]

        def news(first: Array, olds: Sequence[Array], numbers: Sequence[Array]) -> list[Array]:
            pairs = zip(numbers, kinds, strict=True)
            operands = [x if kind is None else jax.random.wrap_key_data(x, impl=kind) for x, kind in pairs]
            results = [jnp.asarray(x) for x in f(first, *olds, *operands)]
            if (got := [x.shape for x in results]) != (wanted := [x.shape for x in olds]):
                raise TypeError(f"gdjax.in_turns: f returned shapes {got} for olds of shapes {wanted}")
            return [new.astype(old.dtype) for new, old in zip(results, olds, strict=True)]

        numbers = [x if kind is None else jax.random.key_data(x) for x, kind in zip(factors, kinds, strict=True)]
        period = every if isinstance(every, int) and every <= LONGEST else None
        when = [] if period is not None else [jnp.asarray(every if due is None else due)]
        return turns.turns.taken(Turn(news, period, start, when), *meshes.alike(olds, numbers))

    return call


class Noted(NamedTuple):
    """What decides how the turns of one `in_turns` are spread."""

    period: int | None
    side: int  # of the matrix that a turn works on


class Runs(NamedTuple):
    """Which matrices of a stack have their turn in each step of a period: for each owner a run of its own.

    Matrices lie at their owners as `meshes.dealt` has them: j at place j // D of owner j % D. So a run of neighbours is
    a run at each owner, of as many or one fewer.
    """

    starts: Sequence[Sequence[int]]  # for each owner and step
    lengths: Sequence[Sequence[int]]

    @classmethod
    def of(cls, numbers: Sequence[int], owners: int) -> "Runs":
        """Of so many matrices in each step, which lie side by side."""
        ends = [0, *itertools.accumulate(numbers)]
        at = [[-(-(end - owner) // owners) for end in ends] for owner in range(owners)]
        return cls([x[:-1] for x in at], [[b - a for a, b in itertools.pairwise(x)] for x in at])

    @property
    def most(self) -> int:
        return max(map(max, self.lengths))

    @property
    def least(self) -> int:
        return min(map(min, self.lengths))

    def now(self, owner: Any, step: Array) -> tuple[Array, Array]:
        """The start and the length of the run of an owner in a step."""
        start, length = (jnp.asarray(list(map(list, x)), step.dtype)[owner, step] for x in self)
        return start, length


class Turns:
    """The turns of the matrices of a stack, in one run of their rule.

    Args:
      count: with this update.
      runs: for each `in_turns` of the rule in their order; of one step where there is no period. None for a run that
        only notes which turns there are.
      owner: the number of the device whose matrices they are; 0 where one has all.
      place: of the matrix at its owner, if the rule runs for one; None under `vmap`.
    """

    def __init__(self, count: Array, runs: Sequence[Runs] | None, owner: Any = 0, place: Any = None):
        self.count, self.runs, self.owner, self.place = count, runs, owner, place
        self.noted: list[Noted] = []

    def taken(self, turn: Turn, olds: list[Array], factors: list[Array]) -> list[Array]:
        """The olds after the turns of this step."""
        self.noted.append(Noted(turn.period, factors[0].shape[-1]))
        if self.runs is None:
            return olds
        runs = self.runs[len(self.noted) - 1]
        if self.place is None:
            return self._of_stack(turn, runs, olds, factors)
        step, first, due = turn.now(self.count, turn.when)
        start, number = runs.now(self.owner, step)
        due &= (self.place >= start) & (self.place < start + number)
        return meshes.cond(due, lambda *xs: turn.f(first, *xs), lambda olds, _: olds, olds, factors)

    def _of_stack(self, turn: Turn, runs: Runs, olds: list[Array], factors: list[Array]) -> list[Array]:
        """The olds of one matrix under `vmap`, after the turns of this step."""
        closed = jax.make_jaxpr(turn.f)(True, olds, factors)

        @jax.custom_batching.custom_vmap
        def kept(when: Any, olds: list[Array], factors: list[Array], consts: list[Array]) -> list[Array]:
            return olds

        @kept.def_vmap
        def _(n: int, batched: Any, when: Any, olds: Any, factors: Any, consts: Any) -> Any:
            if any(batched[0]):
                raise TypeError("gdjax.in_turns: every or due must be the same for all matrices")
            step, first, due = turn.now(self.count, when)
            stack = lambda x, is_batched: x if is_batched else jnp.broadcast_to(x, (n, *x.shape))
            olds, factors = list(map(stack, olds, batched[1])), list(map(stack, factors, batched[2]))
            stacked = [x for x, is_batched in zip(consts, batched[3], strict=True) if is_batched]

            def of_one(olds: list[Array], factors: list[Array], stacked: list[Array]) -> list[Array]:
                each = iter(stacked)
                known = [next(each) if is_batched else x for x, is_batched in zip(consts, batched[3], strict=True)]
                return list(jaxpr_as_fun(ClosedJaxpr(closed.jaxpr, known))(first, *olds, *factors))

            run = runs.now(self.owner, step)
            work = lambda olds, *others: _of_run(of_one, runs, run, olds, *others)
            still = lambda olds, *_: olds
            operands = olds, factors, stacked
            news = work(*operands) if turn.period else meshes.cond(due, work, still, *operands)
            return news, [True] * len(news)

        return kept(turn.when, olds, factors, closed.consts)


def _of_run(
    f: Callable[..., list[Array]], runs: Runs, run: tuple[Array, Array], olds: list[Array], *others: list[Array]
) -> list[Array]:
    """The olds, those of the run of this step replaced by what f makes of them and of the others of one matrix.

    It computes the longest run, of which a shorter one is a part: matrices outside of it keep their olds. A compiler
    may copy what goes into a condition and comes out of it: that is the run, never the stack.
    """
    (start, number), most = run, runs.most
    low = jnp.minimum(start, len(olds[0]) - most)
    places = low + jnp.arange(most, dtype=low.dtype)
    in_run = (places >= start) & (places < start + number)

    def replaced(olds: list[Array], *others: list[Array]) -> list[Array]:
        chosen = lambda new, old: jnp.where(in_run.reshape(-1, *[1] * (old.ndim - 1)), new, old)
        return list(map(chosen, jax.vmap(f)(olds, *others), olds))

    part = [[jax.lax.dynamic_slice_in_dim(x, low, most) for x in xs] for xs in (olds, *others)]
    news = replaced(*part) if runs.least > 0 else meshes.cond(number > 0, replaced, lambda olds, *_: olds, *part)
    return [jax.lax.dynamic_update_slice_in_dim(old, new, low, 0) for old, new in zip(olds, news, strict=True)]
