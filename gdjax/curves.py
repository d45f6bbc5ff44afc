"""The arithmetic under `gdjax.schedules`: curves of a step, and the checks of their arguments.

A step is an int32 in [0, 2^31 - 1], or a float if the caller's is one. Differences, limits and comparisons stay in
integers, so that no step is lost; only the fraction of an interval is a float.
"""

import math
import operator
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jax.typing import ArrayLike

from gdjax.base import Schedule
from gdjax.numerics import at_least_float32

Curve = Callable[[jax.Array], jax.Array]
"""A function of a step that `as_step` made."""

LAST_STEP = 2**31 - 1
NUMBER = int, float, np.number


def as_step(count: ArrayLike) -> jax.Array:
    """`count` as int32, at least 0 and at most 2^31 - 1, or as a float of at least 0."""
    if isinstance(count, int):
        count = min(max(count, 0), LAST_STEP)
    on = jnp if isinstance(count, jax.Array) else np  # NumPy's int64 is clipped before JAX cuts it to 32 bits
    step = on.asarray(count)
    if _is_float(step):
        return jnp.maximum(jnp.asarray(step, at_least_float32(step.dtype)), 0.0)
    if not jnp.issubdtype(step.dtype, jnp.integer):
        raise TypeError(f"gdjax: the step of a schedule must be an integer or a float, got {step.dtype}")
    step = on.maximum(step, 0)
    if jnp.iinfo(step.dtype).max > LAST_STEP:
        step = on.minimum(step, LAST_STEP)
    return jnp.asarray(step.astype(np.int32))


def _is_float(step: jax.Array | np.ndarray) -> bool:
    return jnp.issubdtype(step.dtype, jnp.floating)


def since(step: jax.Array, begin: int) -> jax.Array:
    """`step - begin`, or -1 where `begin` is past every int32 step."""
    if _is_float(step):
        return step - float(begin)
    return step - begin if begin <= LAST_STEP else jnp.full_like(step, -1)


def fractions(step: jax.Array, begin: int, steps: int, dtype: np.dtype) -> tuple[jax.Array, jax.Array]:
    """How much of the interval of `steps` steps from `begin` is behind the step, and how much is ahead.

    Each is divided on its own: one as 1 minus the other would lose the last steps of a long interval.
    An interval of no steps is behind and ahead by 0.
    """
    length = float(max(steps, 1))
    if _is_float(step):
        gone = jnp.clip(since(step, begin), 0.0, float(steps))
        return (gone / length).astype(dtype), ((float(steps) - gone) / length).astype(dtype)
    reach = min(steps, LAST_STEP)
    gone = jnp.clip(since(step, begin), 0, reach)
    beyond = (steps - reach) / length  # the part that no int32 step reaches
    return gone.astype(dtype) / length, (reach - gone).astype(dtype) / length + beyond


def periods(step: jax.Array, begin: int, steps: int, dtype: np.dtype) -> tuple[jax.Array, jax.Array, jax.Array]:
    """The periods of `steps` steps since `begin`: whole ones, what their rounding to `dtype` lost, and the rest."""
    if _is_float(step):
        passed = jnp.clip(since(step, begin) / float(steps), 0.0, 2.0**62)  # not inf, whose fraction is NaN
        whole = jnp.floor(passed)
        return whole.astype(dtype), jnp.zeros_like(whole, dtype), (passed - whole).astype(dtype)
    passed = jnp.maximum(since(step, begin), 0)
    whole = passed // steps if steps <= LAST_STEP else jnp.zeros_like(passed)
    rest = passed - whole * steps if steps <= LAST_STEP else passed
    rounded = whole.astype(dtype)
    return rounded, (whole - rounded.astype(np.int32)).astype(dtype), rest.astype(dtype) / float(steps)


def float_type(*hyper: Any) -> np.dtype:
    """float64 if x64 is on and one of `hyper` is an array of that type, else float32."""
    arrays = [x for x in jax.tree.leaves(hyper) if isinstance(x, jax.Array | np.ndarray)]
    wide = any(x.dtype == np.float64 and not getattr(x, "weak_type", False) for x in arrays)
    return jax.dtypes.canonicalize_dtype(np.float64 if wide else np.float32)


def strong(hyper: Any, dtype: np.dtype) -> Any:
    """A number, or the product of a tuple of numbers, in `dtype`; plain numbers multiply in double precision."""
    factors = hyper if isinstance(hyper, tuple) else (hyper,)
    plain = dtype.type(math.prod(float(x) for x in factors if isinstance(x, NUMBER)))
    arrays = [jnp.asarray(x, dtype) for x in factors if not isinstance(x, NUMBER)]
    return math.prod(arrays, start=plain)


def of_count(curve: Curve) -> Schedule:
    """`curve` as a function of any step a user may have."""
    return lambda count: curve(as_step(count))


def constant(value: Any) -> Curve:
    return lambda step: jnp.full(step.shape, strong(value, float_type(value)))


def straight(fraction: jax.Array) -> jax.Array:
    return fraction


def half_cosine(fraction: jax.Array) -> jax.Array:
    """(1 - cos(pi * fraction)) / 2, as a square: the difference would lose small fractions."""
    return jnp.square(jnp.sin((math.pi / 2) * fraction))


