"""Metrics of each step, kept in the state: norms, the rate, whether a clip acted, whether the step was skipped."""

import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from gdjax import numerics
from gdjax.combine.hyperparams import last_rates
from gdjax.core import base, checks, meshes
from gdjax.core.base import GradientTransformation, transform
from gdjax.core.part import Pair
from gdjax.core.parts import every, holding, is_state_of, known, within
from gdjax.core.paths import label_by_path
from gdjax.core.types import Array, ArrayTree, OptState, Params, Transform, Updates, unboxed
from gdjax.lift.rule import Leafwise, Step, run, state_of, steps_of
from gdjax.transforms.clipping import clip_by_global_norm
from gdjax.transforms.guards import ApplyIfFiniteState, apply_if_finite
from gdjax.transforms.noise_scale import NoiseScaleState, found_in
from gdjax.transforms.spikes import SkipSpikesState
from gdjax.tree.norms import finite_square, global_norm
from gdjax.tree.states import get_all_with_path
from gdjax.xla.write_order import after

__all__ = ["MetricsState", "metrics", "with_metrics"]

LABEL = "gdjax.with_metrics"
NORMS = "grad", "update", "param"


class MetricsState(NamedTuple):
    """State of `with_metrics`."""

    inner_state: OptState
    metrics: dict[str, Array]  # name -> () float32, of the last update


@transform
def with_metrics(
    inner: Transform, groups: Any = None, *, norms: str | Sequence[str] = "grad"
) -> GradientTransformation:
    """Keeps metrics of the last update in the state; `metrics(state)` reads them. The updates are those of `inner`.

    - grad_norm, update_norm, param_norm: global norms of the gradients that come in, of the updates that go out, and of
      the parameters before them. "decoder/grad_norm" and so on are those of a group.
    - learning_rate: the one that the step used. Several go by the names of their groups, "decoder/learning_rate", or
      are numbered, "learning_rate_2".
    - clip_fraction: 1 if `clip_by_global_norm` made the updates smaller, else 0; its mean over steps is a fraction.
      clip_factor: by what it multiplied them. They are there if the optimizer clips, first or in a chain.
    - skipped: 1 if `apply_if_finite`, `skip_spikes` or the skip function of `MultiSteps` left the gradients out, or 0.

    Before the first update the metrics are 0, and so they have one structure, in `jax.lax.scan` too. A param_norm is
    NaN where `update` gets no parameters.

    Args:
      inner: the optimizer.
      groups: names for groups of leaves: a dict from pattern to name as in `label_by_path`, a function from a tree to
        labels, or a tree of labels.
      norms: which to take, of "grad", "update" and "param". The norm of the gradients, taken by default, costs nothing
        where the optimizer clips by it. That of the parameters reads them once more; that of the updates also writes
        these to memory, which on a CPU is half a step of AdamW more.
        Those two count numbers as 2^45 at most, and infinities as NaN.

    Raises:
      ValueError: `norms` has another name, or a leaf no label.
      TypeError: `inner` is no transform.

    Example:
      >>> import gdjax, jax.numpy as jnp
      >>> tx = gdjax.with_metrics(gdjax.chain(gdjax.clip_by_global_norm(1.0), gdjax.sgd(0.5)))
      >>> u, state = tx.update(jnp.array([3.0, 4.0]), tx.init(jnp.zeros(2)))
      >>> {name: round(float(x), 3) for name, x in gdjax.metrics(state).items()}
      {'clip_factor': 0.2, 'clip_fraction': 1.0, 'grad_norm': 5.0, 'learning_rate': 0.5}
    """
    base.check_transform(LABEL, "inner", inner)
    wanted = norms if isinstance(norms, Sequence) and not isinstance(norms, str) else (norms,)
    if not all(name in NORMS for name in wanted):
        raise ValueError(f"{LABEL}: norms must be of {', '.join(map(repr, NORMS))}, got {norms!r}")
    # A dict of names alone is from pattern to name, any other a tree of labels.
    patterns = isinstance(groups, Mapping) and all(isinstance(name, str) for name in groups.values())
    labels = label_by_path(groups) if patterns else groups

    def init(params: Params) -> MetricsState:
        checks.leaves(LABEL, "params", params)
        state, dtype = inner.init(params), numerics.widest_real(jax.tree.leaves(params))
        named = jax.eval_shape(lambda p, s: _named(inner, labels, wanted, p, s), params, state)
        return MetricsState(state, {name: jnp.zeros((), dtype) for name in named})

    def update(
        updates: Updates, state: OptState, params: Params | None = None, **extra_args: Any
    ) -> tuple[Updates, MetricsState]:
        checks.state(LABEL, state, MetricsState)
        checks.gradients(LABEL, updates, params)
        norm = functools.partial(_norms, labels)
        measured, old = norm("grad", global_norm, updates) if "grad" in wanted else {}, state.inner_state
        if "param" in wanted and params is not None:
            measured |= norm("param", _one_pass, params)
            old = _once_known(measured["param_norm"], old)
        clips: list[Array] = []

        def watch(step: Step, updates: Updates) -> None:
            if _is_clip(step.part):  # each begins a pass
                clips.append(_clipped(step.part, step.state, updates))

        new, states = run(list(steps_of(inner, old)), updates, params, extra_args, watch)
        inner_state = state_of(inner, states)
        if "update" in wanted:
            measured |= norm("update", _one_pass, new)
            new = _once_known(measured["update_norm"], new)
        clips = clips or [_clipped(step.part, step.state, updates) for step in _clip_in_guard(inner, old)]
        measured |= _of_clips(clips)
        measured |= _rates(inner, inner_state) | _skipped(inner, inner_state)
        return new, MetricsState(inner_state, _fitted(measured, state.metrics))

    return holding(init, update, inner_state=inner)


