"""The trace of a rule of one matrix, evaluated in parts."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from gdjax.matrices.traced import Evaluation, has_inside

X = jax.ShapeDtypeStruct((4,), "float32")
T = jax.ShapeDtypeStruct((), "float32")


def adam(g: Any, m: Any, v: Any, t: Any) -> Any:
    m, v = 0.9 * m + 0.1 * g, 0.99 * v + 0.01 * jnp.square(g)
    return -m / (jnp.sqrt(v / (1 - 0.99**t)) + 1e-8), m, v


TRACED = jax.make_jaxpr(adam)(X, X, X, T)


def test_a_primitive_is_found_at_any_depth():
    sin = jax.make_jaxpr(jnp.sin)(X).eqns[0].primitive
    inner = lambda x: jax.lax.cond(x[0] > 0, lambda x: jnp.sin(x), lambda x: x, x)  # noqa: E731
    (outer,) = jax.make_jaxpr(jax.jit(inner))(X).eqns
    assert has_inside(outer, sin)
    assert not any(has_inside(e, sin) for e in TRACED.eqns)


def test_evaluation_in_parts_is_the_function_and_does_nothing_twice():
    xs = [jnp.arange(4.0), jnp.ones(4), 2 * jnp.ones(4), jnp.float32(3)]
    expected = adam(*xs)

    def evaluated(*xs: Any) -> Any:
        values, outs = Evaluation(TRACED, dict(zip(TRACED.jaxpr.invars, xs, strict=True))), TRACED.jaxpr.outvars
        m = values.value(outs[1])
        return values.value(outs[0]), m, values.value(outs[2])

    text = str(jax.make_jaxpr(evaluated)(*xs))
    assert text.count("sqrt") == text.count("integer_pow") + text.count("square") == 1
    for x, y in zip(evaluated(*xs), expected, strict=True):
        np.testing.assert_allclose(x, y, rtol=1e-6)
