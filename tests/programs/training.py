"""Programs that train a network: each is given `optax` or gdjax under that name, and returns numbers to compare."""

from typing import Any

import jax
import jax.numpy as jnp

from tests.programs import digits


def loss_fn(optax: Any) -> Any:
    def loss(params: Any, x: Any, y: Any) -> Any:
        return jnp.mean(optax.softmax_cross_entropy_with_integer_labels(digits.logits(params, x), y))

    return loss


def fit(optax: Any, tx: Any, data: Any, params: Any = None, extra: Any = None) -> tuple[Any, Any, Any]:
    """Parameters, state and losses after a step with each batch, compiled as one loop."""
    params = digits.network() if params is None else params
    loss = loss_fn(optax)

    def step(carry: Any, batch: Any) -> Any:
        params, state = carry
        value, grads = jax.value_and_grad(loss)(params, *batch)
        updates, state = tx.update(grads, state, params, **(extra(loss, value, batch) if extra else {}))
        return (optax.apply_updates(params, updates), state), value

    (params, state), losses = jax.jit(lambda c: jax.lax.scan(step, c, data))((params, tx.init(params)))
    return params, state, losses


def classifier(optax: Any) -> dict[str, Any]:
    """A network for digits: AdamW with warm-up, cosine decay and clipping."""
    schedule = optax.warmup_cosine_decay_schedule(0.0, 1e-2, 20, 150)
    tx = optax.chain(optax.clip_by_global_norm(1.0), optax.adamw(schedule, weight_decay=1e-3))
    params, state, losses = fit(optax, tx, digits.batches(150, 64))
    assert digits.accuracy(params) > 0.9
    return {"losses": losses, "count": optax.tree_utils.tree_get_all_with_path(state, "count")[0][1]}


def looking_ahead(optax: Any) -> dict[str, Any]:
    """Lookahead: fast weights by SGD, slow weights that follow every fifth step."""
    tx = optax.lookahead(optax.sgd(0.3), sync_period=5, slow_step_size=0.5)
    loss = loss_fn(optax)

    def step(carry: Any, batch: Any) -> Any:
        params, state = carry
        value, grads = jax.value_and_grad(loss)(params.fast, *batch)
        updates, state = tx.update(grads, state, params)
        return (optax.apply_updates(params, updates), state), value

    params = optax.LookaheadParams.init_synced(digits.network())
    (params, _), losses = jax.jit(lambda c: jax.lax.scan(step, c, digits.batches(100, 64)))((params, tx.init(params)))
    assert digits.accuracy(params.slow) > 0.85
    return {"losses": losses}


def frozen_layer(optax: Any) -> dict[str, Any]:
    """The head alone is trained: the other layer's updates are zero, and its state is empty."""
    start = digits.network()
    labels = {"hidden": "frozen", "head": "trained"}
    tx = optax.multi_transform({"trained": optax.adam(1e-2), "frozen": optax.set_to_zero()}, labels)
    params, state, losses = fit(optax, tx, digits.batches(100, 64), start)
    assert all(jax.tree.leaves(jax.tree.map(lambda a, b: bool((a == b).all()), params["hidden"], start["hidden"])))
    assert len(jax.tree.leaves(state)) == 5  # count, and two moments of two arrays
    again, _, _ = fit(
        optax,
        optax.transforms.selective_transform(optax.adam(1e-2), freeze_mask={"hidden": True, "head": False}),
        digits.batches(100, 64),
        start,
    )
    assert all(jax.tree.leaves(jax.tree.map(lambda a, b: bool(jnp.allclose(a, b)), params, again)))
    return {"losses": losses}


def accumulated_gradients(optax: Any) -> dict[str, Any]:
    """Four batches of 16 for one update do what one batch of 64 does."""
    x, y = digits.batches(40, 64)
    whole, _, _ = fit(optax, optax.adam(1e-2), (x, y))
    tx = optax.MultiSteps(optax.adam(1e-2), every_k_schedule=4)
    small = x.reshape(160, 16, 64), y.reshape(160, 16)
    parts, state, losses = fit(optax, tx, small)
    for a, b in zip(jax.tree.leaves(whole), jax.tree.leaves(parts), strict=True):
        assert jnp.allclose(a, b, rtol=1e-3, atol=1e-4)
    assert int(state.gradient_step) == 40 and bool(tx.has_updated(state))
    return {"losses": losses}


