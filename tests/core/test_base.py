"""The contract's types, and the transforms that have no rule."""

import argparse
import copy
import functools
import pickle
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import gdjax
from gdjax import EmptyState, GradientTransformation, GradientTransformationExtraArgs, MaskedNode
from tests.support import checking_leaks
from tests.trees import assert_equal, random_tree

PARAMS, G = random_tree(0), random_tree(1)


def test_a_transformation_is_a_pair():
    assert GradientTransformation._fields == ("init", "update")
    assert gdjax.GradientTransformationExtraArgs._fields == ("init", "update")
    assert (EmptyState._fields, MaskedNode._fields) == ((), ())
    tx = GradientTransformation(len, max)  # nothing is checked: JAX makes them of any leaves
    assert tuple(tx) == (len, max) and "GradientTransformation" in repr(tx)


def test_identity_and_set_to_zero():
    for tx, wanted in ((gdjax.identity(), G), (gdjax.set_to_zero(), jax.tree.map(jnp.zeros_like, G))):
        assert tx.init(PARAMS) == EmptyState()
        assert_equal(tx.update(G, EmptyState(), PARAMS), (wanted, EmptyState()))


def test_identity_takes_any_leaves():
    key = jax.random.key(0)
    assert gdjax.identity().update({"key": key, "name": "x"}, EmptyState())[0] == {"key": key, "name": "x"}


def test_stateless():
    def add(g: Any, p: Any) -> Any:
        return g if p is None else jax.tree.map(lambda x, y: x + y, g, p)

    tx = gdjax.stateless(add)
    assert_equal(tx.update(G, EmptyState(), PARAMS)[0], add(G, PARAMS))
    assert_equal(tx.update(G, EmptyState())[0], G)
    tx = gdjax.stateless_with_tree_map(lambda g, p: g if p is None else g + p)
    assert_equal(tx.update(G, EmptyState(), PARAMS)[0], add(G, PARAMS))
    assert_equal(tx.update(G, EmptyState())[0], G)


def test_a_factory_of_ones_own():
    @gdjax.transform
    def twice(learning_rate: float, wait: int = 3) -> Any:
        return gdjax.chain(gdjax.scale(learning_rate), gdjax.trace(0.5))

    assert repr(twice(0.1)) == "twice(learning_rate=0.1, wait=3)"
    assert twice(0.1) == twice(0.1) != twice(0.2)
    assert twice(-0.1).init(PARAMS)  # only the library's own factories know what their numbers mean
    with pytest.raises(ValueError, match=r"^twice: params\['x'\]: gradient shape \(3,\) does not match"):
        twice(0.1).update({"x": jnp.ones(3)}, twice(0.1).init({"x": jnp.ones(2)}), {"x": jnp.ones(2)})


class Own(GradientTransformation):
    """A class of ones own, as `Aggregator` is one."""


@gdjax.transform
def halved() -> Any:
    return Own(*gdjax.scale(0.5))


def test_a_factory_keeps_the_class_of_what_it_returns():
    assert type(halved()) is Own and halved() == halved() and repr(halved()) == "halved()"
    assert type(gdjax.scale(0.5)) is GradientTransformationExtraArgs


def plain_update(u: Any, s: Any, p: Any = None) -> Any:
    return jax.tree.map(lambda x: 2.0 * x, u), s


@gdjax.transform
def doubled() -> Any:
    return GradientTransformation(gdjax.init_empty_state, plain_update)


def test_a_users_plain_transform_takes_no_extra_arguments():
    """Programs ask isinstance, and then pass `value=`."""
    plain = GradientTransformation(gdjax.init_empty_state, plain_update)
    for library in (gdjax, optax):
        assert isinstance(plain, library.GradientTransformation)
        assert not isinstance(plain, library.GradientTransformationExtraArgs)
    for tx in (doubled(), gdjax.with_extra_args_support(plain), gdjax.chain(plain), gdjax.from_optax(plain)):
        assert isinstance(tx, GradientTransformationExtraArgs) and isinstance(tx, optax.GradientTransformationExtraArgs)
        assert_equal(tx.update(G, tx.init(PARAMS), PARAMS, value=1.0)[0], jax.tree.map(lambda x: 2.0 * x, G))
    for again in (copy.copy(plain), pickle.loads(pickle.dumps(plain)), plain._replace(init=len)):
        assert type(again) is GradientTransformation
    assert repr(plain).startswith("GradientTransformation(<")


