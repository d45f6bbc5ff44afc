"""The values of a traced function as `xla/facts` reads them: what is made of what, and evaluation in parts."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.extend.core import ClosedJaxpr

from gdjax.xla.facts import Evaluation, graph_of, has_inside, made_of, without_unused

X = jax.ShapeDtypeStruct((4,), "float32")
T = jax.ShapeDtypeStruct((), "float32")


def adam(g: Any, m: Any, v: Any, t: Any) -> Any:
    m, v = 0.9 * m + 0.1 * g, 0.99 * v + 0.01 * jnp.square(g)
    return -m / (jnp.sqrt(v / (1 - 0.99**t)) + 1e-8), m, v


TRACED = jax.make_jaxpr(adam)(X, X, X, T)


def test_reach_ends_where_it_is_told():
    graph = graph_of(TRACED)
    update, m, v = graph.outputs
    g, old_m, old_v, t = graph.inputs
    assert {g, old_m, old_v, t, m, v} <= graph.reach(update, ())
    ended = graph.reach(update, (m, v))
    assert {m, v, t} <= ended and not {g, old_m, old_v} & ended
    assert graph.reach(m, ()) & set(graph.inputs) == {g, old_m}


def test_what_is_dear_and_what_is_written():
    graph = graph_of(TRACED)
    assert graph.outputs[0] in graph.dear  # a quotient
    assert not {*graph.outputs[1:]} & (graph.dear | graph.written)
    total = graph_of(jax.make_jaxpr(lambda x: x - jnp.sum(x * x))(X))
    assert len(total.written) == 1 and total.outputs[0] not in total.written


@pytest.mark.parametrize("wrap", [lambda f: f, jax.jit, jax.checkpoint], ids=["plain", "jit", "checkpoint"])
def test_functions_that_are_called_are_looked_into(wrap: Any):
    closed = jax.make_jaxpr(lambda x, y: (wrap(lambda a, b: (a + 1, b))(x, y)[0], y))(X, X)
    graph = graph_of(closed)
    assert graph.reach(graph.outputs[0], ()) & set(graph.inputs) == {graph.inputs[0]}


def test_a_primitive_is_found_at_any_depth():
    sin = jax.make_jaxpr(jnp.sin)(X).eqns[0].primitive
    inner = lambda x: jax.lax.cond(x[0] > 0, lambda x: jnp.sin(x), lambda x: x, x)  # noqa: E731
    (outer,) = jax.make_jaxpr(jax.jit(inner))(X).eqns
    assert has_inside(outer, sin)
    assert not any(has_inside(e, sin) for e in TRACED.eqns)


def test_what_is_made_of_small_inputs_alone():
    f = lambda x, t: (x * jnp.sqrt(t), jnp.arange(4.0) * t, 3.0)  # noqa: E731
    closed = jax.make_jaxpr(f)(X, T)
    _, t = closed.jaxpr.invars
    found = made_of(closed, [t], most=1)
    assert {e.primitive.name for e in closed.eqns if e.outvars[0] in found} == {"sqrt"}
    wider = made_of(closed, [t], most=4)
    assert closed.jaxpr.outvars[1] not in wider  # made of a constant array too
    assert closed.jaxpr.outvars[0] not in wider


def test_what_is_made_of_a_constant_number_too():
    closed = jax.make_jaxpr(lambda t: (t - jax.lax.sqrt(2.0), jax.lax.sqrt(3.0)))(T)
    found = made_of(closed, closed.jaxpr.invars, most=1)
    assert [v in found for v in closed.jaxpr.outvars] == [True, False]


def test_equations_without_use_go():
    def f(x: Any) -> Any:
        jnp.sin(x)
        return jnp.cos(x), jnp.exp(x)

    closed = jax.make_jaxpr(f)(X)
    assert [e.primitive.name for e in without_unused(closed).eqns] == ["cos", "exp"]
    first = ClosedJaxpr(closed.jaxpr.replace(outvars=closed.jaxpr.outvars[:1]), closed.consts)
    assert [e.primitive.name for e in without_unused(first).eqns] == ["cos"]


def test_evaluation_in_parts_is_the_function_and_does_nothing_twice():
    calls: list[str] = []
    xs = [jnp.arange(4.0), jnp.ones(4), 2 * jnp.ones(4), jnp.float32(3)]
    expected = adam(*xs)

    def evaluated(*xs: Any) -> Any:
        values = Evaluation.of(TRACED, xs)
        m = values.output(1)
        calls.append(str(len(values.known)))
        return values.output(0), m, values.output(2)

    text = str(jax.make_jaxpr(evaluated)(*xs))
    assert text.count("sqrt") == text.count("integer_pow") + text.count("square") == 1
    for x, y in zip(evaluated(*xs), expected, strict=True):
        np.testing.assert_allclose(x, y, rtol=1e-6)


def test_what_replaces_an_output_is_read_by_the_rest():
    values = Evaluation.of(TRACED, [jnp.ones(4)] * 3 + [jnp.float32(1)])
    assert float(values.output(1)[0]) == 1
    values.replace(1, jnp.zeros(4))
    assert float(values.output(0)[0]) == 0


def test_an_output_anew_is_made_of_tied_inputs():
    values = Evaluation.of(TRACED, [jnp.ones(4)] * 3 + [jnp.float32(1)])
    m, v = values.output(1), values.output(2)
    seen: list[Any] = []
    u = values.anew(0, (1, 2), lambda xs: (seen.extend(xs), [2 * xs[0], *xs[1:]])[1])
    assert {id(x) for x in seen} == {id(m), id(v)}  # the arrays that it is made of, the step left out
    np.testing.assert_allclose(u, 2 * values.output(0), rtol=1e-6)
