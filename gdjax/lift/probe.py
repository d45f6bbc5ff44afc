"""An update tried on small random numbers, which tell what it does."""

import itertools
import math
import re
import warnings
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jax.extend.core import ClosedJaxpr, Literal, jaxpr_as_fun

from gdjax.core import base
from gdjax.core.contexts import WHERE, within
from gdjax.core.parts import calls_of, known
from gdjax.core.types import Array, ArrayTree, OptState, Params, Transform
from gdjax.numerics import is_key
from gdjax.xla.loops import compiled

ZERO, SAME = "zero", "same"  # an update that is always 0, and one that equals the gradient
# The counters of a state are set to these in turn, to show schedules and periods of so many steps.
_COUNTS = [*(10**k - d for k in range(2, 8) for d in (0, 1)), *range(40), *(2**k - 1 for k in range(6, 25))]
_LARGE = 2**22  # most numbers in a tree that is tried at its own size


def gradients_like(shapes: ArrayTree) -> Any:
    """The shapes of gradients; None for a leaf that has none: integers, keys."""
    return jax.tree.map(lambda x: x if jnp.issubdtype(x.dtype, jnp.inexact) else None, shapes)


def update_kinds(tx: Transform, shapes: Params, extra_args: Mapping[str, Any] | None = None) -> list[str | None]:
    """For each gradient the kind of its update: `ZERO`, `SAME`, or None for anything else.

    It tries gradients of several sizes, at steps close to each other and far apart; for `SAME` infinite gradients and
    NaN too.

    Raises:
      Exception: whatever `init` and `update` raise, for instance where an argument is missing.
    """
    counts = counts_of(tx)
    sizes = [*itertools.islice(itertools.cycle([2.0**-10, -1.0, 2.0**10, 1.0]), len(counts)), math.inf, math.nan]
    cases = np.asarray([*counts, 0, 0], np.int32)

    def each(params: Params, grads: Any, counts: Array) -> Any:
        params = with_keys(params)

        def step(state: OptState, case: Any) -> Any:
            updates, new = base.call_update(tx, case[0], counted(state, case[1]), params, dict(extra_args or {}))
            return like(new, state), updates

        return jax.lax.scan(step, like(tx.init(params)), (grads, counts))[1]

    def find(shapes: Params) -> list[str | None]:
        params, grads = numbers((shapes, gradients_like(shapes)), _few_bits())
        with np.errstate(all="ignore"):
            grads = jax.tree.map(lambda x: np.multiply.outer(np.asarray(sizes, x.dtype), x), grads)
        updates = tried(each, params, grads, cases)
        return [_fate(g, u, len(counts)) for g, u in zip(*map(jax.tree.leaves, (grads, updates)), strict=True)]

    return _at_a_small_size(find, shapes)


def _fate(g: Any, u: Any, finite: int) -> str | None:
    if not np.any(u[:finite]):
        return ZERO
    return SAME if u.shape == g.shape and np.all((u == g) | (u != u) & (g != g)) else None


def _at_a_small_size(find: Callable[[Any], Any], shapes: ArrayTree) -> Any:
    """`find` of shorter shapes; of these if the transform holds arrays that fit no others."""
    try:
        return find(jax.tree.map(lambda x: shortened(x, 3), shapes))
    except Exception:
        if sum(math.prod(x.shape) for x in jax.tree.leaves(shapes)) > _LARGE:
            raise
        return find(shapes)


def shortened(x: Any, most: int, but: int = 0, block: int = 1, axes: int | None = None) -> Any:
    """The shape with axes not much longer than `most`, but those of length `but`.

    Equal lengths stay equal, others different, a longer one longer, and each leaves the same rest in blocks. Of the
    first `axes` that is so; those after them are short.
    """
    new, last = dict[int, int](), most
    for n in sorted({n for n in x.shape[:axes] if n > most and n != but}):
        last = next(k for k in itertools.count(last + 1) if k % block == n % block and k != but)
        new[n] = last
    first = [new.get(n, n) for n in x.shape[:axes]]
    rest = [n if n == but else min(n, 9) for n in x.shape[len(first) :]]
    return jax.ShapeDtypeStruct((*first, *rest), x.dtype)


def numbers(shapes: ArrayTree, draw: Callable[[tuple[int, ...]], Any]) -> Any:
    """NumPy arrays of these shapes: floating ones from `draw`, others of 0 and 1. Keys stay shapes."""

    def of(x: Any) -> Any:
        if is_key(x):
            return x
        if jnp.issubdtype(x.dtype, jnp.complexfloating):
            return (draw(x.shape) + 1j * draw(x.shape)).astype(x.dtype)
        if jnp.issubdtype(x.dtype, jnp.floating):
            return draw(x.shape).astype(x.dtype)
        return (np.arange(math.prod(x.shape)) % 2).reshape(x.shape).astype(x.dtype)

    return jax.tree.map(of, shapes)


