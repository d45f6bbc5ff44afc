"""Changes of what an inner transform is called with: one vector in place of a tree, or no extra arguments."""

from typing import Any

import jax
import jax.numpy as jnp

from gdjax.core import base, checks, extra_arguments, meshes
from gdjax.core.base import GradientTransformation, GradientTransformationExtraArgs, transform
from gdjax.core.part import Inside
from gdjax.core.parts import holding
from gdjax.core.types import OptState, Params, Transform, Updates


def with_extra_args_support(tx: Transform) -> Any:
    """`tx` as a transform whose update accepts extra arguments; it is `tx` itself where it does already.

    Every transform of this library does, and every wrapper here keeps extra arguments from transforms that do not. So
    only code that calls `tx.update` itself needs this.

    Args:
      tx: any transform, of another library too.

    Example:
      >>> import gdjax, jax.numpy as jnp, optax
      >>> tx = gdjax.with_extra_args_support(optax.scale(2.0))
      >>> u, _ = tx.update(jnp.array([1.0]), tx.init(jnp.zeros(1)), value=0.5)  # not used
      >>> print(u)
      [2.]
    """
    base.check_transform("gdjax.with_extra_args_support", 0, tx)
    if type(tx) is GradientTransformation and extra_arguments.taken(tx):
        return GradientTransformationExtraArgs(*tx)
    return tx if extra_arguments.taken(tx) else _without_extra_args(tx)


@transform
def _without_extra_args(tx: Transform) -> GradientTransformation:
    def update(
        updates: Updates, state: OptState, params: Params | None = None, **extra_args: Any
    ) -> tuple[Updates, OptState]:
        return tx.update(updates, state, params)

    return holding(tx.init, update, Inside(tx, ()))


@transform
def flatten(inner: Transform) -> GradientTransformation:
    """Applies `inner` to one vector, all the leaves in a row, in place of the tree.

    For transforms of vectors. It does not make steps faster: the transforms of this library are traced once for leaves
    of one shape, and the vector is a copy of the gradients.

    Args:
      inner: the transform. The vector has the dtype that the leaves promote to; updates return in each leaf's own.

    Example:
      >>> import gdjax, jax.numpy as jnp
      >>> tx = gdjax.flatten(gdjax.scale_by_adam())
      >>> state = tx.init({"w": jnp.zeros((2, 3)), "b": jnp.zeros(3)})
      >>> print(state.mu.shape)
      (9,)
    """
    label = "gdjax.flatten"
    base.check_transform(label, 0, inner)

    def init(params: Params) -> OptState:
        checks.leaves(label, "params", params)
        return inner.init(_joined(jax.tree.leaves(params)))

    def update(
        updates: Updates, state: OptState, params: Params | None = None, **extra_args: Any
    ) -> tuple[Updates, OptState]:
        checks.gradients(label, updates, params)
        gs, structure = jax.tree.flatten(updates)
        leaves = [g if hasattr(g, "dtype") else jnp.asarray(g) for g in gs]
        if params is not None:
            ps = checks.flatten_like(label, ("updates", "params"), structure, updates, params)
            params = _joined([p for p, g in zip(ps, leaves, strict=True) if not base.is_float0(g)])
        vector, state = base.call_update(inner, _joined(leaves), state, params, extra_args)
        start, new = 0, []
        for g in leaves:
            if base.is_float0(g):
                new.append(g)
                continue
            piece = meshes.placed(vector[start : start + g.size].reshape(g.shape), g)
            new.append((piece if jnp.iscomplexobj(g) else jnp.real(piece)).astype(jnp.result_type(g)))
            start += g.size
        return structure.unflatten(new), state

    return holding(init, update, Inside(inner, (), sees=None))


def _joined(leaves: list[Any]) -> Any:
    """The floating leaves as one vector, or the shape of that where one of them is only a shape."""
    leaves = [x if hasattr(x, "dtype") else jnp.asarray(x) for x in leaves]
    leaves = [x for x in leaves if jnp.issubdtype(x.dtype, jnp.inexact)]
    with jax.numpy_dtype_promotion("standard"):
        dtype = jnp.result_type(*map(jnp.result_type, leaves)) if leaves else jnp.dtype("float32")
    if any(isinstance(x, jax.ShapeDtypeStruct) for x in leaves):
        return jax.ShapeDtypeStruct((sum(x.size for x in leaves),), dtype)
    join = lambda xs: jnp.concatenate([jnp.ravel(x).astype(dtype) for x in xs] or [jnp.zeros(0, dtype)])  # noqa: E731
    return meshes.partitioned(join, None, leaves)
