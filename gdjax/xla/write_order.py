"""The order in which XLA:CPU computes: it decides what is overwritten in place and which memory is used again.

- `in_order`: all of it for the results of one leaf.
- `after`, `held`, `kept`, `once`, `all_first`, `own`: what is computed before what, and what is computed once.
- `parts`, `taken`: parts of a stack, in loops that XLA:CPU compiles once and runs without copies of the stack.
- `product`: an array times one number, where XLA would rewrite, copy or slow down a plain product.
- `before_branch`, `in_branch`: where to compute a value that both branches of a condition need first.
- `over`: for a GPU, on which nothing waits.
"""

import itertools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend.core import ClosedJaxpr, jaxpr_as_fun
from jax.typing import ArrayLike

from gdjax.core import meshes
from gdjax.core.arrays import add, is_key
from gdjax.core.meshes import by_platform, jitted
from gdjax.core.types import Array
from gdjax.xla import reads
from gdjax.xla.loops import Loop, loops_of, made_of, writes_several

LARGE = 2**16  # elements of an array from which on its memory and the order of what is done with it matter


ORDERED = True  # False leaves the order to XLA: two thirds of the recipes then move the same bytes


def in_order(
    closed: ClosedJaxpr, results: Sequence[Array], inputs: Sequence[Any], overwritten: Sequence[int | None],
    chosen: Array | None, again: Callable[[list[Any]], list[Array]],
) -> list[Array]:  # fmt: skip
    """The results of the rules of one leaf, the update and the new slots, in an order that copies nothing on a CPU.

    Args:
      closed: the traced rules, from `inputs` to `results` and numbers.
      overwritten: for each result the place of the input that it overwrites, of the update that of the parameter.
      chosen: whether the step is made; where it is not, the update is 0 and the slots stay. None for always.
      again: the rules, of other inputs.
    """
    values, size = list(results), results[0].size
    param = None if overwritten[0] is None else inputs[overwritten[0]]
    plain = (Loop(i, (), "result", False, False) for i in range(len(values)))
    for loop in loops_of(closed, overwritten, size, chosen is not None) if ORDERED else plain:
        i, x, old = loop.index, values[loop.index], overwritten[loop.index] if loop.index else None
        firsts = [values[j] if j else new_parameter(param, values[0]) for j in loop.waits]
        if loop.tied == "own":
            alone = made_of(closed, i, [closed.jaxpr.outvars[j] for j in loop.given])
            (x,) = jaxpr_as_fun(alone)(*(own(y, i) for y in inputs), *(values[j] for j in loop.given))
        elif loop.waits and loop.tied != "result":
            like_leaf = [j for j, y in enumerate(inputs) if jnp.size(y) == size]
            x = again(_waiting(firsts, inputs, [overwritten[i]] if loop.tied == "place" else like_leaf))[i]
        if firsts and loop.tied in ("own", "result"):
            (x,) = _waiting(firsts, [x], [0])
        if chosen is not None:
            x = jax.lax.select(chosen, x, jnp.zeros_like(x) if old is None else inputs[old])
        if old is not None:
            x = held(inputs[old], x) if loop.held else x
            x = over(inputs[old], x) if loop.unrelated else x
        values[i] = x
    return values


def _waiting(firsts: Sequence[Array | None], xs: Sequence[Any], tied: Sequence[int | None]) -> list[Any]:
    """Arrays `xs`, of which those at `tied` are read only after all of `firsts` exist."""
    later = list(xs)
    for first in firsts:
        for i in tied if first is not None else ():
            assert i is not None
            later[i] = after(first, later[i])
    return later


def new_parameter(p: Array | None, update: Array) -> Array | None:
    """What a step writes to memory of the update of a leaf, if the parameter is known."""
    return None if p is None else add(p, update)


@jitted
def after(first: Array, rest: Any) -> Any:
    """`rest` unchanged, made to depend on one element of `first`, so that XLA:CPU computes `first` before it.

    - An array that `first` is computed from is then overwritten in place after that, where XLA would otherwise copy it:
      a params-sized temporary and 2.6 times the step for Lion. `first` may be what the caller computes too, as the new
      parameters: XLA does so once.
    - Temporaries of `rest` lie where those of `first` were.
    - XLA cannot tell that an expression of `rest` is one it has already, and computes it again instead of keeping it.

    On other devices one kernel writes it all, and the dependency, which would part it in two, is not there. Nor is it
    where `first` is divided over devices, to which one of its elements would have to be sent, or where only `first`
    varies over the axes of a `shard_map`.
    """
    if first.size == 0 or meshes.may_be_divided(first):
        return rest
    one, axes = _one(jnp.real(first[(0,) * first.ndim])), meshes.varying_axes(first)

    def tied(x: Array) -> Array:
        if is_key(x) or not axes <= meshes.varying_axes(x):
            return x
        return reads.with_flipped(x, one != 1) if x.dtype.itemsize == 2 else x * one.astype(x.dtype)

    return jax.tree.map(tied, rest)


