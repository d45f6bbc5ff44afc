"""What 27 reports about Optax 0.2.8 say, B1-B27, each done right here; most stand with what they test."""

from typing import Any

import jax
import jax.numpy as jnp
import pytest

import gdjax
from tests.hazards import missing
from tests.trees import assert_close, assert_equal, finite, random_tree, signature

ELSEWHERE = {
    1: "combine/test_inject.py::test_hyperparams_stay_float32_with_narrow_parameters",
    2: "numerics/test_hazards.py::test_a67_n1_zero_gradients_give_exact_zeros",
    3: "numerics/test_hazards.py::test_a74_n3_second_moments_of_bfloat16_parameters",
    4: "transforms/test_accumulation.py::test_one_nan_spoils_one_window",
    5: "numerics/test_hazards.py::test_a75_n6_norms_neither_stall_nor_overflow",
    6: "tree/test_norms.py::test_global_norm_of_many_leaves_does_not_stall",
    7: "numerics/test_hazards.py::test_n8_clipping_zeros",
    9: "contracts/test_contracts.py::test_state_is_a_fixed_point_of_control_flow",
    10: "contracts/test_contracts.py::test_five_steps_are_one_trace",
    11: "numerics/test_hazards.py::test_n4_a_bfloat16_parameter_does_not_follow_small_updates",
    12: "core/test_values.py::test_rebuilt_transforms_are_one_trace",
    13: "core/test_values.py::test_rebuilt_transforms_are_one_trace",
    16: "transforms/test_guards.py::test_what_the_inner_transform_makes_is_looked_at",
    17: "numerics/test_hazards.py::test_n21_n22_trees_that_do_not_fit",
    18: "contracts/test_defined.py::test_a43_float0_gradients_pass_through",
    19: "transforms/test_plateau.py::test_plateaus_of_either_sign_are_alike",
    20: "contracts/test_contracts.py::test_any_container_of_any_leaf",
    21: "contracts/test_contracts.py::test_the_kit_finds_nothing_in_steps",
    23: "numerics/test_hazards.py::test_a67_n1_zero_gradients_give_exact_zeros",
    25: "tree/test_states.py::test_map_params",
    26: "tree/test_states.py::test_get_of_what_is_not_unique",
    27: "optimizers/test_schedule_free.py::test_before_the_first_step_the_average_is_the_start",
}
MIXED = {"a": jnp.ones(3, "bfloat16"), "b": jnp.ones(2), "c": jnp.ones((), "float16")}


def test_every_behaviour_has_its_test():
    assert missing(globals(), "b", range(1, 28), ELSEWHERE) == []


@pytest.mark.parametrize("factory", [gdjax.clip, gdjax.clip_by_global_norm, gdjax.clip_by_block_rms, gdjax.adam])
def test_b8_injected_numbers_over_leaves_of_several_dtypes(factory: Any):
    tx, plain = gdjax.inject_hyperparams(factory)(0.1), factory(0.1)
    state = tx.init(MIXED)
    updates, new = tx.update(MIXED, state, MIXED)
    assert signature(new) == signature(state)
    assert_equal(updates, plain.update(MIXED, plain.init(MIXED), MIXED)[0])


def test_b14_accumulation_hands_extra_arguments_on():
    params, g = random_tree(0), random_tree(1)
    inner = gdjax.polyak_sgd()
    wanted, _ = inner.update(g, inner.init(params), params, value=0.5)
    for tx in (gdjax.MultiSteps(inner, 1), gdjax.MultiSteps(inner, 1).gradient_transformation()):
        assert_close(tx.update(g, tx.init(params), params, value=0.5)[0], wanted)


@pytest.mark.full
@pytest.mark.parametrize("wrap", [lambda tx: gdjax.apply_if_finite(tx, 3), lambda tx: gdjax.MultiSteps(tx, 1)])
def test_b15_guards_over_leaves_of_several_dtypes(wrap: Any):
    inner = gdjax.adamw(0.1)
    tx = wrap(inner)
    state = tx.init(MIXED)
    wide = jax.tree.map(lambda x: x.astype("float32"), MIXED)
    for g in (MIXED, wide):
        updates, new = tx.update(g, state, MIXED)
        assert signature(new) == signature(state) and finite(updates)
        assert signature(updates) == signature(inner.update(g, inner.init(MIXED), MIXED)[0])


def test_b22_flatten_keeps_dtypes_and_takes_an_empty_tree():
    tx = gdjax.flatten(gdjax.sgd(0.1))
    updates, _ = tx.update(MIXED, tx.init(MIXED), MIXED)
    assert signature(updates) == signature(MIXED)
    assert tx.update({}, tx.init({}), {})[0] == {}


@pytest.mark.full
@pytest.mark.parametrize("factory", [gdjax.adafactor, gdjax.muon, gdjax.lbfgs])
def test_b24_numbers_that_shape_the_program_are_not_injected(factory: Any):
    params, tx = {"w": jnp.full((128, 130), 0.5)}, gdjax.inject_hyperparams(factory)(0.1)
    state = jax.jit(tx.init)(params)
    assert_equal(state, tx.init(params))
    extra = {"value": 1.0, "grad": params, "value_fn": lambda p: jnp.sum(p["w"] ** 2) / 2}
    plain = factory(0.1)
    updates, _ = jax.jit(lambda g, state: tx.update(g, state, params, **extra))(params, state)
    assert_close(updates, plain.update(params, plain.init(params), params, **extra)[0])
