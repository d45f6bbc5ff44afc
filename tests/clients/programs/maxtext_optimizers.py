"""MaxText's optimizers, schedules and gradient clipping, from its configuration, trained for three steps."""

import types as python_types

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from maxtext.configs import types
from maxtext.optimizers import optimizers
from maxtext.utils import maxtext_utils

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore:gdjax.muon. its Adam gets")
SCHEDULES = [types.LearningRateScheduleType.COSINE, types.LearningRateScheduleType.WSD]


def configuration(**changes):
    """The fields of MaxText's configuration that its optimizers and schedules read, with base.yml's values."""
    fields = dict(
        opt_type="adamw",
        adam_b1=0.9,
        adam_b2=0.95,
        adam_eps=1e-8,
        adam_eps_root=0.0,
        adam_weight_decay=0.1,
        mu_dtype="",
        adamw_mask=[],
        trainable_parameters_mask=[],
        skip_step_on_spikes=False,
        skip_step_interval=4,
        skip_step_scaling_factor=6.0,
        muon_beta=0.95,
        muon_weight_decay=0.1,
        muon_consistent_rms=None,
        decoder_block=None,
        learning_rate=1e-2,
        learning_rate_final_fraction=0.1,
        learning_rate_schedule_steps=20,
        steps=20,
        warmup_steps_fraction=0.1,
        lr_schedule_type=SCHEDULES[0],
        wsd_decay_steps_fraction=0.1,
        wsd_decay_style=types.WsdDecayStyle.LINEAR,
    )
    return python_types.SimpleNamespace(**(fields | changes))


def parameters():
    rng = np.random.default_rng(0)
    kernels = {"mlp": {"wi": {"kernel": rng.normal(size=(4, 2, 8))}}, "out": {"kernel": rng.normal(size=(8, 4))}}
    return jax.tree.map(lambda x: jnp.asarray(x, jnp.float32), kernels | {"norm": {"scale": np.ones(4)}})


def trained(config, model=None) -> list[float]:
    """The losses of three steps with the keyword arguments of MaxText's train step, and of one more evaluation."""
    tx = optimizers.get_optimizer(config, maxtext_utils.create_learning_rate_schedule(config), model)
    params = parameters()
    shapes = jax.eval_shape(tx.init, params)
    state = jax.jit(tx.init)(params)
    assert jax.tree.structure(shapes) == jax.tree.structure(state)

    def loss_fn(params):
        return sum(jnp.mean((x - 0.5) ** 2) for x in jax.tree.leaves(params))

    @jax.jit
    def step(params, state):
        loss, grads = jax.value_and_grad(loss_fn)(params)
        grads = maxtext_utils.apply_gradient_clipping(grads, None, 1.0)
        extra = {"loss": loss, "grad_norm": jnp.float32(1)} if config.skip_step_on_spikes else {}
        updates, state = tx.update(grads, state, params, **extra)
        return jax.tree.map(jnp.add, params, updates), state, loss

    losses = []
    for _ in range(3):
        params, state, loss = step(params, state)
        losses.append(float(loss))
    return [*losses, float(loss_fn(params))]


@pytest.mark.parametrize(
    "changes",
    [
        {"opt_type": "adamw"},
        {"mu_dtype": "bfloat16"},
        {"adamw_mask": ["scale"]},
        {"trainable_parameters_mask": ["mlp"]},
        {"skip_step_on_spikes": True},
        {"opt_type": "adam_pax"},
        {"opt_type": "sgd"},
        {"opt_type": "muon"},
    ],
    ids=lambda c: "-".join(map(str, *c.items())),
)
def test_optimizer(changes, numbers, monkeypatch):
    if changes.get("opt_type") == "muon":  # a model, which only this function asks, is a mock here
        dimensions = optimizers.get_muon_weight_dimension_numbers.__globals__["get_transform_tree"]
        monkeypatch.setattr(optimizers, "get_muon_weight_dimension_numbers", lambda *_: dimensions(parameters()))
    losses = trained(configuration(**({"mu_dtype": None} | changes)), model=object())
    assert losses[-1] < losses[0]
    numbers(losses)


@pytest.mark.parametrize("kind", SCHEDULES, ids=lambda k: k.name)
@pytest.mark.parametrize("style", list(types.WsdDecayStyle), ids=lambda s: s.name)
@pytest.mark.parametrize("steps, warmup", [(20, 0.1), (20, 0.0), (30, 0.1), (30, 0.0)])
def test_schedule(kind, style, steps, warmup, numbers):
    """Also with as many boundaries as schedules: MaxText names the end of the last one too."""
    config = configuration(lr_schedule_type=kind, wsd_decay_style=style, steps=steps, warmup_steps_fraction=warmup)
    rates = maxtext_utils.create_learning_rate_schedule(config)
    numbers([rates(jnp.asarray(step)) for step in range(steps)])
