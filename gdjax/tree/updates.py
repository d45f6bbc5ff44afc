"""How updates reach the parameters."""

from typing import Any, Literal

import jax
import jax.numpy as jnp
from jax.core import Tracer

from gdjax.codes.rounding import Salt, is_narrow, random_bits, salt, stochastically
from gdjax.core import argument_kinds as kinds
from gdjax.core import arrays, base, checks, domains, meshes
from gdjax.core.arrays import add
from gdjax.core.number_domains import SHARE
from gdjax.core.signatures import plain_types
from gdjax.core.types import Array, ArrayLike, KeyLike, Params, Scalar, Updates
from gdjax.xla import reads

__all__ = ["apply_updates", "incremental_update", "periodic_update"]


@plain_types
def apply_updates(
    params: Params, updates: Updates, key: KeyLike | None = None,
    rounding: Literal["nearest", "stochastic"] = "nearest",
) -> Params:  # fmt: skip
    """Adds the updates to the parameters: p + u, leaf by leaf.

    Args:
      params: any pytree; `None` leaves stay None.
      updates: a tree of the same structure and shapes; a None leaf leaves its parameter as it is.
      key: for stochastic rounding: a PRNG key, another one in each step, or an int to seed one.
      rounding: of the sum to the dtype of a 16-bit parameter. "nearest" loses an update below half the distance to the
        next number: a bfloat16 weight of 1 stays where it is after any number of updates of 0.001. "stochastic" takes
        one of the two neighbours, so that the mean over the key is the float32 sum. Wider parameters are rounded to
        the nearest in any case.

    The bits for it come from the key, the number of the leaf and the element's place in the array, so that they are the
    same on one device and on many. Inside `shard_map` that is the place in the device's share: fold the device into the
    key, `jax.random.fold_in(key, jax.lax.axis_index("data"))`, or all shares are rounded by the same bits.

    Returns:
      The new parameters, each in the dtype of the old one.

    Raises:
      ValueError: structures or shapes differ; the message names the leaf. Stochastic rounding without a key, or a key
        without it.
      TypeError: a complex update for a real parameter; a leaf that is no array.

    Example:
      >>> import gdjax, jax, jax.numpy as jnp
      >>> params = {"w": jnp.array([1.0], jnp.bfloat16), "b": jnp.array([1.0])}
      >>> updates = {"w": jnp.array([0.5]), "b": jnp.array([-0.25])}
      >>> params = gdjax.apply_updates(params, updates)
      >>> print(params["w"], params["w"].dtype, params["b"])
      [1.5] bfloat16 [0.75]
      >>> p, u = jnp.ones(10_000, jnp.bfloat16), jnp.full(10_000, 0.001)
      >>> p = gdjax.apply_updates(p, u, jax.random.key(0), rounding="stochastic")
      >>> print(round(float(jnp.mean(p, dtype=jnp.float32)), 4))
      1.001

    Reference:
      Zamirai, Zhang, Aberger & De Sa 2020, Revisiting bfloat16 training, Algorithm 2,
      https://arxiv.org/abs/2010.06192
    """
    _check_rounding(key, rounding)
    args = params, updates, key
    if base.is_concrete(args[:2]) and not isinstance(key, Tracer):
        return base.compiled_or_apart(_compiled_apply, _apply, *args)
    return _apply(*args)


LABEL = "gdjax.apply_updates"


def _check_rounding(key: Any, rounding: str) -> None:
    if rounding not in ("nearest", "stochastic"):
        raise ValueError(f"{LABEL}: rounding must be 'nearest' or 'stochastic', got {rounding!r}")
    kinds.key(LABEL, "key", key)
    if key is None and rounding == "stochastic":
        raise ValueError(f"{LABEL}: rounding='stochastic' needs a key, another one in each step")
    if key is not None and rounding == "nearest":
        raise ValueError(f"{LABEL}: a key, and rounding='nearest', which needs none; is rounding='stochastic' meant?")


def _apply(params: Params, updates: Updates, key: Any) -> Params:
    is_none = lambda x: x is None
    paths, structure = jax.tree_util.tree_flatten_with_path(params, is_leaf=is_none)
    ps = [p for _, p in paths]
    us = checks.flatten_like(LABEL, ("params", "updates"), structure, jax.tree.unflatten(structure, ps), updates)
    for (path, p), u in zip(paths, us, strict=True):
        if p is not None and u is not None:
            _check(LABEL, f"params{jax.tree_util.keystr(path)}", p, u)
    word = None if key is None else jax.random.bits(arrays.fresh_key(key), (), jnp.uint32)

    def added(i: int, p: Any, u: Any) -> Any:
        if p is None or u is None:
            return p
        return add(p, u) if word is None or not is_narrow(p) else _added_at_random(p, u, salt(word, 0, i))

    return structure.unflatten([added(i, p, u) for i, (p, u) in enumerate(zip(ps, us, strict=True))])


def _added_at_random(p: Array, u: Array, mark: Salt) -> Array:
    """p + u in float32, rounded to one of its neighbours in p's dtype."""
    if base.is_float0(u):
        return p
    x = jnp.asarray(p).astype(jnp.float32) + jnp.asarray(u).astype(jnp.float32)
    return stochastically(x, p.dtype, random_bits(mark, x)).astype(p.dtype)


