"""Spikes skipped, by the rule in NumPy, and clipped; the authors' numbers are in `golden/test_golden_spikes.py`."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import gdjax
from tests import oracles
from tests.trees import assert_equal

G = {"w": jnp.array([3.0, 0.0]), "b": jnp.array(4.0)}


def by_rule(losses: Any, norms: Any, length: int, sigma: float) -> list[bool]:
    """Which steps are skipped."""
    seen: tuple[list[float], list[float]] = [], []
    found = []
    for now in zip(losses, norms, strict=True):
        finite = bool(np.isfinite(now).all())
        skip = not finite
        for x, xs in zip(now, seen, strict=True):
            last = xs[-length:]
            if finite and len(last) + 1 >= max(3, length // 2):
                skip |= x - np.mean(last) > sigma * np.std(last, ddof=1)
            if finite:
                xs.append(x)
        found.append(bool(skip))
    return found


def run(tx: Any, losses: Any, norms: Any, g: Any = G) -> tuple[list[bool], Any]:
    """Whether each update is zero, and the state at the end."""
    step = jax.jit(lambda scale, state, value: tx.update(jax.tree.map(lambda x: scale * x, g), state, g, value=value))
    state, found = tx.init(g), []
    for loss, norm in zip(losses, norms, strict=True):
        u, state = step(norm / 5, state, loss)
        found.append(not any(np.any(x) for x in jax.tree.leaves(u)))
    return found, state


@pytest.mark.full
@pytest.mark.parametrize(("length", "sigma"), [(4, 2.0), (5, 1.5), (16, 3.0)])
def test_skips_what_the_rule_does(length: int, sigma: float):
    rng = np.random.default_rng(length)
    losses, norms = 2 + rng.normal(size=(2, 60)) / 8
    losses[[20, 40, 50]] += [3, np.nan, np.inf]
    norms[[2, 12, 30, 31, 45]] += [np.inf, 5, 8, 8, np.nan]
    want = by_rule(losses, norms, length, sigma)
    found, state = run(gdjax.skip_spikes(gdjax.sgd(0.1), length, sigma), losses, norms)
    assert found == want and {20, 12, 30, 40, 45, 50} <= set(np.flatnonzero(want)) and sum(want) < 30
    assert (state.total_skipped, state.count) == (sum(want), 56)


def test_a_skipped_step_leaves_the_optimizer_as_it_was():
    tx = gdjax.skip_spikes(gdjax.adamw(0.1), 8)
    _, state = run(tx, [1.0, 1.1, 0.9, 1.0], [5.0, 5.1, 4.9, 5.0])
    for value, scale in ((99.0, 1.0), (1.0, 99.0), (np.nan, 1.0), (1.0, np.inf)):
        u, new = tx.update(jax.tree.map(lambda x, s=scale: s * x, G), state, G, value=value)
        assert_equal(new.inner_state, state.inner_state)
        assert_equal(u, jax.tree.map(jnp.zeros_like, G))
        assert new.last_skipped and new.total_skipped == 1
    u, new = tx.update(G, state, G, value=1.0)
    assert_equal((u, new.inner_state), gdjax.adamw(0.1).update(G, state.inner_state, G))
    assert not new.last_skipped


def test_it_begins_with_half_as_many_calls():
    for before, skipped in (([1.0, 1.1], False), ([1.0, 1.1, 0.9], True)):
        losses = [*before, 9.0]
        assert run(gdjax.skip_spikes(gdjax.sgd(0.1), 8), losses, [5.0] * len(losses))[0][-1] == skipped


def test_low_losses_are_no_spikes():
    found, _ = run(gdjax.skip_spikes(gdjax.sgd(0.1), 8), [1.0, 1.1, 0.9, 1.0, -99.0], [5.0, 5.1, 4.9, 5.0, 0.1])
    assert not any(found)


def test_a_new_level_is_accepted():
    losses = np.where(np.arange(140) < 130, 1.0, 50.0)
    found, _ = run(gdjax.skip_spikes(gdjax.sgd(0.1)), losses, np.full(140, 5.0))
    assert np.flatnonzero(found).tolist() == [130, 131, 132, 133]


def test_one_nan_is_one_step():
    losses = [1.0] * 30
    losses[10] = float("nan")
    found, state = run(gdjax.skip_spikes(gdjax.sgd(0.1), 8), losses, [5.0] * 30)
    assert np.flatnonzero(found).tolist() == [10]
    assert np.all(state.losses == 1) and state.count == 29


def test_the_loss_reaches_the_optimizer_and_must_be_given():
    tx = gdjax.skip_spikes(gdjax.polyak_sgd())
    u, _ = tx.update(G, tx.init(G), G, value=5.0)
    assert_equal(u, gdjax.polyak_sgd().update(G, gdjax.polyak_sgd().init(G), G, value=5.0)[0])
    with pytest.raises(ValueError, match=r"^gdjax.skip_spikes: value must be a scalar, got None; call update"):
        tx.update(G, tx.init(G), G)
    result = gdjax.minimize(lambda x: jnp.sum(x**2), jnp.ones(2), gdjax.skip_spikes(gdjax.sgd(0.1)), steps=10)
    assert result.history["loss"][-1] < 0.1


def test_arguments():
    with pytest.raises(ValueError, match=r"^gdjax.skip_spikes: rolling_interval_length must be at least 4, got 3"):
        gdjax.skip_spikes(gdjax.sgd(0.1), 3)
    with pytest.raises(TypeError, match=r"^gdjax.skip_spikes: sigma_factor must be a number"):
        gdjax.skip_spikes(gdjax.sgd(0.1), sigma_factor=lambda count: 6.0)  # type: ignore[arg-type]


def test_what_is_told_of_a_skipped_step():
    tx = gdjax.skip_spikes(gdjax.with_metrics(gdjax.sgd(0.1)), 8)
    outer = gdjax.with_metrics(gdjax.skip_spikes(gdjax.sgd(0.1), 8))
    losses, norms = [1.0, 1.1, 0.9, 1.0, 9.0], [5.0, 5.1, 4.9, 5.0, 5.0]
    assert gdjax.metrics(run(outer, losses, norms)[1])["skipped"] == 1
    assert gdjax.metrics(run(outer, losses[:4], norms[:4])[1])["skipped"] == 0
    _, state = run(tx, losses, norms)
    assert "skip_spikes skipped the last call (1 in all)" in str(gdjax.explain(tx, G, state, value=1.0))


# --- zclip ---


def test_a_norm_that_is_not_finite_is_forgotten():
    tx = gdjax.zclip(warmup_steps=3)
    step = jax.jit(lambda scale, state: tx.update(jax.tree.map(lambda x: scale * x, G), state))
    one = two = tx.init(G)
    for scale in (0.1, 0.2, 0.15, 9.0, 0.1):
        _, one = step(scale, one)
        _, two = step(scale, two)
        u, two = step(np.nan, two)
        assert all(np.isnan(x).all() for x in jax.tree.leaves(u))
        u, two = step(np.inf, two)
        assert not np.isfinite(u["b"])
    assert_equal(one, two)


def test_zclip_takes_the_norm_of_all_leaves_and_keeps_the_direction():
    tx = gdjax.zclip(max_norm=jnp.inf, warmup_steps=4)
    state = tx.init(G)
    for scale in (0.9, 1.1, 0.9, 1.1):
        u, state = tx.update(jax.tree.map(lambda x, s=scale: s * x, G), state)
        assert_equal(u, jax.tree.map(lambda x, s=scale: s * x, G))
    u, state = tx.update(jax.tree.map(lambda x: 20 * x, G), state)  # mean 5, std 0.5, z = 190
    np.testing.assert_allclose(u["b"] / 4, (5 + 0.5 * 2.5**2 / 190) / 5, rtol=1e-5)
    np.testing.assert_allclose(u["w"], 0.75 * u["b"] * jnp.array([1.0, 0.0]), rtol=1e-6)


def test_arrays_without_elements_have_a_norm_of_their_dtype():
    with oracles.precision("float64"):
        for tx in (gdjax.zclip(), gdjax.skip_spikes(gdjax.sgd(0.1))):
            empty = jnp.zeros(0, "float64")
            state = tx.init(empty)
            _, new = tx.update(empty, state, empty, value=1.0)
            assert jax.tree.map(lambda x: x.dtype, new) == jax.tree.map(lambda x: x.dtype, state)


def test_the_deviation_of_two_losses_is_with_n_minus_1():
    tx = gdjax.skip_spikes(gdjax.sgd(1.0), rolling_interval_length=4)
    state = tx.init(jnp.zeros(()))
    for loss in (1.0, 2.0, 5.0):  # mean 1.5, deviation 0.71: at most 5.7
        _, state = tx.update(jnp.ones(()), state, value=loss)
    assert state.total_skipped == 0