def test_what_takes_extra_arguments_by_a_plain_class_gets_them():
    heard: list[Any] = []
    listening = GradientTransformation(len, lambda u, s, p=None, **extra: (heard.append(sorted(extra)), (u, s))[1])
    tx = gdjax.with_extra_args_support(listening)
    assert type(tx) is GradientTransformationExtraArgs and gdjax.with_extra_args_support(tx) is tx
    tx.update(G, 0, value=1.0)
    assert heard == [["value"]]


def test_an_eager_update_is_one_compiled_call():
    tx, compiled = gdjax.adam(0.123), gdjax.core.base._compiled
    state = tx.init(PARAMS)
    before = compiled._cache_size()
    for _ in range(3):
        _, state = tx.update(G, state, PARAMS)
    assert compiled._cache_size() == before + 1


def test_an_eager_update_calls_the_functions_of_the_program_in_every_step():
    now = {"rate": 0.5}
    rate = lambda count: now["rate"]
    own = gdjax.GradientTransformation(gdjax.init_empty_state, lambda u, s, p=None: (rate(0) * u, s))

    @gdjax.transform
    def mine(factor: float) -> Any:
        return gdjax.chain(gdjax.scale(factor), own)

    for tx in (
        gdjax.scale_by_schedule(rate), gdjax.chain(gdjax.scale_by_schedule(gdjax.join_schedules([rate, rate], [9]))),
        gdjax.stateless(lambda u, p: rate(0) * u), gdjax.partition({"a": own}, "a"), gdjax.chain(mine(1.0)), mine(1.0),
        gdjax.inject_hyperparams(gdjax.scale)(step_size=rate), gdjax.scale_by_schedule(functools.partial(rate)),
        gdjax.scale_by_schedule(jax.tree_util.Partial(rate)),
        gdjax.scale(gdjax.per_leaf(rate, {".*": 1.0})),
    ):  # fmt: skip
        g, state, seen = jnp.ones(2), tx.init(jnp.ones(2)), []
        for now["rate"] in (0.5, 0.25, 2.0):
            u, state = tx.update(g, state, g)
            seen.append(float(u[0]))
        assert seen == [0.5, 0.25, 2.0], tx


def test_an_argument_that_was_changed_in_place_makes_another_transform():
    class Plain:
        rate = 0.0

    @gdjax.transform
    def mine(given: Any) -> Any:
        return gdjax.scale(float(given.rate))

    g = jnp.ones(2)
    for given in (Plain(), argparse.Namespace(rate=0.0)):
        made = [mine(given)]
        for given.rate in (0.5, 2.0):
            made.append(mine(given))
            assert made[-1] != made[-2] and not made[-1] == made[-2] and made[-1] == made[-1]
            for update in (made[-1].update, jax.jit(made[-1].update)):
                assert float(update(g, made[-1].init(g))[0][0]) == given.rate
    array = np.array(0.0)
    for array[...] in (0.5, 2.0):
        assert float(gdjax.scale(array).update(g, gdjax.scale(array).init(g))[0][0]) == float(array)


@pytest.mark.parametrize("around", [lambda tx: tx, lambda tx: gdjax.chain(gdjax.clip(1.0), tx)])
def test_labels_that_were_changed_since_are_told(around: Any):
    """Optax reads them again in `init`: who unfreezes layers so would train nothing here without a word."""
    labels, p = {"body": "none", "head": "train"}, {"body": jnp.ones(2), "head": jnp.ones(2)}
    tx = around(gdjax.partition({"none": gdjax.set_to_zero(), "train": gdjax.sgd(0.1)}, labels))
    tx.init(p)  # nothing to tell
    labels["body"] = "train"
    with pytest.warns(UserWarning, match="gdjax.partition: param_labels was changed after the transform was made"):
        state = tx.init(p)
    assert float(tx.update(p, state, p)[0]["body"][0]) == 0.0


