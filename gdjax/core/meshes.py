"""Where arrays lie and programs run: meshes, owner devices of matrices, memories, platforms.

Inside `shard_map` a type says over which axes of the mesh an array varies. The two branches of a condition must agree
in that, and so must the start and the end of a loop's body. On explicit axes a type says along which axes of the mesh
an array is divided, and an operation whose result could be divided in two ways is an error. Elsewhere, and in releases
of JAX without such types, the functions about axes return their arguments.

An owner device computes a whole matrix: otherwise every product inside a polar factor would exchange it. The step
around the optimizer names the owners, while it is traced and for its own thread only.
"""

import contextlib
import functools
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from typing import Any

import jax
import jax.numpy as jnp
from jax.core import Tracer
from jax.sharding import AbstractMesh, Mesh, NamedSharding, PartitionSpec

from gdjax.core.contexts import WHERE, within
from gdjax.core.types import Array, ArrayLike, ArrayTree, DTypeLike

# Platforms that merge an all-reduce and the choice of a share into one reduce-scatter. Not tried on a GPU.
REDUCES_AND_DIVIDES = ("tpu",)


def owned_by(mesh: Any, tiles: Sequence[Any] = ()) -> AbstractContextManager[None]:
    """While a function is traced here, each matrix of a stack has an owner among the devices of the mesh, if any.

    Args:
      tiles: of `owners.tiles_of`: a hint, by which no number changes.
    """
    return within(WHERE, mesh=None if mesh is None or mesh.size == 1 else mesh, tiles=tuple(tiles))


def mesh() -> Any:
    """The mesh over whose devices stacks of matrices are dealt; None for none, or for one of one device."""
    return WHERE.get().mesh


def owners() -> Any:
    """What a trace depends on: the mesh, and how matrices lie on it."""
    return WHERE.get().mesh, WHERE.get().tiles


