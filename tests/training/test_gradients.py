"""Central differences against known derivatives, and `check_gradients` against right and wrong ones."""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.experimental
import jax.numpy as jnp
import numpy as np
import pytest

from gdjax.training.gradients import check_gradients, numerical_gradient

enable_x64 = jax.enable_x64 if hasattr(jax, "enable_x64") else jax.experimental.enable_x64
X = np.random.default_rng(0).normal(size=(16, 6))
Y = np.random.default_rng(1).integers(0, 3, 16)


def network(act: Callable[[Any], Any], params: Any) -> Any:
    """The cross entropy of a small network, in the parameters' dtype."""
    w, (b, v) = params["w"], params["head"]
    z = act(jnp.asarray(X, w.dtype) @ w + b[None]) @ v
    return -jnp.mean(jax.nn.log_softmax(z)[jnp.arange(16), Y])


def network_params(dtype: Any = jnp.float32) -> Any:
    rng = np.random.default_rng(2)
    w, b, v = rng.normal(size=(6, 8)), rng.normal(size=8), rng.normal(size=(8, 3))
    return {"w": jnp.asarray(w, dtype), "head": [jnp.asarray(b, dtype), jnp.asarray(v, dtype)], "none": None}


@jax.custom_vjp
def shaky(x: jax.Array) -> jax.Array:
    """sin, with a derivative that is off by the factor 1.02 at negative x."""
    return jnp.sin(x)


shaky.defvjp(lambda x: (jnp.sin(x), x), lambda x, g: (g * jnp.cos(x) * jnp.where(x < 0, 1.02, 1.0),))


@jax.custom_vjp
def sound(x: jax.Array) -> jax.Array:
    return jnp.sin(x)


sound.defvjp(lambda x: (jnp.sin(x), x), lambda x, g: (g * jnp.cos(x),))


def test_equals_formula_and_keeps_structure():
    params = {"a": jnp.array([[0.5, -2.0], [30.0, 0.0]]), "b": (jnp.float32(3.0), None), "e": jnp.zeros((2, 0))}
    got = numerical_gradient(lambda p: jnp.sum(p["a"] ** 2) + jnp.exp(p["b"][0]) + jnp.sum(p["e"]), params)
    assert jax.tree.structure(got) == jax.tree.structure(params)
    assert jax.tree.map(jnp.shape, got) == jax.tree.map(jnp.shape, params)
    np.testing.assert_allclose(got["a"], 2 * params["a"], rtol=2e-4, atol=2e-2)  # f is about 900
    np.testing.assert_allclose(got["b"][0], np.exp(3.0), rtol=1e-3)


def test_divides_by_the_representable_step():
    # 2 x is exact in float32, so the quotient is exactly 2 if the divisor is the true distance of the two points.
    for x in (1000.3, 0.1, -77.7):
        assert float(numerical_gradient(lambda x: 2 * x, jnp.float32(x))) == 2.0


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16])
def test_rounds_the_points_to_the_leaf(dtype: Any):
    # Of points kept in float32 the distance would be another one than f sees.
    x = jnp.linspace(-9, 9, 50).astype(dtype)
    for f in (lambda x: jnp.sum(x.astype(jnp.float32)), lambda x: jnp.sum(x.astype(jnp.float32)).astype(jnp.float32)):
        assert (numerical_gradient(f, x) == 1).all()


def test_step_grows_with_the_parameter():
    # With an absolute step, x + h would be x for the large ones; with a relative one, for the small one.
    for x in (1e-6, 1.0, 1e4, 1e8):
        got = numerical_gradient(jnp.log1p, jnp.float32(x))
        assert float(got) * (1 + x) == pytest.approx(1.0, rel=1e-3)


def test_error_is_two_thirds_of_the_digits():
    def error(dtype: Any) -> float:
        x = jnp.linspace(-2, 2, 41).astype(dtype)
        got = numerical_gradient(lambda x: jnp.sum(jnp.sin(x)), x)
        return float(np.max(np.abs(np.asarray(got, np.float64) - np.cos(np.asarray(x, np.float64)))))

    assert error(jnp.float32) < 1e-3
    with enable_x64(True):
        assert error(jnp.float64) < 1e-9
    # The terms of the sum are computed in 16 bits: one digit.
    assert error(jnp.float16) < 0.1
    assert error(jnp.bfloat16) < 0.4


