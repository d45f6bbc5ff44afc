"""What all methods with Kronecker factors promise."""

import functools
import re
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import gdjax
from gdjax.linalg.matrices import Matrix
from tests.support import slow

NAMES = "soap kl_soap kl_shampoo soap_muon shampoo".split()
# What handles the matrices is the same for all; the factors of these three are made and used in three ways.
SAMPLE = ["soap", "soap_muon", "shampoo", *slow(["kl_soap", "kl_shampoo"])]
# Numbers of the state for an m x n matrix.
STATE = {
    "soap": lambda m, n: 2 * m * n + 2 * (m**2 + n**2),
    "kl_soap": lambda m, n: 2 * m * n + 2 * (m**2 + n**2) + m + n,
    "kl_shampoo": lambda m, n: m * n + 2 * (m**2 + n**2) + m + n,
    "soap_muon": lambda m, n: 2 * m * n + 2 * (m**2 + n**2),
    "shampoo": lambda m, n: 2 * m * n + 2 * (m**2 + n**2),
}


def direction(name, **given):
    return getattr(gdjax, f"scale_by_{name}")(**{"precondition_frequency": 2, **given})


def run(tx, gradients, state=None):
    """The last updates and the state."""
    state, step = tx.init(gradients[0]) if state is None else state, jax.jit(tx.update)
    for g in gradients:
        u, state = step(g, state)
    return u, state


def normal(seed, *shape):
    return jnp.asarray(np.random.default_rng(seed).normal(size=shape), "float32")


@pytest.mark.full
@pytest.mark.parametrize("name", SAMPLE)
def test_together_equals_each_alone(name):
    tree = [{"a": normal(i, 4, 4), "b": normal(i + 50, 4, 4), "c": normal(i + 80, 3, 4)} for i in range(7)]
    tx = direction(name, precondition_frequency=lambda count: 3)
    together, _ = run(tx, tree)
    for key in "abc":
        alone, _ = run(tx, [g[key] for g in tree])
        np.testing.assert_allclose(together[key], alone, rtol=2e-3, atol=2e-4)
    stack, _ = run(direction(name, precondition_frequency=lambda count: 3, roles=Matrix()),
                   [jnp.stack([g["a"], g["b"]]) for g in tree])  # fmt: skip
    np.testing.assert_allclose(stack, jnp.stack([together["a"], together["b"]]), rtol=2e-3, atol=2e-4)


# Shampoo and PSGD use what the step makes, unless delayed.
OFF_THE_PATH = {
    **{name: {} for name in NAMES if name != "shampoo"},
    "shampoo": {"delayed": True},
    "psgd_kron": {"delayed": True},
}


def work(f, *args):
    """How many instructions a compiled function has, and which decompositions."""
    text = jax.jit(f).lower(*args).compile().as_text()
    return len(re.findall(r"^ +(?:ROOT )?%\S+ = ", text, re.M)), set(re.findall(r"eigh|syevd|geqrf|orgqr", text))


@pytest.mark.full
@pytest.mark.parametrize("name", [*SAMPLE, "psgd_kron"])
def test_an_update_does_not_wait_for_a_refresh(name):
    g = normal(0, 12, 16)

    def counted(**given):
        tx = getattr(gdjax, f"scale_by_{name}")(**given)
        update = lambda g, s: tx.update(g, s)[0]
        return work(update, g, tx.init(g)), work(tx.update, g, tx.init(g))

    (of_update, decompositions), (of_step, _) = counted(**OFF_THE_PATH[name])
    assert of_update < 0.5 * of_step
    assert not decompositions
    if OFF_THE_PATH[name]:
        (on_path, _), _ = counted()
        assert on_path > 2 * of_update


@pytest.mark.full
@pytest.mark.parametrize("name", ["soap", *slow(["kl_soap", "kl_shampoo"]), "shampoo"])
def test_blocks_are_matrices_by_themselves(name):
    gradients = [normal(i, 4, 6) for i in range(7)]
    tx = functools.partial(direction, name, precondition_frequency=lambda count: 3)
    got, _ = run(tx(block_size=3), gradients)
    apart = [{(i, j): g[2 * i : 2 * i + 2, 3 * j : 3 * j + 3] for i in (0, 1) for j in (0, 1)} for g in gradients]
    want, _ = run(tx(block_size=None), [list(parts.values()) for parts in apart])
    np.testing.assert_allclose(got, jnp.block([want[:2], want[2:]]), rtol=2e-3, atol=2e-4)


