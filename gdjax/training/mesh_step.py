"""A compiled step on a mesh: where its arguments lie, and what is wrong with those that it cannot take."""

from collections.abc import Callable
from typing import Any

from jax.sharding import Mesh

from gdjax.core.types import Array, ArrayTree, OptState, Params, Transform
from gdjax.training.agreement import Checks


class MeshStep:
    """`params, state, told = step(params, state, batch)`, or `step(params, state, batch, key)`.

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
            self._checks(params, state, batch)
            raise
