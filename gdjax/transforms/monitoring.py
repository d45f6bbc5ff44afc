"""Measurements of the updates inside a chain, kept in the state."""

from collections.abc import Callable, Mapping
from typing import Annotated, Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from gdjax import tree
from gdjax.combine.conditional import as_before
from gdjax.core import base, checks
from gdjax.core.base import EmptyState, GradientTransformation, transform
from gdjax.core.number_domains import Check
from gdjax.core.structures import as_formed
from gdjax.core.types import Array, ArrayLike, ArrayTree, Decay, DType, OptState, Params, Updates
from gdjax.transforms.averaging import ema
from gdjax.transforms.scaling import stateless

__all__ = ["MonitorState", "SnapshotState", "measure_with_ema", "monitor", "snapshot"]


class SnapshotState(NamedTuple):
    """State of `snapshot`."""

    measurement: dict[str, Any]  # name -> what was measured


class MonitorState(NamedTuple):
    """State of `monitor`."""

    measurements: dict[str, Any]  # name -> what was measured in the last update
    measure_states: tuple[Any, ...]  # of the measures, in their order


@transform
def snapshot(
    measure_name: Annotated[str, Check("string")], measure: Annotated[Callable[[Any], Any], Check("function")]
) -> GradientTransformation:
    """Measures the updates that pass through: `gdjax.tree.get(state, measure_name)` is what was measured last.

    Args:
      measure_name: the key of the measurement in the state.
      measure: a function from the tree of updates to any tree of arrays. `init` calls it with the parameters.

    Example:
      >>> import gdjax, jax.numpy as jnp
      >>> tx = gdjax.chain(gdjax.clip_by_global_norm(1.0),
      ...                  gdjax.snapshot("clipped_norm", gdjax.global_norm), gdjax.sgd(0.1))
      >>> u, state = tx.update(jnp.array([3.0, 4.0]), tx.init(jnp.zeros(2)))
      >>> print(gdjax.tree.get(state, "clipped_norm"))
      1.0
    """
    label = "gdjax.snapshot"

    def init(params: Params) -> SnapshotState:
        checks.leaves(label, "params", params)
        return SnapshotState({measure_name: _first(measure, params)})

    def update(
        updates: Updates, state: OptState, params: Params | None = None, **extra_args: Any
    ) -> tuple[Updates, SnapshotState]:
        checks.state(label, state, SnapshotState)
        checks.gradients(label, updates, params)
        return updates, SnapshotState({measure_name: _as(label, measure(updates), state.measurement[measure_name])})

    return GradientTransformation(init, update)


@transform
def monitor(measures: Annotated[Mapping[str, Any], Check("mapping")]) -> GradientTransformation:
    """Takes several measurements of the updates that pass through; a measure may have a memory.

    Args:
      measures: from name to a function of the tree of updates, which returns any tree of arrays, or to a transform
        whose `update` returns the measurement in place of updates, such as `measure_with_ema(...)`.

    `gdjax.tree.get(state, name)` is what was measured last. Before the first update that is zeros. A measure that needs
    extra arguments cannot be tried on the parameters: it has an entry from the first update on.

    Example:
      >>> import gdjax, jax.numpy as jnp
      >>> average = gdjax.measure_with_ema(gdjax.global_norm, 0.5)
      >>> tx = gdjax.monitor({"norm": gdjax.global_norm, "average": average})
      >>> state = tx.init(jnp.array(0.0))
      >>> for g in jnp.array([1.0, 4.0]):
      ...     _, state = tx.update(g, state)
      >>> print(gdjax.tree.get(state, "norm"), gdjax.tree.get(state, "average"))
      4.0 3.0
    """
    label = "gdjax.monitor"
    parts = {name: stateless(lambda g, p, m=m: m(g)) if callable(m) else m for name, m in measures.items()}
    for name, part in parts.items():
        base.check_transform(label, repr(name), part)

    def init(params: Params) -> MonitorState:
        checks.leaves(label, "params", params)
        states = tuple(part.init(params) for part in parts.values())
        measurements = {}
        for (name, part), state in zip(parts.items(), states, strict=True):
            try:
                shape, _ = jax.eval_shape(lambda p, s, part=part: part.update(_gradients(p), s, p), params, state)
            except (TypeError, ValueError):
                continue
            measurements[name] = tree.zeros_like(shape)
        return MonitorState(measurements, states)

    def update(
        updates: Updates, state: OptState, params: Params | None = None, **extra_args: Any
    ) -> tuple[Updates, MonitorState]:
        checks.state(label, state, MonitorState)
        checks.gradients(label, updates, params)
        measurements, states = {}, []
        for (name, part), old in zip(parts.items(), state.measure_states, strict=True):
            measured, new = base.call_update(part, updates, old, params, extra_args)
            measurements[name] = _as(label, measured, state.measurements.get(name, measured))
            states.append(as_before(new, old))
        return updates, MonitorState(measurements, tuple(states))

    return GradientTransformation(init, update)


