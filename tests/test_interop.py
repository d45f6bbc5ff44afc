"""With the libraries around: Optax in both directions, and Flax's training states."""

import functools
import inspect
import warnings
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import linen, nnx
from flax.training.train_state import TrainState

import gdjax
from tests.cases import Case, every
from tests.support import relaxed
from tests.trees import assert_close, assert_equal, finite, random_tree, signature, steps

PARAMS, GRADIENTS = random_tree(0), [random_tree(seed) for seed in range(1, 6)]


def doubled(gradients: Any) -> Any:
    return [jax.tree.map(lambda x: 2 * x, g) for g in gradients]


@every(sampled=True)
def test_inside_an_optax_chain(case: Case):
    tx = case.make()
    with relaxed():
        params, state = steps(optax.chain(optax.scale(2.0), tx), PARAMS, GRADIENTS[:2])
        assert_close((params, state[1]), steps(tx, PARAMS, doubled(GRADIENTS[:2])))


@every(sampled=True)
def test_behind_an_optax_transform(case: Case):
    tx = case.make()
    with relaxed():
        params, state = steps(gdjax.chain(optax.scale(2.0), tx, optax.identity()), PARAMS, GRADIENTS[:2])
        assert_close((params, state[1]), steps(tx, PARAMS, doubled(GRADIENTS[:2])))


def test_an_optax_optimizer_inside_every_wrapper():
    theirs = optax.adam(0.1)

    def labels(tree: Any) -> Any:
        return jax.tree.map(lambda x: "all", tree)

    wrapped = [
        gdjax.chain(theirs),
        gdjax.named_chain(("adam", theirs)),
        gdjax.masked(theirs, lambda tree: jax.tree.map(lambda x: True, tree)),
        gdjax.partition({"all": theirs}, labels),
        gdjax.inject_hyperparams(optax.adam)(0.1),
        gdjax.escape_saddles(theirs, 0.1, 0.0, 1, key=0),
        gdjax.selective_transform(theirs, freeze_mask=lambda tree: jax.tree.map(lambda x: False, tree)),
    ]
    with relaxed():
        wanted, _ = steps(theirs, PARAMS, GRADIENTS)
        for tx in wrapped:
            assert_close(steps(tx, PARAMS, GRADIENTS)[0], wanted, 1e-5, 1e-5)


@every(sampled=True)
def test_inside_optax_wrappers(case: Case):
    tx, two = case.make(), GRADIENTS[:2]
    with relaxed():
        wanted = steps(tx, PARAMS, two)
        masked = optax.masked(tx, lambda tree: jax.tree.map(lambda x: True, tree))
        assert_close(steps(masked, PARAMS, two)[0], wanted[0])
        assert_close(steps(optax.apply_if_finite(tx, 2), PARAMS, two)[0], wanted[0])
        injected = optax.inject_hyperparams(lambda learning_rate: optax.chain(tx, optax.scale(learning_rate)))(1.0)
        assert_close(steps(injected, PARAMS, two)[0], wanted[0])
        # One step with the mean of two gradients.
        accumulated = optax.MultiSteps(tx, 2)
        mean = jax.tree.map(lambda x, y: (x + y) / 2, *two)
        assert_close(steps(accumulated, PARAMS, two)[0], steps(tx, PARAMS, [mean])[0])


def test_optax_lookahead_over_a_transform():
    with relaxed():
        params = optax.LookaheadParams.init_synced(PARAMS)
        ours, theirs = (optax.lookahead(lib.sgd(0.1, 0.9), 2, 0.5) for lib in (gdjax, optax))
        for got, wanted in zip(
            *(jax.tree.leaves(steps(tx, params, GRADIENTS)[0]) for tx in (ours, theirs)), strict=True
        ):
            np.testing.assert_allclose(got, wanted, rtol=1e-5, atol=1e-6)


def test_optax_injects_our_hyperparameters():
    # Optax calls the factory inside jit, with tracers.
    with relaxed():
        tx = optax.inject_hyperparams(gdjax.adamw)(learning_rate=0.1, weight_decay=0.01)
        got, state = steps(tx, PARAMS, GRADIENTS)
        assert float(state.hyperparams["learning_rate"]) == pytest.approx(0.1)
        assert_close(got, steps(gdjax.adamw(0.1, weight_decay=0.01), PARAMS, GRADIENTS)[0], 1e-5, 1e-5)


def test_optax_finds_our_states_by_name():
    tx = gdjax.chain(gdjax.clip(1.0), gdjax.adam(0.1))
    _, state = steps(tx, PARAMS, GRADIENTS[:2])
    assert int(optax.tree.get(state, "count")) == 2
    assert_equal(optax.tree.get(state, "mu"), state[1][0].mu)
    changed = optax.tree.set(state, count=jnp.int32(7))
    assert int(changed[1][0].count) == 7
    ones = optax.tree.map_params(tx, jnp.ones_like, state)
    assert_equal(ones[1][0].nu, jax.tree.map(jnp.ones_like, state[1][0].nu))
    assert int(ones[1][0].count) == 2


