"""Adafactor."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Annotated, Any, NamedTuple

import jax.numpy as jnp

from gdjax.combine.chain import chain
from gdjax.core import checks
from gdjax.core.base import GradientTransformation, transform
from gdjax.core.misuse import Dialect, dialects
from gdjax.core.number_domains import AtLeast, Check
from gdjax.core.types import (
    Bound,
    Decay,
    DType,
    Finite,
    LayerAxes,
    Mask,
    Params,
    PerLeaf,
    Rate,
    Scalar,
    ScalarOrSchedule,
    Size,
    base_of,
)
from gdjax.lift.leafwise import Hyper, hyper, leafwise
from gdjax.lift.slots import Factor, New
from gdjax.linalg.vectors import limited, means_of_squares
from gdjax.numerics import Array, abs_sq, at_least_float32, bounded_sq, quotient, scaled
from gdjax.transforms.averaging import ema
from gdjax.transforms.decay import add_decayed_weights, decaying
from gdjax.transforms.scaling import scale, scale_by_learning_rate
from gdjax.transforms.trust_ratio import scale_by_param_block_rms

__all__ = ["FactoredState", "adafactor", "scale_by_factored_rms"]


class FactoredState(NamedTuple):
    """State of `scale_by_factored_rms`. A leaf has either v_row and v_col or v, and (1,) zeros for the rest."""

    count: Array  # () int32, updates made so far
    v_row: Params  # average of g^2 over the longest axis, float32 at least
    v_col: Params  # average of g^2 over the second longest axis, float32 at least
    v: Params  # like the parameter, average of g^2, float32 at least


def factored_axes(shape: tuple[int, ...], hyper: Mapping[str, Any]) -> tuple[int, int] | None:
    """The second longest axis and the longest, the later of equals last; None where the moment is not factored."""
    if not hyper["factored"] or len(shape) < 2:
        return None
    *_, second, longest = sorted(range(len(shape)), key=lambda axis: shape[axis])
    return (second, longest) if shape[second] >= max(hyper["min_dim_size_to_factor"], 1) else None


def last_axes(shape: tuple[int, ...], hyper: Mapping[str, Any]) -> tuple[int, int] | None:
    """The last two axes, of which torch keeps rows and columns; None where the moment is not factored."""
    if not hyper["factored"] or len(shape) < 2:
        return None
    return (len(shape) - 2, len(shape) - 1) if min(shape[-2:]) >= max(hyper["min_dim_size_to_factor"], 1) else None


def all_but(left_out: int | None, axes_of: Callable[..., tuple[int, int] | None] = factored_axes) -> Factor:
    """All axes but one of the two of a factored leaf, by its place in them; None for all of a leaf that is not."""

    def axes(shape: tuple[int, ...], hyper: Mapping[str, Any]) -> Any:
        pair = axes_of(shape, hyper)
        if (pair is None) != (left_out is None):
            return (New(1),)
        gone = None if pair is None or left_out is None else pair[left_out]
        return tuple(i for i in range(len(shape)) if i != gone)

    return Factor(axes)


@leafwise(FactoredState, v_row=all_but(1), v_col=all_but(0), v=all_but(None), growth="elementwise")
def _by_factored_rms(
    g: Array, s: FactoredState, p: Array, t: Array,
    factored: bool, min_dim_size_to_factor: Annotated[int, AtLeast(0, static=True)], epsilon: hyper.Size,
    b2: hyper.Squares, clipping_threshold: hyper.Bound = None,
    *, layer_axes: LayerAxes = None,
) -> tuple[Array, FactoredState]:  # fmt: skip
    axes = factored_axes(g.shape, {"factored": factored, "min_dim_size_to_factor": min_dim_size_to_factor})
    if axes is None:
        row_factor, factor, v = of_each(g, s.v, b2, epsilon)
        s = s._replace(v=v)
    else:
        row_factor, factor, v_row, v_col = by_rows_and_columns(g, s.v_row, s.v_col, axes, b2, epsilon)
        s = s._replace(v_row=v_row, v_col=v_col)
    if clipping_threshold is not None:
        row_factor, factor = limited(g, (row_factor, factor), clipping_threshold)
    return scaled(g, row_factor, "each") * factor, s


@leafwise(
    FactoredState, v_row=all_but(1, last_axes), v_col=all_but(0, last_axes), v=all_but(None, last_axes),
    growth="elementwise",
)  # fmt: skip
def _by_torchs_factored_rms(
    g: Array, s: FactoredState, p: Array, t: Array,
    factored: bool, min_dim_size_to_factor: Annotated[int, AtLeast(0, static=True)], epsilon: hyper.Size,
    b2: hyper.Squares, clipping_threshold: hyper.Bound = None,
    *, layer_axes: LayerAxes = None,
) -> tuple[Array, FactoredState]:  # fmt: skip
    """Adafactor's direction with nothing added to squares, but an epsilon^2 that the second moment is at least."""
    axes = last_axes(g.shape, {"factored": factored, "min_dim_size_to_factor": min_dim_size_to_factor})
    if axes is None:
        v = _average(s.v, bounded_sq(abs_sq(g), "each"), b2, 0)
        s = s._replace(v=v)
    else:
        second, last = axes
        rows, columns = means_of_squares(g, last, second)
        v_row, v_col = _average(s.v_row, rows, b2, 0), _average(s.v_col, columns, b2, 0)
        s = s._replace(v_row=v_row, v_col=v_col)
        mean = jnp.maximum(jnp.sum(v_row * (1 / v_row.shape[-1]), -1, keepdims=True), epsilon)
        v = jnp.expand_dims(quotient(v_row, jnp.where(mean == 0, 1, mean)), last) * jnp.expand_dims(v_col, second)
    row_factor, factor = _inverse_root(jnp.maximum(v, jnp.square(epsilon))), jnp.ones((), v.dtype)
    if clipping_threshold is not None:
        row_factor, factor = limited(g, (row_factor, factor), clipping_threshold)
    return scaled(g, row_factor, "each") * factor, s


