"""Whether the updates of an optimizer are large enough to move the parameters at their dtype."""

import math
import warnings
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer

from gdjax import numerics
from gdjax.codes.rounding import is_narrow
from gdjax.core import base, checks, parts
from gdjax.core.paths import paths_of
from gdjax.core.structures import few
from gdjax.core.types import Array, OptState, Params, Transform, Updates
from gdjax.inspection.cautions import at_largest_rates
from gdjax.inspection.tabulate import Table
from gdjax.inspection.walk import shapes_of
from gdjax.lift.probe import gradients_like
from gdjax.transforms import master_weights as masters
from gdjax.tree.updates import apply_updates

__all__ = ["check_numerics"]

LABEL = "gdjax.check_numerics"


class Checked(NamedTuple):
    """A row of `check_numerics`."""

    path: str
    dtype: str
    largest: float | None  # the largest |w|; None where nothing is measured, and so in the next three
    spacing: float | None  # between it and the next number of the dtype
    update: float | None  # the root mean square of the first update
    unmoved: float | None  # the share of weights that the update leaves as they are, rounded to the nearest, in %
    verdict: str


def check_numerics(
    tx: Transform, params: Params, grads: Updates | None = None, *, steps: int = 1000,
    rounding: Literal["nearest", "stochastic"] = "nearest", **extra_args: Any,
) -> Table:  # fmt: skip
    """Can these updates move these parameters? One update, added to the parameters and rounded as their dtype rounds.

    A bfloat16 weight of 1 has neighbours at a distance of 2^-8 below and 2^-7 above it: an update of 1e-4 is rounded
    away, in each step again. Adam's first update has the size of the rate, and most later ones are smaller; so what
    the first does not move hardly any moves.

    Args:
      tx: any transform. Schedules of a learning rate are taken at their largest in the first `steps` steps, and
        `MultiSteps`, `accumulate`, `sam` and `lookahead` are left out, whose first updates are not those of the
        optimizer inside. So are the wrappers for 16-bit parameters; of leaves that one of them covers the verdict is
        that an update adds up in the state, or moves weights in the mean.
        That goes for transforms of this library; any other makes its first update as it is.
      params: arrays.
      grads: gradients. By default normal numbers, as large as the root mean square of each leaf; this matters where an
        update grows with the gradient, as that of `sgd` does.
      steps: how many steps of the schedules to look at.
      rounding: that of your `apply_updates`.
      **extra_args: those that `update` cannot do without, for instance `value=1.0`.

    Returns:
      A `Table` whose columns are the fields of `Checked`. Its `warnings` tell which leaves keep more than half of their
      weights, and what to do; and which have an update, or a given gradient, of 0.

    Raises:
      TypeError: tx is no transform; a leaf has no value; steps is no int.
      ValueError: params is None; steps is below 1; whatever `init` and `update` raise.

    Example:
      >>> import gdjax, jax.numpy as jnp
      >>> params = {"w": jnp.ones(8, jnp.bfloat16), "x": jnp.ones(8)}
      >>> table = gdjax.check_numerics(gdjax.adam(1e-4), params)
      >>> table["path"], len(table.warnings)
      (['w', 'x'], 1)
    """
    base.check_transform(LABEL, "tx", tx)
    checks.structural(LABEL, "steps", steps, 1)
    shapes = shapes_of(LABEL, params)
    for path, p in paths_of(params):
        if isinstance(p, jax.ShapeDtypeStruct | Tracer):
            raise TypeError(f"{LABEL}: {path} is {type(p).__name__}, which has no value; pass the arrays")
    plain = at_largest_rates(tx, steps)

    def first(params: Params, grads: Updates | None, extra_args: dict[str, Any]) -> list[list[Array] | None]:
        grads = _like(params, shapes) if grads is None else grads
        updates, _ = base.call_update(plain, grads, plain.init(params), params, extra_args)
        us = jax.tree.structure(params).flatten_up_to(updates)
        new = jax.tree.structure(params).flatten_up_to(apply_updates(params, updates))
        ps = map(jnp.asarray, jax.tree.leaves(params))
        return [None if _is_none(u, p) else _measured(p, u, q) for p, u, q in zip(ps, us, new, strict=True)]

    with warnings.catch_warnings(action="ignore"):  # what `init` warns of, it warns of when the state is made
        numbers = jax.device_get(jax.jit(first)(params, grads, extra_args))
        how = ["moves in the mean" if rounding == "stochastic" and is_narrow(x) else "" for _, x in paths_of(shapes)]
        _covered(parts.known(tx), jax.eval_shape(tx.init, shapes), shapes, how)
    rows = [_row(path, x, m) for (path, x), m in zip(paths_of(shapes), numbers, strict=True)]
    stays = "most weights stay", "the largest weights stay"
    rows = [row._replace(verdict=h) if h and row.verdict in stays else row for row, h in zip(rows, how, strict=True)]
    return Table(rows, Checked._fields, [*_warnings(rows), *_zero_gradients(params, grads)])


