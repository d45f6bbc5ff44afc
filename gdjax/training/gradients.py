"""Gradients from function values alone, to check those from `jax.grad` and from custom derivative rules."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from gdjax.core import checks
from gdjax.core.field_docs import with_field_docs
from gdjax.core.types import Array, ArrayTree, Params
from gdjax.training.differences import Differences, Function, central_differences


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
    found = central_differences("gdjax.numerical_gradient", f, params, eps, coordinates, key, (1,))
    values = [d.values.astype(d.leaf.dtype) for d in found]
    unflatten = jax.tree.structure(params).unflatten
    if coordinates is None:
        return unflatten([v.reshape(d.leaf.shape) for v, d in zip(values, found, strict=True)])
    return SampledGradient(unflatten([d.indices for d in found]), unflatten(values))


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
    found = central_differences(label, f, params, eps, coordinates, key, (1, 2))
    structure = jax.tree.structure(params)
    if grad is None:
        grad = jax.jit(jax.grad(f))(structure.unflatten([d.leaf for d in found]))
    analytic = checks.flatten_like(label, ("params", "grad"), structure, params, grad)
    compared = []
    for a, d in zip(analytic, found, strict=True):
        if jnp.shape(a) != d.leaf.shape:
            raise ValueError(f"{label}: params{d.path}: gradient shape {jnp.shape(a)} does not match {d.leaf.shape}")
        if d.leaf.size:
            compared.append(_compare(a, d, d.precision ** (1 / 3) if rtol is None else rtol))
    report = GradientCheck(tuple(sorted(compared, key=lambda leaf: leaf.error / leaf.tolerance, reverse=True)))
    if raise_on_failure and not report.passed:
        raise AssertionError(f"{label}: {report}")
    return report


def _compare(analytic: Array, found: Differences, rtol: float) -> LeafCheck:
    """The worst coordinate of a leaf, on the host in float64."""
    wide = np.complex128 if jnp.iscomplexobj(found.values) else np.float64
    at = np.asarray(found.indices)
    a = np.asarray(analytic).astype(wide).reshape(-1)[at]
    n, d = np.asarray(found.values).astype(wide), np.asarray(found.uncertainty).astype(np.float64)
    with np.errstate(all="ignore"):
        size = np.abs(a) + np.abs(n)
        error = np.abs(a - n) / np.maximum(np.maximum(size, d / rtol), np.finfo(np.float64).tiny)
    error[~np.isfinite(error) | ~np.isfinite(size) | ~np.isfinite(d)] = np.inf
    worst = int(np.argmax(error))
    where = tuple(map(int, np.unravel_index(at[worst], np.shape(analytic))))
    return LeafCheck(
        found.path, where, a[worst].item(), n[worst].item(), float(error[worst]), rtol, at.size, int(np.sum(size <= d))
    )
