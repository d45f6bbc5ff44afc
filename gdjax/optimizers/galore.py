"""GaLore: a method run on gradients projected to a few dimensions."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp

from gdjax import numerics
from gdjax.core import base, meshes
from gdjax.core.base import GradientTransformation, MaskedNode, transform
from gdjax.core.types import (
    Count,
    Dimensions,
    DTypeLike,
    Finite,
    Mask,
    OptState,
    Params,
    Rate,
    Size,
    Steps,
    Transform,
    Updates,
)
from gdjax.leaf_roles.plan import Leaf, plan_of
from gdjax.lift.all_leaves import leaves_of
from gdjax.lift.leafwise import Hyper, hyper, maker_of
from gdjax.lift.rule import Leafwise
from gdjax.lift.rule_checks import Special
from gdjax.lift.slots import Planned, Tree, Whole
from gdjax.linalg import matrices
from gdjax.numerics import Array
from gdjax.optimizers.adam import scale_by_adam
from gdjax.transforms.decay import descending

__all__ = ["GaLoreDimensionNumbers", "GaLoreState", "galore", "scale_by_galore"]


class GaLoreState(NamedTuple):
    """State of `scale_by_galore`."""

    count: Array  # () int32, updates made so far
    base_optimizer_state: OptState  # of the inner transform, for the projected gradients
    projector: Params  # like params, orthonormal columns (rows or columns, rank); MaskedNode where nothing is projected


class GaLoreDimensionNumbers(NamedTuple):
    """Which axes of an array are the rows (inputs) and columns (outputs) of a matrix; together they are all axes."""

    reduction_axis: Sequence[int] | int = 0
    output_axis: Sequence[int] | int = 1


class _Projection(NamedTuple):
    """How the gradient G of one array, as a matrix (rows, columns), is projected: R = P^T G, or G P."""

    leaf: Leaf
    rank: int
    left: bool

    def matrix(self, g: Array) -> Array:
        x = self.leaf.axes.to_matrices(g)[0].astype(numerics.at_least_float32(g.dtype))
        return numerics.squarable(x, "summed")

    def sizes(self) -> tuple[tuple[int, int], tuple[int, int]]:
        """The shapes of P and R."""
        rows, columns = self.leaf.rows, self.leaf.columns
        if self.left:
            return (rows, self.rank), (self.rank, columns)
        return (columns, self.rank), (rows, self.rank)

    def projector(self, g: Array) -> Array:
        """The first singular vectors of G."""
        u, _, vh = jnp.linalg.svd(self.matrix(jax.lax.stop_gradient(g)), full_matrices=False)
        return u[:, : self.rank] if self.left else vh[: self.rank].conj().T

    def down(self, g: Array, projector: Array) -> Array:
        x = self.matrix(g)
        p = projector.astype(x.dtype)
        return p.conj().T @ x if self.left else x @ p

    def up(self, r: Array, projector: Array, scale: Hyper, dtype: DTypeLike) -> Array:
        x = r.astype(numerics.at_least_float32(dtype))
        p = projector.astype(x.dtype)
        x = jnp.asarray(scale).astype(x.dtype) * (p @ x if self.left else x @ p.conj().T)
        return self.leaf.axes.from_matrices(x, self.leaf.shape)


def _matrices(label: str, tree: Params, dimensions: Any) -> list[Leaf | None]:
    """For each leaf how it is a matrix; None where it is not projected."""
    numbers = dimensions
    if matrices.is_numbers(dimensions):  # for all that can be matrices
        numbers = lambda tree: jax.tree.map(lambda x: dimensions if jnp.ndim(x) >= 2 else None, tree)
    out: list[Leaf | None] = []
    for leaf in plan_of(label, tree, numbers).leaves:
        if leaf.axes.batch:
            others = GaLoreDimensionNumbers(leaf.axes.rows, leaf.axes.columns)
            missing = f"dimension numbers {others} leave out the axes {leaf.axes.batch} of shape {leaf.shape}"
            raise ValueError(f"{label}: {leaf.path}: {missing}")
        out.append(leaf if leaf.is_matrix else None)
    return out


def _projection(leaf: Leaf | None, arguments: Mapping[str, Any]) -> _Projection | None:
    if leaf is None:
        return None
    left = (leaf.rows >= leaf.columns) == (arguments["side"] == "long")
    return _Projection(leaf, min(arguments["rank"], leaf.rows, leaf.columns), left)


def _low(params: Params, arguments: Mapping[str, Any], which: int, other: Callable[[Any], Any]) -> list[Any]:
    """For each leaf zeros shaped like P (`which` 0) or R (1); where nothing is projected, `other` of the parameter."""
    out = []
    leaves = _matrices("gdjax.scale_by_galore", params, arguments["dimensions"])
    for p, leaf in zip(jax.tree.leaves(params), leaves, strict=True):
        dtype, a = jax.dtypes.canonicalize_dtype(getattr(p, "dtype", type(p))), _projection(leaf, arguments)
        out.append(other(p) if a is None else meshes.zeros_along(p, (), dtype, a.sizes()[which]))
    return out


def _first_projectors(params: Params, arguments: Mapping[str, Any]) -> list[Any]:
    return _low(params, arguments, 0, lambda p: MaskedNode())


def _first_inner(params: Params, arguments: Mapping[str, Any]) -> Any:
    low = jax.tree.structure(params).unflatten(_low(params, arguments, 1, lambda p: p))
    return arguments["base_optimizer"].init(low)


@dataclass(frozen=True, eq=False)
class _GaLore(Leafwise):
    """The rule of the projectors, and behind it the inner transform on projected gradients."""

    of_tree = True

    def update(self, updates: Updates, state: Any, params: Params = None, **extra_args: Any) -> tuple[Any, Any]:
        """scale P_t N_t, with N_t the inner transform's updates of R_t; of what is not projected, N_t."""
        gradients, new = super().update(updates, state, params)
        tree = leaves_of([self], gradients, params).tree(self.label, extra_args)
        gs, ps = tree.chosen(tree.entries), tree.listed("state.projector", new.projector)
        each = [_projection(leaf, self.settings) for leaf in _leaves(tree, self.settings["dimensions"])]
        rows = list(zip(each, gs, ps, strict=True))
        low = [g if a is None else meshes.partitioned(a.down, None, g, p) for a, g, p in rows]
        us, inner = tree.updated(self.settings["base_optimizer"], low, state.base_optimizer_state)
        scale = self.hyperparams(state)["scale"]
        for i, (a, g, p) in enumerate(rows):
            if a is not None:
                u = meshes.partitioned(a.up, g, us[i], p, scale, g.dtype)
                us[i] = numerics.spoiled(u, g.astype(u.dtype)).astype(g.dtype)
        return tree.unflattened(us), new._replace(base_optimizer_state=inner)


