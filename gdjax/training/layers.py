"""The layers of a stack in the parameters and in the state of an optimizer, and whether it may update one by itself."""

import warnings
from collections.abc import Callable, Hashable, Mapping, Set
from dataclasses import dataclass, field, replace
from typing import Any, NoReturn

import jax
import jax.numpy as jnp

from gdjax.codes.random_rounding import FIRST_ROW
from gdjax.core import base, memories
from gdjax.core.guesses import Guess
from gdjax.core.parts import Owned, every, owned
from gdjax.core.types import Array, OptState, Params, Transform
from gdjax.lift import probe
from gdjax.lift.meetings import Brought, Meeting, answered
from gdjax.tree.updates import apply_updates

LABEL = "gdjax.gradient_release"
Arrays = dict[int, Array]  # some of the arrays of a tree, by their places among its leaves


@dataclass(frozen=True)
class Layers:
    """Which arrays of the parameters and of the state belong to a stack of layers.

    The parameters of the stack have the layers along their first axis.
    """

    tx: Transform
    params: Any  # the structure of the parameters
    state: Any  # that of the state
    part: Any  # that of the stack
    places: list[int]  # of the parameters in the stack, in its order
    trained: frozenset[int]  # the places of the floating parameters
    axes: Mapping[int, int | None]  # of the state arrays of the stack, by place: where the layers lie; None: nowhere
    owners: Mapping[int, int]  # of the state arrays of one parameter, by place: that parameter
    number: int  # of layers
    absent: Arrays  # the whole state, for what is not there; empty where an update takes no state without a gradient
    meetings: tuple[str, ...] = ()  # the calls at which leaves meet in an update
    made: Mapping[int, Hashable] = field(
        default_factory=dict
    )  # how the update and the state of each parameter are made
    apply: Callable[[Any, Any], Any] = apply_updates

    @property
    def of_rest(self) -> Set[int]:
        """The places of the state arrays of the other parameters."""
        return self.owners.keys() - self.axes.keys()

    def stack(self, leaves: Arrays) -> Any:
        """The stack as a tree."""
        return self.part.unflatten([leaves[i] for i in self.places])

    def tree(self, leaves: Mapping[int, Any]) -> Any:
        """The parameters as a tree, None where arrays are not there."""
        return self.params.unflatten([leaves.get(i) for i in range(self.params.num_leaves)])

    def at(self, i: Array | int, params: Arrays, state: Arrays) -> tuple[Arrays, Arrays]:
        """Layer i of arrays of the parameters and of the state, each with an axis of length 1 for the layers."""
        cut = lambda x, axis: x if axis is None else jax.lax.dynamic_slice_in_dim(x, i, 1, axis)  # noqa: E731
        return {k: cut(x, 0) for k, x in params.items()}, {j: cut(x, self.axes.get(j)) for j, x in state.items()}

    def put(self, i: Array, params: Arrays, state: Arrays, new: tuple[Arrays, Arrays]) -> tuple[Arrays, Arrays]:
        """The arrays with another layer i; those of the state that have no layers are new as a whole."""
        put = jax.lax.dynamic_update_slice_in_dim
        params = {k: put(x, new[0][k], i, 0) for k, x in params.items()}
        layered = {j: axis for j in state if (axis := self.axes.get(j)) is not None}
        return params, new[1] | {j: put(state[j], new[1][j], i, axis) for j, axis in layered.items()}

    def updated(
        self, grads: Arrays, params: Arrays, state: Arrays, value: Array, row: Array | int = 0
    ) -> tuple[Arrays, Arrays]:
        """What an update of some of the parameters makes of them and of what there is of the state.

        Args:
          row: the number of the layer, of arrays that are one layer of the stack.
        """
        there = jax.tree.map(jnp.asarray, self.absent) | state
        hidden = {i: base.MaskedNode() for i in range(self.params.num_leaves) if i not in params}  # as by a mask around
        arrays = [there.get(j, base.MaskedNode()) for j in range(self.state.num_leaves)]
        given = self.tree(hidden | grads), self.tree(hidden | params), self.state.unflatten(arrays)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of leaves that are not there
            updates, new = base.call_update(self.tx, given[0], given[2], given[1], _extra(given[0], value, row))
        news, states = jax.tree.leaves(self.apply(given[1], updates)), jax.tree.leaves(new)
        found = dict(zip(sorted(there), states, strict=True))
        pinned = {j: found[j] if found[j] is x else jax.lax.convert_element_type(found[j], x.dtype)
                  for j, x in state.items()}  # fmt: skip
        return dict(zip(sorted(params), news, strict=True)), pinned


