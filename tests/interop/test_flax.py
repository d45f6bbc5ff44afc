"""With Flax: the training states of linen and nnx, and its serialisation."""

import inspect
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import linen, nnx, serialization
from flax.core import freeze
from flax.training.train_state import TrainState

import gdjax
from tests.cases import Case, every
from tests.declare import matrices
from tests.interop.states import filled
from tests.support import relaxed
from tests.trees import assert_close, assert_equal, is_key, random_tree, signature

X = np.random.default_rng(0).standard_normal((32, 3)).astype("float32")
Y = X[:, :1] * X[:, 1:2]


class Net(linen.Module):
    @linen.compact
    def __call__(self, x: Any) -> Any:
        return linen.Dense(1)(linen.tanh(linen.Dense(8)(x)))


@pytest.mark.parametrize("tx", [gdjax.adamw(1e-2), gdjax.sgd(0.05, 0.9)], ids=["adamw", "sgd"])
def test_linen_train_state(tx: Any):
    with relaxed():
        net = Net()
        state = TrainState.create(apply_fn=net.apply, params=net.init(jax.random.key(0), X)["params"], tx=tx)

        @jax.jit
        def step(state: TrainState) -> Any:
            loss = lambda p: jnp.mean((state.apply_fn({"params": p}, X) - Y) ** 2)
            value, g = jax.value_and_grad(loss)(state.params)
            return state.apply_gradients(grads=g), value

        losses = []
        for _ in range(40):
            state, value = step(state)
            losses.append(float(value))
    assert losses[-1] < 0.7 * losses[0]
    assert int(state.step) == 40


def model_of(seed: int) -> Any:
    return nnx.Sequential(nnx.Linear(3, 8, rngs=nnx.Rngs(seed)), jnp.tanh, nnx.Linear(8, 1, rngs=nnx.Rngs(seed + 1)))


def update(optimizer: Any, model: Any, g: Any, **extra: Any) -> None:
    old = "model" not in inspect.signature(optimizer.update).parameters  # Flax before 0.11
    optimizer.update(*([g] if old else [model, g]), **extra)


def loss_of(model: Any) -> Any:
    return jnp.mean((model(X) - Y) ** 2)


@pytest.mark.parametrize(
    "tx",
    [
        gdjax.adamw(1e-2, mask=matrices),  # a function: a tree of booleans fits either init or update
        gdjax.chain(gdjax.clip_by_global_norm(1.0), gdjax.sgd(0.05, 0.9)),
    ],
    ids=["adamw", "chain"],
)
def test_nnx_optimizer(tx: Any):
    with relaxed():
        model = model_of(0)
        optimizer = nnx.Optimizer(model, tx, wrt=nnx.Param)

        @nnx.jit
        def step(model: Any, optimizer: Any) -> Any:
            value, g = nnx.value_and_grad(loss_of)(model)
            update(optimizer, model, g)
            return value

        losses = [float(step(model, optimizer)) for _ in range(40)]
    assert losses[-1] < 0.7 * losses[0]


@pytest.mark.full
@every(sampled=True)
def test_c14_c15_nnx_takes_every_transform(case: Case):
    # init sees a State of Params, update a State of arrays; what comes back is written into the state in place.
    def train() -> Any:
        model = model_of(0)
        optimizer = nnx.Optimizer(model, case.make(), wrt=nnx.Param)
        before = nnx.state(optimizer)
        for _ in range(2):
            update(optimizer, model, nnx.grad(loss_of)(model))
        assert jax.tree.structure(nnx.state(optimizer)) == jax.tree.structure(before)
        return nnx.state(model)

    with relaxed():
        shapes = nnx.eval_shape(train)
    assert len(jax.tree.leaves(shapes)) == 4


CODED: dict[str, Callable[[], Any]] = {  # few enough for all to be in the ordinary suite
    "words": lambda: gdjax.MultiSteps(
        gdjax.partition({"a": gdjax.quantize_state(gdjax.adam(1e-2), min_size=1)}, "a"), 2
    ),
    "blocks of Optax's": lambda: gdjax.quantize_state(optax.adam(1e-2), min_size=1, moments="blocks"),
    "by a dtype": lambda: gdjax.adam(1e-2, nu_dtype=gdjax.bfloat16_with_error),
}