def _leaves(tree: Tree, dimensions: Any) -> list[Leaf | None]:
    """`_matrices` for the leaves with gradients."""
    leaves = _matrices(tree.label, tree.structure.unflatten(tree.entries), dimensions)
    return tree.of_each([leaf and leaf._replace(path="") for leaf in leaves])  # equal leaves share one trace


def _of_all(tree: Tree, x: Any) -> list[Any]:
    return [x] * sum(tree.trained)


def _galore(
    g: Array, s: GaLoreState, p: Array, t: Array,
    update_proj_gap: hyper.Steps, scale: Hyper, rank: Count = 128, side: str = "long", dimensions: Any = None,
    base_optimizer: Any = None,
) -> tuple[Array, GaLoreState]:  # fmt: skip
    """The gradient as it is, and P_t. `dimensions` say how the leaf is a matrix, None if it is not projected."""
    projection = _projection(dimensions, {"rank": rank, "side": side})
    if projection is None:
        return g, s

    def refreshed(old: Array) -> Array:
        return meshes.partitioned(projection.projector, old, g).astype(old.dtype)

    due = (s.count - 1) % update_proj_gap == 0
    return g, s._replace(projector=meshes.cond(due, refreshed, lambda old: old, s.projector))


_SLOTS = {
    "projector": Planned(_first_projectors, "rank side dimensions"),
    "base_optimizer_state": Whole(_first_inner, "base_optimizer"),
}
_STATIC = Special({"rank": _of_all, "side": _of_all, "dimensions": _leaves})
_by_galore = maker_of("leafwise", GaLoreState, _SLOTS, None, _STATIC, None, kind=_GaLore)(_galore)


