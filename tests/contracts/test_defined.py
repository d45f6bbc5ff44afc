"""What is unusual but allowed, and what it gives: the entries of the list of adversarial inputs that are no errors."""

import collections
import threading
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import gdjax
from gdjax import EmptyState, MaskedNode
from tests.trees import assert_close, assert_equal, finite, precision, random_tree, signature, steps

PARAMS = {"a": jnp.array([1.0, -2.0]), "b": jnp.array(3.0)}
G = {"a": jnp.array([0.5, 4.0]), "b": jnp.array(-1.0)}


def update(tx: Any, g: Any = G, params: Any = PARAMS) -> Any:
    return tx.update(g, tx.init(params), params)[0]


def test_a5_a_learning_rate_of_zero_is_no_step():
    assert_equal(update(gdjax.adam(0.0)), jax.tree.map(jnp.zeros_like, G))


def test_a10_eps_of_zero():
    g = {"a": jnp.array([0.0, 4.0]), "b": jnp.array(-1.0)}
    for tx in (gdjax.adam(0.1, eps=0.0), gdjax.rmsprop(0.1, eps=0.0), gdjax.adagrad(0.1, 0.0, 0.0)):
        u = update(tx, g)
        assert finite(u) and u["a"][0] == 0 and u["a"][1] < 0 < u["b"]


def test_a12_a_momentum_of_1_is_a_sum():
    _, state = steps(gdjax.sgd(0.1, momentum=1.0), PARAMS, [G, G, G])
    assert_equal(state[0].trace, jax.tree.map(lambda g: 3 * g, G))


def test_a19_noise_without_a_key():
    with pytest.warns(UserWarning, match="gdjax.add_noise: no key"):
        tx = gdjax.add_noise(0.1, 0.5)
    assert_equal(update(tx), update(gdjax.add_noise(0.1, 0.5, key=0)))


def test_a21_a_schedule_of_no_steps_is_its_first_value():
    with pytest.warns(UserWarning, match="transition_steps is 0: nothing changes, and the value stays init_value"):
        assert_equal(update(gdjax.sgd(gdjax.linear_schedule(0.5, 0.0, 0))), update(gdjax.sgd(0.5)))


def test_a22_a23_a_phase_of_no_steps_and_a_boundary_for_the_end():
    joined = gdjax.join_schedules([gdjax.linear_schedule(0.0, 0.5, 0), gdjax.constant_schedule(0.5)], [0, 1e3])
    assert_equal(update(gdjax.sgd(joined)), update(gdjax.sgd(0.5)))


def test_a14_a_bound_of_zero_or_infinity():
    assert_equal(update(gdjax.clip_by_global_norm(0.0)), jax.tree.map(jnp.zeros_like, G))
    assert_equal(update(gdjax.clip_by_global_norm(jnp.inf)), G)
    assert_equal(update(gdjax.clip(jnp.inf)), G)


def test_a27_a_schedule_of_integers():
    assert_equal(update(gdjax.sgd(lambda t: t + 2)), update(gdjax.sgd(2.0)))
    assert_equal(update(gdjax.sgd(lambda t: 2)), update(gdjax.sgd(2.0)))
    assert_equal(update(gdjax.sgd(lambda t: np.float64(2.0))), update(gdjax.sgd(2.0)))


class Halving:
    def __call__(self, count: Any) -> Any:
        return 0.5 ** (count.astype(jnp.float32) + 1)


def test_a28_a_callable_object_as_a_schedule():
    got, _ = steps(gdjax.sgd(Halving()), PARAMS, [G, G])
    assert_close(got, jax.tree.map(lambda p, g: p - 0.75 * g, PARAMS, G))


class Counter:
    """A schedule with a state of its own."""

    def init(self) -> Any:
        return jnp.zeros(())

    def update(self, state: Any, **extra_args: Any) -> Any:
        return state + 1

    def __call__(self, state: Any, **extra_args: Any) -> Any:
        return 0.5 ** (state + 1)


