"""`check_numerics`: whether updates move parameters at their dtype."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import gdjax
from gdjax import check_numerics
from tests.support import relaxed

W = 0.05 * jax.random.normal(jax.random.key(0), (64, 32))
P = {"kernel": W.astype(jnp.bfloat16), "scale": jnp.ones(32, jnp.bfloat16), "wide": W}


def verdicts(tx: Any, params: Any = P, *args: Any, **kwargs: Any) -> dict[str, str]:
    return {row.path: row.verdict for row in check_numerics(tx, params, *args, **kwargs)}


def test_bfloat16_at_1e_4():
    table = check_numerics(gdjax.adam(1e-4), P)
    kernel, scale, wide = table
    assert wide.verdict == "moves" and wide.unmoved == 0
    assert scale.unmoved == 100 and scale.spacing == 2.0**-7 and scale.largest == 1
    assert kernel.verdict == scale.verdict == "most weights stay"
    for row in table:
        assert np.isclose(row.update, 1e-4, rtol=1e-2)
    # The share is what adding the update and rounding to the nearest gives.
    p = P["kernel"].astype(jnp.float32)
    sign = jnp.where(jnp.arange(p.size).reshape(p.shape) % 2 == 0, 1.0, -1.0)
    stays = (p + 1e-4 * sign).astype(jnp.bfloat16) == P["kernel"]
    assert abs(kernel.unmoved - 100 * float(jnp.mean(stays))) < 5
    (text,) = table.warnings
    assert text.startswith("an update is rounded away in kernel (bfloat16, ") and "scale (bfloat16, 100 % stay)" in text
    assert text.endswith("cast them in the loss, use with_master_weights or stochastic rounding, or take a larger rate")


def test_float32_moves():
    table = check_numerics(gdjax.adam(1e-4), jax.tree.map(lambda x: x.astype(jnp.float32), P))
    assert set(table["verdict"]) == {"moves"} and table.warnings == ()
    assert set(verdicts(gdjax.adam(0.1)).values()) == {"moves"}


def test_float32_can_be_too_narrow():
    table = check_numerics(gdjax.adam(1e-9), {"w": jnp.ones(4)})
    assert table["verdict"] == ["most weights stay"] and "keep the parameters in float64" in table.warnings[0]


def test_the_largest_weights_alone():
    params = {"w": jnp.array([1e-3] * 9 + [4.0], jnp.bfloat16)}
    (row,) = check_numerics(gdjax.adam(1e-3), params)
    assert np.isclose(row.unmoved, 10) and row.verdict == "the largest weights stay"


@pytest.mark.parametrize("largest", [1.0, 1.5, 3.0, 0.3, 1e-6])
@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_the_spacing(dtype: str, largest: float):
    (row,) = check_numerics(gdjax.adam(0.1), {"w": jnp.array([0.0, -largest], dtype)})
    assert row.spacing == pytest.approx(float(np.spacing(np.array(largest, dtype))), rel=1e-6)


SCHEDULE = gdjax.join_schedules([gdjax.linear_schedule(0.0, 0.1, 100), gdjax.constant_schedule(1e-6)], [101])


@gdjax.transform
def averaged_gradients(inner: Any) -> Any:
    """A wrapper of the user's, known as the one that it makes."""
    return gdjax.MultiSteps(inner, 4)


@pytest.mark.full
@pytest.mark.parametrize(
    "tx",
    [
        gdjax.adam(SCHEDULE),
        gdjax.chain(gdjax.clip(1.0), gdjax.adam(SCHEDULE)),
        gdjax.named_chain(("opt", gdjax.adam(SCHEDULE))),
        gdjax.partition({"all": gdjax.adam(SCHEDULE)}, {"kernel": "all", "scale": "all", "wide": "all"}),
        gdjax.inject_hyperparams(gdjax.adam)(SCHEDULE),
        gdjax.MultiSteps(gdjax.adam(SCHEDULE), 4),
        gdjax.accumulate(gdjax.adam(SCHEDULE), 4),
        gdjax.sam(gdjax.adam(SCHEDULE), gdjax.sgd(0.05)),
        gdjax.lookahead(gdjax.adam(SCHEDULE), 5, 0.5),
        gdjax.chain(gdjax.scale_by_adam(), gdjax.scale_by_schedule(lambda t: -SCHEDULE(t))),
        averaged_gradients(gdjax.adam(SCHEDULE)),
    ],
    ids=(
        "adam chain named_chain partition inject_hyperparams MultiSteps accumulate sam lookahead scale_by_schedule "
        "users"
    ).split(),
)
def test_a_schedule_at_its_largest(tx: Any):
    for row in check_numerics(tx, P):
        assert np.isclose(row.update, 0.1, rtol=1e-2) and row.verdict == "moves"
    # The first two steps have the rates 0 and 0.001.
    assert np.allclose(check_numerics(tx, P, steps=2)["update"], 1e-3, rtol=1e-2)
    assert set(verdicts(tx, P, steps=1).values()) == {"its update is 0"}


def test_given_gradients():
    tx, params = gdjax.sgd(1.0), {"w": jnp.ones(4, jnp.bfloat16)}
    small = check_numerics(tx, params, {"w": jnp.full(4, 1e-4, jnp.bfloat16)})
    assert small["verdict"] == ["most weights stay"] and np.allclose(small["update"], 1e-4, rtol=1e-2)
    assert verdicts(tx, params, {"w": jnp.full(4, 0.5, jnp.bfloat16)}) == {"w": "moves"}
    assert verdicts(tx, params, {"w": jnp.full(4, jnp.nan, jnp.bfloat16)}) == {"w": "not finite"}


