"""Other forms of the tree: flat, as real numbers, in another memory."""

from typing import Any, NamedTuple, TypeGuard

import jax
import jax.numpy as jnp

from gdjax.core import base, checks, closures, meshes
from gdjax.core.base import GradientTransformation, GradientTransformationExtraArgs, transform
from gdjax.core.part import Inside
from gdjax.core.parts import holding
from gdjax.core.types import Array, ArrayTree, Natural, OptState, Params, Transform, Updates
from gdjax.numerics import is_key

__all__ = [
    "SplitRealAndImaginaryState", "flatten", "offload_state", "split_real_and_imaginary", "with_extra_args_support",
]  # fmt: skip


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
    if type(tx) is GradientTransformation and closures.takes_extra_args(tx):
        return GradientTransformationExtraArgs(*tx)
    return tx if closures.takes_extra_args(tx) else _without_extra_args(tx)


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
    join = lambda xs: jnp.concatenate([jnp.ravel(x).astype(dtype) for x in xs] or [jnp.zeros(0, dtype)])
    return meshes.partitioned(join, None, leaves)


class SplitRealAndImaginaryArrays(NamedTuple):
    """A complex array as two real ones."""

    real: Array
    imaginary: Array


class SplitRealAndImaginaryState(NamedTuple):
    """State of `split_real_and_imaginary`."""

    inner_state: OptState  # of a tree with `SplitRealAndImaginaryArrays` for every complex array


@transform
def split_real_and_imaginary(inner: Transform) -> GradientTransformation:
    """Lets `inner` see each complex array as two real ones: each part gets its own second moment, clipping and so on.

    Without it the transforms here take a complex number as one of size |z|. `jax.grad` of a real loss gives the
    conjugate of the direction of ascent: conjugate the gradients first, with or without this.

    Args:
      inner: a transform. It also gets the extra arguments, split where they are shaped like the updates.

    Example:
      >>> import gdjax, jax.numpy as jnp
      >>> g = jnp.array([3.0 - 4.0j])
      >>> for tx in (gdjax.clip(2.5), gdjax.split_real_and_imaginary(gdjax.clip(2.5))):
      ...     u, _ = tx.update(g, tx.init(g))
      ...     print(u)
      [1.5-2.j]
      [2.5-2.5j]
    """
    base.check_transform("gdjax.split_real_and_imaginary", 0, inner)

    def init(params: Params) -> SplitRealAndImaginaryState:
        checks.leaves("gdjax.split_real_and_imaginary", "params", params)
        return SplitRealAndImaginaryState(inner.init(_as_pairs(params)))

    def update(
        updates: Updates, state: OptState, params: Params | None = None, **extra_args: Any
    ) -> tuple[Updates, SplitRealAndImaginaryState]:
        checks.state("gdjax.split_real_and_imaginary", state, SplitRealAndImaginaryState)
        checks.gradients("gdjax.split_real_and_imaginary", updates, params)
        like = jax.tree.structure(updates)
        extra_args = {k: _as_pairs(x) if jax.tree.structure(x) == like else x for k, x in extra_args.items()}
        inner_state = jax.tree.map(_ours, state.inner_state, is_leaf=_is_pair)
        new, inner_state = base.call_update(inner, _as_pairs(updates), inner_state, _as_pairs(params), extra_args)
        return jax.tree.map(_as_complex, new, is_leaf=_is_pair), SplitRealAndImaginaryState(inner_state)

    return holding(init, update, inner_state=inner)


def _as_pairs(tree: ArrayTree) -> Any:
    return jax.tree.map(_pair, tree)


def _pair(x: Array) -> Any:
    if isinstance(x, jax.ShapeDtypeStruct):
        return jax.eval_shape(_pair, x) if jnp.issubdtype(x.dtype, jnp.complexfloating) else x
    return SplitRealAndImaginaryArrays(jnp.real(x), jnp.imag(x)) if jnp.iscomplexobj(x) else x


def _as_complex(x: Array | SplitRealAndImaginaryArrays) -> Any:
    return jax.lax.complex(x.real, x.imaginary) if _is_pair(x) else x


def _is_pair(x: object) -> TypeGuard[SplitRealAndImaginaryArrays]:
    return getattr(x, "_fields", None) == SplitRealAndImaginaryArrays._fields


def _ours(x: object) -> Any:
    """A pair in this library's class: in a state of Optax's it is of another class, which JAX tells apart."""
    return SplitRealAndImaginaryArrays(*x) if _is_pair(x) else x


LABEL = "gdjax.offload_state"


@transform
def offload_state(inner: Transform, *, min_bytes: Natural = 2**14) -> Any:
    """Keeps the state in the host's memory between steps: optimizer state host offload.

    A step copies the state to the device, updates it there, and copies it back. The state is that of `inner`, to the
    bit, in arrays whose memory is of the kind "pinned_host": a checkpoint goes on with either.

    Args:
      inner: the transform.
      min_bytes: smaller arrays stay on the device, and so do PRNG keys.

    Raises:
      ValueError: (in init and update) the backend has no such memory, as a CPU with a JAX before 0.7.
      RuntimeError: (in init and update) this release of JAX has no `jax.memory`.

    It helps where the state does not fit beside the activations, and a step takes longer than the copies: Adam in
    float32 moves 16 bytes a parameter over the link between host and device, 0.3 s for 10^9 parameters at 50 GB/s. So
    batches should be large, or updates rare (`MultiSteps`: put the inner transform into this one). The compiler decides
    how many arrays of the state are on the device at the same time; with `gradient_release` it is one layer of them.

    On several devices `state_sharding` knows which arrays lie on the host:
    `jax.jit(tx.init, out_shardings=gdjax.state_sharding(tx, params, mesh))`. Arrays that are loaded onto the device
    come to the host with the first step, or by `jax.device_put` with these shardings.

    Example:
      >>> import gdjax, jax, jax.numpy as jnp
      >>> tx, params = gdjax.offload_state(gdjax.adam(1e-3)), {"w": jnp.zeros((128, 64))}
      >>> state = tx.init(params)
      >>> updates, state = jax.jit(tx.update)(params, state, params)
      >>> gdjax.tree.get(state, "mu")["w"].sharding.memory_kind
      'pinned_host'

    Reference:
      Ren et al. 2021, ZeRO-Offload: democratizing billion-scale model training, https://arxiv.org/abs/2101.06840
    """
    base.check_transform(LABEL, "inner", inner)

    def init(params: Params) -> OptState:
        meshes.check_host(LABEL)
        state = inner.init(params)
        return jax.tree.map(lambda x: meshes.on_host(x) if _is_large(x, min_bytes) else x, state)

    def update(
        updates: Updates, state: OptState, params: Params | None = None, **extra_args: Any
    ) -> tuple[Updates, OptState]:
        meshes.check_host(LABEL)
        # What is small now may be an entry of what is large, see `gradient_release`.
        offloaded = jax.tree.map(lambda x: meshes.is_on_host(x) or _is_large(x, min_bytes), state)
        here = jax.tree.map(lambda x, is_there: meshes.on_device(x) if is_there else x, state, offloaded)
        updates, new = base.call_update(inner, updates, here, params, extra_args)
        return updates, jax.tree.map(lambda x, is_there: meshes.on_host(x) if is_there else x, new, offloaded)

    return holding(init, update, Inside(inner, ()))


def _is_large(x: Any, min_bytes: int) -> bool:
    return not is_key(x) and x.size * x.dtype.itemsize >= min_bytes