def test_step_follows_a_coarser_function():
    # Float64 parameters of a function computed in float32: float64's step would be lost in its rounding.
    with enable_x64(True):
        x = jnp.linspace(-2, 2, 9)
        assert x.dtype == jnp.float64
        got = numerical_gradient(lambda x: jnp.sum(jnp.sin(x.astype(jnp.float32))), x)
        np.testing.assert_allclose(got, np.cos(x), atol=1e-3)


def test_given_step_is_used():
    # The central difference of x^3 is 3 x^2 + h^2.
    for eps in (0.25, 0.5):
        got = numerical_gradient(lambda x: x**3, jnp.float32(2.0), eps=eps)
        assert float(got) == pytest.approx(12 + (2 * eps) ** 2)


@pytest.mark.full
def test_complex_follows_jax():
    def f(z: jax.Array) -> jax.Array:
        return jnp.sum(jnp.abs(z) ** 2 * z.real - 3 * z.imag)

    z = jnp.array([1 + 2j, -0.5j, 0.25], jnp.complex64)
    np.testing.assert_allclose(numerical_gradient(f, z), jax.grad(f)(z), rtol=1e-3, atol=1e-3)
    assert numerical_gradient(f, z).dtype == jnp.complex64
    assert check_gradients(lambda p: f(p["z"]), {"z": z}).leaves[0].checked == 3
    with pytest.raises(AssertionError, match=r"params\[\d\]: analytic"):
        check_gradients(f, z, grad=jnp.conj(jax.grad(f)(z)))


@pytest.mark.full
def test_sampled_coordinates():
    def f(p: Any) -> jax.Array:
        return jnp.sum(p["w"] ** 3) + jnp.sum(p["b"])

    def sample(seed: int) -> Any:
        return numerical_gradient(f, params, coordinates=20, key=jax.random.key(seed))

    with enable_x64(True):
        params = {"w": jnp.arange(1000.0).reshape(10, 100) / 100, "b": jnp.ones(3)}
        got, again, other = sample(0), sample(0), sample(1)
    i = np.asarray(got.indices["w"])
    assert i.shape == (20,) and len(set(i)) == 20 and i.min() >= 0 and i.max() < 1000
    np.testing.assert_allclose(got.values["w"], 3 * (i / 100) ** 2, rtol=1e-5)
    assert list(got.indices["b"]) == [0, 1, 2], "all of a leaf that has fewer"
    assert list(again.indices["w"]) == list(i) and list(other.indices["w"]) != list(i)


def test_sample_reaches_every_coordinate():
    def indices(key: jax.Array) -> jax.Array:
        return numerical_gradient(jnp.sum, jnp.zeros(7), coordinates=3, key=key).indices

    drawn = np.asarray(jax.vmap(indices)(jax.random.split(jax.random.key(0), 40)))
    assert set(drawn.reshape(-1)) == set(range(7))
    assert all(len(set(row)) == 3 for row in drawn)


@pytest.mark.full
def test_compiles_the_function_once_for_all_coordinates():
    traces = []

    def f(p: Any) -> jax.Array:
        traces.append(1)
        return jnp.sum(jnp.concatenate(jax.tree.leaves(p)) ** 2)

    numerical_gradient(f, {str(k): jnp.ones(5 + k) for k in range(10)})
    assert len(traces) == 2, "one for its dtype, one for the loop"


def test_runs_inside_jit_and_vmap():
    x = jnp.arange(6.0).reshape(2, 3) / 4
    got = jax.jit(jax.vmap(functools.partial(numerical_gradient, lambda x: jnp.sum(jnp.sin(x)))))(x)
    np.testing.assert_allclose(got, np.cos(x), atol=1e-3)