@pytest.mark.full
@pytest.mark.skipif(not hasattr(nnx, "as_pure"), reason="this Flax has no nnx.as_pure")
@pytest.mark.parametrize("name", CODED)
def test_nnx_takes_states_with_codes(name: str):
    with relaxed():
        tx, model = CODED[name](), model_of(0)
        optimizer = nnx.Optimizer(model, tx, wrt=nnx.Param)
        graph, params = nnx.split(model, nnx.Param)
        params = nnx.as_pure(params)
        state = tx.init(params)
        for _ in range(3):
            g = nnx.as_pure(nnx.grad(lambda params: loss_of(nnx.merge(graph, params)))(params))
            updates, state = tx.update(g, state, params)
            params = gdjax.apply_updates(params, updates)
            update(optimizer, model, nnx.grad(loss_of)(model))
        assert_close(nnx.as_pure(nnx.state(model, nnx.Param)), params, rtol=1e-5, atol=1e-6)
        saved = gdjax.state_from_dict(tx, gdjax.state_to_dict(optimizer.opt_state), params)
        assert signature(saved) == signature(state)
        boxed = nnx.state(model_of(0), nnx.Param)
        for field in ("mu", "nu") if name == "by a dtype" else ("mu",):
            anew = gdjax.reset(tx, optimizer.opt_state, boxed, fields=field)
            pairs = zip(*(jax.tree.leaves(nnx.as_pure(x)) for x in (anew, optimizer.opt_state)), strict=True)
            assert all((x.dtype, x.shape) == (y.dtype, y.shape) for x, y in pairs)
        # A program without nnx.Optimizer.
        updates, _ = jax.jit(tx.update)(boxed, tx.init(boxed), boxed)
        assert jax.tree.structure(updates) == jax.tree.structure(boxed)


def test_nnx_takes_a_rate_that_is_an_array():
    with relaxed():  # it refuses static attributes in which it finds arrays
        model = model_of(0)
        optimizer = nnx.Optimizer(model, gdjax.adam(jnp.float32(1e-2)), wrt=nnx.Param)
        before = float(loss_of(model))
        update(optimizer, model, nnx.grad(loss_of)(model))
        assert float(loss_of(model)) < before


def test_nnx_hands_extra_arguments_on():
    def train() -> Any:
        model = model_of(0)
        optimizer = nnx.Optimizer(model, gdjax.polyak_sgd(), wrt=nnx.Param)
        value, g = nnx.value_and_grad(loss_of)(model)
        update(optimizer, model, g, value=value)
        return nnx.state(model)

    with relaxed():
        nnx.eval_shape(train)


# Flax does not pack an OrderedDict, which Optax keeps there too.
@every(lambda case: case.name != "named_chain", thin=4)
def test_every_state_goes_through_msgpack(case: Case):
    params = random_tree(0)
    # A typed PRNG key has no bytes of its own; its data has.
    state = jax.tree.map(lambda x: jax.random.key_data(x) if is_key(x) else x, filled(case.make(), params))
    data = serialization.to_bytes(state)
    restored = serialization.from_bytes(jax.tree.map(jnp.zeros_like, state), data)
    assert signature(jax.tree.map(jnp.asarray, restored)) == signature(state)
    assert_equal(restored, state)


def test_names_in_a_state_dict():
    state = gdjax.chain(gdjax.clip(1.0), gdjax.trace(0.9)).init({"w": jnp.ones(2)})
    assert serialization.to_state_dict(state).keys() == {"0", "1"}
    assert serialization.to_state_dict(state)["0"] == {}
    assert serialization.to_state_dict(state)["1"].keys() == {"trace"}


class Deep(nnx.Module):
    def __init__(self, rngs: nnx.Rngs):
        self.layers = nnx.List([nnx.Linear(3, 3, rngs=rngs) for _ in range(2)])
        self.value = nnx.Linear(3, 1, rngs=rngs)  # a name of the user's, which stays

    def __call__(self, x: Any) -> Any:
        for layer in self.layers:
            x = nnx.tanh(layer(x))
        return self.value(x)


new_nnx = pytest.mark.skipif(not hasattr(nnx, "List"), reason="this Flax has no nnx.List")
PATHS = ["layers/0/bias", "layers/0/kernel", "layers/1/bias", "layers/1/kernel", "value/bias", "value/kernel"]