def dealt(number: int) -> tuple[int, ...]:
    """The leading axes of a stack of so many matrices in a state: (number,), or with D owners (number / D, D).

    Matrix j is at [j // D, j % D], so that neighbours, which have their turns together, have different owners. The last
    row may have room for more.
    """
    home = mesh()
    return (number,) if home is None else (-(-number // home.size), home.size)


def undealt(stack: Array, number: int | None = None) -> Array:
    """A stack (k, D, ...) as (number, ...); without a number with the places that have no matrix."""
    k, owners, *rest = stack.shape
    return stack.reshape(k * owners, *rest)[:number]  # not -1: a matrix may have no elements


def type_of(x: ArrayTree) -> Any:
    """The type of an array, or of the abstract array that `jax.eval_shape` returns."""
    if isinstance(x, jax.Array):
        return jax.typeof(x) if hasattr(jax, "typeof") else getattr(jax, "core").get_aval(x)  # noqa: B009  # JAX 0.5
    return x


def varying_axes(*trees: ArrayTree) -> frozenset[str]:
    """The axes of a `shard_map` over which any of the arrays varies."""
    return frozenset().union(*(_varying(x) for x in jax.tree.leaves(trees)))


def varying(tree: ArrayTree, axes: frozenset[str]) -> Any:
    """The tree, its arrays cast to types that vary over these axes too."""
    if not axes:
        return tree
    return jax.tree.map(lambda x: _cast(x, tuple(sorted(axes - _varying(x)))), tree)


def alike(*trees: ArrayTree) -> Any:
    """The trees, with every array varying over the axes of all of them."""
    return varying(trees, varying_axes(trees))


def _varying(x: object) -> frozenset[str]:
    kind = type_of(x)
    axes = getattr(getattr(kind, "manual_axis_type", None), "varying", None)
    return axes or getattr(kind, "vma", None) or frozenset()  # `vma` before JAX 0.10


def _cast(x: Array, axes: tuple[str, ...]) -> Any:
    if not axes:
        return x
    if hasattr(jax.lax, "pcast"):
        return jax.lax.pcast(x, axes, to="varying")
    return getattr(jax.lax, "pvary")(x, axes)  # noqa: B009  # JAX 0.6 and 0.7


def cond(chosen: ArrayLike, true: Callable[..., Any], false: Callable[..., Any], *operands: ArrayTree) -> Any:
    """`jax.lax.cond` for branches whose results may vary over different axes of a `shard_map`."""
    if not _in_shard_map():
        return jax.lax.cond(chosen, true, false, *operands)
    common = varying_axes(chosen)
    each = [[common | _varying(x) for x in jax.tree.leaves(jax.eval_shape(f, *operands))] for f in (true, false)]
    axes = [x | y for x, y in zip(*each, strict=False)]  # of each array; JAX says so where there are not as many

    def cast(f: Callable[..., Any]) -> Callable[..., Any]:
        def cast_results(*xs: Any) -> Any:
            leaves, structure = jax.tree.flatten(f(*xs))
            return structure.unflatten([varying(x, a) for x, a in zip(leaves, axes, strict=False)])

        return cast_results

    return jax.lax.cond(chosen, cast(true), cast(false), *operands)


def axes_of_results(functions: Sequence[Callable[..., Any]], *operands: ArrayTree) -> frozenset[str]:
    """The axes over which an operand or a result of a function varies; none outside `shard_map`."""
    if not _in_shard_map():
        return frozenset()
    return varying_axes(operands, *(jax.eval_shape(f, *operands) for f in functions))


def while_loop(unfinished: Callable[[Any], Any], body: Callable[[Any], Any], start: Any) -> Any:
    """`jax.lax.while_loop` for a body whose arrays may vary over more axes of a `shard_map` than the start."""
    if not _in_shard_map():
        return jax.lax.while_loop(unfinished, body, start)
    start = _as_varying_as_the_end(body, start)
    return jax.lax.while_loop(unfinished, lambda x: varying(body(x), varying_axes(start)), start)


def fori_loop(number: int | Array, body: Callable[[Any, Any], Any], start: Any) -> Any:
    """`jax.lax.fori_loop` from 0, for a body whose arrays may vary over more axes than the start."""
    if not _in_shard_map():
        return jax.lax.fori_loop(0, number, body, start)
    start = _as_varying_as_the_end(functools.partial(body, 0), start)
    return jax.lax.fori_loop(0, number, lambda i, x: varying(body(i, x), varying_axes(start)), start)


def _as_varying_as_the_end(body: Callable[[Any], Any], start: Any) -> Any:
    """The start of a loop, cast to vary over all axes of the start and of the result of the body."""
    while axes := varying_axes(start, jax.eval_shape(body, start)) - _common(start):
        start = varying(start, axes | varying_axes(start))
    return start


def _in_shard_map() -> bool:
    return bool(getattr(_mesh(), "manual_axes", ()))


def _mesh() -> Any:
    """The mesh in the context; None in releases of JAX without one."""
    return getattr(jax.sharding, "get_abstract_mesh", lambda: None)()


def _common(tree: ArrayTree) -> frozenset[str]:
    return frozenset.intersection(*(_varying(x) for x in jax.tree.leaves(tree)))


def partitions(spec: PartitionSpec) -> tuple[Any, ...]:
    """The entries of a spec, without the axes over which it is unreduced."""
    return tuple(getattr(spec, "partitions", spec))


def division(x: ArrayTree) -> NamedSharding | None:
    """The sharding of an array that is divided along explicit axes; None for any other."""
    sharding = getattr(type_of(x), "sharding", None)
    if not isinstance(sharding, NamedSharding) or all(axis is None for axis in partitions(sharding.spec)):
        return None
    mesh = sharding.mesh if isinstance(x, Tracer) else x.sharding.mesh  # the mesh of the type names no devices
    return NamedSharding(mesh, PartitionSpec(*partitions(sharding.spec)))


def may_be_divided(x: Array) -> bool:
    """Whether an array is divided along explicit axes, or may be divided over the mesh in the context."""
    mesh = _mesh()
    automatic = any("Auto" in str(kind) for kind in getattr(mesh, "axis_types", ())) and mesh.size > 1
    return automatic or division(x) is not None


def divided_otherwise(tree: ArrayTree, like: Array) -> bool:
    """Whether an array is divided in another way than `like`, or has another shape: operations on both may clash."""
    known, shape = division(like), jnp.shape(like)
    hows = ((how, jnp.shape(x)) for x in jax.tree.leaves(tree) if (how := division(x)) is not None)
    return any((how, size) != (known, shape) for how, size in hows)


def replicated(x: Array) -> Any:
    """x, whole on each device."""
    how = division(x)
    return x if how is None else _put(x, how, PartitionSpec())


def placed(x: Array, like: Array) -> Any:
    """x, divided as `like`, which has the same shape."""
    how = division(like)
    if how == division(x):
        return x
    return replicated(x) if how is None else _put(x, how, how.spec)


def partitioned(f: Callable[..., Any], like: ArrayTree, *trees: ArrayTree) -> Any:
    """f(*trees) with explicit axes automatic inside; its results are divided as the arrays of `like`.

    Where `like` has None, the result is not divided. This is for matrix products, decompositions and reshapes: on
    explicit axes each would have to say how its result is divided. f must not close over arrays.
    """
    hows = [how for x in jax.tree.leaves((like, trees)) if (how := division(x)) is not None]
    if not hows:  # of arrays that lie on no mesh, also where there is one in the context
        explicit = not _in_shard_map() and any("Explicit" in str(kind) for kind in getattr(_mesh(), "axis_types", ()))
        with jax.sharding.use_abstract_mesh(AbstractMesh((), ())) if explicit else contextlib.nullcontext():
            return f(*trees)
    leaves, structure = jax.tree.flatten(trees)
    places = [i for i, x in enumerate(leaves) if isinstance(x, jax.Array)]  # f closes over the rest, such as float0

    def inside(*arrays: Array) -> Any:
        entries = dict(enumerate(leaves)) | dict(zip(places, arrays, strict=True))
        return f(*structure.unflatten(entries.values()))

    spec = lambda x: PartitionSpec() if (how := division(x)) is None else how.spec
    specs = jax.tree.map(spec, like, is_leaf=lambda x: x is None)
    with _in_mesh(hows[0].mesh):
        return jax.sharding.auto_axes(inside, out_sharding=specs)(*(leaves[i] for i in places))


def _in_mesh(mesh: Any) -> Any:
    if not _mesh().empty:
        return contextlib.nullcontext()
    if isinstance(mesh, Mesh) and not isinstance(jnp.zeros(()), Tracer):  # outside of jit operations need its devices
        return jax.sharding.set_mesh(mesh)
    abstract: Any = getattr(mesh, "abstract_mesh", mesh)
    return jax.sharding.use_abstract_mesh(abstract)


def unreduced_axes(x: ArrayTree) -> frozenset[str]:
    """The explicit axes over which x is unreduced: the sum of one addend per device."""
    return frozenset(getattr(getattr(getattr(type_of(x), "sharding", None), "spec", None), "unreduced", ()) or ())


def as_unreduced(x: Array, like: Array, axes: frozenset[str]) -> Any:
    """Zeros x, unreduced over these explicit axes and divided as `like`; without axes x itself."""
    return _respecified(x, like, unreduced=axes) if axes else as_typed(x, like)


def as_factor(x: Array, like: Array) -> Any:
    """The scalar x as a factor of `like`, which may be unreduced."""
    axes = unreduced_axes(like)
    return _respecified(x, like, reduced=axes) if axes else x


def reduced(x: Array, like: Array) -> Any:
    """x, summed over its unreduced axes and divided as `like`."""
    return _respecified(x, like) if unreduced_axes(x) else x


def _respecified(x: Array, like: Array, **tags: frozenset[str]) -> Any:
    how: Any = type_of(like).sharding
    mesh = how.mesh if isinstance(like, Tracer) else getattr(like, "sharding").mesh  # noqa: B009
    axes = partitions(how.spec) if x.ndim == jnp.ndim(like) else ()
    return _put(x, NamedSharding(mesh, PartitionSpec()), PartitionSpec(*axes, *[None] * (x.ndim - len(axes)), **tags))


def as_typed(x: Array, like: Array) -> Any:
    """x, divided as `like` and varying over the axes of `like`."""
    return varying(placed(x, like), _varying(like))


def along(x: Array, p: Array, axes: Sequence[int | None]) -> Array:
    """x, with each axis divided as the axis of p that it follows; None for an axis that follows none."""
    how = division(p)
    if how is None:
        return x
    spec = [*how.spec, *[None] * (jnp.ndim(p) - len(how.spec))]
    return _put(x, how, PartitionSpec(*(None if i is None else spec[i] for i in axes)))


def zeros_along(p: Array, axes: Sequence[int], dtype: DTypeLike, lead: tuple[int, ...] = ()) -> Array:
    """Zeros with axes of the lengths `lead`, then axes as long as these axes of p and divided as they are."""
    x = jnp.zeros([*lead, *(jnp.shape(p)[i] for i in axes)], dtype)
    return along(x, p, [*[None] * len(lead), *axes])


def _put(x: Array, how: NamedSharding, spec: PartitionSpec) -> Any:
    sharding = NamedSharding(how.mesh, spec)
    return jax.device_put(x, sharding) if isinstance(how.mesh, Mesh) else jax.sharding.reshard(x, sharding)


HOST = "pinned_host"  # memory of the host that a device reads and writes directly


def _axis_kinds(mesh: Any) -> list[str]:
    """For each axis of a mesh a text that contains "Auto", "Explicit" or "Manual"."""
    kinds = getattr(mesh, "axis_types", None) or ()
    return [str(kind) for kind in kinds] if isinstance(kinds, tuple) else ["Auto"] * len(mesh.axis_names)


def not_automatic(mesh: Any) -> tuple[str, ...]:
    """The names of the axes that are explicit or manual."""
    return tuple(name for name, kind in zip(mesh.axis_names, _axis_kinds(mesh), strict=True) if "Auto" not in kind)


def typed_axes(sharding: Any) -> tuple[str, ...]:
    """`not_automatic` of the mesh of a sharding; no names where it has no mesh."""
    mesh = getattr(sharding, "mesh", None)
    return () if mesh is None else not_automatic(mesh)


def automatic(mesh: Mesh) -> Any:
    """The mesh with automatic axes only: itself, or, where an axis is not automatic, an abstract mesh."""
    names = not_automatic(mesh)
    if not names:
        return mesh
    return mesh.abstract_mesh.update_axis_types(dict.fromkeys(names, jax.sharding.AxisType.Auto))


def on_one_device(mesh: Mesh) -> Mesh:
    """A mesh of the first device, with axes of the same names and kinds."""
    kinds = getattr(mesh, "axis_types", None)
    types: Any = {"axis_types": kinds} if isinstance(kinds, tuple) else {}
    return Mesh(mesh.devices.reshape(-1)[:1].reshape((1,) * mesh.devices.ndim), mesh.axis_names, **types)


def in_automatic_axes(f: Callable[..., Any], mesh: Mesh, specs: Any) -> Callable[..., Any]:
    """f with the axes of the mesh automatic inside; its results are divided as a tree of specs says."""
    if not not_automatic(mesh):
        return f

    def inside(*args: Any) -> Any:
        with jax.sharding.use_abstract_mesh(mesh.abstract_mesh):
            return jax.sharding.auto_axes(f, out_sharding=specs)(*args)

    return inside


def in_explicit_axes(f: Callable[..., Any], names: tuple[str, ...], specs: Any) -> Callable[..., Any]:
    """f with these automatic axes explicit inside; its arguments enter divided as a tree of specs says."""
    return jax.sharding.explicit_axes(f, axes=names, in_sharding=specs) if names else f


def explicit(names: tuple[str, ...]) -> Any:
    """An abstract mesh of explicit axes of size 1; None without axes, or in a JAX without explicit axes."""
    if not names or not hasattr(jax.lax, "pcast"):
        return None
    kinds = (jax.sharding.AxisType.Explicit,) * len(names)
    return jax.sharding.AbstractMesh((1,) * len(names), names, axis_types=kinds)


def check_host(label: str) -> None:
    """Raises unless a compiled function can keep arrays in the host's memory.

    Raises:
      ValueError: the backend has no such memory.
      RuntimeError: this release of JAX cannot say so in a compiled function.
    """
    device = jax.local_devices()[0]
    kinds = [memory.kind for memory in device.addressable_memories()]
    if HOST not in kinds:
        raise ValueError(f"{label}: {device.platform} has memories of the kinds {kinds}, none of {HOST!r}")
    if not hasattr(jax, "memory"):
        raise RuntimeError(f"{label}: JAX {jax.__version__} has no jax.memory: this needs a later release")


def on_host(x: Array) -> Any:
    return jax.device_put(x, getattr(jax, "memory").Space.Host)  # noqa: B009  # not in the oldest JAX


def on_device(x: Array) -> Any:
    return jax.device_put(x, getattr(jax, "memory").Space.Device)  # noqa: B009


def is_on_host(x: Any) -> bool:
    """Whether an array, or an abstract one, is in the host's memory."""
    if not hasattr(jax, "memory"):
        return False
    return getattr(type_of(x), "memory_space", None) == getattr(jax, "memory").Space.Host  # noqa: B009


def by_platform(*args: Any, default: Callable[..., Any], **others: Callable[..., Any]) -> Any:
    """`jax.lax.platform_dependent`; inside `branches` the choice is already made.

    A choice already made costs no trace of the other functions and no condition in the program.
    """
    chosen = {others.get(kind, default) for kind in WHERE.get().platforms}
    if len(chosen) == 1:
        return chosen.pop()(*args)
    return jax.lax.platform_dependent(*args, default=default, **others)


def branches(*args: Any, default: Callable[..., Any], **others: Callable[..., Any]) -> Any:
    """The same, for functions that call `by_platform` themselves.

    Inside them use `jitted` for `jax.jit`, which would reuse the trace for one kind of device on another.
    """
    kinds: dict[Any, frozenset[str]] = {}
    for kind in WHERE.get().platforms:
        f = others.get(kind, default)
        kinds[f] = kinds.get(f, frozenset()) | {kind}
    inside = {f: functools.partial(_where, platforms, f) for f, platforms in kinds.items()}
    return by_platform(*args, default=inside.get(default, default), **{k: inside.get(f, f) for k, f in others.items()})


def may_be(kind: str) -> bool:
    """Whether the program may run on a device of this kind."""
    return kind in WHERE.get().platforms


def _where(kinds: frozenset[str], f: Callable[..., Any], *args: Any) -> Any:
    with within(WHERE, platforms=kinds):
        return f(*args)


def jitted(f: Callable[..., Any], static: Sequence[int] = ()) -> Callable[..., Any]:
    """`jax.jit` of a function that calls `by_platform`."""
    traced = jax.jit(lambda _, *args: f(*args), static_argnums=(0, *(i + 1 for i in static)))

    @functools.wraps(f)
    def called(*args: Any) -> Any:
        return traced(WHERE.get().platforms, *args)

    return called