_KEEP = masters.MasterWeightsState, masters.MasterRemaindersState, masters.KahanSummationState


def _covered(part: Any, state: OptState, shapes: Any, how: list[str]) -> None:
    """Writes into `how`, for each parameter, what becomes of updates that rounding would take away."""
    places = jax.tree.unflatten(jax.tree.structure(shapes), range(len(how)))

    def walk(part: Any, state: OptState, seen: Any) -> None:
        if isinstance(state, (*_KEEP, masters.StochasticRoundingState)):
            verdict = "adds up in the state" if isinstance(state, _KEEP) else "moves in the mean"
            for (_, x), i in zip(paths_of(shapes), range(len(how)), strict=True):
                how[i] = verdict if is_narrow(x) and i in jax.tree.leaves(seen) else how[i]
        for inside, inner in parts.within(part, state):
            if inside.sees is not None:
                walk(parts.known(inside.tx, inner), inner, inside.sees(seen))

    walk(part, state, places)


def _is_none(u: Any, p: Array) -> bool:
    return u is None or not jnp.issubdtype(p.dtype, jnp.inexact) or base.is_float0(u) or p.size == 0


def _like(params: Params, shapes: Any) -> Updates:
    """Normal numbers as large as the root mean square of each leaf, or as 1 where that is 0."""
    trained, structure = jax.tree.flatten(gradients_like(shapes), is_leaf=lambda x: x is None)
    keys = jax.random.split(jax.random.key(0), max(len(trained), 1))

    def one(key: Array, x: Any, p: Any) -> Array | None:
        if x is None:
            return None
        p = numerics.widen(jnp.asarray(p), numerics.widest_real(p))
        rms = jnp.sqrt(jnp.mean(numerics.abs_sq(p))) if p.size else jnp.ones((), p.real.dtype)
        size = jnp.where(rms > 0, rms, 1).astype(p.dtype)
        return (size * jax.random.normal(key, x.shape, p.dtype)).astype(x.dtype)

    ps = structure.flatten_up_to(params)
    return structure.unflatten([one(k, x, p) for k, x, p in zip(keys, trained, ps, strict=True)])


def _measured(p: Array, u: Array, new: Array) -> list[Array]:
    wide = numerics.widen(jnp.asarray(u), numerics.widest_real(u))
    rms = jnp.sqrt(jnp.mean(numerics.abs_sq(wide)))
    return [jnp.max(jnp.abs(p)), rms, jnp.mean(new == p, dtype=jnp.float32)]


def _row(path: str, x: Any, measured: Any) -> Checked:
    if measured is None:
        verdict = "is empty" if 0 in x.shape else "takes no gradient"
        return Checked(path, str(x.dtype), None, None, None, None, verdict)
    largest, update, share = (float(m) for m in measured)
    unmoved, spacing = 100 * share, _spacing(largest, x.dtype)
    if not math.isfinite(update) or not math.isfinite(largest):
        verdict = "not finite"
    elif update == 0:
        verdict = "its update is 0"
    elif unmoved > 50:
        verdict = "most weights stay"
    elif update < spacing / 2:
        verdict = "the largest weights stay"
    else:
        verdict = "moves"
    return Checked(path, str(x.dtype), largest, spacing, update, unmoved, verdict)


def _spacing(x: float, dtype: Any) -> float:
    """The distance from |x| to the next larger number of the dtype, or of its parts."""
    if not math.isfinite(x):
        return math.nan
    info = jnp.finfo(dtype)
    return float(info.eps) * 2.0 ** math.floor(math.log2(max(x, float(info.smallest_normal))))


def _warnings(rows: list[Checked]) -> list[str]:
    still = [row.path for row in rows if row.verdict == "its update is 0"]
    texts = [f"the update of {few(still)} is 0: it does not move; `explain` may tell why"] if still else []
    stuck = [row for row in rows if row.verdict == "most weights stay"]
    if not stuck:
        return texts
    shown = few([f"{row.path} ({row.dtype}, {row.unmoved:.0f} % stay)" for row in stuck])
    narrow = any(jnp.finfo(row.dtype).bits < 32 for row in stuck)
    advice = "keep the parameters in float32 and cast them in the loss" if narrow else "keep the parameters in float64"
    advice += ", use with_master_weights or stochastic rounding" if narrow else ""
    return [f"an update is rounded away in {shown}: {advice}, or take a larger rate", *texts]


def _zero_gradients(params: Params, grads: Updates | None) -> list[str]:
    gs = [] if grads is None else jax.tree.structure(params).flatten_up_to(grads)
    pairs = zip(paths_of(params), gs, strict=bool(gs))
    zero = [path for (path, p), g in pairs if not _is_none(g, jnp.asarray(p)) and not np.any(np.asarray(g))]
    return [f"the gradient given for {few(zero)} is 0: does the loss depend on it?"] if zero else []
