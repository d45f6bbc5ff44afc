"""What the fields of a leaf rule's state start as."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp

from gdjax import numerics
from gdjax.core import checks

Array = jax.Array


@dataclass(frozen=True)
class Moment:
    """A slot shaped like its parameter.

    It has the dtype that the hyperparameter `dtype` names or, where that is None, the parameter's; `wide` makes that
    at least float32, `real` real. Without `real` the slot of a complex parameter is complex, and a real dtype named for
    it is that of its parts, float32 at least: JAX has no narrower ones. It starts at `fill`, a number or the name of a
    hyperparameter.
    """

    dtype: str = ""
    wide: bool = False
    real: bool = False
    fill: str | float = 0.0

    def __call__(self, p: Any, hyper: Mapping[str, Any]) -> Array:
        dtype = hyper.get(self.dtype)
        own = jax.dtypes.canonicalize_dtype(p.dtype if hasattr(p, "dtype") else type(p))
        if dtype is None:
            dtype = numerics.at_least_float32(own) if self.wide else own
            dtype = numerics.real_dtype(dtype) if self.real else dtype
        elif jnp.issubdtype(own, jnp.complexfloating) and not self.real:
            dtype = numerics.complex_dtype(dtype)
        return jnp.full_like(p, start(self.fill, hyper), dtype=dtype)


@dataclass(frozen=True)
class Shared:
    """A field of the state that is one number for the whole tree.

    It has the dtype `dtype` or, where that is None, the widest real dtype of the parameters, float32 at least.
    It starts at `fill`, a number or the name of a hyperparameter.
    """

    fill: str | float | bool = 0.0
    dtype: Any = None

    def __call__(self, params: Sequence[Any], hyper: Mapping[str, Any]) -> Array:
        dtype = numerics.widest_real(params) if self.dtype is None else self.dtype
        return jnp.asarray(start(self.fill, hyper)).astype(dtype)


def start(fill: str | float, hyper: Mapping[str, Any]) -> Any:
    """The number `fill`, or the hyperparameter of that name: of a schedule its first value."""
    x: Any = hyper[fill] if isinstance(fill, str) else fill
    return checks.scalar("gdjax.init", str(fill), x(jnp.zeros((), jnp.int32))) if callable(x) else x


def settled(slot: Any) -> Any:
    """A slot's first value with a definite dtype, that of the next one: of a Python number and its kin it is not."""

    def leaf(x: Any) -> Any:
        if hasattr(x, "dtype") and not getattr(x, "weak_type", False):
            return x
        x = jnp.asarray(x)
        return jax.lax.convert_element_type(x, x.dtype)

    return jax.tree.map(leaf, slot)


def initial_parameter(p: Any, hyper: Mapping[str, Any]) -> Array:
    """The parameter that `init` gets, copied so that both can be donated; zeros where that is a shape only."""
    if isinstance(p, jax.ShapeDtypeStruct):
        return jnp.zeros(p.shape, p.dtype)
    return jnp.array(p, dtype=jnp.result_type(p), copy=True)  # with a dtype named, of a strong type


first_moment = Moment("mu_dtype")
second_moment = Moment("nu_dtype", wide=True, real=True)
