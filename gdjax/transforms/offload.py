"""The state in the host's memory between steps."""

from typing import Any

import jax

from gdjax.core import base, memories
from gdjax.core.base import transform
from gdjax.core.part import Inside
from gdjax.core.parts import holding
from gdjax.core.types import Natural, OptState, Params, Transform, Updates
from gdjax.numerics import is_key

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
        memories.check_host(LABEL)
        state = inner.init(params)
        return jax.tree.map(lambda x: memories.on_host(x) if _is_large(x, min_bytes) else x, state)

    def update(
        updates: Updates, state: OptState, params: Params | None = None, **extra_args: Any
    ) -> tuple[Updates, OptState]:
        memories.check_host(LABEL)
        # What is small now may be an entry of what is large, see `gradient_release`.
        there = jax.tree.map(lambda x: memories.is_on_host(x) or _is_large(x, min_bytes), state)
        here = jax.tree.map(lambda x, is_there: memories.on_device(x) if is_there else x, state, there)
        updates, new = base.call_update(inner, updates, here, params, extra_args)
        return updates, jax.tree.map(lambda x, is_there: memories.on_host(x) if is_there else x, new, there)

    return holding(init, update, Inside(inner, ()))


def _is_large(x: Any, min_bytes: int) -> bool:
    return not is_key(x) and x.size * x.dtype.itemsize >= min_bytes
