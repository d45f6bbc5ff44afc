"""Wrappers as rules: what reaches the rule, where its state is, and what the step costs."""

import re
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import gdjax
from tests.trees import assert_close, assert_equal

PARAMS = {"a": jnp.arange(6.0).reshape(2, 3), "b": jnp.ones(4)}
GRADS = {"a": jnp.asarray([[1.0, -2.0, 3.0], [-4.0, 5.0, 0.0]]), "b": jnp.asarray([1.0, -1.0, 2.0, -2.0])}


class Slow(NamedTuple):
    count: Any
    mean: Any  # like params
    inner: Any


@gdjax.wrapper(Slow, inner="inner")
def averaged(u: Any, g: Any, s: Any, p: Any, t: Any, decay: Any = 0.5, gain: Any = 1.0) -> Any:
    """Half of the mean of the updates, and the gradient beside it."""
    mean = decay * s.mean + (1 - decay) * u
    return mean / t + gain * g, s._replace(mean=mean)


@gdjax.wrapper()
def sees(u: Any, g: Any, s: Any, p: Any, t: Any) -> Any:
    return 10 * u + g, s


def steps(tx: Any, number: int = 3, params: Any = PARAMS) -> tuple[list[Any], Any]:
    state, found = tx.init(params), []
    for i in range(number):
        u, state = tx.update(jax.tree.map(lambda g, i=i: g * (i + 1), GRADS), state, params)
        found.append(u)
    return found, state


def test_the_rule_gets_update_and_gradient_and_keeps_a_state():
    found, state = steps(averaged(gdjax.sgd(0.1)))
    mean = 0.0
    for i, u in enumerate(found):
        g = np.asarray(GRADS["a"]) * (i + 1)
        mean = 0.5 * mean - 0.5 * 0.1 * g
        np.testing.assert_allclose(u["a"], mean / (i + 1) + g, rtol=1e-6)
    assert type(state) is Slow and int(state.count) == 3
    np.testing.assert_allclose(state.mean["a"], mean, rtol=1e-6)


@pytest.mark.parametrize(
    "make",
    [
        lambda inner: gdjax.chain(gdjax.scale(2.0), sees(inner), gdjax.scale(0.5)),
        lambda inner: gdjax.chain(gdjax.clip_by_global_norm(1e6), gdjax.scale(2.0), sees(inner), gdjax.scale(0.5)),
        lambda inner: gdjax.chain(gdjax.scale(2.0), gdjax.chain(sees(gdjax.chain(inner))), gdjax.scale(0.5)),
    ],
)
@pytest.mark.parametrize("inner", [gdjax.sgd(0.1), optax.sgd(0.1), gdjax.apply_if_finite(gdjax.sgd(0.1), 3)])
def test_the_gradient_is_the_one_that_came_into_the_wrapper(make: Any, inner: Any):
    (u,), _ = steps(make(inner), 1)
    assert_close(u, jax.tree.map(lambda g: 0.5 * (10 * -0.1 * 2 * g + 2 * g), GRADS))


def test_wrappers_inside_wrappers():
    (u,), state = steps(sees(sees(gdjax.scale(3.0))), 1)
    assert_close(u, jax.tree.map(lambda g: 10 * (10 * 3 * g + g) + g, GRADS))
    assert type(state) is type(state.inner_state) is gdjax.WrapperState
    # Around nothing the update is the gradient.
    (u,), _ = steps(sees(gdjax.chain()), 1)
    assert_close(u, jax.tree.map(lambda g: 11 * g, GRADS))


def test_schedules_count_the_updates_of_the_wrapper():
    tx = gdjax.cautious(gdjax.sgd(0.1), clamp=lambda count: jnp.float32(1) + count.astype("float32"))
    found, state = steps(tx, 2)
    assert_close(found[1], jax.tree.map(lambda g: jnp.where(g != 0, -0.1 * 2 * g, 0) / 2, GRADS))
    assert int(state.count) == 2 and type(state.inner_state) is gdjax.CautiousState
    with_count, state = steps(averaged(gdjax.sgd(0.1), gain=lambda count: count.astype("float32")), 2)
    assert type(state) is Slow and float(with_count[0]["b"][0]) == pytest.approx(-0.05)


