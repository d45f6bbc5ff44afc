"""Central differences of a function over a pytree, with an estimate of their errors."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from gdjax import numerics
from gdjax.core import checks
from gdjax.core.types import Array, Params

Function = Callable[[Any], Any]  # tree -> real scalar
SAFETY = 4  # the change of a difference with its step may understate its error by this factor
NOISE = 4  # roundings of its value that an evaluation may be off by


class Differences(NamedTuple):
    """Central differences at some coordinates of one leaf."""

    path: str  # of the leaf, such as "['w']"
    leaf: Array
    precision: float  # machine epsilon of the leaf's dtype, or of f's where that is coarser
    indices: Array  # (k,) int32, positions in the flattened leaf
    values: Array  # (k,) real or complex, float32 or wider
    uncertainty: Array  # (k,) real: how far off truncation, kinks and rounding may have put the values


def central_differences(
    label: str, f: Function, params: Params, eps: float | None, coordinates: int | None, key: Array | None,
    multiples: tuple[int, ...],
) -> list[Differences]:  # fmt: skip
    """The differences of f over the step in every leaf, all coordinates or a sample; see `numerical_gradient`.

    Args:
      label: the name under which errors are reported.
      multiples: of the step, from 1 on, at which f is evaluated; with (1, 2) the uncertainty counts kinks and
        truncation, with (1,) rounding alone.
    """
    if coordinates is not None:
        checks.structural(label, "coordinates", coordinates, 1)
    if (coordinates is None) != (key is None):
        raise ValueError(f"{label}: coordinates and key go together, got coordinates={coordinates} and key={key}")
    if eps is not None and not eps > 0:
        raise ValueError(f"{label}: eps must be positive, got {eps}")
    names, leaves, structure = _inexact_leaves(label, params)
    out = jax.eval_shape(f, structure.unflatten(leaves))
    if getattr(out, "shape", None) != () or not jnp.issubdtype(out.dtype, jnp.floating):
        raise TypeError(f"{label}: f must return a real scalar, got {out}")
    precision = [float(max(jnp.finfo(x.dtype).eps, jnp.finfo(out.dtype).eps)) for x in leaves]

    @jax.jit
    def run(leaves: list[Array], key: Array | None) -> list[tuple[Array, Array, Array]]:
        at = [_coordinates(x.size, coordinates, key, j) for j, x in enumerate(leaves)]
        # A complex leaf is two real vectors from here on, a real leaf one.
        parts = [[x.real, x.imag] if jnp.iscomplexobj(x) else [x] for x in leaves]
        vectors = [(x.reshape(-1), j) for j, own in enumerate(parts) for x in own]
        ends = [_ends(x[at[j]], eps or precision[j] ** (1 / 3), multiples) for x, j in vectors]

        def value(moved: list[Array]) -> Array:
            rest = iter(moved)
            news = [jax.lax.complex(next(rest), next(rest)) if jnp.iscomplexobj(x) else next(rest) for x in leaves]
            return f(structure.unflatten([new.reshape(x.shape) for new, x in zip(news, leaves, strict=True)]))

        here, values = _evaluate(value, [x for x, _ in vectors], [at[j] for _, j in vectors], ends)
        each = zip(vectors, values, ends, strict=True)
        slopes = (_slopes(v, here, e, multiples, precision[j]) for (_, j), v, e in each)
        of_leaves = [[next(slopes) for _ in own] for own in parts]
        return [(i, *(of[0] if len(of) == 1 else _as_complex(*of))) for i, of in zip(at, of_leaves, strict=True)]

    found = run(leaves, key)
    return [Differences(n, x, u, *d) for n, x, u, d in zip(names, leaves, precision, found, strict=True)]


def _as_complex(real: tuple[Array, Array], imaginary: tuple[Array, Array]) -> tuple[Array, Array]:
    """The conjugate slope, as `jax.grad` has it, and the uncertainty."""
    return jax.lax.complex(real[0], -imaginary[0]), real[1] + imaginary[1]


def _inexact_leaves(label: str, params: Params) -> tuple[list[str], list[Array], Any]:
    """The paths and arrays of the leaves, all of them differentiable, and the structure of `params`."""
    paths, structure = jax.tree_util.tree_flatten_with_path(params)
    names = [jax.tree_util.keystr(path) for path, _ in paths]
    for name, (_, x) in zip(names, paths, strict=True):
        checks.leaf(label, f"params{name}", x)
        if not jnp.issubdtype(jnp.result_type(x), jnp.inexact):
            raise TypeError(f"{label}: params{name} has dtype {jnp.result_type(x)}, which takes no gradient")
    return names, [jnp.asarray(x) for _, x in paths], structure


def _coordinates(size: int, count: int | None, key: Array | None, leaf: int) -> Array:
    """All positions, or one drawn from each of `count` equal stretches: all different, at a cost of O(count)."""
    if count is None or key is None or count >= size:
        return jnp.arange(size, dtype=jnp.int32)
    bounds = np.arange(count + 1) * size // count
    low, high = (jnp.asarray(b, jnp.int32) for b in (bounds[:-1], bounds[1:]))
    return jax.random.randint(jax.random.fold_in(key, leaf), (count,), low, high, jnp.int32)


def _ends(x: Array, eps: float, multiples: tuple[int, ...]) -> Array:
    """The numbers (m, 2, k) to the right and left of each x, for each multiple of the step, in float32 or wider."""
    info, x = jnp.finfo(x.dtype), x.astype(numerics.at_least_float32(x.dtype))
    h = eps * jnp.maximum(jnp.abs(x), 1)
    ends = jnp.stack([jnp.stack([x + m * h, x - m * h]) for m in multiples])
    # Rounded explicitly: a compiler may keep a 16-bit number in float32 between two operations.
    return jax.lax.reduce_precision(ends, info.nexp, info.nmant)


def _evaluate(f: Function, vectors: list[Array], at: list[Array], ends: list[Array]) -> tuple[Array, list[Array]]:
    """f(vectors), and for each vector f with its entries `at` moved, one at a time, to each of `ends` (m, 2, k)."""
    wide = max([jnp.dtype("float32"), *(e.dtype for e in ends)], key=lambda d: d.itemsize)

    def evaluate(point: tuple[Array, Array, Array]) -> Array:
        # One body for all, so that f is compiled once: every vector but one is written past its end, so not at all.
        which, i, new = point
        places = [jnp.where(which == j, i, x.size) for j, x in enumerate(vectors)]
        moved = [
            x.at[i].set(new.astype(x.dtype), mode="drop") if x.size else x for x, i in zip(vectors, places, strict=True)
        ]
        return f(moved)

    points = [(jnp.full(1, -1, jnp.int32), jnp.zeros(1, jnp.int32), jnp.zeros(1, wide))]
    for j, (i, e) in enumerate(zip(at, ends, strict=True)):
        points.append((jnp.full(e.size, j, jnp.int32), jnp.tile(i, e.shape[0] * 2), e.reshape(-1).astype(wide)))
    values = jax.lax.map(evaluate, tuple(map(jnp.concatenate, zip(*points, strict=True))))
    here, *moved = jnp.split(values, np.cumsum([1, *(e.size for e in ends)])[:-1])
    return here[0], [v.reshape(e.shape) for v, e in zip(moved, ends, strict=True)]


def _slopes(values: Array, here: Array, ends: Array, multiples: tuple[int, ...], u: float) -> tuple[Array, Array]:
    """Differences (k,) from f's values (m, 2, k) at `ends` and f(x), and how far off they may be.

    A kink at a distance of r h, between slopes that differ by J, puts the difference off by J (1 - r) / 2. That is the
    sum of two changes, of the slope and of the bend, when the step is doubled (for r <= 2/3; beyond, the sum is more).
    For a smooth f they are of the order of the truncation error.
    """
    wide = max(ends.dtype, numerics.at_least_float32(values.dtype), key=lambda d: d.itemsize)
    (up, down), here = (values[:, k].astype(wide) for k in (0, 1)), here.astype(wide)
    gap = (ends[:, 0] - ends[:, 1]).astype(wide)
    slopes, bends = (up - down) / gap, (up + down - 2 * here) / gap
    change = jnp.abs(slopes[-1] - slopes[0]) + jnp.abs(bends[-1] - multiples[-1] * bends[0])
    return slopes[0], SAFETY * change + NOISE * u * jnp.abs(here) / gap[0]