@pytest.mark.parametrize("act", [jnp.tanh, jax.nn.softplus])
def test_correct_network_passes(act: Callable[[Any], Any]):
    f = functools.partial(network, act)
    report = check_gradients(f, network_params())
    assert report.passed and {leaf.path for leaf in report.leaves} == {"['w']", "['head'][0]", "['head'][1]"}
    assert sum(leaf.unresolved for leaf in report.leaves) == 0


@pytest.mark.full
def test_float64_is_sharper():
    with enable_x64(True):
        f = functools.partial(network, jnp.tanh)
        report = check_gradients(f, network_params(jnp.float64))
        assert report.leaves[0].tolerance < 1e-5
        assert all(leaf.error < 1e-6 and leaf.unresolved == 0 for leaf in report.leaves)
        # An error of 1 in 50,000 is found, which float32 cannot see.
        grad = jax.grad(f)(network_params(jnp.float64))
        grad["head"][1] = grad["head"][1] * (1 + 2e-5)
        with pytest.raises(AssertionError, match=r"\['head'\]\[1\]"):
            check_gradients(f, network_params(jnp.float64), grad=grad)


def test_relu_passes_in_float64():
    with enable_x64(True):
        assert check_gradients(functools.partial(network, jax.nn.relu), network_params(jnp.float64)).passed


@pytest.mark.full
def test_wrong_custom_rule_is_caught_with_path_and_numbers():
    params = {"layer": {"w": jnp.array([[0.3, 1.0], [2.0, -0.4]]), "b": jnp.array([0.1])}}

    def f(g: Callable[[Any], Any], p: Any) -> jax.Array:
        return jnp.sum(g(p["layer"]["w"])) + jnp.sum(p["layer"]["b"] ** 2)

    assert check_gradients(functools.partial(f, sound), params).passed
    with pytest.raises(AssertionError) as caught:
        check_gradients(functools.partial(f, shaky), params)
    first = str(caught.value).splitlines()[1]
    assert "params['layer']['w'][1, 1]" in first and "0.939" in first and "0.921" in first
    report = check_gradients(functools.partial(f, shaky), params, raise_on_failure=False)
    worst = report.leaves[0]
    assert not report.passed and (worst.path, worst.coordinate) == ("['layer']['w']", (1, 1))
    assert worst.analytic == pytest.approx(1.02 * np.cos(-0.4), rel=1e-5)
    assert worst.numerical == pytest.approx(np.cos(-0.4), rel=1e-4)
    assert worst.error == pytest.approx(0.02 / 2.02, rel=0.05)
    assert report.leaves[1].passed and report.leaves[1].path == "['layer']['b']"


def test_rtol_is_obeyed():
    x = jnp.array([-0.5, 0.5])
    assert check_gradients(lambda x: jnp.sum(shaky(x)), x, rtol=0.02).passed
    with pytest.raises(AssertionError):
        check_gradients(lambda x: jnp.sum(shaky(x)), x, rtol=0.005)


@pytest.mark.parametrize("scale", [1e-12, 1.0, 1e12])
def test_scale_of_the_function_does_not_matter(scale: float):
    x = jnp.array([-0.5, 0.7])
    assert check_gradients(lambda x: scale * jnp.sum(sound(x)), x).passed
    with pytest.raises(AssertionError):
        check_gradients(lambda x: scale * jnp.sum(shaky(x)), x)


def test_rounding_of_a_large_value_is_allowed_for():
    x = jnp.linspace(-1, 1, 300)
    report = check_gradients(lambda x: 3000 + jnp.sum(sound(x)), x)
    assert report.leaves[0].unresolved <= 5
    with pytest.raises(AssertionError):
        check_gradients(lambda x: 3000 + jnp.sum(sound(x)), x, grad=1.2 * jnp.cos(x))


def test_zero_gradients_are_not_resolved():
    report = check_gradients(lambda x: jnp.sum(x**3) + 1.0, jnp.zeros(3))
    assert (report.leaves[0].checked, report.leaves[0].unresolved) == (3, 3)
    assert "(3 not resolved from zero)" in str(report)
    assert check_gradients(lambda x: jnp.sum(0 * x), jnp.zeros(3)).passed


