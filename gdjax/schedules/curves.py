"""The arithmetic of the schedules: curves of a step.

A step is an int32 in [0, 2^31 - 1], or a float if the caller's is one. Differences, limits and comparisons stay in
integers, so that no step is lost; only the fraction of an interval is a float. Where an interval begins or ends between
two steps, its boundary or length is a float with a fraction, and the step becomes a float.

A result of an integer step and Python numbers is weakly typed, as these are: a float32, or a float64 if x64 is on, that
adopts the dtype of its operand. Arrays are strongly typed, and so are their results.
"""

import itertools
import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from gdjax.core.checks import NUMBER
from gdjax.core.types import Array, ArrayLike, ArrayTree, Schedule
from gdjax.numerics import at_least_float32

Curve = Callable[[jax.Array], jax.Array]
"""A function of a step that `as_step` made."""

Shape = Callable[[jax.Array, jax.Array], tuple[jax.Array, jax.Array]]
"""From the fractions of an interval behind and ahead of the step to those of the way from one value to the other."""

LAST_STEP = 2**31 - 1


def as_step(count: ArrayLike) -> jax.Array:
    """`count` as an int32 in [0, 2^31 - 1], or as a float of at least 0."""
    if isinstance(count, int):
        count = min(max(count, 0), LAST_STEP)
    elif isinstance(count, float):
        count = jnp.asarray(float(count))
    on = jnp if isinstance(count, jax.Array) else np  # NumPy's int64 is clipped before JAX cuts it to 32 bits
    step = on.asarray(count)
    if _is_float(step):
        return jnp.maximum(in_dtype(step, at_least_float32(step.dtype)), 0.0)
    if not jnp.issubdtype(step.dtype, jnp.integer):
        raise TypeError(f"gdjax: the step of a schedule must be an integer or a float, got {step.dtype}")
    step = on.maximum(step, 0)
    if jnp.iinfo(step.dtype).max > LAST_STEP:
        step = on.minimum(step, LAST_STEP)
    return jnp.asarray(step.astype(np.int32))


def _is_float(step: jax.Array | np.ndarray) -> bool:
    return jnp.issubdtype(step.dtype, jnp.floating)


def real(step: jax.Array) -> jax.Array:
    """A step as a float; an integer as a weakly typed one."""
    return step if _is_float(step) else _quotient(step, 1.0)


def _quotient(n: jax.Array, length: float) -> jax.Array:
    """n / length of integers n: a weakly typed float, also where the user has JAX refuse to mix their dtypes."""
    with jax.numpy_dtype_promotion("standard"):
        return n / length


def _beside(steps: float, step: jax.Array) -> jax.Array:
    """The step as a float where `steps` has a fraction."""
    return real(step) if isinstance(steps, float) else step


def since(step: jax.Array, begin: float) -> jax.Array:
    """`step - begin`, or -1 where `begin` is past every int32 step."""
    if begin == 0:
        return step
    step = _beside(begin, step)
    if _is_float(step):
        return step - float(begin)
    return step - begin if begin <= LAST_STEP else jnp.full_like(step, -1)


def not_before(step: jax.Array, begin: float) -> jax.Array:
    """The step, and `begin` where it is earlier."""
    step = _beside(begin, step)
    return jnp.maximum(step, float(begin) if _is_float(step) else min(begin, LAST_STEP))


def modulo(step: jax.Array, period: float) -> jax.Array:
    """The steps since the last multiple of `period`."""
    step = _beside(period, step)
    if _is_float(step):
        return jnp.fmod(jnp.minimum(step, float(LAST_STEP)), float(period))  # not inf, whose remainder is NaN
    return step % period if period <= LAST_STEP else step


def fractions(step: jax.Array, begin: float, steps: float, dtype: np.dtype) -> tuple[jax.Array, jax.Array]:
    """The fractions of the interval of `steps` steps from `begin` that are behind the step and ahead of it.

    Each is divided on its own: one as 1 minus the other would lose the last steps of a long interval.
    For an interval of no steps both are 0.
    """
    length = float(steps) or 1.0
    step = _beside(begin, _beside(steps, step))
    if _is_float(step):
        gone = jnp.clip(since(step, begin), 0.0, float(steps))
        return in_dtype(gone / length, dtype), in_dtype((float(steps) - gone) / length, dtype)
    reach = min(steps, LAST_STEP)
    gone = jnp.clip(since(step, begin), 0, reach)
    beyond = (steps - reach) / length  # the part that no int32 step reaches
    return _quotient(gone, length), _quotient(reach - gone, length) + beyond


def periods(step: jax.Array, begin: float, steps: float, dtype: np.dtype) -> tuple[jax.Array, jax.Array, jax.Array]:
    """The periods of `steps` steps since `begin`: the whole ones, their rounding error, and the rest."""
    step = _beside(begin, _beside(steps, step))
    if _is_float(step):
        passed = jnp.clip(since(step, begin) / float(steps), 0.0, 2.0**62)  # not inf, whose fraction is NaN
        n = jnp.floor(passed)
        return in_dtype(n, dtype), jnp.zeros_like(in_dtype(n, dtype)), in_dtype(passed - n, dtype)
    passed = jnp.maximum(since(step, begin), 0)
    n = passed // steps if steps <= LAST_STEP else jnp.zeros_like(passed)
    rest = passed - n * steps if steps <= LAST_STEP else passed
    rounded = real(n)
    return rounded, real(n - rounded.astype(np.int32)), _quotient(rest, float(steps))


def float_type(*hyper: ArrayTree) -> np.dtype:
    """The dtype for the arrays among `hyper`: float64 if x64 is on and one of them has that type, else float32."""
    arrays = [x for x in jax.tree.leaves(hyper) if isinstance(x, jax.Array | np.ndarray)]
    wide = any(x.dtype == np.float64 and not _is_weak(x) for x in arrays)
    return jax.dtypes.canonicalize_dtype(np.float64 if wide else np.float32)


