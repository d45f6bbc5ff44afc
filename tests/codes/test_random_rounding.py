"""Random bits come from the seed, the step, the array's number and the element's place, and from nothing else."""

import jax
import jax.numpy as jnp
import numpy as np

from gdjax.codes.rounding import random_bits, salt, uniform

LIKE = jnp.zeros((300, 200))


def test_uniform_in_mean_and_variance_and_in_64_classes():
    u = np.asarray(uniform(salt(3, 7, 1), LIKE))
    n = u.size
    assert abs(u.mean() - 0.5) < 4 / np.sqrt(12 * n) and abs(12 * u.var() - 1) < 4 * np.sqrt(0.8 / n)
    counts = np.histogram(u, 64, (0, 1))[0]
    assert ((counts - n / 64) ** 2 / (n / 64)).sum() < 63 + 4 * np.sqrt(2 * 63)


def test_no_correlation_between_steps_arrays_and_neighbours():
    u, other_step, other_array = (np.asarray(uniform(salt(3, *x), LIKE)) for x in [(7, 1), (8, 1), (7, 2)])
    for y in (other_step, other_array, np.roll(u, 1, 0), np.roll(u, 1, 1)):
        assert abs(np.corrcoef(u.ravel(), y.ravel())[0, 1]) < 4 / np.sqrt(u.size)


def test_no_correlation_of_one_element_from_step_to_step():
    steps = jax.vmap(lambda step: uniform(salt(0, step, 0), jnp.zeros(8)))(jnp.arange(4000))
    u = np.asarray(steps)
    assert np.all(np.abs(u.mean(0) - 0.5) < 4 / np.sqrt(12 * len(u)))
    assert all(abs(np.corrcoef(u[:-1, i], u[1:, i])[0, 1]) < 4 / np.sqrt(len(u)) for i in range(8))


def test_a_part_of_an_array_has_bits_of_its_own_place():
    whole = random_bits(salt(1, 2, 3), jnp.zeros((4, 6)))
    assert len(np.unique(whole)) == 24 and not np.array_equal(whole, random_bits(salt(2, 2, 3), jnp.zeros((4, 6))))
    assert np.array_equal(random_bits(salt(1, 2, 3), jnp.zeros(24)).reshape(4, 6), whole)
