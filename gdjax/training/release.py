"""Gradient release: a layer is updated as soon as the backward pass has its gradient, which is then dropped."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from gdjax.core import base
from gdjax.core.types import Array, ArrayTree, OptState, Params, Transform
from gdjax.lift.meetings import Brought, Meeting, answered
from gdjax.training.layers import LABEL, Arrays, Layers, layers_of
from gdjax.xla.write_order import all_first

Step = Callable[..., tuple[Params, OptState, Any]]
Parts = dict[Any, tuple[Meeting, Array]]  # of meetings, by their keys, what comes of them for some of the leaves


def gradient_release(
    tx: Transform, before: Callable[..., Any], layer: Callable[..., Any], after: Callable[..., Any], *,
    stack: Callable[[Any], Any], has_aux: bool = False,
) -> Step:  # fmt: skip
    """A training step that updates each layer of a stack inside the backward pass, and never holds all gradients.

        x_0 = before(p, *inputs)   x_{i+1} = layer(w_i, x_i, *inputs), i = 0, ..., n - 1   loss = after(p, x_n, *inputs)

    The forward pass keeps x_0, ..., x_n. The backward pass goes from the last layer to the first: it computes the layer
    once more from x_i, as `jax.checkpoint` does, takes its gradient, makes the new w_i and state of it, and writes them
    in the places of the old ones. So at the peak there are parameters, state, the x_i and the gradient of one layer.
    All other parameters are updated at the end. The results are those of

        loss, grads = jax.value_and_grad(...)(params, *inputs)
        updates, state = tx.update(grads, state, params)
        params = apply_updates(params, updates)

    with the same state, `tx.init(params)`, to rounding: a run may go on with either.

    Args:
      tx: the optimizer. What it makes for a layer must be made of what that layer has, and of what all have in common,
        such as the step: anything element by element, sums over other axes, masks, groups, schedules. Norms over all
        arrays, as of `clip_by_global_norm`, take a backward pass of their own before the one that updates.
      before: `before(params, *inputs) -> x`, what comes before the stack, such as an embedding; x is a tree of arrays.
      layer: `layer(w, x, *inputs) -> x`, one layer; w is an entry of the stack, without its first axis. The new x has
        the structure, shapes and dtypes of the old one.
      after: `after(params, x, *inputs) -> loss`, what comes after the stack, and the loss. `before` and `after` may
        share parameters.
      stack: from the tree of parameters to the part that is the stack, `lambda params: params["layers"]`. Its arrays
        have the layers along their first axis, as `jax.vmap` of an initializer makes them, `flax.linen.scan` and
        `equinox.filter_vmap`. Those that are not floating, such as numbers of layers, are handed on and not trained.
      has_aux: `after` returns `(loss, aux)`.

    Returns:
      `step(params, state, *inputs) -> (params, state, loss)`, or `(params, state, (loss, aux))`, to be compiled so that
      it writes over what it gets: `jax.jit(step, donate_argnums=(0, 1))`. `before` and `after` find None in the place
      of the arrays of the stack. The inputs are trees of arrays. An update that reads `value` gets the loss.

    Raises:
      TypeError: tx is no transform.
      ValueError: (in the step) `stack` does not return a part of the parameters, or arrays of different lengths; the
        optimizer makes the update of a layer of other layers: methods with a number for the whole tree (DoG, Prodigy),
        norms of each parameter (LAMB), matrices of all layers together (SOAP), searches along a line. The message names
        the array and the operation.

    With Adam in float32, 24 layers of 2048 x 2048 take 14.0 bytes a parameter at the peak on a TPU, 18.3 with the plain
    step, at a cost of one more forward pass; with `offload_state` around Adam, 6.0. It helps where gradients are much
    of the memory: least with large batches.

    Example:
      >>> import gdjax, jax, jax.numpy as jnp
      >>> tx, params = gdjax.adam(0.1), {"embed": jnp.eye(2), "layers": jnp.ones((4, 2, 2))}
      >>> step = gdjax.gradient_release(
      ...     tx, lambda p, x: x @ p["embed"], lambda w, h, x: jnp.tanh(h @ w),
      ...     lambda p, h, x: jnp.mean(h**2), stack=lambda p: p["layers"])
      >>> params, state, loss = step(params, tx.init(params), jnp.ones((1, 2)))
      >>> print(f"{loss:.3f}", params["layers"].shape)
      0.917 (4, 2, 2)

    Reference:
      Lv et al. 2023, Full parameter fine-tuning for large language models with limited resources (LOMO),
      https://arxiv.org/abs/2306.09782; Lv et al. 2023, AdaLomo, https://arxiv.org/abs/2310.10195; PyTorch, How to save
      memory by fusing the optimizer step into the backward pass,
      https://pytorch.org/tutorials/intermediate/optimizer_step_in_backward_tutorial.html
    """
    base.check_transform(LABEL, "tx", tx)
    for name, f in {"before": before, "layer": layer, "after": after, "stack": stack}.items():
        if not callable(f):
            raise TypeError(f"{LABEL}: {name} must be a function, got {f!r}")

    model = _Model(before, layer, after, has_aux)

    def released(params: Params, state: OptState, *inputs: Any) -> tuple[Params, OptState, Any]:
        layers = layers_of(tx, params, state, stack)
        return _Pass(model, layers, params, state, inputs).run()

    compiled = jax.jit(released)  # `meetings.answered` is for traces

    def step(params: Params, state: OptState, *inputs: Any) -> tuple[Params, OptState, Any]:
        return compiled(params, state, *inputs)

    return step


class _Model(NamedTuple):
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


class _Pass:
    """One step."""

    def __init__(self, model: _Model, layers: Layers, params: Params, state: OptState, inputs: tuple[Any, ...]):
        self.model, self.layers, self.inputs = model, layers, inputs
        leaves, arrays = (dict(enumerate(map(jnp.asarray, jax.tree.leaves(x)))) for x in (params, state))
        self.stacks = {i: leaves[i] for i in sorted(layers.places)}
        self.rest = {i: x for i, x in leaves.items() if i not in self.stacks}
        self.state = {j: x for j, x in arrays.items() if j not in layers.of_rest}  # of the stack and of the whole tree
        self.state_of_rest = {j: x for j, x in arrays.items() if j not in layers.axes}  # of the rest, and of the tree
        self.x: Any = None  # x_0, whose structure all have

    def run(self) -> tuple[Params, OptState, Any]:
        """The new parameters, the new state and what is told of the loss."""
        layers, rest = self.layers, self.trained(self.rest)
        x, before, others = jax.vjp(self.first, rest, has_aux=True)
        last, self.kept = jax.lax.scan(lambda x, w: (self.one(w, *x), x), (x, others), self.stacks)
        loss, after, aux = jax.vjp(lambda rest, x: self.last(rest, x, last[1]), rest, last[0], has_aux=True)
        of_rest, of_x = after(jnp.ones_like(loss))
        self.loss, met, grads = loss, dict[Any, Array](), dict[int, Array]()
        whole = lambda of_x: jax.tree.map(jnp.add, of_rest, before(of_x)[0])  # noqa: E731
        if layers.meets:
            parts, of_first = self.parts(of_x)
            grads = whole(of_first)
            met = self.met(parts, grads)
        of_first, stacks, state = self.backward(of_x, met)
        if rest:
            with answered(_known(met)):
                new = layers.updated(grads if layers.meets else whole(of_first), self.rest, self.state_of_rest, loss)
            stacks |= new[0]
            # A number of the whole tree is new after either update, but where that has none of its parameters.
            state |= {j: x for j, x in new[1].items() if j not in state or x is not self.state_of_rest[j]}
        return (
            layers.tree(self.stacks | stacks),
            layers.state.unflatten([state[j] for j in range(len(state))]),
            (loss, aux) if self.model.has_aux else loss,
        )

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

            def update(params: Arrays, state: Arrays, grads: Arrays) -> tuple[Arrays, Arrays]:
                with answered(_known(met)):
                    return layers.updated(grads, here[0] | params, state, self.loss)

            def new(olds: list[Array], grads: Arrays) -> list[Array]:
                params, state = layers.of_row(update, i, *structure.unflatten(olds), grads)
                return jax.tree.leaves((self.trained(params), state))

            news = structure.unflatten(all_first(new, olds, grads))
            return of_x, *layers.put(i, stacks, state, news)

        # A loop that writes over what it carries; the results of a scan would lie beside the old arrays.
        return jax.lax.fori_loop(0, layers.number, one, (of_x, self.trained(self.stacks), self.state))

    def parts(self, of_x: Arrays) -> tuple[Parts, Arrays]:
        """A backward pass for what each layer brings to the meetings of all arrays, and the gradient by x_0."""
        meetings: dict[Any, Meeting] = {}

        def part(grads: Arrays, params: Arrays, state: Arrays) -> list[Array]:
            found = self.part(grads, params, state)
            meetings.update({key: meeting for key, (meeting, _) in found.items()})
            return [x for _, x in found.values()]

        def one(of_x: Arrays, i: Array) -> tuple[Arrays, list[Array]]:
            here = self.layers.at(i, self.stacks, self.state)
            grads, of_x = self.gradients(i, here[0], of_x)
            return of_x, self.layers.of_row(part, i, grads, *here)

        of_first, found = jax.lax.scan(one, of_x, jnp.arange(self.layers.number), reverse=True)
        return {k: (meeting, x) for (k, meeting), x in zip(meetings.items(), found, strict=True)}, of_first

    def part(self, grads: Arrays, params: Arrays, state: Arrays) -> Parts:
        """What comes of each meeting for these alone."""
        found: Parts = {}

        def note(key: Any, meeting: Meeting, brought: list[Brought], common: list[Array]) -> list[list[Array]]:
            results = meeting.f(brought, common)
            if meeting.alike:
                found[key] = meeting, results[0][0]
            return results

        with answered(note):
            self.layers.updated(grads, params, state, self.loss)
        return found

    def met(self, of_layers: Parts, grads: Arrays) -> dict[Any, Array]:
        """What comes of each meeting of all: the norm of the norms of its parts."""
        of_rest = self.part(grads, self.rest, self.state_of_rest) if grads else {}
        found = dict[Any, Array]()
        for key, (meeting, _) in (of_layers | of_rest).items():
            parts = [Brought([x[key][1]], meeting.own) for x in (of_layers, of_rest) if key in x]
            found[key] = meeting.f(parts, [])[0][0]
        return found


def _known(met: dict[Any, Array]) -> Any:
    """Answers meetings with what has come of all leaves; matrices of one layer meet by themselves."""

    def answer(key: Any, meeting: Meeting, brought: list[Brought], common: list[Array]) -> list[list[Array]]:
        return [[met[key]]] * len(brought) if meeting.alike else meeting.f(brought, common)

    return answer
