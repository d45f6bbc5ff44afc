"""What other libraries do to an optimizer, without the libraries: the same calls, checks and readings."""

import functools
import pickle
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import gdjax
from tests.support import relaxed
from tests.trees import assert_close, assert_equal, random_tree, signature, steps

PARAMS, GRADIENTS = random_tree(0), [random_tree(seed) for seed in (1, 2)]


def test_numpyro():
    # A class check; the pair of parameters and state is the state; value always goes along.
    def optimizer(tx: Any) -> Any:
        if not isinstance(tx, optax.GradientTransformation):
            raise TypeError(f"expected an optax optimizer, got {type(tx)}")
        tx = optax.with_extra_args_support(tx)

        def update(g: Any, carry: Any, value: Any) -> Any:
            params, state = carry
            updates, state = tx.update(g, state, params, value=value)
            return optax.apply_updates(params, updates), state

        return lambda params: (params, tx.init(params)), update

    with relaxed():
        for tx in (gdjax.adam(0.1), gdjax.polyak_sgd()):
            init, update = optimizer(tx)
            params, _ = update(GRADIENTS[0], init(PARAMS), jnp.float32(0.5))
            updates, _ = tx.update(GRADIENTS[0], tx.init(PARAMS), PARAMS, value=jnp.float32(0.5))
            assert_close(params, gdjax.apply_updates(PARAMS, updates))


def test_brax():
    # No parameters; the state goes through pmap and scan.
    tx = gdjax.chain(gdjax.clip_by_global_norm(1.0), gdjax.adam(0.1))

    def train(params: Any, state: Any) -> Any:
        def step(carry: Any, _: Any) -> Any:
            params, state = carry
            g = jax.lax.pmean(params, "devices")
            updates, state = tx.update(g, state)
            return (optax.apply_updates(params, updates), state), None

        return jax.lax.scan(step, (params, state), length=2)[0]

    carry = PARAMS, tx.init(PARAMS)
    with relaxed():
        out = jax.pmap(train, "devices")(*jax.tree.map(lambda x: jnp.stack([x, x]), carry))
    params, state = carry
    for _ in range(2):
        updates, state = tx.update(params, state)
        params = gdjax.apply_updates(params, updates)
    assert_close(jax.tree.map(lambda x: x[1], out), (params, state))


def test_levanter():
    # A class check, extra arguments that are functions, injected hyperparameters, and a step skipped by a factor.
    tx = gdjax.inject_hyperparams(gdjax.adamw)(0.1)
    assert isinstance(tx, optax.GradientTransformation)

    @jax.jit
    def step(params: Any, state: Any, g: Any, factor: Any) -> Any:
        loss = lambda p: jnp.float32(0)
        updates, new = tx.update(g, state, params=params, obj_fn=loss, loss=jnp.float32(0.5))
        new = jax.tree.map(lambda x, y: jnp.where(factor == 0, x, y), state, new)
        return jax.tree.map(lambda u: factor * u, updates), new

    state = tx.init(PARAMS)
    updates, new = step(PARAMS, state, GRADIENTS[0], jnp.float32(0))
    assert_equal(new, state)
    assert_equal(updates, jax.tree.map(jnp.zeros_like, updates))
    logged = {name: float(x) for name, x in state.hyperparams.items()}
    assert logged["learning_rate"] == pytest.approx(0.1) and "b1" in logged
    assert hasattr(gdjax.MultiSteps(tx, 2).init(PARAMS), "inner_opt_state")


def test_maxtext():
    # Abstract init, extra arguments, moments replaced in place, DiLoCo's outer momentum.
    tx = gdjax.adamw(gdjax.warmup_cosine_decay_schedule(0.0, 0.1, 10, 100))
    shapes = jax.eval_shape(tx.init, PARAMS)
    assert signature(shapes) == signature(tx.init(PARAMS))
    assert isinstance(gdjax.to_optax(tx).init(PARAMS)[0], optax.ScaleByAdamState)
    state = tx.init(PARAMS)
    state = (state[0]._replace(mu=jax.tree.map(jnp.ones_like, state[0].mu)), *state[1:])
    with relaxed():
        updates, new = tx.update(GRADIENTS[0], state, PARAMS, loss=1.0, grad_norm=2.0)
    assert signature(new) == signature(state) and updates.keys() == PARAMS.keys()
    paths = ["/".join(str(getattr(k, "name", getattr(k, "key", getattr(k, "idx", "")))) for k in path)
             for path, _ in jax.tree_util.tree_leaves_with_path(state)]  # fmt: skip
    assert {"0/count", "0/mu/dense/kernel", "0/nu/dense/kernel"} <= set(paths)


def test_easydel():
    # All by keyword, a hook if there is one, the counts set to the step of a restored run, a pickled treedef.
    tx = gdjax.chain(gdjax.clip(1.0), gdjax.adamw(gdjax.linear_schedule(0.1, 0.0, 10)))
    state = tx.init(PARAMS)

    def seed(path: Any, x: Any) -> Any:
        return jnp.asarray(7, x.dtype) if getattr(path[-1], "name", None) == "count" else x

    state = jax.tree_util.tree_map_with_path(seed, state)
    updates, new = tx.update(updates=GRADIENTS[0], state=state, params=PARAMS)
    assert hasattr(tx, "apply_updates_hook") is False and updates.keys() == PARAMS.keys()
    counts = [x for path, x in jax.tree_util.tree_leaves_with_path(new) if getattr(path[-1], "name", "") == "count"]
    assert {int(x) for x in counts} == {8}
    leaves, structure = jax.tree.flatten(new)
    assert_equal(pickle.loads(pickle.dumps(structure)).unflatten(leaves), new)


