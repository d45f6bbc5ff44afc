"""Slots: what the fields of a state hold, of one leaf or of the whole tree."""

import functools
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from gdjax import numerics
from gdjax.core import arrays, base, checks, meshes
from gdjax.core.part import SlotKind
from gdjax.core.types import Array, ArrayTree, Codec, OptState, Params, Transform, is_skipped
from gdjax.lift.one_leaf import stored

__all__ = [
    "Factor", "Integer", "Key", "Moment", "New", "ScaleByScheduleState", "ScheduledState", "Shared", "Stored",
    "first_moment", "initial_parameter", "second_moment",
]  # fmt: skip

Hyperparameters = Mapping[str, Any]


class New(NamedTuple):
    """An axis of a slot that follows no axis of the parameter."""

    length: int


Axes = Sequence[int | New]


class ScaleByScheduleState(NamedTuple):
    """State of a stateless rule that has a scheduled hyperparameter."""

    count: Array  # () int32, updates made so far


class ScheduledState(NamedTuple):
    """State of a rule whose own state has no count and that has a scheduled hyperparameter."""

    count: Array  # () int32, updates made so far
    inner_state: Any  # the rule's own state


@dataclass(frozen=True)
class Moment:
    """A slot shaped like its parameter.

    Its dtype is the value of the hyperparameter called `dtype` or, where that is None, the parameter's. `wide` makes it
    at least float32, `real` makes it real. Without `real` the slot of a complex parameter is complex; a real dtype is
    then that of its parts, float32 at least, because JAX has no narrower complex numbers. Where the hyperparameter is a
    codec, the slot is `Stored`. It starts at `fill`, a number or the name of a hyperparameter.

    `kind` says what it keeps, and so how coarsely `quantize_state` may: "moment", an average of gradients; "slow",
    one over fifty or more, with a decay of 0.98; "matrix", one whose matrix is taken as a whole, as by Muon; "square",
    an average of squares, never negative; "fine", what bears 16 bits and no less, such as a maximum; "exact", what must
    not be rounded, such as a sum that never fades. By default "square" if `real`, else "moment".

    `bounds`, of a square, names the slot of a "moment" of the same gradients that is at most ten times its root, as mu
    of nu in Adam: `quantize_state` then keeps both in one word. A moment of other units, as of gradients over the root,
    must not be named. Where b1 and b2, hyperparameters of these names, are numbers with b1 > 0.975 sqrt(b2), the moment
    fades hardly faster than the root, and they are kept apart.

    Example:
      >>> import collections, gdjax, jax.numpy as jnp
      >>> State = collections.namedtuple("State", "nu")
      >>> @gdjax.leafwise(State, nu=gdjax.Moment(wide=True, fill="start"))
      ... def rss(g, s, p, t, start=0.5):
      ...     nu = s.nu + g**2
      ...     return g / jnp.sqrt(nu), s._replace(nu=nu)
      >>> print(rss().init(jnp.zeros(2, jnp.bfloat16)).nu)
      [0.5 0.5]
    """

    dtype: str = ""
    wide: bool = False
    real: bool = False
    fill: str | float = 0.0
    kind: SlotKind | None = None
    bounds: str = ""

    def __call__(self, p: Any, hyper: Hyperparameters) -> Array:
        dtype = hyper.get(self.dtype)
        of_parameter = _dtype_of(p)
        if dtype is None and not jnp.issubdtype(of_parameter, jnp.inexact):
            dtype = of_parameter
        elif dtype is None or isinstance(dtype, Codec):
            dtype = numerics.at_least_float32(of_parameter) if self.wide else of_parameter
            dtype = numerics.real_dtype(dtype) if self.real else dtype
        elif jnp.issubdtype(of_parameter, jnp.complexfloating) and not self.real:
            dtype = numerics.complex_dtype(dtype)
        return jnp.full_like(p, start(self.fill, hyper), dtype=dtype)