@pytest.mark.full
@pytest.mark.parametrize(
    ("shape", "name"),
    [
        pytest.param(shape, name, marks=[pytest.mark.slow] if name != "soap" and i > 1 else [])
        for i, shape in enumerate([(1, 5), (5, 3), (5, 1), (1, 1), (0, 3)])
        for name in NAMES
    ],
)
def test_odd_shapes_ranks_and_sizes(name, shape):
    tx = direction(name, block_size=2)
    for g in (normal(0, *shape), jnp.ones(shape), jnp.zeros(shape), 1e30 * jnp.ones(shape), 1e-30 * normal(0, *shape)):
        u, state = run(tx, [g] * 5)
        assert np.isfinite(u).all() and all(np.isfinite(x).all() for x in jax.tree.leaves(state))
        assert u.shape == shape and (g.any() or not u.any())
        u, _ = run(tx, [normal(1, *shape)] * 3, state)  # no gradient spoils the state for good
        assert np.isfinite(u).all()


@pytest.mark.full
@pytest.mark.parametrize("name", SAMPLE)
def test_nan_stays_where_it_is(name):
    gradients = [{"a": normal(i, 4, 3), "b": normal(i + 9, 4, 3)} for i in range(5)]
    clean, _ = run(direction(name), gradients)
    spoilt = [{**g, "b": g["b"].at[0, 0].set(jnp.nan) if i == 1 else g["b"]} for i, g in enumerate(gradients)]
    u, _ = run(direction(name), spoilt)
    np.testing.assert_allclose(u["a"], clean["a"], rtol=1e-5)
    assert np.isnan(u["b"]).all()


@pytest.mark.full
@pytest.mark.parametrize("name", NAMES)
def test_without_an_eps_zeros_stay_zeros(name):
    eps = {"grafting_eps": 0.0} if name == "shampoo" else {"eps": 0.0}
    w = normal(0, 4, 3)
    for gs in ([w], [0 * w, 0 * w], [0 * w, w, w]):
        u, _ = run(direction(name, **eps), gs)
        moves = len(gs) == 3 or gs[0] is w and name in ("shampoo", "soap_muon")  # the others skip the first step
        assert jnp.all(jnp.isfinite(u)) and bool(jnp.any(u != 0)) == moves


@pytest.mark.full
@pytest.mark.parametrize("refresh", ["qr", "eigh"])
def test_bases_stay_orthonormal(refresh):
    tx = gdjax.scale_by_soap(precondition_frequency=3, refresh=refresh)
    scale = jnp.asarray(10.0 ** np.linspace(-4, 1, 8), "float32")

    @jax.jit
    def many(state, key):
        def step(state, key):
            a, b = jax.random.split(key)
            g = scale[:, None] * jax.random.normal(a, (8, 6)) + jax.random.normal(b, (8, 1))
            return tx.update(g, state)[1], None

        return jax.lax.scan(step, state, jax.random.split(key, 300))[0]

    state = many(tx.init(jnp.zeros((8, 6))), jax.random.key(0))
    ((left,), (right,)), (factor,) = (x["6x8"] for x in (state.QL, state.QR)), state.R["6x8"]
    for basis in (left, right):
        np.testing.assert_allclose(basis.T @ basis, jnp.eye(len(basis)), atol=1e-5)
    estimated = right.T @ factor @ right
    off = estimated - jnp.diag(jnp.diag(estimated))
    assert jnp.linalg.norm(off) < 0.1 * jnp.linalg.norm(estimated)


@pytest.mark.parametrize("name", NAMES)
def test_bytes_of_the_state(name):
    m, n = 6, 4
    tx = direction(name, block_size=None)
    assert gdjax.state_bytes(tx, jnp.zeros((m, n))) == 4 * STATE[name](m, n) + 4  # and the count


def test_the_bytes_of_the_guide():
    page = (Path(__file__).parents[2] / "docs" / "kronecker.md").read_text("utf-8")
    rows = re.findall(r"^\| `(\w+)` \|[^|]*\|[^|]*\| (\d+) \| (\d+) \|$", page, re.MULTILINE)
    assert {name for name, *_ in rows} == {*NAMES, "adamw"}
    shape = jax.ShapeDtypeStruct((768, 3072), "float32")
    for name, *said in rows:
        for each, sides in zip(said, ("both", "short"), strict=True):
            tx = gdjax.adamw(0.1) if name == "adamw" else getattr(gdjax, f"scale_by_{name}")(sides=sides)
            assert round(gdjax.state_bytes(tx, shape) / (768 * 3072)) == int(each), name