def test_kauldron():
    # Unpacks a named chain, names the call, differentiates integers too.
    tx = gdjax.named_chain(("adam", gdjax.scale_by_adam()), ("rate", gdjax.scale(-0.1)))
    init, update = tx
    params = {"w": jnp.ones(3), "n": jnp.array([1, 2])}
    g = jax.grad(lambda p: jnp.sum(p["w"][p["n"]] ** 2), allow_int=True)(params)
    updates, state = update(g, init(params), params)
    new = gdjax.apply_updates(params, updates)
    assert_equal(new["n"], params["n"])
    assert float(new["w"][1]) < 1 and list(state) == ["adam", "rate"] and int(state["adam"].count) == 1


def test_blackjax():
    # A tuple of trees; a Python float as the parameter, and an update under cond.
    tx = gdjax.adam(0.1)
    mu, rho = PARAMS, jax.tree.map(jnp.ones_like, PARAMS)
    updates, _ = tx.update((mu, rho), tx.init((mu, rho)), (mu, rho))
    assert isinstance(updates, tuple)
    state = tx.init(0.5)

    def adapt(state: Any, step_size: Any) -> Any:
        updates, state = tx.update(jnp.float32(1.0), state, step_size)
        return optax.apply_updates(step_size, updates), state

    with relaxed():
        run = jax.jit(lambda s, x: jax.lax.cond(x > 0, adapt, lambda s, x: (x, s), s, x))
        size, state = run(state, jnp.float32(0.5))
    assert float(size) == pytest.approx(0.4) and int(state[0].count) == 1


def test_gpjax():
    # A class check, then scan over the step.
    tx = gdjax.sgd(0.1, 0.9)
    assert isinstance(tx, optax.GradientTransformation)

    def step(carry: Any, g: Any) -> Any:
        params, state = carry
        updates, state = tx.update(g, state, params)
        return (optax.apply_updates(params, updates), state), None

    with relaxed():
        stacked = jax.tree.map(lambda *xs: jnp.stack(xs), *GRADIENTS)
        carry, _ = jax.lax.scan(step, (PARAMS, tx.init(PARAMS)), stacked)
    assert_close(carry, steps(tx, PARAMS, GRADIENTS))


def test_netket():
    # The update as a static argument.
    apply = functools.partial(jax.jit, static_argnums=0)(lambda update, g, state, params: update(g, state, params))
    tx = gdjax.adam(0.1)
    assert_equal(apply(tx.update, PARAMS, tx.init(PARAMS), PARAMS), tx.update(PARAMS, tx.init(PARAMS), PARAMS))
    before = apply._cache_size()
    apply(gdjax.adam(0.1).update, PARAMS, tx.init(PARAMS), PARAMS)
    assert apply._cache_size() == before


def test_tunix():
    # Looks along the chain for the injected rate, up to the first empty state of Optax's class.
    def rate(state: Any) -> Any:
        for part in state:
            if isinstance(part, optax.EmptyState):
                break
            if hasattr(part, "hyperparams"):
                return part.hyperparams["learning_rate"]
        return None

    injected = gdjax.inject_hyperparams(gdjax.sgd)(0.25)
    for tx in (gdjax.chain(injected, gdjax.clip(1.0)), gdjax.to_optax(gdjax.chain(injected, gdjax.clip(1.0)))):
        assert float(rate(tx.init(PARAMS))) == 0.25
    assert rate(gdjax.to_optax(gdjax.chain(gdjax.clip(1.0), injected)).init(PARAMS)) is None


def test_haiku():
    # The optimizer is made anew inside the jitted step, unpacked, and called without parameters.
    def make() -> Any:
        return gdjax.chain(gdjax.clip_by_global_norm(1.0), gdjax.scale_by_adam(), gdjax.scale(-0.1))

    @jax.jit
    def step(params: Any, state: Any, g: Any) -> Any:
        _, update = make()
        updates, new = update(g, state)
        finite = jnp.bool_(True)
        new = jax.tree.map(functools.partial(jnp.where, finite), new, state)
        return optax.apply_updates(params, updates), new

    with relaxed():
        params, state = PARAMS, make().init(PARAMS)
        for g in GRADIENTS:
            params, state = step(params, state, g)
    assert_close((params, state), steps(make(), PARAMS, GRADIENTS))


def test_jaxopt():
    # Positional calls under vmap.
    tx = gdjax.sgd(0.1)
    x = jnp.asarray(np.linspace(-1, 1, 6), jnp.float32).reshape(3, 2)
    state = jax.vmap(tx.init)(x)
    updates, _ = jax.vmap(tx.update)(x, state, x)
    assert_close(updates, -0.1 * x)