@dataclass(frozen=True)
class Factor:
    """A slot along some axes of its parameter: sums of rows, one number, a Kronecker factor, a projection.

    `axes` has an entry for each axis of the slot: the number of the parameter's axis that it follows, whose length it
    has, or `New(length)`. () is one number; (0, 0) is a square of the rows, divided along the first of them on a mesh;
    (0, New(8)) are eight columns. A function `(shape, hyper)` gives axes that depend on the shape or on
    hyperparameters; a list of such tuples gives a list of arrays.

    It is at least float32, real unless `real` is False and the parameter complex, and starts at `fill`, a number or the
    name of a hyperparameter. With `identity` it starts at I, a square. `kind` as in `Moment`.

    Example:
      >>> import collections, gdjax, jax.numpy as jnp
      >>> State = collections.namedtuple("State", "rows")
      >>> @gdjax.leafwise(State, rows=gdjax.Factor((0,)))
      ... def by_rows(g, s, p, t):
      ...     rows = s.rows + jnp.sum(g**2, axis=1)
      ...     return g / jnp.sqrt(rows)[:, None], s._replace(rows=rows)
      >>> by_rows().init(jnp.zeros((3, 2))).rows.shape
      (3,)
    """

    axes: Axes | Sequence[Axes] | Callable[[tuple[int, ...], Hyperparameters], Axes | Sequence[Axes]] = ()
    fill: str | float = 0.0
    real: bool = True
    identity: bool = False
    kind: SlotKind = "exact"

    def __call__(self, p: Any, hyper: Hyperparameters) -> Any:
        return self._of_each(np.shape(p), hyper, lambda axes: self._along(p, axes, hyper))

    def _followed(self, shape: tuple[int, ...], hyper: Hyperparameters) -> Any:
        """The axis that each axis of the slot follows, none twice; a list of these for a list of arrays."""
        return self._of_each(shape, hyper, lambda axes: _once(axes, len(shape)))

    def _of_each(self, shape: tuple[int, ...], hyper: Hyperparameters, f: Callable[[Axes], Any]) -> Any:
        axes: Any = self.axes(shape, hyper) if callable(self.axes) else self.axes
        several = any(not isinstance(a, int | np.integer | New) for a in axes)
        return list(map(f, axes)) if several else f(axes)

    def _along(self, p: Any, axes: Axes, hyper: Hyperparameters) -> Array:
        shape, n = np.shape(p), np.ndim(p)
        if wrong := [a for a in axes if not isinstance(a, New) and not -n <= a < n]:
            raise ValueError(f"gdjax.Factor: a parameter of shape {shape} has no axis {wrong[0]}")
        sizes = [a.length if isinstance(a, New) else shape[a] for a in axes]
        real = numerics.widest_real(p)
        dtype = real if self.real or not jnp.iscomplexobj(p) else numerics.complex_dtype(real)
        if self.identity:
            full = jnp.broadcast_to(jnp.eye(sizes[-1], dtype=dtype), sizes)
        else:
            full = jnp.full(sizes, start(self.fill, hyper), dtype)
        return meshes.along(full, p, _once(axes, n))


def _once(axes: Axes, n: int) -> tuple[int | None, ...]:
    followed = [None if isinstance(a, New) else int(a % n) for a in axes]
    return tuple(a if a not in followed[:i] else None for i, a in enumerate(followed))


@dataclass(frozen=True)
class Integer:
    """A slot of integers, or of booleans, which reach the rule as they are: one for each leaf, or for each element.

    It starts at `fill`, a number or the name of a hyperparameter.

    Example:
      >>> import collections, gdjax, jax.numpy as jnp
      >>> State = collections.namedtuple("State", "large")
      >>> @gdjax.leafwise(State, large=gdjax.Integer())
      ... def counted(g, s, p, t):
      ...     return g, s._replace(large=s.large + jnp.any(jnp.abs(g) > 1).astype(jnp.int32))
      >>> _, state = counted().update(jnp.array([0.5, 3.0]), counted().init(jnp.zeros(2)))
      >>> print(state.large)
      1
    """

    fill: str | int = 0
    dtype: Any = jnp.int32
    each: bool = False

    def __call__(self, p: Any, hyper: Hyperparameters) -> Array:
        first = start(self.fill, hyper)
        return jnp.full_like(p, first, dtype=self.dtype) if self.each else jnp.full((), first, self.dtype)


