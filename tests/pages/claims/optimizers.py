"""The table of optimizers, and what came to Optax after 0.2.8."""

import inspect
from typing import Any

import jax
import jax.numpy as jnp

from tests.pages.claims.claim import anything, claim, dtypes, finite, is_nan, last, near, told, updates

P, G = jnp.ones(3), jnp.array([1.0, -2.0, 3.0])
ZERO, HALF = jnp.zeros(3), jnp.ones(3, "float16")
W = {"w": jax.random.normal(jax.random.key(0), (6, 4))}
DW = {"w": jax.random.normal(jax.random.key(1), (6, 4))}


@claim("10. ", "`rprop`", theirs=True, ours=False)
def the_first_step_of_rprop(o: Any) -> bool:
    """Whether it is 0."""
    return bool(jnp.all(last(o.rprop(0.1), [G], P) == 0))


@claim("10. ", "`adan`", theirs=near(0.08), ours=near(0.92))
def the_weight_of_the_differences(o: Any) -> float:
    """Of g = 1 and 2, with b3 = 0: n = (2 + weight)^2."""
    tx = o.scale_by_adan(b1=0.0, b2=0.92, b3=0.0, eps=0.0)
    n = tx.update(2 * P, tx.update(P, tx.init(P))[1])[1].n[0]
    return float(jnp.sqrt(n) - 2)


@claim("`yogi`", theirs=True, ours=False)
def without_a_gradient(o: Any) -> bool:
    """Whether parameters move."""
    return bool(jnp.any(last(o.yogi(0.1), [ZERO], P) != 0))


@claim("`radam`", theirs=is_nan, ours=finite)
def a_low_threshold(o: Any) -> Any:
    return jnp.stack(updates(o.radam(0.1, threshold=1.0), [G] * 8, P))


@claim("`amsgrad`", theirs=lambda e: e > 5e-6, ours=lambda e: e < 3e-7)
def the_first_step_of_amsgrad(o: Any) -> float:
    return float(abs(last(o.scale_by_amsgrad(eps=0.0), [P], P)[0] - 1))


@claim("`fromage` with a scheduled rate", theirs=True, ours=False)
def a_small_rate_of_fromage(o: Any) -> bool:
    """Whether the multiplier of the parameters, 1 / sqrt(1 + lr^2) - 1, is 0."""
    return bool(jnp.all(last(o.fromage(lambda t: jnp.float32(1e-4)), [ZERO], 1e3 * P) == 0))


@claim("`adadelta(learning_rate=None)`", theirs=True, ours=False)
def ascends(o: Any) -> bool:
    return bool(jnp.all(last(o.adadelta(None), [P], P) > 0))


@claim("`adafactor`", theirs=True, ours=False)
def adafactor_after_a_large_gradient(o: Any) -> bool:
    """Whether the moments are infinite."""
    tx = o.scale_by_factored_rms()
    return not finite(tx.update(1e20 * P, tx.init(P), P)[1].v)


@claim("`novograd`", theirs=True, ours=False)
def novograd_after_a_large_gradient(o: Any) -> bool:
    tx = o.scale_by_novograd()
    state = tx.update(1e20 * P, tx.init(P), P)[1]
    return not finite(tx.update(P, state, P)[1].nu)


@claim("`sm3`", theirs=Exception, ours=finite)
def a_scalar(o: Any) -> Any:
    return last(o.sm3(0.1), [jnp.array(1.0)], jnp.array(1.0))


@claim("`scale_by_distance_over_gradients`", theirs=(1,), ours=())
def the_shape_of_a_scalar(o: Any) -> Any:
    return last(o.scale_by_distance_over_gradients(), [jnp.array(1.0)], jnp.array(1.0)).shape


@claim("`optimistic_adam`; alpha and beta", theirs=True, ours=False)
def a_deprecation(o: Any) -> bool:
    return bool(told(lambda: o.optimistic_adam(0.1)))


