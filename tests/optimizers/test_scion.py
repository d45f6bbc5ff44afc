"""Scion against the paper's formulas in NumPy: a norm for each role."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import gdjax
from gdjax.leaf_roles.plan import ByRole
from gdjax.linalg.matrices import Matrix
from tests.polar_oracles import RNG, gradients, points, polar, update


def direction(norm, m):
    into, out = m.shape
    return {
        "spectral": lambda: np.sqrt(out / into) * polar(m),
        "sign": lambda: np.sign(m) / into,
        "embedding_sign": lambda: np.sign(m),
        "row": lambda: m / np.linalg.norm(m, axis=0, keepdims=True) / np.sqrt(into),
        "embedding_col": lambda: m / np.sqrt(np.mean(m**2, axis=1, keepdims=True)),
        "rms": lambda: m / np.sqrt(np.mean(m**2, axis=1, keepdims=True)),
    }[norm]()


@pytest.mark.parametrize("shape", [(4, 3), (3, 5)])
@pytest.mark.parametrize("norm", ["spectral", "sign", "embedding_sign", "row", "embedding_col", "rms"])
def test_oracle(norm, shape):
    start, *gs = gradients(shape)
    wanted, x, mu = [], start, np.zeros(shape)
    for g in gs:
        mu = 0.7 * mu + 0.3 * g
        x = x - 0.1 * direction(norm, mu)
        wanted.append(x)
    tx = gdjax.chain(gdjax.scale_by_scion(norm, 0.3), gdjax.scale(-0.1))
    np.testing.assert_allclose(points(tx, start, gs)[0], wanted, rtol=1e-6, atol=1e-8)


def test_constrained_and_not():
    start, *gs = gradients((4, 3))
    for constrained in (True, False):
        tx = gdjax.scion(0.1, alpha=1.0, radius=3.0, constrained=constrained)
        wanted, x = [], start
        for g in gs:
            x = (0.9 if constrained else 1.0) * x - 0.1 * 3.0 * direction("spectral", g)
            wanted.append(x)
        np.testing.assert_allclose(points(tx, start, gs)[0], wanted, rtol=1e-6)


def test_a_norm_and_a_radius_for_each_role():
    shapes = {"hidden": (4, 3), "wte": (7, 3), "lm_head": (3, 7), "bias": (3,), "scale": ()}
    g = {k: jnp.asarray(RNG.normal(size=shape), "float32") for k, shape in shapes.items()}
    roles = {"wte": "embedding", "lm_head": "head", "bias": "bias"}
    labels = lambda tree: {k: "matrix" if k == "hidden" else roles.get(k, "norm") for k in tree}
    one = lambda norm, radius: gdjax.chain(gdjax.scale_by_scion(norm), gdjax.scale(-0.1 * radius))
    groups = {
        "matrix": one("spectral", 2.0), "embedding": one("embedding_sign", 3.0), "head": one("sign", 5.0),
        "bias": one("rms", 7.0), "norm": one("rms", 7.0),
    }  # fmt: skip
    apart = gdjax.partition(groups, labels)
    tx = gdjax.scion(0.1, 0.1, 2.0, 3.0, 5.0, 7.0, constrained=False, roles=by_labels(labels))
    got, want = (t.update(g, t.init(g), g)[0] for t in (tx, apart))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5), got, want)


def by_labels(labels):
    """Routing by these labels: in this test they do not depend on how names are read."""

    class Labels(ByRole):
        def roles(self, label, tree, quiet=False):
            found = [v for k, v in sorted(labels(tree).items()) if not isinstance(tree[k], gdjax.MaskedNode)]
            return [Matrix() if x == "matrix" else x for x in found]

    return Labels()


def test_a_head_called_weight_has_its_outputs_first():
    g = jnp.asarray(RNG.normal(size=(7, 3)), "float32")
    tx = gdjax.scale_by_scion("sign", 1.0)
    for name, inputs in (("weight", 3), ("kernel", 7), ("lowweight", 7)):
        u, _ = tx.update({name: g}, tx.init({name: g}))
        np.testing.assert_allclose(u[name], jnp.sign(g) / inputs, rtol=1e-6)
    row = gdjax.scale_by_scion("row", 1.0)
    u, _ = row.update({"weight": g}, row.init({"weight": g}))
    np.testing.assert_allclose(u["weight"], direction("row", np.asarray(g).T).T, rtol=1e-5)


@pytest.mark.parametrize("norm", ["sign", "row", "embedding_col", "rms"])
def test_zeros_and_vectors(norm):
    tx = gdjax.scale_by_scion(norm)
    for shape in ((), (3,), (0, 3), (2, 3, 4)):
        np.testing.assert_array_equal(update(tx, np.zeros(shape, "float32")), np.zeros(shape))
        assert np.isfinite(update(tx, np.full(shape, 1e-30, "float32"))).all()
        assert np.isfinite(update(tx, np.full(shape, 3e38, "float32"))).all()
    np.testing.assert_array_equal(update(tx, np.array([np.nan, 1], "float32"))[0], np.nan)


def test_norms_of_embeddings_and_heads():
    for name, allowed, other in (("embedding_norm", "col", "row"), ("head_norm", "row", "col")):
        gdjax.scion(0.1, **{name: allowed})
        with pytest.raises(ValueError, match=f"gdjax.scion: {name} must be one of sign, {allowed}, got '{other}'"):
            gdjax.scion(0.1, **{name: other})
    with pytest.raises(ValueError, match="gdjax.scale_by_scion: norm must be one of spectral, sign, .*, got 'l1'"):
        gdjax.scale_by_scion("l1")
