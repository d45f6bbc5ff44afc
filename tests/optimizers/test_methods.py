"""Each optimizer of the table `METHODS` visits the points of its paper's rule, and Optax's where that has the same."""

from functools import partial

import pytest

from tests import oracles
from tests.optimizers.methods import METHODS

SETTINGS = [(name, setting) for name, method in METHODS.items() for setting in method.settings]
LIKE_OPTAX = [(name, setting) for name, setting in SETTINGS if METHODS[name].optax not in (None, setting)]
CASES = [(*both, dtype) for both in SETTINGS for dtype in oracles.TOLERANCE]
OPTIMIZED = {("novograd", "reference", "float32"): [pytest.mark.optimized]}  # roundings grow from step to step


@pytest.mark.parametrize(
    ("entry", "setting", "dtype"), [pytest.param(*case, marks=OPTIMIZED.get(case, [])) for case in CASES]
)
def test_follows_the_paper(entry: str, setting: str, dtype: str):
    method, numbers = METHODS[entry], METHODS[entry].arguments(setting)
    oracle = partial(method.oracle, **numbers)
    method.check(method.make(**numbers), oracle, dtype, **method.tolerance(setting, dtype))


@pytest.mark.parametrize(("entry", "setting"), LIKE_OPTAX)
def test_visits_the_points_of_optax(entry: str, setting: str):
    method, numbers = METHODS[entry], METHODS[entry].arguments(setting)
    oracles.assert_like_optax(lambda lib: getattr(lib, entry)(**numbers), atol=method.near)
