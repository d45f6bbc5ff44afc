"""Where the arrays of a state lie on a mesh: each device keeps its share of them."""

import contextlib
import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.core import Tracer
from jax.sharding import AbstractMesh, Mesh, NamedSharding, PartitionSpec

from gdjax.core import base, meshes
from gdjax.core.arrays import shape_of
from gdjax.core.parts import state_arrays
from gdjax.core.types import OptState, Params, Transform
from gdjax.numerics import is_key

__all__ = ["state_sharding"]

LABEL = "gdjax.state_sharding"
Axes = tuple[str, ...]  # the axes of the mesh that divide one axis of an array


class _Axis(NamedTuple):
    """What is known of one axis of an array in the state."""

    follows: bool  # whether it follows an axis of a parameter
    division: Axes  # of that axis of the parameter, and so of this one


def state_sharding(
    tx: Transform, params: Params, mesh: Mesh | AbstractMesh, axis: str = "data", *, min_bytes: int = 2**14
) -> OptState:
    """The shardings that divide the state of any optimizer over an axis of a mesh, as in ZeRO's first stage.

        shardings = gdjax.state_sharding(tx, params, mesh)
        state = jax.jit(tx.init, out_shardings=shardings)(params)

    Each array of the state is divided along its longest axis that the size of the mesh's axis divides. Axes that follow
    an axis of a parameter, as both of a moment do, come before the others. An axis that follows a divided axis of the
    parameter is divided in the same way, and not again; nor is an array that `axis` divides already. Scalars, PRNG
    keys, small arrays and arrays without an axis that can be divided are whole on every device.

    Args:
      tx: any transform.
      params: arrays, or shapes as of `jax.ShapeDtypeStruct`. How they are divided is read from their shardings.
      mesh: of automatic or explicit axes.
      axis: the name of the axis of the mesh over which the state is divided.
      min_bytes: smaller arrays are not divided over `axis`.

    Returns:
      A tree like `tx.init(params)`, of `NamedSharding`s: `out_shardings` for `init` under `jax.jit`, which then makes
      no array as a whole, and `in_shardings` and `out_shardings` for the state of a training step. What `offload_state`
      keeps in the host's memory is there.

    Raises:
      ValueError: the mesh has no such axis, or lacks one over which a parameter is divided.
      TypeError: tx is no transform, or mesh no mesh.

    Example:
      >>> import gdjax, jax, jax.numpy as jnp
      >>> mesh = jax.sharding.Mesh(jax.devices()[:1], ("data",))
      >>> tx, params = gdjax.adam(1e-3), {"w": jnp.zeros((128, 64))}
      >>> shardings = gdjax.state_sharding(tx, params, mesh)
      >>> state = jax.jit(tx.init, out_shardings=shardings)(params)
      >>> tuple(gdjax.tree.get(state, "mu")["w"].sharding.spec)
      ('data', None)

    Reference:
      Rajbhandari et al. 2020, ZeRO: memory optimizations toward training trillion parameter models, section 5.1,
      https://arxiv.org/abs/1910.02054
    """
    base.check_transform(LABEL, "tx", tx)
    check_axis(LABEL, mesh, axis)
    leaves, structure = jax.tree_util.tree_flatten_with_path(params)
    shapes = structure.unflatten([shape_of(p) for _, p in leaves])
    divisions = [_division(path, p, mesh) for path, p in leaves]
    # A function of its own: JAX would give the trace of tx.init again, with owner devices and without.
    traced, state = jax.make_jaxpr(lambda params: tx.init(params), return_shape=True)(shapes)
    kinds = [meshes.HOST if meshes.is_on_host(x) else None for x in traced.out_avals]
    known = _known(tx, state, shapes, divisions)

    def sharding(x: Any, axes: Sequence[_Axis] | None, kind: str | None) -> NamedSharding:
        if axes is None:
            return NamedSharding(mesh, PartitionSpec(None, mesh.axis_names, *[None] * (x.ndim - 2)), memory_kind=kind)
        small = is_key(x) or x.size * x.dtype.itemsize < min_bytes
        spec = PartitionSpec(*_divided(x.shape, axes, mesh.shape, None if small else axis))
        return NamedSharding(mesh, spec, memory_kind=kind)

    xs, structure = jax.tree.flatten(state)
    return structure.unflatten(map(sharding, xs, known, kinds))


def check_axis(label: str, mesh: Any, axis: str) -> None:
    if not isinstance(mesh, Mesh | AbstractMesh):
        raise TypeError(f"{label}: mesh must be a jax.sharding.Mesh, got {mesh!r}")
    if axis not in mesh.shape:
        raise ValueError(f"{label}: got axis={axis!r}, but the axes of the mesh are {_names(mesh.shape)}")
    for name in mesh.shape:
        if not name.isascii() or "\\" in name:
            raise ValueError(
                f"{label}: the compiler ends the process at an axis of the mesh called {name!r}: give it a name in "
                "ASCII, without a backslash"
            )


