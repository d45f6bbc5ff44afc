"""Gradients: exact ones, by differences, and whether they agree."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from gdjax import numerics
from gdjax.core import checks
from gdjax.core.field_docs import with_field_docs
from gdjax.core.paths import named_leaves
from gdjax.core.types import Array, ArrayTree, Params

__all__ = ["check_gradients", "numerical_gradient"]

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
        vectors = [(x.reshape(-1), j) for j, of_leaf in enumerate(parts) for x in of_leaf]
        ends = [_ends(x[at[j]], eps or precision[j] ** (1 / 3), multiples) for x, j in vectors]

        def value(moved: list[Array]) -> Array:
            rest = iter(moved)
            news = [jax.lax.complex(next(rest), next(rest)) if jnp.iscomplexobj(x) else next(rest) for x in leaves]
            return f(structure.unflatten([new.reshape(x.shape) for new, x in zip(news, leaves, strict=True)]))

        here, values = _evaluate(value, [x for x, _ in vectors], [at[j] for _, j in vectors], ends)
        each = zip(vectors, values, ends, strict=True)
        slopes = (_slopes(v, here, e, multiples, precision[j]) for (_, j), v, e in each)
        of_leaves = [[next(slopes) for _ in of_leaf] for of_leaf in parts]
        return [(i, *(of[0] if len(of) == 1 else _as_complex(*of))) for i, of in zip(at, of_leaves, strict=True)]

    results = run(leaves, key)
    return [Differences(n, x, u, *d) for n, x, u, d in zip(names, leaves, precision, results, strict=True)]


def _as_complex(real: tuple[Array, Array], imaginary: tuple[Array, Array]) -> tuple[Array, Array]:
    """The conjugate slope, as `jax.grad` has it, and the uncertainty."""
    return jax.lax.complex(real[0], -imaginary[0]), real[1] + imaginary[1]


def _inexact_leaves(label: str, params: Params) -> tuple[list[str], list[Array], Any]:
    """The paths and arrays of the leaves, all of them differentiable, and the structure of `params`."""
    named = named_leaves("", params)
    for name, x in named:
        checks.leaf(label, f"params{name}", x)
        if not jnp.issubdtype(jnp.result_type(x), jnp.inexact):
            raise TypeError(f"{label}: params{name} has dtype {jnp.result_type(x)}, which takes no gradient")
    return [name for name, _ in named], [jnp.asarray(x) for _, x in named], jax.tree.structure(params)


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


@with_field_docs
class SampledGradient(NamedTuple):
    """Derivatives at some coordinates of every leaf.

    Attributes:
      indices: like params, each leaf (k,) int32: positions in the flattened leaf.
      values: like params, each leaf (k,) in the leaf's dtype.
    """

    indices: ArrayTree
    values: ArrayTree


def numerical_gradient(
    f: Function, params: Params, *, eps: float | None = None, coordinates: int | None = None, key: Array | None = None
) -> Any:
    """The gradient of f by central differences, (f(x + h) - f(x - h)) / 2h, one coordinate at a time.

    With h = eps * max(|x|, 1), truncation costs h^2 f''' / 6 and rounding u |f| / h, where u is the machine epsilon.
    eps = u^(1/3) balances the two and keeps two thirds of the digits: about 5 in float32, 10 in float64. The divisor is
    the distance between the two numbers that x + h and x - h round to.

    f is compiled once and evaluated twice per coordinate in one loop; the call may itself be jitted.

    In bfloat16 and float16 the steps are 0.2 and 0.1, and the result has about one digit: convert such parameters to
    float32 for more.

    Args:
      f: function from a tree like `params` to a real scalar.
      params: any pytree of real or complex floating arrays.
      eps: step relative to max(|x|, 1); None chooses it for the leaf's dtype, or for f's where that is coarser.
      coordinates: number of coordinates to sample in every leaf; None takes them all.
      key: PRNG key, given with `coordinates` and only then.

    Returns:
      A tree like `params`, or with `coordinates` a `SampledGradient`. For a complex leaf z = x + iy the value is
      df/dx - i df/dy, as `jax.grad` has it.

    Raises:
      TypeError: a leaf is not floating; the message gives its path. f does not return a real scalar.
      ValueError: one of `coordinates` and `key` is given without the other; a number is out of range.

    Example:
      >>> import gdjax, jax.numpy as jnp
      >>> g = gdjax.numerical_gradient(lambda x: jnp.sum(x**3), jnp.array([1.0, 2.0]))
      >>> [round(float(x), 2) for x in g]  # 3 x^2
      [3.0, 12.0]
    """
    differences = central_differences("gdjax.numerical_gradient", f, params, eps, coordinates, key, (1,))
    values = [d.values.astype(d.leaf.dtype) for d in differences]
    unflatten = jax.tree.structure(params).unflatten
    if coordinates is None:
        return unflatten([v.reshape(d.leaf.shape) for v, d in zip(values, differences, strict=True)])
    return SampledGradient(unflatten([d.indices for d in differences]), unflatten(values))


@with_field_docs
class LeafCheck(NamedTuple):
    """The worst coordinate of one leaf in a comparison of two gradients.

    Attributes:
      path: of the leaf, as JAX prints it.
      coordinate: its index in the leaf.
      analytic: the derivative that was checked, complex for a complex leaf.
      numerical: that of the differences.
      error: the relative error.
      tolerance: the largest error that passes.
      checked: how many coordinates were compared.
      unresolved: of these, how many the differences cannot tell from zero.
    """

    path: str
    coordinate: tuple[int, ...]
    analytic: complex
    numerical: complex
    error: float
    tolerance: float
    checked: int
    unresolved: int

    @property
    def passed(self) -> bool:
        return self.error <= self.tolerance

    def __str__(self) -> str:
        at = f"params{self.path}{list(self.coordinate) if self.coordinate else ''}"
        numbers = f"analytic {self.analytic:.7g}, numerical {self.numerical:.7g}"
        error = f"relative error {self.error:.2g} {'<=' if self.passed else '>'} {self.tolerance:.2g}"
        unresolved = f" ({self.unresolved} not resolved from zero)" if self.unresolved else ""
        return f"{at}: {numbers}, {error}, worst of {self.checked}{unresolved}"


@with_field_docs
class GradientCheck(NamedTuple):
    """What `check_gradients` found; it prints as one line per leaf.

    Attributes:
      leaves: a `LeafCheck` of each leaf, the worst first.
    """

    leaves: tuple[LeafCheck, ...]

    @property
    def passed(self) -> bool:
        return all(leaf.passed for leaf in self.leaves)

    def __str__(self) -> str:
        failed = sum(not leaf.passed for leaf in self.leaves)
        head = f"{failed} of {len(self.leaves)} leaves differ" if failed else f"{len(self.leaves)} leaves agree"
        return "\n  ".join([f"analytic and numerical gradient: {head}", *map(str, self.leaves)])


def check_gradients(
    f: Function, params: Params, *, grad: Params = None, rtol: float | None = None, eps: float | None = None,
    coordinates: int | None = None, key: Array | None = None, raise_on_failure: bool = True,
) -> GradientCheck:  # fmt: skip
    """Compares the gradient of f with central differences, and says which coordinate of each leaf is worst.

    The error of a coordinate is |a - n| / max(|a| + |n|, d / rtol), for the gradient a, the difference n and its
    possible error d, judged by the change of n when the step is doubled and by the rounding of f. So a coordinate
    passes when a and n agree to rtol, or as closely as differences can tell. With |a| + |n| <= d it counts as not
    resolved from zero. Where f is not finite within two steps, nothing passes. A kink of f at x or near it is allowed
    for. Where many are near, as in a ReLU network over a batch, check in float64, where the steps are 800 times
    smaller, or with rtol=0.05.

    f is evaluated four times per coordinate; sample `coordinates` of each leaf where there are many.

    Args:
      f: function from a tree like `params` to a real scalar.
      params: any pytree of real or complex floating arrays, the point where both are compared.
      grad: the gradient to check, like `params`; None checks `jax.grad(f)`, custom derivative rules included.
      rtol: largest relative error to pass; None is u^(1/3) with the machine epsilon u of each leaf's dtype, or of f's
        where that is coarser: 0.005 in float32, 6e-6 in float64, 0.2 in bfloat16.
      eps: step of the differences relative to max(|x|, 1); None chooses it for the leaf's dtype, or for f's where that
        is coarser.
      coordinates: number of coordinates to sample in every leaf; None takes them all.
      key: PRNG key, given with `coordinates` and only then.
      raise_on_failure: raise when a leaf differs, or only report it.

    Returns:
      A `GradientCheck`, with a line for each leaf that is not empty.

    Raises:
      AssertionError: a leaf differs; the message is the report, with paths, coordinates and both numbers.
      TypeError: a leaf is not floating; f does not return a real scalar.
      ValueError: `grad` does not have the structure or the shapes of `params`; one of `coordinates` and `key` is given
        without the other; a number is out of range.

    Example:
      >>> import gdjax, jax.numpy as jnp
      >>> def f(x):
      ...     return jnp.sum(jnp.sin(x))
      >>> x = jnp.array([0.5, 1.0])
      >>> right = gdjax.check_gradients(f, x)
      >>> wrong = gdjax.check_gradients(f, x, grad=jnp.sin(x), raise_on_failure=False)
      >>> right.passed, wrong.passed
      (True, False)
    """
    label = "gdjax.check_gradients"
    if rtol is not None and not rtol > 0:
        raise ValueError(f"{label}: rtol must be positive, got {rtol}")
    differences = central_differences(label, f, params, eps, coordinates, key, (1, 2))
    structure = jax.tree.structure(params)
    if grad is None:
        grad = jax.jit(jax.grad(f))(structure.unflatten([d.leaf for d in differences]))
    analytic = checks.flatten_like(label, ("params", "grad"), structure, params, grad)
    compared = []
    for a, d in zip(analytic, differences, strict=True):
        if jnp.shape(a) != d.leaf.shape:
            raise ValueError(f"{label}: params{d.path}: gradient shape {jnp.shape(a)} does not match {d.leaf.shape}")
        if d.leaf.size:
            compared.append(_compare(a, d, d.precision ** (1 / 3) if rtol is None else rtol))
    report = GradientCheck(tuple(sorted(compared, key=lambda leaf: leaf.error / leaf.tolerance, reverse=True)))
    if raise_on_failure and not report.passed:
        raise AssertionError(f"{label}: {report}")
    return report


def _compare(analytic: Array, differences: Differences, rtol: float) -> LeafCheck:
    """The worst coordinate of a leaf, on the host in float64."""
    wide = np.complex128 if jnp.iscomplexobj(differences.values) else np.float64
    at = np.asarray(differences.indices)
    a = np.asarray(analytic).astype(wide).reshape(-1)[at]
    n, d = np.asarray(differences.values).astype(wide), np.asarray(differences.uncertainty).astype(np.float64)
    with np.errstate(all="ignore"):
        size = np.abs(a) + np.abs(n)
        error = np.abs(a - n) / np.maximum(np.maximum(size, d / rtol), np.finfo(np.float64).tiny)
    error[~np.isfinite(error) | ~np.isfinite(size) | ~np.isfinite(d)] = np.inf
    worst = int(np.argmax(error))
    where = tuple(map(int, np.unravel_index(at[worst], np.shape(analytic))))
    numbers = a[worst].item(), n[worst].item(), float(error[worst])
    return LeafCheck(differences.path, where, *numbers, rtol, at.size, int(np.sum(size <= d)))
