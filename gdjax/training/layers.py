"""The layers of a stack in parameters and in a state; and one step that updates each inside the backward pass."""

import warnings
from collections.abc import Callable, Hashable, Mapping, Set
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple, NoReturn

import jax
import jax.numpy as jnp

from gdjax.codes.rounding import FIRST_ROW
from gdjax.core import base, meshes
from gdjax.core.parts import Guess, StateArray, every, state_arrays
from gdjax.core.paths import named_leaves
from gdjax.core.types import Array, ArrayTree, OptState, Params, Transform
from gdjax.lift import probe
from gdjax.lift.meetings import Contribution, Meeting, answered
from gdjax.tree.updates import apply_updates
from gdjax.xla.write_order import all_first

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
        cut = lambda x, axis: x if axis is None else jax.lax.dynamic_slice_in_dim(x, i, 1, axis)
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
        present = jax.tree.map(jnp.asarray, self.absent) | state
        hidden = {i: base.MaskedNode() for i in range(self.params.num_leaves) if i not in params}  # as by a mask around
        arrays = [present.get(j, base.MaskedNode()) for j in range(self.state.num_leaves)]
        gs, ps, old = self.tree(hidden | grads), self.tree(hidden | params), self.state.unflatten(arrays)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of leaves that are not there
            updates, new = base.call_update(self.tx, gs, old, ps, _extra(gs, value, row))
        params = dict(zip(sorted(params), jax.tree.leaves(self.apply(ps, updates)), strict=True))
        news = dict(zip(sorted(present), jax.tree.leaves(new), strict=True))
        return params, {j: _pinned(news[j], x) for j, x in state.items()}


def _pinned(new: Array, old: Array) -> Array:
    """The new array in the dtype of the old one."""
    return new if new is old else jax.lax.convert_element_type(new, old.dtype)


def layers_of(tx: Transform, params: Params, state: OptState, stack: Callable[[Any], Any]) -> Layers:
    """Finds the layers.

    Raises:
      ValueError: there are none; the optimizer cannot update one by itself.
    """
    leaves, structure = jax.tree.flatten(params)
    names = [name for name, _ in named_leaves("params", params)]
    places, part = jax.tree.flatten(stack(structure.unflatten(range(len(leaves)))))
    if not places or not all(isinstance(i, int) and i < len(leaves) for i in places) or len({*places}) < len(places):
        raise ValueError(f"{LABEL}: stack must return a part of the parameters, such as params['layers']")
    trained = frozenset(i for i, x in enumerate(leaves) if jnp.issubdtype(jnp.result_type(x), jnp.inexact))
    if trained.isdisjoint(places):
        raise ValueError(f"{LABEL}: no array of the stack is floating: nothing in it is trained")
    _check_number({names[i]: jnp.shape(leaves[i]) for i in places})
    layers = structure_of(tx, params, state, places, part)
    layers = _traced(layers, leaves, jax.tree.leaves(state))
    _check_sizes(layers, names, leaves, jax.tree.leaves(state))
    return layers


def structure_of(tx: Transform, params: Params, state: OptState, places: list[int], part: Any) -> Layers:
    """Where the layers are in a state, and which arrays are those of other parameters.

    Raises:
      ValueError: an array belongs to several parameters.
    """
    leaves, structure = jax.tree.flatten(params)
    trained = frozenset(i for i, x in enumerate(leaves) if jnp.issubdtype(jnp.result_type(x), jnp.inexact))
    arrays = state_arrays(tx, state, params)
    axes, owners = dict[int, int | None](), {j: x.leaf for j, x in enumerate(arrays) if x.leaf is not None}
    for j, x in enumerate(arrays):
        if x.of_several:
            why = f"state{jax.tree_util.keystr(x.field)} belongs to several parameters together, and so to all layers"
            refuse(why)
        if x.leaf is not None and x.leaf in places:
            axes[j] = _axis(x, jnp.shape(leaves[x.leaf]))
    state_leaves, form = jax.tree.flatten(state)
    foreign = any(isinstance(one, Guess) for one, *_ in every(tx, state))
    absent = {} if foreign else dict(enumerate(state_leaves))
    number = jnp.shape(leaves[places[0]])[0]
    return Layers(tx, structure, form, part, places, trained, axes, owners, number, absent)


def _extra(grads: Any, value: Array, row: Array | int = 0) -> dict[str, Any]:
    """What an update may be given besides."""

    def value_fn(*_: Any) -> NoReturn:
        refuse("the optimizer evaluates the loss at other parameters")

    return {"value": value, "grad": grads, "value_fn": value_fn, FIRST_ROW: row}


def refuse(why: str) -> NoReturn:
    demand = "an optimizer must make the update of a layer of what that layer has; use tx.update with all gradients"
    raise ValueError(f"{LABEL}: {why}: {demand}")