def test_under_scan_vmap_and_jit():
    tx = averaged(gdjax.cautious(gdjax.adam(0.1)))
    found, _ = steps(tx)

    def body(state: Any, i: Any) -> Any:
        u, state = tx.update(jax.tree.map(lambda g: g * i, GRADS), state, PARAMS)
        return state, u

    _, scanned = jax.lax.scan(body, tx.init(PARAMS), jnp.asarray([1.0, 2.0, 3.0]))
    assert_close(jax.tree.map(lambda x: x[2], scanned), found[2], rtol=1e-5)
    batch = jax.tree.map(lambda x: jnp.stack([x, x]), GRADS)
    u, _ = jax.vmap(tx.update, (0, None, None))(batch, tx.init(PARAMS), PARAMS)
    assert_close(jax.tree.map(lambda x: x[1], u), found[0], rtol=1e-5)


def test_values_and_errors():
    assert gdjax.cautious(gdjax.adam(1e-3)) == gdjax.cautious(gdjax.adam(1e-3)) != gdjax.cautious(gdjax.adam(1e-2))
    assert repr(sees(gdjax.scale(2.0))) == "sees(inner=scale(step_size=2.0))"
    with pytest.raises(TypeError, match=r"gdjax.cautious: argument inner is 0.1, which has no init and update"):
        gdjax.cautious(0.1)
    with pytest.raises(
        TypeError, match=r"gdjax.wrapper: Slow has no field inner_state; its fields are count, mean, in"
    ):
        gdjax.wrapper(Slow)
    with pytest.raises(ValueError, match=r"gdjax.cautious: state has type tuple, expected CautiousState"):
        gdjax.cautious(gdjax.sgd(0.1)).update(GRADS, (1,), PARAMS)

    @gdjax.wrapper()
    def wrong(u: Any, g: Any, s: Any, p: Any, t: Any) -> Any:
        return jnp.sum(u), s

    with pytest.raises(ValueError, match=r"wrong: params\['a'\]: the rule returned float32 \(\) as the update"):
        steps(wrong(gdjax.sgd(0.1)), 1)


def test_a_gradient_that_is_not_there():
    tx = gdjax.cautious(gdjax.adam(0.1))
    u, _ = tx.update({**GRADS, "b": None}, tx.init(PARAMS), PARAMS)
    assert u["b"] is None
    (alone,), _ = steps(tx, 1)
    assert_equal(u["a"], alone["a"])


# Temporaries, in leaves; `cautious` writes what it keeps of the update to memory, for its mean, and XLA:CPU keeps what
# two slots, or a slot and the update, are made of.
COST = {
    "cautious(lion)": (gdjax.cautious(gdjax.lion(1e-3)), 1),
    "cautious(adamw)": (gdjax.cautious(gdjax.adamw(1e-3)), 1),
    "mechanize(lion)": (gdjax.contrib.mechanize(gdjax.lion(1.0)), 2),
    "params_ema(adamw)": (gdjax.params_ema(gdjax.adamw(1e-3), 0.99), 0),
    "params_ema(lion)": (gdjax.params_ema(gdjax.lion(1e-3), 0.99, every=4), 0),
    "swa(adamw)": (gdjax.swa(gdjax.adamw(1e-3), 10, 2), 0),
    "tail_ema(adamw)": (gdjax.tail_ema(gdjax.adamw(1e-3), 10), 0),
    "ema_nesterov(adamw)": (gdjax.ema_nesterov(gdjax.adamw(1e-3), 0.5), 2),
    "snoo(adamw)": (gdjax.snoo(gdjax.adamw(1e-3)), 4),  # of three: two slots and the update
    "gpa(adamw)": (gdjax.gpa(gdjax.adamw(1e-3)), 2),
    "schedule_free(adamw)": (gdjax.contrib.schedule_free_adamw(1e-3), 0),
    "lookahead(lion)": (gdjax.lookahead(gdjax.lion(1e-3), 5, 0.5), 2),
}


@pytest.mark.optimized
@pytest.mark.skipif(jax.__version_info__ < (0, 6), reason="this XLA keeps more")
@pytest.mark.parametrize("name", COST)
def test_what_a_wrapper_costs(name: str):
    tx, leaves = COST[name]
    shape = jax.ShapeDtypeStruct((512, 512), jnp.float32)
    tree = {"a": shape, "b": shape}
    params = gdjax.LookaheadParams(tree, tree) if "lookahead" in name else tree

    def step(params: Any, state: Any, grads: Any) -> Any:
        updates, state = tx.update(grads, state, params)
        return gdjax.apply_updates(params, updates), state

    args = params, jax.eval_shape(tx.init, params), tree
    compiled = jax.jit(step, donate_argnums=(0, 1)).lower(*args).compile()
    assert compiled.memory_analysis().temp_size_in_bytes <= (leaves + 0.01) * 2**20
    copies = len(re.findall(r"f32\[512,512\]\S* copy\(", compiled.as_text()))
    assert copies <= (2 if name in ("mechanize(lion)", "lookahead(lion)") else 0)
