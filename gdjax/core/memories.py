"""The memories a device can use: its own and the host's."""

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


def is_on_host(x: Any) -> bool:
    """Whether an array, or an abstract one, is in the host's memory."""
    if not hasattr(jax, "memory"):
        return False
    return getattr(meshes.type_of(x), "memory_space", None) == getattr(jax, "memory").Space.Host  # noqa: B009
