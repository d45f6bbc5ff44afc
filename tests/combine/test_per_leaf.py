"""Numbers that differ from leaf to leaf."""

import pickle
import re
import warnings
from typing import Any

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import gdjax
from gdjax.lift import one_leaf
from tests.support import relaxed
from tests.trees import assert_close, assert_equal

PARAMS = {
    "embed": jnp.ones((4, 2)),
    "layers": [{"w": jnp.arange(6.0).reshape(2, 3), "b": jnp.ones(3)}, {"w": jnp.ones((2, 3)), "b": jnp.full(3, 2.0)}],
    "head": jnp.ones((2, 3)),
}
GRADS = jax.tree.map(lambda p: 0.3 * p - 0.1, PARAMS)
RATES = {"head": 8.0, "^layers/0/": 0.25}
schedule = gdjax.linear_schedule(0.1, 0.02, 7)


def of(path: str, rules: Any) -> float:
    return next((x for pattern, x in rules.items() if re.search(pattern, path)), 1.0)


def by_path(f: Any, *trees: Any) -> Any:
    return jax.tree_util.tree_map_with_path(
        lambda keys, *xs: f(jax.tree_util.keystr(keys, simple=True, separator="/"), *xs), *trees
    )


def trained(tx: Any, number: int = 4, params: Any = PARAMS, jit: bool = True) -> Any:
    state, update = tx.init(params), jax.jit(tx.update) if jit else tx.update
    for i in range(number):
        updates, state = update(jax.tree.map(lambda g, i=i: g * (i + 1), GRADS), state, params)
        params = gdjax.apply_updates(params, updates)
    return params


def apart(make: Any, rates: Any, decays: Any = None) -> Any:
    """The same by hand: one optimizer for each leaf."""
    factors = by_path(lambda path, _: (of(path, rates), of(path, decays or {})), PARAMS)
    labels = by_path(lambda path, _: path, PARAMS)
    pairs = jax.tree.leaves(factors, is_leaf=lambda x: isinstance(x, tuple))
    transforms = {path: make(*pair) for path, pair in zip(jax.tree.leaves(labels), pairs, strict=True)}
    return gdjax.partition(transforms, labels)


@pytest.mark.full
@pytest.mark.parametrize("rate", [0.125, schedule], ids=["number", "schedule"])
def test_it_is_the_factor_by_hand(rate: Any):
    decays = {"/b$|embed": 0.0, "head": 2.0}

    def own(factor: float, decay: float) -> Any:
        scaled = (lambda count: rate(count) * factor) if callable(rate) else rate * factor
        return gdjax.adamw(scaled, weight_decay=0.0625 * decay)

    tx = gdjax.adamw(gdjax.per_leaf(rate, RATES), weight_decay=gdjax.per_leaf(0.0625, decays))
    assert_equal(trained(tx), trained(apart(own, RATES, decays)))
    assert_close(trained(tx, jit=False), trained(tx), rtol=1e-6)


@pytest.mark.filterwarnings("ignore:gdjax.muon. it trains these leaves as hidden")  # on purpose
@pytest.mark.parametrize("name", ["sgd", "lion", "muon", "lamb", "adafactor", "madgrad", "rmsprop"])
def test_with_other_optimizers(name: str):
    make = getattr(gdjax, name)
    tx = make(gdjax.per_leaf(0.125, RATES))
    for factor, path in ((8.0, "head"), (1.0, "embed")):
        assert_close(trained(tx)[path], trained(make(0.125 * factor))[path], rtol=1e-6)


@pytest.mark.full
def test_behind_a_transform_of_another_library():
    tx = gdjax.chain(optax.adam(0.125), gdjax.scale(gdjax.per_leaf(1.0, RATES)))
    with relaxed():
        assert_close(trained(tx), trained(gdjax.adam(gdjax.per_leaf(0.125, RATES))), rtol=1e-5)