def shares(label: str, params: Params, mesh: Mesh | AbstractMesh, axis: str, min_bytes: int) -> tuple[Any, Any]:
    """How parameters lie on the mesh, and how an array of the state that is like one is divided: trees of shardings.

    In the second, `axis` divides what it can, as `state_sharding` has it for a moment of 4 bytes a number.
    """

    def place(path: Any, p: Any, divides: bool) -> NamedSharding:
        axes = [_Axis(True, division) for division in _division(path, p, mesh, label)]
        return NamedSharding(mesh, PartitionSpec(*_divided(p.shape, axes, mesh.shape, axis if divides else None)))

    def large(p: Any) -> bool:
        return p.size * max(p.dtype.itemsize, 4) >= min_bytes

    map_with_path = jax.tree_util.tree_map_with_path
    shardings = map_with_path(lambda path, p: place(path, p, False), params)
    return shardings, map_with_path(lambda path, p: place(path, p, large(p)), params)


def axes_of(entry: Any) -> Axes:
    """The axes of the mesh in an entry of a `PartitionSpec`."""
    return (entry,) if isinstance(entry, str) else entry if isinstance(entry, tuple) else ()


def _divided(shape: Sequence[int], axes: Sequence[_Axis], mesh: Mapping[str, int], axis: str | None) -> list[Any]:
    """The entries of a `PartitionSpec`: the division of the parameter, and `axis` in the best place that is free."""
    ways = [a.division for a in axes]
    spec = [way if n % math.prod(mesh[a] for a in way) == 0 else () for n, way in zip(shape, ways, strict=True)]
    if axis is not None and all(axis not in division for division in spec):
        free = [i for i, n in enumerate(shape) if not spec[i] and n % mesh[axis] == 0 and n > 0]
        if free:
            spec[max(free, key=lambda i: (axes[i].follows, shape[i], -i))] = (axis,)
    return [division if len(division) > 1 else next(iter(division), None) for division in spec]


def _known(tx: Transform, state: OptState, shapes: Any, divisions: Sequence[Sequence[Axes]]) -> list[Any]:
    """For each array of the state what is known of its axes: what its slot declares, else what types tell.

    None for a stack of matrices that is dealt to owners.
    """
    arrays, sizes = state_arrays(tx, state, shapes), [x.shape for x in jax.tree.leaves(shapes)]
    typed = _by_types(tx, shapes, divisions) if any(x.axes is None for x in arrays) else None
    known = []
    for i, x in enumerate(arrays):
        if x.of_several and meshes.mesh() is not None:
            known.append(None)
            continue
        if x.axes is None and typed is not None:
            known.append(typed[i])
            continue
        size, axes, leaf = x.array.shape, x.axes, x.leaf
        if axes is None:  # in releases of JAX without these types, it follows a parameter of its own that has its shape
            axes = range(len(size)) if leaf is not None and sizes[leaf] == size else [None] * len(size)
        known.append([_Axis(a is not None, () if a is None or leaf is None else divisions[leaf][a]) for a in axes])
    return known


def _by_types(tx: Transform, shapes: Any, divisions: Sequence[Sequence[Axes]]) -> list[Any] | None:
    """What the types of explicit axes tell of each array; None where they cannot be had.

    Most functions divide what they make of parameters as these are divided. So `init` is traced on a mesh that has an
    axis of size 1 for each place of an axis in a parameter and each division of it. An axis of the state that lies
    along one of these follows the axis of the parameter.
    """
    name = lambda place, division: "/".join([str(place), *division])
    meaning = {name(i, d): d for division in divisions for i, d in enumerate(division)}
    mesh = meshes.explicit(tuple(meaning))
    if mesh is None:
        return None
    leaves, structure = jax.tree.flatten(shapes)
    hows = [NamedSharding(mesh, PartitionSpec(*map(name, range(len(d)), d))) for d in divisions]
    typed = [jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=s) for x, s in zip(leaves, hows, strict=True)]
    # Explicit axes refuse some programs of others.
    with contextlib.suppress(Exception), jax.sharding.use_abstract_mesh(mesh):
        state = jax.eval_shape(lambda params: tx.init(params), structure.unflatten(typed))
        return [[_Axis(isinstance(e, str), meaning.get(e, ())) for e in _entries(x)] for x in jax.tree.leaves(state)]
    return None


def _entries(x: Any) -> list[Any]:
    """For each axis of an array what its type says of how it is divided; None for not at all."""
    sharding = getattr(x, "sharding", None)
    spec = sharding.spec if isinstance(sharding, NamedSharding) else ()
    return [*spec, *[None] * (np.ndim(x) - len(spec))]


def _division(path: Any, p: Any, mesh: Mesh | AbstractMesh, label: str = LABEL) -> list[Axes]:
    """For each axis of a parameter the axes of the mesh that divide it."""
    entries = _entries(meshes.type_of(p) if isinstance(p, Tracer) else p)
    divisions = list(map(axes_of, entries))
    if unknown := {a for division in divisions for a in division} - set(mesh.shape):
        where = f"params{jax.tree_util.keystr(path)}"
        axes = f"the axes of the mesh are {_names(mesh.shape)}"
        raise ValueError(f"{label}: {where} is divided over {_names(sorted(unknown))}, but {axes}")
    return divisions


def _names(axes: Any) -> str:
    return ", ".join(map(repr, axes))