@transform
def measure_with_ema(
    measure: Annotated[Callable[[Any], Any], Check("function")], decay: Decay, debias: bool = True,
    accumulator_dtype: DType | None = None,
) -> GradientTransformation:  # fmt: skip
    """A measure with a memory, for `monitor`: the exponential moving average of a measurement.

    Args:
      measure: a function from the tree of updates to any tree of arrays. Booleans and integers are averaged as real
        numbers. `init` traces it with the parameters.
      decay: in [0, 1), a number or a schedule.
      debias: give m_t / (1 - decay^t), an average whose weights add up to 1, of the m_t that the state keeps.
      accumulator_dtype: the dtype of m, that of the measurement by default.

    Example:
      >>> import gdjax, jax.numpy as jnp
      >>> share = gdjax.measure_with_ema(lambda g: jnp.mean(g == 0), decay=0.9)
      >>> tx = gdjax.chain(gdjax.monitor({"zeros": share}), gdjax.adam(1e-3))
      >>> u, state = tx.update(jnp.array([0.0, 0.0, 0.0, 1.0]), tx.init(jnp.zeros(4)))
      >>> round(float(gdjax.tree.get(state, "zeros")), 3)
      0.75
    """
    label, average = "gdjax.measure_with_ema", ema(decay, debias, accumulator_dtype)

    def init(params: Params) -> tuple[EmptyState, Any]:
        checks.leaves(label, "params", params)
        return EmptyState(), average.init(jax.eval_shape(lambda p: _floats(measure(p)), params))

    def update(
        updates: Updates, state: OptState, params: Params | None = None, **extra_args: Any
    ) -> tuple[Updates, OptState]:
        checks.entries(label, state, 2)
        checks.gradients(label, updates, params)
        empty, average_state = state
        measured, average_state = average.update(_floats(measure(updates)), average_state)
        return measured, (empty, average_state)

    return GradientTransformation(init, update)


def _first(measure: Callable[[Any], Any], params: Params) -> Any:
    """The measurement of the parameters, in new arrays; zeros where the parameters are only shapes."""
    if any(isinstance(x, jax.ShapeDtypeStruct) for x in jax.tree.leaves(params)):
        return tree.zeros_like(jax.eval_shape(measure, params))
    return jax.tree.map(lambda x: _strong(jnp.array(x, copy=True)), measure(params))


def _gradients(params: Params) -> Any:
    """A stand-in for the first gradients: the parameters, and float0 for integers."""
    none = lambda p: np.zeros(jnp.shape(p), jax.dtypes.float0)
    return jax.tree.map(lambda p: p if jnp.issubdtype(jnp.result_type(p), jnp.inexact) else none(p), params)


def _as(label: str, new: ArrayTree, old: ArrayTree) -> Any:
    """A measurement in the dtypes of the one before; where it is float0, the one before."""

    def leaf(path: tuple[Any, ...], x: ArrayLike, y: ArrayLike) -> Any:
        if jnp.shape(x) != jnp.shape(y):
            raise ValueError(
                f"{label}: {jax.tree_util.keystr(path)} is measured with shape {jnp.shape(x)}, before with "
                f"{jnp.shape(y)}; init(params) anew after changing the parameters"
            )
        return y if base.is_float0(x) else jnp.asarray(x).astype(jnp.result_type(y))

    return jax.tree_util.tree_map_with_path(leaf, as_formed(new, old), old)


def _floats(measured: ArrayTree) -> Any:
    def real(x: ArrayLike) -> Any:
        x = jnp.asarray(x)
        return _strong(x if jnp.issubdtype(x.dtype, jnp.inexact) else x.astype(float))

    return base.map_arrays(real, measured)


def _strong(x: Array) -> Any:
    return jax.lax.convert_element_type(x, x.dtype)