def test_there_is_no_state_and_the_base_is_told():
    tx, plain = gdjax.adamw(gdjax.per_leaf(schedule, RATES)), gdjax.adamw(schedule)
    state = tx.init(PARAMS)
    chex.assert_trees_all_equal_shapes_and_dtypes(state, plain.init(PARAMS))
    _, state = tx.update(GRADS, state, PARAMS)
    assert_close(gdjax.get_hyperparams(tx, state)["learning_rate"], schedule(1))
    number = gdjax.sgd(gdjax.per_leaf(0.1, RATES))
    assert jax.tree.leaves(number.init(PARAMS)) == []
    assert gdjax.get_hyperparams(number, number.init(PARAMS)) == {"learning_rate": 0.1}


@pytest.mark.full
def test_forms_of_factors():
    tree = {"embed": 1.0, "layers": [0.25, {"w": 1.0, "b": 1.0}], "head": 8.0}
    expected = trained(gdjax.adam(gdjax.per_leaf(0.125, RATES)))
    for factors in (tree, lambda params: tree, {re.compile("HEAD", re.I): 8.0, lambda path, leaf: "s/0" in path: 0.25}):
        assert_equal(trained(gdjax.adam(gdjax.per_leaf(0.125, factors))), expected)
    # The first pattern counts; nested ones multiply.
    first = gdjax.per_leaf(0.125, {"head": 8.0, "^layers/0/": 0.25, "^layers/0/w": 99.0, ".*": 1.0})
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        assert_equal(trained(gdjax.adam(first)), expected)
    nested = gdjax.per_leaf(gdjax.per_leaf(0.125, {"head": 4.0}), {"head": 2.0, "^layers/0/": 0.25})
    assert_equal(trained(gdjax.adam(nested)), expected)
    # An array goes along the axes of its leaf.
    rows = gdjax.per_leaf(0.125, {"head": np.asarray([[1.0], [3.0]], "float32")})
    one, three = (trained(gdjax.adam(0.125 * x))["head"][i] for i, x in enumerate((1.0, 3.0)))
    assert_close(trained(gdjax.adam(rows))["head"], jnp.stack([one, three]), rtol=1e-6)


@pytest.mark.full
def test_under_scan_and_vmap():
    tx = gdjax.adamw(gdjax.per_leaf(schedule, RATES))

    def body(carry: Any, i: Any) -> Any:
        params, state = carry
        updates, state = tx.update(jax.tree.map(lambda g: g * (i + 1), GRADS), state, params)
        return (gdjax.apply_updates(params, updates), state), None

    (params, _), _ = jax.lax.scan(body, (PARAMS, tx.init(PARAMS)), jnp.arange(4.0))
    assert_close(params, trained(tx), rtol=1e-6)

    def run(rate: Any, factor: Any) -> Any:
        return trained(gdjax.adamw(gdjax.per_leaf(rate, {"head": factor})), jit=False)

    many = jax.vmap(run)(jnp.asarray([0.1, 0.2]), jnp.asarray([1.0, 3.0]))
    for i, (rate, factor) in enumerate([(0.1, 1.0), (0.2, 3.0)]):
        alone = trained(gdjax.adamw(gdjax.per_leaf(rate, {"head": factor})))
        assert_close(jax.tree.map(lambda x, i=i: x[i], many), alone, rtol=1e-5)


