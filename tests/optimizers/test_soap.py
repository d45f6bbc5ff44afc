"""SOAP against its authors' code, and against a NumPy statement of Algorithm 3."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import gdjax
from tests import oracles
from tests.golden_matrices import compare
from tests.support import slow


@pytest.mark.parametrize("leaf", ["tall1", "wide1", *slow(["square"])])
@pytest.mark.parametrize("every", [1, 5])
def test_its_authors_code(every, leaf):
    tx = gdjax.scale_by_soap(0.95, 0.9, precondition_frequency=lambda count: every)
    compare(f"soap/authors_f{every}", leaf, gdjax.chain(tx, gdjax.scale(-0.01)))


@pytest.mark.parametrize("leaf", ["tall1", "wide1", *slow(["square"])])
def test_its_authors_code_with_other_numbers(leaf):
    tx = gdjax.scale_by_soap(0.9, 0.95, 0.8, 1e-3, lambda count: 2, bias_correction=False)
    compare("soap/authors_decay", leaf, gdjax.chain(tx, gdjax.scale(-0.01)), decay=0.001)


def soap(gradients, b1=0.9, b2=0.8, beta=0.7, eps=1e-3, turns=((0, 0), (0, 0)), k=3):
    """The directions of Algorithm 3. `turns` are the steps, modulo k, in which L and R have their turns."""
    m, v = np.zeros(gradients[0].shape), np.zeros(gradients[0].shape)
    (rows, columns), t = m.shape, 0
    factors, bases = [np.zeros((rows, rows)), np.zeros((columns, columns))], [np.eye(rows), np.eye(columns)]
    for step, g in enumerate(gradients):
        u = np.zeros(g.shape)
        if step > 0:
            t += 1
            projected = bases[0].T @ g @ bases[1]
            m, v = b1 * m + (1 - b1) * projected, b2 * v + (1 - b2) * projected**2
            u = m / (1 - b1**t) / (np.sqrt(v / (1 - b2**t)) + eps)
            u = bases[0] @ u @ bases[1].T
        yield u
        factors = [beta * f + (1 - beta) * s for f, s in zip(factors, (g @ g.T, g.T @ g), strict=True)]
        for side in (0, 1):
            if step % k != turns[side]:
                continue
            old = bases[side]
            whole = bases[0] @ m @ bases[1].T
            if step < k:
                bases[side] = np.linalg.eigh(factors[side])[1][:, ::-1]
                change = (bases[side].T @ old) ** 2
                v = change @ v if side == 0 else v @ change.T
            else:
                order = np.argsort(-np.diag(old.T @ factors[side] @ old), kind="stable")
                v = v[order] if side == 0 else v[:, order]
                bases[side] = np.linalg.qr(with_a_share(factors[side], old)[:, order])[0]
            m = bases[0].T @ whole @ bases[1]


def with_a_share(a, q):
    """A q for each column q, with so much of q as A says little of it: see `linalg.bases.turned_basis`."""
    values, s = np.diag(q.T @ a @ q), np.finfo(a.dtype).eps ** 0.4
    x = a @ q / values.max()
    cosines = values / values.max() / (np.linalg.norm(x, axis=0) + s)
    return x + s * (1 - cosines**2) ** 3 * q


@pytest.mark.parametrize(("shape", "sides"), [((4, 4), "both"), ((3, 5), "rows"), ((5, 3), "short")])
def test_turns_and_the_algorithm(shape, sides):
    with oracles.precision("float64"):
        gradients = np.random.default_rng(0).normal(size=(14, *shape)) + 2 * np.eye(*shape)
        tx = gdjax.scale_by_soap(0.9, 0.8, 0.7, 1e-3, 3, sides=sides)
        state, turns, got = tx.init(jnp.zeros(shape)), [set(), set()], []
        step = jax.jit(tx.update)
        for i, g in enumerate(gradients):
            old = state
            u, state = step(jnp.asarray(g), state)
            got.append(np.asarray(u))
            for side, name in enumerate(("QL", "QR")):
                if not np.array_equal(*(jax.tree.leaves(getattr(s, name)) for s in (old, state))):
                    turns[side].add(i % 3)
        assert [len(x) for x in turns] == {"both": [1, 1], "rows": [1, 0], "short": [1, 0]}[sides]
        assert turns[0] != turns[1]
        turns = [x.pop() if x else None for x in turns]
        if shape[0] > shape[1]:  # it lies on its side
            turns.reverse()
        want = list(soap(gradients, turns=turns))
        np.testing.assert_allclose(got, want, rtol=1e-9, atol=1e-11)


def test_eigh_needs_no_order():
    """Exact bases in every step: the direction does not depend on the order in which eigenvectors come."""
    gradients = jnp.asarray(np.random.default_rng(1).normal(size=(12, 4, 4)), "float32") + 2 * jnp.eye(4)[None]
    exact = gdjax.scale_by_soap(precondition_frequency=1, refresh="eigh")
    state = exact.init(gradients[0])
    for g in gradients:
        u, state = exact.update(g, state)
    values = np.linalg.eigvalsh(state.L["4x4"])[0][::-1]
    (basis,), (factor,) = state.QL["4x4"], state.L["4x4"]
    np.testing.assert_allclose(np.diag(basis.T @ factor @ basis), values, rtol=1e-4)
    assert np.isfinite(u).all()


@pytest.mark.full
@pytest.mark.skipif(not hasattr(jax.lax, "pcast"), reason="no explicit axes")
@pytest.mark.parametrize(
    ("sides", "name"),
    [
        pytest.param(sides, name, marks=[pytest.mark.slow] if name not in sampled else [])
        for sides, sampled in {"rows": ("soap", "shampoo"), "both": ("soap",)}.items()
        for name in "soap kl_soap kl_shampoo soap_muon shampoo".split()
    ],
)
def test_a_side_without_factors_on_explicit_axes(name, sides):
    mesh = jax.make_mesh((jax.device_count(),), ("d",), axis_types=(jax.sharding.AxisType.Explicit,))
    tx, rng = getattr(gdjax, name)(0.1, sides=sides), np.random.default_rng(0)
    whole = {"up": {"kernel": jnp.asarray(rng.normal(size=(8, 8)) + 3 * np.eye(8), "float32")}}
    divided = jax.device_put(whole, jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec("d", None)))
    found = []
    for params in (whole, divided):
        state = tx.init(params)
        for _ in range(3):
            updates, state = jax.jit(tx.update)(params, state, params)
        found.append(updates["up"]["kernel"])
    assert found[1].sharding.spec == jax.sharding.PartitionSpec("d", None)
    np.testing.assert_allclose(*found, rtol=1e-3, atol=1e-5)
