"""The state of a step on a mesh, whose matrices are dealt to their owners, and the same state as one device has it."""

import functools
import math
from collections.abc import Iterable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from gdjax.combine import sharding
from gdjax.core import meshes
from gdjax.core.paths import named_leaves
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
        of = lambda x, how: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=how)
        return jax.tree.map(of, jax.eval_shape(lambda params: self.tx.init(params), self._params), self._divided())

    def saved(self, state: OptState) -> OptState:
        self._check("state", state, self.shapes, "step.restored makes it of a saved state")
        xs, structure = jax.tree.flatten(state)
        stacks = self._undealt([xs[i] for i in self._places])
        return structure.unflatten((dict(enumerate(xs)) | dict(zip(self._places, stacks, strict=True))).values())

    def restored(self, state: OptState) -> OptState:
        remedy = "give it step.saved(state) of the step that made it, or tx.init(params); gdjax.migrate converts others"
        self._check("saved state", state, self.target, remedy)
        return self._dealt(jax.device_put(state, jax.tree.map(lambda x: x.sharding, self.target)))

    @functools.cached_property
    def _places(self) -> list[int]:
        """Which arrays of the state are stacks with another shape."""
        both = zip(*map(jax.tree.leaves, (self.shapes, self.target)), strict=True)
        return [i for i, (x, y) in enumerate(both) if x.shape != y.shape]

    @functools.cached_property
    def _undealt(self) -> Any:
        """Stacks as one device has them."""
        wanted = [jax.tree.leaves(self.target)[i] for i in self._places]
        hows, inside = [x.sharding for x in wanted], meshes.automatic(self.mesh)

        def undealt(x: Array, like: Any) -> Array:
            ways = _ways(like, inside)
            return _along(meshes.undealt(_along(x, reversed(ways), inside), like.shape[0]), _flat(ways), inside)

        def made(xs: list[Array]) -> list[Array]:
            return [undealt(_here(x), like) for x, like in zip(xs, wanted, strict=True)]

        return jax.jit(meshes.in_automatic_axes(made, self.mesh, specs_of(hows)), out_shardings=hows)

    @functools.cached_property
    def _dealt(self) -> Any:
        """A copy of a state as one device has it, its stacks dealt; the places without a matrix are as in a new one."""

        wanted, inside = jax.tree.leaves(self.target), meshes.automatic(self.mesh)

        def made(state: OptState) -> OptState:
            xs, structure = jax.tree.flatten(jax.tree.map(jnp.copy, state))
            new = jax.tree.leaves(self.init(jax.tree.map(lambda p: jnp.zeros(p.shape, p.dtype), self._params)))
            for i in self._places:
                x, like = _here(xs[i]), _here(new[i])
                ways, rest = _ways(wanted[i], inside), meshes.undealt(like)[len(x) :]
                full = _along(jnp.concatenate([x, rest]), _flat(ways), inside)
                xs[i] = _along(full.reshape(like.shape), ways, inside)
            return structure.unflatten(xs)

        made = meshes.in_automatic_axes(made, self.mesh, specs_of(self.shardings))
        return jax.jit(made, out_shardings=self.shardings)

    def _check(self, name: str, state: OptState, wanted: OptState, remedy: str) -> None:
        if jax.tree.structure(state) != jax.tree.structure(wanted):
            both = f"{jax.tree.structure(state)}, wanted {jax.tree.structure(wanted)}"
            raise ValueError(f"{self.label}: {name} has another structure than the step's; {remedy}. Got {both}")
        for (where, x), y in zip(named_leaves(name, state), jax.tree.leaves(wanted), strict=True):
            if (x.shape, x.dtype) != (y.shape, y.dtype):
                both = f"is {x.dtype} of shape {x.shape}, wanted {y.dtype} of shape {y.shape}"
                raise ValueError(f"{self.label}: {where} {both} for {self.mesh.size} devices: {remedy}")


def _ways(like: Any, mesh: Any) -> list[PartitionSpec]:
    """How a stack (k, D, ...) is divided on its way to its owners; `like` has its sharding as one device has it.

    Axes of the mesh come one at a time: for two at once a partitioner makes the whole stack on each device. Of one axis
    it needs no word.
    """
    if len(mesh.axis_names) == 1:
        return []
    lead, *tile = like.sharding.spec
    if lead is not None:  # neighbours have different owners: while they lie apart another axis is divided
        size = math.prod(mesh.shape[name] for name in sharding.axes_of(lead))
        free = [i for i, way in enumerate(tile) if way is None and like.shape[i + 1] % size == 0]
        tile = [lead if i in free[:1] else way for i, way in enumerate(tile)]
    specs = []
    for n in range(len(mesh.axis_names) + 1):
        owners = mesh.axis_names[:n]
        rest = [tuple(a for a in sharding.axes_of(way) if a not in owners) or None for way in tile]
        specs.append(PartitionSpec(None, owners or None, *rest))
    return specs


def _along(x: Array, ways: Iterable[PartitionSpec], mesh: Any) -> Array:
    for spec in ways:
        x = jax.lax.with_sharding_constraint(x, NamedSharding(mesh, spec))
    return x


def _flat(ways: Sequence[PartitionSpec]) -> list[PartitionSpec]:
    """How the stack (number, ...) is divided on that way."""
    return [PartitionSpec(None, *spec[2:]) for spec in ways[:1]]


def _here(x: Array) -> Array:
    return meshes.on_device(x) if meshes.is_on_host(x) else x