@new_nnx
@pytest.mark.parametrize("of", [lambda model: nnx.state(model, nnx.Param), lambda model: model], ids=["state", "model"])
def test_paths_of_nnx(of: Any):
    tree = of(Deep(nnx.Rngs(0)))
    seen: list[str] = []
    gdjax.mask_by_path(lambda path, leaf: bool(seen.append(path)) or True)(tree)
    assert sorted(set(seen)) == PATHS
    mask = gdjax.mask_by_path("bias$")(tree)
    assert type(mask) is type(tree) and jax.tree.leaves(mask) == [True, False] * 3
    labels = gdjax.label_by_path({"^value/": "head", "kernel$": "matrix", ".*": "rest"})(tree)
    assert jax.tree.leaves(labels) == ["rest", "matrix"] * 2 + ["head"] * 2


@new_nnx
def test_rates_and_groups_of_nnx():
    rate = gdjax.per_leaf(0.01, gdjax.layerwise_decay(0.5, r"^layers/(\d+)/", 2))
    groups = {"bias": gdjax.sgd(rate), "rest": gdjax.params_ema(gdjax.lion(rate, weight_decay=0.0), 0.9)}
    for tx in (gdjax.sgd(rate), gdjax.partition(groups, gdjax.label_by_path({"bias$": "bias", ".*": "rest"}))):
        model = Deep(nnx.Rngs(0))
        before = jax.tree.map(jnp.copy, nnx.state(model, nnx.Param))
        with relaxed():
            optimizer = nnx.Optimizer(model, tx, wrt=nnx.Param)
            optimizer.update(model, jax.tree.map(jnp.ones_like, before))
        pairs = zip(*map(jax.tree.leaves, (before, nnx.state(model, nnx.Param))), strict=True)
        np.testing.assert_allclose([float(jnp.max(x - y)) for x, y in pairs], np.repeat([0.0025, 0.005, 0.01], 2), 1e-4)


AVERAGING = {
    "params_ema": lambda: gdjax.params_ema(gdjax.inject_hyperparams(gdjax.adam)(1e-2), 0.9),
    "schedule_free": lambda: gdjax.schedule_free_sgd(1e-2),
    "in a group": lambda: gdjax.partition(
        {"bias": gdjax.sgd(0.1), "rest": gdjax.swa(gdjax.sgd(0.1), 1)},
        gdjax.label_by_path({"bias$": "bias", ".*": "rest"}),
    ),
}


OLD = "model" not in inspect.signature(nnx.Optimizer.update).parameters
since_0_11 = pytest.mark.skipif(OLD, reason="the boxes of Flax before 0.11 are no trees")


def trained(tx: Any) -> tuple[Any, Any]:
    """An optimizer of nnx after two steps, and the parameters."""
    model = nnx.Linear(3, 1, rngs=nnx.Rngs(0))
    optimizer = nnx.Optimizer(model, tx, wrt=nnx.Param)
    for _ in range(2):
        update(optimizer, model, nnx.grad(loss_of)(model))
    return optimizer, nnx.state(model, nnx.Param)


@pytest.mark.full
@since_0_11
@pytest.mark.parametrize("name", AVERAGING)
def test_eval_params_of_an_nnx_optimizer(name: str):
    tx = AVERAGING[name]()
    with relaxed():
        optimizer, params = trained(tx)
        found = gdjax.eval_params(tx, optimizer.opt_state, params)
        # The same steps with plain arrays.
        model = nnx.Linear(3, 1, rngs=nnx.Rngs(0))
        plain = dict(zip(("bias", "kernel"), jax.tree.leaves(nnx.state(model, nnx.Param)), strict=True))
        state = tx.init(plain)
        for _ in range(2):
            g = jax.grad(lambda p: jnp.mean((X @ p["kernel"] + p["bias"] - Y) ** 2))(plain)
            u, state = tx.update(g, state, plain)
            plain = gdjax.apply_updates(plain, u)
        expected = gdjax.eval_params(tx, state, plain)
    assert jax.tree.structure(found) == jax.tree.structure(params)
    for x, p, own in zip(*map(jax.tree.leaves, (found, params, expected)), strict=True):
        np.testing.assert_allclose(x, own, rtol=1e-5, atol=1e-7)
        assert x.dtype == p.dtype
    assert any((x != p).any() for x, p in zip(*map(jax.tree.leaves, (found, params)), strict=True))


@since_0_11
def test_numbers_of_an_nnx_optimizer_are_arrays():
    tx = gdjax.with_metrics(gdjax.inject_hyperparams(gdjax.adam)(1e-2))
    with relaxed():
        optimizer, params = trained(tx)
        found = [gdjax.metrics(optimizer.opt_state), gdjax.get_hyperparams(tx, optimizer.opt_state)]
    for numbers in found:
        assert not any(isinstance(x, nnx.Variable) for x in numbers.values())
        np.testing.assert_allclose(numbers["learning_rate"], 1e-2, rtol=1e-6)