def layers_of(tx: Transform, params: Params, state: OptState, stack: Callable[[Any], Any]) -> Layers:
    """Finds the layers.

    Raises:
      ValueError: there are none; the optimizer cannot update one by itself.
    """
    paths, structure = jax.tree_util.tree_flatten_with_path(params)
    leaves, names = [x for _, x in paths], [f"params{jax.tree_util.keystr(path)}" for path, _ in paths]
    places, part = jax.tree.flatten(stack(structure.unflatten(range(len(leaves)))))
    if not places or not all(isinstance(i, int) and i < len(leaves) for i in places) or len({*places}) < len(places):
        raise ValueError(f"{LABEL}: stack must return a part of the parameters, such as params['layers']")
    trained = frozenset(i for i, x in enumerate(leaves) if jnp.issubdtype(jnp.result_type(x), jnp.inexact))
    if trained.isdisjoint(places):
        raise ValueError(f"{LABEL}: no array of the stack is floating: nothing in it is trained")
    _check_number({names[i]: jnp.shape(leaves[i]) for i in places})
    found = structure_of(tx, params, state, places, part)
    found = _traced(found, leaves, jax.tree.leaves(state))
    _check_sizes(found, names, leaves, jax.tree.leaves(state))
    return found


def structure_of(tx: Transform, params: Params, state: OptState, places: list[int], part: Any) -> Layers:
    """Where the layers are in a state, and which arrays are those of other parameters.

    Raises:
      ValueError: an array belongs to several parameters.
    """
    leaves, structure = jax.tree.flatten(params)
    trained = frozenset(i for i, x in enumerate(leaves) if jnp.issubdtype(jnp.result_type(x), jnp.inexact))
    arrays = owned(tx, state, params)
    axes, owners = dict[int, int | None](), {j: x.leaf for j, x in enumerate(arrays) if x.leaf is not None}
    for j, x in enumerate(arrays):
        if x.of_several:
            why = f"state{jax.tree_util.keystr(x.field)} belongs to several parameters together, and so to all layers"
            refuse(why)
        if x.leaf is not None and x.leaf in places:
            axes[j] = _axis(x, jnp.shape(leaves[x.leaf]))
    kept, form = jax.tree.flatten(state)
    foreign = any(isinstance(one, Guess) for one, *_ in every(tx, state))
    absent = {} if foreign else dict(enumerate(kept))
    number = jnp.shape(leaves[places[0]])[0]
    return Layers(tx, structure, form, part, places, trained, axes, owners, number, absent)


def _extra(grads: Any, value: Array, row: Array | int = 0) -> dict[str, Any]:
    """What an update may be given besides."""

    def value_fn(*_: Any) -> NoReturn:
        refuse("the optimizer evaluates the loss at other parameters")

    return {"value": value, "grad": grads, "value_fn": value_fn, FIRST_ROW: row}


def refuse(why: str) -> NoReturn:
    told = "an optimizer must make the update of a layer of what that layer has; use tx.update with all gradients"
    raise ValueError(f"{LABEL}: {why}: {told}")


def _check_number(shapes: Mapping[str, tuple[int, ...]]) -> None:
    first = next(iter(shapes))
    for name, shape in shapes.items():
        if not shape or shape[0] != shapes[first][:1][0]:
            both = f"{name} has shape {shape}, {first} {shapes[first]}"
            raise ValueError(f"{LABEL}: the first axis of each array of the stack is that of the layers: {both}")


