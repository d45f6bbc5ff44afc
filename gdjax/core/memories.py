"""The memories a device can use: its own and the host's."""

from collections.abc import Callable
from typing import Any

import jax

from gdjax.core import meshes
from gdjax.core.types import Array

HOST = "pinned_host"  # memory of the host that a device reads and writes directly


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


def traced(f: Callable[..., Any], *args: Any) -> tuple[Any, list[str | None]]:
    """The shapes of a function's results, and each one's kind of memory: None for the device's own."""
    closed, shapes = jax.make_jaxpr(f, return_shape=True)(*args)
    return shapes, [HOST if is_on_host(v) else None for v in closed.out_avals]


def is_on_host(x: Any) -> bool:
    """Whether an array, or an abstract one, is in the host's memory."""
    if not hasattr(jax, "memory"):
        return False
    return getattr(meshes.type_of(x), "memory_space", None) == getattr(jax, "memory").Space.Host  # noqa: B009
