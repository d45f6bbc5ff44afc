"""Adam-mini: Adam with one second moment for each block of parameters."""

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from gdjax.core import meshes
from gdjax.core.base import GradientTransformation, transform
from gdjax.core.paths import paths_of
from gdjax.core.types import ArrayTree, Count, Decay, DType, Mask, Params, Rate, Roles, Size, Squares
from gdjax.leaf_roles.names import name_of
from gdjax.leaf_roles.plan import Leaf, plan_of, routing
from gdjax.lift.leafwise import hyper, leafwise
from gdjax.lift.slots import Planned, Tree
from gdjax.numerics import Array, bounded, debias, divide, sqrt, sum_sq, widest_real
from gdjax.transforms.decay import descending

__all__ = ["ScaleByAdamMiniState", "adam_mini", "scale_by_adam_mini"]


class ScaleByAdamMiniState(NamedTuple):
    """State of `scale_by_adam_mini`."""

    count: Array  # () int32, updates made so far
    mu: Params  # like params, first moment
    nu: Params  # along each axis of a parameter as many numbers as it has blocks, second moment, float32 at least


class _Partition(NamedTuple):
    """What decides where the blocks are."""

    roles: Roles = None
    n_heads: int | None = None
    n_kv_heads: int | None = None

    def blocks(self, label: str, tree: ArrayTree) -> list[tuple[int, ...]]:
        """For each leaf the number of its blocks along each axis."""
        leaves = plan_of(label, tree, routing(self.roles)).leaves
        return [self._blocks(label, leaf, path) for leaf, (path, _) in zip(leaves, paths_of(tree), strict=True)]

    def _blocks(self, label: str, leaf: Leaf, path: str) -> tuple[int, ...]:
        shape, name = leaf.shape, name_of(path)
        last = len(shape) - 1
        if leaf.is_matrix:
            blocks = [1 if i in leaf.axes.rows else n for i, n in enumerate(shape)]
            heads = (self.n_kv_heads if name.layer_is("key") else None) or self.n_heads
            return self._by_heads(label, leaf, blocks, heads) if name.layer_is("query", "key") else tuple(blocks)
        if leaf.role == "bias":
            return shape
        if leaf.role == "head" and last > 0 and not name.outputs_first:
            return tuple(1 if i == last - 1 else n for i, n in enumerate(shape))
        if leaf.role in ("embedding", "head", "norm") and last > 0:  # of norms: stacked, a row for each layer
            return (*shape[:-1], 1)
        return (1,) * len(shape)

    @staticmethod
    def _by_heads(label: str, leaf: Leaf, blocks: list[int], heads: int | None) -> tuple[int, ...]:
        first, *size = leaf.axes.columns
        if size:  # the heads have an axis of their own
            return tuple(1 if i in size else n for i, n in enumerate(blocks))
        if heads is not None:
            if blocks[first] % heads:
                outputs = f"{leaf.path} has {blocks[first]} outputs, which are not those of {heads} heads"
                raise ValueError(f"{label}: {outputs}; give n_heads, and n_kv_heads for keys")
            blocks[first] = heads
        return tuple(blocks)


def _blocks(tree: Tree, partition: _Partition) -> list[tuple[int, ...]]:
    return tree.of_each(partition.blocks(tree.label, tree.structure.unflatten(tree.entries)))


def _first_nu(params: Params, arguments: Mapping[str, Any]) -> list[Array]:
    moments = []
    leaves = jax.tree.leaves(params)
    for p, blocks in zip(leaves, arguments["blocks"].blocks(arguments["label"], params), strict=True):
        axes = [i if n == blocks[i] else None for i, n in enumerate(jnp.shape(p))]
        moments.append(meshes.along(jnp.zeros(blocks, widest_real(p)), p, axes))
    return moments