@transform
def scale_by_galore(
    rank: Count = 128, update_proj_gap: Steps = 200, scale: Finite = 1.0, base_optimizer: Transform | None = None,
    weight_dimension_numbers: Dimensions = None,
    *, side: Literal["long", "short"] = "long",
) -> GradientTransformation:  # fmt: skip
    """Runs a transform on the gradients of matrices projected to `rank` dimensions.

    Formulas and arguments are those of `gdjax.galore`, without its rate and decay.

    Example:
      >>> import gdjax, jax, jax.numpy as jnp
      >>> params = {"w": jnp.ones((64, 32)), "b": jnp.ones(32)}
      >>> tx = gdjax.scale_by_galore(rank=4, base_optimizer=gdjax.scale_by_lion())
      >>> jax.tree.map(jnp.shape, tx.init(params).base_optimizer_state.mu)
      {'b': (32,), 'w': (4, 32)}
    """
    inner = scale_by_adam() if base_optimizer is None else base_optimizer
    base.check_transform("gdjax.scale_by_galore", "base_optimizer", inner)
    return _by_galore(update_proj_gap, scale, rank, side, weight_dimension_numbers, inner)


@transform
def galore(
    learning_rate: Rate, rank: Count = 128, update_proj_gap: Steps = 200, scale: Finite = 1.0,
    base_optimizer: Transform | None = None, weight_decay: Size = 0.0, mask: Mask = None,
    weight_dimension_numbers: Dimensions = None,
    *, side: Literal["long", "short"] = "long",
) -> GradientTransformation:  # fmt: skip
    """GaLore: Adam, or another method, on gradients projected to a few of their singular vectors.

        P_t = the first r left singular vectors of G_t every T steps, else P_{t-1}
        R_t = P_t^T G_t,    N_t = adam(R_t),    x_{t+1} = x_t - lr (scale P_t N_t + weight_decay x_t)

    With G of shape (m, n) Adam's moments have r n numbers each, or r m where the right vectors are used: R_t = G_t P_t.
    What is no matrix goes to the inner method as it is, and is not scaled.

    Args:
      learning_rate: lr, a scalar or a schedule.
      rank: r, an int of at least 1; the smaller of m and n at most is used.
      update_proj_gap: T, at least 1.
      scale: see above; the reference uses 0.25.
      base_optimizer: the inner transform, `scale_by_adam()` by default. It gets no parameters, so that it can neither
        decay weights nor take their norms.
      weight_decay: of the whole parameters, times lr.
      mask: which leaves decay: a tree or prefix of booleans, or a function from the parameters to one; None for all.
      weight_dimension_numbers: which arrays are projected and how they are matrices: one `GaLoreDimensionNumbers` for
        all of two axes or more, a tree of them and None that is a prefix of the parameters, or a function from the
        parameters to one. By default all arrays of two axes.
      side: which singular vectors: those of the "long" side (left ones for m >= n) as in Optax, or of the "short" side
        (left ones for m <= n) as in the reference. Both project the gradient that P comes from to the same matrix.

    The moments stay as they are when P changes, as in the reference, though the vectors, and their signs, are new. P is
    kept in the parameter's dtype; the singular vectors are computed in float32 or, for float64, in that, where Optax
    takes float32. P counts as constant in derivatives. In the place of arrays that are not projected Optax's
    state has arrays of shape (0, 0), which Orbax cannot save; here it has `MaskedNode`.

    Raises:
      ValueError: rank is less than 1; an unknown side; dimension numbers that do not fit or leave an axis out.
      TypeError: rank is not an int.

    Example:
      >>> import gdjax, jax.numpy as jnp
      >>> params = {"w": jnp.ones((512, 256)), "b": jnp.ones(256)}
      >>> tx = gdjax.galore(1e-2, rank=8, scale=0.25)
      >>> gdjax.state_bytes(tx, params) < gdjax.state_bytes(gdjax.adam(1e-2), params) / 10
      True

    Reference:
      Zhao et al. 2024, GaLore: memory-efficient LLM training by gradient low-rank projection, Algorithm 2,
      https://arxiv.org/abs/2403.03507
    """
    direction = scale_by_galore(rank, update_proj_gap, scale, base_optimizer, weight_dimension_numbers, side=side)
    return descending(direction, learning_rate, weight_decay, mask)
