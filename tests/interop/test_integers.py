"""Parameters of integers: the state has for them what Optax's has, and the update leaves them alone."""

import inspect
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import optax.contrib
import pytest

import gdjax
from tests.support import relaxed
from tests.trees import assert_equal, signature

PARAMS = {"w": jnp.arange(3.0), "n": jnp.arange(2), "m": jnp.ones((2, 3), jnp.int8), "b": jnp.array([True, False])}
G = {"w": jnp.ones(3)} | {k: np.zeros(p.shape, jax.dtypes.float0) for k, p in PARAMS.items() if k != "w"}
GIVEN = {"learning_rate": 0.1, "decay": 0.9, "momentum": 0.9}
# Where the state has no array, or one of another dtype: slots of functions; Optax's scale of COCOB is float32, and its
# mu of SM3 int32, whatever the parameter.
OTHERWISE = {
    "cocob", "scale_by_cocob", "scale_by_distance_over_gradients", "schedule_free_adamw", "schedule_free_sgd",
    "sm3", "scale_by_sm3",
}  # fmt: skip
# Matrix methods, whose state is of matrices; Optax's L-BFGS cannot be built, nor its states without a gradient.
APART = {"muon", "scale_by_muon", "lbfgs", "galore", "scale_by_galore", "noisy_sgd"}


def made(module: Any, name: str) -> Any:
    factory = getattr(module, name, None) or getattr(optax.contrib, name)
    return factory(**{k: GIVEN[k] for k in inspect.signature(factory).parameters if k in GIVEN})


def names() -> list[str]:
    """The factories that can be called so."""
    found = []
    for name in [*vars(optax), *vars(optax.contrib)]:
        if name[0] != "_" and name not in APART and hasattr(gdjax, name):
            try:
                tx = made(optax, name)
            except Exception:  # no factory, or one that needs other arguments
                continue
            found += [name] * (hasattr(tx, "init") and hasattr(tx, "update"))
    return sorted(found)


with relaxed():
    NAMES = names()


def test_there_are_many():
    assert len(NAMES) > 70 and OTHERWISE <= set(NAMES)


@pytest.mark.parametrize("name", sorted(set(NAMES) - OTHERWISE))
def test_a_state_has_what_optax_has(name: str):
    with relaxed():
        theirs = made(optax, name).init(PARAMS)
        ours = gdjax.state_to_optax(made(gdjax, name).init(PARAMS))
    types = [{jax.tree_util.keystr(k): x for k, x in jax.tree_util.tree_leaves_with_path(s)} for s in (theirs, ours)]
    assert jax.tree.structure(theirs) == jax.tree.structure(ours)
    for key in types[0]:
        if any(f"'{leaf}'" in key for leaf in "nmb"):
            assert (types[0][key].shape, types[0][key].dtype) == (types[1][key].shape, types[1][key].dtype), key


@pytest.mark.parametrize(
    "name", ["adam", "adafactor", "novograd", "sm3", "adagrad", "sgd", "madgrad", "schedule_free_sgd"]
)
def test_an_update_leaves_them_alone(name: str):
    tx = made(gdjax, name)
    state = tx.init(PARAMS)
    for update in (tx.update, jax.jit(lambda g, s, p: tx.update({**G, "w": g["w"]}, s, p))):
        given = G if update is tx.update else {"w": G["w"]}
        u, new = update(given, state, PARAMS)
        assert signature(new) == signature(state)
        assert all(u[k].dtype == jax.dtypes.float0 for k in "nmb")
        assert_equal(gdjax.apply_updates(PARAMS, u) | {"w": 0}, PARAMS | {"w": 0})
    alone = tx.update({"w": G["w"]}, tx.init({"w": PARAMS["w"]}), {"w": PARAMS["w"]})[0]
    np.testing.assert_array_equal(u["w"], alone["w"])


def test_trees_of_moments_map_with_the_parameters():
    mu = gdjax.adam(0.1).init(PARAMS)[0].mu
    assert jax.tree.map(lambda m, p: (m.shape, m.dtype) == (p.shape, p.dtype), mu, PARAMS) == dict.fromkeys(
        PARAMS, True
    )


def test_states_of_optax_and_of_older_versions_go_on():
    """An older version had `MaskedNode` in the place of these moments."""
    tx = gdjax.adam(0.1)
    state, old = tx.init(PARAMS), tx.init({k: PARAMS[k] for k in "w"})
    hidden = {k: gdjax.MaskedNode() for k in "nmb"}
    older = (old[0]._replace(mu=old[0].mu | hidden, nu=old[0].nu | hidden), *old[1:])
    wanted = tx.update(G, state, PARAMS)[0]
    for given in (older, optax.adam(0.1).init(PARAMS)):
        u, new = tx.update(G, given, PARAMS)
        assert signature(new) == signature(given)
        np.testing.assert_array_equal(u["w"], wanted["w"])


def test_what_is_larger_than_the_parameter_is_not_kept():
    state = gdjax.scale_by_adam(mu_dtype=gdjax.bfloat16_with_error).init(PARAMS)
    assert state.mu["n"] == gdjax.MaskedNode() and state.nu["n"].dtype == PARAMS["n"].dtype
    outer = gdjax.Factor((0, 0))

    @gdjax.leafwise(gdjax.TraceState, trace=outer)
    def squares(g: Any, s: Any, p: Any, t: Any) -> Any:
        return g, s

    assert squares().init({"m": PARAMS["m"]}).trace["m"] == gdjax.MaskedNode()
