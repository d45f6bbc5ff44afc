"""One step that updates each layer of a stack inside the backward pass."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from gdjax.core.types import Array, ArrayTree, OptState, Params
from gdjax.lift.meetings import Brought, Meeting, answered
from gdjax.training.layers import LABEL, Arrays, Layers
from gdjax.xla.write_order import all_first

Parts = dict[Any, tuple[Meeting, Array]]  # of meetings, by their keys, what comes of them for some of the leaves


class Model(NamedTuple):
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
        found: tuple[Arrays, Arrays] = {}, {}
        for i, x in enumerate(leaves):
            found[0 if jnp.issubdtype(jnp.result_type(x), jnp.inexact) else 1][i] = x
        return cls(*found, structure)

    def tree(self) -> Any:
        both = self.floating | self.others
        return self.structure.unflatten([both[i] for i in range(len(both))])


class Pass:
    """One step."""

    model: Model
    inputs: tuple[Any, ...]
    loss: Array

    def __init__(self, layers: Layers, params: Arrays, state: Arrays):
        self.layers = layers
        self.stacks = {i: x for i, x in params.items() if i in layers.places}
        self.rest = {i: x for i, x in params.items() if i not in layers.places}
        self.state = {j: x for j, x in state.items() if j not in layers.of_rest}  # of the stack and of the whole tree
        self.state_of_rest = {j: x for j, x in state.items() if j not in layers.axes}  # of the rest, and of the tree
        self.x: Any = None  # x_0, whose structure all have

    def run(self, model: Model, *inputs: Any) -> tuple[Params, OptState, Any]:
        """The new parameters, the new state and what is told of the loss."""
        self.model, self.inputs = model, inputs
        layers, rest = self.layers, self.trained(self.rest)
        x, before, others = jax.vjp(self.first, rest, has_aux=True)
        last, self.kept = jax.lax.scan(lambda x, w: (self.one(w, *x), x), (x, others), self.stacks)
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

        def answer(key: Any, meeting: Meeting, brought: list[Brought], common: list[Array]) -> list[list[Array]]:
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
        found = self.model.after(self.layers.tree(self.rest | rest), x.tree(), *self.inputs)
        loss, aux = found if self.model.has_aux else (found, None)
        if jnp.shape(loss) or not jnp.issubdtype(jnp.result_type(loss), jnp.floating):
            raise ValueError(f"{LABEL}: after must return the loss, one real number, got {loss!r}")
        return loss, aux

    def gradients(self, i: Array, ws: Arrays, of_y: Arrays) -> tuple[Arrays, Arrays]:
        """Those of layer i, by its parameters, with the axis of the layers, and by its x."""
        x, others = jax.tree.map(lambda x: jax.lax.dynamic_index_in_dim(x, i, keepdims=False), self.kept)
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
            whole = {j: x for j, x in self.state.items() if layers.axes.get(j) is None}
            here = layers.at(i, stacks | fixed, state | whole)
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
            found = self.part(grads, params, state, i)
            meetings.update({key: meeting for key, (meeting, _) in found.items()})
            return [x for _, x in found.values()]

        of_first, found = self.each(one, of_x)
        return {k: (meeting, x) for (k, meeting), x in zip(meetings.items(), found, strict=True)}, of_first

    def each(self, f: Callable[..., Any], of_x: Arrays) -> tuple[Arrays, Any]:
        """The gradient by x_0, and of each layer `f(i, gradients, parameters, state)`."""

        def one(of_x: Arrays, i: Array) -> tuple[Arrays, Any]:
            here = self.layers.at(i, self.stacks, self.state)
            grads, of_x = self.gradients(i, here[0], of_x)
            return of_x, f(i, grads, *here)

        return jax.lax.scan(one, of_x, jnp.arange(self.layers.number), reverse=True)

    def part(self, grads: Arrays, params: Arrays, state: Arrays, row: Array | int = 0) -> Parts:
        """What comes of each meeting for these alone."""
        found: Parts = {}

        def note(key: Any, meeting: Meeting, brought: list[Brought], common: list[Array]) -> list[list[Array]]:
            results = meeting.f(brought, common)
            if meeting.alike:
                found[key] = meeting, results[0][0]
            return results

        with answered(note):
            self.layers.updated(grads, params, state, self.loss, row)
        return found

    def met(self, of_layers: Parts, grads: Arrays) -> dict[Any, Array]:
        """What comes of each meeting of all: the norm of the norms of its parts."""
        of_rest = self.part(grads, self.rest, self.state_of_rest) if grads else {}
        found = dict[Any, Array]()
        for key, (meeting, _) in (of_layers | of_rest).items():
            parts = [Brought([x[key][1]], meeting.own) for x in (of_layers, of_rest) if key in x]
            found[key] = meeting.f(parts, [])[0][0]
        return found
