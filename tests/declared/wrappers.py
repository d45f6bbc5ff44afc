"""Wrappers: accumulation, guards, averages, measurements, SAM and schedule-free learning."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

import gdjax
from tests.declare import Case, Twin, supplied


class PairedState(NamedTuple):
    state: Any
    slow: Any


@gdjax.transform
def paired(tx: Any, pair: Any) -> gdjax.GradientTransformation:
    """A transform of pairs of fast and slow parameters as one of the fast ones: the slow ones are in the state."""

    def init(params: Any) -> PairedState:
        slow = gdjax.LookaheadParams.init_synced(params).slow
        return PairedState(tx.init(pair(params, params)), slow)

    def update(updates: Any, state: Any, params: Any = None, **extra_args: Any) -> Any:
        both = None if params is None else pair(fast=params, slow=state.slow)
        updates, inner = tx.update(updates, state.state, both)
        return updates.fast, PairedState(inner, gdjax.apply_updates(state.slow, updates.slow))

    return gdjax.GradientTransformation(init, update)


def every_other(step: Any) -> Any:
    return step % 2 == 0


def large(step: Any, value: Any) -> Any:
    return value > 20.0


def rising(step: Any) -> Any:
    return jnp.minimum(step + 1, 3)


def same(tree: Any) -> Any:
    return tree


def norm(tree: Any) -> Any:
    return gdjax.global_norm(tree)


def is_large(tree: Any) -> Any:
    return gdjax.global_norm(tree) > 5.0


def pull(params: Any, i: Any) -> Any:
    """The gradient of (i + 1) |p|^2 / 2."""
    return jax.tree.map(lambda p: p * jnp.asarray(i + 1, p.dtype), params)


def warming(count: Any) -> Any:
    return jnp.minimum(0.01 * jnp.asarray(count, jnp.float32), 0.1)


def warming_ahead(count: Any) -> Any:
    return warming(count + 1)


def _accumulated(learning_rate: Any) -> Any:
    return gdjax.MultiSteps(gdjax.adam(learning_rate), 2).gradient_transformation()


def _summed(learning_rate: Any) -> Any:
    return gdjax.accumulate(gdjax.adam(learning_rate), 2)


def _guarded_accumulation(learning_rate: Any) -> Any:
    inner = gdjax.adam(learning_rate)
    return gdjax.chain(gdjax.MultiSteps(inner, rising, False, gdjax.skip_not_finite), gdjax.identity())


def _if_finite(learning_rate: Any) -> Any:
    return gdjax.apply_if_finite(gdjax.adam(learning_rate), 2)


def _with_weight_decay(learning_rate: Any, weight_decay: Any, peak_learning_rate: Any) -> Any:
    tx = gdjax.adam(learning_rate, eps=1e-5)
    return gdjax.with_weight_decay(
        tx, learning_rate, weight_decay, kind="independent", cautious=True, peak_learning_rate=peak_learning_rate
    )


def _decay_to_start(learning_rate: Any, weight_decay: Any) -> Any:
    return gdjax.with_weight_decay(gdjax.adam(learning_rate), learning_rate, weight_decay, towards="start")


def _decay_to_average(learning_rate: Any, weight_decay: Any, average_decay: Any) -> Any:
    tx = gdjax.adam(learning_rate)
    return gdjax.with_weight_decay(tx, learning_rate, weight_decay, towards="average", average_decay=average_decay)


def _cautious(learning_rate: Any, eps: Any, clamp: Any) -> Any:
    return gdjax.cautious(gdjax.adamw(learning_rate, weight_decay=0.0), eps, clamp)


def _mars(learning_rate: Any, b1: Any, gamma: Any, max_norm: Any) -> Any:
    return gdjax.mars(gdjax.adam(learning_rate), b1, gamma, max_norm)


def _grokfast(learning_rate: Any, alpha: Any, lamb: Any) -> Any:
    return gdjax.grokfast(gdjax.adam(learning_rate), alpha, lamb)


def _hyperball(learning_rate: Any) -> Any:
    return gdjax.hyperball(gdjax.adam(0.1), learning_rate)


def _spectral(learning_rate: Any) -> Any:
    return gdjax.spectral(gdjax.adam(0.1), learning_rate)


def _floored(learning_rate: Any, floor: Any) -> Any:
    return gdjax.update_floor(gdjax.adam(learning_rate), floor)


def _braked(learning_rate: Any, outward_scale: Any, inward_scale: Any, floor: Any) -> Any:
    return gdjax.radial_brake(gdjax.adam(learning_rate), outward_scale, inward_scale, floor)


def _skipping(learning_rate: Any) -> Any:
    return supplied(gdjax.skip_spikes(gdjax.adam(learning_rate)), value=0.5)


def _transform(learning_rate: Any) -> Any:
    return gdjax.conditionally_transform(gdjax.adam(learning_rate), every_other)


def _mask(learning_rate: Any) -> Any:
    return gdjax.conditionally_mask(gdjax.adam(learning_rate), every_other)


def _for_batch(learning_rate: Any, eps: Any = 1e-8) -> Any:
    return gdjax.for_batch(gdjax.adam(learning_rate, eps=eps), 4, 2)


def _for_length(learning_rate: Any) -> Any:
    return gdjax.for_length(gdjax.sgd(learning_rate, momentum=0.9), 4, 2)


def _lookahead(learning_rate: Any) -> Any:
    return paired(gdjax.lookahead(gdjax.adam(learning_rate), 2, 0.5, True), gdjax.LookaheadParams)


def _flat(learning_rate: Any, weight_decay: Any) -> Any:
    return gdjax.flatten(gdjax.adamw(learning_rate, weight_decay=weight_decay))


def _monitor(decay: Any) -> Any:
    return gdjax.monitor({"norm": norm, "large": gdjax.measure_with_ema(is_large, decay)})


def _params_ema(learning_rate: Any, decay: Any) -> Any:
    return gdjax.params_ema(gdjax.adam(learning_rate), decay)


def _swa(learning_rate: Any) -> Any:
    return gdjax.swa(gdjax.adam(learning_rate), 2, 2)


def _tail_ema(learning_rate: Any, horizon: Any, blend: Any) -> Any:
    return gdjax.tail_ema(gdjax.adam(learning_rate), 2, horizon, blend)


def _ema_nesterov(learning_rate: Any, lookahead: Any, decay: Any) -> Any:
    return gdjax.ema_nesterov(gdjax.sgd(learning_rate), lookahead, decay)


def _snoo(learning_rate: Any, outer_learning_rate: Any, momentum: Any) -> Any:
    return gdjax.snoo(gdjax.adam(learning_rate), 2, outer_learning_rate, momentum)


def _gpa(learning_rate: Any, mu_x: Any) -> Any:
    return gdjax.gpa(gdjax.sgd(learning_rate), mu_x)


def _sam(learning_rate: Any, radius: Any) -> Any:
    return gdjax.sam(gdjax.adam(learning_rate), gdjax.chain(gdjax.normalize(), gdjax.sgd(radius)))


def _opaque_sam(learning_rate: Any, radius: Any) -> Any:
    adversary = gdjax.chain(gdjax.normalize(), gdjax.sgd(radius))
    return supplied(gdjax.sam(gdjax.adamw(learning_rate), adversary, 3, opaque_mode=True), grad_fn=pull)


def _metrics(learning_rate: Any) -> Any:
    clipped = gdjax.chain(gdjax.clip_by_global_norm(1.0), gdjax.adam(learning_rate))
    return gdjax.with_metrics(clipped, norms=("grad", "update"))  # without parameters their norm is NaN


def _loss_scale(learning_rate: Any) -> Any:
    return gdjax.dynamic_loss_scale(gdjax.adam(learning_rate), 1.0)


def _master_weights(learning_rate: Any) -> Any:
    return gdjax.with_master_weights(gdjax.adam(learning_rate))


def _kahan(learning_rate: Any) -> Any:
    return gdjax.with_kahan_summation(gdjax.adam(learning_rate))


def _at_random(learning_rate: Any) -> Any:
    return gdjax.with_stochastic_rounding(gdjax.adam(learning_rate), 0)


def _quantized(learning_rate: Any) -> Any:
    return gdjax.quantize_state(gdjax.adam(learning_rate), min_size=0)


def _schedule_free(learning_rate: Any, weight_decay: Any) -> Any:
    return gdjax.schedule_free(gdjax.sgd(learning_rate), learning_rate, weight_decay=weight_decay)


def _schedule_free_plus(**hyper: Any) -> Any:
    return supplied(gdjax.schedule_free_plus(**hyper), value=0.5)


CASES = (
    Case("MultiSteps", _accumulated, {"learning_rate": 0.1}),
    Case("MultiSteps/guarded", _guarded_accumulation, {"learning_rate": 0.1}, slow=True),
    Case("accumulate", _summed, {"learning_rate": 0.1}, wide=True),
    Case("apply_every", gdjax.apply_every, fixed={"k": 2}),
    Case("apply_if_finite", _if_finite, {"learning_rate": 0.1}),
    Case("with_weight_decay", _with_weight_decay,
         {"learning_rate": 0.1, "weight_decay": 1e-2, "peak_learning_rate": 0.2}, quiet={"weight_decay": 0.0},
         needs_params=True),
    Case("with_weight_decay/start", _decay_to_start, {"learning_rate": 0.1, "weight_decay": 1e-2},
         quiet={"weight_decay": 0.0}, needs_params=True),
    Case("with_weight_decay/average", _decay_to_average,
         {"learning_rate": 0.1, "weight_decay": 1e-2, "average_decay": 0.9}, quiet={"weight_decay": 0.0},
         needs_params=True),
    Case("cautious", _cautious, {"learning_rate": 0.1, "eps": 0.01, "clamp": 1e-3}),
    Case("conditionally_mask", _mask, {"learning_rate": 0.1}, slow=True),
    Case("conditionally_transform", _transform, {"learning_rate": 0.1}),
    Case("dynamic_loss_scale", _loss_scale, {"learning_rate": 0.1}, wide=True),
    Case("ema", gdjax.ema, {"decay": 0.9}),
    Case("ema_nesterov", _ema_nesterov, {"learning_rate": 0.1, "lookahead": 0.5, "decay": 0.9}),
    Case("flatten", _flat, {"learning_rate": 0.1, "weight_decay": 0.01}, quiet={"weight_decay": 0.0},
         needs_params=True),
    Case("gpa", _gpa, {"learning_rate": 0.1, "mu_x": 0.9}, needs_params=True),
    Case("grokfast", _grokfast, {"learning_rate": 0.1, "alpha": 0.98, "lamb": 2.0}),
    Case("mars", _mars, {"learning_rate": 0.1, "b1": 0.95, "gamma": 0.025, "max_norm": 1.0}),
    Case("hyperball", _hyperball, {"learning_rate": 0.1}, needs_params=True),
    Case("lookahead", _lookahead, {"learning_rate": 0.1}, needs_params=True),
    Case("measure_with_ema", gdjax.measure_with_ema, {"decay": 0.9}, {"measure": same}, slow=True),
    Case("monitor", _monitor, {"decay": 0.9}),
    Case("params_ema", _params_ema, {"learning_rate": 0.1, "decay": 0.9}, needs_params=True),
    Case("quantize_state", _quantized, {"learning_rate": 0.1}, random=True),
    Case("radial_brake", _braked, {"learning_rate": 0.1, "outward_scale": 0.5, "inward_scale": 0.75, "floor": 0.1},
         needs_params=True),
    Case("sam", _sam, {"learning_rate": 0.1, "radius": 0.05}, needs_params=True),
    Case("sam/opaque", _opaque_sam, {"learning_rate": 0.1, "radius": 0.05}, quiet={"learning_rate": 0.0},
         needs_params=True, slow=True),
    Case("schedule_free", _schedule_free, {"learning_rate": 0.1, "weight_decay": 0.01}, quiet={"weight_decay": 0.0},
         needs_params=True, slow=True),
    Case("schedule_free_adamw", gdjax.schedule_free_adamw, {"learning_rate": 0.1, "weight_decay": 0.01},
         quiet={"weight_decay": 0.0}, needs_params=True),
    Case("schedule_free_adamw/momentum", gdjax.schedule_free_adamw,
         {"learning_rate": 0.1, "inner_momentum": 0.9}, needs_params=True, slow=True),
    Case("schedule_free_plus", _schedule_free_plus, {"learning_rate": 1.0, "weight_decay": 0.1, "polyak_beta": 0.5},
         {"c_warmup": 1}, quiet={"weight_decay": 0.0}, needs_params=True),
    Case("schedule_free_sgd", gdjax.schedule_free_sgd, {"learning_rate": 0.1}, needs_params=True, slow=True),
    Case("skip_spikes", _skipping, {"learning_rate": 0.1}),
    Case("snoo", _snoo, {"learning_rate": 0.1, "outer_learning_rate": 0.75, "momentum": 0.5}, needs_params=True),
    Case("snapshot", gdjax.snapshot, fixed={"measure_name": "same", "measure": same}),
    Case("update_floor", _floored, {"learning_rate": 0.1, "floor": 0.1}, needs_params=True),
    Case("with_kahan_summation", _kahan, {"learning_rate": 0.1}, needs_params=True, wide=True, slow=True),
    Case("with_master_weights", _master_weights, {"learning_rate": 0.1}, needs_params=True, wide=True),
    Case("with_metrics", _metrics, {"learning_rate": 0.1}),
    Case("for_batch", _for_batch, {"learning_rate": 0.1}),
    Case("for_length", _for_length, {"learning_rate": 0.1}),
    Case("with_stochastic_rounding", _at_random, {"learning_rate": 0.1}, needs_params=True, wide=True, slow=True),
    Case("spectral", _spectral, {"learning_rate": 0.1}),
    Case("swa", _swa, {"learning_rate": 0.1}, needs_params=True),
    Case("tail_ema", _tail_ema, {"learning_rate": 0.1, "horizon": 4.0, "blend": 0.5}, needs_params=True, slow=True),
)  # fmt: skip


def _warm_schedule_free(lib: Any) -> Any:
    """Optax takes the rate for the weights one step later than the base optimizer does; here that must be asked for."""
    return lib.contrib.schedule_free(lib.sgd(warming), warming_ahead if lib is gdjax else warming)


# Inside are optimizers that Optax computes well: the error of its Adam, which takes 1 - b2^t as a difference, is more
# than 1e-5 after 50 steps.
TWINS = (
    # Optax accumulates in float32 whatever the gradient; here float64 stays float64.
    Twin("MultiSteps", lambda lib: lib.MultiSteps(lib.adam(0.1), 3), rtol64=1e-6),
    Twin("MultiSteps/schedule", lambda lib: lib.MultiSteps(lib.sgd(0.1, 0.9), rising, False), rtol64=1e-6),
    Twin(
        "MultiSteps/skip",
        lambda lib: lib.MultiSteps(lib.sgd(0.1, 0.9), 4, should_skip_update_fn=lib.skip_not_finite),
        rtol64=1e-6,
    ),
    Twin("apply_every", lambda lib: lib.chain(lib.apply_every(3), lib.sgd(0.1, 0.9))),
    Twin("apply_if_finite", lambda lib: lib.apply_if_finite(lib.adam(0.1), 2)),
    Twin("conditionally_mask", lambda lib: lib.conditionally_mask(lib.sgd(0.1, 0.9), every_other)),
    Twin("conditionally_transform", lambda lib: lib.conditionally_transform(lib.sgd(0.1, 0.9), every_other)),
    Twin(
        "conditionally_transform/extra",
        lambda lib: lib.chain(lib.sgd(0.1), lib.conditionally_transform(lib.scale(0.5), large, True)),
        extra=lambda value, grads, params: {"value": value},
    ),
    Twin("ema", lambda lib: lib.chain(lib.ema(0.9), lib.scale(-0.1))),
    Twin("ema/biased", lambda lib: lib.chain(lib.ema(0.9, debias=False), lib.scale(-0.1))),
    Twin("flatten", lambda lib: lib.flatten(lib.chain(lib.clip_by_global_norm(1.0), lib.sgd(0.1, 0.9)))),
    Twin("lookahead", lambda lib: paired(lib.lookahead(lib.adam(0.1), 5, 0.5), lib.LookaheadParams)),
    Twin("lookahead/reset", lambda lib: paired(lib.lookahead(lib.sgd(0.1, 0.9), 3, 0.8, True), lib.LookaheadParams)),
    Twin(
        "monitor",
        lambda lib: lib.chain(
            lib.monitor({"norm": norm, "large": lib.measure_with_ema(is_large, 0.9), "tree": lib.ema(0.5)}),
            lib.sgd(0.1),
        ),
    ),
    Twin("measure_with_ema", lambda lib: lib.chain(lib.measure_with_ema(same, 0.9, debias=False), lib.scale(-0.1))),
    Twin("snapshot", lambda lib: lib.chain(lib.snapshot("before", same), lib.sgd(0.1), lib.snapshot("size", norm))),
    Twin("sam", lambda lib: lib.contrib.sam(lib.sgd(0.1), lib.chain(lib.contrib.normalize(), lib.sgd(0.05)))),
    Twin("sam/momentum", lambda lib: lib.contrib.sam(lib.sgd(0.1, 0.9), lib.sgd(0.01, 0.9), 3, reset_state=False)),
    Twin(
        "sam/opaque",
        lambda lib: supplied(
            lib.contrib.sam(lib.sgd(0.1, 0.9), lib.chain(lib.contrib.normalize(), lib.sgd(0.05)), 3, opaque_mode=True),
            grad_fn=pull,
        ),
    ),
    Twin("schedule_free", lambda lib: lib.contrib.schedule_free(lib.rmsprop(0.1), 0.1, b1=0.95)),
    Twin("schedule_free/warmup", _warm_schedule_free, rtol64=1e-6),
    Twin("schedule_free_sgd", lambda lib: lib.contrib.schedule_free_sgd(0.1, weight_decay=0.01)),
    Twin("schedule_free_adamw", lambda lib: lib.contrib.schedule_free_adamw(0.1, weight_decay=0.01, weight_lr_power=1)),
)
