"""GaLore: a method run on gradients projected to a few dimensions."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from gdjax import numerics
from gdjax.combine.chain import chain
from gdjax.core import base, checks, meshes
from gdjax.core.base import GradientTransformation, MaskedNode, transform
from gdjax.lift.leafwise import Hyper
from gdjax.linalg import matrices
from gdjax.numerics import Array
from gdjax.optimizers.adam import scale_by_adam
from gdjax.transforms.decay import add_decayed_weights
from gdjax.transforms.scaling import scale_by_learning_rate


class GaLoreState(NamedTuple):
    """State of `scale_by_galore`."""

    count: Array  # () int32, updates made so far
    base_optimizer_state: Any  # of the inner transform, for the projected gradients
    projector: Any  # like params, orthonormal columns (rows or columns, rank); MaskedNode where nothing is projected


class GaLoreDimensionNumbers(NamedTuple):
    """Which axes of an array are the rows (inputs) and columns (outputs) of a matrix; together they are all axes."""

    reduction_axis: Sequence[int] | int = 0
    output_axis: Sequence[int] | int = 1


class _Projection(NamedTuple):
    """How the gradient G of one array, as a matrix (rows, columns), is projected: R = P^T G, or G P."""

    axes: matrices.Axes
    shape: tuple[int, ...]
    rank: int
    left: bool

    def matrix(self, g: Array) -> Array:
        return numerics.squarable(self.axes.to_matrices(g)[0].astype(numerics.at_least_float32(g.dtype)), "summed")

    def sizes(self) -> tuple[tuple[int, int], tuple[int, int]]:
        """The shapes of P and R."""
        _, rows, columns = self.axes.sizes(self.shape)
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

    def up(self, r: Array, projector: Array, scale: Any) -> Array:
        x = r.astype(numerics.at_least_float32(r.dtype))
        p = projector.astype(x.dtype)
        x = jnp.asarray(scale).astype(x.dtype) * (p @ x if self.left else x @ p.conj().T)
        return self.axes.from_matrices(x, self.shape)


@transform
def scale_by_galore(
    rank: int = 128,
    update_proj_gap: Hyper = 200,
    scale: Hyper = 1.0,
    base_optimizer: Any = None,
    weight_dimension_numbers: Any = None,
    *,
    side: str = "long",
) -> GradientTransformation:
    """Runs a transform on the gradients of matrices projected to `rank` dimensions. See `galore`.

    Raises:
      ValueError: rank is less than 1; an unknown side; dimension numbers that do not fit or leave an axis out.
      TypeError: rank is not an int.
    """
    label = "gdjax.scale_by_galore"
    rank = checks.structural(label, "rank", rank, 1)
    if side not in ("long", "short"):
        raise ValueError(f"{label}: side must be long or short, got {side!r}")
    inner = scale_by_adam() if base_optimizer is None else base.check_transform(label, "base_optimizer", base_optimizer)

    def projections(tree: Any) -> list[_Projection | None]:
        numbers = _numbers(label, weight_dimension_numbers, tree)
        paths = jax.tree_util.tree_leaves_with_path(tree)
        return [_projection(label, path, x, n, rank, side) for (path, x), n in zip(paths, numbers, strict=True)]

    def init(params: Any) -> GaLoreState:
        checks.leaves(label, "params", params)
        leaves, structure = jax.tree.flatten(params)
        plans = projections(params)
        dtypes = [jax.dtypes.canonicalize_dtype(getattr(p, "dtype", type(p))) for p in leaves]
        each = list(zip(leaves, plans, dtypes, strict=True))
        low = [p if a is None else meshes.zeros_along(p, (), d, a.sizes()[1]) for p, a, d in each]
        empty = [MaskedNode() if a is None else meshes.zeros_along(p, (), d, a.sizes()[0]) for p, a, d in each]
        zero = jnp.zeros((), jnp.int32)
        return GaLoreState(zero, inner.init(structure.unflatten(low)), structure.unflatten(empty))

    def update(updates: Any, state: Any, params: Any = None, **extra_args: Any) -> Any:
        checks.state(label, state, GaLoreState)
        checks.gradients(label, updates, params)
        gs, structure = jax.tree.flatten(updates)
        names = "updates", "state.projector"
        olds = checks.flatten_like(label, names, structure, updates, state.projector)
        active = {i: a for i, a in enumerate(projections(updates)) if a is not None}
        paths = jax.tree_util.tree_leaves_with_path(updates)
        for i, a in active.items():
            where = f"params{jax.tree_util.keystr(paths[i][0])}"
            checks.slot(label, where, "projector", olds[i], a.sizes()[0], "that of the gradient")

        def projectors() -> list[Array]:
            of = {i: lambda g, a=a, i=i: a.projector(g).astype(olds[i].dtype) for i, a in active.items()}
            return [meshes.partitioned(f, olds[i], gs[i]) for i, f in of.items()]

        hyper = {"update_proj_gap": update_proj_gap, "scale": scale}
        gap, factor = (checks.scalar(label, k, x(state.count)) if callable(x) else x for k, x in hyper.items())
        kept = [olds[i] for i in active]
        kept = meshes.cond(state.count % gap == 0, projectors, lambda: kept) if active else kept
        low, news = list(gs), list(olds)
        for i, projector in zip(active, kept, strict=True):
            low[i], news[i] = meshes.partitioned(active[i].down, None, gs[i], projector), projector
        projected = structure.unflatten(low)
        projected, inner_state = base.call_update(inner, projected, state.base_optimizer_state, None, extra_args)
        out = structure.flatten_up_to(projected)
        for i, a in active.items():
            u = meshes.partitioned(a.up, gs[i], out[i], news[i], factor)
            out[i] = numerics.spoiled(u.astype(gs[i].dtype), gs[i])
        count = numerics.safe_increment(state.count)
        return structure.unflatten(out), GaLoreState(count, inner_state, structure.unflatten(news))

    return GradientTransformation(init, update)


def _numbers(label: str, numbers: Any, tree: Any) -> list[Any]:
    """For each leaf its dimension numbers, None where it is not projected."""
    if numbers is None:
        return [GaLoreDimensionNumbers() if matrices.can_be_matrix(x) else None for x in jax.tree.leaves(tree)]
    found = matrices.numbers_of(label, numbers, tree)
    if matrices.is_numbers(numbers):
        found = [n if jnp.ndim(x) >= 2 else None for n, x in zip(found, jax.tree.leaves(tree), strict=True)]
    return found


def _projection(label: str, path: Any, x: Any, numbers: Any, rank: int, side: str) -> _Projection | None:
    if numbers is None or base.is_float0(x):
        return None
    where = f"{label}: params{jax.tree_util.keystr(path)}"
    axes = matrices.matrix_axes(where, x.shape, numbers)
    if axes.batch:
        raise ValueError(f"{where}: dimension numbers {numbers} leave out the axes {axes.batch} of shape {x.shape}")
    _, rows, columns = axes.sizes(x.shape)
    return _Projection(axes, x.shape, min(rank, rows, columns), (rows >= columns) == (side == "long"))


@transform
def galore(
    learning_rate: Hyper,
    rank: int = 128,
    update_proj_gap: Hyper = 200,
    scale: Hyper = 1.0,
    base_optimizer: Any = None,
    weight_decay: Hyper = 0.0,
    mask: Any = None,
    weight_dimension_numbers: Any = None,
    *,
    side: str = "long",
) -> GradientTransformation:
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
      mask: which leaves decay, as in `masked`.
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

    Reference:
      Zhao et al. 2024, GaLore: memory-efficient LLM training by gradient low-rank projection, Algorithm 2,
      https://arxiv.org/abs/2403.03507
    """
    return chain(
        scale_by_galore(rank, update_proj_gap, scale, base_optimizer, weight_dimension_numbers, side=side),
        add_decayed_weights(weight_decay, mask),
        scale_by_learning_rate(learning_rate),
    )
