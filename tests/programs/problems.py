"""Programs on small problems: each is given `optax` or gdjax under that name, and returns numbers to compare."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from tests.programs import digits


def rosenbrock(x: Any) -> Any:
    return jnp.sum(100 * (x[1:] - x[:-1] ** 2) ** 2 + (1 - x[:-1]) ** 2)


def to_a_tolerance_by_lbfgs(optax: Any) -> dict[str, Any]:
    """L-BFGS with its line search in a `while_loop`, until the gradient is small."""
    tx = optax.lbfgs()
    value_and_grad = optax.value_and_grad_from_state(rosenbrock)

    def step(carry: Any) -> Any:
        params, state = carry
        value, grad = value_and_grad(params, state=state)
        updates, state = tx.update(grad, state, params, value=value, grad=grad, value_fn=rosenbrock)
        return optax.apply_updates(params, updates), state

    def going_on(carry: Any) -> Any:
        _, state = carry
        count = optax.tree_utils.tree_get(state, "count")
        grad = optax.tree_utils.tree_get(state, "grad")
        return (count == 0) | ((count < 200) & (optax.tree_utils.tree_norm(grad) >= 1e-3))

    start = jnp.array([-1.2, 1.0, -0.5, 2.0])
    params, state = jax.jit(lambda c: jax.lax.while_loop(going_on, step, c))((start, tx.init(start)))
    assert jnp.allclose(params, 1.0, atol=1e-2)
    assert int(optax.tree_utils.tree_get(state, "count")) < 100
    return {"params": params}


def a_rate_by_line_search(optax: Any) -> dict[str, Any]:
    """Gradient descent on logistic regression with a backtracking line search for the rate."""
    x, y, _, _ = digits.load()
    odd = y % 2

    def loss(w: Any) -> Any:
        return jnp.mean(optax.sigmoid_binary_cross_entropy(x @ w, odd.astype(jnp.float32)))

    tx = optax.chain(optax.sgd(learning_rate=1.0), optax.scale_by_backtracking_linesearch(max_backtracking_steps=15))

    def step(carry: Any, _: Any) -> Any:
        w, state = carry
        value, grad = jax.value_and_grad(loss)(w)
        updates, state = tx.update(grad, state, w, value=value, grad=grad, value_fn=loss)
        return (optax.apply_updates(w, updates), state), value

    w = jnp.zeros(64)
    _, losses = jax.jit(lambda c: jax.lax.scan(step, c, length=30))((w, tx.init(w)))[0:2]
    assert bool((jnp.diff(losses) <= 0).all()) and float(losses[-1]) < 0.35
    return {"losses": losses}


def learning_a_rate(optax: Any) -> dict[str, Any]:
    """Meta-learning: the rate of an inner optimizer learned by the gradient through its steps."""
    target = jnp.array([1.0, -2.0, 0.5])

    def loss(w: Any) -> Any:
        return jnp.sum(jnp.array([1.0, 4.0, 9.0]) * (w - target) ** 2)

    def outer_loss(log_rate: Any) -> Any:
        inner = optax.inject_hyperparams(optax.sgd)(learning_rate=0.0)
        w = jnp.zeros(3)
        state = inner.init(w)
        state.hyperparams["learning_rate"] = jnp.exp(log_rate)
        for _ in range(3):
            updates, state = inner.update(jax.grad(loss)(w), state, w)
            w = optax.apply_updates(w, updates)
        return loss(w)

    outer = optax.adam(0.1)

    def step(carry: Any, _: Any) -> Any:
        log_rate, state = carry
        value, grad = jax.value_and_grad(outer_loss)(log_rate)
        updates, state = outer.update(grad, state, log_rate)
        return (optax.apply_updates(log_rate, updates), state), value

    start = jnp.log(jnp.float32(0.01))
    (log_rate, _), values = jax.jit(lambda c: jax.lax.scan(step, c, length=60))((start, outer.init(start)))
    assert float(values[-1]) < 0.1 * float(values[0])
    return {"values": values, "rate": jnp.exp(log_rate)}


def through_adam(optax: Any) -> dict[str, Any]:
    """The gradient of a loss after three steps of Adam with respect to where they started: finite, and right."""

    def after(start: Any) -> Any:
        tx, w = optax.adam(0.1), start
        state = tx.init(w)
        for _ in range(3):
            updates, state = tx.update(jax.grad(lambda w: jnp.sum((w - 1) ** 4))(w), state, w)
            w = optax.apply_updates(w, updates)
        return jnp.sum(w**2)

    start = jnp.array([0.3, -0.7])
    grad = jax.jit(jax.grad(after))(start)
    h = 1e-2
    numerical = jnp.stack([(after(start + h * e) - after(start - h * e)) / (2 * h) for e in jnp.eye(2)])
    assert jnp.allclose(grad, numerical, rtol=1e-2, atol=1e-3)
    return {"grad": grad}


def projected_descent(optax: Any) -> dict[str, Any]:
    """Least squares over the probability simplex, and over non-negative numbers."""
    rng = np.random.default_rng(0)
    a, b = (jnp.asarray(rng.normal(size=size), jnp.float32) for size in ((20, 5), (20,)))
    tx = optax.sgd(1e-2)

    def solve(project: Any) -> Any:
        def step(carry: Any, _: Any) -> Any:
            w, state = carry
            updates, state = tx.update(a.T @ (a @ w - b), state, w)
            return (project(optax.apply_updates(w, updates)), state), None

        w = jnp.full(5, 0.2)
        return jax.jit(lambda c: jax.lax.scan(step, c, length=500))((w, tx.init(w)))[0][0]

    simplex = solve(optax.projections.projection_simplex)
    assert jnp.isclose(jnp.sum(simplex), 1.0, atol=1e-5) and bool((simplex >= 0).all())
    positive = solve(optax.projections.projection_non_negative)
    assert jnp.allclose(positive, optax.nnls(a, b, iters=500), atol=1e-3)
    return {"simplex": simplex, "positive": positive}


def adversarial_examples(optax: Any) -> dict[str, Any]:
    """Projected ascent of the loss in a ball around each image: the attack that adversarial training trains against."""
    x, y, _, _ = digits.load()
    x, y = x[:32], y[:32]
    params = digits.network()
    epsilon, tx = 0.3, optax.chain(optax.scale_by_sign(), optax.scale(0.1))

    def loss(delta: Any) -> Any:
        return jnp.mean(optax.softmax_cross_entropy_with_integer_labels(digits.logits(params, x + delta), y))

    def step(carry: Any, _: Any) -> Any:
        delta, state = carry
        value, grad = jax.value_and_grad(loss)(delta)
        updates, state = tx.update(grad, state, delta)
        delta = optax.projections.projection_linf_ball(optax.apply_updates(delta, updates), epsilon)
        return (delta, state), value

    delta = jnp.zeros_like(x)
    (delta, _), losses = jax.jit(lambda c: jax.lax.scan(step, c, length=10))((delta, tx.init(delta)))
    assert float(losses[-1]) > 1.2 * float(losses[0]) and float(jnp.max(jnp.abs(delta))) <= epsilon + 1e-6
    return {"losses": losses}


def a_game_of_two(optax: Any) -> dict[str, Any]:
    """The bilinear game min_x max_y x y: gradient descent-ascent spirals out, the optimistic one comes in."""

    def play(tx: Any) -> Any:
        def step(carry: Any, _: Any) -> Any:
            point, state = carry
            x, y = point
            updates, state = tx.update((y, -x), state, point)
            point = optax.apply_updates(point, updates)
            return (point, state), jnp.hypot(*point)

        start = (jnp.float32(1.0), jnp.float32(1.0))
        return jax.jit(lambda c: jax.lax.scan(step, c, length=300))((start, tx.init(start)))[1]

    plain, optimistic = play(optax.sgd(0.1)), play(optax.optimistic_gradient_descent(0.1))
    assert float(plain[-1]) > 2 > 0.5 > float(optimistic[-1])
    return {"plain": plain, "optimistic": optimistic}


def an_assignment(optax: Any) -> dict[str, Any]:
    """Which of two sets of points belongs to which, at the least total distance."""
    rng = np.random.default_rng(1)
    points, order = rng.normal(size=(6, 2)).astype(np.float32), rng.permutation(6)
    moved = points[order] + 0.01 * rng.normal(size=(6, 2)).astype(np.float32)
    cost = jnp.sum((jnp.asarray(points)[:, None] - jnp.asarray(moved)[None]) ** 2, axis=-1)
    rows, columns = jax.jit(optax.assignment.hungarian_algorithm)(cost)
    assert (order[np.asarray(columns)] == np.asarray(rows)).all()
    return {"cost": jnp.sum(cost[rows, columns])}


def a_perturbed_argmax(optax: Any) -> dict[str, Any]:
    """The gradient of an argmax, by perturbing its argument."""

    def one_hot(values: Any) -> Any:
        return jax.nn.one_hot(jnp.argmax(values), values.shape[-1])

    soft = optax.perturbations.make_perturbed_fun(one_hot, num_samples=2000, sigma=0.5)
    scores, key = jnp.array([0.2, 0.5, 0.4]), jax.random.key(0)
    value = soft(key, scores)
    assert jnp.allclose(value, jax.nn.softmax(scores / 0.5), atol=0.05)
    grad = jax.grad(lambda s: soft(key, s)[1])(scores)
    assert float(grad[1]) > 0 > float(grad[0])
    return {"value": value, "grad": grad}


def microbatches(optax: Any) -> dict[str, Any]:
    """The gradient of a batch of 64 computed 16 examples at a time."""
    x, y, _, _ = digits.load()
    x, y, params = x[:64], y[:64], digits.network()

    def loss(params: Any, x: Any, y: Any) -> Any:
        return jnp.sum(optax.softmax_cross_entropy_with_integer_labels(digits.logits(params, x), y))

    microbatched = optax.microbatching.microbatch(jax.grad(loss), argnums=(1, 2), microbatch_size=16)
    got, want = jax.jit(microbatched)(params, x, y), jax.grad(loss)(params, x, y)
    for a, b in zip(jax.tree.leaves(got), jax.tree.leaves(want), strict=True):
        assert jnp.allclose(a, b, rtol=1e-4, atol=1e-4)
    return {"grad": got["head"]["bias"]}