@claim("`lamb`, `lars`, `fromage`, block norms", theirs=lambda x: not finite(x), ours=finite)
def a_norm_in_float16(o: Any) -> Any:
    p = jnp.full(4096, 100.0, "float16")
    return o.scale_by_param_block_norm().update(p / 1e4, o.scale_by_param_block_norm().init(p), p)[0]


@claim("`prodigy`, `dadapt_adamw` | a zero first gradient", theirs=is_nan, ours=finite)
def a_zero_first_gradient(o: Any) -> Any:
    return last(o.contrib.dadapt_adamw(1.0), [ZERO, P], P)


@claim("`prodigy`, `dadapt_adamw` in float16", theirs="float16", ours="float32")
def moments_of_prodigy(o: Any) -> str:
    return str(o.contrib.prodigy(1.0).init(HALF).exp_avg.dtype)


@claim("`prodigy`, `dadapt_adamw` | bias correction", theirs=False, ours=True)
def without_bias_correction(o: Any) -> bool:
    return "bias_correction" in inspect.signature(o.contrib.prodigy).parameters


@claim("`polyak_sgd(scaling=s)`", theirs=near(2.0, 1e-3), ours=near(0.5, 1e-3))
def a_scaled_step(o: Any) -> float:
    """The step with s = 1/2 over that with s = 1."""
    step = lambda s: last(o.polyak_sgd(10.0, scaling=s), [P], P, value=3.0)[0]
    return float(step(0.5) / step(1.0))


@claim("`polyak_sgd`, `momo`, `momo_adam`", theirs=True, ours=False)
def no_step_at_a_small_gradient(o: Any) -> bool:
    return bool(jnp.all(last(o.polyak_sgd(1e10), [1e-9 * P], P, value=1e-9) == 0))


@claim("`acprop`", theirs=False, ours=True)
def the_papers_acprop(o: Any) -> bool:
    return "new_mean" in inspect.signature(o.contrib.acprop).parameters


@claim('`dog` with ("learning_rate", eta)', theirs=near(0.0), ours=near(-0.1))
def dog_after_a_zero_gradient(o: Any) -> Any:
    return last(o.contrib.dog(1.0, init_step=("learning_rate", 0.1)), [0 * P, P], P)[0]


@claim('`muon`, preconditioning "aol"', theirs=lambda x: x < 0.1, ours=lambda x: x > 1)
def muon_of_a_small_gradient(o: Any) -> float:
    tx = o.contrib.scale_by_muon(
        preconditioning="aol", eps=1e-30, weight_dimension_numbers={"w": o.contrib.MuonDimensionNumbers(0, 1)}
    )
    return float(jnp.linalg.norm(last(tx, [{"w": 1e-9 * DW["w"]}], W)["w"]))


@claim("Hutchinson's estimate", theirs=Exception, ours=finite)
def an_estimate_of_two_dtypes(o: Any) -> Any:
    tx, p = o.contrib.hutchinson_estimator_diag_hessian(), {"a": P, "b": P.astype("bfloat16")}
    return tx.update(p, tx.init(p), p, obj_fn=lambda p: jnp.sum(p["a"] ** 2) + jnp.sum(p["b"] ** 2))[0]


@claim("`microbatch`, `micro_vmap` and `micro_grad` find", theirs=IndexError, ours=near(2.0))
def an_argument_by_name(o: Any) -> Any:
    return o.microbatching.microbatch(lambda x: jnp.sum(x), argnums=0, microbatch_size=1)(x=jnp.ones(2))


@claim("`dog` with eps = 0 and zero gradients", theirs=is_nan, ours=near(0.0))
def zero_gradients_of_dog(o: Any) -> Any:
    return last(o.contrib.dog(1.0, eps=0.0), [ZERO, ZERO], P)


@claim("`mu_dtype=float32`, any real dtype", theirs={"float32"}, ours={"complex64"})
def mu_of_complex_parameters(o: Any) -> Any:
    return dtypes(o.adam(0.1, mu_dtype="float32").init(P.astype("complex64"))[0].mu)


