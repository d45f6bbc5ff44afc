"""A compiled step on a mesh: where its arguments lie, and errors for those that it cannot take."""

import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax.core import Tracer
from jax.sharding import Mesh

from gdjax.core import meshes
from gdjax.core.paths import named_leaves
from gdjax.core.types import Array, ArrayTree, OptState, Params, Transform


def check_rows(label: str, batch: ArrayTree) -> None:
    """Raises for a leaf of a batch that has no rows, of which a mean is NaN; beside others one without width may be."""
    sizes = [(where, jnp.shape(x)) for where, x in named_leaves("batch", batch)]
    without = [(where, size) for where, size in sizes if size[:1] == (0,)]
    for where, size in without:
        if 0 not in size[1:] or len(without) == len(sizes):
            raise ValueError(f"{label}: {where} has shape {size}, no rows; of what the loss does not read, give None")


def check_key(label: str, key: Any) -> None:
    """Raises unless it is one PRNG key, typed or raw, or None."""
    dtype, size = getattr(key, "dtype", None), getattr(key, "shape", None)
    is_typed = dtype is not None and jnp.issubdtype(dtype, jax.dtypes.prng_key) and size == ()
    raw = jax.eval_shape(lambda: jax.random.PRNGKey(0))
    if key is not None and not is_typed and (size, dtype) != (raw.shape, raw.dtype):
        got = repr(key) if dtype is None else f"{dtype} of shape {size}"
        raise TypeError(f"{label}: key must be one PRNG key, such as jax.random.key(0), got {got}")


def check_mesh(label: str, mesh: Mesh, explicit: bool = False) -> None:
    """Raises unless the mesh has devices, and automatic axes; or explicit ones where they are allowed."""
    if not isinstance(mesh, Mesh):
        raise TypeError(f"{label}: mesh must be a jax.sharding.Mesh, of devices, got {mesh!r}")
    names = meshes.not_automatic(mesh)
    if names and not (explicit and hasattr(jax.lax, "pcast")):
        raise ValueError(
            f"{label}: the axes {', '.join(map(repr, names))} of the mesh are not automatic; make it with "
            "axis_types=(jax.sharding.AxisType.Auto, ...)"
        )


class Checks:
    """What a step is given, against what it was made for: the batch is divided over these axes, and into parts.

    Args:
      shapes: those of the state, where stacks of it may be dealt to other devices.
    """

    def __init__(
        self, label: str, mesh: Mesh, axes: tuple[str, ...], parts: int, params_sharding: Any, state_sharding: Any,
        shapes: Callable[[], Any] | None = None,
    ):  # fmt: skip
        self.label, self.axes, self.parts, self.shapes = label, axes, parts, shapes
        self.devices = math.prod(mesh.shape[axis] for axis in axes)
        self.wanted = {"params": params_sharding, "state": state_sharding}

    def __call__(self, params: Params, state: OptState, batch: ArrayTree, key: Any) -> None:
        self.check_inputs(batch, key)
        for name, tree in (("params", params), ("state", state)):
            self._lies(name, tree)

    def check_inputs(self, batch: ArrayTree, key: Any) -> None:
        check_key(self.label, key)
        check_rows(self.label, batch)
        parts = self.devices * self.parts
        for where, x in named_leaves("batch", batch):
            size = jnp.shape(x)
            if not size or size[0] % parts:
                by = f"{self.devices} devices of {' and '.join(map(repr, self.axes))}"
                by += f" times {self.parts} micro-batches" if self.parts > 1 else ""
                raise ValueError(f"{self.label}: {where} has shape {size}; its first axis is not divided by {by}")

    def alive(self, params: Params, state: OptState) -> None:
        """Raises where an array is gone: on several devices the compiled program would end the process."""
        if not any(map(_is_gone, jax.tree.leaves((params, state)))):
            return
        for where, x in (*named_leaves("params", params), *named_leaves("state", state)):
            if _is_gone(x):
                raise ValueError(
                    f"{self.label}: {where} is gone: a step writes over its arguments. "
                    "Go on with what it returned; of what you keep, make a copy before"
                )

    def _lies(self, name: str, tree: Any) -> None:
        wanted = self.wanted[name]
        if jax.tree.structure(tree) != jax.tree.structure(wanted):
            raise ValueError(
                f"{self.label}: {name} has another structure than the one the step was made for; step.init makes both. "
                f"Got {jax.tree.structure(tree)}, wanted {jax.tree.structure(wanted)}"
            )
        leaves = named_leaves(name, tree)
        shapes = jax.tree.leaves(self.shapes()) if name == "state" and self.shapes is not None else []
        for (where, x), like in zip(leaves, shapes, strict=False):
            if jnp.shape(x) != like.shape:
                raise ValueError(
                    f"{self.label}: {where} has shape {jnp.shape(x)}, and the step keeps {like.shape}, "
                    f"its matrices dealt to {self.devices} devices: step.restored(saved) deals a state "
                    "that tx.init has made, or step.saved of the step that made it"
                )
        for (where, x), how in zip(leaves, jax.tree.leaves(wanted), strict=True):
            got = getattr(x, "sharding", None)
            if got is None or got is how or got == how:
                continue
            if got.is_equivalent_to(how, jnp.ndim(x)) and meshes.typed_axes(got) == meshes.typed_axes(how):
                continue
            raise ValueError(
                f"{self.label}: {where} lies as {got}, and the step was made for {how}; "
                f"move it by jax.device_put(params, step.params_sharding) or jax.device_put(state, step.state_sharding)"
            )


def _is_gone(x: Any) -> bool:
    return not isinstance(x, Tracer) and hasattr(x, "is_deleted") and x.is_deleted()


class MeshStep:
    """`params, state, loss = step(params, state, batch)`, or `step(params, state, batch, key)`.

    Attributes:
      params_sharding: a tree like the parameters: where they lie, before and after a step.
      state_sharding: a tree like the state: its shares.
    """

    def __init__(self, tx: Transform, mesh: Mesh, step: Any, checks: Checks):
        self.tx, self.mesh = tx, mesh
        self.params_sharding, self.state_sharding = checks.wanted["params"], checks.wanted["state"]
        self._step, self._checks = step, checks

    def __call__(
        self, params: Params, state: OptState, batch: ArrayTree, key: Array | None = None
    ) -> tuple[Params, Any, Any]:
        self._checks.alive(params, state)
        return self._checked(self._step, params, state, batch, key)

    def lower(self, params: Params, state: OptState, batch: ArrayTree, key: Array | None = None) -> Any:
        """The lowered step, as of `jax.jit`: of arrays or of shapes."""
        return self._checked(self._step.lower, params, state, batch, key)

    def _checked(self, f: Callable[..., Any], params: Params, state: OptState, batch: ArrayTree, key: Any) -> Any:
        """f of these. JAX refuses what the step was not made for; what is looked up then costs a good step nothing."""
        try:
            return f(params, state, batch, key)
        except (ValueError, TypeError):
            self._checks(params, state, batch, key)
            raise
