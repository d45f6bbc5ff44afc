"""SPSA and MeZO: the papers' formulas in NumPy, the memory of a compiled step, meshes, odd leaves, and misuse."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import PartitionSpec as P

import gdjax
from gdjax.training import spsa
from tests.linesearch.problems import precision


def params(dtype: str = "float32") -> dict[str, Any]:
    rng = np.random.default_rng(0)
    return {name: jnp.asarray(rng.normal(size=size), dtype) for name, size in (("w", (3, 2)), ("b", 4), ("s", ()))}


def loss(p: Any, shift: Any = 0.0) -> Any:
    """Not a quadratic, and no derivative at some points."""
    return sum(jnp.sum(jnp.abs(x - shift) ** 3 + jnp.sin(x)) for x in jax.tree.leaves(p))


def directions(key: Any, tree: Any, noise: Any) -> Any:
    """z, from the keys that the docstrings do not tell: what is random in the formulas."""
    leaves, structure = jax.tree.flatten(tree)
    keys = [jax.random.fold_in(jax.random.fold_in(key, i), 0) for i in range(len(leaves))]
    return structure.unflatten([spsa._direction(k, x, noise) for k, x in zip(keys, leaves, strict=True)])


def moved(tree: Any, z: Any, by: Any) -> Any:
    return jax.tree.map(lambda x, z: np.asarray(x) + np.asarray(by) * np.asarray(z), tree, z)


@pytest.mark.full
@pytest.mark.parametrize("noise", ["rademacher", "normal"])
def test_spsa_in_numpy(noise: Any):
    with precision("float64"):
        p, key, c = params("float64"), jax.random.key(1), 1e-3
        value, g = jax.jit(
            lambda p, shift: gdjax.spsa_gradient(loss, key, scale=c, samples=3, noise=noise)(p, shift=shift)
        )(p, 0.5)
        values, wanted = [], jax.tree.map(np.zeros_like, p)
        for sample in range(3):
            z = directions(jax.random.fold_in(key, sample), p, noise)
            plus, minus = (float(loss(moved(p, z, by), 0.5)) for by in (c, -c))
            values += [plus, minus]
            wanted = moved(wanted, z, (plus - minus) / (2 * c) / 3)
        np.testing.assert_allclose(value, np.mean(values), rtol=1e-12)
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-9), g, wanted)


@pytest.mark.parametrize("noise", ["rademacher", "normal"])
def test_mezo_in_numpy(noise: Any):
    with precision("float64"):
        p, c, lr = params("float64"), 1e-3, 0.01
        step = jax.jit(lambda p, key, lr: gdjax.mezo_step(loss, key, lr, scale=c, noise=noise)(p, 0.5))
        for key in jax.random.split(jax.random.key(2), 2):
            value, new = step(p, key, lr)
            z = directions(key, p, noise)
            plus, minus = (float(loss(moved(p, z, by), 0.5)) for by in (c, -c))
            wanted = moved(p, z, -lr * (plus - minus) / (2 * c))
            np.testing.assert_allclose(value, (plus + minus) / 2, rtol=1e-12)
            jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-9), new, wanted)
            p = new


@pytest.mark.full
@pytest.mark.parametrize("noise", ["rademacher", "normal"])
def test_the_mean_is_the_gradient(noise: Any):
    """The standard error of an element is |grad| sqrt(1 or 2) / sqrt(4000), some 0.1."""
    p = params()
    quadratic = lambda p: sum(jnp.sum((i + 1) * x**2) for i, x in enumerate(jax.tree.leaves(p)))
    g = jax.jit(gdjax.spsa_gradient(quadratic, 3, samples=4000, noise=noise, scale=0.1))(p)[1]
    wanted = jax.grad(quadratic)(p)
    norm = float(gdjax.global_norm(wanted))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=5 * norm * (2 / 4000) ** 0.5), g, wanted)
    one = jax.jit(gdjax.spsa_gradient(lambda p: p["s"], 3, noise=noise, scale=0.5))(p)[1]  # z_s z
    signs = np.concatenate([np.ravel(x) for x in jax.tree.leaves(one)])
    assert (abs(abs(signs) - 1) < 1e-6).all() == (noise == "rademacher") and len(set(np.sign(signs))) == 2


@pytest.mark.full
def test_the_memory_of_a_step():
    """MeZO's does not grow with the leaves; SPSA's gradient and moved copy do."""
    n = 128

    def temporary(leaves: int, step: Any) -> float:
        """In arrays of the size of a leaf."""
        p = {str(i): jnp.ones((n, n)) for i in range(leaves)}
        program = jax.jit(step, donate_argnums=0).lower(p, jax.random.key(0)).compile()
        memory = program.memory_analysis()
        assert memory.alias_size_in_bytes == 4 * n * n * leaves
        return memory.temp_size_in_bytes / (4 * n * n)

    def f(p: Any) -> Any:
        x = jnp.ones((1, n))
        for w in p.values():
            x = jnp.tanh(x @ w)
        return jnp.sum(x)

    def sgd(p: Any, key: Any) -> Any:
        return jax.tree.map(lambda p, g: p - 0.1 * g, p, gdjax.spsa_gradient(f, key)(p)[1])

    mezo = lambda p, key: gdjax.mezo_step(f, key, 0.1)(p)[1]
    assert temporary(5, mezo) < temporary(2, mezo) + 0.2 < 6.6
    assert 10 < temporary(5, sgd) < 6.6 + 2 * 5


@pytest.mark.full
def test_noise_is_the_same_on_every_mesh():
    mesh = jax.make_mesh((4, 2), ("a", "b"), axis_types=(jax.sharding.AxisType.Auto,) * 2)
    p = {"w": jnp.arange(32.0).reshape(8, 4) / 32, "b": jnp.ones(8)}
    how = {"w": P("a", "b"), "b": P("a")}
    divided = jax.tree.map(lambda x, s: jax.device_put(x, jax.sharding.NamedSharding(mesh, s)), p, how)
    step = jax.jit(lambda p, k: gdjax.mezo_step(loss, k, 0.01)(p)[1])
    alone, together = step(p, jax.random.key(0)), step(divided, jax.random.key(0))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-5), alone, together)
    jax.tree.map(lambda x, y: np.testing.assert_(x.sharding.is_equivalent_to(y.sharding, x.ndim)), together, divided)


@pytest.mark.full
def test_keys_typed_raw_and_numbers():
    step = jax.jit(lambda key: gdjax.mezo_step(lambda x: x**2, key, 0.1)(jnp.ones(())))
    wanted = step(jax.random.key(5))
    for key in (jax.random.PRNGKey(5), 5):
        np.testing.assert_array_equal(step(key), wanted)
    np.testing.assert_array_equal(gdjax.mezo_step(lambda x: x**2, 5, 0.1)(jnp.ones(())), wanted)


def test_odd_leaves():
    """Integers stay and have float0; complex numbers go down; 16 bits are rounded; None and no leaves are let in."""
    p = {"i": jnp.arange(3), "z": jnp.array([1 + 2j, -1j]), "h": jnp.ones(2, jnp.bfloat16), "n": None, "e": jnp.ones(0)}
    f = lambda p: jnp.sum(jnp.abs(p["z"]) ** 2) + jnp.sum(p["h"].astype(jnp.float32)) * p["i"][1].astype(jnp.float32)
    value, g = jax.jit(gdjax.spsa_gradient(f, 0, samples=4000, scale=0.1))(p)
    assert g["i"].dtype == jax.dtypes.float0 and g["h"].dtype == jnp.bfloat16 and g["n"] is None
    np.testing.assert_allclose(g["z"], 2 * jnp.conj(p["z"]), atol=0.5)
    np.testing.assert_allclose(g["h"].astype(float), 1, atol=0.5)
    _, new = jax.jit(gdjax.mezo_step(f, 0, 0.05, scale=0.1))(p)
    np.testing.assert_array_equal(new["i"], p["i"])
    assert new["h"].dtype == jnp.bfloat16 and f(new) < f(p) and new["n"] is None
    value, g = gdjax.spsa_gradient(lambda p: jnp.ones(()), 0)({})
    assert value == 1 and g == {}
    assert gdjax.mezo_step(lambda p: jnp.ones(()), 0, 0.1)({}) == (1, {})


def test_values_that_are_not_finite_move_nothing():
    p = params()
    step = jax.jit(lambda p, by: gdjax.mezo_step(lambda p: loss(p) * by, 0, 0.1)(p))
    for bad in (np.nan, np.inf):
        value, new = step(p, bad)
        assert not np.isfinite(value)
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6), new, p)
    _, g = jax.jit(gdjax.spsa_gradient(lambda p: loss(p) * np.nan, 0))(p)
    assert all(np.isnan(x).all() for x in jax.tree.leaves(g))


@pytest.mark.parametrize("make", [gdjax.spsa_gradient, lambda f, key, **more: gdjax.mezo_step(f, key, 0.1, **more)])
def test_misuse(make: Any):
    p = params()
    for given, error, message in (
        (lambda: make(loss, jnp.ones(3)), TypeError, "key must be a PRNG key or an int"),
        (lambda: make(loss, None), ValueError, "key is None"),
        (lambda: make(loss, jax.random.split(jax.random.key(0))), TypeError, "key must be a PRNG key or an int"),
        (lambda: make(loss, 0, scale=0.0), ValueError, "scale must be finite and above 0, got 0.0"),
        (lambda: make(loss, 0, noise="gumbel"), ValueError, "noise must be one of rademacher, normal, got 'gumbel'"),
        (lambda: make(lambda p: p["b"], 0)(p), TypeError, r"loss_fn must return a real scalar, got .*\(4,\)"),
        (
            lambda: make(lambda p: jax.lax.complex(p["s"], p["s"]), 0)(p),
            TypeError,
            "loss_fn must return a real scalar, got .*complex64",
        ),
        (lambda: make(loss, 0)(None), ValueError, "params is None"),
        (lambda: make(loss, 0)({"a": "text"}), TypeError, r"params\['a'\]"),
    ):
        with pytest.raises(error, match=rf"^gdjax\.(spsa_gradient|mezo_step): .*{message}"):
            given()
    with pytest.raises(ValueError, match="samples must be at least 1"):
        gdjax.spsa_gradient(loss, 0, samples=0)
