"""Every transform under JAX's ways to run a function: with and without jit, on devices, under pmap and sharded."""

import functools
from typing import Any

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from absl.testing import parameterized
from jax.sharding import Mesh, NamedSharding, PartitionSpec

import gdjax
from tests.cases import CASES, SAMPLE, Case, every
from tests.trees import assert_close, random_tree, steps

DEVICES = 8


class Variants(chex.TestCase):
    def check(self, case: Case) -> None:
        tx, params, g = case.make(), random_tree(0), random_tree(1)
        state = tx.init(params)
        updates, new = self.variant(tx.update)(g, state, params)
        wanted = tx.update(g, state, params)
        assert_close(jax.tree.map(lambda x, y: x.reshape((-1, *y.shape))[0], (updates, new), wanted), wanted)


class SampledVariantsTest(Variants):
    @chex.all_variants(with_pmap=True)
    @parameterized.named_parameters((c.name, c) for c in CASES if c.name in SAMPLE)
    def test_update(self, case: Case) -> None:
        self.check(case)


@pytest.mark.slow
class OtherVariantsTest(Variants):
    @chex.all_variants(with_pmap=True)
    @parameterized.named_parameters((c.name, c) for c in CASES if c.name not in SAMPLE)
    def test_update(self, case: Case) -> None:
        self.check(case)


def test_there_are_eight_devices():
    assert jax.device_count() == DEVICES


@every(sampled=True)
def test_pmap_with_pmean_equals_one_device(case: Case):
    tx, params = case.make(), random_tree(0)
    gradients = [random_tree(seed, lead=(DEVICES,)) for seed in (1, 2)]

    def run(params: Any, gradients: Any) -> Any:
        return steps(tx, params, [jax.lax.pmean(g, "data") for g in gradients])

    many = jax.pmap(run, axis_name="data", in_axes=(None, 0))(params, gradients)
    one = steps(tx, params, [jax.tree.map(lambda x: jnp.mean(x, axis=0), g) for g in gradients])
    for device in (0, DEVICES - 1):
        assert_close(jax.tree.map(lambda x, i=device: x[i], many), one)


@every(sampled=True)
def test_sharded_parameters_equal_one_device(case: Case):
    tx = case.make()
    shapes = {"kernel": (DEVICES, 3), "bias": (DEVICES,)}
    params, *gradients = [random_tree(seed, shapes=shapes) for seed in range(3)]
    mesh = Mesh(np.asarray(jax.devices()), ("data",))
    spread = functools.partial(jax.device_put, device=NamedSharding(mesh, PartitionSpec("data")))

    @jax.jit
    def step(params: Any, state: Any, g: Any) -> Any:
        updates, state = tx.update(g, state, params)
        return gdjax.apply_updates(params, updates), state

    sharded, state = jax.tree.map(spread, params), tx.init(jax.tree.map(spread, params))
    for g in gradients:
        sharded, state = step(sharded, state, jax.tree.map(spread, g))
    assert_close((sharded, state), steps(tx, params, gradients))
    moments = [x for x in jax.tree.leaves(state) if x.shape and x.shape[0] == DEVICES]
    assert all(x.sharding.is_equivalent_to(p.sharding, x.ndim) for x in moments for p in [sharded["kernel"]])
