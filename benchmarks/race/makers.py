"""What each method of the race makes of a point and the length of the run.

A point names rates (`rate`, `adam_rate`) and whatever else is tuned; `steps` is the length of the run. All may be
traced, so a study is one program. Weight decay acts on matrices alone. Adam beside a matrix method has b2 = 0.95.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

import gdjax

from .schedule import WARMUP, constant, rate, step

BY_ROLE = {"muon_weight_dimension_numbers": gdjax.matrices_by_role()}  # Muon alone has Optax's default: all of two axes


def matrices(params: Any) -> Any:
    return jax.tree.map(lambda p: p.ndim >= 2, params)


# --- Adam's kin -------------------------------------------------------------------------------------------------------


def adams(make: Callable[..., Any], **fixed: Any) -> Callable[[Any, Any], Any]:
    """Of Adam's kin, with decoupled weight decay on matrices."""

    def of(h: Any, steps: Any) -> Any:
        own = {name: h[name] for name in ("b1", "b2", "weight_decay") if name in h}
        shape = {name: h[name] for name in ("warmup", "end") if name in h}
        return make(rate(h["rate"], steps, **shape), mask=matrices, **own, **fixed)

    return of


def sgd(h: Any, steps: Any) -> Any:
    decay = gdjax.add_decayed_weights(h["weight_decay"], mask=matrices)
    return gdjax.chain(gdjax.trace(0.9, nesterov=True), decay, gdjax.scale_by_learning_rate(rate(h["rate"], steps)))


def adopt(h: Any, steps: Any) -> Any:
    decay = gdjax.add_decayed_weights(h["weight_decay"], mask=matrices)
    return gdjax.chain(gdjax.scale_by_adopt(b2=h["b2"]), decay, gdjax.scale_by_learning_rate(rate(h["rate"], steps)))


def cautious(make: Callable[[Any, Any], Any]) -> Callable[[Any, Any], Any]:
    return lambda h, steps: gdjax.cautious(make(h, steps))


def prodigy(h: Any, steps: Any) -> Any:
    return gdjax.prodigy(rate(h["rate"], steps), weight_decay=h["weight_decay"], weight_decay_mask=matrices)


def mars(make: Callable[[Any, Any], Any]) -> Callable[[Any, Any], Any]:
    """Around a momentum of 0.95."""
    return lambda h, steps: gdjax.mars(make(h, steps), b1=0.95)


def in_8_bits(h: Any, steps: Any) -> Any:
    return gdjax.quantize_state(adams(gdjax.adamw)(h, steps), moments="log")


def corrected(h: Any, steps: Any) -> Any:
    """Decay times rate^2 / peak: the peak is known here, since the rate may be traced."""
    return adams(gdjax.adamc, peak_learning_rate=h["rate"])(h, steps)


def decay_scheduled(make: Callable[[Any, Any], Any]) -> Callable[[Any, Any], Any]:
    """The decay goes from `weight_decay` to `growth` times as much, evenly in the logarithm; all times the rate."""

    def of(h: Any, steps: Any) -> Any:
        def decay(count: Any) -> Any:
            return h["weight_decay"] * h["growth"] ** (step(count) / steps)

        return make({**h, "weight_decay": decay}, steps)

    return of


def apollo_mini(h: Any, steps: Any) -> Any:
    return gdjax.apollo(
        rate(h["rate"], steps), rank=1, scale=128.0, scale_type="tensor", b2=h["b2"],
        weight_decay=h["weight_decay"], weight_decay_mask=matrices,
    )  # fmt: skip


# --- Averages ---------------------------------------------------------------------------------------------------------


def averaged(make: Callable[[Any, Any], Any]) -> Callable[[Any, Any], Any]:
    """Judged by the average of its parameters."""
    return lambda h, steps: gdjax.params_ema(make(h, steps), h["average"])


def tail_averaged(h: Any, steps: Any) -> Any:
    """The horizon is a share of the run; the average begins five horizons before the end."""
    horizon = jnp.maximum(h["horizon"] * steps, 1.0)
    start = jnp.maximum(steps - 5 * horizon, 1.0).astype(jnp.int32)
    return gdjax.tail_ema(adams(gdjax.adamw)(h, steps), start, horizon)


def looking_ahead(h: Any, steps: Any) -> Any:
    """EMA-Nesterov, which looks ahead from the end of the warm-up on, in proportion to the rate."""

    def lookahead(count: Any) -> Any:
        return jnp.where(step(count) > WARMUP * steps, rate(h["lookahead"], steps)(count), 0.0)

    return gdjax.ema_nesterov(adams(gdjax.adamw)(h, steps), lookahead)