def test_leaves_of_every_kind():
    params = {
        "c": jnp.full(3, 1 + 1j, jnp.complex64), "empty": jnp.zeros((0, 2)), "float": 0.5,
        "half": jnp.ones(3, jnp.float16), "int": jnp.arange(3), "none": None, "zero": jnp.zeros(3, jnp.bfloat16),
        "frozen": jnp.ones(2),
    }  # fmt: skip
    tx = gdjax.chain(gdjax.adam(0.1), gdjax.freeze(gdjax.mask_by_path("frozen")))
    assert verdicts(tx, params) == {
        "c": "moves", "empty": "is empty", "float": "moves", "half": "moves", "int": "takes no gradient",
        "zero": "moves", "frozen": "its update is 0",
    }  # fmt: skip


def test_extra_arguments_and_optax():
    assert verdicts(gdjax.polyak_sgd(1.0), {"w": jnp.ones(3)}, value=1.0) == {"w": "moves"}
    with relaxed():
        assert verdicts(optax.adam(1e-4))["scale"] == "most weights stay"


def test_it_is_deterministic():
    assert check_numerics(gdjax.adam(1e-4), P) == check_numerics(gdjax.adam(1e-4), P)


def test_errors():
    with pytest.raises(TypeError, match="gdjax.check_numerics: argument tx is 0.1"):
        check_numerics(0.1, P)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="gdjax.check_numerics: params is None"):
        check_numerics(gdjax.adam(0.1), None)
    with pytest.raises(TypeError, match="gdjax.check_numerics: w is ShapeDtypeStruct, which has no value"):
        check_numerics(gdjax.adam(0.1), {"w": jax.ShapeDtypeStruct((2,), jnp.float32)})
    with pytest.raises(TypeError, match="gdjax.check_numerics: steps must be an int"):
        check_numerics(gdjax.adam(0.1), P, steps=1.5)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="gdjax.check_numerics: steps must be at least 1, got 0"):
        check_numerics(gdjax.adam(0.1), P, steps=0)
    with pytest.raises(ValueError, match="gdjax.polyak_sgd: this transform needs value"):
        check_numerics(gdjax.polyak_sgd(1.0), P)


@pytest.mark.full
def test_an_update_of_0_is_a_warning():
    params = {f"w{i}": jnp.ones(2) for i in range(7)}
    frozen = gdjax.chain(gdjax.adam(0.1), gdjax.freeze(gdjax.mask_by_path("w0")))
    assert check_numerics(frozen, params).warnings == (
        "the update of w0 is 0: it does not move; `explain` may tell why",
    )
    (text,) = check_numerics(gdjax.sgd(0.0), params).warnings
    assert text.startswith("the update of w0, w1, w2, w3, w4 and 2 more is 0: ")
    both = check_numerics(gdjax.adam(1e-4), {"a": jnp.ones(2, jnp.bfloat16)} | params, None)
    assert len(both.warnings) == 1 and both.warnings[0].startswith("an update is rounded away in a ")


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "complex64"])
def test_a_given_gradient_of_0_is_a_warning(dtype: str):
    params = {"a": jnp.ones(2, dtype), "b": jnp.ones(2, dtype), "int": jnp.arange(2), "none": None}
    grads = {"a": jnp.zeros(2, dtype), "b": jnp.ones(2, dtype), "int": None, "none": None}
    why = "the gradient given for a is 0: does the loss depend on it?"
    table = check_numerics(gdjax.sgd(0.1), params, grads)
    assert table.warnings == ("the update of a is 0: it does not move; `explain` may tell why", why)
    # Of a decay it moves.
    assert check_numerics(gdjax.adamw(0.5, weight_decay=0.1), params, grads).warnings == (why,)


def test_what_is_rounded_away_may_add_up():
    """In the state of a wrapper, of the leaves that it sees; and in the mean where rounding is stochastic."""
    params = {"a": jnp.ones(8, jnp.bfloat16), "b": jnp.ones(8, jnp.bfloat16), "c": jnp.ones(8)}
    adam, verdicts = gdjax.adam(1e-4), lambda tx, **how: gdjax.check_numerics(tx, params, **how)["verdict"]
    away, up, mean = "most weights stay", "adds up in the state", "moves in the mean"
    assert verdicts(adam) == [away, away, "moves"]
    assert verdicts(adam, rounding="stochastic") == [mean, mean, "moves"]
    for kept in (
        gdjax.with_master_weights(adam),
        gdjax.with_master_weights(adam, remainder_bits=8),
        gdjax.with_kahan_summation(gdjax.chain(gdjax.clip_by_global_norm(1.0), adam)),
        gdjax.MultiSteps(gdjax.with_master_weights(adam, remainder_bits=16), 4),
    ):
        assert verdicts(kept) == [up, up, "moves"]
    groups = {"kept": gdjax.with_master_weights(adam), "random": gdjax.with_stochastic_rounding(adam, 0), "plain": adam}
    assert verdicts(gdjax.partition(groups, {"a": "kept", "b": "random", "c": "plain"})) == [up, mean, "moves"]
    table = gdjax.check_numerics(gdjax.partition(groups, {"a": "kept", "b": "plain", "c": "plain"}), params)
    assert table["verdict"] == [up, away, "moves"] and len(table.warnings) == 1
    assert gdjax.check_numerics(gdjax.with_master_weights(gdjax.adam(0.1)), params)["verdict"] == ["moves"] * 3
