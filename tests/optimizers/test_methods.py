"""Each optimizer of the table `METHODS` visits the points of its paper's rule, and Optax's where that has the same."""

from functools import partial

import jax
import jax.numpy as jnp
import pytest

from tests import oracles
from tests.optimizers.methods import METHODS, QUIET
from tests.trees import assert_equal, finite

SETTINGS = [(name, setting) for name, method in METHODS.items() for setting in method.settings]
LIKE_OPTAX = [(name, setting) for name, setting in SETTINGS if METHODS[name].optax not in (None, setting)]
CASES = [(*both, dtype) for both in SETTINGS for dtype in oracles.TOLERANCE]
# The ordinary suite has the first case of each method, and that with the most arguments, which shows a wrong eps.
MOST = [(name, max(x.settings, key=lambda setting, x=x: len(x.settings[setting]))) for name, x in METHODS.items()]
MARKS = {(*both, "float64"): [pytest.mark.whole] for both in MOST}
MARKS["novograd", "reference", "float32"] = [pytest.mark.optimized]  # roundings grow from step to step


@pytest.mark.parametrize(
    ("entry", "setting", "dtype"), [pytest.param(*case, marks=MARKS.get(case, [])) for case in CASES]
)
def test_follows_the_paper(entry: str, setting: str, dtype: str):
    method, numbers = METHODS[entry], METHODS[entry].arguments(setting)
    oracle = partial(method.oracle, **numbers)
    method.check(method.make(**numbers), oracle, dtype, **method.tolerance(setting, dtype))


@pytest.mark.parametrize(("entry", "setting"), LIKE_OPTAX)
def test_visits_the_points_of_optax(entry: str, setting: str):
    method, numbers = METHODS[entry], METHODS[entry].arguments(setting)
    oracles.assert_like_optax(lambda lib: getattr(lib, entry)(**numbers), atol=method.near)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32"])
@pytest.mark.parametrize("entry", QUIET)
def test_zero_gradients_give_zero_updates_without_eps(entry: str, dtype: str):
    params, update = {"a": jnp.ones((4, 4), dtype), "b": jnp.ones(3, dtype)}, jax.jit(QUIET[entry].update)
    zero, state = jax.tree.map(jnp.zeros_like, params), QUIET[entry].init(params)
    for _ in range(2):
        u, state = update(zero, state, params)
        assert_equal(u, zero)
    assert finite(state)
    squares = [x for name, x in oracles.fields(state).items() if name in ("nu", "e_g", "e_x")]
    assert entry.endswith("sm3") or {x.dtype.name for x in jax.tree.leaves(squares)} <= {"float32"}  # the momentum
