"""States that an earlier version saved go on in this one, from a pickle and from a plain dict."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import gdjax
from tests.golden import saved_states
from tests.golden.saved_states import OPTIMIZERS, STEPS, advance, by_path
from tests.trees import signature

FILES = {path.stem.removeprefix("states_"): saved_states.read for path in saved_states.FOLDER.glob("states_*.json")}
SAVED = {f"{name}-{version}": saved for version, read in FILES.items() for name, saved in read(version).items()}


def goes_on(tx: Any, name: str, state: Any) -> None:
    """The next update is that which was saved; a matrix method amplifies roundings, by which compilers differ."""
    params = jax.tree.map(jnp.asarray, SAVED[name].params)
    updates, new = jax.jit(lambda params, state: advance(tx, params, state, STEPS))(params, state)
    assert signature(new) == signature(tx.init(params))
    for path, wanted in SAVED[name].updates.items():
        got = by_path(updates)[path]
        assert got.dtype == wanted.dtype
        np.testing.assert_allclose(got, wanted, rtol=1e-4, atol=1e-4 * np.abs(wanted).max(), err_msg=path)


@pytest.mark.parametrize("name", [name for name, saved in SAVED.items() if saved.state is not None])
def test_a_pickled_state_goes_on(name: str):
    tx = OPTIMIZERS[name.rpartition("-")[0]]()
    goes_on(tx, name, jax.tree.map(jnp.asarray, SAVED[name].state))


@pytest.mark.parametrize("name", SAVED)
def test_a_plain_dict_goes_on(name: str):
    tx, saved = OPTIMIZERS[name.rpartition("-")[0]](), SAVED[name]
    state = gdjax.state_from_dict(tx, saved.plain, saved.params)
    if saved.state is None:
        return goes_on(tx, name, state)
    pickled = jax.tree.leaves(saved.state)
    assert all(np.array_equal(a, b) for a, b in zip(jax.tree.leaves(state), pickled, strict=True))


@pytest.mark.parametrize("version", FILES)
def test_states_of_a_version_are_of_every_kind(version: str):
    saved = {name.rpartition("-")[0]: saved for name, saved in SAVED.items() if name.endswith(f"-{version}")}
    assert set(saved) == set(OPTIMIZERS)
    steps = [np.abs(x).max() for one in saved.values() for x in one.updates.values()]
    assert sum(x == 0 for x in steps) <= 3  # those of the step that MultiSteps gathers


def test_this_version_has_saved_its_states():
    assert saved_states.VERSION in FILES, "run `python -m tests.golden.saved_states`, once, before the release"