def test_a28_a_schedule_with_a_state():
    got, _ = steps(gdjax.inject_hyperparams(gdjax.sgd)(Counter()), PARAMS, [G, G])
    assert_close(got, jax.tree.map(lambda p, g: p - 0.75 * g, PARAMS, G))


def test_a18_accumulating_one_gradient_changes_nothing():
    assert_close(update(gdjax.MultiSteps(gdjax.adam(0.1), 1)), update(gdjax.adam(0.1)))
    assert_equal(update(gdjax.apply_every(1)), G)


def test_a31_an_empty_chain_changes_nothing():
    assert gdjax.chain().init(PARAMS) == ()
    assert_equal(update(gdjax.chain()), G)


def test_a36_none_in_both_is_none():
    tree = {**G, "none": None}
    u = update(gdjax.adam(0.1), tree, {**PARAMS, "none": None})
    assert u["none"] is None
    assert_equal({k: u[k] for k in G}, update(gdjax.adam(0.1)))
    assert gdjax.apply_updates({"a": jnp.ones(2)}, {"a": None})["a"].tolist() == [1, 1]


def test_a37_masked_nodes_are_left_alone():
    u = update(gdjax.adamw(0.1), {**G, "m": MaskedNode()}, {**PARAMS, "m": MaskedNode()})
    assert u["m"] == MaskedNode()


def test_a41_gradients_wider_than_the_parameters():
    params = jax.tree.map(lambda x: x.astype("bfloat16"), PARAMS)
    u = update(gdjax.adamw(0.1), G, params)
    assert {x.dtype for x in jax.tree.leaves(u)} == {jnp.dtype("float32")}
    assert {x.dtype for x in jax.tree.leaves(gdjax.apply_updates(params, u))} == {jnp.dtype("bfloat16")}


def test_a42_integers_behind_a_mask():
    params = {**PARAMS, "table": jnp.arange(3)}
    mask = {"a": True, "b": True, "table": False}
    tx = gdjax.selective_transform(gdjax.adamw(0.1), freeze_mask=jax.tree.map(lambda m: not m, mask))
    u = update(tx, {**G, "table": jnp.zeros(3, int)}, params)
    assert u["table"].tolist() == [0, 0, 0]
    assert_equal(gdjax.apply_updates(params, u)["table"], params["table"])


@pytest.mark.parametrize("tx", [gdjax.adamw(0.1), gdjax.lion(0.1), gdjax.sgd(0.1, 0.9), gdjax.noisy_sgd(0.1, key=0)])
def test_a43_float0_gradients_pass_through(tx: Any):
    params = {**PARAMS, "table": jnp.arange(3)}

    def loss(params: Any) -> Any:
        return jnp.sum(params["a"] * params["b"]) + 0 * jnp.sum(params["table"]).astype(jnp.float32)

    g = jax.grad(loss, allow_int=True)(params)
    assert g["table"].dtype == jax.dtypes.float0
    state = tx.init(params)
    u, new = tx.update(g, state, params)
    assert signature(new) == signature(state)
    after = gdjax.apply_updates(params, u)
    assert_equal(after["table"], params["table"])
    assert (after["a"] != params["a"]).all()


def test_a48_numpy_and_python_numbers_are_one_with_arrays():
    numpy = jax.tree.map(np.asarray, (G, PARAMS))
    assert_equal(update(gdjax.adamw(0.1), *numpy), update(gdjax.adamw(0.1)))
    u = update(gdjax.adamw(0.1), -1.0, 3.0)
    assert_equal(u, update(gdjax.adamw(0.1), G["b"], PARAMS["b"]))
    assert not u.weak_type
    assert float(gdjax.apply_updates(3.0, u)) < 3.5


def test_a49_one_array_in_two_places():
    x = jnp.ones(2)
    state = gdjax.adam(0.1).init({"a": x, "b": x})
    pointers = [leaf.unsafe_buffer_pointer() for leaf in jax.tree.leaves((x, state))]
    assert len(set(pointers)) == len(pointers)