def metrics(state: OptState) -> dict[str, Array]:
    """The metrics of the last update, from the state of an optimizer that has `with_metrics` anywhere in it.

    With `noise_scale=True` of `accumulate` or `sharded_step` the state tells, beside these or alone:

    - grad_sq, grad_noise: averages of unbiased estimates of |G|^2 and tr(Sigma), for the gradient G of the expected
      loss and the covariance Sigma / b of the gradient of a batch of b: b counts what these functions say.
    - noise_scale: their ratio, McCandlish's simple noise scale. A batch of this size has as much noise as gradient:
      one far above it gains little. It is infinite where the estimate of |G|^2 is not above 0.

    Args:
      state: that `update` returned, of a chain, groups or wrappers around `with_metrics` too; or the `opt_state` of
        `nnx.Optimizer`.

    Returns:
      From name to scalar array. Where `with_metrics` is in several groups of a `partition` or entries of a
      `named_chain`, their names precede: "decoder/grad_norm".

    Raises:
      ValueError: there is no `with_metrics` and no noise scale, or several that no name tells apart.

    Example:
      >>> import gdjax, jax.numpy as jnp
      >>> measured = gdjax.with_metrics(gdjax.sgd(0.5))
      >>> tx = gdjax.partition({"a": measured, "b": measured}, {"w": "a", "x": "b"})
      >>> g = {"w": jnp.array([2.0]), "x": jnp.array([3.0])}
      >>> _, state = tx.update(g, tx.init(g))
      >>> sorted(gdjax.metrics(state))
      ['a/grad_norm', 'a/learning_rate', 'b/grad_norm', 'b/learning_rate']
    """
    named = _told(state, MetricsState, lambda s: s.metrics) | _told(state, NoiseScaleState, found_in)
    if not named:
        raise ValueError("gdjax.metrics: the state has no metrics; make the optimizer with gdjax.with_metrics(tx)")
    return named


def _told(state: OptState, kind: type, read: Callable[[Any], dict[str, Array]]) -> dict[str, Array]:
    """What the states of a kind tell; where there are several, after the names of their groups."""
    states = get_all_with_path(unboxed(state), kind.__name__)
    names = ["/".join(str(step.key) for step in path if hasattr(step, "key")) for path, _ in states]
    if len(states) == 1:
        names = [""]
    if len(set(names)) < len(names):
        made_by = "with_metrics" if kind is MetricsState else "noise_scale=True"
        raise ValueError(f"gdjax.metrics: {len(names)} {made_by} stand in one chain; keep one, or use named_chain")
    told = zip(names, (read(s) for _, s in states), strict=True)
    return {f"{name}/{k}" if name else k: x for name, metrics in told for k, x in metrics.items()}


