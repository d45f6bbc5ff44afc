"""Arguments at the edge of their range: a schedule that Optax makes constant is so here, and a warning says it."""

import itertools
import re
import warnings
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import gdjax
from gdjax import schedules
from tests.support import relaxed

STEPS = np.array([0, 1, 3, 5, 9, 10, 11, 20, 50], np.int32)
SPANS = {"transition_steps": (-3, 0, 10), "transition_begin": (-2, 0, 3)}
# The values that each argument takes, in all combinations.
GRIDS: dict[str, dict[str, tuple[Any, ...]]] = {
    "linear_schedule": {"init_value": (1.0,), "end_value": (0.0, 1.0), **SPANS},
    "polynomial_schedule": {"init_value": (1.0,), "end_value": (0.1,), "power": (-1, 0, 2), **SPANS},
    "exponential_decay": {
        "init_value": (0.0, 1.0), "decay_rate": (-0.5, 0, 0.5), **SPANS, "end_value": (None, 0.2),
        "staircase": (False, True),
    },
    "cosine_decay_schedule": {
        "init_value": (0.0, 1.0), "decay_steps": (-1, 0, 10), "alpha": (0.0, 0.1), "exponent": (-1, 0, 1),
    },
    "warmup_constant_schedule": {"init_value": (0.0, 1.0), "peak_value": (0.0, 0.5), "warmup_steps": (-3, 0, 10)},
    "warmup_cosine_decay_schedule": {
        "init_value": (0.0, 0.5), "peak_value": (0.0, 1.0), "warmup_steps": (0, 10), "decay_steps": (0, 10, 20),
        "end_value": (0.0, 0.1), "exponent": (0, 1),
    },
    "warmup_exponential_decay_schedule": {
        "init_value": (0.0,), "peak_value": (0.0, 1.0), "warmup_steps": (0, 10), "decay_rate": (-0.5, 0, 0.5), **SPANS,
        "end_value": (None, 0.2),
    },
    "linear_onecycle_schedule": {"transition_steps": (-1, 0, 10), "peak_value": (0.0, 1.0)},
    "cosine_onecycle_schedule": {"transition_steps": (-1, 0, 10), "peak_value": (0.0, 1.0)},
    "piecewise_constant_schedule": {"init_value": (0.0, 1.0), "boundaries_and_scales": (None, {0: 0.5}, {5: 0.0})},
    "sgdr_schedule": {
        "cosine_kwargs": tuple([{"init_value": 0.0, "peak_value": p, "warmup_steps": 2, "decay_steps": 10,
                                 "end_value": 0.1}] for p in (0.0, 1.0)),
    },
}  # fmt: skip


def values(lib: Any, factory: str, kwargs: dict[str, Any]) -> Any:
    """The values at all steps, or the error."""
    with relaxed(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            schedule = getattr(lib, factory)(**kwargs)
        except ValueError as e:
            return e
        return np.asarray(jax.vmap(lambda t: jnp.asarray(schedule(t), jnp.float32))(STEPS))


@pytest.mark.parametrize("factory", GRIDS)
def test_parity_at_the_edges(factory: str):
    """Where Optax has a schedule so has this; a factor or power below 0, which gives NaN, is an error."""
    constant = 0
    for chosen in itertools.product(*GRIDS[factory].values()):
        kwargs = dict(zip(GRIDS[factory], chosen, strict=True))
        ours, theirs = (values(lib, factory, kwargs) for lib in (schedules, optax))
        below = any(kwargs.get(k, 1) < 0 for k in ("power", "decay_rate", "exponent"))
        if isinstance(theirs, ValueError) or below and kwargs.get("transition_steps", 1) > 0:
            assert isinstance(ours, ValueError), kwargs
        else:
            np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=1e-6, err_msg=str(kwargs))
            constant += bool(np.ptp(theirs) == 0)
    assert constant > 0 or "onecycle" in factory or factory == "sgdr_schedule"


STAYS = "nothing changes, and the value stays"
WARNED = {
    "linear_schedule(1.5, 0.1, 0)": f"transition_steps is 0: {STAYS} init_value",
    "linear_schedule(1.5, 0.1, -0.5)": f"transition_steps is -0.5: {STAYS} init_value",
    "linear_schedule(1.5, 1.5, 9, -1)": "transition_begin is -1, and is taken for 0",
    "polynomial_schedule(1.5, 0.1, 2, -5)": f"transition_steps is -5: {STAYS} init_value",
    "polynomial_schedule(1.5, 0.1, 0, 5)": f"power is 0: {STAYS} init_value",
    "exponential_decay(1.5, -2, 0.9)": f"transition_steps is -2: {STAYS} init_value",
    "exponential_decay(1.5, 9, 0.0)": f"decay_rate is 0.0: {STAYS} init_value",
    "cosine_decay_schedule(1.5, 9, 0.1, 0)": f"exponent is 0: {STAYS} init_value",
    "warmup_constant_schedule(1.5, 0.1, 0)": f"warmup_steps is 0: {STAYS} init_value",
    "warmup_constant_schedule(1.5, 0.1, -1)": f"warmup_steps is -1: {STAYS} init_value",
    "warmup_cosine_decay_schedule(0.0, 1.5, 0, 9, 0.1, 0)": f"exponent is 0: {STAYS} peak_value",
    "warmup_cosine_decay_schedule(0.0, 0.0, 2, 9, 0.1)": f"peak_value is 0.0: {STAYS} 0 after the warm-up, whatever ",
    "sgdr_schedule([dict(init_value=0.0, peak_value=0, warmup_steps=2, decay_steps=9, end_value=0.1)])": (
        f"cosine_kwargs[0]: peak_value is 0: {STAYS} 0 after the warm-up, whatever end_value=0.1 says"
    ),
    "warmup_exponential_decay_schedule(0.0, 1.5, 0, 0, 0.5)": f"transition_steps is 0: {STAYS} peak_value",
    "warmup_exponential_decay_schedule(0.0, 1.5, 0, 9, 0)": f"decay_rate is 0: {STAYS} peak_value",
}


@pytest.mark.parametrize("call", WARNED)
def test_what_makes_a_schedule_constant_is_warned_of(call: str):
    with pytest.warns(UserWarning, match=re.escape(WARNED[call])) as caught:
        schedule = eval(call, dict(vars(schedules)))
        made = [w.filename for w in caught]
        value = schedule(STEPS)
    assert len(caught) == 1 and str(caught[0].message).startswith(f"gdjax.{call.partition('(')[0]}: ")
    assert made == ([] if "_steps is 0" in WARNED[call] else ["<string>"]) or call[:4] == "sgdr"
    expected = 0.0 if "peak_value=0" in call or "(0.0, 0.0" in call else 1.5
    np.testing.assert_array_equal(value, np.full(len(STEPS), expected, np.float32))


def test_a_phase_of_no_steps_that_a_join_leaves_out_is_no_mistake():
    line, rest = schedules.linear_schedule(0.0, 1.0, 0), schedules.constant_schedule(0.5)
    assert float(schedules.join_schedules([line, rest], [0])(0)) == 0.5
    with pytest.warns(UserWarning, match="transition_steps is 0"):
        gdjax.sgd(line).update(jnp.ones(2), gdjax.sgd(line).init(jnp.ones(2)))


def test_a_schedule_free_method_without_a_warm_up_learns():
    tx = gdjax.schedule_free_sgd(0.1, warmup_steps=0)
    updates, _ = tx.update(jnp.ones(2), tx.init(jnp.zeros(2)), jnp.zeros(2))
    assert (updates < 0).all()