@dataclass(frozen=True)
class Key:
    """A slot of one PRNG key for each leaf, all of them different.

    They come from `seed`: an integer, a key, or the name of a hyperparameter that is one of these. In two groups with
    one seed they are the same in both: give each its own. A rule splits its key, uses one half and returns the other:
    `key, now = jax.random.split(s.key)`.

    Example:
      >>> import collections, gdjax, jax, jax.numpy as jnp
      >>> State = collections.namedtuple("State", "key")
      >>> @gdjax.leafwise(State, key=gdjax.Key(seed=7))
      ... def noisy(g, s, p, t):
      ...     key, now = jax.random.split(s.key)
      ...     return g + jax.random.normal(now, g.shape, g.dtype), s._replace(key=key)
      >>> noisy().init({"w": jnp.zeros(2), "b": jnp.zeros(3)}).key["w"].shape
      ()
    """

    seed: Any = 0

    def __call__(self, p: Any, hyper: Hyperparameters, number: int = 0) -> Array:
        seed = hyper[self.seed] if isinstance(self.seed, str) else self.seed
        return jax.random.fold_in(arrays.fresh_key(seed), number)


@dataclass(frozen=True)
class Stored:
    """Another slot, whose real numbers a codec keeps: it decodes before the rule and encodes after it, in one pass.

    The rule gets and returns float32 numbers of the slot's shape. The state has the codes.

    Example:
      >>> import collections, gdjax, jax, jax.numpy as jnp
      >>> State = collections.namedtuple("State", "mu")
      >>> coded = gdjax.Stored(gdjax.Moment(), gdjax.bfloat16_with_error)
      >>> @gdjax.leafwise(State, mu=coded)
      ... def momentum(g, s, p, t):
      ...     return 0.9 * s.mu + g, s._replace(mu=0.9 * s.mu + g)
      >>> sum(x.nbytes for x in jax.tree.leaves(momentum().init(jnp.zeros(100))))
      300
    """

    slot: Callable[[Any, Hyperparameters], Array]
    codec: Codec

    def __call__(self, p: Any, hyper: Hyperparameters) -> Any:
        x = self.slot(p, hyper)
        if numerics.is_key(x) or not jnp.issubdtype(x.dtype, jnp.floating) or x.dtype.itemsize > 4:
            raise TypeError(f"{self.codec!r} keeps real numbers of 32 bits or less, got {x.dtype}")
        return self.codec.encode(x.astype(jnp.float32))


@dataclass(frozen=True)
class Shared:
    """A field of the state that is one number for the whole tree.

    It has the dtype `dtype` or, where that is None, the widest real dtype of the parameters, float32 at least.
    It starts at `fill`, a number or the name of a hyperparameter.

    Example:
      >>> import collections, gdjax, jax.numpy as jnp
      >>> State = collections.namedtuple("State", "total")
      >>> total = gdjax.Shared(1.0)
      >>> @gdjax.leafwise(State, total=total)
      ... def fading(g, s, p, t):
      ...     return s.total / 2 * g, s._replace(total=s.total / 2)
      >>> print(fading().update(jnp.array([3.0]), fading().init(jnp.zeros(1)))[0])
      [1.5]
    """

    fill: str | float | bool = 0.0
    dtype: Any = None

    def __call__(self, params: Sequence[Any], hyper: Hyperparameters) -> Array:
        dtype = numerics.widest_real(params) if self.dtype is None else self.dtype
        return jnp.asarray(start(self.fill, hyper)).astype(dtype)


def start(fill: str | float, hyper: Hyperparameters) -> Any:
    """The number `fill`, or the hyperparameter of that name, a schedule at its first value."""
    x: Any = hyper[fill] if isinstance(fill, str) else fill
    return checks.scalar("gdjax.init", str(fill), x(jnp.zeros((), jnp.int32))) if callable(x) else x