@pytest.mark.full
def test_in_groups_masks_accumulation_and_injection():
    tx = gdjax.sgd(gdjax.per_leaf(0.125, RATES))
    expected = trained(tx)
    groups = gdjax.partition({"all": tx, "head": tx}, gdjax.label_by_path({"head": "head", ".*": "all"}))
    assert_equal(trained(groups), expected)
    whole = gdjax.sgd(gdjax.per_leaf(0.125, {"embed": 1.0, "layers": [0.25, {"w": 1.0, "b": 1.0}], "head": 8.0}))
    hidden = gdjax.partition({1: whole, 2: whole}, {"embed": 1, "layers": 2, "head": 1})
    assert_equal(trained(hidden), expected)
    masked = gdjax.adamw(0.125, weight_decay=gdjax.per_leaf(0.5, {"head": 2.0}), mask=gdjax.mask_by_path("head", "/w$"))
    decays = {"head": 2.0, "/w$": 1.0, ".*": 0.0}
    assert_equal(trained(masked), trained(gdjax.adamw(0.125, weight_decay=gdjax.per_leaf(0.5, decays))))
    many = gdjax.MultiSteps(tx, 2).gradient_transformation()
    state, params = many.init(PARAMS), PARAMS
    for _ in range(2):
        updates, state = many.update(GRADS, state, params)
        params = gdjax.apply_updates(params, updates)
    assert_close(params, trained(tx, 1), rtol=1e-6)
    injected = gdjax.inject_hyperparams(gdjax.sgd)(gdjax.per_leaf(0.5, RATES))
    state = injected.init(PARAMS)
    assert {k: float(x) for k, x in state.hyperparams.items() if k == "learning_rate"} == {"learning_rate": 0.5}
    state.hyperparams["learning_rate"] = jnp.asarray(0.125)
    updates, _ = injected.update(GRADS, state, PARAMS)
    assert_equal(gdjax.apply_updates(PARAMS, updates), trained(tx, 1))
    scheduled = gdjax.inject_hyperparams(gdjax.sgd)(gdjax.per_leaf(schedule, RATES))
    assert_close(trained(scheduled), trained(gdjax.sgd(gdjax.per_leaf(schedule, RATES))), rtol=1e-6)


@pytest.mark.full
def test_a_wrapper_and_a_warm_up():
    for make in (lambda rate: gdjax.cautious(gdjax.adamw(rate)), lambda rate: gdjax.schedule_free_sgd(rate, 3)):
        assert_close(
            trained(make(gdjax.per_leaf(0.125, {"layers": 2.0})))["embed"], trained(make(0.125))["embed"], rtol=1e-6
        )
    moved = trained(gdjax.schedule_free_sgd(gdjax.per_leaf(0.125, {"layers": 2.0}), 3))["layers"]
    assert_close(moved, trained(gdjax.schedule_free_sgd(0.25, 3))["layers"], rtol=1e-6)


def test_two_numbers_of_one_rule_with_equal_factors():
    """Adam's eps and eps_root, which differ by far: a number that takes the other's product is off by orders."""
    tx = gdjax.adam(0.1, eps=gdjax.per_leaf(0.5, RATES), eps_root=gdjax.per_leaf(1e-3, RATES))
    found, wanted = trained(tx), trained(apart(lambda f, _: gdjax.adam(0.1, eps=0.5 * f, eps_root=1e-3 * f), RATES))
    off = by_path(lambda _, x, y: float(jnp.max(jnp.abs(x - y))), found, wanted)
    assert max(jax.tree.leaves(off)) < 1e-6, f"eps or eps_root is not its own base times the factor of the leaf: {off}"


def test_leaves_alike_share_a_trace():
    calls = []

    @gdjax.leafwise()
    def counted(g: Any, s: Any, p: Any, t: Any, rate: Any) -> Any:
        calls.append(g.shape)
        return rate * g, s

    params = {str(i): jnp.ones(7) for i in range(6)}
    tx = counted(gdjax.per_leaf(schedule, {str(i): 0.5**i for i in range(5)}))
    text = str(jax.make_jaxpr(tx.update)(params, tx.init(params), params))
    assert len(calls) == 1 and text.count("jaxpr={") < 12
    one_leaf.kernel_of.cache_clear()


@pytest.mark.parametrize("decay", [0.1, lambda count: jnp.float32(0.1)], ids=["number", "schedule"])
def test_a_decay_of_0_does_not_read_the_parameter(decay: Any):
    tx = gdjax.add_decayed_weights(gdjax.per_leaf(decay, {"b": 0.0}))
    params = {"a": jnp.ones(2), "b": jnp.full(2, jnp.nan)}
    updates, _ = tx.update({"a": jnp.ones(2), "b": jnp.ones(2)}, tx.init(params), params)
    assert_close(updates, {"a": jnp.full(2, 1.1), "b": jnp.ones(2)})


