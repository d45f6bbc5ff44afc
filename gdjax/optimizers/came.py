"""CAME."""

from collections.abc import Mapping
from typing import Any, NamedTuple

from gdjax.core.base import GradientTransformation, transform
from gdjax.core.types import Bound, Decay, LayerAxes, Mask, Params, Rate, Size, Squares
from gdjax.lift.leafwise import hyper, leafwise
from gdjax.lift.slots import Moment
from gdjax.linalg.vectors import limited
from gdjax.numerics import Array, scaled
from gdjax.optimizers.adafactor import all_but, by_rows_and_columns, factored_axes, of_each
from gdjax.transforms.decay import descending

__all__ = ["ScaleByCameState", "came", "scale_by_came"]


class ScaleByCameState(NamedTuple):
    """State of `scale_by_came`. A leaf has either v_row, v_col, s_row and s_col or v, and (1,) zeros for the rest."""

    m: Params  # like params, average of the steps, float32 at least: (u - m)^2 is small
    v_row: Params  # average of g^2 over the longest axis, float32 at least
    v_col: Params  # average of g^2 over the second longest axis, float32 at least
    v: Params  # like the parameter, average of g^2, float32 at least
    s_row: Params  # average of (u - m)^2 over the longest axis, float32 at least
    s_col: Params  # average of (u - m)^2 over the second longest axis, float32 at least


def _matrix(shape: tuple[int, ...], hyper: Mapping[str, Any] | None = None) -> tuple[int, int] | None:
    """The two axes of a leaf over which its moments are factored; None where it has fewer, or no numbers."""
    return factored_axes(shape, {"factored": True, "min_dim_size_to_factor": 0})


_row, _col = all_but(1, _matrix), all_but(0, _matrix)


@leafwise(
    ScaleByCameState, m=Moment(wide=True), v_row=_row, v_col=_col, v=all_but(None, _matrix), s_row=_row, s_col=_col,
    growth="elementwise",
)  # fmt: skip
def scale_by_came(
    g: Array, s: ScaleByCameState, p: Array, t: Array,
    b1: hyper.Decay = 0.9, b2: hyper.Squares = 0.999, b3: hyper.Decay = 0.9999, eps1: hyper.Size = 1e-30,
    eps2: hyper.Size = 1e-16, clip_threshold: hyper.Bound | None = 1.0,
    *, layer_axes: LayerAxes = None,
) -> tuple[Array, ScaleByCameState]:  # fmt: skip
    """CAME's direction: the momentum of Adafactor's steps, smaller where the steps differ from it.

    Formulas and arguments are those of `gdjax.came`, without its rate and decay.

    Example:
      >>> import gdjax, jax.numpy as jnp
      >>> params = {"w": jnp.ones((6, 4)), "b": jnp.ones(4)}
      >>> state = gdjax.scale_by_came().init(params)
      >>> print(state.v_row["w"].shape, state.s_col["w"].shape, state.v["b"].shape)
      (4,) (6,) (4,)

    Reference:
      Luo et al. 2023, Algorithm 2, https://arxiv.org/abs/2307.02047
    """
    axes = _matrix(g.shape)
    if axes is None:
        *factors, v = of_each(g, s.v, b2, eps1)
        s = s._replace(v=v)
    else:
        *factors, v_row, v_col = by_rows_and_columns(g, s.v_row, s.v_col, axes, b2, eps1)
        s = s._replace(v_row=v_row, v_col=v_col)
    row, col = factors if clip_threshold is None else limited(g, (factors[0], factors[1]), clip_threshold)
    u = scaled(g, row, "each") * col
    m = b1 * s.m + (1 - b1) * u
    if axes is None:
        return m, s._replace(m=m)
    row, col, s_row, s_col = by_rows_and_columns(u - m, s.s_row, s.s_col, axes, b3, eps2)
    return m * row * col, s._replace(m=m, s_row=s_row, s_col=s_col)


@transform
def came(
    learning_rate: Rate, b1: Decay = 0.9, b2: Squares = 0.999, b3: Decay = 0.9999, eps1: Size = 1e-30,
    eps2: Size = 1e-16, clip_threshold: Bound | None = 1.0, weight_decay: Size = 0.0, mask: Mask = None,
    *, layer_axes: LayerAxes = None,
) -> GradientTransformation:  # fmt: skip
    """CAME: Adafactor with momentum, and with smaller steps where the gradients do not agree with it.

        r_t = b2 r_{t-1} + (1 - b2) (mean of g_t^2 + eps1 over each row)    c_t: the same of each column
        u_t = g_t / sqrt(r_t c_t / mean(r_t))
        u_t <- u_t / max(1, rms(u_t) / clip_threshold)
        m_t = b1 m_{t-1} + (1 - b1) u_t
        R_t = b3 R_{t-1} + (1 - b3) (mean of (u_t - m_t)^2 + eps2 over each row)    C_t: the same of each column
        x_{t+1} = x_t - lr (m_t / sqrt(R_t C_t / mean(R_t)) + weight_decay x_t)

    An array with fewer than two axes has a second moment for each element, and the step m_t. One with more than two is
    factored over the two longest, as in `adafactor`; the authors' code takes the last two. The state is one number for
    each parameter and 2 (rows + columns) for each matrix.

    Args:
      learning_rate: lr, a scalar or a schedule. The authors take 0.5 to 0.9 of AdamW's, and a warm-up.
      b1, b2, b3: decay of m, of r and c, of R and C, in [0, 1). The authors take 0.9, 0.95 and 0.99 to 0.999 for
        language models.
      eps1, eps2: added to the squares of gradients and of differences, at least 0.
      clip_threshold: bound on rms(u), at least 0; None for none.
      weight_decay: decoupled, times lr, at least 0. A scalar or a schedule.
      mask: which leaves decay: a tree or prefix of booleans, or a function from the parameters to one; None for all.
      layer_axes: how many leading axes of a leaf are layers, each by itself: an int; a pattern of paths for one; a dict
        from patterns to ints; `matrices_by_role()`; or a function from the parameters to a tree of ints. None for none.

    The averages are not corrected for their start at 0, as in the paper and the authors' code: in the first step each
    element of a matrix moves by about 11 lr, (1 - b1) / (b1 sqrt(1 - b3)). Begin with a small rate.

    Example:
      >>> import gdjax, jax.numpy as jnp
      >>> params = {"w": jnp.ones((512, 256))}
      >>> rate = gdjax.warmup_cosine_decay_schedule(0.0, 2e-4, 100, 1000)  # steps
      >>> tx, adamw = gdjax.came(rate, weight_decay=0.01), gdjax.adamw(rate)
      >>> gdjax.state_bytes(tx, params) < 0.51 * gdjax.state_bytes(adamw, params)
      True

    Reference:
      Luo et al. 2023, CAME: confidence-guided adaptive memory efficient optimization, Algorithm 2,
      https://arxiv.org/abs/2307.02047
    """
    direction = scale_by_came(b1, b2, b3, eps1, eps2, clip_threshold, layer_axes=layer_axes)
    return descending(direction, learning_rate, weight_decay, mask)
