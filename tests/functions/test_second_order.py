"""Products with the Hessian, and diagonals: against the whole matrix, and Optax."""

import warnings

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.flatten_util import ravel_pytree

from gdjax import second_order
from gdjax.second_order import fisher_diag, hessian_diag, hvp
from tests.trees import precision

PARAMS = {"w": np.array([[0.3, -0.2], [0.1, 0.4]]), "b": np.array([0.2, -0.1])}
INPUTS, TARGETS = np.array([[1.0, 2.0], [0.5, -1.0], [0.0, 1.5]]), np.array([[1.0, 0.0], [0.5, 0.5], [-1.0, 2.0]])


def loss(params, inputs, targets):
    return jnp.mean((jnp.tanh(inputs @ params["w"] + params["b"][None]) - targets) ** 2)


def problem(dtype):
    return jax.tree.map(lambda x: jnp.asarray(x, dtype), (PARAMS, INPUTS, TARGETS))


def optax_s(name: str, *args):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        return getattr(optax.second_order, name)(*args)


@pytest.mark.full
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_against_the_whole_hessian(dtype: str):
    with precision(dtype):
        args = problem(dtype)
        flat, unravel = ravel_pytree(args[0])
        rtol = 2e-5 if dtype == "float32" else 1e-12
        hessian = np.asarray(jax.jit(jax.hessian(lambda x: loss(unravel(x), *args[1:])))(flat))
        v = jnp.arange(1.0, 7, dtype=dtype)
        product = hvp(loss, v, *args)
        np.testing.assert_allclose(ravel_pytree(product)[0], hessian @ np.asarray(v), rtol=rtol, atol=rtol)
        diagonal = hessian_diag(loss, *args)
        np.testing.assert_allclose(diagonal, np.diag(hessian), rtol=rtol, atol=rtol)
        for got, name, first in [(product, "hvp", (loss, v)), (diagonal, "hessian_diag", (loss,))]:
            wanted = optax_s(name, *first, *args)
            assert jax.tree.structure(got) == jax.tree.structure(wanted)
            np.testing.assert_allclose(ravel_pytree(got)[0], ravel_pytree(wanted)[0], rtol=rtol, atol=rtol)


def test_hvp_by_differences():
    with precision("float64"):
        params, inputs, targets = problem("float64")
        v = jnp.linspace(-1.0, 1, 6)
        step = jax.tree.map(lambda x: 1e-5 * x, ravel_pytree(params)[1](v))
        slope = jax.grad(loss)
        ahead, behind = (
            slope(jax.tree.map(lambda x, d, s=s: x + s * d, params, step), inputs, targets) for s in (1, -1)
        )
        wanted = jax.tree.map(lambda a, b: (a - b) / 2e-5, ahead, behind)
        got = hvp(loss, v, params, inputs, targets)
        np.testing.assert_allclose(ravel_pytree(got)[0], ravel_pytree(wanted)[0], rtol=1e-7, atol=1e-9)


def test_fisher_diag():
    params, inputs, targets = problem("float32")
    wanted = np.square(ravel_pytree(jax.grad(loss)(params, inputs, targets))[0])
    np.testing.assert_allclose(fisher_diag(loss, params, inputs, targets), wanted, rtol=1e-6)
    np.testing.assert_allclose(optax_s("fisher_diag", loss, params, inputs, targets), wanted, rtol=1e-6)
    each = jax.vmap(lambda x, y: fisher_diag(loss, params, x[None], y[None]))(inputs, targets)
    assert each.shape == (3, 6)


def test_more_columns_than_at_once(monkeypatch):
    monkeypatch.setattr(second_order, "AT_ONCE", 4)
    args = problem("float32")
    np.testing.assert_allclose(hessian_diag(loss, *args), optax_s("hessian_diag", loss, *args), rtol=1e-4, atol=1e-6)


def test_mixed_dtypes():
    params, inputs, targets = problem("float32")
    params = {"w": params["w"], "b": params["b"].astype("bfloat16")}

    def mixed(params, inputs, targets):
        return loss({"w": params["w"], "b": params["b"].astype("float32")}, inputs, targets)

    got = hvp(mixed, jnp.ones(6), params, inputs, targets)
    assert {k: x.dtype for k, x in got.items()} == {k: x.dtype for k, x in params.items()}
    assert hessian_diag(mixed, params, inputs, targets).dtype == jnp.float32


def test_a_vector_that_does_not_fit():
    with pytest.raises(ValueError, match=r"gdjax\.hvp: v has shape \(5,\), expected \(6,\)"):
        hvp(loss, jnp.ones(5), *problem("float32"))


def test_no_parameters():
    assert hessian_diag(lambda p, x, y: jnp.zeros(()), {}, 0, 0).shape == (0,)
