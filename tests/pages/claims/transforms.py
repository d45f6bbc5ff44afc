"""The table of transforms."""

import inspect
from typing import Any

import jax
import jax.numpy as jnp

from tests.pages.claims.claim import anything, apart, claim, dtypes, finite, is_nan, last, near

P, G = jnp.ones(3), jnp.array([1.0, -2.0, 3.0])
NAN = jnp.array([jnp.nan, 1.0, 1.0])


@claim("per-example clipping", theirs=is_nan, ours=finite)
def an_example_that_is_not_finite(o: Any) -> Any:
    return o.per_example_global_norm_clip([jnp.stack([P, NAN])], 1.0)[0][0]


@claim("`differentially_private_aggregate`, `dpsgd` without a key", theirs=anything, ours=ValueError)
def privacy_without_a_key(o: Any) -> Any:
    return o.contrib.differentially_private_aggregate(l2_norm_clip=1.0, noise_multiplier=1.0)


@claim("`clip_by_block_rms(0)`, `normalize`", theirs=is_nan, ours=near(0.0))
def a_direction_of_zeros(o: Any) -> Any:
    return last(o.contrib.normalize() if hasattr(o.contrib, "normalize") else o.normalize_by_update_norm(), [0 * P], P)


@claim("`adaptive_grad_clip`", theirs=apart(1.0), ours=near(1.0))
def a_small_gradient_clipped(o: Any) -> float:
    """A gradient of norm 1e-8 at a parameter whose bound, 1e-9, is below it: what is left, in bounds."""
    u = last(o.adaptive_grad_clip(1e-6, eps=1e-3), [jnp.array([1e-8])], jnp.array([1e-3]))
    return float(u[0]) / 1e-9


@claim("`unitwise_norm` of 3 axes", theirs=True, ours=True)
def norms_over_the_first_axis(o: Any) -> bool:
    x = jax.random.normal(jax.random.key(0), (2, 3, 4))
    return bool(jnp.allclose(o.transforms.unitwise_norm(x), jnp.linalg.norm(x, axis=0, keepdims=True), rtol=1e-5))


@claim("`centralize`", theirs=False, ours=True)
def the_papers_fan_in(o: Any) -> bool:
    return "output_axis" in inspect.signature(o.centralize).parameters


@claim("`split_real_and_imaginary`", theirs=is_nan, ours=near(1.0))
def an_infinite_part(o: Any) -> Any:
    g = jax.lax.complex(jnp.ones(1), jnp.full(1, jnp.inf))
    return jnp.real(last(o.contrib.split_real_and_imaginary(o.scale(1.0)), [g], g))


@claim("9. ", "`MultiSteps`, 16 bits", theirs={"bfloat16"}, ours={"float32"})
def what_the_inner_transform_gets(o: Any) -> Any:
    seen: list[Any] = []

    def update(u: Any, s: Any, p: Any = None, **extra: Any) -> Any:
        seen.append(u)
        return u, s

    inner = o.GradientTransformation(lambda p: (), update)
    last(o.MultiSteps(inner, 1), [P.astype("bfloat16")], P.astype("bfloat16"))
    return dtypes(seen)


@claim("`MultiSteps` after a NaN", theirs=is_nan, ours=finite)
def one_window_is_spoiled(o: Any) -> Any:
    return last(o.MultiSteps(o.sgd(0.1), 2), [NAN, P, P, P], P)


@claim("`MultiSteps`, float64 or complex", theirs={"float32"}, ours={"complex64"})
def complex_sums(o: Any) -> Any:
    return dtypes(o.MultiSteps(o.sgd(0.1), 2).init(P.astype("complex64")).acc_grads)


@claim("`apply_if_finite`", theirs=True, ours=False)
def an_update_that_is_not_finite(o: Any) -> bool:
    """Whether it is applied."""
    return not finite(last(o.apply_if_finite(o.scale(1e30), 5), [1e30 * P], P))


@claim("`apply_every`", theirs=is_nan, ours=finite)
def a_nan_in_a_sum(o: Any) -> Any:
    return last(o.apply_every(2), [NAN, P, P, P], P)


@claim("`monitor`, `measure_with_ema`", theirs=False, ours=True)
def a_fixed_point(o: Any) -> bool:
    tx = o.monitor({"norm": lambda updates, state=None, params=None: jnp.float32(1.0)})
    state = tx.init(P)
    return jax.tree.structure(tx.update(G, state, P)[1]) == jax.tree.structure(state)


@claim("`MultiSteps`, k changed", theirs=[0.0, 0.0, -1.0], ours=[-1.0, 0.0, -1.0])
def a_window_that_was_shortened(o: Any) -> Any:
    """The updates of windows of two that begin after three calls of a window of four."""
    long, short = (o.MultiSteps(o.sgd(1.0), lambda n, k=k: k) for k in (4, 2))
    state, found = long.init(P), []
    for tx in (long, long, long, short, short, short):
        u, state = tx.update(P, state, P)
        found.append(float(u[0]))
    return found[3:]


@claim("`lookahead(reset_state=True)`, `sam`", theirs=is_nan, ours=finite)
def a_nan_before_a_synchronisation(o: Any) -> Any:
    tx, p = o.lookahead(o.adam(0.1), 2, 0.5, reset_state=True), o.LookaheadParams.init_synced(P)
    state = tx.init(p)
    for g in (NAN, P, P):
        u, state = tx.update(g, state, p)
    return u.fast


@claim("`sam(sync_period=1)`", theirs=apart(0.512), ours=near(0.512))
def three_steps(o: Any) -> Any:
    tx, p = o.contrib.sam(o.sgd(0.1), o.sgd(0.05), sync_period=1), jnp.ones(1)
    state = tx.init(p)
    for _ in range(3):
        u, state = tx.update(2 * p, state, p)
        p = p + u
    return p


@claim("`LookaheadParams.init_synced`", theirs=True, ours=False)
def shared_memory(o: Any) -> bool:
    both = o.LookaheadParams.init_synced(P)
    return both.slow is both.fast


@claim("`schedule_free` with a scheduled rate", theirs=apart(0.0), ours=near(0.0))
def the_rate_of_this_step(o: Any) -> Any:
    """At a rate that is 0 in the first step alone, the weight of that step."""
    rate = lambda t: jnp.where(t == 0, 0.0, 1.0)
    tx = o.contrib.schedule_free(o.sgd(rate), rate)
    return tx.update(G, tx.init(P), P)[1].weight_sum


@claim("`schedule_free`, 16 bits", theirs="bfloat16", ours="float32")
def the_dtype_of_the_weights(o: Any) -> str:
    tx = o.contrib.schedule_free(o.sgd(0.1), 0.1)
    return str(tx.init(P.astype("bfloat16")).weight_sum.dtype)


@claim("`schedule_free` with b1 = 0", theirs=lambda x: not finite(x), ours=ValueError)
def no_average(o: Any) -> Any:
    tx = o.contrib.schedule_free(o.sgd(0.1), 0.1, b1=0.0)
    return last(tx, [G, G], P)


@claim("`schedule_free_eval_params`", theirs=Exception, ours=finite)
def inside_a_chain(o: Any) -> Any:
    tx = o.chain(o.contrib.schedule_free_sgd(0.1))
    return o.contrib.schedule_free_eval_params(tx.init(P), P)
