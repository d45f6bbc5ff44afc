"""With Equinox: models as parameters, and what Optimistix does through it."""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import optimistix as optx
import pytest

import gdjax
from tests.cases import Case, every
from tests.interop.states import filled
from tests.support import relaxed
from tests.trees import assert_close, assert_equal, is_key, random_tree

X = np.random.default_rng(0).standard_normal((32, 3)).astype("float32")
Y = X[:, :1] * X[:, 1:2]


def model_of(seed: int) -> Any:
    return eqx.nn.MLP(3, 1, 8, 1, activation=jnp.tanh, key=jax.random.key(seed))


def loss_of(model: Any) -> Any:
    return jnp.mean((jax.vmap(model)(X) - Y) ** 2)


@pytest.mark.parametrize("tx", [gdjax.adamw(1e-2), gdjax.sgd(0.05, 0.9)], ids=["adamw", "sgd"])
def test_a_module_is_trained(tx: Any):
    with relaxed():
        model = model_of(0)
        state = tx.init(eqx.filter(model, eqx.is_inexact_array))

        @eqx.filter_jit
        def step(model: Any, state: Any) -> Any:
            value, g = eqx.filter_value_and_grad(loss_of)(model)
            updates, state = tx.update(g, state, eqx.filter(model, eqx.is_inexact_array))
            return eqx.apply_updates(model, updates), state, value

        losses = []
        for _ in range(40):
            model, state, value = step(model, state)
            losses.append(float(value))
    assert losses[-1] < 0.7 * losses[0]


def test_a_transform_in_a_module():
    # As Levanter's TrainerState: a static field, compared when a jitted function is called again.
    class State(eqx.Module):
        params: Any
        opt_state: Any
        tx: Any = eqx.field(static=True)

    traces = 0

    @eqx.filter_jit
    def step(state: Any, g: Any) -> Any:
        nonlocal traces
        traces += 1
        updates, opt_state = state.tx.update(g, state.opt_state, params=state.params, obj_fn=None, loss=1.0)
        return State(eqx.apply_updates(state.params, updates), opt_state, state.tx)

    params, g = random_tree(0), random_tree(1)
    for _ in range(2):
        step(State(params, gdjax.adamw(0.1).init(params), gdjax.adamw(0.1)), g)
    assert traces == 1


def test_a_model_that_was_not_filtered():
    with relaxed(), pytest.raises(TypeError, match=r"^gdjax.adam: params.* not an array: .*eqx.filter"):
        gdjax.adam(0.1).init(model_of(0))


@every(lambda case: not case.slow, thin=4)
def test_states_go_through_its_serialisation(case: Case, tmp_path: Any):
    state = jax.tree.map(lambda x: jax.random.key_data(x) if is_key(x) else x, filled(case.make(), random_tree(0)))
    eqx.tree_serialise_leaves(tmp_path / "state.eqx", state)
    assert_equal(eqx.tree_deserialise_leaves(tmp_path / "state.eqx", jax.tree.map(jnp.zeros_like, state)), state)


@pytest.mark.full
@every(sampled=True)
def test_c8_closures_become_pytrees(case: Case):
    # Optimistix does so with the solver; a closure over itself would never end.
    tx, params, g = case.make(), random_tree(0), random_tree(1)
    again = eqx.internal.closure_to_pytree(tx)
    assert again.init is not tx.init
    assert jax.tree.structure(jax.eval_shape(again.init, params)) == jax.tree.structure(jax.eval_shape(tx.init, params))
    with relaxed():
        dynamic, static = eqx.partition(again, eqx.is_array)
        other = eqx.partition(eqx.internal.closure_to_pytree(case.make()), eqx.is_array)[1]
        assert static == other  # one trace
        state = again.init(params)
        assert jax.eval_shape(eqx.combine(dynamic, static).update, g, state, params)[0].keys() == g.keys()