@pytest.mark.parametrize("distance", [0.0, 0.2, 0.5, 0.7, 0.95, 1.5, -0.3])
def test_single_kink_is_allowed_for(distance: float):
    x = jnp.float32(2.0)
    kink = 2.0 + distance * 2.0 * np.finfo(np.float32).eps ** (1 / 3)
    assert check_gradients(lambda x: jnp.abs(x - kink) + 0.5 * x, x).passed
    assert check_gradients(lambda x: jax.nn.relu(x - kink), x).passed


def test_non_finite_never_passes():
    for f in (jnp.log, jnp.sqrt):
        with pytest.raises(AssertionError, match="inf"):
            check_gradients(f, jnp.float32(0.0))
    with pytest.raises(AssertionError, match="nan"):
        check_gradients(lambda x: jnp.sum(x**2), jnp.ones(2), grad=jnp.array([2.0, jnp.nan]))
    # Infinite only two steps away: how far off the difference is cannot be told.
    with pytest.raises(AssertionError, match="inf > "):
        check_gradients(lambda x: jnp.where(x > 1.007, jnp.inf, x), jnp.float32(1.0))


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16])
def test_16_bit_parameters(dtype: Any):
    x = jnp.linspace(-1, 1, 8).astype(dtype)
    assert check_gradients(lambda x: jnp.sum(sound(x.astype(jnp.float32))), x).passed
    with pytest.raises(AssertionError):
        check_gradients(lambda x: jnp.sum(x), x, grad=2 * jnp.ones(8, dtype))


def test_empty_tree():
    assert numerical_gradient(lambda p: jnp.float32(1.0), {}) == {}
    assert check_gradients(lambda p: jnp.float32(1.0), {}).passed


MISUSES = [
    (lambda f: f(jnp.sum, {"n": jnp.arange(3)}), TypeError, r"params\['n'\] has dtype int32"),
    (lambda f: f(lambda p: p["a"], {"a": jnp.ones(3), "n": True}), TypeError, r"params\['n'\] has dtype bool"),
    (lambda f: f(jnp.sum, {"k": jax.random.key(0)}), TypeError, r"params\['k'\] is a PRNG key"),
    (lambda f: f(lambda x: 2 * x, jnp.ones(3)), TypeError, r"real scalar.*\(?3"),
    (lambda f: f(lambda x: (x, x), jnp.float32(1.0)), TypeError, "real scalar"),
    (lambda f: f(lambda x: jnp.sum(x) * 1j, jnp.ones(3, jnp.complex64)), TypeError, "real scalar.*complex64"),
    (lambda f: f(jnp.sum, jnp.ones(3), coordinates=2), ValueError, "coordinates and key go together"),
    (lambda f: f(jnp.sum, jnp.ones(3), key=jax.random.key(0)), ValueError, "coordinates and key go together"),
    (lambda f: f(jnp.sum, jnp.ones(3), coordinates=0, key=jax.random.key(0)), ValueError, "coordinates must be at lea"),
    (lambda f: f(jnp.sum, jnp.ones(3), eps=0.0), ValueError, "eps must be positive"),
]


@pytest.mark.parametrize("function", [numerical_gradient, check_gradients])
@pytest.mark.parametrize(("misuse", "error", "message"), MISUSES)
def test_misuse(function: Any, misuse: Any, error: type[Exception], message: str):
    with pytest.raises(error, match=rf"gdjax\.{function.__name__}: .*{message}"):
        misuse(function)


def test_given_gradient_must_fit():
    params = {"a": jnp.ones(3), "b": jnp.ones(2)}
    f = lambda p: jnp.sum(p["a"]) + jnp.sum(p["b"])
    with pytest.raises(ValueError, match=r"grad\['b'\] is missing"):
        check_gradients(f, params, grad={"a": jnp.ones(3)})
    with pytest.raises(ValueError, match=r"params\['b'\]: gradient shape \(3,\) does not match \(2,\)"):
        check_gradients(f, params, grad={"a": jnp.ones(3), "b": jnp.ones(3)})
    with pytest.raises(ValueError, match="rtol must be positive"):
        check_gradients(f, params, rtol=0.0)
