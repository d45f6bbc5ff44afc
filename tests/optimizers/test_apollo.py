"""APOLLO against the steps of the authors' code in NumPy, with the same projections."""

from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import gdjax
from tests.polar_oracles import gradients, points


def apollo(
    x: Any, gs: Any, key: Any, lr: float = 0.05, rank: int = 2, gap: int = 3, scale: float = 1.0,
    scale_type: str = "channel", b1: float = 0.9, b2: float = 0.999, eps: float = 1e-6, growth: float = 1.01,
    decay: float = 0.0,
) -> Iterator[Any]:  # fmt: skip
    """Of a matrix (inputs, outputs): where the inputs are more, they are the channels."""
    turned, (M, V), before = x.shape[0] > x.shape[1], (0.0, 0.0), None
    rank = min(rank, *x.shape)
    for step, g in enumerate(gs):  # the authors' `step`, before it is increased
        G = g.T if turned else g
        P = jax.random.normal(jax.random.fold_in(key, step // gap), (1, rank, len(G)), "float32")[0] / np.sqrt(rank)
        R = np.asarray(P, np.float64) @ G
        M = b1 * M + (1 - b1) * R
        V = b2 * V + (1 - b2) * R**2
        step_size = lr * np.sqrt(1 - b2 ** (step + 1)) / (1 - b1 ** (step + 1))
        N = M / (np.sqrt(V) + eps)
        axis = 0 if scale_type == "channel" else None
        U = G * np.linalg.norm(N, axis=axis) / np.linalg.norm(R, axis=axis)
        if before is not None:
            U = U / (max(np.linalg.norm(U) / before, growth) / growth)
        before = np.linalg.norm(U)
        x = x - step_size * np.sqrt(scale) * (U.T if turned else U) - lr * decay * x
        yield x


MINI = {"rank": 1, "scale": 128.0, "scale_type": "tensor"}
CASES = {
    "channel": ({}, {}),
    "mini": (MINI, MINI),
    "numbers": (
        {"b1": 0.5, "b2": 0.9, "eps": 0.25, "norm_growth": 2.0, "weight_decay": 0.125, "scale": 4.0},
        {"b1": 0.5, "b2": 0.9, "eps": 0.25, "growth": 2.0, "decay": 0.125, "scale": 4.0},
    ),
    "no limit": ({"norm_growth": float("inf")}, {"growth": float("inf")}),
}


@pytest.mark.parametrize("shape", [(6, 4), (3, 5), (4, 4)])
@pytest.mark.parametrize("name", CASES)
def test_oracle(name: str, shape: tuple[int, ...]):
    kwargs, theirs = CASES[name]
    start, *gs = gradients(shape)
    tx = gdjax.apollo(0.05, **{"rank": 2, "update_proj_gap": 3, **kwargs})
    got, state = points(tx, start, gs)
    key = gdjax.tree.get(state, "key")["w"]
    if "growth" in theirs and np.isinf(theirs["growth"]):
        theirs = {**theirs, "growth": 1e9}
    np.testing.assert_allclose(got, list(apollo(start, gs, key, **theirs)), rtol=2e-5, atol=2e-6)


def test_what_is_kept():
    params = {
        "attention": {"query": {"kernel": jnp.ones((8, 4, 3), "bfloat16")}},
        "layers": {"up": {"kernel": jnp.ones((2, 6, 10))}},
        "bias": jnp.ones(5),
    }
    state = gdjax.tree.get(gdjax.apollo(0.1, rank=3).init(params), "ScaleByApolloState")
    for field in (state.mu, state.nu):
        assert field["attention"]["query"]["kernel"].shape == (3, 4, 3)
        assert field["attention"]["query"]["kernel"].dtype == jnp.float32
        assert field["layers"]["up"]["kernel"].shape == (2, 3, 10)
    assert state.norm["layers"]["up"]["kernel"].shape == (2,)
    numbers = gdjax.state_bytes(gdjax.apollo(0.1, 1, scale_type="tensor"), {"w": jnp.ones((64, 64))}) // 4
    assert numbers < 2 * 64 + 8


def test_stacked_matrices_are_independent():
    """But for their projections: with the whole rank and one scale for the tensor each is by itself."""
    w = np.random.default_rng(0).normal(size=(2, 4, 3)).astype("float32")
    tx = gdjax.scale_by_apollo(2, roles=lambda tree: {"w": gdjax.Matrix()}, scale_type="tensor")
    grown = {"w": jnp.asarray(w) * jnp.array([1.0, 100.0])[:, None, None]}
    u = [tx.update(g, tx.init(g))[0]["w"] for g in ({"w": jnp.asarray(w)}, grown)]
    np.testing.assert_allclose(u[0], u[1], rtol=1e-4)


def test_after_a_step_without_a_gradient_it_goes_on():
    """The authors' limit is then 1e-8, and grows by a hundredth in each step; also after what rounding leaves."""
    g = {"w": jnp.asarray(gradients((4, 3), 1)[0], "float32")}
    tx, seen = gdjax.scale_by_apollo(2), []
    for size in (0.0, 1e-15):
        _, state = tx.update(jax.tree.map(lambda x, size=size: size * x, g), tx.init(g))
        seen.append(np.asarray(tx.update(g, state)[0]["w"]))
    assert np.abs(seen[0]).max() > 0.1
    np.testing.assert_allclose(seen[1], seen[0], rtol=1e-5)


def test_another_projection_after_the_gap():
    """Of the same gradient the projection is the same for three steps; its moments then add up to it."""
    g = {"w": jnp.asarray(gradients((4, 3), 1)[0], "float32")}
    tx = gdjax.scale_by_apollo(2, 3, b1=0.0)
    state, seen = tx.init(g), []
    for _ in range(6):
        _, state = tx.update(g, state)
        seen.append(np.asarray(state.mu["w"]))
    for i in (1, 2, 4, 5):
        np.testing.assert_array_equal(seen[i], seen[i - 1])
    assert np.abs(seen[3] - seen[2]).max() > 0.1


def test_another_key_another_projection():
    g = {"w": jnp.asarray(gradients((4, 3), 1)[0], "float32")}
    first, second = (
        tx.update(g, tx.init(g))[1].mu["w"] for tx in map(lambda k: gdjax.scale_by_apollo(2, key=k), (0, 1))
    )
    assert np.abs(first - second).max() > 1e-3


@pytest.mark.parametrize(
    ("wrong", "error", "message"),
    [
        ({"rank": 0}, ValueError, "gdjax.apollo: rank must be at least 1"),
        ({"rank": 2.5}, TypeError, "gdjax.apollo: rank must be an int"),
        ({"scale": -1.0}, ValueError, "gdjax.apollo: scale must be"),
        ({"scale_type": "row"}, ValueError, "gdjax.apollo: scale_type must be one of channel, tensor"),
        ({"norm_growth": 0.5}, ValueError, "gdjax.apollo: norm_growth must be at least 1"),
    ],
)
def test_misuse(wrong: Any, error: Any, message: str):
    with pytest.raises(error, match=f"^{message}"):
        gdjax.apollo(0.1, **wrong)