def resolved(slot: Any, hyper: Hyperparameters) -> Any:
    """The slot; as `Stored` if it is a moment whose dtype hyperparameter is a codec."""
    codec = hyper.get(slot.dtype) if isinstance(slot, Moment) else None
    return Stored(slot, codec) if isinstance(codec, Codec) else slot


def first(label: str, slots: Sequence[Any], paths: Sequence[Any], hyper: Hyperparameters, number: int) -> list[Any]:
    """The first values of slots for each parameter, in their final dtypes; keys are numbered from `number`."""
    values = []
    for i, (slot, (path, p)) in enumerate(zip(slots, paths, strict=True), number):
        trained = jnp.issubdtype(_dtype_of(p), jnp.inexact)
        if not trained and not _is_kept_untrained(slot, p, hyper):
            values.append(base.MaskedNode())
            continue
        try:
            value = slot(p, hyper, i) if isinstance(slot, Key) else slot(p, hyper)
        except (TypeError, ValueError) as e:
            if isinstance(slot, Stored | Factor):
                e.args = (f"{label}: params{jax.tree_util.keystr(path)}: {e}",)
            raise
        value = jax.tree.map(_settled, value)
        if not trained and isinstance(slot, Factor):
            value = jax.tree.map(functools.partial(jax.lax.convert_element_type, new_dtype=_dtype_of(p)), value)
        values.append(value)
    return values


def _is_kept_untrained(slot: Any, p: Any, hyper: Hyperparameters) -> bool:
    """Whether the state keeps a slot for a parameter of integers or booleans, which is not trained.

    It does where Optax does, so that Optax's checkpoints load and moments map with the parameters; not for a slot
    larger than the parameter, such as a Kronecker factor.
    """
    if isinstance(slot, Factor):
        small = lambda axes: len({*axes}) == len(axes) and all(a.length == 1 for a in axes if isinstance(a, New))
        return bool(np.all(slot._of_each(np.shape(p), hyper, small)))
    return isinstance(slot, Integer) or is_like_parameter(slot)


def _settled(x: Any) -> Any:
    """x with a strong dtype, which Python numbers and arrays made from them lack."""
    if hasattr(x, "dtype") and not getattr(x, "weak_type", False):
        return x
    x = jnp.asarray(x)
    return jax.lax.convert_element_type(x, x.dtype)


def _dtype_of(p: Any) -> Any:
    return jax.dtypes.canonicalize_dtype(p.dtype if hasattr(p, "dtype") else type(p))


def kind_of(slot: Any) -> SlotKind:
    """The kind of a slot."""
    if isinstance(slot, Moment):
        return slot.kind or ("square" if slot.real else "moment")
    return slot.kind if isinstance(slot, Factor) else "exact"


# In steps without gradients m / sqrt(v) fades by b1 / sqrt(b2). Above this the errors of some forty steps add up in it.
SLOWEST = 0.975


def bounded_by(slot: Any, slots: Mapping[str, Any], hyper: Hyperparameters) -> str:
    """The name of the slot that the root of a slot of squares bounds; "" for none."""
    if not isinstance(slot, Moment) or kind_of(slot) != "square":
        return ""
    decays = [x for x in map(hyper.get, ("b1", "b2")) if isinstance(x, int | float | np.number)]
    fades = len(decays) < 2 or decays[0] <= SLOWEST * math.sqrt(decays[1])
    return slot.bounds if fades and kind_of(slots.get(slot.bounds)) == "moment" else ""


def is_like_parameter(slot: Any) -> bool:
    """Whether the slot is one array that is known to have the shape of the parameter."""
    return isinstance(slot, Moment) or slot is initial_parameter


def initial_parameter(p: Any, hyper: Hyperparameters) -> Array:
    """A copy of the parameter given to `init`, so that both can be donated; zeros if that is only a shape."""
    if isinstance(p, jax.ShapeDtypeStruct):
        return jnp.zeros(p.shape, p.dtype)
    return jnp.array(p, dtype=jnp.result_type(p), copy=True)  # a named dtype makes it strong


