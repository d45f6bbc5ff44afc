"""Batches too large for memory: a function evaluated on one part after another, the results combined."""

import functools
from collections import namedtuple
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp

from gdjax.core import callers
from gdjax.core.types import Array, ArrayLike, ArrayTree
from gdjax.tree.accumulators import AccumulationType, Accumulator, Accumulators, combined

__all__ = [
    "AccumulationType", "Accumulator", "Aux", "micro_grad", "micro_vmap", "microbatch", "reshape_batch_axis",
]  # fmt: skip

Aux = namedtuple("Aux", ["values", "metrics", "aux"])  # each with an entry for each example


def reshape_batch_axis(tree: ArrayTree, microbatch_size: int, axis: int = 0) -> Any:
    """Splits the batch axis of every leaf in two, (number of parts, microbatch_size).

    Part i takes every n-th row from row i on, n the number of parts: a batch sharded along its axis has parts that are
    sharded along theirs, and no row moves between devices.

    Raises:
      ValueError: a batch that `microbatch_size` does not divide.

    Example:
      >>> import gdjax, jax.numpy as jnp
      >>> print(gdjax.microbatching.reshape_batch_axis(jnp.arange(6), microbatch_size=2))
      [[0 3]
       [1 4]
       [2 5]]
    """

    def split(x: ArrayLike) -> Array:
        x = jnp.asarray(x)
        at = axis % x.ndim
        parts, rest = divmod(x.shape[at], microbatch_size)
        if rest:
            raise ValueError(f"gdjax.microbatching: size {microbatch_size} does not divide a batch of {x.shape[at]}")
        return x.reshape(*x.shape[:at], microbatch_size, parts, *x.shape[at + 1 :]).swapaxes(at, at + 1)

    return jax.tree.map(split, tree)


def microbatch(
    fun: Callable[..., Any], argnums: int | Sequence[int], microbatch_size: int | None,
    accumulator: Accumulators = AccumulationType.SUM, *, argnames: str | Sequence[str] = (),
    in_axes: int | Sequence[int] = 0, num_real_microbatches: int | Array | None = None,
) -> Callable[..., Any]:  # fmt: skip
    """Evaluates a function on parts of a batch, one after the other, and combines the results.

    Args:
      fun: any function of trees.
      argnums: the positions of the arguments that have a batch axis.
      microbatch_size: rows in a part; it must divide the batch. None gives `fun` itself.
      accumulator: an `AccumulationType` or `Accumulator` for all results, or a tree of them that is a prefix of what
        `fun` returns. 16-bit results are summed in float32.
      argnames: the names of others. Either finds its argument however a call passes it, by position or by name.
      in_axes: the batch axis of each of those arguments, first of `argnums`, then of `argnames`; one for all if an int.
      num_real_microbatches: evaluate this many parts only; it may be traced. A MEAN still counts all parts.

    Returns:
      A function of the same arguments.

    Raises:
      ValueError: batches of different sizes, or that `microbatch_size` does not divide; a mean of integers; a call
        without an argument that has a batch axis.

    An empty batch has a SUM of zeros, a CONCAT of no rows, and a MEAN of NaN.

    Example:
      >>> import gdjax, jax, jax.numpy as jnp
      >>> def loss(w, x):
      ...     return jnp.sum((w - x) ** 2)
      >>> gradient = gdjax.microbatch(jax.grad(loss), argnums=1, microbatch_size=2)
      >>> x = jnp.arange(6.0)
      >>> print(gradient(1.0, x), jax.grad(loss)(1.0, x))
      -18.0 -18.0
    """
    if microbatch_size is None:
        return fun
    keys = [y for x in (argnums, argnames) for y in ([x] if isinstance(x, int | str) else x)]
    axes = [in_axes] * len(keys) if isinstance(in_axes, int) else list(in_axes)

    def in_parts(*args: Any, **kwargs: Any) -> Any:
        args, kwargs = callers.by_position(fun, args, kwargs)
        given = {**dict(enumerate(args)), **kwargs}
        places = [callers.place("gdjax.microbatch", fun, k, len(args), kwargs) for k in keys]
        where = list(zip(places, axes, strict=True))
        sizes = {jnp.shape(x)[axis] for k, axis in where for x in jax.tree.leaves(given[k])}
        if len(sizes) != 1:
            raise ValueError(f"gdjax.microbatch: the batch arguments need one batch size, got {sorted(sizes)}")
        batches = [(k, axis, reshape_batch_axis(given[k], microbatch_size, axis)) for k, axis in where]

        def part(i: Array | int) -> Any:
            def pick(x: Array, axis: int) -> Array:
                axis = axis % (x.ndim - 1)
                if not x.shape[axis]:  # an empty batch, of which only the shapes of a part are asked
                    return jnp.zeros(x.shape[:axis] + x.shape[axis + 1 :], x.dtype)
                return jax.lax.dynamic_index_in_dim(x, i, axis, keepdims=False)

            here = given | {k: jax.tree.map(functools.partial(pick, axis=axis), x) for k, axis, x in batches}
            return fun(*(here[i] for i in range(len(args))), **{name: here[name] for name in kwargs})

        like, count = jax.eval_shape(part, 0), sizes.pop() // microbatch_size
        way = combined(accumulator, count, like)
        last = count if num_real_microbatches is None else num_real_microbatches
        if not count:
            return way.finalize(way.init(like))
        return way.finalize(jax.lax.fori_loop(0, last, lambda i, c: way.update(c, part(i), i), way.init(like)))

    return in_parts