def _axis(x: Owned, shape: tuple[int, ...]) -> int | None:
    """The axis of the layers in an array of the state that belongs to a parameter of the stack."""
    if x.axes is not None:
        return x.axes.index(0) if 0 in x.axes else None
    return 0 if jnp.shape(x.array) == shape else None


def _check_sizes(layers: Layers, names: list[str], leaves: list[Any], arrays: list[Any]) -> None:
    """Raises where an update of one layer by itself takes another state than its part of that of the stack."""
    of_stack = {i: jnp.asarray(leaves[i]) for i in layers.places}
    kept = {j: jnp.asarray(x) for j, x in enumerate(arrays) if j not in layers.of_rest}

    def one(params: Arrays, state: Arrays) -> Any:
        here = layers.at(0, params, state)
        grads = {i: x for i, x in here[0].items() if i in layers.trained}
        return here, layers.updated(grads, *here, jnp.zeros(()))

    try:
        before, after = jax.eval_shape(one, of_stack, kept)
    except (TypeError, ValueError) as e:
        refuse(f"one layer of {names[layers.places[0]]} by itself has another state than in the stack ({e})")
    if jax.tree.map(lambda x: x.shape, before) != jax.tree.map(lambda x: x.shape, after):
        refuse(f"one layer of {names[layers.places[0]]} by itself has another state than in the stack")


def _traced(layers: Layers, leaves: list[Any], arrays: list[Any]) -> Layers:
    """The same layers, with what an update of all shows: the calls at which leaves meet, and how each is made.

    Raises:
      ValueError: they meet with numbers of whole stacks; an array of the state would leave the host's memory.
    """
    found, numbers = dict[Hashable, str](), list[str]()
    trained = {i: leaves[i] for i in sorted(layers.trained)}

    def noted(key: Hashable, meeting: Meeting, brought: list[Brought], common: list[Array]) -> list[list[Array]]:
        if meeting.alike:
            found[key] = call = f"gdjax.{meeting.place.name} at {meeting.place.line}"
            numbers.extend([] if any(x.ndim for leaf in brought for x in leaf.arrays) else [call])
        return meeting.f(brought, common)

    def update(grads: Arrays, leaves: list[Any], arrays: list[Any], value: Any) -> list[Any]:
        with answered(noted):
            params, state = layers.updated(grads, dict(enumerate(leaves)), dict(enumerate(arrays)), value)
        return [*(state[j] for j in range(len(arrays))), *(params[i] for i in trained)]

    closed = jax.make_jaxpr(update)(trained, leaves, arrays, jnp.zeros(()))
    if numbers:
        refuse(f"{numbers[0]} of a number of each stack")
    for (path, _), new, old in zip(_paths(layers.state), closed.out_avals, arrays, strict=False):
        if memories.is_on_host(new) and not memories.is_on_host(old):
            what = f"state{jax.tree_util.keystr(path)}"
            raise ValueError(f"{LABEL}: {what} is on the device, and kept on the host: put it there first")
    kinds = [(n, x.dtype) for n, xs in enumerate((trained, leaves, arrays)) for x in jax.tree.leaves(xs)]
    how = probe.made(closed.jaxpr, [*kinds, "value"])
    made = {i: [x] for i, x in zip(trained, how[len(arrays) :], strict=True)}
    for j, i in layers.owners.items():
        made.setdefault(i, []).append(how[j])
    return replace(layers, meetings=tuple(found.values()), made={i: tuple(x) for i, x in made.items()})


def _paths(structure: Any) -> Any:
    return jax.tree_util.tree_leaves_with_path(structure.unflatten(range(structure.num_leaves)))


def names_of(layers: Layers) -> tuple[dict[int, str], dict[int, str]]:
    """What the updates of the parameters, and the arrays of the state, are called in errors."""
    updates = {i: f"the update of params{jax.tree_util.keystr(path)}" for path, i in _paths(layers.params)}
    return updates, {j: f"state{jax.tree_util.keystr(path)}" for path, j in _paths(layers.state)}