def of_each(x: Array, v: Array, b: Hyper, eps: Hyper) -> tuple[Array, Array, Array]:
    """The average of x^2 over the steps: 1 / sqrt(v) as two factors, and v."""
    v = _average(v, bounded_sq(abs_sq(x), "each"), b, eps)
    return _inverse_root(v), jnp.ones((), v.dtype), v


def by_rows_and_columns(
    x: Array, v_row: Array, v_col: Array, axes: tuple[int, int], b: Hyper, eps: Hyper
) -> tuple[Array, Array, Array, Array]:
    """The same factored over two axes: 1 / sqrt(v_row v_col / mean(v_row)) as two factors, v_row and v_col."""
    second, longest = axes
    rows, columns = means_of_squares(x, longest, second)
    v_row, v_col = _average(v_row, rows, b, eps), _average(v_col, columns, b, eps)
    axis = second - (second > longest)  # the second longest axis of x, in v_row
    mean = jnp.sum(v_row * (1 / v_row.shape[axis]), axis, keepdims=True)  # of quotients: a sum overflows first
    row_factor = jnp.expand_dims(_inverse_root(quotient(v_row, jnp.where(mean == 0, 1, mean))), longest)
    return row_factor, jnp.expand_dims(_inverse_root(v_col), second), v_row, v_col


def _average(v: Array, mean: Array, b: Hyper, eps: Hyper) -> Array:
    return b * v + (1 - b) * (mean + eps)


def _inverse_root(v: Array) -> Array:
    """1 / sqrt(v), and 1 where v is 0: there the gradients are 0 or have squares that are."""
    return 1 / jnp.sqrt(jnp.where(v == 0, 1, v))


def power_decay(count: Array, exponent: Scalar) -> Array:
    """1 - t^-exponent for t = count + 1: a decay that begins at 0, so that the average needs no correction."""
    t = jnp.maximum(jnp.asarray(count, jnp.float32), 0) + 1
    return 1 - t ** -jnp.asarray(exponent, jnp.float32)


