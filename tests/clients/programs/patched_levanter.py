"""Levanter with `examples/patches/levanter.patch`: `type: gdjax` in a configuration, for a small Llama of its own."""

import draccus
import equinox as eqx
import haliax as hax
import jax
import jax.random as jr
import numpy as np
import pytest
from levanter.models.llama import LlamaConfig, LlamaLMHeadModel
from levanter.models.lm_model import LmExample, compute_next_token_loss
from levanter.optim import OptimizerConfig

import gdjax
from gdjax import Matrix

pytestmark = pytest.mark.filterwarnings("ignore:No global tracker set", "ignore::DeprecationWarning")
STEPS = 6
MODEL = LlamaConfig(
    seq_len=16, hidden_dim=16, intermediate_dim=32, num_layers=2, num_heads=4, num_kv_heads=2, head_dim=6
)
# Arrays are stacked by layer, and outputs come first: of a query the heads of keys, those of each, and their size.
ROLES = {
    "q_proj/weight": Matrix(4, (1, 2, 3)),
    "[kv]_proj/weight": Matrix(3, (1, 2)),
    "o_proj/weight": Matrix((2, 3), 1),
    "(gate|up|down)_proj/weight": Matrix(2, 1),
    ".*": "other",
}
OPTIMIZERS = {
    "normuon": {},
    "soap": {"precondition_frequency": 2},
    "dion2": {"adam_learning_rate": 1e-3},
    "transformer_optimizer": {"warmup_steps": 1},
}


@pytest.fixture(scope="module")
def llama():
    """The parameters, and a function from these to the loss on one sequence and its gradient."""
    model = LlamaLMHeadModel.init(hax.Axis("vocab", 20), MODEL, key=jr.PRNGKey(0))
    params, static = eqx.partition(model, eqx.is_inexact_array)
    example = LmExample.causal(hax.random.randint(jr.PRNGKey(1), MODEL.Pos, 0, 20))

    @eqx.filter_jit
    @eqx.filter_value_and_grad
    def loss_and_grads(params):
        return compute_next_token_loss(eqx.combine(params, static), example, reduction=None).mean().scalar()

    with hax.axis_mapping({}):
        yield params, loss_and_grads


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_it_trains_as_the_optimizer_of_that_name(name, llama, numbers):
    """Each update is that of the function of gdjax, with the axes of all matrices written down."""
    fields = {"type": "gdjax", "name": name, "learning_rate": 3e-2, "weight_decay": 0.2}
    config = draccus.decode(OptimizerConfig, fields | {"warmup": 2, "arguments": OPTIMIZERS[name]})

    def make(learning_rate, steps=()):
        tx = getattr(gdjax, name)(learning_rate, *steps, weight_decay=0.2, roles=ROLES, **OPTIMIZERS[name])
        return gdjax.chain(gdjax.clip_by_global_norm(1.0), tx)

    scheduled = name == "transformer_optimizer"
    same = make(3e-2, (STEPS,)) if scheduled else gdjax.inject_hyperparams(make)(config.lr_scheduler(STEPS))
    tx = config.build(STEPS)

    params, loss_and_grads = llama
    state, other = tx.init(params), same.init(params)
    assert jax.tree.structure(state) == jax.tree.structure(other)
    losses = []
    for _ in range(STEPS):
        loss, grads = loss_and_grads(params)
        updates, state = jax.jit(tx.update)(grads, state, params)
        expected, other = jax.jit(same.update)(grads, other, params)
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-7), updates, expected)
        params = eqx.apply_updates(params, updates)
        losses.append(float(loss))
    assert losses[-1] < losses[0] - 0.3
    numbers(losses)


def test_the_rate_is_logged(llama):
    tx = OptimizerConfig.get_choice_class("gdjax")(learning_rate=3e-2, warmup=0).build(STEPS)
    assert float(tx.init(llama[0]).hyperparams["learning_rate"]) == pytest.approx(3e-2)
