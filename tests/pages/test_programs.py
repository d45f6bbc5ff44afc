"""Whole programs of the kinds that Optax's examples show: what runs with Optax runs here, to the same numbers."""

import inspect
import warnings
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
import optax
import pytest

import gdjax
from tests.programs import problems, training
from tests.support import relaxed


def programs(module: Any) -> list[Any]:
    """The public functions that take `optax`, and only that; every other one is left to the slow sweeps."""
    found = inspect.getmembers(module, inspect.isfunction)
    taken = [(name, f) for name, f in found if list(inspect.signature(f).parameters) == ["optax"]]
    return [pytest.param(f, id=name, marks=[pytest.mark.slow] * (i % 2)) for i, (name, f) in enumerate(taken)]


@pytest.mark.programs
@pytest.mark.parametrize("program", [p for m in (training, problems) for p in programs(m) if p.id != "loss_fn"])
def test_runs_with_either_library(program: Callable[[Any], dict[str, Any]]):
    with relaxed():
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # of arguments, by Optax's own functions
            wanted = program(optax)
        got = program(gdjax)
    for path, x in jax.tree_util.tree_leaves_with_path(got):
        y = dict(jax.tree_util.tree_leaves_with_path(wanted))[path]
        np.testing.assert_allclose(x, y, rtol=2e-3, atol=2e-4, err_msg=jax.tree_util.keystr(path))