def held(old: Array, new: Array) -> Array:
    """`new` unchanged. Later loops read it, and without this XLA:CPU computes it again inside each of them."""
    if not jnp.issubdtype(new.dtype, jnp.inexact):
        return new
    return by_platform(old, new, cpu=_or, default=lambda _, new: new)


def over(old: Array, new: Array) -> Array:
    """`new` unchanged, which takes the place of `old` and is not made of it.

    On a GPU a kernel writes over an array only what it makes of it, element by element; what else is to lie there is
    copied afterwards. Here XLA sees a selection from both.
    """
    if not jnp.issubdtype(new.dtype, jnp.inexact):
        return new
    return by_platform(old, new, cuda=_or, rocm=_or, default=lambda _, new: new)


def kept(x: Array) -> Array:
    """`x` unchanged. Several loops read it, and without this XLA:CPU computes it again inside each of them."""
    return by_platform(x, cpu=lambda x: _or(jnp.zeros_like(x), x), default=lambda x: x)


_COMPARISONS = (jax.lax.eq, jax.lax.lt, jax.lax.gt, jax.lax.le, jax.lax.ge)


def own(x: Any, number: int) -> Any:
    """`x` unchanged, of floating arrays an expression of its own for each number above 0.

    XLA:CPU writes several outputs in one loop only where they share no more than inputs: else it writes to memory what
    they share. That x is no NaN of these bits it cannot tell, as `never`.
    """
    if not number or is_key(x) or not jnp.ndim(x) or not jnp.issubdtype(x.dtype, jnp.floating):
        return x
    payload, kind = divmod(number - 1, len(_COMPARISONS))
    nan = (np.asarray(np.nan, x.dtype).view(f"int{8 * x.dtype.itemsize}") + payload).view(x.dtype)
    chosen = lambda x: jax.lax.select(_COMPARISONS[kind](x, nan), jnp.full_like(x, nan), x)
    return by_platform(x, cpu=chosen, default=lambda x: x)


def _or(old: Array, new: Array) -> Array:
    return jax.lax.select(never(new), old, new)


def all_first(f: Callable[..., list[Array]], olds: list[Array], *others: Any) -> list[Array]:
    """`f(olds, *others)`, arrays in the places of the old ones: all are written to memory before any is put there.

    The old arrays are slices of larger ones, in which the new ones take their places, in a loop. XLA:CPU would compute
    each new one where it is put, from old ones that lie in the larger arrays: it then copies those as a whole, in each
    round. Of a branch it writes all results, and before it what the branch reads. Elsewhere there is no branch.
    """
    first = next((x for x in olds if jnp.issubdtype(x.dtype, jnp.inexact) and x.size), None)
    if first is None:
        return f(olds, *others)
    e = jnp.real(first[(0,) * first.ndim])
    always = lambda e: ~never(e)
    chosen = by_platform(e, cpu=always, default=lambda e: jnp.asarray(True))
    news = meshes.cond(chosen, f, lambda olds, *others: olds, olds, *others)
    return list(jax.lax.optimization_barrier(tuple(news)))


def never(x: Array) -> Array:
    """Whether x is equal to NaN: false, which XLA cannot tell, and LLVM can, so that no kernel computes it."""
    return _floating(x) == jnp.nan


def in_loops_of_its_own(f: Callable[..., Any], found: Any, *args: Any) -> Any:
    """`f(*args)`, which is `found`: computed once more where XLA:CPU writes several outputs in one loop.

    It would write to memory what that loop shares with another one, as decoded words with that of updates.
    """
    return f(*jax.tree.map(kept, args)) if writes_several() else found


def own_zero(x: Array) -> Array | int:
    """0; where XLA:CPU writes several outputs in one loop, one of x alone: what loops share it writes to memory."""
    return never(x).astype(jnp.uint32) if writes_several() else 0


def in_one_turn(turn: Callable[[Array, Any], Any], x: Any, word: Array) -> Any:
    """`turn(0, x)`, in a loop of which XLA does not know that it has one turn; `word` is any unsigned integer.

    What the turn makes of the count is then neither computed before the loop, together with that of other loops, nor
    kept for a later one.
    """
    return meshes.fori_loop(jnp.where((word | 1) > 0, 1, 0), turn, x)


def _floating(x: Array) -> Array:
    return x if jnp.issubdtype(x.dtype, jnp.inexact) else x.astype(jnp.float32)


def once(x: Any) -> Any:
    """`x` unchanged, a real scalar as the result of a division, which XLA:CPU computes once for all that read it.

    Cheaper operations on scalars it makes part of every loop that reads them, and compiles them each time: of a warm-up
    cosine 31 for each leaf.
    """
    scalar = isinstance(x, jax.Array) and x.ndim == 0 and jnp.issubdtype(x.dtype, jnp.floating)
    return _divided(x) if scalar else x


@jitted
def _divided(x: Array) -> Array:
    return x / _one(x)


def _one(e: Array) -> Array:
    """1, which XLA:CPU cannot tell."""
    hidden = lambda e: (_floating(e) != jnp.nan).astype(e.dtype)
    return by_platform(e, cpu=hidden, default=jnp.ones_like)