RATED: dict[str, Any] = {
    "sgd": gdjax.sgd,
    "schedule": lambda rate: gdjax.adam(gdjax.exponential_decay(rate, 100, 0.9)),
    "own schedule": lambda rate: gdjax.adam(lambda count: rate),
    "chain": lambda rate: gdjax.chain(gdjax.clip_by_global_norm(10.0), gdjax.adam(rate)),
    "partition": lambda rate: gdjax.partition({"all": gdjax.adam(rate)}, "all"),
    "MultiSteps": lambda rate: gdjax.MultiSteps(gdjax.adam(rate), 1).gradient_transformation(),
    "chain of MultiSteps": lambda rate: gdjax.chain(gdjax.MultiSteps(gdjax.adam(rate), 1)),
    "inject_hyperparams": lambda rate: gdjax.inject_hyperparams(gdjax.adam)(rate),
    "Optax inside": lambda rate: gdjax.chain(optax.clip(1.0), optax.adam(rate)),
    "inside Optax": lambda rate: optax.chain(optax.clip(1.0), gdjax.adam(rate)),
}


@pytest.mark.parametrize("make", RATED.values(), ids=list(RATED))
def test_rates_that_are_arrays_are_operands_of_a_solver(make: Any):
    traces = 0

    def loss(y: Any, args: Any) -> Any:
        return jnp.sum((y - args) ** 2)

    @eqx.filter_jit
    def first_step(solver: Any, y: Any) -> Any:
        nonlocal traces
        traces += 1
        updates, _ = solver.optim.update(y, solver.optim.init(y), y, value=jnp.float32(0), grad=y, value_fn=loss)
        return updates

    with relaxed():
        y, rates = jnp.array([1.0, -2.0]), (0.1, 0.05, 0.2)
        steps = [first_step(optx.OptaxMinimiser(make(jnp.float32(r)), 1e-6, 1e-6), y) for r in rates]
        assert traces == 1
        for rate, u in zip(rates, steps, strict=True):
            assert_close(u / rate, steps[0] / rates[0], 1e-4, 1e-6)

        def found(rate: Any) -> Any:  # under implicit differentiation
            solver = optx.OptaxMinimiser(make(rate), 1e-6, 1e-6)
            return jnp.sum(optx.minimise(loss, solver, y, jnp.zeros(2), max_steps=5, throw=False).value)

        assert jax.grad(found)(0.1) == 0


def test_what_can_be_changed_in_place_is_not_shared():
    @gdjax.transform
    def listed(heard: list[int]) -> gdjax.GradientTransformation:
        return gdjax.GradientTransformation(lambda params: tuple(heard), lambda g, s, p=None, **extra: (g, s))

    a, b = listed([]), listed([])
    assert a == b and a.init is not b.init
    groups = {"a": gdjax.sgd(0.1)}
    one = gdjax.partition(groups, "a")
    groups["a"] = gdjax.sgd(0.2)
    g = jnp.ones(2)
    with pytest.warns(UserWarning, match="gdjax.partition: transforms was changed after the transform was made"):
        state = one.init(g)
    assert one.update(g, state, g)[0][0] == jnp.float32(-0.1)
    assert gdjax.partition({"a": gdjax.sgd(0.1)}, "a").update is one.update


def test_c8_optimistix_minimises_with_ours():
    def rosenbrock(y: Any, args: Any) -> Any:
        return (1 - y[0]) ** 2 + args * (y[1] - y[0] ** 2) ** 2

    with relaxed():
        for tx, steps in ((gdjax.adam(0.05), 2000), (gdjax.lbfgs(), 200)):  # the second asks for value, grad, value_fn
            solver = optx.OptaxMinimiser(tx, rtol=1e-8, atol=1e-8)
            found = optx.minimise(rosenbrock, solver, jnp.array([-1.0, 1.0]), 10.0, max_steps=steps, throw=False)
            np.testing.assert_allclose(found.value, 1.0, atol=1e-2)
