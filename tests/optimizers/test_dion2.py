"""Dion2 against the paper's rule in NumPy."""

import numpy as np
import pytest

import gdjax
from tests.polar_oracles import gradients, points, polar


def dion2(x, gs, fraction, lr=0.05, ef_decay=0.95, eps=1e-8, decay=0.0, coeffs="polar_express"):
    m = np.zeros_like(x)
    turned = x.shape[1] <= x.shape[0]
    for g in gs:
        m = m + g
        b = m.T if turned else m
        chosen = np.argsort(-np.abs(b).sum(1))[: int(np.ceil(fraction * len(b)))]
        u, m = np.zeros_like(b), b.copy()
        u[chosen] = polar(b[chosen], coeffs, eps=eps)
        m[chosen] *= ef_decay
        u, m = (u.T, m.T) if turned else (u, m)
        x = x - lr * (np.sqrt(x.shape[1] / x.shape[0]) * u + decay * x)
        yield x, m


@pytest.mark.parametrize("shape", [(5, 3), (3, 5), (4, 4)])
@pytest.mark.parametrize("fraction", [1.0, 0.5, 0.1])
def test_oracle(shape, fraction):
    start, *gs = gradients(shape)
    tx = gdjax.dion2(0.05, fraction, 0.8, eps=0.1, weight_decay=0.1, ns_coeffs="jordan")
    got, state = points(tx, start, gs)
    wanted = list(dion2(start, gs, fraction, ef_decay=0.8, eps=0.1, decay=0.1, coeffs="jordan"))
    np.testing.assert_allclose(got, [x for x, _ in wanted], rtol=1e-6, atol=1e-9)
    np.testing.assert_allclose(gdjax.tree.get(state, "mu", filtering=_of_dion2)["w"], wanted[-1][1], rtol=1e-9)


def _of_dion2(path, value):
    return "ScaleByDion2State" in str(path)


@pytest.mark.full
def test_of_all_rows_it_is_muon_without_nesterov():
    start, *gs = gradients((4, 6))
    few = {"ns_coeffs": "polar_express", "eps": 0.0}
    muon = gdjax.muon(0.1, beta=0.95, nesterov=False, bias_correction=False, **few)
    factor = np.sqrt(6 / 4)
    got, _ = points(gdjax.dion2(0.1, 1.0, **few), start, gs)
    # Both factors are sqrt(columns / rows) for a wide matrix; M is mu / (1 - 0.95).
    wanted, _ = points(muon, start, gs)
    assert factor > 1
    np.testing.assert_allclose(got, wanted, rtol=1e-6)


@pytest.mark.parametrize("fraction, error", [(0.0, ValueError), (1.5, ValueError), ("all", TypeError)])
def test_errors(fraction, error):
    with pytest.raises(error, match="gdjax.dion2: fraction"):
        gdjax.dion2(0.1, fraction=fraction)