def test_a50_deep_nesting():
    def nested(x: Any) -> Any:
        for _ in range(400):
            x = [x]
        return x

    u = update(gdjax.adamw(0.1), nested(G["b"]), nested(PARAMS["b"]))
    assert_equal(jax.tree.leaves(u)[0], update(gdjax.adamw(0.1))["b"])


@pytest.mark.slow
def test_a50_ten_thousand_leaves_are_an_equation_each():
    leaves = [jax.ShapeDtypeStruct((2,), jnp.float32)] * 10_000
    tx = gdjax.adamw(0.1)
    jaxpr = jax.make_jaxpr(tx.update)(leaves, jax.eval_shape(tx.init, leaves), leaves).jaxpr
    assert 10_000 <= len(jaxpr.eqns) < 10_010


def test_a52_integer_keys_and_ordered_dicts():
    params, g = {10: PARAMS["a"], 2: PARAMS["b"]}, {10: G["a"], 2: G["b"]}
    u = update(gdjax.adamw(0.1), g, params)
    assert_equal(u[10], update(gdjax.adamw(0.1))["a"])
    ordered = update(gdjax.adamw(0.1), *(collections.OrderedDict(t) for t in (g, params)))
    assert isinstance(ordered, collections.OrderedDict) and list(ordered) == [10, 2]


def test_a53_a_leaf_of_more_than_two_to_the_31_elements():
    big = jax.ShapeDtypeStruct((2**16, 2**16), jnp.bfloat16)
    tx = gdjax.chain(gdjax.clip_by_global_norm(1.0), gdjax.adamw(0.1))
    state = jax.eval_shape(tx.init, big)
    u, new = jax.eval_shape(tx.update, big, state, big)
    assert (u.shape, u.dtype) == (big.shape, big.dtype)
    assert signature(new) == signature(state)


def test_a52_keys_that_do_not_compare_are_an_error_of_jax():
    with pytest.raises(ValueError, match="Comparator raised exception while sorting pytree dictionary keys"):
        gdjax.adam(0.1).init({10: PARAMS["a"], "b": PARAMS["b"]})


def test_a54_gradients_that_are_not_contiguous():
    wide = np.asarray([[0.5, 9.0], [4.0, 9.0]], np.float32)
    assert not wide[:, 0].flags.contiguous
    assert_equal(update(gdjax.adamw(0.1), {**G, "a": wide[:, 0]}), update(gdjax.adamw(0.1)))


def test_a54_gradients_on_another_device_are_an_error_of_jax():
    first, *_, last = jax.devices()
    tx = gdjax.adamw(0.1)
    params, g = jax.device_put(PARAMS, first), jax.device_put(G, last)
    state = jax.device_put(tx.init(PARAMS), first)
    with pytest.raises(ValueError, match="[Ii]ncompatible devices for jitted computation"):
        tx.update(g, state, params)
    with pytest.raises(ValueError, match="[Ii]ncompatible devices for jitted computation"):
        jax.jit(tx.update)(g, state, params)


def test_a57_a_chain_state_restored_as_a_list():
    tx = gdjax.adamw(0.1)
    state = tx.init(PARAMS)
    assert_equal(tx.update(G, list(state), PARAMS), tx.update(G, state, PARAMS))


@pytest.mark.parametrize("count", [2**31 - 2, 2**31 - 1])
def test_a60_the_count_stays_at_its_largest_value(count: int):
    tx = gdjax.adam(gdjax.cosine_decay_schedule(0.1, 100, alpha=0.5))
    adam, rate = tx.init(PARAMS)
    top = jnp.int32(count)
    u, state = tx.update(G, (adam._replace(count=top), rate._replace(count=top)), PARAMS)
    assert state[0].count == state[1].count == 2**31 - 1
    assert finite(u)
    wanted = gdjax.adam(0.05)
    assert_close(u, wanted.update(G, (adam._replace(count=top), EmptyState()), PARAMS)[0])