FEW = 4  # up to so many parts there is little to save


def parts(stack: Array, numbers: Sequence[int]) -> list[Array]:
    """The stack cut along its first axis into parts of these lengths.

    XLA:CPU compiles equal loops once. Loops that read parts of a stack differ in a constant, the start of the part, so
    each is compiled: 1,000 of 64 x 64 in 8.5 s. Here the start is the result of a condition that never holds, which XLA
    cannot know: 1.3 s. On other devices, and of a stack that is divided, it is a constant.
    """
    starts = list(itertools.accumulate(numbers[:-1], initial=0))
    if len(numbers) <= FEW or stack.size == 0 or meshes.mesh() is not None or meshes.may_be_divided(stack):
        return [jax.lax.slice_in_dim(stack, a, a + n) for a, n in zip(starts, numbers, strict=True)]

    one = jnp.real(stack[(0,) * stack.ndim])
    places = [jnp.asarray(a, jnp.uint32) for a in starts]  # XLA would test a signed integer for being negative
    places = by_platform(one, places, cpu=_by_itself, default=lambda _, starts: starts)
    return [jax.lax.dynamic_slice_in_dim(stack, a, n) for a, n in zip(places, numbers, strict=True)]


def taken(stacks: Sequence[Array], i: ArrayLike) -> list[Array]:
    """Element i of each stack, none of them empty, for the body of a loop that writes over the stacks.

    XLA:CPU would read the elements again at each use, also after it has written new ones: so it copies the whole stacks
    in each iteration. Here a condition that never holds returns the elements, in memory of their own: SOAP of 48
    matrices of 384 x 384 takes 91 ms instead of 320. Only for a loop on a CPU.
    """
    xs = [jax.lax.dynamic_index_in_dim(x, i, keepdims=False) for x in stacks]
    return _by_itself(jnp.real(xs[0][(0,) * xs[0].ndim]), xs)


def _by_itself(e: Array, xs: list[Array]) -> list[Array]:
    """xs, as the result of a condition that never holds and that would return other arrays."""
    alike: dict[Any, list[int]] = {}
    for i, x in enumerate(xs):
        alike.setdefault((x.shape, x.dtype), []).append(i)
    other = {i: same[n - 1] for same in alike.values() for n, i in enumerate(same)}
    others = lambda xs: [x + 1 if other[i] == i else xs[other[i]] for i, x in enumerate(xs)]
    return meshes.cond(never(e), others, lambda xs: xs, xs)


OWN = 2**13  # from so many elements on a copy of the factor costs; small arrays share compiled loops


# Up to JAX 0.11 XLA:CPU drops a barrier early enough to fuse both sides. Since 0.12 it writes the operand of a barrier
# to memory: a sum of squares takes ten times as long.
LASTING = jax.__version_info__ >= (0, 12)


def product(x: Array, factor: Array) -> Array:
    """The product, safe to square: XLA would square a constant x and the factor separately, maybe 0 times inf."""
    factor = factor.astype(x.dtype)
    y = x * factor
    if LASTING:
        # This is y: adding -0 changes no number, and XLA cannot know that it is -0. A minimum with infinity would not
        # do: XLA:CPU loses NaN in a minimum whose results it adds up.
        return y + jnp.where(jnp.isnan(factor), factor, -jnp.zeros_like(factor))
    return jax.lax.optimization_barrier(y)


def selected_product(x: Array, factor: Array) -> Array:
    """`product` for devices on which the barrier would copy. On a CPU this one copies."""
    always, factor = jax.lax.optimization_barrier((jnp.asarray(True), factor))
    return jnp.where(always, x * factor.astype(x.dtype), x)


def own_factor(x: Array, factor: Array) -> Array:
    """The factor, separate for each large x: XLA:CPU broadcasts to memory a factor that equal shapes share.

    Not for an x of 16 bits, which would be read once more.
    """
    return after(x, factor) if x.size > OWN and x.dtype.itemsize > 2 else factor


def before_branch(f: Callable[..., Any], x: Any, *others: Any) -> Any:
    """`f(x, *others)` if it is better computed before a condition; x if `in_branch` is to compute it.

    A GPU or a TPU computes it in the loops of each branch, and does not write it to memory. XLA:CPU cannot write a
    result of a branch over an input that several loops of the branch read.
    """
    axes = meshes.axes_of_results((f,), x, *others)  # both results are of one type
    made = lambda x, *others: meshes.varying(f(x, *others), axes)
    return jax.lax.platform_dependent(x, *others, cpu=made, default=lambda x, *others: meshes.varying(x, axes))


def in_branch(f: Callable[..., Any], x: Any, *others: Any) -> Any:
    """`f(x, *others)`, for an x from `before_branch`."""
    axes = meshes.axes_of_results((f,), x, *others)
    made = lambda x, *others: meshes.varying(f(x, *others), axes)
    return jax.lax.platform_dependent(x, *others, cpu=lambda x, *others: meshes.varying(x, axes), default=made)