@dataclass(frozen=True)
class _Decay:
    """The decay of the second moment as a schedule."""

    function: Callable[[Any, Any], Any]
    rate: ScalarOrSchedule
    offset: ScalarOrSchedule

    def __call__(self, count: Array) -> Any:
        hyper = {"decay_rate": self.rate, "step_offset": self.offset}
        label = "gdjax.scale_by_factored_rms"
        rate, offset = (checks.scalar(label, k, x(count)) if callable(x) else x for k, x in hyper.items())
        count = jnp.asarray(count)
        return self.function(count - jnp.asarray(offset).astype(count.dtype), rate)


@dataclass(frozen=True)
class _Relative:
    """The reference's rate as a schedule: at most 1 / sqrt(t)."""

    rate: ScalarOrSchedule

    def __call__(self, count: Array) -> Any:
        rate = self.rate
        if callable(rate):
            rate = checks.scalar("gdjax.adafactor", "learning_rate", rate(count))
        rate = jnp.asarray(rate, at_least_float32(jnp.asarray(rate).dtype))
        return jnp.minimum(rate, 1 / jnp.sqrt(jnp.asarray(count, rate.dtype) + 1))


def _relative(rate: ScalarOrSchedule) -> ScalarOrSchedule:
    return rate.with_base(_Relative(base_of(rate))) if isinstance(rate, PerLeaf) else _Relative(rate)


@transform
def scale_by_factored_rms(
    factored: bool = True, decay_rate: Size = 0.8, step_offset: Finite = 0,
    min_dim_size_to_factor: Annotated[int, AtLeast(0, static=True)] = 128, epsilon: Size = 1e-30,
    decay_rate_fn: Annotated[Callable[[Any, Any], Any], Check("function")] = power_decay,
    *, layer_axes: LayerAxes = None,
) -> Any:  # fmt: skip
    """Adafactor's direction: the gradient over the root of a second moment kept as rows and columns.

    Formulas, up to the first u_t, and other arguments are those of `gdjax.adafactor`.

    Args:
      step_offset: the count at which the decay starts anew, for fine-tuning with the state of an earlier run.
      epsilon: added to squares, at least 0. Where the second moment is 0 the direction is g.
      decay_rate_fn: `(count - step_offset, decay_rate) -> decay in [0, 1)`. The default 1 - (count + 1)^-decay_rate
        takes a negative count for 0.

    In float32 gradients count as 2^61 at most, and means of squares as the square of that, so that none makes the
    moments infinite for good.

    Raises:
      TypeError: min_dim_size_to_factor is not an int.

    Example:
      >>> import gdjax, jax.numpy as jnp
      >>> params = {"w": jnp.ones((6, 4)), "b": jnp.ones(4)}
      >>> tx = gdjax.scale_by_factored_rms(min_dim_size_to_factor=4)
      >>> state = tx.init(params)
      >>> print(state.v_row["w"].shape, state.v_col["w"].shape, state.v["b"].shape)
      (4,) (6,) (4,)

    Reference:
      Shazeer & Stern 2018, Algorithm 4, https://arxiv.org/abs/1804.04235
    """
    decay = _Decay(decay_rate_fn, decay_rate, step_offset)
    return _by_factored_rms(factored, min_dim_size_to_factor, epsilon, decay, layer_axes=layer_axes)


_RELATIVE = {"learning_rate": 0.01, "min_dim_size_to_factor": 0}


