"""Every transform under JAX's ways to run a function: with and without jit, on devices, under pmap."""

from typing import Any

import chex
import jax
import jax.numpy as jnp
import pytest
from absl.testing import parameterized

from tests.cases import CASES, Case, every
from tests.trees import assert_close, random_tree, steps

DEVICES = 8


class Variants(chex.TestCase):
    def check(self, case: Case) -> None:
        tx, params, g = case.make(), random_tree(0), random_tree(1)
        state = tx.init(params)
        updates, new = self.variant(tx.update)(g, state, params)
        wanted = tx.update(g, state, params)
        assert_close(jax.tree.map(lambda x, y: x.reshape((-1, *y.shape))[0], (updates, new), wanted), wanted)


# One of each kind: of a rule, of randomness, of matrices, of a wrapper, of a state with conditions or a line search.
CHOSEN = "adamw noisy_sgd adafactor muon lbfgs MultiSteps inject_hyperparams sam prodigy".split()


class SampledVariantsTest(Variants):
    @chex.all_variants(with_pmap=True)
    @parameterized.named_parameters((c.name, c) for c in CASES if c.name in CHOSEN)
    def test_update(self, case: Case) -> None:
        self.check(case)


@pytest.mark.slow
class OtherVariantsTest(Variants):
    @chex.all_variants(with_pmap=True)
    @parameterized.named_parameters((c.name, c) for c in CASES if c.name not in CHOSEN)
    def test_update(self, case: Case) -> None:
        self.check(case)


def test_there_are_eight_devices():
    assert jax.device_count() == DEVICES


@pytest.mark.full
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