def _few_bits() -> Callable[[tuple[int, ...]], Any]:
    """Draws nonzero numbers of 4 bits, which narrow dtypes hold exactly."""
    random = np.random.default_rng(0)
    return lambda shape: (2 * random.integers(-8, 8, shape) + 1) / np.float64(16)


def with_keys(tree: ArrayTree) -> Any:
    """The tree with keys in place of the shapes of keys."""
    of = lambda x: jnp.broadcast_to(jax.random.key(0), x.shape) if is_key(x) else jnp.asarray(x)
    return jax.tree.map(of, tree)


class Effects(Exception):
    """An update that prints or calls back to Python is not tried."""


def tried(f: Callable[..., Any], *args: Any) -> Any:
    """`f(*args)` of NumPy arrays, compiled and run at once, also inside a trace, with warnings ignored.

    A tracer that f closes over, such as a traced learning rate, is 0.5.

    Raises:
      Exception: whatever f raises.
      Effects: f has effects.
    """
    with warnings.catch_warnings(action="ignore"), within(WHERE, tried=True):
        # A new function, so that JAX traces it and takes no trace from its cache.
        closed, shapes = jax.make_jaxpr(lambda *args: f(*args), return_shape=True)(*args)
        if closed.effects:
            raise Effects
        of = lambda x: np.full(x.shape, 0.5).astype(x.dtype) if isinstance(x, Tracer) else x
        whole = jaxpr_as_fun(ClosedJaxpr(closed.jaxpr, [of(x) for x in closed.consts]))
        leaves = jax.tree.leaves(args)
        program = compiled(jax.jit(whole).lower(*leaves), sum(x.size for x in leaves))
        results = jax.device_get(program(*leaves))  # no call that an outer trace would see
    return jax.tree.structure(shapes).unflatten(results)


def made(jaxpr: Any, kinds: Sequence[Hashable]) -> list[Hashable]:
    """How each output is made, apart from shapes: by which operations, of which kinds of inputs, of how many of them.

    Integers may differ, as the places of arrays do, which random bits are made of.
    """
    texts: dict[int, str] = {}  # by `id`: leaves of one shape share functions, which are long

    def text(x: Any) -> str:
        if id(x) not in texts:
            texts[id(x)] = re.sub(r"[(\[][\d, ]*[)\]]|\s", "", str(x)) + str([*map(id, getattr(x, "consts", ()))])
        return texts[id(x)]

    of: dict[Any, tuple[Hashable, frozenset[Any]]] = {v: (v, frozenset([v])) for v in jaxpr.constvars}
    of |= {v: (kind, frozenset([v])) for v, kind in zip(jaxpr.invars, kinds, strict=True)}

    def known(v: Any) -> tuple[Hashable, frozenset[Any]]:
        if not isinstance(v, Literal):
            return of[v]
        dtype = jnp.result_type(v.val)
        return (dtype, "" if jnp.issubdtype(dtype, jnp.integer) else str(v.val)), frozenset()

    for e in jaxpr.eqns:
        ins = [known(v) for v in e.invars]
        how = hash((e.primitive, *map(text, e.params.values()), *(x for x, _ in ins)))
        inputs = frozenset[Any]().union(*(vs for _, vs in ins))
        of |= {v: ((how, i), inputs) for i, v in enumerate(e.outvars)}
    return [(how, len(inputs)) for how, inputs in map(known, jaxpr.outvars)]


def counted(state: OptState, count: Array) -> Any:
    """The state with all its counters (integer scalars) at this number; unchanged if it is below 0."""
    counts = lambda x: not is_key(x) and jnp.issubdtype(x.dtype, jnp.integer) and not x.ndim
    return jax.tree.map(lambda x: jnp.where(count < 0, x, count.astype(x.dtype)) if counts(x) else x, state)


def like(state: OptState, old: OptState | None = None) -> Any:
    """The state as arrays, of the dtypes of an old one."""
    arrays = jax.tree.map(jnp.asarray, state)
    return arrays if old is None else jax.tree.map(lambda x, y: x if is_key(x) else x.astype(y.dtype), arrays, old)


def counts_of(tx: Transform) -> list[int]:
    """Values to try for its counters: first those just below the integers among its arguments."""
    return [*sorted({n - d for n in _integers(tx) for d in (0, 1, 2) if n >= d}), *_COUNTS]


def _integers(tx: Transform) -> Iterator[int]:
    for call in calls_of(tx):
        yield from (x for x in call.arguments.values() if isinstance(x, int) and 0 <= x < 2**31)
    for inside in known(tx).inside():
        yield from () if inside.tx is None else _integers(inside.tx)