def _named(inner: Transform, labels: Any, wanted: Sequence[str], params: Params, state: OptState) -> dict[str, Any]:
    """An entry for each metric, the same that an update has."""
    named: dict[str, Any] = {}
    for name in wanted:
        named |= _norms(labels, name, _one_pass, params)
    clips = [step for step in steps_of(inner, state) if _is_clip(step.part)] or _clip_in_guard(inner, state)
    named |= _of_clips([jnp.ones(())] if clips else [])
    return named | _rates(inner, state) | _skipped(inner, state)


def _norms(labels: Any, name: str, norm: Callable[[Any], Array], tree: ArrayTree) -> dict[str, Array]:
    norms = {f"{name}_norm": norm(tree)}
    if labels is not None:
        names = labels(tree) if checks.is_function(labels) else labels
        members: dict[str, list[Any]] = {}
        jax.tree.map(lambda label, part: members.setdefault(str(label), []).append(part), names, tree)
        norms |= {f"{label}/{name}_norm": norm(part) for label, part in members.items()}
    return norms


def _one_pass(tree: ArrayTree) -> Array:
    return jnp.sqrt(finite_square(tree))


def _once_known(norm: Array, tree: ArrayTree) -> Any:
    """The tree, its arrays made to wait for a norm: what is computed from them may overwrite what the norm reads."""
    waits = lambda x: jnp.ndim(x) > 0 and jnp.issubdtype(jnp.result_type(x), jnp.inexact)
    return jax.tree.map(lambda x: after(norm, x) if not base.is_float0(x) and waits(x) else x, tree)


def _is_clip(part: Any) -> bool:
    return isinstance(part, Leafwise) and part.rule is getattr(clip_by_global_norm, "__wrapped__", None)


def _clipped(part: Leafwise, state: OptState, updates: Updates) -> Array:
    """By what a clip multiplies the updates."""
    norm = global_norm(updates)  # the expression of the clip itself, which a compiler evaluates once
    return numerics.shrinking(norm, jnp.asarray(part.hyperparams(state)["max_norm"], norm.dtype))


def _clip_in_guard(inner: Transform, state: OptState) -> list[Step]:
    """The clip that begins the optimizer inside `apply_if_finite`, if one does: it gets the gradients as they are."""
    part = known(inner)
    guards = isinstance(part, Pair) and part.calls[0].factory is apply_if_finite
    first = [next(iter(steps_of(x.tx, s)), None) for x, s in (within(part, state) if guards else ())]
    return [step for step in first if step is not None and _is_clip(step.part)]


def _of_clips(clips: Sequence[Array]) -> dict[str, Array]:
    if not clips:
        return {}
    factor = functools.reduce(jnp.multiply, clips)
    return {"clip_fraction": (factor < 1).astype(factor.dtype), "clip_factor": factor}


def _rates(inner: Transform, state: OptState) -> dict[str, Any]:
    rates: dict[str, Any] = {}
    for path, x in last_rates(inner, state):
        name = "/".join((*path, "learning_rate"))
        number = sum(known == name or known.startswith(f"{name}_") for known in rates)
        rates[f"{name}_{number + 1}" if number else name] = x
    return rates


def _skipped(inner: Transform, state: OptState) -> dict[str, Any]:
    skips = [x for _, x in get_all_with_path(state, "should_skip")]
    for part, s, _ in every(inner, state):
        if is_state_of(ApplyIfFiniteState, s):  # Optax's too, which does not tell when it gives up
            most = part.calls[-1].arguments["max_consecutive_errors"] if isinstance(part, Pair) else jnp.inf
            skips.append(~s.last_finite & (s.notfinite_count <= most))
        if is_state_of(SkipSpikesState, s):
            skips.append(s.last_skipped)
    return {"skipped": functools.reduce(jnp.logical_or, skips)} if skips else {}


def _fitted(new: Mapping[str, Any], old: Mapping[str, Array]) -> dict[str, Array]:
    """The metrics under the names and in the dtype that they had before; NaN for one that there is not."""
    return {name: meshes.as_typed(jnp.asarray(new.get(name, jnp.nan)).astype(x.dtype), x) for name, x in old.items()}