def _check_number(shapes: Mapping[str, tuple[int, ...]]) -> None:
    first = next(iter(shapes))
    for name, shape in shapes.items():
        if not shape or shape[0] != shapes[first][:1][0]:
            both = f"{name} has shape {shape}, {first} {shapes[first]}"
            raise ValueError(f"{LABEL}: the first axis of each array of the stack is that of the layers: {both}")


def _axis(x: StateArray, shape: tuple[int, ...]) -> int | None:
    """The axis of the layers in an array of the state that belongs to a parameter of the stack."""
    if x.axes is not None:
        return x.axes.index(0) if 0 in x.axes else None
    size = jnp.shape(x.array)  # the parameter's, or with axes of length 1 as for a number of each row
    follows = len(size) == len(shape) and all(n in (1, m) for n, m in zip(size, shape, strict=True))
    return 0 if follows and size[:1] == shape[:1] else None


def _check_sizes(layers: Layers, names: list[str], leaves: list[Any], arrays: list[Any]) -> None:
    """Raises where an update of one layer by itself takes another state than its part of that of the stack."""
    of_stack = {i: jnp.asarray(leaves[i]) for i in layers.places}
    states = {j: jnp.asarray(x) for j, x in enumerate(arrays) if j not in layers.of_rest}

    def one(params: Arrays, state: Arrays) -> Any:
        here = layers.at(0, params, state)
        grads = {i: x for i, x in here[0].items() if i in layers.trained}
        return here, layers.updated(grads, *here, jnp.zeros(()))

    try:
        before, after = jax.eval_shape(one, of_stack, states)
    except (TypeError, ValueError) as e:
        refuse(f"one layer of {names[layers.places[0]]} by itself has another state than in the stack ({e})")
    if jax.tree.map(lambda x: x.shape, before) != jax.tree.map(lambda x: x.shape, after):
        refuse(f"one layer of {names[layers.places[0]]} by itself has another state than in the stack")


def _traced(layers: Layers, leaves: list[Any], arrays: list[Any]) -> Layers:
    """The same layers, with what an update of all shows: the calls at which leaves meet, and how each is made.

    Raises:
      ValueError: they meet with numbers of whole stacks; an array of the state would leave the host's memory.
    """
    calls, numbers = dict[Hashable, str](), list[str]()
    trained = {i: leaves[i] for i in sorted(layers.trained)}

    def noted(key: Hashable, meeting: Meeting, brought: list[Contribution], common: list[Array]) -> list[list[Array]]:
        if meeting.alike:
            calls[key] = call = f"gdjax.{meeting.place.name} at {meeting.place.line}"
            numbers.extend([] if any(x.ndim for leaf in brought for x in leaf.arrays) else [call])
        return meeting.f(brought, common)

    def update(grads: Arrays, leaves: list[Any], arrays: list[Any], value: Any) -> list[Any]:
        with answered(noted):
            params, state = layers.updated(grads, dict(enumerate(leaves)), dict(enumerate(arrays)), value)
        return [*(state[j] for j in range(len(arrays))), *(params[i] for i in trained)]

    closed = jax.make_jaxpr(update)(trained, leaves, arrays, jnp.zeros(()))
    if numbers:
        refuse(f"{numbers[0]} of a number of each stack")
    names = _names("state", layers.state)
    for name, new, old in zip(names, closed.out_avals, arrays, strict=False):
        if meshes.is_on_host(new) and not meshes.is_on_host(old):
            raise ValueError(f"{LABEL}: {name} is on the device, and kept on the host: put it there first")
    kinds = [(n, x.dtype) for n, xs in enumerate((trained, leaves, arrays)) for x in jax.tree.leaves(xs)]
    how = probe.made(closed.jaxpr, [*kinds, "value"])
    made = {i: [x] for i, x in zip(trained, how[len(arrays) :], strict=True)}
    for j, i in layers.owners.items():
        made.setdefault(i, []).append(how[j])
    return replace(layers, meetings=tuple(calls.values()), made={i: tuple(x) for i, x in made.items()})


def _names(tree: str, structure: Any) -> list[str]:
    return [name for name, _ in named_leaves(tree, structure.unflatten(range(structure.num_leaves)))]


def names_of(layers: Layers) -> tuple[list[str], list[str]]:
    """What the updates of the parameters, and the arrays of the state, are called in errors."""
    return _names("the update of params", layers.params), _names("state", layers.state)


Parts = dict[Any, tuple[Meeting, Array]]  # of meetings, by their keys, what comes of them for some of the leaves


class LayeredModel(NamedTuple):
    before: Callable[..., Any]
    layer: Callable[..., Any]
    after: Callable[..., Any]
    has_aux: bool


