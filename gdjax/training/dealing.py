"""The state of a step on a mesh, whose matrices are dealt to their owners, and the same state as one device has it."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import Mesh

from gdjax.combine import sharding
from gdjax.core import meshes
from gdjax.core.types import Array, OptState, Params, Transform


def specs_of(shardings: Any) -> Any:
    """A tree of shardings as one of specs."""
    return jax.tree.map(lambda how: how.spec, shardings)


class Dealing:
    """A state in two forms: as a step keeps it on its mesh, and as `tx.init` makes it.

    They differ in stacks of matrices alone: (k, D, ...), see `meshes.dealt`, and (number, ...).

    Args:
      label: for errors.
      params: the shapes of the parameters, with their shardings.
    """

    def __init__(self, label: str, tx: Transform, params: Params, mesh: Mesh, axis: str, min_bytes: int):
        self.label, self.tx, self.mesh = label, tx, mesh
        divided: Any = functools.partial(sharding.state_sharding, tx, params, mesh, axis, min_bytes=min_bytes)
        with meshes.owned_by(mesh):
            self.shardings = divided()
        self._divided, self._params = divided, params

    def init(self, params: Params) -> OptState:
        """The state of the step, in a trace."""
        with meshes.owned_by(meshes.automatic(self.mesh)):
            return self.tx.init(params)

    @functools.cached_property
    def shapes(self) -> OptState:
        return jax.eval_shape(self.init, self._params)

    @functools.cached_property
    def target(self) -> OptState:
        """The shapes of the saved state, with shardings."""
        of = lambda x, how: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=how)  # noqa: E731
        return jax.tree.map(of, jax.eval_shape(lambda params: self.tx.init(params), self._params), self._divided())

    def saved(self, state: OptState) -> OptState:
        self._check("state", state, self.shapes, "step.restored makes it of a saved state")
        return self._moved(_whole, state, self.target)

    def restored(self, state: OptState) -> OptState:
        remedy = "give it step.saved(state) of the step that made it, or tx.init(params); gdjax.migrate converts others"
        self._check("saved state", state, self.target, remedy)
        fresh = lambda: self.init(jax.tree.map(lambda p: jnp.zeros(p.shape, p.dtype), self._params))  # noqa: E731
        to = jax.tree.map(
            lambda x, how: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=how), self.shapes, self.shardings
        )
        there = jax.device_put(state, jax.tree.map(lambda x: x.sharding, self.target))
        return self._moved(lambda x, _, new: _filled(x, new), there, to, fresh)

    def _moved(self, f: Any, state: OptState, to: OptState, fresh: Any = lambda: None) -> OptState:
        """The state, with f of the arrays whose shapes change, in the shardings of `to`."""
        xs, structure = jax.tree.flatten(state)
        wanted = jax.tree.leaves(to)
        hows = [x.sharding for x in wanted]

        def made(xs: list[Array]) -> list[Array]:
            news = jax.tree.leaves(fresh()) or xs
            each = zip(xs, wanted, news, strict=True)
            return [x if x.shape == y.shape else f(_here(x), y, _here(new)) for x, y, new in each]

        made = meshes.in_automatic_axes(made, self.mesh, specs_of(hows))
        return structure.unflatten(jax.jit(made, out_shardings=hows)(xs))

    def _check(self, name: str, state: OptState, wanted: OptState, remedy: str) -> None:
        same = jax.tree.structure(state) == jax.tree.structure(wanted)
        if not same:
            both = f"{jax.tree.structure(state)}, wanted {jax.tree.structure(wanted)}"
            raise ValueError(f"{self.label}: {name} has another structure than the step's; {remedy}. Got {both}")
        for (path, x), y in zip(jax.tree_util.tree_flatten_with_path(state)[0], jax.tree.leaves(wanted), strict=True):
            if (x.shape, x.dtype) != (y.shape, y.dtype):
                where = f"{name}{jax.tree_util.keystr(path)}"
                both = f"is {x.dtype} of shape {x.shape}, wanted {y.dtype} of shape {y.shape}"
                raise ValueError(f"{self.label}: {where} {both} for {self.mesh.size} devices: {remedy}")


def _here(x: Array) -> Array:
    return meshes.on_device(x) if meshes.is_on_host(x) else x


def _whole(x: Array, like: Any, _: Any) -> Array:
    return x.reshape(-1, *x.shape[2:])[: like.shape[0]]


def _filled(x: Array, new: Array) -> Array:
    """A stack as it is dealt: where there is room for more matrices they are those of a new state."""
    rest = new.reshape(-1, *new.shape[2:])[x.shape[0] :]
    return jnp.concatenate([x, rest]).reshape(new.shape)