@every(sampled=True)
def test_calls_by_keyword_and_by_position(case: Case):
    tx, (g, *_) = case.make(), GRADIENTS
    state = tx.init(params=PARAMS)
    wanted = tx.update(g, state, PARAMS)
    assert_equal(tx.update(updates=g, state=state, params=PARAMS), wanted)
    assert_equal(tx.update(g, state, params=PARAMS), wanted)
    # A transform is a tuple of two functions, which JAX may take apart and put together.
    again = jax.tree.map(lambda f: f, tx)
    assert type(again) is type(tx) and again == tx and len(tx) == 2
    assert type(jax.tree.map(lambda f: 0, tx)) is type(tx)
    assert jax.tree.leaves(tx) == [tx.init, tx.update]


def test_a_subclass_may_carry_attributes():
    class WithName(gdjax.GradientTransformationExtraArgs):
        pass

    tx = WithName(*gdjax.sgd(0.1))
    tx.name = "plain"
    assert tx.name == "plain"
    assert_equal(steps(gdjax.chain(tx), PARAMS, GRADIENTS)[0], steps(gdjax.sgd(0.1), PARAMS, GRADIENTS)[0])


class Net(linen.Module):
    @linen.compact
    def __call__(self, x: Any) -> Any:
        return linen.Dense(1)(linen.tanh(linen.Dense(8)(x)))


X = np.random.default_rng(0).standard_normal((32, 3)).astype("float32")
Y = X[:, :1] * X[:, 1:2]


@pytest.mark.parametrize("tx", [gdjax.adamw(1e-2), gdjax.sgd(0.05, 0.9)], ids=["adamw", "sgd"])
def test_flax_linen_train_state(tx: Any):
    with relaxed():
        net = Net()
        state = TrainState.create(apply_fn=net.apply, params=net.init(jax.random.key(0), X)["params"], tx=tx)

        @jax.jit
        def step(state: TrainState) -> Any:
            loss = lambda p: jnp.mean((state.apply_fn({"params": p}, X) - Y) ** 2)  # noqa: E731
            value, g = jax.value_and_grad(loss)(state.params)
            return state.apply_gradients(grads=g), value

        losses = []
        for _ in range(40):
            state, value = step(state)
            losses.append(float(value))
    assert losses[-1] < 0.7 * losses[0]
    assert int(state.step) == 40


@pytest.mark.parametrize("tx", [gdjax.adamw(1e-2), gdjax.chain(gdjax.clip_by_global_norm(1.0), gdjax.sgd(0.05, 0.9))])
def test_flax_nnx_optimizer(tx: Any):
    with relaxed():
        model = nnx.Sequential(nnx.Linear(3, 8, rngs=nnx.Rngs(0)), jnp.tanh, nnx.Linear(8, 1, rngs=nnx.Rngs(1)))
        optimizer = nnx.Optimizer(model, tx, wrt=nnx.Param)
        old = "model" not in inspect.signature(optimizer.update).parameters  # Flax before 0.11

        @nnx.jit
        def step(model: Any, optimizer: Any) -> Any:
            value, g = nnx.value_and_grad(lambda m: jnp.mean((m(X) - Y) ** 2))(model)
            optimizer.update(*([g] if old else [model, g]))
            return value

        losses = [float(step(model, optimizer)) for _ in range(40)]
    assert losses[-1] < 0.7 * losses[0]


def test_hyperparameters_set_in_place_inside_scan():
    # As Brax does it: the state is a tuple with a mutable dict, and the new number keeps its dtype.
    tx = gdjax.chain(gdjax.clip(10.0), gdjax.inject_hyperparams(gdjax.sgd)(0.1))

    def step(carry: Any, rate: Any) -> Any:
        params, state = carry
        assert isinstance(state[-1], tuple) and hasattr(state[-1], "hyperparams")
        state[-1].hyperparams["learning_rate"] = rate
        updates, state = tx.update(GRADIENTS[0], state, params)
        return (gdjax.apply_updates(params, updates), state), None

    rates = jnp.array([0.1, 0.2, 0.3])
    run = jax.jit(lambda params, state: jax.lax.scan(step, (params, state), rates)[0])
    params, state = run(PARAMS, tx.init(PARAMS))
    assert_close(params, jax.tree.map(lambda p, g: p - 0.6 * g, PARAMS, GRADIENTS[0]))
    assert float(state[-1].hyperparams["learning_rate"]) == pytest.approx(0.3)
    assert finite(state) and signature(state) == signature(tx.init(PARAMS))


def test_update_has_a_name():
    # Kauldron wraps it with jax.named_call.
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        update = jax.named_call(gdjax.adam(0.1).update)
    assert_equal(
        update(PARAMS, gdjax.adam(0.1).init(PARAMS)), gdjax.adam(0.1).update(PARAMS, gdjax.adam(0.1).init(PARAMS))
    )


def test_update_as_a_static_argument():
    # NetKet does so.
    apply = functools.partial(jax.jit, static_argnums=0)(lambda update, g, state, params: update(g, state, params))
    tx = gdjax.adam(0.1)
    assert_equal(apply(tx.update, PARAMS, tx.init(PARAMS), PARAMS), tx.update(PARAMS, tx.init(PARAMS), PARAMS))
