"""A pytest plugin: `tensorflow` is made of mocks, but for the class that tests of JAX code take from it."""

import sys
from typing import Any

import jax
import numpy as np
from absl.testing import absltest
from clients_plugin import Mocks


class TestCase(absltest.TestCase):
    """Compares trees by their leaves, lists with tuples too."""

    def assertAllClose(self, a: Any, b: Any, rtol: float = 1e-6, atol: float = 1e-6) -> None:
        for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
            np.testing.assert_allclose(x, y, rtol, atol)

    def assertAllEqual(self, a: Any, b: Any) -> None:
        for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
            np.testing.assert_array_equal(x, y)


sys.meta_path.insert(0, Mocks(["tensorflow"]))
import tensorflow.test  # noqa: E402

tensorflow.test.TestCase = TestCase
