"""`migrate`: what an optimizer knew goes on in another one."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import gdjax
from tests.support import relaxed
from tests.trees import assert_close, assert_equal, random_tree, signature

PARAMS, G = random_tree(0), random_tree(1)
GROUPS = gdjax.label_by_path({"dense": "a", ".*": "b"})
SCHEDULE = gdjax.linear_schedule(0.1, 0.0, 9)


def stepped(tx: Any, n: int = 3) -> Any:
    state = tx.init(PARAMS)
    for _ in range(n):
        _, state = tx.update(G, state, PARAMS)
    return state


def migrated(old: Any, new: Any, state: Any = None) -> tuple[Any, gdjax.MigrationReport]:
    made, report = gdjax.migrate(stepped(old) if state is None else state, old, new, PARAMS)
    assert signature(made) == signature(new.init(PARAMS))
    return made, report


@pytest.mark.full
def test_what_is_around_a_transform_may_change():
    plain, state = gdjax.adamw(SCHEDULE), stepped(gdjax.adamw(SCHEDULE))
    around = {
        "clip": gdjax.chain(gdjax.clip_by_global_norm(1.0), plain),
        "guard": gdjax.apply_if_finite(plain, 3),
        "accumulation": gdjax.MultiSteps(plain, 2),
        "metrics": gdjax.with_metrics(plain),
        "masked": gdjax.masked(plain, lambda p: jax.tree.map(lambda _: True, p)),
    }
    for tx in around.values():
        made, report = migrated(plain, tx)
        assert report.dropped == () and set(report.carried.values()) == {
            "scale_by_adam/count", "scale_by_adam/mu", "scale_by_adam/nu", "scale_by_schedule/count",
        }  # fmt: skip
        back, again = migrated(tx, plain, made)
        assert_equal(back, state)
        assert again.anew == ()


def test_a_removed_and_a_new_transform_are_told():
    old, new = gdjax.chain(gdjax.trace(0.9), gdjax.sgd(SCHEDULE)), gdjax.chain(gdjax.ema(0.9), gdjax.sgd(SCHEDULE))
    made, report = migrated(old, new)
    assert (report.carried, report.anew, report.dropped) == (
        {"scale_by_schedule/count": "scale_by_schedule/count"}, ("ema/count", "ema/ema"), ("trace/trace",),
    )  # fmt: skip
    assert str(report) == "carried  scale_by_schedule/count\nanew     ema/count\nanew     ema/ema\ndropped  trace/trace"
    assert_equal(made[0], gdjax.ema(0.9).init(PARAMS))


def test_from_adamw_to_muon_and_lion():
    state = stepped(gdjax.adamw(0.1))
    made, report = migrated(gdjax.adamw(0.1), gdjax.contrib.muon(0.1))
    muon = gdjax.tree.get(made, "MuonState")
    assert_equal(muon.mu["dense"]["kernel"], state[0].mu["dense"]["kernel"])
    assert int(muon.count) == 3 and any("ns_coeffs" in x for x in report.anew)
    adam = gdjax.tree.get(made, "ScaleByAdamState")
    assert_equal((adam.mu["dense"]["bias"], adam.nu["scale"]), (state[0].mu["dense"]["bias"], state[0].nu["scale"]))
    lion, report = migrated(gdjax.adamw(0.1), gdjax.lion(0.1))
    assert_equal((lion[0].mu, lion[0].count), (state[0].mu, state[0].count))
    assert report.dropped == ("scale_by_adam/nu",)


def test_from_rmsprop_to_adam_second_moments():
    old = gdjax.rmsprop(0.1)
    state = stepped(old, 200)  # the average is the square of G
    made, report = migrated(old, gdjax.adam(0.1, b2=0.75), state)
    assert_close(made[0].nu, jax.tree.map(lambda g: 0.25 * g * g, G), rtol=1e-5)
    again, _ = migrated(old, gdjax.chain(gdjax.clip(9.0), old), state)
    assert_equal(again[1], state)
    assert int(made[0].count) == 0 and report.anew == ("scale_by_adam/count", "scale_by_adam/mu")


def test_a_sum_becomes_an_average_with_the_weight_of_one_gradient_and_an_average_a_sum():
    sgd, adam = gdjax.sgd(0.1, momentum=0.8), gdjax.adam(0.1, b1=0.6)
    state = stepped(sgd, 200)  # the sum is G / (1 - 0.8)
    made, report = migrated(sgd, adam, state)
    assert_close(made[0].mu, jax.tree.map(lambda g: 0.4 * g, G), rtol=1e-5)
    assert int(made[0].count) == 0 and report.carried == {"scale_by_adam/mu": "trace/trace"}
    lion, _ = migrated(sgd, gdjax.lion(0.1), state)
    assert_close(lion[0].mu, G, rtol=1e-5)
    back, _ = migrated(adam, sgd, stepped(adam, 200))
    assert_close(back[0].trace, jax.tree.map(lambda g: g / (1 - 0.8), G), rtol=1e-5)
    first = adam.update(G, made, PARAMS)[0]  # of at most 1 + b1 rates
    assert 0.1 < max(float(jnp.max(jnp.abs(x))) for x in jax.tree.leaves(first)) <= 0.1601


def test_a_state_of_optax():
    with relaxed():
        import optax

        theirs = optax.adamw(0.1)
        state = stepped(theirs)
        new = gdjax.chain(gdjax.clip(1.0), gdjax.adamw(0.1))
        made, _ = gdjax.migrate(state, theirs, new, PARAMS)
        assert_equal(made[1][0], gdjax.state_from_optax(state[0]))
        momentum = optax.sgd(0.1, momentum=0.9)
        _, report = gdjax.migrate(stepped(momentum), momentum, gdjax.adam(0.1), PARAMS)
        assert report.carried == {} and report.dropped == ("trace/trace",)


def test_a_group_of_some_parameters_and_a_shape_that_changed():
    new = gdjax.partition({"a": gdjax.adam(0.1), "b": gdjax.sgd(0.1)}, GROUPS)
    made, report = migrated(gdjax.adam(0.1), new)
    state = stepped(gdjax.adam(0.1))[0]
    adam = gdjax.tree.get(made, "ScaleByAdamState")
    assert_equal((adam.mu["dense"], adam.count), (state.mu["dense"], state.count))
    back, report = migrated(new, gdjax.adam(0.1), made)
    assert report.anew == ("scale_by_adam/mu/scale", "scale_by_adam/nu/scale")
    assert float(back[0].mu["scale"]) == 0
    wide = gdjax.adafactor(0.1, min_dim_size_to_factor=2), gdjax.adafactor(0.1, min_dim_size_to_factor=200)
    _, report = migrated(*wide)
    assert "factored/v/dense/kernel" in report.anew


def test_groups_become_one_and_the_other_way_round():
    adam = gdjax.adam(0.1)
    groups = gdjax.partition({"a": adam, "b": adam}, GROUPS)
    made, report = migrated(groups, adam)
    assert_equal(made, stepped(adam))
    assert report.anew == ()
    apart, report = migrated(adam, groups)
    assert_equal(apart, stepped(groups))
    # Of two sums for one parameter the first is taken.
    two, one = gdjax.chain(gdjax.trace(0.9), gdjax.trace(0.5)), gdjax.named_chain(("m", gdjax.trace(0.9)))
    _, report = migrated(gdjax.named_chain(("x", gdjax.trace(0.9)), ("y", gdjax.trace(0.5))), one)
    assert report.dropped == ("y/trace/trace",) and report.carried == {"m/trace/trace": "x/trace/trace"}
    same, _ = migrated(two, two)
    assert_equal(same, stepped(two))


def test_carried_arrays_take_the_dtype_of_the_new_state():
    made, _ = migrated(gdjax.adam(0.1), gdjax.adam(0.1, mu_dtype="bfloat16"))
    assert made[0].mu["scale"].dtype == jnp.bfloat16
    np.testing.assert_allclose(float(made[0].mu["scale"]), float(stepped(gdjax.adam(0.1))[0].mu["scale"]), rtol=1e-2)


def test_errors():
    with pytest.raises(
        ValueError, match="^gdjax.migrate: the state is not one of trace.*only one of the two has scale"
    ):
        gdjax.migrate(stepped(gdjax.adam(0.1)), gdjax.trace(0.9), gdjax.adam(0.1), PARAMS)
    with pytest.raises(TypeError, match="^gdjax.migrate: "):
        gdjax.migrate((), gdjax.adam, gdjax.adam(0.1), PARAMS)  # type: ignore[arg-type]
