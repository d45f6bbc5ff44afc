"""What a state tells of steps that are not made: skipped by a guard, or waited for by an accumulation."""

from collections.abc import Iterator, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from gdjax.core.guesses import calls_of, is_state_of
from gdjax.core.parts import every
from gdjax.core.types import OptState, Transform
from gdjax.transforms.accumulation import ApplyEvery, MultiStepsState
from gdjax.transforms.guards import ApplyIfFiniteState, ConditionallyMaskState, ConditionallyTransformState
from gdjax.transforms.spikes import SkipSpikesState

AHEAD = 1000  # how many calls of a condition are looked at


def waiting(tx: Transform, state: OptState) -> Iterator[str]:
    """Sentences about the calls to come, in which an optimizer with this state makes no step."""
    for part, s, _ in every(tx, state):
        tell = next((tell for kind, tell in _TELL.items() if is_state_of(kind, s)), None)
        numbers = [s.total_skipped] if is_state_of(SkipSpikesState, s) else s  # it remembers several losses
        if tell is not None and all(np.ndim(x) == 0 for x in numbers if isinstance(x, jax.Array | np.ndarray)):
            calls = getattr(part, "calls", ()) or calls_of(part)
            yield from tell(s, calls[-1].arguments if calls else {})  # not of many runs at once, as of `sweep`


def _of_guard(s: Any, arguments: Mapping[str, Any]) -> Iterator[str]:
    skipped, most = int(s.notfinite_count), arguments.get("max_consecutive_errors")
    calls = "call" if skipped == 1 else _counted(skipped, "call")
    text = f"{calls} ({int(s.total_notfinite)} in all): gradients or updates are not finite"
    if skipped and most is None:
        yield f"apply_if_finite, the last {text}"
    elif skipped > int(most or 0):
        yield f"apply_if_finite has given up after the last {text}; it skips {most} in a row at most, and applies these"
    elif skipped:
        left = int(most or 0) - skipped
        ahead = f"it skips {left} more, then applies them" if left else "the next is applied, finite or not"
        yield f"apply_if_finite skipped the last {text}; {ahead}"


def _of_spikes(s: Any, arguments: Mapping[str, Any]) -> Iterator[str]:
    if s.last_skipped:
        yield (
            f"skip_spikes skipped the last call ({int(s.total_skipped)} in all): "
            "the loss or the gradient norm was far above its mean, or not finite"
        )


def _of_condition(name: str, what: str) -> Any:
    def tell(s: Any, arguments: Mapping[str, Any]) -> Iterator[str]:
        condition, inner = arguments.get("should_transform_fn"), arguments.get("inner")
        if condition is None or arguments.get("forward_extra_args"):
            return
        chosen = np.asarray(jax.vmap(condition)(int(s.step) + jnp.arange(AHEAD, dtype=jnp.int32)))
        if not chosen.any():
            yield f"{name} applies {inner!r} in none of the next {AHEAD:,} calls: {what}"
        elif first := int(chosen.argmax()):
            yield f"{name} waits: it applies {inner!r} after {_counted(first, 'call')} more, in which {what}"

    return tell


def _of_accumulation(s: Any, arguments: Mapping[str, Any]) -> Iterator[str]:
    gathered, every_k = int(s.mini_step), arguments.get("every_k_schedule")
    k: Any = every_k(s.gradient_step) if callable(every_k) else every_k
    k = None if k is None else round(float(k))
    info: Any = getattr(s, "skip_state", None)
    if isinstance(info, dict) and np.ndim(skip := info.get("should_skip", False)) == 0 and skip:
        numbers = {name: x for name, x in info.items() if name != "should_skip" and np.shape(x) == ()}
        why = ", ".join(_in_words(name, float(x)) for name, x in numbers.items())
        yield f"MultiSteps left out the gradients of the last call ({why}): the update is 0, and no step is nearer"
    if k is None:
        if gathered:
            yield f"MultiSteps waits: it has {_counted(gathered, 'gradient')} of its next update"
    elif k > 1:
        yield f"MultiSteps waits: it has {gathered} of {k} gradients; {_until(k - gathered)}"


def _of_sums(s: Any, arguments: Mapping[str, Any]) -> Iterator[str]:
    k, gathered = arguments.get("k"), int(s.count)
    if k is None and gathered or k is not None and k > 1:
        of, until = ("", "") if k is None else (f" of {k}", f"; {_until(int(k) - gathered)}")
        yield f"apply_every waits: it has {gathered}{of} updates{until}"


_TELL = {
    ApplyIfFiniteState: _of_guard,
    ConditionallyTransformState: _of_condition("conditionally_transform", "the updates pass through as they are"),
    ConditionallyMaskState: _of_condition("conditionally_mask", "the updates are 0"),
    SkipSpikesState: _of_spikes,
    MultiStepsState: _of_accumulation,
    ApplyEvery: _of_sums,
}


def _in_words(name: str, x: float) -> str:
    """A number that a function which skips returned; those of `skip_not_finite` and `skip_large_updates` in words."""
    if name == "num_not_finite":
        return f"{_counted(int(x), 'element')} not finite"
    return f"{'squared norm' if name == 'norm_squared' else name} {x:.4g}"


def _until(n: int) -> str:
    """What comes, where the n-th call from now makes the update."""
    if n == 1:
        return "the next call makes the update"
    return f"the call after the next {n - 1} makes the update" if n > 2 else "the call after the next makes the update"


def _counted(n: int, what: str) -> str:
    return f"{n} {what}" if n == 1 else f"{n} {what}s"