def products(jaxpr, seen):
    """Products of a trace; what is called many times counts once."""
    if id(jaxpr) in seen:
        return 0
    seen[id(jaxpr)] = jaxpr
    found = 0
    for equation in jaxpr.eqns:
        found += equation.primitive.name == "dot_general"
        for x in jax.tree.leaves(list(equation.params.values()), is_leaf=lambda x: hasattr(x, "eqns")):
            inner = getattr(x, "jaxpr", x)
            found += products(inner, seen) if hasattr(inner, "eqns") else 0
    return found


@pytest.mark.parametrize("name", NAMES)
def test_products_do_not_grow_with_the_number_of_leaves(name):
    tx = direction(name, precondition_frequency=3)
    counts = []
    for number in (6, 24):
        tree = {str(i): jnp.zeros((4, 3)) for i in range(number)}
        traced = jax.make_jaxpr(lambda g, s: tx.update(g, s))(tree, jax.eval_shape(tx.init, tree))
        counts.append(products(traced.jaxpr, {}))
    assert counts[0] == counts[1] > 0


@pytest.mark.full
def test_a_share_of_the_factors_in_each_step():
    tree = {str(i): normal(i, 4, 3) for i in range(6)}
    tx = gdjax.scale_by_soap(precondition_frequency=4)
    state, step = tx.init(tree), jax.jit(tx.update)
    changed = []
    for _ in range(8):
        old = state
        _, state = step(tree, state)
        pairs = [(old.QL, state.QL), (old.QR, state.QR)]
        changed.append([not np.array_equal(a, b) for x, y in pairs for a, b in zip(x["3x4"], y["3x4"], strict=True)])
    changed = np.array(changed)
    assert (changed[:4].sum(axis=0) == 1).all() and changed[:4].sum(axis=1).tolist() == [3, 3, 3, 3]


@pytest.mark.full
def test_the_first_bases_are_exact():
    """Also those that have their first turn in the last step of the first four."""
    tree = {str(i): normal(i, 3, 3) for i in range(6)}
    _, state = run(gdjax.scale_by_soap(precondition_frequency=4), [tree] * 4)
    for q, a in zip(jax.tree.leaves((state.QL, state.QR)), jax.tree.leaves((state.L, state.R)), strict=True):
        estimated = np.asarray(q[0].T @ a[0] @ q[0])
        np.testing.assert_allclose(estimated, np.diag(np.diag(estimated)), atol=1e-5)


@pytest.mark.full
def test_state_dtypes_and_masks():
    tree = {"w": normal(0, 4, 3).astype("bfloat16"), "rest": jnp.ones(3, "bfloat16")}
    tx = gdjax.soap(0.1, mu_dtype="bfloat16", roles={"w": "matrix"}, others=gdjax.sgd(0.1))
    state = tx.init(tree)
    for _ in range(2):
        u, state = tx.update(tree, state, tree)
    found = gdjax.tree.get(state, "SoapState")
    assert [getattr(found, name)["3x4"].dtype for name in ("mu", "nu", "L")] == ["bfloat16", "float32", "float32"]
    assert u["w"].dtype == "bfloat16"
    np.testing.assert_allclose(u["rest"], -0.1, rtol=1e-2)


@pytest.mark.full
@pytest.mark.parametrize("before", [0, 2])
def test_a_factor_that_says_nothing_keeps_its_basis(before):
    """One of zeros in the first step, and one that becomes NaN."""
    tx, bad = gdjax.scale_by_soap(precondition_frequency=1), jnp.nan if before else 0.0
    tree = lambda i, b: {"a": normal(i, 3, 4), "b": b}
    good = [tree(i, normal(i + 9, 3, 4)) for i in range(before)]
    old = run(tx, good)[1] if good else tx.init(tree(0, jnp.zeros((3, 4))))
    _, new = run(tx, [tree(5, jnp.full((3, 4), bad))], old)
    for field in ("QL", "QR"):
        (a, b), (moved, kept) = (getattr(s, field)["3x4"] for s in (old, new))
        np.testing.assert_array_equal(kept, b)
        assert not np.array_equal(moved, a) and np.isfinite(moved).all()
