"""MaxText with `examples/patches/maxtext.patch`: the optimizers that `opt_type` names then are gdjax's."""

import jax
import numpy as np
import pytest
from maxtext.configs import types
from maxtext.optimizers import optimizers
from maxtext.utils import maxtext_utils
from maxtext_optimizers import configuration, parameters, trained

import gdjax

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")
NAMES = [x.value for x in types.OptimizerType if x.value.startswith("gdjax_")]
DIMENSIONS = optimizers.get_muon_weight_dimension_numbers.__globals__["get_transform_tree"]
# What MaxText says of these kernels: layers lie along axis 1.
ROLES = {"wi/kernel": gdjax.Matrix(0, 2), "out/kernel": gdjax.Matrix(0, 1), ".*": "other"}


@pytest.fixture(autouse=True)
def of_a_model(monkeypatch):
    """A model, which only this function asks, is a mock here."""
    monkeypatch.setattr(optimizers, "get_muon_weight_dimension_numbers", lambda *_: DIMENSIONS(parameters()))


@pytest.mark.parametrize("name", NAMES)
def test_the_loss_falls(name, numbers):
    losses = trained(configuration(opt_type=name, mu_dtype=None, learning_rate=0.1), model=object())
    assert losses == sorted(losses, reverse=True) and losses[-1] < 0.9 * losses[0]
    numbers(losses)


@pytest.mark.parametrize("name", NAMES)
def test_it_is_the_optimizer_of_that_name(name):
    config = configuration(opt_type=types.OptimizerType(name), mu_dtype="float32", muon_weight_decay=0.2)
    rates = maxtext_utils.create_learning_rate_schedule(config)
    tx = optimizers.get_optimizer(config, rates, object())
    make = getattr(gdjax, name.removeprefix("gdjax_"))
    same = make(rates, roles=ROLES, weight_decay=0.2, others=gdjax.adamw(rates, 0.9, 0.95, 1e-8, weight_decay=0.1))
    params = parameters()
    state, other = tx.init(params), same.init(params)
    assert jax.tree.structure(state) == jax.tree.structure(other)
    for _ in range(3):
        updates, state = tx.update(params, state, params)
        expected, other = same.update(params, other, params)
        jax.tree.map(np.testing.assert_array_equal, updates, expected)


def test_without_a_model():
    with pytest.raises(ValueError, match="specify model"):
        optimizers.get_optimizer(configuration(opt_type=NAMES[0]), 1e-3)