class _Tree(NamedTuple):
    """A tree of arrays: the floating ones, which have gradients, and the others, each by place."""

    floating: Arrays
    others: Arrays
    structure: Any

    @classmethod
    def of(cls, tree: ArrayTree) -> "_Tree":
        leaves, structure = jax.tree.flatten(tree)
        floating = {i: x for i, x in enumerate(leaves) if jnp.issubdtype(jnp.result_type(x), jnp.inexact)}
        others = {i: x for i, x in enumerate(leaves) if i not in floating}
        return cls(floating, others, structure)

    def tree(self) -> Any:
        both = self.floating | self.others
        return self.structure.unflatten([both[i] for i in range(len(both))])


class LayeredStep:
    """One step."""

    model: LayeredModel
    inputs: tuple[Any, ...]
    loss: Array

    def __init__(self, layers: Layers, params: Arrays, state: Arrays):
        self.layers = layers
        self.stacks = {i: x for i, x in params.items() if i in layers.places}
        self.rest = {i: x for i, x in params.items() if i not in layers.places}
        self.state = {j: x for j, x in state.items() if j not in layers.of_rest}  # of the stack and of the whole tree
        self.state_of_rest = {j: x for j, x in state.items() if j not in layers.axes}  # of the rest, and of the tree
        self.x: Any = None  # x_0, whose structure all have

    def run(self, model: LayeredModel, *inputs: Any) -> tuple[Params, OptState, Any]:
        """The new parameters, the new state and what is told of the loss."""
        self.model, self.inputs = model, inputs
        layers, rest = self.layers, self.trained(self.rest)
        x, before, others = jax.vjp(self.first, rest, has_aux=True)
        last, self.xs = jax.lax.scan(lambda x, w: (self.one(w, *x), x), (x, others), self.stacks)
        self.loss, after, aux = jax.vjp(lambda rest, x: self.last(rest, x, last[1]), rest, last[0], has_aux=True)
        of_rest, of_x = after(jnp.ones_like(self.loss))
        stacks, state = self.updates(of_x, lambda of_x: jax.tree.map(jnp.add, of_rest, before(of_x)[0]))
        return (
            layers.tree(self.stacks | stacks),
            layers.state.unflatten([state[j] for j in range(len(state))]),
            (self.loss, aux) if model.has_aux else self.loss,
        )

    def updates(self, of_x: Arrays, of_rest: Callable[[Arrays], Arrays]) -> tuple[Arrays, Arrays]:
        """The new parameters and the new state.

        Args:
          of_x: the gradient by x_n.
          of_rest: from that by x_0 to the gradients of the other parameters.
        """
        met, grads = dict[Any, Array](), None
        if self.layers.meetings:
            parts, of_first = self.parts(of_x)
            grads = of_rest(of_first)
            met = self.met(parts, grads)
        of_first, params, state = self.backward(of_x, met)
        if self.trained(self.rest):
            grads = of_rest(of_first) if grads is None else grads
            new = self.updated(grads, self.rest, self.state_of_rest, met)
            params |= new[0]
            # A number of the whole tree is new after either update, but where that has none of its parameters.
            state |= {j: x for j, x in new[1].items() if j not in state or x is not self.state_of_rest[j]}
        return params, state

    def updated(
        self, grads: Arrays, params: Arrays, state: Arrays, met: dict[Any, Array], row: Array | int = 0
    ) -> tuple[Arrays, Arrays]:
        """What becomes of some of the parameters and of the state, with what has come of the meetings of all."""

        def answer(key: Any, meeting: Meeting, brought: list[Contribution], common: list[Array]) -> list[list[Array]]:
            # Matrices of one layer meet by themselves.
            return [[met[key]]] * len(brought) if meeting.alike else meeting.f(brought, common)

        with answered(answer):
            return self.layers.updated(grads, params, state, self.loss, row)

    def trained(self, arrays: Arrays) -> Arrays:
        return {i: x for i, x in arrays.items() if i in self.layers.trained}

    def first(self, rest: Arrays) -> tuple[Arrays, Arrays]:
        self.x = _Tree.of(self.model.before(self.layers.tree(self.rest | rest), *self.inputs))
        return self.x.floating, self.x.others

    def one(self, w: Arrays, floating: Arrays, others: Arrays) -> tuple[Arrays, Arrays]:
        x = self.x._replace(floating=floating, others=others)
        y = _Tree.of(self.model.layer(self.layers.stack(w), x.tree(), *self.inputs))
        if y.structure != x.structure:
            raise ValueError(f"{LABEL}: layer got x of {x.structure} and returned {y.structure}: they must be the same")
        return y.floating, y.others

    def last(self, rest: Arrays, floating: Arrays, others: Arrays) -> tuple[Array, Any]:
        x = self.x._replace(floating=floating, others=others)
        result = self.model.after(self.layers.tree(self.rest | rest), x.tree(), *self.inputs)
        loss, aux = result if self.model.has_aux else (result, None)
        if jnp.shape(loss) or not jnp.issubdtype(jnp.result_type(loss), jnp.floating):
            raise ValueError(f"{LABEL}: after must return the loss, one real number, got {loss!r}")
        return loss, aux

    def gradients(self, i: Array, ws: Arrays, of_y: Arrays) -> tuple[Arrays, Arrays]:
        """Those of layer i, by its parameters, with the axis of the layers, and by its x."""
        x, others = jax.tree.map(lambda x: jax.lax.dynamic_index_in_dim(x, i, keepdims=False), self.xs)
        w = {k: jnp.squeeze(x, 0) for k, x in ws.items()}
        _, backward, _ = jax.vjp(lambda t, x: self.one(w | t, x, others), self.trained(w), x, has_aux=True)
        grads, of_x = backward(of_y)
        return {k: g[None] for k, g in grads.items()}, of_x

    def backward(self, of_x: Arrays, met: dict[Any, Array]) -> tuple[Arrays, Arrays, Arrays]:
        """The pass that updates: the gradient by x_0, the new stacks, the new state of these and of the whole tree."""
        layers, fixed = self.layers, {i: x for i, x in self.stacks.items() if i not in self.layers.trained}

        def one(n: Array, carry: Any) -> Any:
            of_x, stacks, state = carry
            i = layers.number - 1 - n
            # What has no layers is as it was before the step.
            common = {j: x for j, x in self.state.items() if layers.axes.get(j) is None}
            here = layers.at(i, stacks | fixed, state | common)
            grads, of_x = self.gradients(i, here[0], of_x)
            olds, structure = jax.tree.flatten((self.trained(here[0]), here[1]))

            def new(olds: list[Array], grads: Arrays) -> list[Array]:
                params, state = structure.unflatten(olds)
                params, state = self.updated(grads, here[0] | params, state, met, i)
                return jax.tree.leaves((self.trained(params), state))

            news = structure.unflatten(all_first(new, olds, grads))
            return of_x, *layers.put(i, stacks, state, news)

        # A loop that writes over what it carries; the results of a scan would lie beside the old arrays.
        return jax.lax.fori_loop(0, layers.number, one, (of_x, self.trained(self.stacks), self.state))

    def parts(self, of_x: Arrays) -> tuple[Parts, Arrays]:
        """A backward pass for what each layer brings to the meetings of all arrays, and the gradient by x_0."""
        meetings: dict[Any, Meeting] = {}

        def one(i: Array, grads: Arrays, params: Arrays, state: Arrays) -> list[Array]:
            parts = self.part(grads, params, state, i)
            meetings.update({key: meeting for key, (meeting, _) in parts.items()})
            return [x for _, x in parts.values()]

        of_first, results = self.each(one, of_x)
        return {k: (meeting, x) for (k, meeting), x in zip(meetings.items(), results, strict=True)}, of_first

    def each(self, f: Callable[..., Any], of_x: Arrays) -> tuple[Arrays, Any]:
        """The gradient by x_0, and of each layer `f(i, gradients, parameters, state)`."""

        def one(of_x: Arrays, i: Array) -> tuple[Arrays, Any]:
            here = self.layers.at(i, self.stacks, self.state)
            grads, of_x = self.gradients(i, here[0], of_x)
            return of_x, f(i, grads, *here)

        return jax.lax.scan(one, of_x, jnp.arange(self.layers.number), reverse=True)

    def part(self, grads: Arrays, params: Arrays, state: Arrays, row: Array | int = 0) -> Parts:
        """What comes of each meeting for these alone."""
        parts: Parts = {}

        def note(key: Any, meeting: Meeting, brought: list[Contribution], common: list[Array]) -> list[list[Array]]:
            results = meeting.f(brought, common)
            if meeting.alike:
                parts[key] = meeting, results[0][0]
            return results

        with answered(note):
            self.layers.updated(grads, params, state, self.loss, row)
        return parts

    def met(self, of_layers: Parts, grads: Arrays) -> dict[Any, Array]:
        """What comes of each meeting of all: the norm of the norms of its parts."""
        of_rest = self.part(grads, self.rest, self.state_of_rest) if grads else {}
        results = dict[Any, Array]()
        for key, (meeting, _) in (of_layers | of_rest).items():
            parts = [Contribution([x[key][1]], meeting.facts) for x in (of_layers, of_rest) if key in x]
            results[key] = meeting.f(parts, [])[0][0]
        return results