@since_0_11
@pytest.mark.parametrize("way", ["reset", "migrate", "dict"])
def test_a_state_goes_back_into_an_nnx_optimizer(way: str):
    """By `nnx.update`, as the page on frameworks says."""
    tx = gdjax.adam(1e-2)
    with relaxed():
        optimizer, params = trained(tx)
        before = gdjax.state_to_dict(optimizer.opt_state)["state"]["scale_by_adam"]
        if way == "reset":
            state = gdjax.reset(tx, optimizer.opt_state, params, where="bias")
        elif way == "migrate":
            state, _ = gdjax.migrate(optimizer.opt_state, tx, tx, params)
        else:
            state = gdjax.state_from_dict(tx, gdjax.state_to_dict(optimizer.opt_state), params)
        model = nnx.Linear(3, 1, rngs=nnx.Rngs(0))
        later = nnx.Optimizer(model, tx, wrt=nnx.Param)
        nnx.update(later.opt_state, nnx.state(state))
        after = gdjax.state_to_dict(later.opt_state)["state"]["scale_by_adam"]
        update(later, model, nnx.grad(loss_of)(model))
        last = gdjax.state_to_dict(later.opt_state)["state"]["scale_by_adam"]
    assert after["count"] == 2 and last["count"] == 3
    np.testing.assert_array_equal(after["mu"]["kernel"], before["mu"]["kernel"])
    np.testing.assert_array_equal(after["mu"]["bias"], before["mu"]["bias"] * float(way != "reset"))


@since_0_11
def test_parts_of_the_state_of_an_nnx_optimizer():
    model = nnx.Linear(3, 1, rngs=nnx.Rngs(0))
    params = nnx.state(model, nnx.Param)
    optimizer = nnx.Optimizer(model, gdjax.inject_hyperparams(gdjax.adam)(0.1), wrt=nnx.Param)
    state = optimizer.opt_state
    rate, mu = gdjax.tree.get(state, "learning_rate"), gdjax.tree.get(state, "mu")
    assert isinstance(rate, jax.Array) and isinstance(mu["kernel"], jax.Array)
    assert [isinstance(x, jax.Array) for _, x in gdjax.tree.get_all_with_path(state, "count")] == [True, True]
    new = gdjax.tree.set(state, learning_rate=jnp.array(0.5), mu=jax.tree.map(jnp.ones_like, mu))
    assert jax.tree.structure(new) == jax.tree.structure(state)  # the boxes of nnx are there still
    assert gdjax.tree.get(new, "learning_rate") == 0.5 and jnp.all(gdjax.tree.get(new, "mu")["kernel"] == 1)

    tx = gdjax.schedule_free_sgd(0.1)
    of_params = gdjax.schedule_free_eval_params(tx.init(params), params)
    optimizers = gdjax.schedule_free_eval_params(nnx.Optimizer(model, tx, wrt=nnx.Param).opt_state, params)
    assert_equal(of_params, params)
    assert_equal(optimizers, params)


def test_eval_params_of_partitioned_linen():
    params = {"w": linen.Partitioned(jnp.ones((2, 2)), ("model", None)), "b": jnp.ones(2)}
    tx = gdjax.params_ema(gdjax.sgd(0.1), 0.5)
    with relaxed():
        _, state = tx.update(params, tx.init(params), params)
        found = gdjax.eval_params(tx, state, params)
    assert jax.tree.structure(found) == jax.tree.structure(params)
    assert_equal(found["w"].value[0], found["b"])
    pair = gdjax.LookaheadParams.init_synced(params)
    tx = gdjax.lookahead(gdjax.sgd(0.1), 5, 0.5)
    assert gdjax.eval_params(tx, tx.init(pair), pair) is pair.slow


def test_paths_of_linen():
    class Sharded(linen.Module):
        @linen.compact
        def __call__(self, x: Any) -> Any:
            init = linen.with_partitioning(linen.initializers.ones, (None, "model"))
            return linen.Dense(2, kernel_init=init)(x)

    with relaxed():
        boxed = Sharded().init(jax.random.key(0), X)["params"]
    for tree in (boxed, freeze(boxed)):
        mask = gdjax.mask_by_path("^Dense_0/kernel$")(tree)
        assert type(mask) is type(tree) and jax.tree.leaves(mask) == [False, True]
