"""Layer-wise decay of a learning rate."""

import math
import re
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from gdjax.core import checks, types
from gdjax.core.paths import paths_of
from gdjax.core.types import ArrayTree, is_hidden, is_skipped
from gdjax.core.values import value

__all__ = ["layerwise_decay"]

LABEL = "gdjax.layerwise_decay"
Depth = int | Sequence[int]  # one for each entry of the first axis of a leaf that is a stack of layers


@value
def layerwise_decay(
    factor: Any, depth_of: str | re.Pattern[str] | Callable[[str], Depth], num_layers: int | None = None, *,
    embeddings: str | re.Pattern[str] = "(?i)emb",
) -> Callable[[Any], Any]:  # fmt: skip
    """Factors for `per_leaf` that fall from the head to the embeddings: factor^(num_layers + 1 - depth).

    The embeddings have depth 0, the layers 1, ..., num_layers, all else, such as the head, num_layers + 1 and so the
    factor 1: `adamw(per_leaf(1e-3, layerwise_decay(0.75, r"layers/(\\d+)/")))`.

    Args:
      factor: above 0, commonly 0.65 to 0.9.
      depth_of: a regular expression, whose group is the number of the layer in the path, from 0. One without a group
        finds the leaves that are stacks of all layers, along their first axis. Or a function from the path to the
        depth, or to the depths along the first axis.
      num_layers: by default as many as the tree has.
      embeddings: a regular expression for the paths of the embeddings, where depth_of is one that does not match.

    Returns:
      A function from a tree to a tree of factors.

    Raises:
      ValueError: factor is not above 0; a pattern is no regular expression; (when used) a depth is not in 0, ...,
        num_layers + 1, or num_layers is not given and a mask, as in `partition`, hides leaves; no leaf is of a layer.
      TypeError: depth_of is neither text nor a function.

    Example:
      >>> import gdjax, jax.numpy as jnp
      >>> x = jnp.ones(1)
      >>> params = {"embed": x, "layers": [x, x], "head": x}
      >>> tx = gdjax.sgd(gdjax.per_leaf(1.0, gdjax.layerwise_decay(0.5, r"layers/([0-9]+)")))
      >>> u, _ = tx.update(params, tx.init(params))
      >>> print(u["embed"], *u["layers"], u["head"])
      [-0.125] [-0.25] [-0.5] [-1.]

    Reference:
      Bao, Dong, Piao & Wei 2022, BEiT: BERT pre-training of image transformers, https://arxiv.org/abs/2106.08254
    """
    if isinstance(factor, checks.NUMBER) and not 0 < factor < math.inf:
        raise ValueError(f"{LABEL}: factor must be finite and above 0, got {factor!r}")
    types.check_patterns(LABEL, [depth_of])
    types.check_patterns(LABEL, [embeddings], functions=False)
    if num_layers is not None:
        num_layers = checks.structural(LABEL, "num_layers", num_layers, 1)

    def factors(tree: ArrayTree) -> Any:
        paths = paths_of(tree, is_skipped)
        depths = [None if is_skipped(leaf) else _depths(depth_of, embeddings, path, leaf) for path, leaf in paths]
        number = _number(paths, depths) if num_layers is None else num_layers
        most = number if isinstance(depth_of, str | re.Pattern) else number + 1
        powers = [_power(factor, number, most, *item, d) for item, d in zip(paths, depths, strict=True)]
        return jax.tree.structure(tree, is_leaf=is_skipped).unflatten(powers)

    return factors


def _depths(depth_of: Any, embeddings: Any, path: str, leaf: Any) -> Depth | None:
    """The depth of a leaf; None for the last."""
    if not isinstance(depth_of, str | re.Pattern):
        return depth_of(path)
    if (match := re.search(depth_of, path)) is None:
        return 0 if re.search(embeddings, path) else None
    if match.re.groups:
        return int(match[1]) + 1
    if not np.ndim(leaf):
        raise ValueError(f"{LABEL}: {path} is a scalar, no stack of layers")
    return range(1, len(leaf) + 1)


def _number(paths: Sequence[tuple[str, Any]], depths: Sequence[Depth | None]) -> int:
    """The number of layers that a tree has."""
    if any(is_hidden(leaf) for _, leaf in paths):
        raise ValueError(f"{LABEL}: give num_layers: a mask hides leaves of the tree, and perhaps layers")
    number = max((int(np.max(d)) for d in depths if d is not None), default=0)
    if paths and not number:
        raise ValueError(f"{LABEL}: depth_of finds no layer in {', '.join(path for path, _ in paths)}")
    return number


def _power(factor: Any, number: int, most: int, path: str, leaf: Any, depth: Depth | None) -> Any:
    depths = np.asarray(number + 1 if depth is None else depth)
    if depth is not None and (depths.min() < 0 or depths.max() > most):
        raise ValueError(f"{LABEL}: {path} has depth {depths.tolist()}, not in 0, ..., {most} of {number} layers")
    if not depths.ndim:
        return factor ** (number + 1 - int(depths))
    if depths.shape != np.shape(leaf)[:1]:
        raise ValueError(f"{LABEL}: {path} has {len(depths)} depths along an axis of shape {np.shape(leaf)[:1]}")
    powers = jnp.stack([jnp.asarray(factor ** int(n), jnp.float32) for n in number + 1 - depths])
    return powers.reshape(-1, *[1] * (np.ndim(leaf) - 1))