def test_a_pattern_that_decides_for_no_leaf_is_a_warning():
    with pytest.warns(
        UserWarning, match="^gdjax.per_leaf: no leaf is given the factor 8.0 by the rule 'haed': it matches"
    ):
        gdjax.sgd(gdjax.per_leaf(0.1, {"haed": 8.0})).init(PARAMS)
    # Not in a group, where the leaf may be hidden, and not in an update.
    tx = gdjax.sgd(gdjax.per_leaf(0.1, {"head": 8.0}))
    groups = gdjax.partition({1: tx, 2: tx}, gdjax.label_by_path({"head": 1, ".*": 2}))
    groups.update(GRADS, groups.init(PARAMS), PARAMS)


def test_values():
    make = lambda: gdjax.adamw(gdjax.per_leaf(schedule, RATES))
    assert make() == make() and hash(make()) == hash(make()) and pickle.loads(pickle.dumps(make())) == make()
    assert make() != gdjax.adamw(gdjax.per_leaf(schedule, {**RATES, "head": 2.0}))
    rate = gdjax.per_leaf(0.1, RATES)
    assert repr(rate) == "per_leaf(0.1, {'head': 8.0, '^layers/0/': 0.25})"
    assert rate == gdjax.per_leaf(0.1, RATES) != gdjax.per_leaf(0.2, RATES) and hash(rate) == hash(
        pickle.loads(pickle.dumps(rate))
    )


def stepped(tx: Any) -> Any:
    return tx.update(PARAMS, tx.init(PARAMS), PARAMS)


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda: gdjax.per_leaf(None, {}), TypeError, "gdjax.per_leaf: base must be a number"),
        (lambda: gdjax.per_leaf(0.1, {"a": "b"}), TypeError, "gdjax.per_leaf: a factor is 'b', not a number"),
        (lambda: gdjax.per_leaf(0.1, {"a": jnp.inf}), ValueError, "gdjax.per_leaf: the factors must be finite"),
        (lambda: gdjax.per_leaf(0.1, {1: 2.0}), TypeError, "gdjax.per_leaf: 1 is neither a regular expression"),
        (lambda: gdjax.sgd(gdjax.per_leaf(-0.1, {})), ValueError, "gdjax.sgd: learning_rate must be finite and"),
        (lambda: gdjax.sgd(gdjax.per_leaf(schedule, {"a": -1.0})), ValueError, "rate times a factor of per_leaf"),
        (lambda: gdjax.adam(0.1, gdjax.per_leaf(0.9, {"a": 1.2})), ValueError, r"gdjax.adam: b1 times .* in \[0, 1\)"),
        (lambda: stepped(gdjax.prodigy(gdjax.per_leaf(1.0, {}))), TypeError, "gdjax.prodigy: .* made of learning_rate"),
        (lambda: gdjax.rprop(gdjax.per_leaf(1.0, {})), TypeError, "rprop: learning_rate must be one number for"),
        (lambda: gdjax.sgd({"head": 0.1}), TypeError, r"write per_leaf\(rate, \{pattern: factor\}\)"),
        (lambda: gdjax.sgd(gdjax.per_leaf(0.1, [1.0])).init(PARAMS), ValueError, "there is no factor for embed"),
        (
            lambda: gdjax.sgd(gdjax.per_leaf(0.1, {"a": 1.0, "b": [2.0]})).init({"a": jnp.ones(2)}),
            ValueError,
            "gdjax.per_leaf: the parameters have no b/0; they have a",
        ),
    ],
)  # fmt: skip
def test_errors(make: Any, error: Any, message: str):
    with pytest.raises(error, match=message):
        make()