def test_a61_a_count_that_is_negative_or_a_float():
    tx = gdjax.scale_by_adam()
    start = tx.init(PARAMS)
    wanted, new = tx.update(G, start)
    got, state = tx.update(G, start._replace(count=jnp.float32(0)))
    assert_equal(got, wanted)
    assert state.count.dtype == jnp.float32 and int(state.count) == int(new.count) == 1
    # A schedule takes a negative count for 0. Before step 1 there is no bias correction: NaN, which is not overlooked.
    rate = gdjax.scale_by_learning_rate(gdjax.linear_schedule(1.0, 0.0, 10))
    before = rate.init(PARAMS)._replace(count=jnp.int32(-3))
    assert_equal(rate.update(G, before)[0], jax.tree.map(lambda g: -g, G))
    spoilt, state = tx.update(G, start._replace(count=jnp.int32(-1)))
    assert all(np.isnan(x).all() for x in jax.tree.leaves(spoilt)) and state.count == 0 and finite(state)


def test_a62_a_moment_that_is_not_finite():
    tx = gdjax.apply_if_finite(gdjax.scale_by_adam(b2=0.9), 3)
    state = tx.init(PARAMS)

    def holding(x: float) -> Any:
        nu = {**state.inner_state.nu, "a": jnp.array([x, 0.0])}
        return tx.update(G, state._replace(inner_state=state.inner_state._replace(nu=nu)), PARAMS)

    # Behind a guard a NaN makes no step, and is counted.
    held, after = holding(float("nan"))
    assert_equal(held, jax.tree.map(jnp.zeros_like, G))
    assert after.notfinite_count == 1 and not after.last_finite
    # Without one it spoils its own element; an infinity holds its own at rest.
    inner, wanted = gdjax.scale_by_adam(b2=0.9), update(gdjax.scale_by_adam(b2=0.9))
    for x, is_so in ((jnp.nan, np.isnan), (jnp.inf, lambda u: u == 0)):
        nu = {"a": jnp.array([x, 0.0]), "b": jnp.zeros(())}
        u = inner.update(G, inner.init(PARAMS)._replace(nu=nu))[0]
        assert is_so(u["a"][0]) and u["a"][1] == wanted["a"][1] and u["b"] == wanted["b"]


def test_a63_a_donated_state_cannot_be_used_again():
    tx = gdjax.adamw(0.1)
    state = tx.init(PARAMS)
    jax.jit(tx.update, donate_argnums=1)(G, state, PARAMS)
    # As JAX says it: on the host when a deleted array is looked at, by the device when it is passed on.
    with pytest.raises((RuntimeError, ValueError), match="has been deleted"):
        tx.update(G, state, PARAMS)


def test_a64_a_state_in_another_dtype_keeps_it():
    tx = gdjax.scale_by_adam()
    state = tx.init(PARAMS)
    state = state._replace(mu=jax.tree.map(lambda x: x.astype("bfloat16"), state.mu))
    assert signature(tx.update(G, state)[1]) == signature(state)


def test_a65_a_state_of_numpy_arrays():
    tx = gdjax.adamw(0.1)
    state = tx.init(PARAMS)
    assert_equal(tx.update(G, jax.tree.map(np.asarray, state), PARAMS), tx.update(G, state, PARAMS))


def test_a81_a_value_of_another_type():
    tx = gdjax.polyak_sgd(1e9)
    state = tx.init(PARAMS)
    wanted = tx.update(G, state, PARAMS, value=jnp.float32(0.5))[0]
    for value in (0.5, np.float64(0.5), jnp.bfloat16(0.5), np.asarray(0.5)):
        assert_equal(tx.update(G, state, PARAMS, value=value)[0], wanted)
    assert_close(tx.update(G, state, PARAMS, value=1)[0], jax.tree.map(lambda u: 2 * u, wanted))


