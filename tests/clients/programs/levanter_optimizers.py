"""Every optimizer and schedule that Levanter's configurations build, trained for three steps."""

import dataclasses
import types

import equinox as eqx
import haliax as hax
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest
from levanter.optim import AdamConfig, OptimizerConfig
from levanter.optim.clip_update_norm import ClipUpdateNormConfig

# Levanter clips a group of its Muon by the norm of that group alone, of which gdjax warns.
pytestmark = pytest.mark.filterwarnings(
    "ignore:No global tracker set", "ignore::DeprecationWarning", "ignore:gdjax.partition. clip_by_global_norm"
)
In, Hidden, Out, Batch = hax.make_axes(In=4, Hidden=8, Out=4, Batch=8)


class Net(eqx.Module):
    first: hax.nn.Linear
    second: hax.nn.Linear

    def __init__(self, key):
        k1, k2 = jr.split(key)
        self.first = hax.nn.Linear.init(In, Hidden, key=k1)
        self.second = hax.nn.Linear.init(Hidden, Out, key=k2)

    def __call__(self, x):
        return self.second(hax.tanh(self.first(x)))


def loss_fn(params, static, x):
    return hax.mean(eqx.combine(params, static)(x) ** 2).scalar()


class NoDevices:
    """Those of a mesh under which its matrix methods shard nothing."""

    shape = ()

    def __len__(self):
        return 0


@pytest.fixture(autouse=True)
def surroundings(monkeypatch):
    """What this Levanter finds in its trainer, a mesh and a mapping of axes, and in the JAX of its time."""
    monkeypatch.setattr(jax, "tree_map", jax.tree.map, raising=False)
    monkeypatch.setattr(hax.partitioning, "_get_mesh", lambda: types.SimpleNamespace(devices=NoDevices()))
    with jax.sharding.Mesh(jax.devices(), ("data",)) as mesh, hax.axis_mapping({}):
        yield mesh


def trained(config: OptimizerConfig, mesh: jax.sharding.Mesh, steps: int = 3) -> list[float]:
    """The losses of a few steps, with the extra arguments that Levanter's trainer hands to `update`."""
    params, static = eqx.partition(Net(jr.PRNGKey(0)), eqx.is_inexact_array)
    params = jax.device_put(params, jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec()))
    x = hax.named(jnp.asarray(np.random.default_rng(0).normal(size=(8, 4)), jnp.float32), (Batch, In))
    tx = config.build(num_train_steps=10)
    state = tx.init(params)

    @eqx.filter_jit
    def step(params, state, x):
        loss, grads = eqx.filter_value_and_grad(loss_fn)(params, static, x)
        updates, state = tx.update(grads, state, params=params, obj_fn=lambda p, **_: loss_fn(p, static, x), loss=loss)
        return eqx.apply_updates(params, updates), state, loss

    losses = []
    for _ in range(steps):
        params, state, loss = step(params, state, x)
        losses.append(float(loss))
    return [*losses, float(loss_fn(params, static, x))]


@pytest.mark.parametrize("name", sorted(OptimizerConfig.get_known_choices()))
def test_optimizer(name, surroundings, numbers):
    config = OptimizerConfig.get_choice_class(name)(learning_rate=1e-2, weight_decay=0.1)
    losses = trained(config, surroundings)
    assert np.isfinite(losses).all()
    numbers(losses)


@pytest.mark.parametrize(
    "changes",
    [
        {"max_grad_norm": None},
        {"nesterov": True},
        {"adamc_weight_decay": True},
        {"skip_bad_steps": True},
        {"update_rms_clipping": 1.0},
        {"clip_update_norm": ClipUpdateNormConfig()},
        {"weight_decay_modules": ".*first.*weight"},
    ],
    ids=lambda c: next(iter(c)),
)
def test_adam_options(changes, surroundings, numbers):
    if not changes.keys() <= {f.name for f in dataclasses.fields(AdamConfig)}:
        pytest.skip("this Levanter has no such option")
    numbers(trained(AdamConfig(learning_rate=1e-2, weight_decay=0.1, **changes), surroundings))


@pytest.mark.parametrize("schedule", ["constant", "cosine", "linear", "inv_sqrt", "inv"])
@pytest.mark.parametrize("cycles", [None, 2])
@pytest.mark.parametrize("stages", [{}, {"warmup": 0.1}, {"warmup": 10, "decay": 0.2}, {"rewarmup": 5, "decay": 20}])
def test_schedule(schedule, cycles, stages, numbers):
    config = AdamConfig(learning_rate=1e-3, lr_schedule=schedule, cycles=cycles, min_lr_ratio=0.1, **stages)
    rates = config.lr_scheduler(100)
    numbers([rates(jnp.asarray(step)) for step in range(0, 101, 4)])
    numbers([jax.jit(rates)(step) for step in (0, 1, 50, 99, 100)])