def test_leaves_that_lie_on_several_devices_by_hand():
    p = {k: jax.device_put(jnp.ones(2), d) for k, d in zip("ab", jax.devices(), strict=False)}
    for tx in (gdjax.sgd(0.5, momentum=0.9), gdjax.chain(gdjax.clip(1.0), gdjax.scale(-0.5))):
        u, _ = tx.update(p, tx.init(p), p)
        for k, x in gdjax.apply_updates(p, u).items():
            assert x.devices() == p[k].devices() and float(x[0]) == 0.5


def test_a_pattern_that_is_a_function_is_called_in_every_step():
    chosen, g = ["a"], {"a": jnp.ones(1), "b": jnp.ones(1)}
    tx = gdjax.scale(gdjax.per_leaf(1.0, {(lambda path, x: path == chosen[0]): 3.0}))
    state = tx.init(g)
    for chosen[0], wanted in (("a", 3.0), ("b", 1.0)):
        assert float(tx.update(g, state, g)[0]["a"][0]) == wanted


def test_arguments_of_any_class_and_factories_that_return_nothing():
    class Dict(dict[str, float]):
        __getattr__ = dict.__getitem__

    @gdjax.transform
    def mine(given: Any) -> Any:
        return gdjax.scale(given.rate) if given else None

    assert mine(Dict(rate=0.5)).update(jnp.ones(1), EmptyState())[0][0] == 0.5
    with pytest.raises(TypeError, match="^mine returned None, which has no init and update"):
        mine({})


def test_a_function_of_the_program_gets_what_the_program_gave():
    def update(u: Any, s: Any, p: Any = None, *, number: Any, chosen: Any, **_: Any) -> Any:
        assert chosen is True and type(number) is int
        return u.at[:number].set(0.0) - u[u > 2].mean(), s  # neither can be traced

    tx = gdjax.chain(GradientTransformationExtraArgs(gdjax.init_empty_state, update), gdjax.scale(2.0))
    g = jnp.array([1.0, 2.0, 4.0])
    assert_equal(tx.update(g, tx.init(g), g, number=1, chosen=True)[0], jnp.array([-8.0, -4.0, 0.0]))


@pytest.mark.parametrize("narrow", ["bfloat16", "float16"])
def test_an_update_is_as_wide_as_its_parameter(narrow: str):
    g, p = {"x": jnp.ones(1, narrow), "y": jnp.ones(1, narrow)}, {"x": jnp.ones(1), "y": jnp.ones(1, narrow)}
    tx = gdjax.sgd(1.0, momentum=0.5), gdjax.chain(gdjax.add_decayed_weights(1e-4), gdjax.sgd(1.0, momentum=0.5))
    plain, decayed = (each.update(g, each.init(p), p)[0] for each in tx)
    assert (plain["x"].dtype, plain["y"].dtype) == (jnp.float32, g["y"].dtype)
    assert float(plain["x"][0] - decayed["x"][0]) == pytest.approx(1e-4, rel=1e-2)  # bfloat16 would give 0 or 0.0078
    assert tx[0].update(g, tx[0].init(p))[0]["x"].dtype == g["x"].dtype  # nothing is known of the parameters


def test_traced_hyperparameters_do_not_leak():
    g = jnp.ones(3)

    def loss(rate: Any) -> Any:
        tx = gdjax.adam(rate)
        return jnp.sum(tx.update(g, tx.init(g))[0])  # concrete arguments, but the transform holds a tracer

    with checking_leaks():
        first, slope = jax.jit(jax.value_and_grad(loss))(0.1)
    assert float(slope) == pytest.approx(10 * float(first), rel=1e-5)


def test_a_traced_hyperparameter_beside_concrete_gradients_does_not_leak():
    g = jnp.ones(3)

    def update(rate: Any) -> Any:
        tx = gdjax.sgd(rate)
        return tx.update(g, tx.init(g))[0]

    with checking_leaks():
        got = jax.jit(update)(0.1)
    assert jnp.allclose(got, -0.1)