def guarded_steps(optax: Any) -> dict[str, Any]:
    """A batch of NaN among the others: its step is left out, and an average of the parameters is kept beside them."""
    x, y = digits.batches(60, 64)
    x = x.at[30].set(jnp.nan)
    tx = optax.apply_if_finite(optax.adam(1e-2), max_consecutive_errors=3)
    params, state, losses = fit(optax, tx, (x, y))
    assert int(state.total_notfinite) == 1 and bool(state.last_finite)
    average = optax.incremental_update(params, digits.network(), 0.9)
    assert digits.accuracy(params) > 0.85 and digits.accuracy(average) > 0.8
    return {"losses": jnp.delete(losses, 30)}


def falling_on_a_plateau(optax: Any) -> dict[str, Any]:
    """A rate that falls when the loss, averaged over five steps, no longer does."""
    plateau = optax.contrib.reduce_on_plateau(factor=0.5, patience=2, accumulation_size=5, rtol=1e-2, cooldown=1)
    tx = optax.chain(optax.adam(3e-2), plateau)
    params, state, losses = fit(optax, tx, digits.batches(200, 64), extra=lambda loss, value, batch: {"value": value})
    assert digits.accuracy(params) > 0.9 and float(state[-1].scale) < 1
    return {"scale": state[-1].scale}


def without_a_schedule(optax: Any) -> dict[str, Any]:
    """Schedule-free AdamW: the parameters to evaluate are an average kept by the state."""
    tx = optax.contrib.schedule_free_adamw(1e-2, weight_decay=1e-3)
    params, state, losses = fit(optax, tx, digits.batches(150, 64))
    evaluated = optax.contrib.schedule_free_eval_params(state, params)
    assert digits.accuracy(evaluated) > 0.9
    return {"losses": losses}


def sharpness_aware(optax: Any) -> dict[str, Any]:
    """SAM in opaque mode, where the transform takes the second gradient itself, and in transparent mode."""
    adversary = optax.chain(optax.contrib.normalize(), optax.sgd(0.05))

    def gradient(loss: Any, value: Any, batch: Any) -> dict[str, Any]:
        return {"grad_fn": lambda params, _: jax.grad(loss)(params, *batch)}

    opaque = optax.contrib.sam(optax.sgd(0.3), adversary, sync_period=2, opaque_mode=True)
    params, _, losses = fit(optax, opaque, digits.batches(100, 64), extra=gradient)
    assert digits.accuracy(params) > 0.85
    # Every batch twice: the first step goes to the adversary's point, the second comes back and descends.
    transparent = optax.contrib.sam(optax.sgd(0.3), adversary, sync_period=2)
    twice = jax.tree.map(lambda x: jnp.repeat(x, 2, axis=0), digits.batches(100, 64))
    again, _, _ = fit(optax, transparent, twice)
    for a, b in zip(jax.tree.leaves(params), jax.tree.leaves(again), strict=True):
        assert jnp.allclose(a, b, rtol=1e-3, atol=1e-4)
    return {"losses": losses}


def with_privacy(optax: Any) -> dict[str, Any]:
    """DP-SGD: the gradient of each example clipped, then noise on their mean."""
    tx = optax.contrib.dpsgd(learning_rate=0.5, l2_norm_clip=1.0, noise_multiplier=0.5, seed=7)
    loss = loss_fn(optax)
    each = jax.vmap(jax.grad(lambda p, x, y: loss(p, x[None], y[None])), in_axes=(None, 0, 0))

    def step(carry: Any, batch: Any) -> Any:
        params, state = carry
        updates, state = tx.update(each(params, *batch), state, params)
        return (optax.apply_updates(params, updates), state), loss(params, *batch)

    params = digits.network()
    (params, _), losses = jax.jit(lambda c: jax.lax.scan(step, c, digits.batches(80, 128)))((params, tx.init(params)))
    assert digits.accuracy(params) > 0.7
    return {"losses": losses}


def second_moments_by_hutchinson(optax: Any) -> dict[str, Any]:
    """Sophia: steps over an estimate of the Hessian's diagonal, renewed every tenth step."""
    tx = optax.contrib.sophia(
        3e-2, hessian_diagonal_fn=optax.contrib.hutchinson_estimator_diag_hessian(jax.random.key(3))
    )

    def objective(loss: Any, value: Any, batch: Any) -> dict[str, Any]:
        return {"obj_fn": lambda params: loss(params, *batch)}

    params, _, losses = fit(optax, tx, digits.batches(150, 64), extra=objective)
    assert digits.accuracy(params) > 0.85
    return {"losses": losses[:20]}  # where an element is clipped or not, a rounding grows
