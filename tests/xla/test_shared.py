"""When leaves have a traced function in common."""

import jax
import jax.numpy as jnp
import pytest

from gdjax.xla.shared import jitted
from tests.support import checking_leaks

X = jnp.arange(3.0)


def traced(factor=2.0, table=X, inner=jnp.tanh, x=1.0):
    return jax.make_jaxpr(lambda x: jax.nn.relu(jax.jit(inner)(factor * x)) * table)(jnp.asarray(x))


def test_functions_that_compute_the_same_are_one():
    first, again = jitted(traced(), "rule"), jitted(traced(), "rule")
    assert first is again
    assert [y.tolist() for y in first(jnp.asarray(0.0))] == [[0, 0, 0]]


@pytest.mark.parametrize("other", [{"factor": 3.0}, {"factor": -2.0}, {"table": X + 1}, {"inner": jnp.sin}, {"x": 1}])
def test_functions_that_do_not_are_two(other):
    assert jitted(traced(), "rule") is not jitted(traced(**other), "rule")


def test_each_maker_has_its_own():
    assert jitted(traced(), "rule") is not jitted(traced(), "other")


def test_what_belongs_to_one_trace_is_kept_by_none():
    def f(x):
        found = [jitted(jax.make_jaxpr(lambda y: x * y)(1.0), "rule") for _ in range(2)]
        assert found[0] is not found[1]
        return found[0](2.0)[0]

    with checking_leaks():
        assert jax.jit(f)(3.0) == 6