def micro_vmap(
    fun: Callable[..., Any], in_axes: int | Sequence[int | None] = 0, out_axes: Any = 0, *,
    microbatch_size: int | None = None, vmap_fn: Callable[..., Any] = jax.vmap,
    accumulator: Accumulators = AccumulationType.CONCAT, num_real_microbatches: int | Array | None = None,
) -> Callable[..., Any]:  # fmt: skip
    """`jax.vmap` in parts of the batch, its results combined along the way.

    Args:
      fun: of one example.
      in_axes: the batch axis of each positional argument, None for no batch; one for all if an int. A positional
        argument that a call passes by name keeps its axis; keyword-only ones have it first.
      out_axes: 0.
      microbatch_size: rows in a part; None for all at once.
      vmap_fn: what to use for `jax.vmap`.
      accumulator: an `AccumulationType` or `Accumulator` for all results, or a tree of them that is a prefix of what
        `fun` returns. CONCAT returns what `jax.vmap` does; MEAN and SUM keep no batch axis.
      num_real_microbatches: evaluate this many parts only; it may be traced. A MEAN still counts all parts.

    Raises:
      NotImplementedError: another `out_axes`.

    Example:
      >>> import gdjax, jax.numpy as jnp
      >>> from gdjax import microbatching
      >>> squares = microbatching.micro_vmap(jnp.square, microbatch_size=2)
      >>> mean = microbatching.micro_vmap(
      ...     jnp.square, microbatch_size=2, accumulator=microbatching.AccumulationType.MEAN)
      >>> print(squares(jnp.arange(4.0)), mean(jnp.arange(4.0)))
      [0. 1. 4. 9.] 3.5
    """
    if out_axes != 0:
        raise NotImplementedError(f"gdjax.micro_vmap: out_axes must be 0, got {out_axes!r}")
    last = num_real_microbatches

    def mapped(*args: Any, **kwargs: Any) -> Any:
        args, kwargs = callers.by_position(fun, args, kwargs)
        axes = [in_axes] * len(args) if isinstance(in_axes, int) else list(in_axes)

        def part(*args: Any, kwargs: dict[str, Any]) -> Any:
            results = vmap_fn(fun, tuple(axes), 0)(*args, **kwargs)
            return combined(accumulator, 1, results).aggregate(results)

        batched = [i for i, axis in enumerate(axes) if axis is not None]
        where = [axis for axis in axes if axis is not None] + [0]
        return microbatch(
            part, batched, microbatch_size, accumulator, argnames="kwargs", in_axes=where, num_real_microbatches=last
        )(*args, kwargs=kwargs)

    return mapped


def micro_grad(
    fun: Callable[..., Any], has_aux: bool = False, argnums: int | Sequence[int] = 0, *,
    batch_argnums: int | Sequence[int] = 1, keep_batch_dim: bool = True, microbatch_size: int | None = None,
    accumulator: Accumulators = AccumulationType.SUM, transform_fn: Callable[[Any], Any] = lambda x: x,
    metrics_fn: Callable[[Any], Any] = lambda x: None, num_real_microbatches: int | Array | None = None,
) -> Callable[..., Any]:  # fmt: skip
    """The gradient of each example, transformed (clipped, squared, ...), then combined.

    Args:
      fun: a loss, for instance `loss(params, batch)`.
      has_aux: it returns `(loss, aux)`.
      argnums: what to differentiate with respect to.
      batch_argnums: the positions of the arguments that have a batch axis, which is the first.
      keep_batch_dim: `fun` gets one example as a batch of one; False for without a batch axis.
      accumulator: how the transformed gradients are combined, an `AccumulationType` or `Accumulator`; by default their
        sum.
      transform_fn: of one example's gradient.
      metrics_fn: of one example's gradient, something small to return for each example.
      microbatch_size: examples in a part; None for all at once.
      num_real_microbatches: evaluate this many parts only; it may be traced. A MEAN still counts all parts.

    Returns:
      A function of the arguments of `fun` that returns the combined gradients and `Aux(values, metrics, aux)`.

    Example:
      >>> import gdjax, jax.numpy as jnp
      >>> def loss(w, batch):
      ...     return jnp.sum(w * batch)
      >>> gradient = gdjax.microbatching.micro_grad(
      ...     loss, transform_fn=lambda g: jnp.clip(g, -1.0, 1.0), microbatch_size=2)
      >>> total, aux = gradient(1.0, jnp.array([0.5, 3.0, -0.25, -7.0]))
      >>> print(total, aux.values)
      0.25 [ 0.5   3.   -0.25 -7.  ]
    """
    with_aux = fun if has_aux else lambda *args, **kwargs: (fun(*args, **kwargs), None)
    batched = {batch_argnums} if isinstance(batch_argnums, int) else {*batch_argnums}

    def one(*args: Any, **kwargs: Any) -> Any:
        (value, aux), gradient = jax.value_and_grad(with_aux, argnums, has_aux=True)(*args, **kwargs)
        return transform_fn(gradient), Aux(value, metrics_fn(gradient), aux)

    def gradients(*args: Any, **kwargs: Any) -> Any:
        args, kwargs = callers.by_position(fun, args, kwargs)
        axes = [0 if i in batched else None for i in range(len(args))]
        if keep_batch_dim:
            args = tuple(jax.tree.map(lambda x: x[:, None], x) if i in batched else x for i, x in enumerate(args))
        both = accumulator, AccumulationType.CONCAT
        return micro_vmap(
            one, axes, microbatch_size=microbatch_size, accumulator=both, num_real_microbatches=num_real_microbatches
        )(*args, **kwargs)

    return gradients