@claim("`ademamix(mu_dtype=...)`", theirs="bfloat16", ours="float32")
def nu_of_ademamix(o: Any) -> str:
    return str(o.contrib.ademamix(0.1, mu_dtype="bfloat16").init(P)[0].nu.dtype)


@claim("`mechanize` |", theirs=False, ours=True)
def the_authors_mechanic(o: Any) -> bool:
    return "bounded" in inspect.signature(o.contrib.mechanize).parameters


@claim("`reduce_on_plateau` | a constant negative loss", theirs=1.0, ours=lambda x: x < 1)
def a_constant_negative_loss(o: Any) -> float:
    tx = o.contrib.reduce_on_plateau(factor=0.5, patience=2, rtol=0.1)
    state = tx.init(P)
    for _ in range(5):
        _, state = tx.update(G, state, P, value=jnp.float32(-1.0))
    return float(state.scale)


@claim("`reduce_on_plateau` | scale, best value", theirs="bfloat16", ours="float32")
def the_dtype_of_a_scale(o: Any) -> str:
    return str(o.contrib.reduce_on_plateau().init(P.astype("bfloat16")).scale.dtype)


@claim("`mechanize`, `dog`, `prodigy`, `cocob`, `madgrad`", theirs=True, ours=False)
def the_state_is_the_parameters(o: Any) -> bool:
    return any(x is P for x in jax.tree.leaves(o.contrib.prodigy(1.0).init(P)))


@claim("`scale_by_muon()` without dimension numbers", theirs=Exception, ours=finite)
def muon_of_a_tree(o: Any) -> Any:
    tx = o.contrib.scale_by_muon()
    return tx.update(DW, tx.init(W), W)[0]


@claim("`MuonDimensionNumbers`, an axis out of range", theirs=anything, ours=ValueError)
def an_axis_out_of_range(o: Any) -> Any:
    tx = o.contrib.scale_by_muon(weight_dimension_numbers={"w": o.contrib.MuonDimensionNumbers(5, 0)})
    return tx.update(DW, tx.init(W), W)[0]


@claim("`muon`, bias correction", theirs=False, ours=True)
def muon_without_correction(o: Any) -> bool:
    return "bias_correction" in inspect.signature(o.contrib.muon).parameters


@claim("`muon` in 16 bits, or at 1e20", theirs=True, ours=False)
def muon_at_large_numbers(o: Any) -> bool:
    """Whether the update is 0, or none."""
    u = last(o.contrib.muon(0.1), [{"w": 1e20 * DW["w"]}], W)["w"]
    return not finite(u) or bool(jnp.all(u == 0))


@claim("`galore` side", theirs=False, ours=True)
def the_papers_side(o: Any) -> bool:
    return "side" in inspect.signature(o.contrib.galore).parameters


@claim("`galore`, leaves not projected", theirs=(0, 0), ours=None)
def what_is_not_projected(o: Any) -> Any:
    projector = o.contrib.scale_by_galore(rank=2).init({"b": P}).projector["b"]
    return getattr(projector, "shape", None)


@claim("`sophia` | divides", theirs=False, ours=True)
def the_papers_sophia(o: Any) -> bool:
    return "newest" in inspect.signature(o.contrib.sophia).parameters


@claim("`adabelief(weight_decay=", theirs=False, ours=True)
def a_decay_of_adabelief(o: Any) -> bool:
    return {"weight_decay", "weight_decay_mask"} <= {*inspect.signature(o.adabelief).parameters}


@claim("`prodigy(weight_decay_mask=)`", theirs=False, ours=True)
def a_mask_of_prodigy(o: Any) -> bool:
    return "weight_decay_mask" in inspect.signature(o.contrib.prodigy).parameters


@claim("`dpsgd(key=)`", theirs=False, ours=True)
def a_key_of_dpsgd(o: Any) -> bool:
    return "key" in inspect.signature(o.contrib.dpsgd).parameters


@claim("`ArrayTree`", theirs=False, ours=True)
def a_name_for_annotations(o: Any) -> bool:
    return hasattr(o, "ArrayTree")
