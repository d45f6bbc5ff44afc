"""`with_metrics`: the metrics are those of the step, and the step is the same."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import gdjax
from tests.cost.test_cost import TREE, traced
from tests.support import relaxed
from tests.trees import assert_close, assert_equal, random_tree, signature

ALL = "grad", "update", "param"
PARAMS, G = random_tree(0), jax.tree.map(lambda x: 4 * x, random_tree(1))
SCHEDULE = gdjax.linear_schedule(1.0, 0.0, 10)
CLIPPED = gdjax.chain(gdjax.clip_by_global_norm(1.0), gdjax.adamw(SCHEDULE))
NUMBERS = sum(x.size for x in jax.tree.leaves(TREE))


def norm(tree: Any) -> float:
    return float(np.sqrt(sum(np.sum(np.square(np.float64(x))) for x in jax.tree.leaves(tree))))


@pytest.mark.full
def test_the_metrics_of_a_step():
    tx = gdjax.with_metrics(CLIPPED, {"dense": "matrix", ".*": "rest"}, norms=ALL)
    state = tx.init(PARAMS)
    assert norm(gdjax.metrics(state)) == 0
    for rate in (1.0, 0.9):
        updates, state = tx.update(G, state, PARAMS)
        found = gdjax.metrics(state)
        trees = {"grad": G, "update": updates, "param": PARAMS}
        wanted = {f"{k}_norm": norm(x) for k, x in trees.items()}
        wanted |= {f"matrix/{k}_norm": norm(x["dense"]) for k, x in trees.items()}
        wanted |= {f"rest/{k}_norm": norm(x["scale"]) for k, x in trees.items()}
        wanted |= {"learning_rate": rate, "clip_fraction": 1.0, "clip_factor": 1 / norm(G)}
        assert set(found) == set(wanted)
        for name, x in wanted.items():
            np.testing.assert_allclose(found[name], x, rtol=1e-5, err_msg=name)


@pytest.mark.full
def test_a_clip_that_does_nothing():
    tx = gdjax.with_metrics(gdjax.chain(gdjax.scale(0.5), gdjax.clip_by_global_norm(1e3), gdjax.sgd(0.1)), norms=())
    found = gdjax.metrics(tx.update(G, tx.init(PARAMS), PARAMS)[1])
    assert_close(
        found, {"learning_rate": jnp.float32(0.1), "clip_fraction": jnp.zeros(()), "clip_factor": jnp.ones(())}
    )
    late = gdjax.with_metrics(gdjax.chain(gdjax.scale(0.5), gdjax.clip_by_global_norm(1.0)), norms=())
    assert_close(gdjax.metrics(late.update(G, late.init(PARAMS))[1])["clip_factor"], jnp.float32(2 / norm(G)))


OWN = gdjax.chain(gdjax.clip_by_global_norm(1.0, groups={".*": "a"}), gdjax.adamw(SCHEDULE))  # the norm of its group
SAME = {
    "clip": CLIPPED,
    "lion": gdjax.lion(0.1),
    "guard": gdjax.apply_if_finite(CLIPPED, 2),
    "accumulation": gdjax.MultiSteps(CLIPPED, 2).gradient_transformation(),
    "schedule-free": gdjax.contrib.schedule_free_adamw(0.1),
    "groups": gdjax.partition({"a": OWN, "b": gdjax.sgd(0.1)}, gdjax.label_by_path({"dense": "a", ".*": "b"})),
}


@pytest.mark.parametrize("name", SAME)
@pytest.mark.parametrize("compiled", [pytest.param(False, marks=pytest.mark.slow), True])
def test_the_updates_are_the_same_bit_for_bit(name: str, compiled: bool):
    def states_of(tx: Any) -> Any:
        update = jax.jit(tx.update) if compiled else tx.update
        state, seen = tx.init(PARAMS), []
        for k in range(3):
            updates, state = update(jax.tree.map(lambda g, k=k: g * (k + 1), G), state, PARAMS)
            seen.append(updates)
        return seen, state

    (wanted, state), (got, with_them) = states_of(SAME[name]), states_of(gdjax.with_metrics(SAME[name], norms=ALL))
    assert_equal(got, wanted)
    assert_equal(with_them.inner_state, state)


@pytest.mark.full
def test_skipped_steps_and_those_after_giving_up():
    tx = gdjax.with_metrics(gdjax.apply_if_finite(CLIPPED, 1), norms=ALL)
    state, bad = tx.init(PARAMS), jax.tree.map(lambda g: g * jnp.nan, G)
    skipped, rates, clips = [], [], []
    for g in (G, bad, bad, G):
        _, state = tx.update(g, state, PARAMS)
        found = gdjax.metrics(state)
        skipped.append(float(found["skipped"]))
        rates.append(round(float(found["learning_rate"]), 3))
        clips.append(float(found["clip_fraction"]))
    assert (skipped, rates, clips) == ([0, 1, 0, 0], [1.0, 1.0, 0.9, 0.8], [1, 0, 0, 1])
    tx = gdjax.with_metrics(gdjax.MultiSteps(gdjax.sgd(0.1), 2, should_skip_update_fn=gdjax.skip_not_finite), norms=ALL)
    assert float(gdjax.metrics(tx.update(bad, tx.init(PARAMS), PARAMS)[1])["skipped"]) == 1
    assert float(gdjax.metrics(tx.update(G, tx.init(PARAMS), PARAMS)[1])["skipped"]) == 0


@pytest.mark.full
def test_in_a_scan_and_in_shard_map():
    tx = gdjax.with_metrics(CLIPPED, {"dense": "matrix", ".*": "rest"}, norms=ALL)

    def step(carry: Any, g: Any) -> Any:
        params, state = carry
        updates, state = tx.update(g, state, params)
        return (gdjax.apply_updates(params, updates), state), gdjax.metrics(state)

    start = PARAMS, tx.init(PARAMS)
    (_, state), rows = jax.lax.scan(step, start, random_tree(2, lead=(5,)))
    assert_close(rows["learning_rate"], jnp.linspace(1.0, 0.6, 5))
    assert signature(state) == signature(start[1]) and set(rows) == set(gdjax.metrics(start[1]))
    if hasattr(jax, "shard_map"):
        mesh, spec = jax.make_mesh((8,), ("data",)), jax.sharding.PartitionSpec()
        mapped = jax.jit(jax.shard_map(tx.update, mesh=mesh, in_specs=(spec, spec, spec), out_specs=(spec, spec)))
        assert_close(gdjax.metrics(mapped(G, start[1], PARAMS)[1]), gdjax.metrics(tx.update(G, start[1], PARAMS)[1]))


def labelled(tree: Any) -> Any:
    return {"dense": {"kernel": "k", "bias": "rest"}, "scale": "rest"}


@pytest.mark.parametrize("groups", [labelled(PARAMS), labelled, {"kernel": "k", ".*": "rest"}])
def test_groups_by_a_tree_a_function_or_patterns(groups: Any):
    tx = gdjax.with_metrics(gdjax.sgd(0.1), groups, norms="grad")
    found = gdjax.metrics(tx.update(G, tx.init(PARAMS), PARAMS)[1])
    np.testing.assert_allclose(found["k/grad_norm"], norm(G["dense"]["kernel"]), rtol=1e-6)
    np.testing.assert_allclose(found["rest/grad_norm"], norm((G["dense"]["bias"], G["scale"])), rtol=1e-6)


def test_without_parameters_and_without_gradients():
    tx = gdjax.with_metrics(gdjax.sgd(0.1), norms=ALL)
    _, state = tx.update({"a": jnp.ones(4), "b": None}, tx.init({"a": jnp.ones(4), "b": jnp.ones(3)}))
    found = gdjax.metrics(state)
    assert float(found["grad_norm"]) == 2 and np.isnan(found["param_norm"])


@pytest.mark.full
def test_metrics_are_found_inside_wrappers_and_groups():
    inner = gdjax.with_metrics(gdjax.sgd(0.5), norms="grad")
    for tx in (gdjax.chain(inner), gdjax.MultiSteps(inner, 1), gdjax.apply_if_finite(inner, 1), gdjax.cautious(inner)):
        found = gdjax.metrics(tx.update(G, tx.init(PARAMS), PARAMS)[1])
        np.testing.assert_allclose(found["grad_norm"], norm(G), rtol=1e-6)
        assert set(found) == {"grad_norm", "learning_rate"}
    each = gdjax.partition({"a": inner, "b": inner}, gdjax.label_by_path({"dense": "a", ".*": "b"}))
    assert set(gdjax.metrics(each.init(PARAMS))) == {f"{k}/{n}" for k in "ab" for n in ("grad_norm", "learning_rate")}


def test_rates_have_no_index_of_a_chain_in_their_names():
    two = gdjax.chain(gdjax.add_decayed_weights(0.1), gdjax.sgd(0.5))
    groups = gdjax.partition({"a": two, "b": gdjax.sgd(0.25)}, gdjax.label_by_path({"dense": "a", ".*": "b"}))
    tx = gdjax.with_metrics(gdjax.chain(gdjax.clip(1.0), groups), norms=())
    assert set(gdjax.metrics(tx.init(PARAMS))) == {"a/learning_rate", "b/learning_rate"}
    with pytest.warns(UserWarning, match="learning rates"):
        both = gdjax.chain(gdjax.sgd(0.5), gdjax.sgd(0.5))
    assert set(gdjax.metrics(gdjax.with_metrics(both, norms=()).init(PARAMS))) == {"learning_rate", "learning_rate_2"}


@pytest.mark.full
def test_the_rate_of_an_injected_schedule_is_that_of_the_step():
    with relaxed():
        import optax

        for lib in (gdjax, optax):
            tx = gdjax.with_metrics(lib.inject_hyperparams(lib.sgd)(SCHEDULE), norms=())
            state = tx.init(PARAMS)
            for rate in (1.0, 0.9):
                updates, state = tx.update(G, state, PARAMS)
                np.testing.assert_allclose(gdjax.metrics(state)["learning_rate"], rate, rtol=1e-6)
                assert_close(updates, jax.tree.map(lambda g, rate=rate: -rate * g, G))


@pytest.mark.slow
@pytest.mark.skipif(jax.__version_info__ < (0, 6), reason="this XLA counts bytes otherwise")
def test_the_norm_that_the_clip_takes_costs_nothing_and_that_of_the_parameters_one_pass():
    def accessed(tx: Any) -> float:
        return traced(tx).lower().compile().cost_analysis()["bytes accessed"]

    plain = accessed(CLIPPED)
    assert accessed(gdjax.with_metrics(CLIPPED, norms="grad")) <= 1.001 * plain
    assert accessed(gdjax.with_metrics(CLIPPED, norms=("grad", "param"))) <= 1.001 * (plain + 4 * NUMBERS)
    assert accessed(gdjax.with_metrics(CLIPPED, norms=ALL)) <= 1.001 * (plain + 28.1 * NUMBERS)


def test_errors():
    with pytest.raises(
        ValueError, match="^gdjax.with_metrics: norms must be of 'grad', 'update', 'param', got 'grads'"
    ):
        gdjax.with_metrics(CLIPPED, norms="grads")
    with pytest.raises(TypeError, match="^gdjax.with_metrics: "):
        gdjax.with_metrics(0.1)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="^gdjax.metrics: the state has no metrics; .*with_metrics"):
        gdjax.metrics(CLIPPED.init(PARAMS))
    twice = gdjax.chain(gdjax.with_metrics(gdjax.scale(1.0)), gdjax.with_metrics(gdjax.sgd(0.1), norms=ALL))
    with pytest.raises(ValueError, match="^gdjax.metrics: 2 with_metrics stand in one chain; .*named_chain"):
        gdjax.metrics(twice.init(PARAMS))
    with pytest.raises(ValueError, match="^gdjax.label_by_path: no rule matches scale"):
        gdjax.with_metrics(CLIPPED, {"dense": "a"}).init(PARAMS)


@pytest.mark.parametrize("around", [gdjax.flatten, gdjax.from_optax])
def test_a_guard_inside_what_has_the_same_state_counts_once(around: Any):
    """It has given up, and so nothing is skipped, whatever is around it says."""
    tx = gdjax.with_metrics(around(gdjax.apply_if_finite(gdjax.sgd(0.5), 0)))
    _, state = tx.update(jnp.array([jnp.nan]), tx.init(jnp.zeros(1)))
    assert gdjax.metrics(state)["skipped"] == 0
