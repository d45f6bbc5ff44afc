"""Gradient release: a layer is updated as soon as the backward pass has its gradient, which is then dropped."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from gdjax.core import base
from gdjax.core.types import OptState, Params, Transform
from gdjax.training.layer_pass import Model, Pass
from gdjax.training.layers import LABEL, layers_of
from gdjax.training.mixing import check_apart

Step = Callable[..., tuple[Params, OptState, Any]]


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
        the array and the transform.

    Whether it does is tried when the step is traced: on random numbers in the same tree, with shorter axes where the
    state has the same form with those, of parameters that are updated alike on one, in some hundred steps with
    gradients of many sizes, all layers at once and each by itself. An optimizer that calls the program, as with
    `jax.debug.print`, is not tried. One that rounds at random by the place of a number, as `quantize_state` does, is
    told the row where a layer begins: `update(..., first_row=i)`.

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

    model = Model(before, layer, after, has_aux)

    def released(params: Params, state: OptState, *inputs: Any) -> tuple[Params, OptState, Any]:
        layers = layers_of(tx, params, state, stack)
        check_apart(layers, params)
        params, state = (dict(enumerate(map(jnp.asarray, jax.tree.leaves(x)))) for x in (params, state))
        return Pass(layers, params, state).run(model, *inputs)

    compiled = jax.jit(released)  # `meetings.answered` is for traces

    def step(params: Params, state: OptState, *inputs: Any) -> tuple[Params, OptState, Any]:
        return compiled(params, state, *inputs)

    return step