def _apart(shape: Sequence[int], blocks: Sequence[int]) -> tuple[list[int], list[int]]:
    """The shapes of an array and of its blocks, with an axis cut in two where several blocks lie along it."""
    apart, sizes = [], []
    for n, b in zip(shape, blocks, strict=True):
        several = 1 < b < n
        apart += [b, n // b] if several else [n]
        sizes += [b, 1] if several else [b]
    return apart, sizes


@leafwise(ScaleByAdamMiniState, nu=Planned(_first_nu), static={"blocks": _blocks}, growth="elementwise")
def _adam_mini(
    g: Array, s: ScaleByAdamMiniState, p: Array, t: Array,
    b1: hyper.Decay, b2: hyper.Squares, eps: hyper.Size, mu_dtype: DType | None, blocks: Any,
) -> tuple[Array, ScaleByAdamMiniState]:  # fmt: skip
    apart, sizes = _apart(g.shape, blocks)
    inside = [i for i, (n, b) in enumerate(zip(apart, sizes, strict=True)) if n != b]
    mean = sum_sq(g.reshape(apart), inside) * (1 / max(math.prod(apart[i] for i in inside), 1))
    mu = b1 * s.mu + (1 - b1) * bounded(g, "summed")
    nu = b2 * s.nu + (1 - b2) * mean.reshape(blocks)
    u = divide(debias(mu, b1, t).reshape(apart), sqrt(debias(nu, b2, t)).reshape(sizes), eps)
    return u.reshape(g.shape), s._replace(mu=mu, nu=nu)


@transform
def scale_by_adam_mini(
    b1: Decay = 0.9, b2: Squares = 0.999, eps: Size = 1e-8, mu_dtype: DType | None = None,
    *, n_heads: Count | None = None, n_kv_heads: Count | None = None, roles: Roles = None,
) -> GradientTransformation:  # fmt: skip
    """Adam-mini's direction: momentum over the root of one second moment for each block.

    Formulas and arguments are those of `gdjax.adam_mini`, without its rate and decay.

    Example:
      >>> import gdjax, jax, jax.numpy as jnp
      >>> attention = {"query": jnp.ones((8, 6)), "value": jnp.ones((8, 6))}
      >>> params = {"embed": jnp.ones((9, 8)), "norm": jnp.ones(8), "attention": attention}
      >>> state = gdjax.scale_by_adam_mini(n_heads=2).init(params)
      >>> jax.tree.map(jnp.shape, state.nu)["attention"]
      {'query': (1, 2), 'value': (1, 6)}
      >>> state.nu["embed"].shape, state.nu["norm"].shape
      ((9, 1), (1,))

    Reference:
      Zhang et al. 2024, Adam-mini, https://arxiv.org/abs/2406.16793
    """
    return _adam_mini(b1, b2, eps, mu_dtype, _Partition(roles, n_heads, n_kv_heads))


@transform
def adam_mini(
    learning_rate: Rate, b1: Decay = 0.9, b2: Squares = 0.999, eps: Size = 1e-8, mu_dtype: DType | None = None,
    weight_decay: Size = 0.0, mask: Mask = None,
    *, n_heads: Count | None = None, n_kv_heads: Count | None = None, roles: Roles = None,
) -> GradientTransformation:  # fmt: skip
    """Adam-mini: AdamW with one second moment for each block of parameters, in half of its memory.

        mu_t = b1 mu_{t-1} + (1 - b1) g_t                               mu_hat_t = mu_t / (1 - b1^t)
        nu_t = b2 nu_{t-1} + (1 - b2) mean of g_t^2 over the block      nu_hat_t = nu_t / (1 - b2^t)
        x_{t+1} = x_t - lr (mu_hat_t / (sqrt(nu_hat_t) + eps) + weight_decay x_t)

    The blocks go by what a leaf is, as `gdjax.roles` shows:

    - query and key: the weights of a head;
    - any other hidden matrix, as value, output of attention, MLP: the weights of an output;
    - embedding: the row of a token. Head: the weights of an output;
    - bias: each number, as in Adam;
    - norm, router and what else there is: the leaf; of stacked norms the row of a layer.

    Args:
      learning_rate: lr, a scalar or a schedule, that of AdamW.
      b1, b2: decay of the first and second moment, in [0, 1).
      eps: beside the root, at least 0. Where the denominator is 0 the direction is the numerator.
      mu_dtype: the dtype of mu, the parameter's by default.
      weight_decay: decoupled, times lr, at least 0. A scalar or a schedule.
      mask: which leaves decay: a tree of booleans, a prefix of the parameters, or a function from them to one; None for
        all. The authors leave biases and norms out.
      n_heads: how many heads a query or key has. It is needed where the heads have no axis of their own; without it
        such a matrix has a block for each output.
      n_kv_heads: the same of keys, where they have fewer heads than queries.
      roles: what each leaf is: by role (None, or a dict from pattern to role), a tree of `gdjax.Matrix` and None for
        what is one block, or a function from the parameters to one.

    Departures: a leaf that holds query, key and value beside each other has a block for each output; the authors' code
    (1.1.1) has one for the whole. There names alone decide; here the roles do, which read those names and others.

    Raises:
      ValueError: (in init) the outputs of a query or key cannot be cut into so many heads.

    Warns:
      UserWarning: (in init) it cannot be known how a leaf is a matrix.

    Example:
      >>> import gdjax, jax.numpy as jnp
      >>> attention = {"query": jnp.ones((64, 4, 16)), "value": jnp.ones((64, 4, 16))}
      >>> params = {"embed": jnp.ones((512, 64)), "attention": attention}
      >>> adam, mini = gdjax.adam(1e-3), gdjax.adam_mini(1e-3)
      >>> gdjax.state_bytes(mini, params) < 0.51 * gdjax.state_bytes(adam, params)
      True

    Reference:
      Zhang et al. 2024, Adam-mini: use fewer learning rates to gain more, and the authors' code,
      https://arxiv.org/abs/2406.16793
    """
    direction = scale_by_adam_mini(b1, b2, eps, mu_dtype, n_heads=n_heads, n_kv_heads=n_kv_heads, roles=roles)
    return descending(direction, learning_rate, weight_decay, mask)
