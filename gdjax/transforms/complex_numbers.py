"""Complex parameters as pairs of real ones."""

from typing import Any, NamedTuple, TypeGuard

import jax
import jax.numpy as jnp

from gdjax.core import base, checks
from gdjax.core.base import GradientTransformation, transform
from gdjax.core.parts import holding
from gdjax.core.types import Array, ArrayTree, OptState, Params, Transform, Updates


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