@pytest.mark.full
def test_a86_debug_nans_disable_jit_and_checkpoint():
    tx = gdjax.chain(gdjax.clip_by_global_norm(0.0), gdjax.adamw(0.1))
    zero = jax.tree.map(jnp.zeros_like, G)
    wanted = update(tx, zero)
    with jax.debug_nans(True):
        assert_equal(update(tx, zero), wanted)
        assert finite(update(gdjax.rmsprop(0.1, eps=0.0), zero))
    with jax.disable_jit():
        assert_close(update(tx, G), update(tx, G))

    @jax.checkpoint
    def total(g: Any) -> Any:
        return sum(jnp.sum(u) for u in jax.tree.leaves(update(gdjax.adam(0.1), g)))

    assert finite(jax.grad(total)(zero))


def test_a87_64_bits_on_and_off():
    first = update(gdjax.adamw(0.1))
    with precision("float64"):
        wide = update(gdjax.adamw(0.1), random_tree(1, "float64"), random_tree(0, "float64"))
        assert {x.dtype for x in jax.tree.leaves(wide)} == {jnp.dtype("float64")}
        assert_close(update(gdjax.adamw(0.1)), first)
    assert_equal(update(gdjax.adamw(0.1)), first)


def test_a88_no_transfers():
    tx = gdjax.chain(gdjax.clip_by_global_norm(1.0), gdjax.adamw(gdjax.cosine_decay_schedule(0.1, 10)))
    state, step = tx.init(PARAMS), jax.jit(tx.update)
    step(G, state, PARAMS)
    with jax.transfer_guard("disallow"):
        jax.block_until_ready(step(G, state, PARAMS))
        jax.block_until_ready(tx.update(G, state, PARAMS))


@jax.tree_util.register_pytree_node_class
class Module(dict):
    """A pytree that can be called, as models are: a mask made from one must not be taken for a function."""

    def __call__(self, x: Any) -> Any:
        raise AssertionError("called")

    def tree_flatten(self) -> Any:
        return [self[k] for k in sorted(self)], tuple(sorted(self))

    @classmethod
    def tree_unflatten(cls, keys: Any, values: Any) -> Any:
        return cls(zip(keys, values, strict=True))


def test_a92_a_mask_that_is_a_callable_module():
    params, g = Module(PARAMS), Module(G)
    u = update(gdjax.masked(gdjax.scale(2.0), Module(a=True, b=False)), g, params)
    assert_equal(dict(u), {"a": 2 * G["a"], "b": G["b"]})


def test_a93_noise_is_a_function_of_key_and_step():
    tx, zero = gdjax.add_noise(1.0, 0.0, key=3), jax.tree.map(jnp.zeros_like, G)
    state = tx.init(PARAMS)
    first, state = tx.update(zero, state)
    second, _ = tx.update(zero, state)
    assert_equal(tx.update(zero, tx.init(PARAMS))[0], first)
    assert (first["a"] != second["a"]).all() and first["a"][0] != first["a"][1]


def test_a94_two_threads():
    tx, results = gdjax.adamw(0.1), {}
    step = jax.jit(tx.update)

    def run(i: int) -> None:
        results[i] = step(G, tx.init(PARAMS), PARAMS)

    threads = [threading.Thread(target=run, args=(i,)) for i in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for i in range(4):
        assert_equal(results[i], results[0])


LARGEST = float(jnp.finfo("float32").max)


@pytest.mark.parametrize("value", [1e20, -3e38, 1e-20, 1e-40, LARGEST])
def test_a69_one_extreme_gradient(value: float):
    extreme = jax.tree.map(lambda x: jnp.full_like(x, value), G)
    for tx in (gdjax.clip_by_global_norm(1.0), gdjax.sgd(0.1), gdjax.lion(0.1), gdjax.rmsprop(0.1)):
        assert finite(update(tx, extreme))
