"""The kinds of a mesh's axes: automatic, where the compiler divides arrays, or explicit, where their types say how."""

from collections.abc import Callable
from typing import Any

import jax
from jax.sharding import Mesh


def kinds(mesh: Any) -> list[str]:
    """For each axis of a mesh a text that contains "Auto", "Explicit" or "Manual"."""
    found = getattr(mesh, "axis_types", None) or ()
    return [str(kind) for kind in found] if isinstance(found, tuple) else ["Auto"] * len(mesh.axis_names)


def not_automatic(mesh: Any) -> tuple[str, ...]:
    """The names of the axes that are explicit or manual."""
    return tuple(name for name, kind in zip(mesh.axis_names, kinds(mesh), strict=True) if "Auto" not in kind)


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
    found = getattr(mesh, "axis_types", None)
    types: Any = {"axis_types": found} if isinstance(found, tuple) else {}
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