def _is_weak(x: Any) -> bool:
    return getattr(x, "weak_type", False) and jnp.issubdtype(x.dtype, jnp.floating)


def in_dtype(x: Any, dtype: np.dtype) -> Any:
    """An array in `dtype`; a number as a Python float and a weakly typed float as it is: both take any dtype."""
    if isinstance(x, NUMBER):
        return float(x)
    return x if _is_weak(x) else jnp.asarray(x, dtype)


class Inverse(NamedTuple):
    """1 / x as a factor of a hyperparameter."""

    x: ArrayLike


Factors = ArrayLike | tuple[ArrayLike | Inverse, ...]  # a number, or the product of a tuple of them


def product(hyper: Factors, dtype: np.dtype) -> Any:
    """A number, or the product of a tuple of numbers and inverses; see `in_dtype`. Python numbers multiply as doubles.

    It is called at a step, not before, so that a schedule made under a trace keeps its arguments and no new tracer.
    """
    plain, arrays = 1.0, []
    for factor in hyper if type(hyper) is tuple else (hyper,):
        x = factor.x if isinstance(factor, Inverse) else factor
        x = in_dtype(x, dtype)
        x = 1.0 / x if isinstance(factor, Inverse) else x
        if isinstance(x, float):
            plain *= x
        else:
            arrays.append(x)
    return math.prod(arrays, start=plain)


def of_count(curve: Curve) -> Schedule:
    """`curve` as a function of any step a user may have."""
    return lambda count: curve(as_step(count))


def constant(value: Factors) -> Curve:
    return lambda step: jnp.full(step.shape, product(value, float_type(value)))


def straight(gone: jax.Array, ahead: jax.Array) -> tuple[jax.Array, jax.Array]:
    return gone, ahead


def half_cosine(gone: jax.Array, ahead: jax.Array) -> tuple[jax.Array, jax.Array]:
    """(1 - cos(pi * x)) / 2 of each, as a square: the difference would lose small fractions."""
    return jnp.square(jnp.sin((math.pi / 2) * gone)), jnp.square(jnp.sin((math.pi / 2) * ahead))


def one_minus_root(gone: jax.Array, ahead: jax.Array) -> tuple[jax.Array, jax.Array]:
    """sqrt(gone), and 1 - sqrt(gone) without its cancellation."""
    root = jnp.sqrt(gone)
    return root, ahead / (1.0 + root)


def between(start: Array, end: Array, gone: jax.Array, ahead: jax.Array) -> jax.Array:
    """The value `gone` from `start` and `kept` from `end`; gone + kept = 1. Exact at both ends, and nothing cancels."""
    return jnp.where(ahead >= 0.5, start + (end - start) * gone, end + (start - end) * ahead)


def transition(
    start: Factors, end: Factors, steps: float, begin: float = 0, power: ArrayLike = 1, shape: Shape = straight
) -> Curve:
    """The curve end + (start - end) * kept^power, where `shape` computes `kept` from the fraction that is ahead."""

    def curve(step: jax.Array) -> jax.Array:
        dtype = float_type(start, end, power, step)
        gone, ahead = shape(*fractions(step, begin, steps, dtype))
        if isinstance(power, jax.Array | np.ndarray) or power != 1:
            p = product(power, dtype)
            ahead = ahead**p
            gone = -jnp.expm1(p * jnp.log1p(-jnp.where(ahead >= 0.5, gone, 0.0)))  # 1 - (1 - gone)^p
        return between(product(start, dtype), product(end, dtype), gone, ahead)

    return curve


def through(levels: Sequence[Any], starts: Sequence[float], shape: Shape = straight) -> Curve:
    """The curve from the first of `levels`, at step 0, to the others, each at its own entry of `starts`."""
    lengths = [e - s for s, e in itertools.pairwise([0, *starts])]
    spans = zip(levels[:-1], levels[1:], lengths, strict=True)
    return join([*(transition(a, b, steps, shape=shape) for a, b, steps in spans), constant(levels[-1])], starts)


def join(curves: Sequence[Callable[[jax.Array], ArrayLike]], boundaries: Sequence[float]) -> Curve:
    """Each curve from its boundary on, as a function of the steps since that boundary.

    A curve that ends where it begins is never called.
    """
    spans = zip(curves, [0, *boundaries], [*boundaries, math.inf], strict=True)
    lasting = [(i, c, begin) for i, (c, begin, end) in enumerate(spans) if begin < end]

    def curve(step: jax.Array) -> jax.Array:
        starts = [since(step, begin) for _, _, begin in lasting]
        values = [c(jnp.maximum(t, 0)) for (_, c, _), t in zip(lasting, starts, strict=True)]
        dtype = float_type(values)
        shaped = [_shaped(value, i, step, dtype) for (i, _, _), value in zip(lasting, values, strict=True)]
        out = shaped[0]
        for start, value in zip(starts[1:], shaped[1:], strict=True):
            out = jnp.where(start >= 0, value, out)
        return out

    return curve


def _shaped(value: ArrayLike, index: int, step: jax.Array, dtype: np.dtype) -> jax.Array:
    where = f"gdjax.join_schedules: schedules[{index}] returned"
    if not hasattr(value, "dtype") and not isinstance(value, NUMBER):
        raise TypeError(f"{where} {value!r}, not a number")
    value = jnp.asarray(in_dtype(value, dtype))
    if value.shape not in ((), step.shape):
        raise ValueError(f"{where} shape {value.shape}, not {step.shape}")
    return jnp.broadcast_to(value, step.shape)