first_moment = Moment("mu_dtype")
slow_moment = Moment("mu_dtype", kind="slow")
matrix_moment = Moment("mu_dtype", kind="matrix")
second_moment = Moment("nu_dtype", wide=True, real=True, bounds="mu")


@dataclass(frozen=True)
class Whole:
    """A field of the state that belongs to the whole tree.

    It starts as `init(params, arguments)`, from the tree of parameters and the arguments of the factory, which include
    `label`, the name in errors. A rule of one array sees None in its place, unless it is `seen`.

    Args:
      reads: the arguments that only the start needs, "table size": the rule gets None for them. If one is a
        transform, the field is its state.
      check: raises for wrong arguments when the factory is called.
    """

    init: Callable[[Any, Mapping[str, Any]], Any]
    reads: str = ""
    seen: bool = False
    check: Callable[[Mapping[str, Any]], object] | None = None


@dataclass(frozen=True)
class Planned:
    """A slot that starts as `init(params, arguments)`: a list with an entry for each leaf of the parameters.

    For slots whose start needs the whole tree, such as dimension numbers given as a tree. `MaskedNode` where a leaf
    has no slot. `reads` as in `Whole`.
    """

    init: Callable[[Any, Mapping[str, Any]], list[Any]]
    reads: str = ""


def read_by(slots: Mapping[str, Any]) -> list[str]:
    """The arguments that only the starts of slots read."""
    seeds = [x.seed for x in slots.values() if isinstance(x, Key) and isinstance(x.seed, str)]
    return seeds + [name for x in slots.values() if isinstance(x, Planned | Whole) for name in x.reads.split()]


class Tree(NamedTuple):
    """The tree behind lists of its leaves with gradients, and the other arguments of `update`."""

    label: str
    structure: Any
    paths: Sequence[Any]
    entries: Sequence[Any]  # of all leaves, also without a gradient
    trained: Sequence[bool]
    params: Params
    extra_args: dict[str, Any]

    def extra(self, names: Sequence[str]) -> dict[str, Array]:
        """These arguments of `update`, which are numbers."""
        if missing := ", ".join(f"{name}=..." for name in names if name not in self.extra_args):
            text = f"this transform needs {missing}: call update(updates, state, params, {missing})"
            raise ValueError(f"{self.label}: {text}")
        return {name: checks.extra(self.label, name, self.extra_args[name]) for name in names}

    def unflattened(self, xs: Sequence[Any]) -> Any:
        """The tree of updates, with the entries of a list in place of the gradients."""
        return self.structure.unflatten(self.filled(xs, self.entries))

    def filled(self, xs: Iterable[Any], others: Sequence[Any]) -> list[Any]:
        """A list for all leaves: an entry of xs for each leaf with a gradient, of `others` for any other."""
        each = iter(xs)
        return [next(each) if is_trained else other for other, is_trained in zip(others, self.trained, strict=True)]

    def listed(self, name: str, tree: ArrayTree) -> list[Any]:
        """The entries of a tree, called `name` in errors, for the leaves with gradients."""
        like = self.structure.unflatten(self.entries)
        full = checks.flatten_like(self.label, ("updates", name), self.structure, like, tree)
        return self.chosen(full)

    def of_each(self, xs: Sequence[Any]) -> list[Any]:
        """The entries of a list for leaves with gradients; the list has none for a leaf that is None or masked."""
        each = iter(xs)
        return self.chosen([None if is_skipped(entry) else next(each) for entry in self.entries])

    def chosen(self, full: Sequence[Any]) -> list[Any]:
        return [x for x, is_trained in zip(full, self.trained, strict=True) if is_trained]

    def updated(
        self, tx: Transform, xs: Sequence[Any], state: OptState, params: Params = None
    ) -> tuple[list[Any], Any]:
        """The `update` of a transform for a list: updates, and a state in the form of the old one."""
        new, new_state = base.call_update(tx, self.unflattened(xs), state, params, self.extra_args)
        olds, structure = jax.tree.flatten(state)
        new_state = structure.unflatten(map(stored, jax.tree.leaves(new_state), olds))
        return self.listed("updates of the inner transform", new), new_state