def transition(start: Any, end: Any, steps: int, begin: int = 0, power: Any = 1, shape: Curve = straight) -> Curve:
    """The curve end + (start - end) * shape(1 - x)^power, where x is the fraction of the interval behind the step.

    `shape` maps 0 to 0 and satisfies shape(x) + shape(1 - x) = 1. Near the start the equal form
    start + (end - start) * (1 - shape(1 - x)^power) is used, so that both ends are exact and nothing cancels.
    """

    def curve(step: jax.Array) -> jax.Array:
        dtype = float_type(start, end, power)
        gone, kept = map(shape, fractions(step, begin, steps, dtype))
        if isinstance(power, jax.Array | np.ndarray) or power != 1:
            p = strong(power, dtype)
            kept = kept**p
            gone = -jnp.expm1(p * jnp.log1p(-jnp.where(kept >= 0.5, gone, 0.0)))  # 1 - (1 - gone)^p
        a, b = strong(start, dtype), strong(end, dtype)
        return jnp.where(kept >= 0.5, a + (b - a) * gone, b + (a - b) * kept)

    return curve


def decay(start: Any, steps: int, rate: Any, begin: int, staircase: bool, end: Any) -> Curve:
    """The curve start * rate^(periods since begin), limited by `end` unless that is None."""

    def curve(step: jax.Array) -> jax.Array:
        dtype = float_type(start, rate, end)
        whole, lost, rest = periods(step, begin, steps, dtype)
        rest = lost if staircase else lost + rest
        base = strong(rate, dtype)
        factor = base**whole * base**rest
        if isinstance(rate, NUMBER):
            # The rounding of a plain rate to float32 grows with the power; its logarithm, in double, undoes that.
            slip = math.log(float(rate)) - math.log(float(base))
            factor = factor * jnp.exp(jnp.clip((whole + rest) * slip, -80.0, 80.0))  # neither 0 nor inf
        value = strong(start, dtype) * factor
        if end is None:
            return value
        limit = strong(end, dtype)
        return jnp.where(base < 1.0, jnp.maximum(value, limit), jnp.minimum(value, limit))

    return curve


def join(curves: Sequence[Callable[[jax.Array], ArrayLike]], boundaries: Sequence[int]) -> Curve:
    """Each curve from its boundary on, as a function of the steps since that boundary."""

    def curve(step: jax.Array) -> jax.Array:
        starts = [since(step, boundary) for boundary in boundaries]
        values = [c(jnp.maximum(t, 0)) for c, t in zip(curves, [step, *starts], strict=True)]
        dtype = float_type(values)
        out = _shaped(values[0], 0, step, dtype)
        for i, (start, value) in enumerate(zip(starts, values[1:], strict=True), 1):
            out = jnp.where(start >= 0, _shaped(value, i, step, dtype), out)
        return out

    return curve


def _shaped(value: ArrayLike, index: int, step: jax.Array, dtype: np.dtype) -> jax.Array:
    value = jnp.asarray(value, dtype)
    if value.shape not in ((), step.shape):
        raise ValueError(f"gdjax.join_schedules: schedules[{index}] returned shape {value.shape}, not {step.shape}")
    return jnp.broadcast_to(value, step.shape)


def check_steps(factory: str, name: str, steps: Any, *, least: int = 0) -> int:
    """`steps` as an int.

    Raises:
      TypeError: it is traced, a float or no number.
      ValueError: it is below `least` (0 or 1).
    """
    if isinstance(steps, Tracer):
        raise TypeError(
            f"gdjax.{factory}: {name} must be a Python int, got a traced value; make it static with `static_argnames` "
            "of jax.jit or `static_args` of inject_hyperparams"
        )
    try:
        if isinstance(steps, bool):  # most likely the argument after it, in the wrong place
            raise TypeError
        whole = operator.index(steps)
    except TypeError:
        advice = f"; write int({steps})" if isinstance(steps, float | np.floating) else ""
        raise TypeError(f"gdjax.{factory}: {name} must be an int, got {steps!r}{advice}") from None
    if whole < least:
        raise ValueError(f"gdjax.{factory}: {name} must {'be positive' if least else 'not be negative'}, got {whole}")
    return whole


def check_numbers(factory: str, *, positive: Sequence[str] = (), **hyper: Any) -> None:
    """Checks that each of `hyper` is a real scalar, and those named in `positive` above 0 where their value is known.

    Raises:
      TypeError: one is no real number.
      ValueError: one is an array of more than one dimension, or not positive.
    """
    for name, x in hyper.items():
        where = f"gdjax.{factory}: {name}"
        if not isinstance(x, (*NUMBER, np.ndarray, jax.Array)) or jnp.iscomplexobj(x):
            raise TypeError(f"{where} must be a real number, got {x!r}")
        if np.shape(x) != ():
            raise ValueError(f"{where} must be a scalar, got shape {np.shape(x)}")
        known = isinstance(x, NUMBER)
        if name in positive and known and not np.finfo(np.float32).tiny <= x <= np.finfo(np.float32).max:
            raise ValueError(f"{where} must be positive and finite, got {x}")
