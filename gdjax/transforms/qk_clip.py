"""QK-Clip: a bound on attention logits, by smaller query and key weights after a step."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp

from gdjax import numerics
from gdjax.core.paths import paths_of
from gdjax.core.types import ArrayTree, Params, Scalar
from gdjax.numerics import Array

__all__ = ["qk_clip"]

LABEL = "gdjax.qk_clip"
Pattern = str | re.Pattern[str]


def qk_clip(
    params: Params, max_logits: ArrayTree, tau: float | Array = 100.0, *, query: Pattern = "query",
    key: Pattern = "key", head_axis: int = -2, rotary_query: Pattern | None = None, rotary: int = 0,
    key_size: int | None = None,
) -> Any:  # fmt: skip
    """Makes the query and key weights smaller of heads whose logits were larger than tau: parameters to parameters.

        gamma_h = min(1, tau / S_h),    W_q <- sqrt(gamma_h) W_q,    W_k <- sqrt(gamma_h) W_k    of head h

    with S_h the largest logit of head h in the forward pass of this step. Call it after `apply_updates`. Biases of
    queries and keys are made smaller too. Where query heads share a key head all of the group have the gamma of the
    largest logit among them; they are neighbours, as in h // (heads / key heads).

    In multi-head latent attention (MLA) the rotary part of a query meets a key that all heads share and that stays as
    it is: it is multiplied by gamma_h, the rest by sqrt(gamma_h).

    Args:
      params: a tree of arrays: dicts, Flax, Equinox.
      max_logits: S, an array (heads,), or a tree or a dict of such: each at the path of the attention that it belongs
        to, {"layers_0": {"attention": S}} or {"layers_0/attention": S}. Stacked layers have (layers, heads).
      tau: the largest logit that is let be, above 0, a number or a scalar array.
      query, key: regular expressions, searched for in the path of a leaf below its attention.
      head_axis: the axis of the heads of these leaves. -2 is that of Flax, kernels (inputs, heads, size) and biases
        (heads, size). It may have the numbers of all heads, head after head: -1 for kernels (inputs, heads size), 0 for
        a weight (heads size, inputs).
      rotary_query: of MLA, the leaves of the rotary queries where they are leaves of their own.
      rotary: of MLA, how many numbers at the end of each query head are rotary.
      key_size: of MLA, how many numbers at the start of each head are a key, where the rest are the value.

    Logits that are not finite change nothing. The scale is computed in float32 or wider.

    Raises:
      ValueError: an attention without query or key leaves; axes that do not fit the heads; a leaf that is both.

    Example:
      >>> import gdjax, jax.numpy as jnp
      >>> kernel = jnp.ones((3, 2, 1))  # (inputs, heads, size)
      >>> params = {"attention": {"query": {"kernel": kernel}, "key": {"kernel": kernel}}}
      >>> logits = {"attention": jnp.array([50.0, 400.0])}  # the largest of each head
      >>> clipped = gdjax.qk_clip(params, logits, tau=100.0)
      >>> print(clipped["attention"]["query"]["kernel"][0, :, 0])
      [1.  0.5]

    Reference:
      Kimi Team 2025, Kimi K2: open agentic intelligence, Algorithm 1, https://arxiv.org/abs/2507.20534
    """
    if isinstance(tau, int | float) and not tau > 0:
        raise ValueError(f"{LABEL}: tau must be above 0, got {tau}")
    layout = _Layout(head_axis, rotary, key_size, bool(rotary_query or rotary or key_size))
    kinds = {"query": query, "key": key} | ({} if rotary_query is None else {"rotary_query": rotary_query})
    items, structure = paths_of(params), jax.tree.structure(params)
    leaves = [x for _, x in items]
    taken: dict[int, str] = {}
    for place, logits in paths_of(max_logits):
        places_of = _places(place, items, kinds)
        for i in (i for places in places_of.values() for i in places):
            if taken.setdefault(i, place) != place:
                raise ValueError(f"{LABEL}: {items[i][0]} belongs to the logits of {taken[i]!r} and of {place!r}")
        _clip(leaves, [path for path, _ in items], places_of, logits, tau, layout)
    return structure.unflatten(leaves)


def _places(place: str, items: Sequence[tuple[str, Any]], kinds: Mapping[str, Pattern]) -> dict[str, list[int]]:
    """The places of the leaves of each kind below a path."""
    start = f"{place}/" if place else ""
    below = [(i, path.removeprefix(start)) for i, (path, x) in enumerate(items) if path.startswith(start) and _real(x)]
    places_of = {kind: [i for i, path in below if re.search(pattern, path)] for kind, pattern in kinds.items()}
    if "rotary_query" in places_of:  # perhaps of the name of the others, and more
        places_of["query"] = [i for i in places_of["query"] if i not in places_of["rotary_query"]]
    shown = ", ".join(path for _, path in below) or f"there are {', '.join(path for path, _ in items)}"
    for kind, places in places_of.items():
        if not places:
            raise ValueError(f"{LABEL}: max_logits of {place!r}: {kind}={kinds[kind]!r} matches no leaf: {shown}")
    if both := sorted(set(places_of["key"]) & {*places_of["query"], *places_of.get("rotary_query", [])}):
        raise ValueError(f"{LABEL}: {items[both[0]][0]} is a query and a key by {dict(kinds)}")
    return places_of


def _real(x: Any) -> bool:
    return hasattr(x, "dtype") and jnp.issubdtype(x.dtype, jnp.inexact)


@dataclass(frozen=True)
class _Layout:
    """Where the heads are in a leaf, and what of a head is which part."""

    head_axis: int
    rotary: int
    key_size: int | None
    latent: bool  # multi-head latent attention, in which each head has keys of its own

    def axis(self, path: str, x: Array, batch: tuple[int, ...]) -> int:
        """The axis of the heads, after those of the layers."""
        axis = self.head_axis + x.ndim * (self.head_axis < 0)
        if not len(batch) <= axis < x.ndim:
            raise ValueError(f"{LABEL}: {path}: shape {x.shape} has no axis head_axis={self.head_axis} of heads")
        if x.shape[: len(batch)] != batch:
            raise ValueError(f"{LABEL}: {path}: shape {x.shape} does not begin with the axes {batch} of max_logits")
        return axis

    def size(self, path: str, x: Array, gammas: Array) -> int:
        """How many numbers of each head lie along the axis of the heads."""
        axis, heads = self.axis(path, x, gammas.shape[:-1]), gammas.shape[-1]
        if x.shape[axis] % heads or not x.shape[axis]:
            raise ValueError(
                f"{LABEL}: {path}: axis {axis} of shape {x.shape} is not that of {heads} heads; pass head_axis"
            )
        return x.shape[axis] // heads

    def scaled(self, path: str, x: Array, first: Array, rest: Array, most: int | None) -> Array:
        """x times `first` in the numbers [:most] of each head, times `rest` in the others."""
        *batch, heads = first.shape
        axis, size = self.axis(path, x, tuple(batch)), self.size(path, x, first)
        apart = size == 1 and most is not None  # the numbers of a head have an axis of their own
        width = (x.shape[axis + 1] if axis + 1 < x.ndim else 1) if apart else size
        most = width if most is None else most + width * (most < 0)
        if not 0 <= most <= width:
            raise ValueError(f"{LABEL}: {path}: a head of shape {x.shape} has {width} numbers; rotary, key_size?")
        factor = jnp.where(jnp.arange(width) < most, first[..., None], rest[..., None])
        axes_of_heads = [heads, width] if apart else [heads * width]
        ones = axis - len(batch), x.ndim - axis - len(axes_of_heads)
        factor = factor.reshape([*batch, *[1] * ones[0], *axes_of_heads, *[1] * ones[1]])
        wide = numerics.at_least_float32(x.dtype)
        return (x.astype(wide) * factor.astype(wide)).astype(x.dtype)


def _clip(
    leaves: list[Any], paths: Sequence[str], places: Mapping[str, Sequence[int]], logits: ArrayTree, tau: Scalar,
    layout: _Layout,
) -> None:  # fmt: skip
    """Puts the new weights of one attention in the place of the old ones."""
    logits = jnp.asarray(logits)
    if not logits.ndim or not jnp.issubdtype(logits.dtype, jnp.floating):
        raise ValueError(f"{LABEL}: max_logits must be floating (heads,), got {logits.dtype}{list(logits.shape)}")
    logits = logits.astype(numerics.at_least_float32(logits.dtype))
    over = (logits > tau) & jnp.isfinite(logits)
    gammas = jnp.where(over, jnp.asarray(tau).astype(logits.dtype) / jnp.where(over, logits, 1), 1)
    first = places["query"][0]
    size, heads = layout.size(paths[first], leaves[first], gammas), gammas.shape[-1]
    key_heads = heads
    if not layout.latent:
        path, x = paths[places["key"][0]], leaves[places["key"][0]]
        length = x.shape[layout.axis(path, x, gammas.shape[:-1])]
        key_heads = length // size
        if length % size or not key_heads or heads % key_heads:
            raise ValueError(f"{LABEL}: {path}: shape {x.shape} has no whole share of {heads} heads; pass head_axis")
    shared = jnp.min(gammas.reshape(*gammas.shape[:-1], key_heads, -1), -1)
    gammas = jnp.repeat(shared, heads // key_heads, axis=-1)
    root, one = jnp.sqrt(gammas), jnp.ones_like(shared)
    for i in places["query"]:
        leaves[i] = layout.scaled(paths[i], leaves[i], root, gammas, -layout.rotary or None)
    for i in places.get("rotary_query", ()):
        leaves[i] = layout.scaled(paths[i], leaves[i], gammas, gammas, None)
    for i in places["key"]:
        leaves[i] = layout.scaled(paths[i], leaves[i], jnp.sqrt(shared), one, layout.key_size)