@transform
@dialects(torch=_RELATIVE | {"eps": 2.0**-23}, paper=_RELATIVE)
def adafactor(
    learning_rate: Rate | None = None, min_dim_size_to_factor: Annotated[int, AtLeast(0, static=True)] = 128,
    decay_rate: Size = 0.8, decay_offset: Finite = 0, multiply_by_parameter_scale: bool = True,
    clipping_threshold: Bound | None = 1.0, momentum: Decay | None = None, dtype_momentum: DType = jnp.float32,
    weight_decay_rate: Size | None = None, eps: Size = 1e-30, factored: bool = True, weight_decay_mask: Mask = None,
    *, like: Dialect = "optax", layer_axes: LayerAxes = None,
) -> GradientTransformation:  # fmt: skip
    """Adafactor: Adam's second moment in the memory of its row and column means, and steps relative to the parameters.

        b2_t = 1 - t^-decay_rate
        R_t = b2_t R_{t-1} + (1 - b2_t) (mean of g_t^2 + eps over each row)
        C_t = b2_t C_{t-1} + (1 - b2_t) (mean of g_t^2 + eps over each column)
        u_t = g_t / sqrt(R_t C_t / mean(R_t))
        u_t <- u_t / max(1, rms(u_t) / clipping_threshold)
        x_{t+1} = x_t - lr max(rms(x_t), 0.001) u_t - weight_decay_rate x_t

    Args:
      learning_rate: lr, a scalar or a schedule; None for 1.
      min_dim_size_to_factor: factor a leaf if its two longest axes have at least this length. One with more than two
        axes is factored over those two.
      decay_rate: the exponent of the decay b2_t, at least 0.
      decay_offset: the count at which the decay starts anew, for fine-tuning with the state of an earlier run.
      multiply_by_parameter_scale: False leaves out rms(x).
      clipping_threshold: bound on rms(u), at least 0; None for none.
      momentum: decay of an average of the steps, in [0, 1), not corrected for its start at 0; None for none.
      dtype_momentum: the dtype of that average.
      weight_decay_rate: not times lr; at least 0, or a schedule. None for none.
      eps: added to squares, at least 0.
      factored: False keeps the whole second moment.
      weight_decay_mask: which leaves decay: a tree of booleans, a prefix of the parameters, or a function from them to
        one; None for all.
      like: "optax" as above. With "paper" and "torch" the rate is min(lr, 1 / sqrt(t)), lr is 0.01 and matrices are
        factored whatever their size, by default; "torch" then does as `torch.optim.Adafactor`, see below.
      layer_axes: how many leading axes of a leaf are layers, each by itself: an int; a pattern of paths for one; a dict
        from patterns to ints; `matrices_by_role()`; or a function from the parameters to a tree of ints. None for none.

    With like="torch" an array is factored over its last two axes. Its second moment is v_t, or what R_t and C_t make of
    it, without eps, and

        u_t = g_t / sqrt(max(R_t C_t / max(mean(R_t), eps), eps^2)),    u_t = g_t / sqrt(max(v_t, eps^2))

    for other arrays. eps is 2^-23 by default; for 64-bit parameters torch has 2^-52. The decay is lr weight_decay_rate
    x_t, where 1 / sqrt(t) does not bound lr.

    Example:
      >>> import gdjax, jax.numpy as jnp
      >>> params = {"w": jnp.ones((512, 256)), "b": jnp.ones(256)}  # 525,312 bytes
      >>> gdjax.state_bytes(gdjax.adafactor(like="paper"), params) < 10_000
      True

    Reference:
      Shazeer & Stern 2018, Adafactor: adaptive learning rates with sublinear memory cost, Algorithms 4 and 5,
      https://arxiv.org/abs/1804.04235
    """
    decay = _Decay(power_decay, decay_rate, decay_offset)
    by_rms = _by_torchs_factored_rms if like == "torch" else _by_factored_rms
    parts = [by_rms(factored, min_dim_size_to_factor, eps, decay, clipping_threshold, layer_axes=layer_axes)]
    if clipping_threshold is not None:
        parts.append(scale(1.0))  # in the place that a clip of its own has in Optax's state
    rate = 1.0 if learning_rate is None else learning_rate
    if like != "optax":
        parts.append(scale_by_learning_rate(_relative(rate), flip_sign=False))
    elif learning_rate is not None:
        parts.append(scale_by_learning_rate(learning_rate, flip_sign=False))
    if multiply_by_parameter_scale:
        parts.append(scale_by_param_block_rms(layer_axes=layer_axes))
    if momentum is not None:
        parts.append(ema(momentum, debias=False, accumulator_dtype=dtype_momentum))
    if weight_decay_rate is not None and like == "torch":
        steps = chain(*parts, scale(-1.0))
        return decaying("gdjax.adafactor", steps, rate, weight_decay_rate, weight_decay_mask, "decoupled", False, None)
    if weight_decay_rate is not None:
        parts.append(add_decayed_weights(weight_decay_rate, weight_decay_mask))
    return chain(*parts, scale(-1.0))