def primal_averages(h: Any, steps: Any) -> Any:
    return gdjax.gpa(adams(gdjax.adamw)(h, steps), h["mu_x"])


def schedule_free(h: Any, steps: Any) -> Any:
    inner = gdjax.chain(gdjax.scale_by_rms(decay=h["b2"], bias_correction=True),
                        gdjax.add_decayed_weights(h["weight_decay"], mask=matrices))  # fmt: skip
    down = gdjax.scale_by_learning_rate(constant(h["rate"], steps))
    return gdjax.contrib.schedule_free(gdjax.chain(inner, down), constant(h["rate"], steps), b1=0.9)


OUTER = 25  # steps between two outer ones, so that each run ends with one


def outer_steps(make: Callable[[Any, Any], Any]) -> Callable[[Any, Any], Any]:
    """SNOO around it, judged by its slow parameters."""
    return lambda h, steps: gdjax.snoo(make(h, steps), every=OUTER, learning_rate=0.7, momentum=h["momentum"])


# --- Matrix methods ---------------------------------------------------------------------------------------------------


def beside_adam(make: Callable[..., Any], **fixed: Any) -> Callable[[Any, Any], Any]:
    """Of methods for hidden matrices, each with its own Adam for the rest, but at another rate and a b2 of 0.95."""
    b1, nesterov = 0.95 if make is gdjax.soap else 0.9, make is gdjax.muon

    def of(h: Any, steps: Any) -> Any:
        adam = gdjax.adam(rate(h["adam_rate"], steps), b1, 0.95, nesterov=nesterov)
        return make(rate(h["rate"], steps), others=adam, weight_decay=h["weight_decay"], **fixed)

    return of


def dynmuon(h: Any, steps: Any) -> Any:
    """The power goes from 0.25 to -0.25 around a share of 0.04 of the run, as its authors have it."""

    def power(count: Any) -> Any:
        return -0.25 + 0.5 * jax.nn.sigmoid((0.04 - step(count) / steps) / 0.04)

    return beside_adam(gdjax.muon, consistent_rms=0.2, power=power, **BY_ROLE)(h, steps)


def two_rates(h: Any, steps: Any) -> Any:
    """AdamW with what matrix methods have: a rate of its own for what is no hidden matrix."""
    hidden = gdjax.adamw(rate(h["rate"], steps), b2=h["b2"], weight_decay=h["weight_decay"])
    return gdjax.partition({"matrix": hidden, "other": gdjax.adam(rate(h["adam_rate"], steps), b2=0.95)}, by_role)


def recipe(h: Any, steps: Any) -> Any:
    """What `transformer_optimizer` makes, of traced lengths: a test compares the two."""
    hidden = gdjax.chain(
        gdjax.scale_by_normuon(),
        gdjax.add_decayed_weights(h["weight_decay"], cautious=True),
        gdjax.scale_by_learning_rate(rate(h["rate"], steps)),
    )
    rest = gdjax.adam(rate(h["adam_rate"], steps), b2=0.95)
    return gdjax.partition({"matrix": hidden, "other": rest}, by_role)


def by_role(params: Any) -> Any:
    numbers = gdjax.matrices_by_role()(params)
    return jax.tree.map(lambda p, d: "other" if d is None else "matrix", params, numbers, is_leaf=lambda x: x is None)


def hyperball(h: Any, steps: Any) -> Any:
    inner = gdjax.muon(1.0, adam_learning_rate=rate(h["adam_rate"], steps), adam_b2=0.95, **BY_ROLE)
    return gdjax.hyperball(inner, rate(h["rate"], steps))


# --- Models of another width --------------------------------------------------------------------------------------


def carried_over(make: Callable[[Any, Any], Any]) -> Callable[[Any, Any], Any]:
    """What was tuned on the model of `language`, as `transfer` scales it for a wider one."""

    def of(h: Any, steps: Any) -> Any:
        from small_lm import start

        from .tasks.language import LAYERS, WIDTH

        return gdjax.transfer(make(h, steps), jax.eval_shape(lambda key: start(key, WIDTH, LAYERS), jax.random.key(0)))

    return of


# --- Searches ---------------------------------------------------------------------------------------------------------


def searching(make: Callable[[], Any]) -> Callable[[Any, Any], Any]:
    return lambda h, steps: make()
