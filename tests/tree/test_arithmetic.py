"""Arithmetic on trees: against Optax and NumPy, in every dtype, with and without JAX's promotion."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import gdjax.tree_utils
from gdjax import tree
from gdjax.core.base import MaskedNode
from gdjax.tree.arithmetic import scale_gradient
from tests.support import relaxed
from tests.trees import assert_close, numbers, precision, random_tree

DTYPES = ["bfloat16", "float32", "float64", "complex64"]
ONE_SHAPE = {"a": (3,), "b": [(3,)]}

# name -> (arguments from two trees, the same for one array in NumPy)
CASES = {
    "add": (lambda x, y: (x, y), lambda x, y: x + y),
    "sub": (lambda x, y: (x, y), lambda x, y: x - y),
    "mul": (lambda x, y: (x, y), lambda x, y: x * y),
    "div": (lambda x, y: (x, y), lambda x, y: x / y),
    "scale": (lambda x, y: (0.3, x), lambda x, y: 0.3 * x),
    "add_scale": (lambda x, y: (x, 0.3, y), lambda x, y: x + 0.3 * y),
    "conj": (lambda x, y: (x,), lambda x, y: np.conj(x)),
    "real": (lambda x, y: (x,), lambda x, y: np.real(x)),
    "where": (lambda x, y: (jnp.asarray(True), x, y), lambda x, y: x),
    "zeros_like": (lambda x, y: (x,), lambda x, y: np.zeros_like(x)),
    "ones_like": (lambda x, y: (x,), lambda x, y: np.ones_like(x)),
    "full_like": (lambda x, y: (x, 2.5), lambda x, y: np.full_like(x, 2.5)),
    "batch_shape": (lambda x, y: (x, (2, 3)), lambda x, y: np.broadcast_to(x, (2, 3, *x.shape))),
    "update_moment": (lambda x, y: (x, y, 0.9, 2), lambda x, y: 0.1 * x**2 + 0.9 * y),
    "update_moment_per_elem_norm": (lambda x, y: (x, y, 0.9, 2), lambda x, y: 0.1 * np.abs(x) ** 2 + 0.9 * y),
    "bias_correction": (lambda x, y: (x, 0.9, jnp.asarray(3)), lambda x, y: x / (1 - 0.9**3)),
}
REAL = {
    "clip": (lambda x, y: (x, -0.5, 0.4), lambda x, y: np.clip(x, -0.5, 0.4)),
    "update_infinity_moment": (
        lambda x, y: (x, y, 0.9, 1e-3),
        lambda x, y: np.maximum(np.abs(x) + 1e-3, 0.9 * y),
    ),
}


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", [*CASES, *REAL])
def test_against_numpy_and_optax(name: str, dtype: str):
    if name in REAL and dtype == "complex64":
        return
    arguments, of_one = (CASES | REAL)[name]
    with precision(dtype):
        x, y = random_tree(0, dtype, ONE_SHAPE), random_tree(1, dtype, ONE_SHAPE)
        args = arguments(x, y)
        got = getattr(tree, name)(*args)
        wanted = [of_one(a, b) for a, b in zip(numbers(x), numbers(y), strict=True)]
        eps = float(jnp.finfo(dtype).eps)
        for a, b in zip(numbers(got), wanted, strict=True):
            np.testing.assert_allclose(a, b, rtol=4 * max(eps, 1e-15), atol=4 * eps if eps < 1e-3 else 2 * eps)
        with relaxed():
            theirs = getattr(optax.tree, name)(*args)
        assert jax.tree.map(lambda a: (a.shape, a.dtype), got) == jax.tree.map(lambda a: (a.shape, a.dtype), theirs)
        if eps < 1e-3:
            assert_close(got, theirs, rtol=4 * eps, atol=4 * eps)


def test_add_of_many_trees():
    trees = [random_tree(i, shapes=ONE_SHAPE) for i in range(4)]
    assert_close(tree.add(*trees), optax.tree.add(*trees), rtol=1e-6)
    # 1 + 2^-8 + 2^-8 in bfloat16 one after the other is 1.
    small = jnp.asarray(2.0**-8, "bfloat16")
    assert tree.add(jnp.ones((), "bfloat16"), small, small) == 1 + 2.0**-7


@pytest.mark.parametrize("scalar", [0.1, np.float32(0.1), jnp.float32(0.1), jnp.asarray(0.1, "bfloat16"), 2])
@pytest.mark.parametrize("dtype", ["bfloat16", "float32", "int32"])
def test_scalars_promote_as_in_optax(scalar, dtype: str):
    x, y = {"a": jnp.ones(2, dtype)}, {"a": jnp.full(2, 3, dtype)}
    for f in (lambda lib: lib.scale(scalar, x), lambda lib: lib.add_scale(x, scalar, y)):
        with relaxed():
            wanted = f(optax.tree)
        got = f(tree)
        assert got["a"].dtype == wanted["a"].dtype
        np.testing.assert_allclose(np.asarray(got["a"], "float32"), np.asarray(wanted["a"], "float32"), rtol=1e-2)


def test_no_scalar_is_rounded_to_the_dtype_of_a_leaf():
    x = {"a": jnp.full(2, 384.0, "bfloat16")}
    assert tree.scale(1.0035, x)["a"][0] == 386  # and 384, were 1.0035 rounded to 1
    # 0.999 is 1 in bfloat16: the moment would never move.
    m = tree.update_moment(x, {"a": jnp.zeros(2, "bfloat16")}, 0.999, 1)
    np.testing.assert_allclose(np.asarray(m["a"], "float32"), 0.384, rtol=4e-3)
    c = tree.bias_correction({"a": jnp.asarray(1e-3, "bfloat16")}, 0.999, 1)
    np.testing.assert_allclose(np.asarray(c["a"], "float32"), 1, rtol=8e-3)


def test_moments_of_what_is_missing():
    g, m = {"a": None, "b": jnp.ones(2)}, {"a": jnp.ones(2), "b": jnp.zeros(2)}
    for got in (
        tree.update_moment(g, m, 0.5, 2),
        tree.update_moment_per_elem_norm(g, m, 0.5, 2),
        tree.update_infinity_moment(g, m, 0.5, 0),
        tree.add_scale(g, 0.5, m),
    ):
        assert got["a"] is None and got["b"].shape == (2,)
    hidden = {"a": MaskedNode(), "b": jnp.ones(2)}
    assert tree.update_moment(hidden, hidden, 0.5, 2)["a"] == MaskedNode()


@pytest.mark.parametrize("order", [1, 2, 3, 4])
def test_moments_of_the_size(order: int):
    for dtype in ("float32", "complex64"):
        g = random_tree(0, dtype)["dense"]["kernel"]
        got = tree.update_moment_per_elem_norm(g, jnp.zeros(g.shape), 0.9, order)
        np.testing.assert_allclose(got, 0.1 * np.abs(np.asarray(g)) ** order, rtol=2e-5)
    slope = jax.grad(lambda g: tree.update_moment_per_elem_norm(g, jnp.zeros(()), 0.9, order))
    assert np.isfinite(slope(jnp.zeros(())))


def test_bias_correction_takes_traced_numbers():
    m = {"a": jnp.full(2, 0.1), "b": jnp.asarray(0.1, "bfloat16")}
    got = jax.jit(tree.bias_correction)(m, jnp.float32(0.9), jnp.asarray(1))
    np.testing.assert_allclose(got["a"], 1, rtol=1e-5)
    assert got["b"].dtype == jnp.bfloat16


def test_clip_with_one_bound():
    x = {"a": jnp.array([-2.0, 0.0, 2.0])}
    np.testing.assert_array_equal(tree.clip(x, min_value=-1)["a"], [-1, 0, 2])
    np.testing.assert_array_equal(tree.clip(x, max_value=jnp.ones(()))["a"], [-2, 0, 1])
    assert tree.clip(x)["a"].shape == (3,)


def test_where_selects_the_whole_tree():
    x, y = random_tree(0, shapes=ONE_SHAPE), random_tree(1, shapes=ONE_SHAPE)
    for condition, wanted in [(True, x), (np.bool(False), y)]:
        assert_close(tree.where(condition, x, y), wanted, rtol=0, atol=0)
    each = tree.where(jnp.array([True, False]), [jnp.ones(2)], [jnp.zeros(2)])
    np.testing.assert_array_equal(each[0], [1, 0])


def test_where_takes_a_condition_for_each_leaf():
    x, y = {"a": jnp.ones(2), "b": jnp.ones(2)}, {"a": jnp.zeros(2), "b": jnp.zeros(2)}
    got = tree.where({"a": True, "b": jnp.array([False, True])}, x, y)
    assert_close(got, {"a": jnp.ones(2), "b": jnp.array([0.0, 1.0])}, rtol=0, atol=0)
    with pytest.raises(ValueError, match=r"gdjax\.tree\.where: condition\['b'\] is missing"):
        tree.where({"a": True}, x, y)


def test_errors_name_the_function_and_the_leaf():
    with pytest.raises(ValueError, match=r"gdjax\.tree\.add: tree_y\['b'\] is missing"):
        tree.add({"a": jnp.ones(2), "b": jnp.ones(2)}, {"a": jnp.ones(2)})
    with pytest.raises(TypeError, match=r"gdjax\.tree\.mul: tree\['a'\]: .*\(2,\).*\(3,\)"):
        tree.mul({"a": jnp.ones(2)}, {"a": jnp.ones(3)})


def test_python_numbers_stay_what_they_are():
    assert tree.add({"a": 1.5}, {"a": 2}) == {"a": 3.5} and tree.scale(2, {"a": 3}) == {"a": 6}


def test_the_names_of_tree_utils():
    for name in gdjax.tree_utils.__all__:
        if name != "NamedTupleKey" and not name.endswith(("scalar_mul", "1_norm", "2_norm", "inf_norm")):
            assert getattr(gdjax.tree_utils, name) is getattr(tree, name.removeprefix("tree_"))
    assert {n.removeprefix("tree_") for n in gdjax.tree_utils.__all__} >= {n for n in dir(optax.tree) if n[0] != "_"}


def test_the_older_names_of_tree_utils():
    x = {"a": jnp.array([3.0, -4.0]), "b": jnp.array(-1.0)}
    calls = {
        "tree_scalar_mul": lambda f: f(2.0, x),
        "tree_add_scalar_mul": lambda f: f(x, 2.0, x),
        "tree_l1_norm": lambda f: (f(x), f(x, squared=True)),
        "tree_l2_norm": lambda f: (f(x), f(x, squared=True)),
        "tree_linf_norm": lambda f: f(x),
    }
    assert set(calls) == set(optax.tree_utils._deprecations)
    for name, f in calls.items():
        _, theirs = optax.tree_utils._deprecations[name]
        jax.tree.map(np.testing.assert_allclose, f(getattr(gdjax.tree_utils, name)), f(theirs))


@pytest.mark.parametrize("scale", [0, 1.0, -0.5, np.float32(0.3)])
def test_scale_gradient(scale):
    x = {"a": jnp.array([1.0, 2.0]), "b": jnp.asarray(3.0, "bfloat16")}

    def f(scaled, lib):
        y = lib(scaled, scale)
        return jnp.sum(y["a"] ** 2) + (y["b"] ** 2).astype(jnp.float32)

    assert_close(scale_gradient(x, scale), x, rtol=0, atol=0)
    got = jax.grad(lambda x: f(x, scale_gradient))(x)
    wanted = {"a": scale * np.array([2.0, 4.0]), "b": scale * 6.0}
    for key in x:
        np.testing.assert_allclose(np.asarray(got[key], "float32"), wanted[key], rtol=4e-3 if key == "b" else 1e-6)
        assert got[key].dtype == x[key].dtype
    with relaxed():
        theirs = jax.grad(lambda x: f(x, optax.scale_gradient))(x)
    assert_close(got, theirs, rtol=8e-3)


def test_scale_gradient_in_forward_mode_and_with_traced_numbers():
    x = jnp.array([1.0, 2.0])
    np.testing.assert_allclose(jax.jvp(lambda x: scale_gradient(x, 0.5), (x,), (x,))[1], 0.5 * x)
    got = jax.jit(lambda x, a: jax.grad(lambda x: jnp.sum(scale_gradient(x, a)))(x))(x, jnp.float32(0.25))
    np.testing.assert_allclose(got, 0.25)
    kept = scale_gradient({"n": jnp.arange(2), "x": x}, 0.5)
    np.testing.assert_array_equal(kept["n"], [0, 1])


def test_a_stopped_gradient_is_zero_even_where_it_would_be_infinite():
    np.testing.assert_array_equal(jax.grad(lambda x: jnp.log(scale_gradient(x, 0.0)))(jnp.zeros(())), 0)