def _check(label: str, where: str, p: ArrayLike, u: ArrayLike) -> None:
    checks.number(label, where, p)  # of any width: one that is frozen may have 8 bits
    if jnp.shape(p) != jnp.shape(u):
        raise ValueError(f"{label}: {where}: update shape {jnp.shape(u)} does not match {jnp.shape(p)}")
    if jnp.iscomplexobj(u) and not jnp.iscomplexobj(p):
        kinds = jnp.result_type(u), jnp.result_type(p)
        raise TypeError(f"{label}: {where}: complex update ({kinds[0]}) for a real parameter ({kinds[1]})")


_compiled_apply = jax.jit(_apply)


@plain_types
def incremental_update(new_tensors: Params, old_tensors: Params, step_size: Scalar) -> Params:
    """Moves one tree towards another, leaf by leaf.

        step_size new_tensors + (1 - step_size) old_tensors

    With a small step size this keeps an exponential moving average of the parameters (Polyak averaging).

    Args:
      new_tensors: the tree to move towards, for instance the parameters.
      old_tensors: the tree to move, of the same structure. Where a leaf of `new_tensors` is None the result is None.
      step_size: a scalar in [0, 1].

    Returns:
      The moved tree, in the dtypes of `old_tensors`; 16-bit leaves are averaged in float32.

    Raises:
      ValueError: structures or shapes differ; the step size is no scalar or outside [0, 1].

    Example:
      >>> import gdjax, jax.numpy as jnp
      >>> params, average = jnp.array([4.0]), jnp.array([0.0])
      >>> for _ in range(2):
      ...     average = gdjax.incremental_update(params, average, step_size=0.5)
      ...     print(average)
      [2.]
      [3.]
    """
    label = "gdjax.incremental_update"
    domains.number(SHARE, label, "step_size", step_size)
    structure, news = _alike(label, new_tensors, old_tensors, none=True)

    def move(new: Array, old: Array) -> Any:
        if new is None:
            return None
        old = jnp.asarray(old)
        wide = old.dtype if old.dtype.itemsize >= 4 else jnp.dtype("float32")
        a, (new,) = jnp.asarray(step_size).astype(wide), reads.apart(jnp.asarray(new))
        return (a * new.astype(wide) + (1 - a) * old.astype(wide)).astype(old.dtype)

    return structure.unflatten(map(move, news, jax.tree.leaves(old_tensors)))


def moved(p: Array, u: Array, g: Array) -> Array:
    """p + u in a rule, rounded as `apply_updates` rounds it; p and g are the parameter and the gradient of the rule."""
    return reads.rounded(p + reads.rounded(u, g), p)


def _alike(label: str, new: Params, old: Params, *, none: bool = False) -> tuple[Any, list[Any]]:
    """The structure of `old`, and the leaves of `new`, which must fit it; with `none` they may be None."""
    paths, structure = jax.tree_util.tree_flatten_with_path(old)
    news = checks.flatten_like(label, ("old_tensors", "new_tensors"), structure, old, new)
    for (path, o), n in zip(paths, news, strict=True):
        where = jax.tree_util.keystr(path)
        if n is None:
            if none:
                continue
            raise ValueError(f"{label}: new_tensors{where} is None, old_tensors{where} is not")
        if jnp.shape(n) != jnp.shape(o):
            raise ValueError(f"{label}: old_tensors{where}: new shape {jnp.shape(n)} does not match {jnp.shape(o)}")
    return structure, news


def periodic_update(
    new_tensors: Params, old_tensors: Params, steps: int | jax.Array, update_period: int | jax.Array
) -> Params:
    """Replaces one tree by another now and then: the new one where steps is a multiple of update_period, else the old.

    This keeps a slow copy of the parameters (a target network).

    Args:
      new_tensors: the parameters.
      old_tensors: the slow copy, of the same structure and shapes.
      steps: updates of the parameters so far, an integer.
      update_period: updates between two copies, at least 1.

    Returns:
      The slow copy, in the dtypes of `old_tensors`.

    Raises:
      ValueError: structures or shapes differ; update_period is below 1.
      TypeError: steps or update_period is no integer.

    Example:
      >>> import gdjax, jax.numpy as jnp
      >>> params, target = jnp.array([4.0]), jnp.array([0.0])
      >>> for step in (99, 100):
      ...     print(gdjax.periodic_update(params, target, step, update_period=100))
      [0.]
      [4.]

    Reference:
      Mnih et al. 2015, Human-level control through deep reinforcement learning, Algorithm 1 (the copies of Q to
      Q-hat), https://doi.org/10.1038/nature14236
    """
    label = "gdjax.periodic_update"
    domains.integer(label, "steps", steps, -(2**31))
    domains.integer(label, "update_period", update_period, 1)
    structure, leaves = _alike(label, new_tensors, old_tensors)
    olds = jax.tree.map(jnp.asarray, old_tensors)
    cast = [jnp.asarray(n).astype(o.dtype) for n, o in zip(leaves, jax.tree.leaves(olds), strict=True)]
    news = structure.unflatten(cast)
    return meshes.cond(jnp.asarray(steps) % update_period == 0, lambda: news, lambda: olds)
