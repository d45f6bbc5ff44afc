"""Newton-Schulz: against singular values in NumPy, at extreme sizes, and grouped as one by one."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import gdjax
from gdjax.linalg import matrices, newton_schulz
from gdjax.linalg.polar import PRESETS, Polar, coefficients
from tests import oracles

RNG = np.random.default_rng(0)
SHAPES = [(3, 3), (2, 5), (1, 4), (5, 2), (4, 3)]
NORMS = pytest.mark.parametrize("norm", newton_schulz.NORMS)


def expected(x, coeffs, steps, norm, eps):
    """The same by singular values: U p(p(... S / norm)) V^H. For "aol", a norm for each row, X is scaled first."""
    if x.shape[0] > x.shape[1]:
        return expected(x.T, coeffs, steps, norm, eps).T
    if norm == "aol":
        rows = np.sqrt(np.abs(x @ x.conj().T).sum(1, keepdims=True))
        x = x / np.maximum(rows, eps)
    u, s, vh = np.linalg.svd(x, full_matrices=False)
    if norm == "frobenius":
        s = s / (np.sqrt(np.sum(s**2)) + eps)
    elif norm == "spectral":
        s = s / (s[0] + eps)
    elif norm == "schatten":
        s = s / max(np.sum(s**4) ** 0.25, eps)
    for a, b, c in [coeffs] * steps if np.ndim(coeffs) == 1 else coeffs:
        s = a * s + b * s**3 + c * s**5
    return (u * s) @ vh


def run(x, coeffs=PRESETS["standard"], steps=5, norm="frobenius", eps=1e-8):
    return newton_schulz.orthogonalize(jnp.asarray(x), jnp.asarray(coeffs), steps, norm, eps)


@pytest.mark.full
@NORMS
@pytest.mark.parametrize("preset", ["standard", "dion"])
@pytest.mark.parametrize("dtype, rtol", [("float64", 1e-12), ("complex128", 1e-12), ("float32", 1e-4)])
def test_singular_values(norm, preset, dtype, rtol):
    with oracles.precision("float64"):
        for shape in SHAPES:
            x = RNG.normal(size=(2, *shape)) + (1j * RNG.normal(size=(2, *shape)) if "complex" in dtype else 0)
            coeffs = PRESETS[preset]
            got = run(x.astype(dtype), coeffs, 4, norm, 0.01)
            assert got.dtype == dtype
            np.testing.assert_allclose(got, [expected(m, coeffs, 4, norm, 0.01) for m in x], rtol=rtol, atol=rtol)


@pytest.mark.full
def test_polar_has_the_norm_and_the_steps():
    """Of one stack, and of stacks of two shapes, one of them on its side."""
    rng, coeffs = np.random.default_rng(1), PRESETS["standard"]
    xs = [rng.normal(size=(2, *shape)).astype(np.float32) for shape in ((3, 5), (5, 3))]
    for norm in newton_schulz.NORMS:
        want = [[expected(m, coeffs, 3, norm, 0.01) for m in x] for x in xs]
        got = Polar(norm).factors(list(map(jnp.asarray, xs)), jnp.asarray(coeffs), 3, 0.01)
        got.append(Polar(norm).one(jnp.asarray(xs[0]), jnp.asarray(coeffs), 3, 0.01))
        for factors, oracle in zip(got, [*want, want[0]], strict=True):
            np.testing.assert_allclose(factors, oracle, rtol=1e-4, atol=1e-4, err_msg=norm)


FAR = {
    ("standard", 5): 0.35, ("dion", 5): 0.05, ("polar_express", 5): 0.13, ("polar_express", 6): 0.002,
    ("polar_express", 8): 1e-5, ("polar_express", 11): 1e-5, ("cans", 5): 0.12, ("cans", 7): 0.07,
    ("deepseek", 10): 1e-3,
}  # fmt: skip


@pytest.mark.parametrize("preset, steps", FAR)
def test_close_to_the_polar_factor(preset, steps):
    u, _, vh = np.linalg.svd(RNG.normal(size=(4, 3, 8)), full_matrices=False)
    x = (u * np.array([3.0, 2.0, 0.5])) @ vh
    coeffs = coefficients("tx", preset, steps)
    s = np.linalg.svd(run(x.astype("float32"), coeffs, steps), compute_uv=False)
    assert np.abs(s - 1).max() < FAR[preset, steps]


def test_coefficients_for_aol():
    x = RNG.normal(size=(4, 16, 64)).astype("float32")
    s = np.linalg.svd(run(x, PRESETS["aol"], 5, "aol"), compute_uv=False)
    assert np.abs(s - 1).max() < 0.06


@pytest.mark.parametrize("preset", PRESETS)
def test_no_singular_value_changes_its_sign(preset):
    s = np.linspace(1e-6, 1, 100_000)
    triples = PRESETS[preset] if np.ndim(PRESETS[preset]) == 2 else [PRESETS[preset]] * 5
    for a, b, c in triples:
        s = a * s + b * s**3 + c * s**5
        assert s.min() > 0 and s.max() < 2
    assert s.max() < 1.21


def test_polar_express_has_the_best_polynomials():
    """Each is the odd quintic nearest to 1 on [l, u], found by Remez' algorithm, and l, u are its least and largest
    values; l is taken for at least a share of u, and the polynomial then scaled so that 1 is in the middle again."""
    low, high, share, found = 1e-3, 1.0, 0.02407327424182761, []
    for _ in range(7):
        l, u, error, before = max(low, share * high), high, 1.0, 0.0  # noqa: E741
        q, r = (3 * l + u) / 4, (l + 3 * u) / 4
        while abs(error - before) > 1e-15:
            before = error
            nodes = np.array([l, q, r, u])
            a, b, c, error = np.linalg.solve(np.stack([nodes, nodes**3, nodes**5, [1, -1, 1, -1]], 1), np.ones(4))
            root = np.sqrt(9 * b * b - 20 * a * c)
            q, r = np.sqrt((-3 * b + np.array([-root, root])) / (10 * c))
        at = lambda x, a=a, b=b, c=c: a * x + b * x**3 + c * x**5
        scale = 2 / (at(low) + at(high))
        found.append(scale * np.array([a, b, c]))
        low, high = scale * at(low), 2 - scale * at(low)
    safe = np.array(found) / 1.01 ** np.array([1, 3, 5])
    safe[0] /= 1.01 ** np.array([1, 3, 5])
    np.testing.assert_allclose(PRESETS["polar_express"][:7], safe, rtol=1e-9)
    np.testing.assert_allclose(PRESETS["polar_express"][7], [15 / 8, -10 / 8, 3 / 8])


@NORMS
@pytest.mark.parametrize("products", [None, "bfloat16"])
def test_a_number_of_steps_that_is_no_constant(norm, products):
    x = RNG.normal(size=(2, 3, 5)).astype("float32")
    f = jax.jit(lambda x, coeffs, k: newton_schulz.orthogonalize(x, coeffs, k, norm, 0.01, products))
    for coeffs in (jnp.asarray(PRESETS["standard"]), jnp.asarray(PRESETS["dion"])):
        for k in (0, 2, 5, 7):
            triples = [coeffs] * k if coeffs.ndim == 1 else [coeffs[min(i, 4)] for i in range(k)]
            got = f(x, coeffs, jnp.asarray(k))
            if k == 0:
                assert np.abs(np.linalg.norm(got, axis=(1, 2)) - 1).max() < 0.01 or norm != "frobenius"
                continue
            fixed = newton_schulz.orthogonalize(jnp.asarray(x), jnp.stack(triples), k, norm, 0.01, products)
            np.testing.assert_allclose(got, fixed, rtol=2e-2 if products else 1e-4, atol=2e-2 if products else 1e-5)
    assert f._cache_size() == 2


@pytest.mark.skipif(jax.__version_info__ < (0, 6), reason="this JAX lowers what is for other platforms too")
def test_a_step_is_three_products():
    # More, as a symmetric product cut into strips, compile long: 32 seconds, not 1.4, for Muon on 48 matrices.
    for shape in ((512, 512), (512, 2048)):
        x, coeffs = jnp.ones(shape), jnp.asarray(PRESETS["standard"])
        traced = jax.jit(lambda x, c: newton_schulz.orthogonalize(x, c, 1)).trace(x, coeffs)
        assert traced.lower(lowering_platforms=("cpu",)).as_text().count("stablehlo.dot_general") == 3


@NORMS
@pytest.mark.parametrize("shape", [(3, 5), (5, 3)])
def test_factors_rounded_to_float32(shape, norm):
    with oracles.precision("float64"):
        x = RNG.normal(size=(2, *shape))
        got = newton_schulz.orthogonalize(jnp.asarray(x), jnp.asarray(run.__defaults__[0]), 4, norm, 0.01, "float32")
        error = np.abs(got - np.stack([expected(m, run.__defaults__[0], 4, norm, 0.01) for m in x])).max()
        assert got.dtype == "float64" and 1e-9 < error < 1e-5


def test_bfloat16_products_err_by_one_percent():
    # With b A of the exact A, beside c A^2 of the rounded one, the error is twice as large.
    x = RNG.normal(size=(64, 192)).astype("float32")
    coeffs = PRESETS["standard"]
    f = jax.jit(lambda x: newton_schulz.orthogonalize(x, jnp.asarray(coeffs), 5, "frobenius", 0.0, jnp.bfloat16))
    want = expected(np.float64(x), coeffs, 5, "frobenius", 0.0)
    error = np.linalg.norm(f(x) - want) / np.linalg.norm(want)
    assert 1e-3 < error < 0.016
    dots = [line for line in f.lower(x).as_text().splitlines() if "dot_general" in line]
    assert len(dots) == 3  # the same in every step
    for line in dots:
        operands, result = line.rsplit("->", 1)
        assert operands.count("xbf16>") == 2 and "xf32>" in result


@NORMS
@pytest.mark.parametrize("size", [1e-36, 1e-12, 1e20, 3e38])
def test_the_size_of_the_matrix_does_not_matter(norm, size):
    x = RNG.uniform(-1, 1, size=(1, 3, 5)).astype("float32")
    np.testing.assert_allclose(run(x * np.float32(size), norm=norm, eps=0.0), run(x, norm=norm), rtol=2e-4, atol=2e-5)


@pytest.mark.full
@NORMS
@pytest.mark.parametrize("eps", [0.0, 1e-8])
def test_zero_and_its_derivative(norm, eps):
    zero = jnp.zeros((2, 3, 5))
    np.testing.assert_array_equal(run(zero, norm=norm, eps=eps), zero)
    slope = jax.grad(lambda x: jnp.sum(run(x, norm=norm, eps=eps)))(zero.at[1, 0, 0].set(1.0))
    assert np.isfinite(slope).all()


@pytest.mark.parametrize("most, always_wide, before", [
    (matrices.LARGE, False, [(4, 2, 3)]),
    (5, False, [(2, 3), (3, 2), (2, 3, 2)]),  # of at least 5 elements a matrix counts as large, and is done by itself
    (5, True, [(2, 3), (2, 3), (2, 2, 3)]),
])  # fmt: skip
def test_groups(most, always_wide, before):
    shapes = [(1, 2, 3), (1, 3, 2), (2, 3, 2), (1, 2, 2), (1, 0, 3), (1, 2, 2)]
    xs = [jnp.asarray(RNG.normal(size=n), "float32") for n in shapes]
    seen = []

    def f(x):
        seen.append(x.shape)
        return x @ x.mT @ x

    got = matrices._in_groups(f, most, always_wide, xs)
    assert seen == [*before, (2, 2, 2), (0, 3)]
    for x, y, z in zip(xs, got, matrices.in_groups(f, xs), strict=True):
        np.testing.assert_allclose(y, x @ x.mT @ x, rtol=1e-6)
        np.testing.assert_allclose(z, y, rtol=1e-6)


@pytest.mark.skipif(jax.__version_info__ < (0, 6), reason="this JAX lowers what is for other platforms too")
@pytest.mark.parametrize("platform, ns_dtype, transposed", [
    ("tpu", None, 0), ("tpu", "bfloat16", 0), ("cpu", None, 0), ("cpu", "bfloat16", 4), ("cuda", None, 4),
])  # fmt: skip
def test_a_large_tall_matrix_is_not_transposed(platform, ns_dtype, transposed):
    # On a TPU the layout of a transpose spread to the gradient, the momentum and the parameter: five copies.
    params = {"tall": jnp.zeros((512, 128)), "wide": jnp.zeros((128, 512)), "tall too": jnp.zeros((512, 128))}
    tx = gdjax.contrib.muon(1e-3, ns_dtype=ns_dtype)
    text = jax.jit(tx.update).trace(params, tx.init(params), params).lower(lowering_platforms=(platform,)).as_text()
    assert text.count("stablehlo.transpose") == transposed


@pytest.mark.parametrize("steps", [1, 2, 3, 5, 7])
@pytest.mark.parametrize("smallest", [1.0, 1e-3, 1e-9])
def test_fewer_products_are_as_precise(steps, smallest):
    u, _, vh = np.linalg.svd(RNG.normal(size=(32, 64)), full_matrices=False)
    x = (u * np.geomspace(1, smallest, 32)) @ vh / 32
    triples = np.asarray([PRESETS["standard"]] * steps)
    wanted, single = expected(32 * x, triples, steps, "frobenius", 0.0), []
    by_columns = lambda triples, *xs: newton_schulz._by_columns(triples, None, *xs)
    for f in (newton_schulz._by_rows, by_columns):
        with oracles.precision("float64"):
            y = x / np.linalg.norm(x)
            np.testing.assert_allclose(f(list(triples), y), wanted, rtol=1e-9, atol=1e-11)
        y = jnp.asarray(y, "float32")
        single.append(np.abs(f(list(triples.astype("float32")), y, y @ y.T) - wanted).max())
    assert single[0] < 3 * single[1] + 2e-6


@pytest.mark.parametrize("coeffs, message", [
    ("quintic", "ns_coeffs must be numbers or one of standard, dion, polar_express, cans, deepseek, aol, muon, "
     "jordan, got 'quintic'"),
    ((1.0, 2.0), r"ns_coeffs must have shape \(3,\) or \(steps, 3\), got \(2,\)"),
    ("dion", "ns_coeffs has 5 triples, one for each step, and ns_steps is 4"),
])  # fmt: skip
def test_errors(coeffs, message):
    with pytest.raises(ValueError, match=f"^tx: {message}$"):
        coefficients("tx", coeffs, 4)
